"""Rules of the house: who imports whom, one word per stage, what a stage depends on, how long files are."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from graphlib import TopologicalSorter
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
LONGER = {
    "models/ssa2d.py": "a method is one file",
    "stages/commands/data.py": "a data set is put in place whole or not at all: doing and undoing stand side by side",
    "stages/commands/doctor.py": "a short function for each trap",
    "stages/commands/predict.py": "from a clip to its overlay, in the order in which it happens",
}
"""Files that may be longer, and why."""
MOST = 420
"""Lines that no file may have."""

ORDER = (
    ("flows",),
    ("stages.commands",),
    ("stages",),
    ("stages.core.inference", "stages.core.reporting"),
    ("stages.core.batches",),
    ("stages.core.generator", "stages.core.scores"),
    ("stages.core.datasets", "stages.core.optical_flow"),
    ("stages.core.packs", "stages.core.training"),
    ("stages.core",),
    ("models",),
    ("models.parts",),
    ("models.base", "models.methods"),
    ("models.__init__",),
)
"""The wings, from the top: each imports from the lines below its own and from nowhere else. CONTRIBUTING.md has the
same table with a word on each."""


def short(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Every module that ``path`` imports, at the top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{short(path)}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = {
    short(path).removesuffix(".py").replace("/", "."): path
    for path in SOURCES
    if path.name != "__init__.py" or path.read_bytes()
}


def first_party(path: Path) -> set[str]:
    """Modules of this project that ``path`` imports; a package is its ``__init__``."""
    candidates = [[name, f"{name}.__init__", parent, f"{parent}.__init__"]
                  for name in imports(path) for parent in [name.rpartition(".")[0]]]  # fmt: skip
    return {name for names in candidates for name in [next(filter(MODULES.__contains__, names), None)] if name}


def wing(module: str) -> str:
    """The longest name in ``ORDER`` that ``module`` is or lies below."""
    return max((name for row in ORDER for name in row if f"{module}.".startswith(f"{name}.")), key=len)


def imports_between_wings() -> list[tuple[str, str]]:
    """(module, module that it imports), both sorted, where the two are of different wings."""
    pairs = ((module, name) for module, path in MODULES.items() for name in first_party(path))
    return sorted((module, name) for module, name in pairs if wing(module) != wing(name))


def importers(library: str) -> list[str]:
    """Files that import ``library`` or a part of it."""
    found = {short(path) for path in SOURCES for name in imports(path) if name.split(".")[0] == library}
    return sorted(found)


# Imports


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 30 and "stages/core/workers.py" in map(short, SOURCES) and len(PIPELINE) > 5


def test_imports_go_one_way_through_the_wings() -> None:
    level = {name: number for number, row in enumerate(ORDER) for name in row}
    pairs = imports_between_wings()
    assert len(pairs) > 300
    assert [f"{a} imports {b}" for a, b in pairs if level[wing(a)] >= level[wing(b)]] == []


def test_every_folder_is_a_wing_of_the_table() -> None:
    folders = {short(path.parent).replace("/", ".") for path in SOURCES}
    assert folders == {name for row in ORDER for name in row if (CHECKOUT / name.replace(".", "/")).is_dir()}


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter({module: first_party(path) for module, path in MODULES.items()}).prepare()


def test_contributing_has_the_same_table_of_wings() -> None:
    rows = re.findall(r"^\| (`[^|]+`) \|", (CHECKOUT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert tuple(tuple(re.findall(r"`([^`]+)`", row.replace("/", "."))) for row in rows) == ORDER


def test_the_picture_of_the_wings_shows_their_imports() -> None:
    """Every arrow of docs/architecture.md is an import, and every import is an arrow or follows from arrows."""
    nodes = r"[\w/.]+"
    arrows = re.findall(rf"^ +({nodes}) --> ({nodes})$", (CHECKOUT / "docs/architecture.md").read_text(), re.MULTILINE)
    assert len(arrows) > 15
    below: dict[str, set[str]] = {}
    for above, under in arrows:
        below.setdefault(above, set()).add(under)
    box = {"models.__init__": "models.base", "models.methods": "models.base"}  # one for the three
    pairs = [[box.get(wing(name), wing(name)).replace(".", "/") for name in pair] for pair in imports_between_wings()]
    found = {(above, under) for above, under in pairs if above != under}
    assert {arrow for arrow in arrows if arrow not in found} == set()
    for above in TopologicalSorter(below).static_order():
        below[above] = {name for under in below.get(above, ()) for name in (under, *below[under])}
    assert {(a, b) for a, b in found if b not in below[a]} == set()


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
    limits |= dict.fromkeys(LONGER, MOST)
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
