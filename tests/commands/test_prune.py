"""What is removed from the item cache: what is old and no manifest of data/ names."""

import os
import time
from pathlib import Path

import pytest

from stages.commands import prune
from stages.core import items, workers
from stages.core.workspace import only_run

SERIAL = workers.Workers(runner="serial", processes=0, gpu_share=0)


def write(argument: str, parameters: dict[str, int], target: Path) -> None:
    target.write_text(argument * parameters["times"])


def make(times: int, *names: str) -> None:
    """Results of a stage's items, linked to data/stage."""
    work = [items.Item(name, inputs={"name": name}, argument=name) for name in names]
    output = Path("data/stage")
    items.run("stage", write, work, parameters={"times": times}, libraries=[], output=output, resources=SERIAL)


def age(days: float) -> None:
    then = time.time() - days * 86400
    for path in items.CACHE.rglob("*"):
        os.utime(path, (then, then))


def cached() -> list[str]:
    return sorted(path.read_text() for path in items.CACHE.rglob("*.arrow"))


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(items, "CACHE", Path(".items"))


def test_old_results_go_and_those_that_outputs_hold_stay() -> None:
    make(3, "a", "b")
    make(1, "a", "b")
    age(40)
    assert prune.run(days=30) > 0
    assert cached() == ["a", "b"]
    assert {path.read_text() for path in Path("data/stage/clips").iterdir()} == {"a", "b"}
    make(1, "a", "b")
    assert len(list(items.CACHE.rglob("*.json"))) == 2, "nothing was computed again under another key"


def test_young_results_stay_with_their_records() -> None:
    make(3, "a")
    make(1, "a")
    age(20)
    assert prune.run(days=30) == 0 and cached() == ["a", "aaa"]
    prune.run(days=10)
    assert cached() == ["a"]


def test_what_an_output_still_links_to_frees_nothing() -> None:
    make(2, "a")
    Path("data/stage/manifest.parquet").unlink()
    age(40)
    records = sum(path.stat().st_size for path in items.CACHE.rglob("*.json"))
    assert prune.run(days=30) == records and cached() == []
    assert Path("data/stage/clips/a.arrow").read_text() == "aa"


def test_checkpoints_go_with_their_locks() -> None:
    folder = items.CACHE / "checkpoints"
    folder.mkdir(parents=True)
    for name in ("old.pt", "old.lock", "young.pt", ".part.1"):
        (folder / name).write_text("weights")
    age(40)
    os.utime(folder / "young.pt")
    assert prune.run(days=30) == 2 * len("weights")
    assert {path.name for path in folder.iterdir()} == {"young.pt", ".part.1"}


def test_while_a_run_is_at_work_nothing_is_removed() -> None:
    make(3, "a")
    age(40)
    with only_run(), pytest.raises(ValueError, match="another run is at work"):
        prune.run(days=30)
    assert cached() == ["aaa"]


def test_the_data_set_itself_is_no_output_and_an_empty_workspace_is_no_error() -> None:
    assert prune.run(days=30) == 0
    Path("data/raw").mkdir(parents=True)
    (Path("data/raw") / "manifest.parquet").write_text("somebody's own")
    assert prune.run(days=30) == 0
