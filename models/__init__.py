"""The science: one file per method, and the parts that methods share. Reads and writes no files, imports no stage."""

import importlib
from types import ModuleType

IGNORE = 255
"""Label of a pixel that nobody labelled: left out of losses and scores, never background."""

METHODS = {
    "deeplab": "models.deeplab",
    "ssa2d": "models.ssa2d",
}
"""Name of each method -> its module. A method is one file and one line here."""

VARIANTS = {
    "deeplab": ("late_fusion",),
}
"""Name of a method -> its ablations and contrasts, the keys of ``VARIANTS`` in its module, known without torch."""


def method(name: str) -> ModuleType:
    """The module of method ``name``. Raises ``ValueError`` that names the methods there are."""
    if name not in METHODS:
        raise ValueError(f"no method `{name}`; there are {', '.join(METHODS)}")
    return importlib.import_module(METHODS[name])
