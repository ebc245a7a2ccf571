"""Stage `train_regions`: segmenters learn from the data set or from other pictures, or are loaded as COCO's."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from models.parts import detection, fcis, maskrcnn
from stages import train_regions
from stages.core import schemas
from stages.core.batches import segmenter_batches
from stages.core.batches.framing import FRAMINGS, Framing
from stages.core.batches.instance_transforms import LEAST_PIXELS
from stages.core.datasets import dataset, instances
from stages.core.datasets.instances import UNTOLD, Instance
from stages.core.datasets.labels import A2D
from stages.core.generator.stills import KINDS
from tests.help import make

OUTPUTS = ("model.pt", "run.json", "curves.csv")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two train clips and a test clip, up to their frames."""
    folder = tmp_path_factory.mktemp("train_regions")
    make.write_release(folder / "data/raw")
    with make.workspace(folder):
        data = make.run_to_frames(folder)
    yield data


@pytest.fixture(autouse=True)
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """`small` as it is, on frames of the squares' size."""
    monkeypatch.setitem(FRAMINGS, "small", Framing(height=48, crop=(48, 64), still=(48, 64)))


def parameters(**changed: object) -> train_regions.Parameters:
    settings = {
        "config": "small", "segmenters": {f"{network}-{of}": {"steps": 2} for network in ("fcis", "maskrcnn")
        for of in ("own", "other")}, "seed": 1, "pretrained": False, "stills": 3, "loaders": 0, "threads": 1,
        "checkpoint_seconds": 0,
    }  # fmt: skip
    return train_regions.Parameters.model_validate(settings | changed)


def trained(folder: Path, data: Path, name: str, **changed: object) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files that a training in a fresh cache writes, and what run.json says."""
    with make.workspace(folder / "workspace"):
        train_regions.run(parameters(**changed), name=name, data=data, output=folder)
    files = {output: (folder / name / output).read_bytes() for output in OUTPUTS}
    return files, json.loads(files["run.json"])


@pytest.mark.parametrize("name", ["fcis-own", "maskrcnn-other"])
def test_a_segmenter_is_trained_the_same_twice_and_says_on_what(tmp_path: Path, data: Path, name: str) -> None:
    (first, run), (second, _) = (trained(tmp_path / folder, data, name) for folder in "ab")
    assert first == second
    assert run["labels"] == list(A2D.actors) and run["name"] == name and run["parameter_count"] > 0
    if name.endswith("own"):
        assert run["trained_on"] == "4 annotated frames" and run["learned"] == run["labels"]
    else:
        assert run["trained_on"] == "3 generated stills" and run["learned"] == list(KINDS)
    assert len(first["curves.csv"].splitlines()) == 3


def test_pretrained_encoders_are_where_a_training_starts(tmp_path: Path, data: Path) -> None:
    network = fcis.build(fcis.small, A2D.actors)
    state = {key: torch.full_like(value, 0.01) for key, value in network.encoder_slots()["rgb2d"].state_dict().items()}
    (data / "pretrain").mkdir()
    torch.save(state, data / "pretrain/rgb2d.pt")
    _, run = trained(tmp_path, data, "fcis-own", pretrained=True)
    assert run["started_from"] == ["rgb2d"]
    learned = torch.load(tmp_path / "fcis-own/model.pt", weights_only=True)["encoder.conv1.weight"]
    assert (learned - 0.01).abs().max() < 0.01  # two steps at 1e-3
    torch.save({"conv1.weight": torch.zeros(1)}, data / "pretrain/rgb2d.pt")
    with pytest.raises(ValueError, match=r"rgb2d.pt does not fit this encoder"):
        trained(tmp_path / "other", data, "fcis-own", pretrained=True)


def coco_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """A Mask R-CNN of COCO's keys and shapes at `small` size, at ``path`` as mmdet writes it."""
    torch.manual_seed(3)
    state = maskrcnn.build(maskrcnn.small, detection.COCO).detector.state_dict()
    torch.save({"state_dict": state, "meta": {"epoch": 12}}, path)
    return state


