"""params.yaml is read once, strictly: what is misspelt, mistyped or dangerous is an error that says how to mend it."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.core.params import FORBIDDEN, Section, load, nearest, read, validate


class Flow(Section):
    preset: str
    quantum: float = 0.0625


def write(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text)
    return path


def test_a_section_loads_as_its_model(tmp_path: Path) -> None:
    path = write(tmp_path, "optical_flow:\n  dis:\n    preset: fast\n")
    assert load("optical_flow.dis", Flow, path=path) == Flow(preset="fast")


def test_parameters_cannot_be_changed_after_loading() -> None:
    with pytest.raises(ValidationError):
        Flow(preset="fast").preset = "slow"


def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path) -> None:
    path = write(tmp_path, "dis:\n  preset: fast\n  quantom: 1.0\n")
    with pytest.raises(ValueError, match=r"section `dis`: unknown parameter `quantom`; did you mean `quantum`\?"):
        load("dis", Flow, path=path)


def test_every_fault_of_a_section_is_listed_at_once() -> None:
    with pytest.raises(ValueError, match=r"`preset` is missing.*`quantum` = 'much'") as error:
        validate({"quantum": "much"}, Flow, where="here")
    assert str(error.value).startswith("here: ")


def test_an_unknown_section_names_the_nearest_known_one(tmp_path: Path) -> None:
    path = write(tmp_path, "frames:\n  quality: 95\n")
    with pytest.raises(ValueError, match=r"no section `frame`; did you mean `frames`\?"):
        load("frame", Flow, path=path)
    with pytest.raises(ValueError, match=r"no section `frames.quality.of`"):
        load("frames.quality.of", Flow, path=path)


def test_without_a_near_name_all_known_ones_are_listed() -> None:
    assert nearest("zebra", ["flow", "frames"]) == "; known: flow, frames"
    assert nearest("zebra", []) == ""


@pytest.mark.parametrize(
    "text",
    ["train:\n  size: 3\n", "size: 3\n", "runs:\n  a:\n    - nfiles: 3\n"],
    ids=["in a section", "at the top", "in a list"],
)
def test_names_that_the_run_cache_would_ignore_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"DVC's run cache ignores the names"):
        read(write(tmp_path, text))


@given(
    st.recursive(
        st.integers() | st.text("abc", max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", *FORBIDDEN]), inner),
        max_leaves=12,
    )
)
def test_a_forbidden_name_is_found_wherever_it_stands(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    path = write(tmp_path_factory.mktemp("params"), yaml.safe_dump({"section": content}))
    if any(f"{name}:" in path.read_text() for name in FORBIDDEN):
        with pytest.raises(ValueError, match="run cache"):
            read(path)
    else:
        assert read(path) == {"section": content}


@pytest.mark.parametrize(("text", "message"), [("a: [", "not valid YAML"), ("- a\n", "must be a mapping")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path, text))


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run from the project's top folder"):
        read(tmp_path / "params.yaml")


def test_an_empty_section_is_one_with_all_defaults(tmp_path: Path) -> None:
    class Defaults(Section):
        seed: int = 0

    assert load("report", Defaults, path=write(tmp_path, "report:\n")) == Defaults()


def test_the_projects_own_parameters_are_readable() -> None:
    assert "index" in read(Path(__file__).parents[2] / "params.yaml")
