"""A packed clip of any length, labelled by a trained run: in pieces, side by side, one of them in memory of a process.

A piece goes through the functions by which the stages optical_flow, features, regions and evaluate make their items, so
that its frames get the label maps that they would get in a test clip.

Axes: H, W frame; L words.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from models.base import Window
from stages.core import cli, workers
from stages.core.inference import answers, features, label_maps, region_masks
from stages.core.inference import predictor as predictors
from stages.core.optical_flow import backends, classical, networks
from stages.core.packs import masks
from stages.core.schemas import Pack, write_pack
from stages.core.training import weights as training_weights

STRIDES = 16
"""Length of a piece, in strides of the method's windows."""
KINDS = ("clip", "flow", "features", "regions", "predictions")
"""Folders of a piece, with a pack each."""
VIDEO = "piece"
"""Name of every piece in its own folder."""

Trained = Mapping[str, str]
"""Folder and digest of a trained network, named as ``stages.core.inference.predictor`` or ``region_masks`` asks."""
Pixels = dict[int, int]
"""Id in a label map -> pixels of it."""


@dataclass(frozen=True)
class Piece:
    """Part of a clip. Windows and flow look at all frames of ``span``; those ``wanted`` are labelled."""

    span: range
    wanted: range


@dataclass(frozen=True)
class Flow:
    """How the flow that a run sees is estimated: its recipe and what params.yaml says of it."""

    recipe: str
    networks: Path  # data/train_flow
    preset: str  # of DIS
    settings: Mapping[str, Any]  # height and quantum


@dataclass(frozen=True)
class Regions:
    """Where the regions of a run come from, and their features."""

    front: Trained
    segmenter: Trained
    settings: Mapping[str, Any]  # score_threshold and most


@dataclass(frozen=True)
class Job:
    """A packed clip, the folder that its label maps go to, and all that makes them."""

    clip: Path
    masks: Path
    network: Trained
    settings: Mapping[str, Any]  # section `evaluate`
    flow: Flow | None
    regions: Regions | None
    words: np.ndarray | None  # (L, 300) float32, of the sentence that is asked about

    def mask(self, frame: int) -> Path:
        """The label map of 0-based ``frame``, named as A2D's annotations are."""
        return self.masks / f"{frame + 1:05d}.png"


def cut(length: int, *, every: int, window: Window) -> list[Piece]:
    """A clip of ``length`` frames as pieces, so that every ``every``-th frame is labelled as in the whole clip."""
    stride = max(1, window.length // 2)  # of `windows.tile`: where a piece starts, a window of the whole clip does
    around = -(-window.length // stride) * stride  # a window sees one frame less, and its flow one more
    found = []
    for start in range(0, length, STRIDES * stride):
        end = min(start + STRIDES * stride, length)
        wanted = range(start + -start % every, end, every)
        if wanted:
            found.append(Piece(range(max(0, start - around), min(end + around, length)), wanted))
    return found


def label(job: Job, pieces: Sequence[Piece]) -> dict[int, Pixels]:
    """Write the label map of every wanted frame; gives what is in each, by 0-based frame, in order."""
    found: dict[int, Pixels] = {}
    with cli.progress() as progress:
        bar = progress.add_task("predict", total=len(pieces))
        for _, counts in workers.compute(partial(_label, job), pieces, workers=workers.configured(), gpu=True):
            found |= counts
            progress.advance(bar)
    return dict(sorted(found.items()))


MASK_PACK = pa.schema([("frame", pa.int32()), ("mask", pa.binary())])
"""Of a sentence: a PNG of uint8 a frame, 1 on the actor that is meant."""


@predictors.locating
def answer_piece(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """Masks of the actor that a sentence of ``argument["words"]`` (L, 300) means, packed at ``target``."""
    predictor = predictors.load_predictor(Path(argument["run"]), argument["weights"])
    rows = []
    for frame, window in predictors.read_windows(argument, predictor.config):
        response = answers.respond(predictor, window, [argument["words"]], parameters["precision"])[0]  # (H, W)
        rows.append({"frame": frame, "mask": masks.encode((response > 0).byte().numpy())})
    write_pack(target, {name: [row[name] for row in rows] for name in MASK_PACK.names}, MASK_PACK)


def _label(job: Job, piece: Piece) -> dict[int, Pixels]:
    torch.set_num_threads(1)  # pieces are the parallelism, and the number of threads decides the last bits
    found = {}
    # A folder of its own: packs stay open by their path.
    with tempfile.TemporaryDirectory(dir=job.clip.parent) as folder:
        for position, encoded in _maps(job, piece, Path(folder)):
            frame = piece.span[position]
            job.mask(frame).write_bytes(encoded)
            ids, pixels = np.unique(masks.decode(encoded), return_counts=True)
            found[frame] = dict(zip(ids.tolist(), pixels.tolist(), strict=True))
    return found


def _maps(job: Job, piece: Piece, folder: Path) -> Iterator[tuple[int, bytes]]:
    """Position in the piece and label map, a PNG of uint8 (H, W), of each wanted frame."""
    packs = {kind: folder / kind / f"{VIDEO}.arrow" for kind in KINDS}
    for path in packs.values():
        path.parent.mkdir()
    wanted = [frame - piece.span.start for frame in piece.wanted]

    def reading(*kinds: str, network: Trained) -> dict[str, Any]:
        folders = {"index": str(folder), **{kind: str(folder / kind) for kind in kinds}}
        return {"video": VIDEO, "frames": wanted, "true": False, "folders": folders, **network}

    _cut_pack(job.clip, piece.span, packs["clip"])
    seen = ["clip"]
    if job.flow is not None:
        _estimate(job.flow, packs["clip"], packs["flow"])
        seen = ["clip", "flow"]
    if job.regions is not None:
        features.pack_features(reading(*seen, network=job.regions.front), {}, packs["features"])
        given = {"video": VIDEO, "path": str(packs["clip"]), "frames": wanted, **job.regions.segmenter}
        region_masks.pack_found(given, job.regions.settings, packs["regions"])
        seen = ["clip", "features", "regions"]
    argument = reading(*seen, network=job.network)
    if job.words is not None:
        answer_piece({**argument, "words": job.words}, job.settings, packs["predictions"])
        column = "mask"
    else:
        label_maps.predict_clip(argument, job.settings, packs["predictions"])
        predictor = predictors.load_predictor(Path(job.network["run"]), job.network["weights"])
        column = "actor" if predictor.labels.multi_label else "joint"
    predicted = Pack(packs["predictions"])
    for row in range(len(predicted)):
        yield predicted.column(row, "frame")[0].as_py(), predicted.column(row, column)[0].as_py()


def _cut_pack(clip: Path, span: range, target: Path) -> None:
    with pa.ipc.open_file(pa.memory_map(str(clip))) as reader, pa.ipc.new_file(str(target), reader.schema) as writer:
        for frame in span:
            writer.write_batch(reader.get_batch(frame))


def _estimate(flow: Flow, clip: Path, target: Path) -> None:
    backend, direction = backends.parse_recipe(flow.recipe)
    settings = {"backend": backend, "preset": flow.preset, "direction": direction, **flow.settings}
    if backend not in networks.NAMES:
        classical.pack_flow({"path": str(clip)}, settings, target)
        return
    weights = flow.networks / backend
    learned = {"weights": str(weights), "digest": training_weights.digest(weights, stage="train_flow")}
    networks.pack_flow({"path": str(clip), **learned}, settings, target)
