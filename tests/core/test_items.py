"""The item cache: what was computed is never computed again, what changed always is; a bad item costs itself only."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.workspace import CHECKOUT
from stages.core import closure as code_closure
from stages.core import items, schemas, workers
from stages.core.items import BadItem, Item

SERIAL = workers.Workers(runner="serial")
TWO_PROCESSES = workers.Workers(runner="processes", processes=2)


def double(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """Write ``factor`` times the value and note the call; a value below zero is bad, above 99 a programming error.

    With ``gate``, values from 7 wait until that file exists.
    """
    with open(argument["log"], "a") as log:
        log.write(f"start {argument['value']}\n")
    if argument["value"] < 0:
        raise BadItem("below zero")
    if argument["value"] > 99:
        raise ZeroDivisionError("too much")
    gate = parameters.get("gate")
    while gate is not None and argument["value"] >= 7 and not Path(gate).exists():
        time.sleep(0.02)
    target.write_text(str(argument["value"] * parameters["factor"]))


class Bench:
    """A cache, an output folder and a log of calls of its own."""

    def __init__(self, folder: Path) -> None:
        self.output, self.log = folder / "out", folder / "log"

    def work(self, *values: int) -> list[Item]:
        return [Item(f"n{v}", inputs={"value": str(v)}, argument={"value": v, "log": str(self.log)}) for v in values]

    def run(
        self, *values: int, factor: int = 2, resources: workers.Workers = SERIAL, libraries: tuple[str, ...] = ()
    ) -> items.Outcome:
        return items.run(
            "bench", double, self.work(*values), parameters={"factor": factor}, libraries=libraries,
            output=self.output, suffix=".txt", resources=resources,
        )  # fmt: skip

    def results(self) -> dict[str, str]:
        return {path.stem: path.read_text() for path in sorted((self.output / "clips").glob("[!.]*"))}

    def calls(self) -> int:
        return self.log.read_text().count("start") if self.log.exists() else 0


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(items, "CACHE", tmp_path / "cache")
    return Bench(tmp_path)


def quarantine(folder: Path) -> dict[str, str]:
    table = schemas.read_parquet(folder / "quarantine.parquet", schemas.QUARANTINE)
    return dict(zip(table["item"].to_pylist(), table["reason"].to_pylist(), strict=True))


def test_a_second_run_computes_nothing(bench: Bench) -> None:
    first = bench.run(1, 2, 3)
    assert first.computed == ["n1", "n2", "n3"] and first.reused == []
    second = bench.run(1, 2, 3)
    assert second.computed == [] and second.reused == ["n1", "n2", "n3"]
    assert bench.calls() == 3
    assert bench.results() == {"n1": "2", "n2": "4", "n3": "6"}


def test_a_second_run_leaves_the_output_folder_as_it_was(bench: Bench) -> None:
    bench.run(1, -2, 3)
    before = tree(bench.output)
    bench.run(1, -2, 3)
    assert tree(bench.output) == before


def test_what_is_asked_for_no_more_leaves_the_output_folder_and_stays_in_the_cache(bench: Bench) -> None:
    bench.run(1, 2)
    bench.run(1)
    assert [path.name for path in (bench.output / "clips").iterdir()] == ["n1.txt"]
    assert bench.run(1, 2).computed == []


def test_one_more_item_computes_one_item(bench: Bench) -> None:
    bench.run(1, 2)
    assert bench.run(1, 2, 3).computed == ["n3"]
    assert bench.calls() == 3


def test_a_removed_output_folder_is_filled_from_the_cache(bench: Bench) -> None:
    bench.run(1, 2)
    for path in (bench.output / "clips").iterdir():
        path.unlink()
    assert bench.run(1, 2).computed == []
    assert bench.results() == {"n1": "2", "n2": "4"}


def test_a_changed_parameter_recomputes_and_going_back_does_not(bench: Bench) -> None:
    bench.run(1, 2, factor=2)
    assert bench.run(1, 2, factor=5).computed == ["n1", "n2"]
    assert bench.results() == {"n1": "5", "n2": "10"}
    assert bench.run(1, 2, factor=2).computed == []
    assert bench.results() == {"n1": "2", "n2": "4"}


def test_the_record_of_a_reused_result_is_the_newest(bench: Bench) -> None:
    """``stages.commands.why`` takes the newest record of an item for the current one."""
    for factor in (2, 3):
        bench.run(1, factor=factor)
    records = {
        json.loads(path.read_text())["ingredients"]["parameters"]["factor"]: path
        for path in (items.CACHE / "bench").glob("??/*.json")
    }
    for path in records.values():
        os.utime(path, (1, 1))
    bench.run(1, factor=2)
    assert records[2].stat().st_mtime > 1 == records[3].stat().st_mtime


def test_a_changed_input_recomputes_only_its_item(bench: Bench) -> None:
    def run(inputs: dict[str, str]) -> items.Outcome:
        work = [
            Item(name, inputs={"content": content}, argument={"value": 4, "log": str(bench.log)})
            for name, content in inputs.items()
        ]
        return items.run(
            "bench", double, work, parameters={"factor": 1}, libraries=[], output=bench.output, resources=SERIAL
        )

    run({"a": "x", "b": "y"})
    assert run({"a": "x", "b": "z"}).computed == ["b"]


def test_another_version_of_a_library_recomputes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"opencv": "4.11"}
    monkeypatch.setattr("importlib.metadata.version", versions.__getitem__)
    bench.run(1, libraries=("opencv",))
    assert bench.run(1, libraries=("opencv",)).computed == []
    versions["opencv"] = "4.12"
    assert bench.run(1, libraries=("opencv",)).computed == ["n1"]


@pytest.fixture
def small_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `edited`: `work` computes items with `helper`, which it imports inside its function, and `plumbing`."""
    package = tmp_path / "source" / "edited"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "plumbing.py").write_text("SPEED = 1\n")
    (package / "helper.py").write_text("ADDED = 1\n")
    (package / "bystander.py").write_text("import edited.helper\n")
    (package / "work.py").write_text(
        "from edited import plumbing\n"
        "def compute(argument, parameters, target):\n"
        "    from edited.helper import ADDED\n"
        "    target.write_text(str(argument + ADDED))\n"
    )
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setattr(code_closure, "PACKAGES", ("edited",))
    monkeypatch.setattr(code_closure, "PLUMBING", frozenset({"edited.plumbing"}))
    yield package
    forget_sources()
    for name in [name for name in sys.modules if name.split(".")[0] == "edited"]:
        del sys.modules[name]


