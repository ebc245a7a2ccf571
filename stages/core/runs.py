"""A run: one method on one set of inputs, in one variant, with one seed. Its name says all four."""

from dataclasses import dataclass
from pathlib import Path

from models import METHODS, VARIANTS
from stages.core.params import PARAMS, Section, nearest, read, validate

INPUTS = ("rgb", "flow", "rgb+flow")
FULL = "full"
HELD_OUT = "without_"
"""Variant ``without_<actor>``: trained without the actions of that actor, so that it can be tested on them."""
OTHER_FLOW = "_flow"
"""Variant ``<backend>_flow``: reads a recipe of that backend, in place of the one that `full` runs read."""


class Entry(Section):
    """One entry of section ``runs`` of params.yaml."""

    method: str
    reads: str


@dataclass(frozen=True)
class Run:
    """``<method>-<inputs>-<variant>-<seed>``, and the folder of the flow recipe that it reads (None without flow)."""

    name: str
    method: str
    inputs: str
    variant: str
    seed: int
    flow: Path | None

    @property
    def held_out(self) -> str | None:
        """The actor whose actions the run may not learn (zero-shot), or None."""
        return self.variant.removeprefix(HELD_OUT) if self.variant.startswith(HELD_OUT) else None


def parse(name: str, entry: Entry) -> Run:
    """The run called ``name``. Raises ``ValueError`` that says how a name is made or what its entry lacks."""
    parts = name.split("-")
    if len(parts) < 4 or not parts[-1].isdecimal() or parts[1] not in INPUTS:
        raise ValueError(
            f"runs: `{name}` is no run; write <method>-<inputs>-<variant>-<seed>, inputs one of {', '.join(INPUTS)}, "
            "for example deeplab-rgb+flow-full-0"
        )
    method, inputs, variant, seed = parts[0], parts[1], "-".join(parts[2:-1]), int(parts[-1])
    if method not in METHODS:
        raise ValueError(f"runs: `{name}`: no method `{method}`{nearest(method, list(METHODS))}")
    if entry.method != method:
        raise ValueError(f"runs: `{name}`: its entry says method `{entry.method}`; make it `{method}`")
    flow = Path(entry.reads) if "flow" in inputs.split("+") else None
    if flow is not None and flow.parts[:2] != ("data", "optical_flow"):
        raise ValueError(f"runs: `{name}` takes flow, but reads `{entry.reads}`; make it data/optical_flow/<recipe>")
    _check_variant(name, method, variant, flow)
    return Run(name=name, method=method, inputs=inputs, variant=variant, seed=seed, flow=flow)


def _check_variant(name: str, method: str, variant: str, flow: Path | None) -> None:
    own = VARIANTS.get(method, ())
    if variant == FULL or variant in own or variant.startswith(HELD_OUT):
        return
    if not variant.endswith(OTHER_FLOW):
        known = ", ".join((FULL, *own, f"{HELD_OUT}<actor>", f"<backend>{OTHER_FLOW}"))
        raise ValueError(f"runs: `{name}`: no variant `{variant}`; there are {known}")
    backend = variant.removesuffix(OTHER_FLOW)
    if flow is None or not flow.name.startswith(f"{backend}-"):
        raise ValueError(
            f"runs: `{name}` has the flow of `{backend}` by its name; let it take flow and read "
            f"data/optical_flow/{backend}-forward"
        )


def all_runs(path: Path = PARAMS) -> dict[str, Run]:
    """Every run of params.yaml, by name."""
    entries = read(path).get("runs") or {}
    return {
        name: parse(name, validate(entry or {}, Entry, where=f"{path}: section `runs.{name}`"))
        for name, entry in entries.items()
    }


def named(name: str, path: Path = PARAMS) -> Run:
    """The run called ``name``. Raises ``ValueError`` that names the nearest one."""
    runs = all_runs(path)
    if name not in runs:
        raise ValueError(f"{path}: section `runs` has no `{name}`{nearest(name, list(runs))}")
    return runs[name]
