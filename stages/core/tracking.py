"""What MLflow shows: live learning curves, and a projection of the stages' output files. The only importer of mlflow.

Truth is in the files: a stage that DVC restored from its run cache never ran, and MLflow may have been away when one
did. reporting/mlflow_runs derives everything from dvc.lock and the outputs, however often, and nothing is doubled.
While a training runs, ``live`` logs its curve into a run with the tag ``training_key``; the projection completes it.

Times of points are derived (start of the run + step), so that a point logged twice is the same point. Runs are looked
for and made under one file lock: MLflow's search-then-create is not atomic, nor is its first use of a database.
"""

import contextlib
import fcntl
import json
import logging
import math
import os
import queue
import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core import params
from stages.core.addresses import hidden

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FOLDER = Path(".mlflow")
FLUSH_SECONDS = 3.0
CLOSE_SECONDS = 10.0
"""How long the end of a training waits for what MLflow still has to take; the projection adds what was cut off."""
TRIES = 3
"""Failures in a row after which a training stops trying to log."""

FOREIGN = re.compile(r"[^\w\-./: ]")

logger = logging.getLogger(__name__)


def uri() -> str:
    """Where MLflow keeps its data: MLFLOW_TRACKING_URI, or the project's own database."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(FOLDER / 'mlflow.db').resolve()}"


@dataclass(frozen=True)
class Store:
    """An open MLflow. Methods that look for a run and make it are called under ``locked()``."""

    client: "MlflowClient"

    def experiment(self, name: str) -> str:
        """Id of the experiment ``name``, made if it isn't there. Artifacts of a local database lie beside it."""
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        local = None if "://" in uri() and not uri().startswith("sqlite:") else (FOLDER / "artifacts" / name).resolve()
        return str(self.client.create_experiment(name, artifact_location=local.as_uri() if local else None))

    def find(self, tag: str, value: str) -> "list[Run]":
        """Runs with this tag, oldest first, in every experiment."""
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        query = f"tags.{tag} = '{value}'"
        return list(self.client.search_runs(experiments, query, order_by=["attributes.start_time ASC"]))

    def create(self, experiment: str, name: str, *, start: int, tags: Mapping[str, str]) -> "Run":
        """A run that began at ``start`` (milliseconds)."""
        return self.client.create_run(self.experiment(experiment), start_time=start, run_name=name, tags=dict(tags))

    def finish(self, run: "Run", *, end: int) -> None:
        """Mark a run as finished; one that is stays as it was."""
        if run.info.status != "FINISHED" or run.info.end_time is None:
            self.client.set_terminated(run.info.run_id, "FINISHED", end_time=max(end, run.info.start_time))

    def use_dataset(self, run: "Run", *, name: str, content_hash: str, context: str) -> None:
        """Log the data set that a run used; MLflow keeps 36 characters of its hash, the tag keeps all."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=name, digest=content_hash[:36], source_type="local", source=json.dumps({"hash": content_hash})
        )
        tags = [InputTag("mlflow.data.context", context)]
        self.client.log_inputs(run.info.run_id, datasets=[DatasetInput(dataset, tags)])

    def points(self, run: "Run") -> dict[str, set[int]]:
        """Metric -> steps that are logged already."""
        return {
            key: {point.step for point in self.client.get_metric_history(run.info.run_id, key)}
            for key in run.data.metrics
        }

    def log(self, run: "Run", rows: Iterable[tuple[int, Mapping[str, float]]], known: dict[str, set[int]]) -> None:
        """Log rows of (step, metrics), each metric once per step; ``known`` grows by what was logged."""
        from mlflow.entities import Metric

        batch = [
            Metric(key, float(value), run.info.start_time + step, step)
            for step, values in rows
            for key, value in values.items()
            if step not in known.get(key, ()) and not math.isnan(float(value))
        ]
        for start in range(0, len(batch), 1000):  # MLflow's limit for one call
            self.client.log_batch(run.info.run_id, metrics=batch[start : start + 1000])
        for point in batch:
            known.setdefault(point.key, set()).add(point.step)

    def describe(self, run: "Run", *, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Add the parameters that the run lacks (MLflow refuses to change one) and set its tags."""
        from mlflow.entities import Param, RunTag

        missing = [
            Param(key, str(value)[:6000]) for key, value in flat(parameters).items() if key not in run.data.params
        ]
        for start in range(0, len(missing), 100):
            self.client.log_batch(run.info.run_id, params=missing[start : start + 100])
        self.client.log_batch(run.info.run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def connect() -> Store:
    """Open MLflow, making its database if there is none. Whatever it raises, MLflow can't be used now."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    # Else MLflow's own experiment `Default` has its artifacts in a folder mlruns of the checkout.
    os.environ.setdefault("_MLFLOW_SERVER_ARTIFACT_ROOT", (FOLDER / "artifacts").resolve().as_uri())
    # MLflow's own patience with a server that is away is minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    return Store(MlflowClient(tracking_uri=uri()))


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """One process at a time looks for runs and makes them, and makes the database."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one, ``{"a": {"b": 1}}`` as ``{"a/b": 1}``; what MLflow forbids in a name becomes ``_``."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            for inner, leaf in flat(value).items():
                result[FOREIGN.sub("_", f"{key}/{inner}")] = leaf
        else:
            result[FOREIGN.sub("_", str(key))] = value
    return result


@contextlib.contextmanager
def live(run: str, *, key: str, parameters: Mapping[str, Any], experiment: str | None = None) -> Iterator["LiveRun"]:
    """Log the training called ``run`` while it runs; ``key`` is the same when a killed one goes on.

    Never raises and never waits for MLflow: where it can't be used there is one warning, and the projection brings the
    curve from the files later. ``experiment`` is the data set's name; by default the one in params.yaml.
    """
    live_run = LiveRun(run, key=key, parameters=parameters, experiment=experiment or _dataset_name())
    try:
        yield live_run
    except BaseException:
        live_run.close(status="KILLED")
        raise
    live_run.close(status=None)


class LiveRun:
    """A training's side of ``live``: ``log`` puts into a queue, a thread takes it to MLflow every few seconds."""

    def __init__(self, run: str, *, key: str, parameters: Mapping[str, Any], experiment: str) -> None:
        self._run, self._key, self._parameters, self._experiment = run, key, dict(parameters), experiment
        self._rows: queue.SimpleQueue[tuple[int, dict[str, float]]] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._status: str | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Note the values of one step; returns at once."""
        self._rows.put((step, {key: float(value) for key, value in values.items()}))

    def close(self, *, status: str | None) -> None:
        """Hand over what is left, within ``CLOSE_SECONDS``; ``status`` is the run's, None for one that goes on."""
        self._status = status
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        try:
            with locked():
                store, run = self._open()
            known = store.points(run)
            failures = 0
            rows: list[tuple[int, dict[str, float]]] = []
            while True:
                last = self._closing.wait(FLUSH_SECONDS)
                while not self._rows.empty():
                    rows.append(self._rows.get())
                try:
                    store.log(run, rows, known)
                    rows, failures = [], 0
                except Exception:
                    failures += 1
                    if last or failures == TRIES:
                        raise
                if last:
                    if self._status is not None:
                        store.client.set_terminated(run.info.run_id, self._status)
                    return
        except Exception as error:  # of MLflow, its database or its server: the training matters more
            logger.warning(
                "%s: no live curve in MLflow at %s (%s); training goes on, `python -m stages.commands.track` adds it "
                "later", self._run, hidden(uri()), _first_line(error),
            )  # fmt: skip

    def _open(self) -> "tuple[Store, Run]":
        store = connect()
        # A completed run has a stage_key: the same training asked for once more gets a run of its own until then.
        going_on = [run for run in store.find("training_key", self._key) if "stage_key" not in run.data.tags]
        if going_on:
            run = going_on[0]
            store.client.update_run(run.info.run_id, status="RUNNING")
        else:
            run = store.client.create_run(
                store.experiment(self._experiment), run_name=self._run, tags={"training_key": self._key}
            )
        store.describe(run, parameters=self._parameters, tags={"stage": "train"})
        return store, run


def _dataset_name() -> str:
    if params.PARAMS.exists():
        name = (params.read().get("index") or {}).get("dataset")
        if name:
            return str(name)
    return "default"


def _first_line(error: BaseException) -> str:
    return hidden((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]