def forget_sources() -> None:
    """As a new process would."""
    code_closure.import_closure.cache_clear()
    code_closure._source.cache_clear()


def test_an_edit_in_the_import_closure_recomputes_and_one_elsewhere_does_not(bench: Bench, small_package: Path) -> None:
    def run() -> list[str]:
        forget_sources()
        function = importlib.import_module("edited.work").compute
        outcome = items.run(
            "bench", function, [Item("a", inputs={}, argument=1)], parameters={}, libraries=[], output=bench.output,
            resources=SERIAL,
        )  # fmt: skip
        return outcome.computed

    assert run() == ["a"]
    (small_package / "plumbing.py").write_text("SPEED = 2\n")
    (small_package / "bystander.py").write_text("import edited.helper as helper\n")
    assert run() == []
    (small_package / "helper.py").write_text("ADDED = 2\n")
    assert run() == ["a"]
    assert (bench.output / "clips" / "a.arrow").read_text() == "2", "this process imported the helper before the edit"


def test_better_words_are_no_other_code() -> None:
    plain = b"LIMIT = 3\ndef f(x):\n    return x + 1\nclass C:\n    n = 0\n"
    explained = (
        b'"""A module."""\nLIMIT = 3  # pixels\n"""The limit."""\n\n\ndef f(x):\n    """Add."""\n    # one\n'
        b'    return (x +\n            1)\n\nclass C:\n    """A class."""\n    n = 0\n    """Its number."""\n'
    )
    assert code_closure.code_digest(plain) == code_closure.code_digest(explained)


@pytest.mark.parametrize(
    "edited", [b"X = 'b'", b"X = 1", b"Y = 'a'", b"X = 'a'\nX = 'a'", b"def X(): 'a'", b"X: str = 'a'"]
)
def test_every_other_edit_is_other_code(edited: bytes) -> None:
    assert code_closure.code_digest(b"X = 'a'") != code_closure.code_digest(edited)


def test_the_closure_follows_imports_inside_functions_and_leaves_plumbing_out(small_package: Path) -> None:
    forget_sources()
    assert set(code_closure.import_closure("edited.work")) - {"edited"} == {"edited.work", "edited.helper"}


