"""From the stages' files to MLflow: every `train@RUN` and `evaluate@RUN` of dvc.lock as one MLflow run.

A stage counts when its output files are the ones that dvc.lock names; an evaluation, when it is of the training that
stands.
"""

import csv
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from stages.core.tracking import Store, connect, flat, locked

if TYPE_CHECKING:
    from stages.core.tracking import Run

LOCK = Path("dvc.lock")
TRAIN = Path("data/train")
EVALUATE = Path("data/evaluate")
SHEET = Path("data/report/sheet.png")
PROFILES = Path(".items/profiles")


@dataclass(frozen=True)
class Result:
    """One stage whose outputs stand in the workspace: its run, key, and entry in dvc.lock."""

    run: str
    key: str
    entry: Mapping[str, Any]


@dataclass
class Counts:
    """What a projection did: runs added to MLflow, runs that were there, and stages without their outputs."""

    added: int = 0
    known: int = 0
    stale: int = 0


def project() -> Counts:
    """Bring MLflow up to date with the workspace. Whatever MLflow raises comes through: then do it again later."""
    counts = Counts()
    lock = yaml.safe_load(LOCK.read_text()) if LOCK.exists() else None
    entries: Mapping[str, Any] = (lock or {}).get("stages") or {}
    trained = _results(entries, "train", counts)
    evaluated = {
        run: result
        for run, result in _results(entries, "evaluate", counts).items()
        if run in trained and _reads(result, TRAIN / run / "run.json") == _md5(TRAIN / run / "run.json")
    }
    if not trained:  # nothing to say: don't spend two seconds on importing MLflow
        return counts
    with locked():
        store = connect()
        for name, training in trained.items():
            parent = _project_training(store, training, counts)
            if name in evaluated:
                _project_evaluation(store, evaluated[name], parent, counts)
    return counts


def stage_key(entry: Mapping[str, Any]) -> str:
    """The digest of a stage's entry in dvc.lock, which holds no times: the same for the same inputs and outputs."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True, default=str).encode()).hexdigest()


def _results(entries: Mapping[str, Any], stage: str, counts: Counts) -> dict[str, Result]:
    results = {}
    for name, entry in entries.items():
        if not name.startswith(f"{stage}@"):
            continue
        tables = [out for out in entry.get("outs", ()) if Path(out["path"]).suffix in (".json", ".csv")]
        if tables and all(_md5(Path(out["path"])) == out.get("md5") for out in tables):
            run = name.partition("@")[2]
            results[run] = Result(run, stage_key(entry), entry)
        else:
            counts.stale += 1
    return results


def _project_training(store: Store, training: Result, counts: Counts) -> "Run":
    folder = TRAIN / training.run
    content = json.loads((folder / "run.json").read_text())
    found = store.find("stage_key", training.key)
    unfinished = [run for run in store.find("training_key", content["key"]) if "stage_key" not in run.data.tags]
    if found:
        run = found[0]
        for again in unfinished:  # the same training, done once more, gave the same result: keep one
            store.client.delete_run(again.info.run_id)
    elif unfinished:
        run = unfinished[0]
    else:
        tags = {"stage_key": training.key, "training_key": content["key"]}
        run = store.create(content["dataset"]["name"], training.run, start=_written(folder / "run.json"), tags=tags)
    if _is_complete(run, counts):
        return run
    known = store.points(run)
    with (folder / "curves.csv").open(newline="") as file:
        rows = [(int(float(row.pop("step"))), _numbers(row)) for row in csv.DictReader(file)]
    store.log(run, rows, known)
    facts = {"steps": content["steps"], "parameter_count": content["parameter_count"]}
    store.describe(run, parameters={**content["parameters"], **facts}, tags=_tags(training, content, "train"))
    _finish(store, run, content, context="training", written=_written(folder / "run.json"))
    return run


def _project_evaluation(store: Store, evaluation: Result, parent: "Run", counts: Counts) -> None:
    content = json.loads((TRAIN / evaluation.run / "run.json").read_text())
    path = EVALUATE / evaluation.run / "metrics.json"
    found = store.find("stage_key", evaluation.key)
    if found:
        run = found[0]
    else:
        tags = {"stage_key": evaluation.key, "mlflow.parentRunId": parent.info.run_id}
        name = f"evaluate {evaluation.run}"
        run = store.create(content["dataset"]["name"], name, start=_written(path), tags=tags)
    if not _is_complete(run, counts):
        store.log(run, [(0, _numbers(flat(json.loads(path.read_text()))))], store.points(run))
        parameters = (evaluation.entry.get("params") or {}).get("params.yaml") or {}
        store.describe(run, parameters=parameters, tags=_tags(evaluation, content, "evaluate"))
        _finish(store, run, content, context="evaluation", written=_written(path))
    # These two come and change after the stage, so they are looked at each time.
    _add_sheet(store, run)
    _add_profile(store, run, content)


def _is_complete(run: "Run", counts: Counts) -> bool:
    # Set last: a projection that was killed half-way is gone through again.
    complete = run.data.tags.get("complete") == "yes"
    counts.known += complete
    counts.added += not complete
    return complete


def _finish(store: Store, run: "Run", content: Mapping[str, Any], *, context: str, written: int) -> None:
    dataset = content["dataset"]
    store.use_dataset(run, name=dataset["name"], content_hash=dataset["hash"], context=context)
    store.finish(run, end=written)
    store.describe(run, parameters={}, tags={"complete": "yes"})


def _tags(result: Result, content: Mapping[str, Any], stage: str) -> dict[str, str]:
    names = ("run", "method", "inputs", "variant", "seed")
    own = {
        "stage": stage,
        "stage_key": result.key,
        "dataset_hash": content["dataset"]["hash"],
        "config": _size(content),
    }
    return {**own, **{name: str(content[name]) for name in names}}


def _add_sheet(store: Store, run: "Run") -> None:
    if (content := _md5(SHEET)) is not None and run.data.tags.get("sheet") != content:
        store.client.log_artifact(run.info.run_id, str(SHEET))
        store.describe(run, parameters={}, tags={"sheet": content})


def _add_profile(store: Store, run: "Run", content: Mapping[str, Any]) -> None:
    """Times measured by `stages.commands.profile`; measured anew, they are a further point, at their file's time."""
    path = PROFILES / f"{content['method']}-{content['inputs']}-{_size(content)}.json"
    if (digest := _md5(path)) is None or run.data.tags.get("profile") == digest:
        return
    values = _numbers(flat({"profile": json.loads(path.read_text())}))
    steps = [step for logged in store.points(run).items() if logged[0] in values for step in logged[1]]
    store.log(run, [(max(steps, default=-1) + 1, values)], {})
    store.describe(run, parameters={}, tags={"profile": digest})


def _size(content: Mapping[str, Any]) -> str:
    """`small` or `paper`: runs of both have one name."""
    return str(content["parameters"]["common"]["config"])


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    numbers = {}
    for key, value in values.items():
        if value is None or isinstance(value, (bool, list)) or value == "":
            continue
        try:
            numbers[key] = float(value)
        except ValueError:
            continue  # a word: metrics.json may name things beside its numbers
    return numbers


def _reads(result: Result, path: Path) -> str | None:
    return next((dep.get("md5") for dep in result.entry.get("deps", ()) if dep["path"] == str(path)), None)


def _md5(path: Path) -> str | None:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() if path.is_file() else None


def _written(path: Path) -> int:
    """Milliseconds since 1970 at which a file was written: the time of a run that never was live."""
    return int(path.stat().st_mtime * 1000) if path.exists() else int(time.time() * 1000)
