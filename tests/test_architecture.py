"""Rules of the house: who imports whom, one word per stage, what a stage depends on, how long files are."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.workspace import CHECKOUT
from models.methods import METHODS
from stages.core.closure import import_closure

PACKAGES = ("flows", "stages", "models")
SOURCES = sorted(path for package in PACKAGES for path in (CHECKOUT / package).rglob("*.py"))
PIPELINE: dict[str, Any] = yaml.safe_load((CHECKOUT / "dvc.yaml").read_text())["stages"]

SCIENCE, GLUE = 400, 250
"""Lines that a file may have."""
SCIENCE_FOLDERS = ("models", "stages/core/generator")


def short(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Every module that ``path`` imports, at the top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{short(path)}: imports are absolute"
            yield node.module or ""


def importers(library: str) -> list[str]:
    """Files that import ``library`` or a part of it."""
    found = {short(path) for path in SOURCES for name in imports(path) if name.split(".")[0] == library}
    return sorted(found)


# Imports


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 30 and "stages/core/workers.py" in map(short, SOURCES) and len(PIPELINE) > 5


@pytest.mark.parametrize(("package", "above"), [("models", ("stages", "flows")), ("stages", ("flows",))])
def test_imports_go_one_way_from_flows_to_stages_to_models(package: str, above: tuple[str, ...]) -> None:
    wrong = [file for name in above for file in importers(name) if file.startswith(f"{package}/")]
    assert wrong == []


def test_no_product_code_imports_tests() -> None:
    assert importers("tests") == []


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("prefect", r"flows/"),
        ("prefect_ray", r"flows/"),
        ("ray", r"flows/|stages/core/workers\.py"),
        ("mlflow", r"stages/core/tracking\.py|flows/mlflow_pages\.py"),
        ("dvc", r"flows/"),
        ("torchvision", r"nowhere"),
    ],
)
def test_each_heavy_library_has_one_importer(library: str, allowed: str) -> None:
    assert [file for file in importers(library) if not re.match(allowed, file)] == []


def test_heavy_libraries_are_imported_where_they_are_said_to_be() -> None:
    assert "stages/core/workers.py" in importers("ray") and "stages/core/tracking.py" in importers("mlflow")
    assert importers("prefect") and all(file.startswith("flows/") for file in importers("prefect"))


def test_models_read_and_write_no_files() -> None:
    """No module that opens files, and no call that does."""
    modules = {"os", "io", "pathlib", "shutil", "tempfile", "json", "csv", "pickle", "h5py", "av", "cv2", "pandas"}
    calls = {
        "open",
        "load",
        "save",
        "read_text",
        "write_text",
        "read_bytes",
        "write_bytes",
        "fromfile",
        "tofile",
        "print",
    }
    wrong = []
    for path in SOURCES:
        if not short(path).startswith("models/"):
            continue
        wrong += [f"{short(path)} imports {name}" for name in imports(path) if name.split(".")[0] in modules]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                wrong += [f"{short(path)}:{node.lineno} calls {name}"] * (name in calls)
    assert wrong == []


def test_every_method_is_one_module_of_its_name() -> None:
    assert {name: f"models.{name}" for name in METHODS} == METHODS
    assert all((CHECKOUT / "models" / f"{name}.py").exists() for name in METHODS)


# Stages


def body(stage: str) -> dict[str, Any]:
    """The stage's entry, or that of its loop."""
    return PIPELINE[stage].get("do", PIPELINE[stage])


def names(entries: list[Any]) -> list[str]:
    """Entries of a list in dvc.yaml, which are strings or mappings of one key."""
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def outputs(stage: str) -> list[str]:
    return [name for kind in ("outs", "metrics", "plots") for name in names(body(stage).get(kind, []))]