def test_the_closure_of_a_module_in_a_package_holds_the_package_s_own_code(small_package: Path) -> None:
    # Importing edited.helper runs edited/__init__.py: an edit there can change what helper computes.
    (small_package / "__init__.py").write_text("SETTING = 3\n")
    (small_package / "lonely.py").write_text("import edited.helper\n")
    forget_sources()
    assert "edited" in code_closure.import_closure("edited.lonely")


def test_a_relative_import_is_refused_because_the_closure_could_not_follow_it() -> None:
    with pytest.raises(ValueError, match="imports are absolute"):
        code_closure.imported_modules(b"from . import flow", package="stages.core")


def test_the_closure_of_a_stage_holds_what_it_computes_with_and_no_plumbing() -> None:
    found = set(code_closure.import_closure("stages.optical_flow"))
    assert {
        "stages.optical_flow",
        "stages.core.optical_flow.classical",
        "stages.core.packs.frames",
        "stages.core.schemas",
    } <= found
    assert not found & code_closure.PLUMBING


def test_a_bad_item_goes_to_quarantine_with_its_reason_and_the_others_survive(bench: Bench) -> None:
    outcome = bench.run(1, -5, 3)
    assert outcome.quarantined == {"n-5": "below zero"}
    assert quarantine(bench.output) == {"n-5": "below zero"}
    assert bench.results() == {"n1": "2", "n3": "6"}
    assert list(items.read_manifest(bench.output)) == ["n1", "n3"]


def test_a_bad_item_is_not_tried_again(bench: Bench) -> None:
    bench.run(-5)
    again = bench.run(-5)
    assert again.computed == [] and again.quarantined == {"n-5": "below zero"}
    assert bench.calls() == 1


@pytest.mark.parametrize("resources", [SERIAL, TWO_PROCESSES], ids=["serial", "processes"])
def test_an_unforeseen_error_names_its_item_and_keeps_what_was_finished(
    bench: Bench, resources: workers.Workers
) -> None:
    with pytest.raises(RuntimeError, match="item `n100` failed: ZeroDivisionError: too much"):
        bench.run(1, 2, 100, resources=resources)
    assert bench.run(1, 2).computed == []
    with pytest.raises(RuntimeError, match="`n100`"):
        bench.run(100, resources=resources)


def test_results_on_another_machine_s_disk_are_missed_by_name(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "compute", lambda _, arguments, **__: enumerate(arguments))
    with pytest.raises(ValueError, match="no record of n1, which was computed: Ray on several machines needs"):
        bench.run(1, 2)


def test_a_result_whose_bytes_changed_is_computed_again(bench: Bench) -> None:
    bench.run(1, 2)
    output = bench.output / "clips" / "n2.txt"
    output.write_text("spoilt")  # a hard link: this writes into the cache
    assert bench.run(1, 2).computed == ["n2"]
    assert bench.results() == {"n1": "2", "n2": "4"}


def test_a_result_that_was_only_touched_is_not_computed_again(bench: Bench) -> None:
    bench.run(1)
    os.utime(bench.output / "clips" / "n1.txt", (1, 1))
    assert bench.run(1).computed == []


def test_a_missing_result_and_a_broken_record_are_computed_again(bench: Bench) -> None:
    bench.run(1, 2)
    folder = items.CACHE / "bench"
    records = {json.loads(path.read_text())["item"]: path for path in folder.glob("??/*.json")}
    records["n1"].with_suffix(".txt").unlink()
    records["n2"].write_text('{"item": "n')
    assert bench.run(1, 2).computed == ["n1", "n2"]


def test_two_items_of_one_name_are_an_error_that_names_them(bench: Bench) -> None:
    with pytest.raises(ValueError, match=r"two items of the same name.*n7"):
        bench.run(7, 8, 7)


def test_names_that_begin_with_dashes_are_ordinary_names(bench: Bench) -> None:
    work = [Item("--h5fAKYurM", inputs={}, argument={"value": 1, "log": str(bench.log)})]
    items.run("bench", double, work, parameters={"factor": 1}, libraries=[], output=bench.output, resources=SERIAL)
    assert (bench.output / "clips" / "--h5fAKYurM.arrow").read_text() == "1"
    assert "--h5fAKYurM" in items.read_manifest(bench.output)


