"""Stage `parameters`: everything that is wrong in params.yaml is said at once, before any other stage runs."""

import pkgutil
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.workspace import CHECKOUT, Workspace
from stages import parameters

CONTENT = (CHECKOUT / "params.yaml").read_text()
LOADED = re.compile(r'load\(f?"([^"]+)", ([\w.]+)\)')


def check(folder: Path, *, add: str = "", **changes: Mapping[str, Any]) -> None:
    """Check params.yaml with ``changes`` of its sections and the lines ``add`` at its end."""
    content = yaml.safe_load(CONTENT)
    for section, values in changes.items():
        content[section] = content[section] | values
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False) + add)
    parameters.run(path=path, output=folder / "data")


def test_what_the_project_ships_is_right_and_leaves_the_bytes_that_other_stages_know(tmp_path: Path) -> None:
    check(tmp_path)
    (found,) = (tmp_path / "data").iterdir()
    assert found.read_bytes() == b"The names in params.yaml can be used.\n"


def test_every_fault_of_the_file_is_in_one_message(tmp_path: Path) -> None:
    run = {"method": "deeplab", "reads": "data/frames", "regions": "data/frames"}
    with pytest.raises(ValueError, match="evaluate") as error:
        check(
            tmp_path,
            add="evalute:\n  seed: 0\n",
            evaluate={"resample": 10, "resamples": 0},
            runs={"deplab-rgb-full-0": run, "deeplab-rgb-full-1": run | {"read": "data"}},
            train={"deeplap": {}, "sentence": {"step": 3}},
            workers={"runner": "prcesses"},
        )
    lines = str(error.value).split("\n")
    expected = [
        r"unknown section `evalute`; did you mean `evaluate`\?",
        r"section `train`: no method `deeplap`; did you mean `deeplab`\?",
        r"section `evaluate`: parameter `resamples` = 0: .*; unknown parameter `resample`; did you mean `resamples`\?",
        r"section `workers`: parameter `runner` = 'prcesses'",
        r"section `train.sentence`: unknown parameter `step`; did you mean `steps`\?",
        r"runs: `deplab-rgb-full-0`: no method `deplab`; did you mean `deeplab`\?",
        r"section `runs.deeplab-rgb-full-1`: unknown parameter `read`; did you mean `reads`\?",
    ]
    assert len(lines) == len(expected)
    assert [line for line, message in zip(lines, expected, strict=True) if not re.search(message, line)] == []
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frames: {encoding: png, quality: 1}\n", r"no section `index`(?s:.*)no section `train.common`"),
        ("runs: {ssa2d-rgb-full-0: {}}\ntrain: {}\n", r"no section `train.ssa2d`"),
        ("runs: [ssa2d-rgb-full-0]\n", r"section `runs` must be a mapping"),
        ("1: {}\ntrain: {2: {}}\nruns: {3: {}}\n", r"section `1`(?s:.*)method `2`(?s:.*)section `runs.3`"),
    ],
)
def test_what_lacks_or_has_another_form_is_said_too(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        parameters.run(path=tmp_path / "params.yaml", output=tmp_path / "data")


@pytest.mark.parametrize("section", parameters.NAMED)
@pytest.mark.parametrize(
    "name", ["dis-forward; touch x", "a b", "$(touch x)", "../x", "a..b", "-x", "x\n", "", "a/b", "`id`"]
)
def test_no_name_that_a_shell_or_a_path_reads_otherwise_gets_through(tmp_path: Path, section: str, name: str) -> None:
    outer, _, inner = section.partition(".")
    entry = next(iter(_at(yaml.safe_load(CONTENT), section).values()))
    values = {name: entry}
    with pytest.raises(ValueError, match=re.escape(f"section `{section}`: {name!r} can't be a name")):
        check(tmp_path, **{outer: {inner: values} if inner else values})


def test_each_loop_of_the_pipeline_is_over_names_that_are_checked_and_needs_the_check() -> None:
    """And nothing else of params.yaml gets into a command."""
    pipeline = yaml.safe_load((CHECKOUT / "dvc.yaml").read_text())["stages"]
    loops = {stage["foreach"] for stage in pipeline.values() if "foreach" in stage}
    assert {f"${{{section}}}" for section in parameters.NAMED} == loops
    commands = " ".join(stage.get("do", stage)["cmd"] for stage in pipeline.values())
    assert set(re.findall(r"\$\{[^}]*\}|\$\w+", commands)) == {"${key}"}

    after = {"parameters"}
    while grown := {name for name in pipeline if name not in after and _needs_one_of(pipeline[name], after)}:
        after |= grown
    assert after == set(pipeline)


def _needs_one_of(stage: dict[str, Any], others: set[str]) -> bool:
    deps = [str(dep) for dep in stage.get("do", stage)["deps"]]
    return any(f"{dep}/".startswith(f"data/{other}/") for dep in deps for other in others)


def _at(content: Any, section: str) -> Any:
    for key in section.split("."):
        content = content[key]
    return content


def test_a_command_hidden_in_a_name_does_not_run(project: Workspace) -> None:
    project.set({"train_flow.networks": {"flownets; touch x": {}}})
    said = project.dvc("repro", "train_flow", check=False)
    assert "can't be a name" in said and not (project.root / "x").exists()


def test_each_section_is_checked_as_its_stage_loads_it() -> None:
    """And all are: a new section of a stage must be listed here."""
    known = parameters.SECTIONS | {"train.{chosen.method}": parameters.METHOD}
    loaded = set()
    for path in sorted((CHECKOUT / "stages").rglob("*.py")):
        module = ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)
        for section, model in LOADED.findall(path.read_text()):
            loaded.add(section)
            expected = pkgutil.resolve_name(f"{module}:{model}")
            if section == "optical_flow.dis":
                whole = pkgutil.resolve_name(known["optical_flow"])
                assert whole.model_fields["dis"].annotation is expected
            else:
                assert pkgutil.resolve_name(known[section]) is expected
    assert loaded - {"optical_flow.dis"} == set(known)
    assert {*yaml.safe_load(CONTENT)} == {"runs", *(section.split(".")[0] for section in known)}
