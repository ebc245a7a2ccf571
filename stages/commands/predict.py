"""``python -m stages.commands.predict --clip=PATH --method=M``: a trained run labels anybody's own clip.

No stage of dvc.yaml. Reads a video file or a folder of pictures, params.yaml and what trainings left in data/. Writes
data/predict/<clip>-<run>-<digest of the clip's path and the sentence>: overlay.mp4; masks/<clip>/<frame:05d>.png,
frames from 1, as `stages.commands.score segmentation` reads them; labels.csv (frame, label, pixels). Masks hold the ids
that the run learned: pairs; actors, where one can do several things at once (VidOR); or 1 for the actor that --sentence
means.
"""

import os
import tempfile
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import av
import numpy as np
import pandas as pd
import typer

from models.methods import FIXED_VOCABULARY, METHODS, ON_SENTENCES, ON_VIDEOS
from stages import frames, optical_flow, regions
from stages.core import cli, items, runs
from stages.core.batches.region_batches import TRUE_MASKS
from stages.core.datasets import files
from stages.core.inference import answers, long_clips
from stages.core.inference import predictor as predictors
from stages.core.items import BadItem
from stages.core.packs import frames as packed_frames
from stages.core.packs import masks
from stages.core.params import load, nearest
from stages.core.reporting import overlays
from stages.core.scores import segmentation
from stages.core.training import weights

PREFERRED = ("rgb+flow", "rgb")
"""Inputs of the plain run that stands for its method, the better first."""
WRITTEN = {"overlay.mp4", "masks", "labels.csv"}
PICTURES_PER_SECOND = Fraction(24)
"""Of the overlay of a folder of pictures, and of a video that does not say."""


def choose(*, method: str, name: str, data: Path = Path("data")) -> runs.Run:
    """The run called ``name``, or the plain one of ``method``: a trained one before others, with flow before without,
    the lowest seed. Raises ``ValueError`` for a name that does not exist, for both or neither, and for what can't
    label a clip by itself.
    """
    if bool(method) == bool(name):
        raise ValueError("name a method (--method=ssa2d) or a run of params.yaml (--run=ssa2d-rgb-full-0)")
    if name:
        named = runs.named(name)
        _check_says_where(named.method, option=f"--run={name}")
        if named.variant == FIXED_VOCABULARY:
            plain_name = f"{named.method}-{named.inputs}-{runs.FULL}-{named.seed}"
            raise ValueError(
                f"--run={name}: it knows names of pairs, and a run on videos chooses which it is asked; name the plain "
                f"run, --run={plain_name}, and a --sentence"
            )
        return named
    if method not in METHODS:
        raise ValueError(f"--method: no method `{method}`{nearest(method, list(METHODS))}")
    _check_says_where(method, option=f"--method={method}")
    listed = runs.all_runs().values()
    plain = [run for run in listed if (run.method, run.variant) == (method, runs.FULL) and run.inputs in PREFERRED]
    if not plain:
        raise ValueError(f"params.yaml lists no plain run of {method}: add {method}-rgb-full-0 to its section `runs`")

    def order(run: runs.Run) -> tuple[bool, int, int]:
        return not (data / "train" / run.name / "model.pt").exists(), PREFERRED.index(run.inputs), run.seed

    return min(plain, key=order)


def _check_says_where(method: str, *, option: str) -> None:
    if method in ON_VIDEOS:
        raise ValueError(f"{option}: it says what a video shows, not where; name another")


def run(
    run_: runs.Run,
    clip: Path,
    *,
    every: int = 1,
    sentence: str = "",
    data: Path = Path("data"),
    output: Path | None = None,
) -> Path:
    """Label every ``every``-th frame of ``clip`` by ``run_``; gives the folder that was written.

    ``sentence`` is for methods that answer one. Raises ``ValueError`` for a clip that can't be decoded, for what is not
    trained, and for a sentence that is missing or that the method does not take.
    """
    name = Path(os.path.abspath(clip)).name if clip.is_dir() else clip.stem
    output = output or data / "predict" / f"{name}-{run_.name}-{_digest(clip, sentence)}"
    if output.exists() and not (output.is_dir() and {path.name for path in output.iterdir()} in (set(), WRITTEN)):
        raise ValueError(f"--output={output} holds something else; name a new folder")
    network = _trained(run_, data)
    predictor = predictors.load_predictor(Path(network["run"]), network["weights"])
    asked = _words(run_, Path(network["run"]), sentence)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".predict-", dir=output.parent) as place:
        folder = Path(place).absolute()
        written = folder / "written"
        job = long_clips.Job(
            clip=folder / "clip.arrow",
            masks=written / "masks" / name,
            network=network,
            settings=load("evaluate", segmentation.Parameters).model_dump(),
            flow=_flow(run_, data),
            regions=_regions(run_, data),
            words=asked,
        )
        job.masks.mkdir(parents=True)
        try:
            rate = _pack(clip, job.clip)
            packed = packed_frames.Clip(job.clip)
            labelled = long_clips.label(job, long_clips.cut(len(packed), every=every, window=predictor.config.window))
        except (BadItem, FloatingPointError) as error:
            raise ValueError(f"--clip={clip}: {error}") from error
        legend = overlays.of_labels(predictor.labels) if asked is None else overlays.of_sentence(sentence)
        _write(written, job, labelled, legend, rate=rate / every)
        if output.exists():
            os.replace(output, folder / "before")
        os.replace(written, output)
    what = "actors, who may do several things each," if predictor.labels.multi_label and asked is None else "labels"
    print(f"{run_.name}: {what} in {len(labelled)} of {len(packed)} frames of {clip}: {output}")
    return output


