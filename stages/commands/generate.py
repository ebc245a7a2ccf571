"""Makes the sample data set: generated clips of actors in action, in the layout of the A2D release.

    python -m stages.commands.generate sample --to=DIR                  write the sample as a release
    python -m stages.commands.generate archive --to=data/sample.tar.xz  pack it into the one file that is kept
    python -m stages.commands.generate clip --to=FILE.mp4               look at one clip
    python -m stages.commands.generate leak                             does a single frame give the action away?

It is no stage of dvc.yaml: the archive is an input of the pipeline.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from stages.core.datasets.labels import A2D
from stages.core.generator import make_clip, sample_plans, write_archive, write_release
from stages.core.generator.a2d import write_video
from stages.core.generator.leak import collect, confusion_text, measure
from stages.core.workers import cores

APPEARANCE_LIMIT, MOTION_LIMIT = 0.60, 0.85
"""One frame must tell fewer actions than the first, its flow more than the second."""
CORES = cores()

app = typer.Typer(add_completion=False, help=__doc__, rich_markup_mode=None, pretty_exceptions_enable=False)

Seed = Annotated[int, typer.Option(help="seed; another one gives another sample")]
Processes = Annotated[int, typer.Option(help="processes; the bytes do not depend on it", min=1)]


@app.command()
def sample(
    to: Annotated[Path, typer.Option(help="folder of the release")],
    seed: Seed = 0,
    processes: Processes = CORES,
    train: Annotated[int, typer.Option(help="clips for training")] = 210,
    test: Annotated[int, typer.Option(help="clips for testing")] = 74,
    height: Annotated[int, typer.Option(help="height of the frames in pixels")] = 128,
    all_flow: Annotated[bool, typer.Option(help="keep the exact flow of all frames, not of annotated ones")] = False,
) -> None:
    """Write the sample data set as a release."""
    if (to / "Release").exists():
        raise ValueError(f"{to} holds a release already; name an empty folder or remove it")
    plans = sample_plans(seed=seed, train=train, test=test, height=height)
    write_release(to, plans, processes=processes, flow_of_all_frames=all_flow)
    typer.echo(f"{len(plans)} clips, {sum(plan.annotated for plan in plans)} annotated frames in {to}")


@app.command()
def archive(
    to: Annotated[Path, typer.Option(help="the .tar.xz to write")],
    release: Annotated[Path | None, typer.Option(help="folder of the release; else the sample is made")] = None,
    processes: Processes = CORES,
) -> None:
    """Pack a release into one archive; the same release gives the same bytes."""
    if release is not None:
        write_archive(release, to)
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_release(Path(folder), sample_plans(), processes=processes)
            write_archive(Path(folder), to)
    typer.echo(f"{to}: {to.stat().st_size / 1e6:.2f} MB")


@app.command()
def clip(
    to: Annotated[Path, typer.Option(help="the .mp4 to write")],
    seed: Annotated[int, typer.Option(help="seed of the clip")] = 0,
    pool: Annotated[str, typer.Option(help="pool of looks and backgrounds")] = "train",
    label: Annotated[list[int] | None, typer.Option(help="actor * 10 + action; repeat it for more actors")] = None,
    height: Annotated[int, typer.Option(help="height of the frames in pixels")] = 320,
) -> None:
    """Make one clip to look at, and say what it shows."""
    made = make_clip(seed, pool, height=height, labels=label)
    write_video(to, made.frames, crf=17)
    for number, (shown, sentence) in enumerate(zip(made.instances, made.sentences, strict=True)):
        typer.echo(f"{number}: {A2D.name(shown)}: {sentence or 'nothing singles it out'}")


@app.command()
def leak(
    seed: Seed = 0,
    extra: Annotated[int, typer.Option(help="further clips of pool train to fit on", min=0)] = 400,
    processes: Processes = CORES,
) -> None:
    """Classify the action from one frame and from its flow, on the whole sample; fail where one frame says too much."""
    plans = sample_plans(seed=seed)
    further = sample_plans(seed=seed + 1, train=extra, test=0, check=False)
    fitted = collect([plan for plan in plans if plan.split == "train"] + further, processes=processes)
    tested = collect([plan for plan in plans if plan.split == "test"], processes=processes)
    report = measure(fitted, tested, processes=processes)
    typer.echo(f"fitted on {len(fitted.labels)} figures of pool train, tested on {report.figures} of pool test")
    typer.echo(f"one frame tells {100 * report.appearance:.1f} % of the actions (limit {100 * APPEARANCE_LIMIT:.0f} %)")
    typer.echo(confusion_text(report.appearance_confusion))
    typer.echo(f"its flow tells {100 * report.motion:.1f} % (at least {100 * MOTION_LIMIT:.0f} %)")
    typer.echo(confusion_text(report.motion_confusion))
    typer.echo(f"always naming the actor's most frequent action: {100 * report.chance:.1f} %")
    if report.appearance >= APPEARANCE_LIMIT or report.motion <= MOTION_LIMIT:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; a mistake of the user's is one line, not a traceback."""
    try:
        app()
    except ValueError as error:
        raise SystemExit(f"generate: {error}") from error


if __name__ == "__main__":
    main()
