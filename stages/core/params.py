"""Parameters: params.yaml, read and validated once per process.

Every stage declares its section as a frozen pydantic model. An unknown key is an error that names the nearest key,
and names that DVC's run cache drops from its key are refused in the whole file.
"""

import difflib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML

PARAMS = Path("params.yaml")

FORBIDDEN = frozenset({"size", "nfiles"})
"""DVC drops these names from the key of its run cache: a changed value would silently restore stale outputs."""


class Section(BaseModel):
    """One section of params.yaml: immutable, and no key beside the declared ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound=Section)


def read(path: Path = PARAMS) -> dict[str, Any]:
    """The whole file as a dictionary. Raises ``ValueError`` for a forbidden name or a file that is no mapping."""
    if not path.exists():
        raise ValueError(f"{path} not found: run from the project's top folder")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a mapping of sections, one per stage")
    forbidden = sorted(_forbidden_names(content, prefix=""))
    if forbidden:
        raise ValueError(
            f"{path}: parameter {', '.join(forbidden)}: DVC's run cache ignores the names `size` and `nfiles` and "
            "would restore stale outputs; choose another name (height, count, ...)"
        )
    return content


@contextmanager
def edited(path: Path = PARAMS) -> Iterator[Any]:
    """The file's content, to be changed in place; it is written, atomically, where nothing went wrong.

    Comments and everything else stay as they are.
    """
    parser = YAML()
    parser.preserve_quotes, parser.width = True, 4096
    parser.indent(mapping=2, sequence=4, offset=2)
    parser.representer.add_representer(type(None), lambda to, _: to.represent_scalar("tag:yaml.org,2002:null", "null"))
    content = parser.load(path.read_text())
    yield content
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with part.open("w") as file:
        parser.dump(content, file)
    os.replace(part, path)


def load(section: str, model: type[S], *, path: Path = PARAMS) -> S:
    """Section ``section`` (dots lead into it) as ``model``. Raises ``ValueError`` that says what to mend."""
    return select(read(path), section, model, path=path)


def select(content: Any, section: str, model: type[S], *, path: Path) -> S:
    """``load`` of the ``content`` that was read from ``path``."""
    for key in section.split("."):
        if not isinstance(content, dict) or key not in content:
            known = [str(name) for name in content] if isinstance(content, dict) else []
            raise ValueError(f"{path}: no section `{section}`{nearest(key, known)}")
        content = content[key]
    return validate(content or {}, model, where=f"{path}: section `{section}`")


def validate(values: dict[str, Any], model: type[S], *, where: str) -> S:
    """``values`` as ``model``; ``where`` begins the message of the ``ValueError`` that lists every fault."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            name = ".".join(str(part) for part in fault["loc"])
            if fault["type"] == "extra_forbidden":
                faults.append(f"unknown parameter `{name}`{nearest(name, list(model.model_fields))}")
            elif fault["type"] == "missing":
                faults.append(f"parameter `{name}` is missing")
            else:
                faults.append(f"parameter `{name}` = {fault['input']!r}: {fault['msg'].lower()}")
        raise ValueError(f"{where}: " + "; ".join(faults)) from error


def nearest(name: str, known: list[str]) -> str:
    """A hint for a misspelt name: `; did you mean ...`, or the list of known names."""
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean `{close[0]}`?"
    return f"; known: {', '.join(sorted(known))}" if known else ""


def _forbidden_names(content: Any, *, prefix: str) -> set[str]:
    found: set[str] = set()
    if isinstance(content, dict):
        for key, value in content.items():
            if key in FORBIDDEN:
                found.add(f"`{prefix}{key}`")
            found |= _forbidden_names(value, prefix=f"{prefix}{key}.")
    elif isinstance(content, list):
        for value in content:
            found |= _forbidden_names(value, prefix=prefix)
    return found
