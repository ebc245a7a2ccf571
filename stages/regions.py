"""Stage `regions`: region masks of each clip from one source, packed and cached clip by clip, and how good they are.

Reads data/index, data/frames and, but for the source `truth` (the masks of the ground truth),
data/train_regions/<segmenter>. Writes data/regions/<source>: clips/<video>.arrow (``stages.core.packs.regions``),
manifest, quarantine and metrics.json (mask AP and recall on the annotated test frames).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stages.core import cli, items
from stages.core.datasets import dataset, instances
from stages.core.inference import region_masks
from stages.core.packs import masks
from stages.core.params import Section, load, nearest
from stages.core.scores import regions as scores
from stages.core.scores import resampling
from stages.core.training import weights

TRUTH = "truth"
SPLITS = ("train", "test")


class Source(Section):
    """One entry of ``regions.sources``: what it reads beside frames (data/frames once more, for `truth`)."""

    reads: Path


class Parameters(Section):
    """Section ``regions`` of params.yaml."""

    sources: dict[str, Source]
    frames: Literal["annotated", "all"]  # of a clip; `truth` is of annotated frames in any case
    score_threshold: float  # what scores more is a region
    most: int  # of a frame


def run(
    parameters: Parameters, *, source: str, data: Path = Path("data"), output: Path = Path("data/regions")
) -> items.Outcome:
    """Find the regions of every decoded clip and measure them.

    Raises ``ValueError`` for a source that params.yaml doesn't list or that was not trained.
    """
    if source not in parameters.sources:
        raise ValueError(f"regions.sources has no `{source}`{nearest(source, list(parameters.sources))}")
    work = _true(data) if source == TRUTH else _found(parameters, parameters.sources[source].reads, data)
    outcome = items.run(
        f"regions-{source}",
        region_masks.pack_true if source == TRUTH else region_masks.pack_found,
        list(work),
        parameters={} if source == TRUTH else parameters.model_dump(include={"score_threshold", "most"}),
        libraries=["numpy", "onedl-mmcv", "opencv-python-headless", "pyarrow", "pycocotools", "torch"],
        output=output / source,
        gpu=source != TRUTH,
    )
    measured = _measured(output / source, data)
    (output / source / "metrics.json").write_text(json.dumps(resampling.rounded(measured), indent=2) + "\n")
    found = f"mask AP {measured['ap']:.1f}, {measured['covered']:.1f} % of actors covered" if "ap" in measured else ""
    print(f"regions-{source}: {found or 'no actor in an annotated test frame: nothing is measured'}")
    return outcome


def _found(parameters: Parameters, segmenter: Path, data: Path) -> Iterator[items.Item]:
    """A clip's item for the trained ``segmenter``, a folder."""
    digest = weights.digest(segmenter, stage="train_regions")
    clips = items.read_manifest(data / "frames")
    wanted: dict[str, list[int] | None] = dict.fromkeys(clips)
    if parameters.frames == "annotated":
        wanted = {}
        for samples in _annotated(data):
            wanted |= {video: (wanted.get(video) or []) + samples.annotated(video) for video in samples.videos}
    for video, frames in wanted.items():
        argument = {
            "video": video,
            "path": str((data / "frames" / "clips" / f"{video}.arrow").absolute()),
            "frames": frames,
            "segmenter": str(segmenter.absolute()),
            "digest": digest,
        }
        inputs = {"clip": clips[video], "segmenter": digest, "frames": str(frames)}
        yield items.Item(name=video, inputs=inputs, argument=argument)


def _true(data: Path) -> Iterator[items.Item]:
    """A clip's item for the masks of the ground truth."""
    found: dict[str, dict[str, Any]] = {}
    for samples in _annotated(data):
        truth = instances.read(samples)
        for frame in samples.frames:
            clip = found.setdefault(frame.video, {"video": frame.video, "instances": {}})
            clip["shape"], clip["classes"] = masks.shape(frame.labels), len(samples.label_space.actors)
            clip["instances"][frame.frame] = [
                (seen.actor, seen.rle["counts"]) for seen in truth[frame.video, frame.frame]
            ]
    for video, argument in found.items():
        yield items.Item(name=video, inputs={"truth": items.digest(argument)}, argument=argument)


def _annotated(data: Path) -> list[dataset.Dataset]:
    return [dataset.load(data / "index", data / "frames", split=split) for split in SPLITS]


def _measured(folder: Path, data: Path) -> dict[str, Any]:
    """Scores on the annotated test frames, only the coverage where there is none."""
    samples = dataset.load(data / "index", data / "frames", split="test", regions=folder)
    return scores.run(samples, folder / "clips")


def main(source: Annotated[str, typer.Option(help="one of regions.sources, for example fcis-own")]) -> None:
    """Find region masks by one source of params.yaml."""
    run(load("regions", Parameters), source=source)


if __name__ == "__main__":
    cli.run(main)
