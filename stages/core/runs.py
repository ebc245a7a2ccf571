"""A run: one method on one set of inputs, in one variant, with one seed. Its name says all four."""

from dataclasses import dataclass, replace
from pathlib import Path

from models.methods import FIXED_VOCABULARY, METHODS, ON_REGIONS, ON_SENTENCES, ON_VIDEOS, VARIANTS
from stages.core.params import PARAMS, Section, nearest, read, validate

INPUTS = ("rgb", "flow", "rgb+flow")
FULL = "full"
HELD_OUT = "without_"
"""Variant ``without_<actor>``: trained without the actions of that actor, so that it can be tested on them. Behind
another variant of the method and a hyphen (``joint_space-without_cat``), it is that one."""
OTHER_FLOW = "_flow"
"""Variant ``<backend>_flow``: reads a recipe of that backend, in place of the one that `full` runs read."""


class Entry(Section):
    """One entry of section ``runs`` of params.yaml."""

    method: str
    reads: str
    regions: str  # a folder of region masks, for methods that take them; scores of videos, for a fixed vocabulary


@dataclass(frozen=True)
class Run:
    """``<method>-<inputs>-<variant>-<seed>``, and the folders that it reads beside frames (None where it doesn't)."""

    name: str
    method: str
    inputs: str
    variant: str
    seed: int
    flow: Path | None = None
    features: Path | None = None  # of its front-end
    regions: Path | None = None
    video_scores: Path | None = None  # data/evaluate/<a run on videos>, of a fixed vocabulary

    @property
    def folders(self) -> dict[str, Path | None]:
        """What ``stages.core.datasets.dataset.load`` reads for this run beside the index and the frames."""
        return {"flow": self.flow, "features": self.features, "regions": self.regions}

    @property
    def held_out(self) -> str | None:
        """The actor whose actions the run may not learn (zero-shot), or None."""
        return split_variant(self.method, self.variant)[1]


def split_variant(method: str, variant: str) -> tuple[str, str | None]:
    """What a run's ``variant`` says: the variant of ``method`` (`full`: the plain one), and the actor held out or None.

    Of ``without_<x>`` x is an actor, unless that is a variant of the method itself: one without a part of it.
    """
    if variant in VARIANTS.get(method, ()):
        return variant, None
    own, held_out, actor = f"-{variant}".rpartition(f"-{HELD_OUT}")
    return (own.removeprefix("-") or FULL, actor) if held_out else (variant, None)


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
    plain = Run(name=name, method=method, inputs=inputs, variant=variant, seed=seed)
    if method in ON_REGIONS:
        run = replace(plain, features=Path(entry.reads), regions=Path(entry.regions))
        _check_regions(run)
    else:
        run = replace(plain, flow=Path(entry.reads) if "flow" in inputs.split("+") else None)
        if variant == FIXED_VOCABULARY:
            run = replace(run, video_scores=Path(entry.regions))
            _check_vocabulary(run)
    if run.flow is not None and run.flow.parts[:2] != ("data", "optical_flow"):
        raise ValueError(f"runs: `{name}` takes flow, but reads `{entry.reads}`; make it data/optical_flow/<recipe>")
    _check_variant(run)
    return run


def _check_regions(run: Run) -> None:
    assert run.features is not None and run.regions is not None
    front = run.features.name.split("-")
    if run.features.parts[:2] != ("data", "features") or front[1:2] != [run.inputs]:
        raise ValueError(
            f"runs: `{run.name}` reads `{run.features}`; let it read data/features/<front-end>, a run with its inputs"
        )
    if run.regions.parts[:2] != ("data", "regions"):
        raise ValueError(
            f"runs: `{run.name}` has `{run.regions}` for regions; write data/regions/<source>, one of regions.sources"
        )
    if run.held_out is not None:
        raise ValueError(f"runs: `{run.name}`: its front-end would have seen those actions; hold them out in deeplab")


def _check_vocabulary(run: Run) -> None:
    assert run.video_scores is not None
    if run.video_scores.parts[:2] != ("data", "evaluate") or run.video_scores.name.split("-")[0] not in ON_VIDEOS:
        raise ValueError(
            f"runs: `{run.name}` has `{run.video_scores}` for regions; write data/evaluate/<run> of "
            f"{' or '.join(ON_VIDEOS)}, whose scores choose what is asked"
        )


def _check_variant(run: Run) -> None:
    own = VARIANTS.get(run.method, ())
    if run.held_out is not None and run.method in (*ON_SENTENCES, *ON_VIDEOS):
        raise ValueError(f"runs: `{run.name}`: {run.method} learns no action of an actor, so none can be held out")
    if split_variant(run.method, run.variant)[0] in (FULL, *own):
        return
    if not run.variant.endswith(OTHER_FLOW):
        known = ", ".join((FULL, *own, f"{HELD_OUT}<actor>", f"<variant>-{HELD_OUT}<actor>", f"<backend>{OTHER_FLOW}"))
        raise ValueError(f"runs: `{run.name}`: no variant `{run.variant}`; there are {known}")
    backend = run.variant.removesuffix(OTHER_FLOW)
    if run.flow is None or not run.flow.name.startswith(f"{backend}-"):
        raise ValueError(
            f"runs: `{run.name}` has the flow of `{backend}` by its name; let it take flow and read "
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