def _digest(clip: Path, sentence: str) -> str:
    """Tells clips of one name, and sentences about one clip, apart."""
    return items.digest([os.path.abspath(clip), sentence])[:6]


def _trained(run_: runs.Run, data: Path) -> long_clips.Trained:
    folder = data / "train" / run_.name
    return {"run": str(folder.absolute()), "weights": weights.digest(folder, stage="train")}


def _front(run_: runs.Run) -> runs.Run:
    """The run that sees frames and flow: the front-end of one that labels regions, else itself."""
    return runs.named(run_.features.name) if run_.features else run_


def _flow(run_: runs.Run, data: Path) -> long_clips.Flow | None:
    recipe = _front(run_).flow
    if recipe is None:
        return None
    parameters = load("optical_flow", optical_flow.Parameters)
    return long_clips.Flow(
        recipe=recipe.name,
        networks=(data / "train_flow").absolute(),
        preset=parameters.dis.preset,
        settings=parameters.model_dump(include={"height", "quantum"}),
    )


def _regions(run_: runs.Run, data: Path) -> long_clips.Regions | None:
    if run_.regions is None:
        return None
    source = run_.regions.name
    if source == regions.TRUTH or run_.variant == TRUE_MASKS:
        raise ValueError(f"{run_.name} labels true masks, which only annotated clips have; name another run")
    parameters = load("regions", regions.Parameters)
    if source not in parameters.sources:
        raise ValueError(f"regions.sources has no `{source}`{nearest(source, list(parameters.sources))}")
    segmenter = parameters.sources[source].reads
    return long_clips.Regions(
        front=_trained(_front(run_), data),
        segmenter={
            "segmenter": str(segmenter.absolute()),
            "digest": weights.digest(segmenter, stage="train_regions"),
        },
        settings=parameters.model_dump(include={"score_threshold", "most"}),
    )


def _words(run_: runs.Run, folder: Path, sentence: str) -> np.ndarray | None:
    """(L, 300) float32 of the sentence that the run needs, None where it takes none."""
    if run_.method not in ON_SENTENCES:
        if sentence:
            raise ValueError(f"--sentence: {run_.method} takes none: it labels every actor; leave --sentence out")
        return None
    if not sentence.strip():
        raise ValueError(f'{run_.method} answers a sentence: add --sentence="dog running on the left"')
    found, unknown = answers.vectors_of(folder, sentences=[sentence]).of(sentence)
    if not len(found):
        raise ValueError(f"--sentence: none of its words is known ({', '.join(unknown)}); say it in other words")
    if unknown:
        print(f"words that are not known, and do not count: {', '.join(unknown)}")
    return found


def _pack(clip: Path, target: Path) -> Fraction:
    """Decode ``clip`` as stage `frames` does; gives its frames a second. Raises ``BadItem`` where it can't be."""
    if clip.is_dir():
        try:
            files.frame_pictures(clip)
        except ValueError as error:
            raise BadItem(str(error)) from error
    settings = load("frames", frames.Parameters).model_dump()
    packed_frames.pack_clip({"path": str(clip.absolute()), "frames": None}, settings, target)
    return PICTURES_PER_SECOND if clip.is_dir() else _frame_rate(clip.absolute())


def _frame_rate(clip: Path) -> Fraction:
    with av.open(str(clip)) as container:
        return container.streams.video[0].average_rate or PICTURES_PER_SECOND


def _write(
    folder: Path,
    job: long_clips.Job,
    labelled: dict[int, long_clips.Pixels],
    legend: overlays.Legend,
    *,
    rate: Fraction,
) -> None:
    """labels.csv and overlay.mp4, whose legend has the labels in the same order in every frame."""
    rows = [
        (frame + 1, legend.names[label], pixels)
        for frame, found in labelled.items()
        for label, pixels in found.items()
    ]  # fmt: skip
    pd.DataFrame(rows, columns=["frame", "label", "pixels"]).to_csv(folder / "labels.csv", index=False)
    seen: Counter[int] = Counter()
    for found in labelled.values():
        seen.update(found)
    ranked = [label for label, _ in seen.most_common()]
    clip = packed_frames.Clip(job.clip)
    pictures = (
        overlays.draw(clip.frame(frame), masks.decode(job.mask(frame).read_bytes()), legend, ranked=ranked)
        for frame in labelled
    )
    overlays.write(folder / "overlay.mp4", pictures, shape=(clip.height, clip.width), rate=rate)


def main(
    clip: Annotated[Path, typer.Option(help="--clip=PATH of a video file, or of a folder of pictures")],
    method: Annotated[str, typer.Option(help=f"its plain run: {', '.join(METHODS)}")] = "",
    run_name: Annotated[str, typer.Option("--run", help="a run of params.yaml, for example ssa2d-rgb-full-0")] = "",
    sentence: Annotated[str, typer.Option(help="which actor; for methods that answer a sentence")] = "",
    every: Annotated[int, typer.Option(help="label every so many frames", min=1)] = 1,
    output: Annotated[Path | None, typer.Option(help="by default data/predict/<clip>-<run>-<digest>")] = None,
) -> None:
    """Label somebody's own clip: an overlay video, label maps and a table."""
    chosen = choose(method=method, name=run_name)
    print(f"by the run {chosen.name}")
    run(chosen, clip, every=every, sentence=sentence, output=output)


if __name__ == "__main__":
    cli.run(main)
