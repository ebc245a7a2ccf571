"""The item cache: inside a stage, work is done item by item, and an item once computed is never computed again.

An item's key is the sha256 of its ingredients: the content of its inputs, the parameters that matter, the code that
computes it (the import closure of its module within this project) and the versions of the libraries that matter. The
ingredients are stored beside the result, so that ``python -m stages.commands.why`` can say what changed. A result is
written to a temporary name and moved into place, so a killed run loses only the items in flight. The cache lives in
``.items``, outside every DVC output (DVC removes outputs before it runs a stage); results are hard-linked into the
output folder.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stages.core import cli, schemas, workers
from stages.core.closure import import_closure

CACHE = Path(os.environ.get("ACTOR_ACTION_ITEMS", ".items"))


class BadItem(ValueError):
    """Raised by an item's function: this input can't be used, for the reason in the message. The run goes on."""


@dataclass(frozen=True)
class Item:
    """One unit of work: ``name`` (of the output file), content hashes of its inputs, and what the function is given."""

    name: str
    inputs: Mapping[str, str]
    argument: Any = None


Compute = Callable[[Any, Mapping[str, Any], Path], None]
"""``function(argument, parameters, target)`` writes its result to ``target`` or raises ``BadItem``."""


@dataclass(frozen=True)
class Outcome:
    """What became of the items of a stage."""

    computed: list[str]
    reused: list[str]
    quarantined: dict[str, str]


def run(
    stage: str,
    function: Compute,
    items: Sequence[Item],
    *,
    parameters: Mapping[str, Any],
    libraries: Sequence[str],
    output: Path,
    suffix: str = ".arrow",
    resources: workers.Workers | None = None,
    gpu: bool = False,
    shared: Mapping[str, Any] | None = None,
) -> Outcome:
    """Compute what is not in the cache and link every result to ``output/clips/<name><suffix>``.

    Writes ``output/manifest.parquet`` (item, key, file) and ``output/quarantine.parquet`` (item, reason).
    ``parameters`` go into the key and to the function; ``shared`` goes to the function only (paths, devices).
    Raises ``RuntimeError`` that names the item when the function fails with anything but ``BadItem``.
    """
    names = [item.name for item in items]
    if len(set(names)) != len(names):
        raise ValueError(f"{stage}: two items of the same name: {sorted({n for n in names if names.count(n) > 1})[:5]}")
    folder = CACHE / stage
    _sweep(folder)
    code = import_closure(function.__module__)
    versions = {library: importlib.metadata.version(library) for library in libraries}
    keys: dict[str, str] = {}
    pending: list[tuple[Item, dict[str, Any]]] = []
    for item in items:
        ingredients = {"inputs": dict(item.inputs), "parameters": dict(parameters), "code": code, "libraries": versions}
        keys[item.name] = digest(ingredients)
        if not _usable(folder, keys[item.name], suffix):
            pending.append((item, ingredients))
    waiting = {item.name for item, _ in pending}
    arguments = [(item.name, keys[item.name], ingredients, item.argument) for item, ingredients in pending]
    task = partial(_compute_item, function, dict(parameters) | dict(shared or {}), folder.absolute(), suffix)
    with cli.progress() as progress:
        bar = progress.add_task(stage, total=len(items), completed=len(items) - len(pending))
        for _ in workers.compute(task, arguments, workers=resources or workers.configured(), gpu=gpu):
            progress.advance(bar)
    quarantined: dict[str, str] = {}
    manifest = []
    (output / "clips").mkdir(parents=True, exist_ok=True)
    for item in items:
        try:
            record = json.loads(_record(folder, keys[item.name]).read_text())
        except FileNotFoundError:
            raise ValueError(
                f"{folder} has no record of {item.name}, which was computed: Ray on several machines needs .items on a "
                "file system that all nodes share, at the same path"
            ) from None
        if "quarantine" in record:
            quarantined[item.name] = record["quarantine"]
            continue
        if item.name not in waiting:
            os.utime(_record(folder, keys[item.name]))  # `why` takes the newest record of an item for the current one
        target = output / "clips" / f"{item.name}{suffix}"
        link(_result(folder, keys[item.name], suffix), target)
        manifest.append({"item": item.name, "key": keys[item.name], "file": f"clips/{target.name}"})
    kept = {entry["file"].removeprefix("clips/") for entry in manifest}
    for path in (output / "clips").iterdir():
        if path.name not in kept:  # of an item that is gone; DVC empties the folder, a run by hand doesn't
            path.unlink()
    schemas.write_parquet(output / "manifest.parquet", schemas.rows_to_table(manifest, schemas.MANIFEST))
    write_quarantine(output / "quarantine.parquet", quarantined)
    outcome = Outcome(
        computed=[item.name for item, _ in pending],
        reused=[name for name in names if name not in waiting],
        quarantined=quarantined,
    )
    print(
        f"{stage}: {len(items)} items, {len(outcome.computed)} computed, {len(outcome.reused)} reused, "
        f"{len(quarantined)} in quarantine"
    )
    for name, reason in list(quarantined.items())[:10]:
        print(f"  quarantine: {name}: {reason}")
    return outcome


def write_quarantine(path: Path, reasons: Mapping[str, str]) -> None:
    """Items that could not be used and why, sorted by name."""
    rows = [{"item": name, "reason": reasons[name]} for name in sorted(reasons)]
    schemas.write_parquet(path, schemas.rows_to_table(rows, schemas.QUARANTINE))


def read_manifest(folder: Path) -> dict[str, str]:
    """Item -> key of a stage's output folder. Raises ``ValueError`` when the stage has not run."""
    path = folder / "manifest.parquet"
    if not path.exists():
        raise ValueError(f"{path} not found: run `dvc repro` so that the stages before this one have run")
    table = schemas.read_parquet(path, schemas.MANIFEST)
    return dict(zip(table["item"].to_pylist(), table["key"].to_pylist(), strict=True))