def test_a_record_holds_the_ingredients_of_its_key(bench: Bench) -> None:
    bench.run(3, libraries=("numpy",))
    key = items.read_manifest(bench.output)["n3"]
    (path,) = items.CACHE.glob(f"bench/*/{key}.json")
    record = json.loads(path.read_text())
    ingredients = record["ingredients"]
    assert record["item"] == "n3"
    assert ingredients["inputs"] == {"value": "3"} and ingredients["parameters"] == {"factor": 2}
    assert set(ingredients["libraries"]) == {"numpy"} and double.__module__ in ingredients["code"]
    assert items.digest(ingredients) == key


def test_leftovers_of_killed_runs_are_swept_and_a_running_item_s_file_is_not(bench: Bench) -> None:
    folder = items.CACHE / "bench"
    folder.mkdir(parents=True)
    old, running = folder / ".part-old", folder / ".part-running"
    for part in (old, running):
        part.write_text("half")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    bench.run(1)
    assert not old.exists() and running.exists()


def test_shared_values_reach_the_function_but_no_key(bench: Bench) -> None:
    def run(gate: Path) -> items.Outcome:
        return items.run(
            "bench", double, bench.work(1), parameters={"factor": 2}, libraries=[], output=bench.output,
            resources=SERIAL, shared={"gate": str(gate)},
        )  # fmt: skip

    assert run(Path("one")).computed == ["n1"]
    assert run(Path("another")).computed == []


def test_the_digest_of_ingredients_does_not_depend_on_their_order() -> None:
    assert items.digest({"a": 1, "b": [2, 3]}) == items.digest({"b": [2, 3], "a": 1})
    assert items.digest({"b": [2, 3]}) != items.digest({"b": [3, 2]})


def test_a_stage_that_has_not_run_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dvc repro"):
        items.read_manifest(tmp_path)


def test_processes_give_the_same_bytes_as_serial(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.run(1, 2, -3, 4)
    expected = tree(bench.output)
    monkeypatch.setattr(items, "CACHE", tmp_path / "another_cache")
    other = Bench(tmp_path / "other")
    other.output.parent.mkdir()
    other.run(1, 2, -3, 4, resources=TWO_PROCESSES)
    assert tree(other.output) == expected


@pytest.mark.slow
def test_ray_gives_the_same_bytes_as_serial_and_names_a_failing_item(bench: Bench, tmp_path: Path) -> None:
    bench.run(1, 2, -3, 4)
    done = in_another_process(
        "import sys; from pathlib import Path; from tests.core.test_items import Bench, workers\n"
        "bench = Bench(Path(sys.argv[1])); ray = workers.Workers(runner='ray')\n"
        "bench.run(1, 2, -3, 4, resources=ray)\n"
        "try: bench.run(100, resources=ray)\n"
        "except RuntimeError as error: print('failed:', error)\n",
        tmp_path / "ray",
    )
    output, _ = done.communicate(timeout=600)
    assert done.returncode == 0, output
    assert "`n100` failed" in output
    assert tree(tmp_path / "ray" / "out") == tree(bench.output)


def test_kill_9_in_the_middle_loses_only_the_items_in_flight(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    process = in_another_process(SLOW_RUN, tmp_path)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None and bench.calls() < 9:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    output, _ = process.communicate()
    assert bench.calls() == 9, output  # 0 to 6 are finished; each of two processes waits in 7 or 8; 3 have not begun
    finished = {json.loads(path.read_text())["item"] for path in (tmp_path / "cache").glob("bench/??/*.json")}
    assert finished == {f"n{value}" for value in range(7)}

    (tmp_path / "gate").touch()
    again = in_another_process(SLOW_RUN, tmp_path)
    output, _ = again.communicate(timeout=600)
    assert again.returncode == 0, output
    assert "12 items, 5 computed, 7 reused" in output
    assert bench.results() == {f"n{value}": str(2 * value) for value in range(12)}


SLOW_RUN = (
    "import sys; from pathlib import Path; from tests.core.test_items import TWO_PROCESSES, Bench, double, items\n"
    "if __name__ == '__main__':\n"
    "    bench = Bench(Path(sys.argv[1]))\n"
    "    items.run('bench', double, bench.work(*range(12)), parameters={'factor': 2}, libraries=[], suffix='.txt',\n"
    "              output=bench.output, resources=TWO_PROCESSES, shared={'gate': str(bench.log.with_name('gate'))})\n"
)


def in_another_process(program: str, folder: Path) -> subprocess.Popen[str]:
    """``program`` with ``folder`` as its argument and for its cache, in a process group of its own."""
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "ACTOR_ACTION_ITEMS": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)], cwd=CHECKOUT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