@pytest.mark.parametrize("stage", [stage for stage in PIPELINE if stage != "parameters"])  # which reads all sections
def test_a_stage_s_module_section_and_folder_are_one_word(stage: str) -> None:
    sections = yaml.safe_load((CHECKOUT / "params.yaml").read_text())
    assert (CHECKOUT / "stages" / f"{stage}.py").exists()
    assert body(stage)["cmd"].split()[:3] == ["python", "-m", f"stages.{stage}"]
    assert stage in sections
    assert any(name.split(".")[0] == stage for name in names(body(stage).get("params", [])))
    assert outputs(stage) and all(f"{name}/".startswith(f"data/{stage}/") for name in outputs(stage))


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_stage_depends_on_the_code_that_it_runs_and_on_no_other(stage: str) -> None:
    """The import closure of its module, and for a stage that runs methods, the method and what methods share."""
    listed = [name for name in body(stage)["deps"] if name.split("/")[0] in PACKAGES]
    expected = files_of(f"stages.{stage}")
    if "models/${item.method}.py" in listed:
        closures = {file for module in METHODS.values() for file in files_of(module)}
        expected |= closures - {file for module in METHODS.values() for file in [module.replace(".", "/") + ".py"]}
        expected.add("models/${item.method}.py")
    assert sorted(listed) == sorted(expected)


def files_of(module: str) -> set[str]:
    """The import closure of ``module`` as files; empty ``__init__.py`` say nothing."""
    found = set()
    for name in import_closure(module):
        path = CHECKOUT / name.replace(".", "/")
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if file.read_bytes():
            found.add(short(file))
    return found


def test_a_stage_that_runs_methods_says_which() -> None:
    users = [stage for stage in PIPELINE if "models/${item.method}.py" in body(stage)["deps"]]
    assert users == ["train", "evaluate"]


def test_data_goes_one_way() -> None:
    """What a stage reads of data/ is the release or what a stage above it writes.

    But for `features`: its front-end is a run that another run starts from.
    """
    read_by = {"optical_flow": "data/train_flow/", "regions": "data/train_regions/"}
    written = ["data/raw"]
    for stage in PIPELINE:
        for name in body(stage)["deps"]:
            if stage == "features" and name.startswith("data/train/"):
                continue
            if name.startswith("data/"):
                assert any(f"{name}/".startswith(f"{known}/") for known in written), f"{stage} reads {name}"
            elif name == "${item.reads}":
                assert any(known.startswith(read_by.get(stage, "data/optical_flow/")) for known in written)
        written += [*outputs(stage), f"data/{stage}"]


def test_no_two_stages_write_to_one_folder() -> None:
    written = [name for stage in PIPELINE for name in outputs(stage)]
    assert len(set(written)) == len(written)
    assert not [(a, b) for a in written for b in written if a != b and a.startswith(f"{b}/")]


def test_no_output_outlives_its_stage_s_next_run() -> None:
    """``persist`` would keep DVC's run cache from restoring a stage."""
    assert "persist" not in (CHECKOUT / "dvc.yaml").read_text()


# Files


def test_no_file_is_too_long_to_be_read_at_once() -> None:
    lengths = {short(path): len(path.read_text().splitlines()) for path in SOURCES}
    limits = {file: SCIENCE if file.startswith(SCIENCE_FOLDERS) else GLUE for file in lengths}
    assert {file: lines for file, lines in lengths.items() if lines > limits[file]} == {}


def test_every_file_says_first_what_it_is() -> None:
    silent = [
        short(path)
        for path in SOURCES
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def tracked_files() -> list[Path]:
    """Text files that are, or would be, committed."""
    if shutil.which("git") is None or not (CHECKOUT / ".git").exists():
        pytest.skip("no git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout
    paths = [CHECKOUT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8000]]


HOMES = ("work", "home", "root", "Users", "mnt", "opt/pypi", "opt/wheels")
MACHINE = {
    "a path of one machine": re.compile(rf"(?<![\w.}}/:-])/(?:{'|'.join(HOMES)})/\w"),
    "a registry": re.compile(r"(?:index|find)[-_](?:url|links)\W{1,4}(?:https?|file)://(?!download\.pytorch\.org)"),
}


def test_no_tracked_file_holds_a_path_or_a_registry_of_one_machine() -> None:
    wrong = [
        f"{short(path)}: {what}: {found.group()}"
        for path in tracked_files()
        for what, pattern in MACHINE.items()
        for found in [pattern.search(path.read_text(errors="replace"))]
        if found
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "text", ["cd /" + HOMES[0] + "/main", "x=/" + HOMES[1] + "/me", "--index-url=" + "https://nexus/simple"]
)
def test_the_search_for_machines_finds_one(text: str) -> None:
    assert any(pattern.search(text) for pattern in MACHINE.values())
