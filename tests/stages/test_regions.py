"""Stage `regions`: masks found by a segmenter, or the truth's, packed frame by frame and measured."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from models.parts.region_types import Regions
from stages import regions as regions_stage
from stages import train_regions
from stages.core import schemas
from stages.core.batches.framing import FRAMINGS, Framing
from stages.core.datasets.labels import A2D
from stages.core.inference import region_masks
from stages.core.inference.segmenters import Segmenter
from stages.core.packs.regions import ClipRegions, FrameRegions, box_of, pasted, true_regions, write_regions
from tests.help import make

VIDEOS = {square.video for square in make.RELEASE}


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """Three clips of a square each, up to their frames, in a workspace."""
    make.write_release(tmp_path / "data/raw")
    with make.workspace(tmp_path):
        yield make.run_to_frames(tmp_path)


class Fixed(torch.nn.Module):
    """A segmenter that finds the same in every frame, in the pixels of what it is shown."""

    config = SimpleNamespace(mask_threshold=0.5)

    def __init__(self, regions: Regions) -> None:
        super().__init__()
        self.regions = regions
        self.shown: list[tuple[int, ...]] = []

    def predict(self, frames: torch.Tensor) -> list[Regions]:
        self.shown.append(tuple(frames.shape))
        return [self.regions] * len(frames)


def regions_of(*boxes: tuple[float, float, float, float], soft: float = 1.0) -> Regions:
    """Adults of falling scores .9, .8, ..."""
    count = len(boxes)
    scores = 0.9 - torch.arange(count) * 0.1
    class_scores = torch.zeros(count, 8)
    class_scores[:, 1] = scores
    return Regions(torch.tensor(boxes).view(-1, 4), scores, class_scores, torch.full((count, 28, 28), soft))


@pytest.fixture
def fixed(data: Path, monkeypatch: pytest.MonkeyPatch) -> Fixed:
    """Stands where a trained segmenter would be loaded."""
    folder = data / "train_regions/fcis-own"
    folder.mkdir(parents=True)
    for name in ("model.pt", "run.json"):
        (folder / name).write_text("of the fixed one")
    network = Fixed(regions_of((4, 6, 20, 22), (0, 0, 10, 10)))
    framing = Framing(height=24, crop=None, still=(48, 64))
    segmenter = Segmenter(network, framing, torch.device("cpu"), A2D.actors)
    monkeypatch.setattr(region_masks, "load", lambda folder, digest: segmenter)
    return network


def run(data: Path, source: str, **changed: object) -> regions_stage.items.Outcome:
    settings = {
        "sources": {"truth": {"reads": "data/frames"}, source: {"reads": str(data / "train_regions" / source)}},
        "frames": "annotated", "score_threshold": 0.05, "most": 100,
    }  # fmt: skip
    parameters = regions_stage.Parameters.model_validate(settings | changed)
    return regions_stage.run(parameters, source=source, data=data, output=data / "regions")


def clip_of(data: Path, source: str, video: str) -> ClipRegions:
    return ClipRegions(data / "regions" / source / "clips" / f"{video}.arrow")


def test_the_truth_s_regions_are_its_masks(data: Path) -> None:
    outcome = run(data, "truth")
    assert set(outcome.computed) == VIDEOS and not outcome.quarantined
    for square in make.RELEASE:
        clip = clip_of(data, "truth", square.video)
        assert clip.frames == list(square.annotated)
        for frame in square.annotated:
            regions = clip.frame(frame)
            mask = square.mask(frame)
            assert regions.boxes.tolist() == [list(box_of(mask))] and regions.scores.tolist() == [1]
            assert regions.actor_scores[0].tolist() == np.eye(8)[square.label // 10].tolist()
            assert regions.soft_masks.min() == 1
            assert np.array_equal(coco.decode(clip.masks(frame))[..., 0], mask)
    metrics = json.loads((data / "regions/truth/metrics.json").read_text())
    assert metrics["ap"] == metrics["covered"] == metrics["by_actor"]["ball"]["ap"] == 100
    assert metrics["coverage"] == {"scored": 2, "of": 2, "clips": 1} and metrics["instances"] == 2


def test_regions_are_computed_once_and_again_for_another_segmenter(data: Path, fixed: Fixed) -> None:
    assert len(run(data, "fcis-own").computed) == 3
    assert len(run(data, "fcis-own").reused) == 3
    (data / "train_regions/fcis-own/model.pt").write_text("of another one")
    assert len(run(data, "fcis-own").computed) == 3


def test_boxes_are_in_pixels_of_the_stored_frame_whatever_the_network_was_shown(data: Path, fixed: Fixed) -> None:
    run(data, "fcis-own")
    assert set(fixed.shown) == {(2, 24, 32, 3)}  # half of 48 x 64
    clip = clip_of(data, "fcis-own", "third_in_it")
    regions = clip.frame(2)
    assert regions.boxes.tolist() == [[8, 12, 40, 44], [0, 0, 20, 20]]
    assert regions.scores.tolist() == pytest.approx([0.9, 0.8]) and regions.actor_scores.shape == (2, 8)
    assert [coco.area(mask) for mask in clip.masks(2)] == [32 * 32, 20 * 20]
    with pytest.raises(KeyError):
        clip.frame(3)


def test_the_best_regions_above_the_threshold_are_kept(data: Path, fixed: Fixed) -> None:
    run(data, "fcis-own", score_threshold=0.85)
    assert clip_of(data, "fcis-own", "third_in_it").frame(2).scores.tolist() == pytest.approx([0.9])
    run(data, "fcis-own", most=1)
    assert len(clip_of(data, "fcis-own", "third_in_it").frame(2).scores) == 1
    run(data, "fcis-own", score_threshold=0.95)
    nothing = clip_of(data, "fcis-own", "third_in_it")
    assert nothing.frame(2).actor_scores.shape == (0, 8) and nothing.masks(2) == []
    assert json.loads((data / "regions/fcis-own/metrics.json").read_text())["covered"] == 0


def test_every_frame_can_be_asked_for(data: Path, fixed: Fixed) -> None:
    run(data, "fcis-own", frames="all")
    assert clip_of(data, "fcis-own", "third_in_it").frames == list(range(12))
    assert max(shown[0] for shown in fixed.shown) <= region_masks.AT_ONCE


def test_regions_that_are_not_finite_are_an_error_that_names_segmenter_clip_and_frame(data: Path, fixed: Fixed) -> None:
    """Not a clip in quarantine: its bytes are not to blame, and the next network may read it."""
    fixed.regions = regions_of((0, 0, float("nan"), 10))
    with pytest.raises(RuntimeError, match=r"fcis-own, clip `.+`: regions of frame 3 that are not finite; no layer"):
        run(data, "fcis-own")


def test_a_source_that_nobody_listed_or_trained_is_an_error(data: Path) -> None:
    with pytest.raises(ValueError, match=r"regions.sources has no `fcis-own`; known: truth"):
        run(data, "fcis-own", sources={"truth": {"reads": "data/frames"}})
    with pytest.raises(ValueError, match=r"run `dvc repro train_regions@fcis-own`"):
        run(data, "fcis-own")


@pytest.mark.parametrize("name", ["fcis-own", "maskrcnn-other"])
def test_a_trained_segmenter_finds_regions_of_the_data_set_s_actors(
    data: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(FRAMINGS, "small", Framing(height=48, crop=(48, 64), still=(48, 64)))
    settings = {
        "config": "small", "segmenters": {name: {"steps": 2}}, "seed": 1, "pretrained": False, "stills": 2,
        "loaders": 0, "threads": 1, "checkpoint_seconds": 0,
    }  # fmt: skip
    training = train_regions.Parameters.model_validate(settings)
    train_regions.run(training, name=name, data=data, output=data / "train_regions")
    outcome = run(data, name, score_threshold=0.0)
    assert len(outcome.computed) == 3 and not outcome.quarantined
    clip = clip_of(data, name, "third_in_it")
    for frame in clip.frames:
        found = clip.frame(frame)
        assert len(found.scores) > 0 and found.actor_scores.shape == (len(found.scores), 8)
        assert (found.boxes >= 0).all() and (found.boxes[:, 2:] <= (make.WIDTH, make.HEIGHT)).all()
        if name.endswith("other"):
            assert not found.actor_scores[:, 2].any()  # nobody told it what a baby is
    assert json.loads((data / "regions" / name / "metrics.json").read_text())["coverage"]["scored"] == 2


# Packs


def test_soft_masks_are_the_shares_of_cells() -> None:
    """A box of 56 x 14: two columns a cell, half a row a cell."""
    mask = np.zeros((20, 60), bool)
    mask[3:17, 2:58] = True
    mask[3, 2] = False  # half of the columns of the first cell, all of the upper two cells' rows
    mask[16, 4:58] = False  # the last row but for the first cell
    soft = true_regions([mask]).soft_masks[0]
    assert soft[:2, 0].tolist() == [0.5, 0.5] and soft[2:, 0].min() == 1
    assert soft[26:, 1:].max() == 0 and soft[:26, 1:].min() == 1


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_shares_of_cells_hold_every_pixel_once(height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    mask[0, 0] = mask[-1, -1] = True
    regions = true_regions([np.zeros_like(mask), mask])
    assert regions.boxes.tolist() == [[0, 0, width, height]] and regions.actor_scores.shape == (1, 0)
    assert regions.soft_masks.mean() == pytest.approx(mask.mean(), abs=1e-5)


def test_no_mask_is_no_region() -> None:
    nothing = true_regions([])
    assert nothing.boxes.shape == (0, 4) and nothing.soft_masks.shape == (0, 28, 28) and nothing.scores.shape == (0,)


def test_a_pasted_mask_holds_the_pixels_above_the_threshold() -> None:
    """The left half of a box of 28 x 28 is certain, the right one .4."""
    soft = np.full((1, 28, 28), 0.4, np.float32)
    soft[:, :, :14] = 1
    box = np.array([[2, 1, 30, 29]], np.float32)
    mask = pasted(box, soft, shape=(32, 32), threshold=0.5)[0]
    assert np.flatnonzero(mask.any(0)).tolist() == list(range(2, 16)) and mask.sum() == 14 * 28
    assert pasted(box, soft, shape=(32, 32), threshold=0.3)[0].sum() == 28 * 28
    assert pasted(box, soft, shape=(8, 8), threshold=0.3)[0].sum() == 6 * 7  # what lies in the frame


def test_what_is_packed_is_read_back_frame_by_frame(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    some = FrameRegions(
        boxes=np.array([[1, 2, 20.5, 30], [0, 0, 10, 10]], np.float32),
        scores=np.array([0.75, 0.5], np.float32),
        actor_scores=random.random((2, 8)).astype(np.float32),
        soft_masks=random.random((2, 28, 28)).astype(np.float32),
    )
    none = true_regions([], actor_scores=np.zeros((0, 8)))
    for name in "ab":
        write_regions(tmp_path / name, "-video", {7: some, 9: none}, shape=(40, 50), threshold=0.5)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    clip = ClipRegions(tmp_path / "a")
    read = clip.frame(7)
    assert clip.frames == [7, 9]
    assert np.array_equal(read.boxes, some.boxes) and np.array_equal(read.scores, some.scores)
    assert np.array_equal(read.actor_scores, some.actor_scores)
    np.testing.assert_allclose(read.soft_masks, some.soft_masks, atol=0.5 / 255 + 1e-6)
    assert [mask["size"] for mask in clip.masks(7)] == [[40, 50]] * 2
    expected = pasted(read.boxes, read.soft_masks, shape=(40, 50), threshold=0.5)
    assert np.array_equal(coco.decode(clip.masks(7)).transpose(2, 0, 1), expected)
    empty = clip.frame(9)
    assert [array.shape for array in vars(empty).values()] == [(0, 4), (0,), (0, 8), (0, 28, 28)]
    assert clip.masks(9) == []
    table = pa.ipc.open_file(pa.memory_map(str(tmp_path / "a"))).read_all()
    assert table.schema.equals(schemas.DETECTIONS) and table["video"].to_pylist() == ["-video"] * 2
