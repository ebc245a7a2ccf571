"""Trainings side by side, one a core: with one thread each over with as many threads each as there are cores.

Whole commands, `joint` at `small` size with RGB + flow, the longest training of params.yaml: `train.common.threads` is
set by it. Small convolutions have little for a second thread, and RoIAlign nothing; threads of one training wait for
each other whenever the other training has the core.
"""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import workspace
from benchmarks.ratio import Ratio, seconds
from benchmarks.workspace import Workspace
from stages.core import cli, workers

RUN = "joint-rgb+flow-full-{seed}"


def measure(folder: Path, *, clips: int = 8, height: int = 128, steps: int = 100) -> Ratio:
    """Seconds of trainings of ``steps`` steps, as many as cores; ``clips`` generated clips of ``height`` pixels."""
    cores = workers.cores()
    names = [RUN.format(seed=seed) for seed in range(cores)]
    workspace.make_release(folder / "release", train=clips - 1, test=1, height=height, processes=cores)
    project = workspace.make(folder / "project", folder / "release", runs=names[:1])
    entry = {"method": "joint", "reads": "data/optical_flow/dis-forward", "regions": "data/frames"}
    project.set({f"runs.{name}": entry for name in names[1:]})
    project.set({"train.common.pretrained": False, "train.joint.steps": steps, "train.joint.batch": None})
    project.dvc("repro", "optical_flow")
    alone, many = (seconds(lambda threads=threads: _train(project, names, threads)) for threads in (1, cores))
    return Ratio(
        name="threads",
        claim="trainings side by side, one thread each over a thread a core each",
        seconds=alone,
        against=many,
        of=f"{cores} of joint, RGB + flow, `small`, {steps} steps, {cores} cores",
    )


def _train(project: Workspace, names: list[str], threads: int) -> None:
    """``names`` at the same time, as flows.reproduce starts them."""
    project.set({"train.common.threads": threads})

    def train(name: str) -> None:
        project.run("-m", "stages.train", f"--run={name}", variables={"OMP_WAIT_POLICY": "passive"})

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(train, names))


def main(
    clips: Annotated[int, typer.Option(help="generated clips", min=2)] = 8,
    height: Annotated[int, typer.Option(help="of the clips, in pixels")] = 128,
    steps: Annotated[int, typer.Option(help="of each training", min=1)] = 100,
) -> None:
    """Trainings with one thread each against with a thread a core."""
    with tempfile.TemporaryDirectory() as folder:
        print(measure(Path(folder), clips=clips, height=height, steps=steps))


if __name__ == "__main__":
    cli.run(main)