def test_a_checkpoint_of_coco_is_the_segmenter_of_other_data(tmp_path: Path, data: Path) -> None:
    state = coco_checkpoint(tmp_path / "coco.pth")
    segmenter = {"maskrcnn-other": {"weights": str(tmp_path / "coco.pth")}}
    files, run = trained(tmp_path, data, "maskrcnn-other", segmenters=segmenter)
    loaded = torch.load(tmp_path / "maskrcnn-other/model.pt", weights_only=True)
    assert all(torch.equal(loaded[f"detector.{key}"], value) for key, value in state.items())
    assert run["learned"] == list(detection.COCO) and run["trained_on"] == "COCO" and run["started_from"] == ["coco"]
    assert files["curves.csv"].splitlines() == [b"step,loss"]


def test_a_checkpoint_of_coco_is_where_a_training_on_own_data_starts(tmp_path: Path, data: Path) -> None:
    state = coco_checkpoint(tmp_path / "coco.pth")
    segmenter = {"maskrcnn-own": {"steps": 1, "weights": str(tmp_path / "coco.pth")}}
    _, run = trained(tmp_path, data, "maskrcnn-own", segmenters=segmenter, pretrained=True)
    assert run["learned"] == list(A2D.actors) and run["trained_on"] == "4 annotated frames"
    learned = torch.load(tmp_path / "maskrcnn-own/model.pt", weights_only=True)
    key = "rpn_head.rpn_conv.weight"
    change = (learned[f"detector.{key}"] - state[key]).abs().max()
    assert 0 < change < 0.01