def digest(ingredients: Any) -> str:
    """sha256 of JSON-like ingredients, independent of key order."""
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link(source: Path, target: Path) -> None:
    """Put ``source`` at ``target`` atomically: a hard link where the file system can, else a copy."""
    part = target.with_name(f".{target.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    try:
        os.link(source, part)
    except OSError:
        shutil.copyfile(source, part)
    os.replace(part, target)


def _result(folder: Path, key: str, suffix: str) -> Path:
    return folder / key[:2] / f"{key}{suffix}"


def _record(folder: Path, key: str) -> Path:
    return folder / key[:2] / f"{key}.json"


def _usable(folder: Path, key: str, suffix: str) -> bool:
    """Is there a result, and is it still what was written? (An output folder holds a link to the same bytes.)"""
    try:
        record = json.loads(_record(folder, key).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    if "quarantine" in record:
        return True
    result = _result(folder, key, suffix)
    if not result.exists():
        return False
    status = result.stat()
    if [status.st_size, status.st_mtime_ns] == record["stat"]:
        return True
    return file_digest(result) == record["sha256"]


def _compute_item(
    function: Compute, parameters: dict[str, Any], folder: Path, suffix: str, work: tuple[str, str, dict[str, Any], Any]
) -> None:
    name, key, ingredients, argument = work
    result, record = _result(folder, key, suffix), _record(folder, key)
    result.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"item": name, "ingredients": ingredients}
    handle, part = tempfile.mkstemp(prefix=".part-", dir=folder)
    os.close(handle)
    try:
        function(argument, parameters, Path(part))
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        content["sha256"] = file_digest(Path(part))
        status = os.stat(part)
        content["stat"] = [status.st_size, status.st_mtime_ns]
        os.chmod(part, 0o644)
        os.replace(part, result)
    except BadItem as bad:
        content["quarantine"] = str(bad)
    except Exception as error:
        raise RuntimeError(f"{folder.name}: item `{name}` failed: {type(error).__name__}: {error}") from error
    finally:
        Path(part).unlink(missing_ok=True)
    # The record comes last and makes the result count; a kill between the two costs this one item.
    draft = record.with_name(f".{record.name}.{os.getpid()}")
    draft.write_text(json.dumps(content, sort_keys=True, default=str))
    os.replace(draft, record)


def _sweep(folder: Path) -> None:
    """Remove what killed runs left behind; an hour old, so that no running item loses its file."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in folder.glob(".part-*"):
        if time.time() - part.stat().st_mtime > 3600:
            part.unlink(missing_ok=True)