def test_weights_that_do_not_fit_or_are_more_than_weights_are_errors(tmp_path: Path, data: Path) -> None:
    torch.save({"state_dict": {"backbone.stem.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth does not fit.*unexpected keys \['backbone.stem.weight'\]"):
        trained(tmp_path, data, "maskrcnn-own", segmenters={"maskrcnn-own": {"weights": str(tmp_path / "other.pth")}})
    torch.save({"state_dict": {}, "config": fcis.small}, tmp_path / "more.pth")
    with pytest.raises(ValueError, match=r"more.pth holds more than weights"):
        trained(tmp_path, data, "maskrcnn-own", segmenters={"maskrcnn-own": {"weights": str(tmp_path / "more.pth")}})


def test_a_segmenter_that_nobody_listed_or_that_does_not_exist_names_the_nearest(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ValueError, match="no `fcis-mine`; did you mean `fcis-"):
        trained(tmp_path, data, "fcis-mine")
    with pytest.raises(ValueError, match="no segmenter `fcsi-own`; did you mean `fcis-own`"):
        trained(tmp_path, data, "fcsi-own", segmenters={"fcsi-own": {}})
    with pytest.raises(ValueError, match="`middling` is neither `paper` nor `small`"):
        trained(tmp_path, data, "fcis-own", config="middling")


# Samples


def of_squares(folder: Path, seen: list[list[Instance]]) -> segmenter_batches.AnnotatedFrames:
    """Annotated frames of one square's clip, with the instances ``seen`` in them."""
    packed = make.packed_dataset(folder, [make.RELEASE[0]])
    return segmenter_batches.AnnotatedFrames(
        packed, {(f.video, f.frame): s for f, s in zip(packed.frames, seen, strict=True)}
    )


def instance(actor: int, top: int, left: int, height: int, width: int) -> Instance:
    """An actor that is a rectangle."""
    mask = np.zeros((make.HEIGHT, make.WIDTH), np.uint8, order="F")
    mask[top : top + height, left : left + width] = 1
    return Instance(actor, coco.encode(mask))


WHOLE = Framing(height=None, crop=None, still=(48, 64))


def test_a_draw_depends_on_its_number_and_not_on_what_was_drawn_before() -> None:
    def drawn_from() -> segmenter_batches.RegionSamples:
        stills = segmenter_batches.Stills(seed=3, count=3, shape=(48, 64))
        return segmenter_batches.RegionSamples(stills, Framing(height=48, crop=(32, 48), still=(48, 64)), seed=5)

    once, twice = drawn_from(), drawn_from()
    once[(0, 1)]
    first, second = once[(7, 2)], twice[(7, 2)]
    assert np.array_equal(first.picture, second.picture) and np.array_equal(first.masks, second.masks)
    assert not np.array_equal(first.picture, twice[(8, 2)].picture)
    assert first.picture.shape == (32, 48, 3) and first.masks.shape == (len(first.labels), 32, 48)


def test_masks_go_with_the_picture_overlap_and_all(tmp_path: Path) -> None:
    """Whole frames, flipped or not: the second actor lies in the first one's right half."""
    frames = of_squares(tmp_path, [[instance(1, 10, 4, 20, 40), instance(6, 12, 30, 8, 10)], []])
    drawn = segmenter_batches.RegionSamples(frames, WHOLE, seed=0)
    plain = frames.read(0)
    flipped = set()
    for draw in range(8):
        seen = drawn[(draw, 0)]
        mirror = not np.array_equal(seen.picture, plain.picture)
        flipped.add(mirror)
        step = -1 if mirror else 1
        assert np.array_equal(seen.picture, plain.picture[:, ::step])
        assert np.array_equal(seen.masks, plain.masks[:, :, ::step]) and list(seen.labels) == [1, 6]
        assert (seen.masks[0] & seen.masks[1]).sum() == 80
    assert flipped == {True, False}
    assert drawn[(0, 1)].masks.shape == (0, make.HEIGHT, make.WIDTH)


def test_crops_cut_masks_and_drop_what_they_leave_out(tmp_path: Path) -> None:
    frames = of_squares(tmp_path, [[instance(3, 10, 20, 8, 8), instance(5, 0, 0, 48, 64)], []])
    drawn = segmenter_batches.RegionSamples(frames, Framing(height=48, crop=(24, 24), still=(48, 64)), seed=0)
    seen = [drawn[(draw, 0)] for draw in range(20)]
    assert {tuple(picture.labels) for picture in seen} == {(5,), (3, 5)}
    assert all(picture.masks.sum((1, 2)).min() >= LEAST_PIXELS for picture in seen)
    assert all(picture.masks[-1].all() for picture in seen)  # the large one fills every crop


def test_an_actor_that_nobody_named_is_not_learned_from(tmp_path: Path) -> None:
    frames = of_squares(tmp_path, [[instance(UNTOLD, 0, 0, 20, 20), instance(2, 5, 5, 20, 20)], []])
    assert list(frames.read(0).labels) == [2]


def test_instances_are_read_frame_by_frame_without_empty_masks(tmp_path: Path) -> None:
    packed = make.packed_dataset(tmp_path, [make.RELEASE[0]])
    empty = coco.encode(np.zeros((make.HEIGHT, make.WIDTH), np.uint8, order="F"))["counts"]
    other = instance(4, 3, 3, 9, 9)
    rows = [
        {"video": "--first_one", "frame": frame, "instance": number, "actor": 4, "actions": [1], "x1": 0, "y1": 0,
         "x2": 1, "y2": 1, "height": make.HEIGHT, "width": make.WIDTH, "mask": mask}
        for number, (frame, mask) in enumerate([(2, empty), (2, other.rle["counts"]), (5, other.rle["counts"])])
    ]  # fmt: skip
    schemas.write_parquet(tmp_path / "instances.parquet", schemas.rows_to_table(rows, schemas.INSTANCES))
    found = instances.read(dataset.Dataset("train", packed.frames, 2, packed.clips_folder, index=tmp_path))
    assert list(found) == [("--first_one", 2), ("--first_one", 6)]
    assert found["--first_one", 2] == [Instance(4, other.rle, actions=(1,))] and found["--first_one", 6] == []
    assert found["--first_one", 2][0].mask.sum() == 81


def test_pictures_of_other_sizes_are_padded_and_boxes_are_half_open() -> None:
    wide = segmenter_batches.Annotated(np.full((4, 9, 3), 7, np.uint8), [3], np.ones((1, 4, 9), bool))
    mask = np.zeros((1, 6, 5), bool)
    mask[0, 2:4, 1:5] = True
    high = segmenter_batches.Annotated(np.full((6, 5, 3), 9, np.uint8), [1], mask)
    empty = segmenter_batches.Annotated(np.zeros((2, 2, 3), np.uint8), [], np.zeros((0, 2, 2), bool))
    batch = segmenter_batches.to_batch([wide, high, empty])
    assert batch["frames"].shape == (3, 6, 9, 3) and batch["frames"][1, 5, 5:].sum() == 0
    assert [boxes.tolist() for boxes in batch["boxes"]] == [[[0, 0, 9, 4]], [[1, 2, 5, 4]], []]
    assert [boxes.shape for boxes in batch["boxes"]] == [(1, 4), (1, 4), (0, 4)]
    assert [labels.tolist() for labels in batch["labels"]] == [[3], [1], []]
    assert [tuple(masks.shape) for masks in batch["masks"]] == [(1, 6, 9), (1, 6, 9), (0, 6, 9)]
    assert batch["masks"][1].dtype == torch.bool and batch["masks"][1].sum() == 8
