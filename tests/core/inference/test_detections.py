"""Detections of a run: what lies in a clip's pack, in the table of all clips, and what they score."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from models.base import Batch, Predictions, Window
from models.parts.region_to_pixel import region_to_pixel
from models.parts.region_types import Detections
from stages.core import schemas
from stages.core.datasets.labels import A2D
from stages.core.inference import detections, label_maps
from stages.core.inference import predictor as predictors
from stages.core.scores import boxes, resampling
from stages.core.scores.maps import PackedMaps
from tests.help import make
from tests.help.boxes import Box, Instances, write_detections, write_index
from tests.help.boxes import detection as row

CLIP = make.Square("--seen", label=17)
LEFT: Box = (10, 10, 30, 20)
RIGHT: Box = (110, 10, 130, 20)
DRAWS = resampling.Parameters(resamples=5, seed=0)
FOUND = Detections(
    boxes=torch.tensor([[4.0, 3, 12, 9], [16, 12, 24, 20.5]]),
    scores=torch.tensor([0.75, 0.5]),
    actor_scores=torch.eye(8)[[1, 6]] * torch.tensor([[0.75], [0.5]]),
    action_scores=torch.eye(10)[[7, 8]],
    soft_masks=torch.stack([torch.ones(28, 28), torch.cat([torch.ones(14, 28), torch.zeros(14, 28)])]),
)
"""In frames of 24 x 32: a surer one, and one whose upper half is the actor's."""


class Fixed:
    """Finds the same in every window, and counts how often it was asked."""

    def __init__(self, found: Detections) -> None:
        self.found, self.asked = found, 0

    def detect(self, batch: Batch) -> list[Detections]:
        assert batch["frames"].shape[1:] == (3, make.HEIGHT // 2, make.WIDTH // 2, 3)
        self.asked += 1
        return [self.found]

    def paint(self, found: list[Detections], shape: tuple[int, int]) -> Predictions:
        """All actors run and are adults."""
        masks = torch.zeros(1, *shape, dtype=torch.bool)
        for one in found:
            for box, soft in zip(one.boxes, one.soft_masks, strict=True):
                masks |= region_to_pixel(box[None], soft[None], torch.ones(1, 1), shape=shape) > 0.5
        return Predictions(masks.byte() * 17, masks.byte(), masks.byte() * 7)


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Predicts the two annotated frames of the clip by a network; gives the folder of predictions."""

    def predict(network: Any) -> Path:
        config = SimpleNamespace(
            window=Window(before=1, after=1), height=make.HEIGHT // 2, flow_encoding="magnitude", mask_threshold=0.5
        )
        predictor = predictors.Predictor(network, config, A2D, torch.device("cpu"))
        monkeypatch.setattr(predictors, "load_predictor", lambda *_: predictor)
        make.pack_frames(tmp_path / "clips" / f"{CLIP.video}.arrow", CLIP.pictures())
        folders = {"clip": str(tmp_path / "clips"), "index": str(tmp_path)}
        own = {"video": CLIP.video, "frames": list(CLIP.annotated), "run": "", "weights": "", "true": False}
        target = tmp_path / "predictions/clips" / f"{CLIP.video}.arrow"
        target.parent.mkdir(parents=True)
        label_maps.predict_clip({**own, "folders": folders}, {}, target)
        return tmp_path / "predictions"

    return predict


def test_what_is_detected_is_packed_in_pixels_of_the_stored_frame_and_is_what_the_maps_show(packed: Any) -> None:
    network = Fixed(FOUND)
    folder = packed(network)
    assert network.asked == len(CLIP.annotated)
    pack = schemas.Pack(folder / "clips" / f"{CLIP.video}.arrow")
    assert [pack.column(at, "frame")[0].as_py() for at in range(len(pack))] == list(CLIP.annotated)
    surer, other = pack.column(0, "detections")[0].as_py()
    assert [surer[corner] for corner in boxes.CORNERS] == [8, 6, 24, 18]
    assert [other[corner] for corner in boxes.CORNERS] == [32, 24, 48, 41]
    assert (surer["score"], other["actor_scores"][6], other["action_scores"][8]) == (0.75, 0.5, 1)
    masks = coco.decode([{"size": [one["height"], one["width"]], "counts": one["mask"]} for one in (surer, other)])
    assert masks.shape == (make.HEIGHT, make.WIDTH, 2) and masks[..., 0].sum() == masks[6:18, 8:24, 0].sum() == 12 * 16
    assert masks[24:32, 32:48, 1].all() and not masks[33:, :, 1].any()
    assert np.frombuffer(surer["soft_mask"], np.uint8).tolist() == [255] * 28**2
    maps = PackedMaps(folder).maps(CLIP.video, CLIP.annotated[0])
    assert maps is not None and np.array_equal(maps["joint"] == 17, masks.any(2))


def test_the_table_has_each_detection_with_its_clip_and_frame(packed: Any, tmp_path: Path) -> None:
    table = detections.collect(packed(Fixed(FOUND)), ["in quarantine", CLIP.video])
    schemas.write_parquet(tmp_path / "found.parquet", table)
    rows = schemas.read_parquet(tmp_path / "found.parquet", schemas.DETECTIONS).to_pandas()
    assert rows["frame"].tolist() == [2, 2, 6, 6] and set(rows["video"]) == {CLIP.video}
    assert rows["x1"].tolist() == [8, 32, 8, 32]
    assert boxes.looked_at(table) == [CLIP.video]


def test_a_clip_in_which_nothing_was_found_was_looked_at_and_none_is_where_a_method_detects_nothing(
    packed: Any, tmp_path: Path
) -> None:
    nothing = Detections(*(values[:0] for values in vars(FOUND).values()))
    folder = packed(Fixed(nothing))
    table = detections.collect(folder, [CLIP.video])
    assert table.num_rows == 0 and boxes.looked_at(table) == [CLIP.video]
    maps = {"joint": [b""], "actor": [b""], "action": [b""]}
    path = folder / "clips" / f"{CLIP.video}.arrow"
    schemas.write_pack(path, {"frame": [2], **maps}, schemas.PREDICTIONS)
    table = detections.collect(folder, [CLIP.video])
    assert table.schema.equals(schemas.DETECTIONS) and table.num_rows == 0 and boxes.looked_at(table) == []


TRUTH: Instances = {"clip": {0: [(LEFT, 17)]}, "--other": {0: [(RIGHT, 17)]}}


def score(tmp_path: Path, *looked_at: str, truth: Instances = TRUTH) -> dict[str, Any]:
    index = write_index(tmp_path / "index", truth)
    path = write_detections(tmp_path / "found.parquet", [row("clip", 0, LEFT, 17)], looked_at=looked_at)
    return detections.score(index, path, DRAWS)


def test_clips_in_which_nothing_was_found_count_where_the_table_names_them(tmp_path: Path) -> None:
    """One of two adults is found; who did not look at the other's clip is not to blame for it."""
    found = score(tmp_path, "clip", "--other")["detection"]
    assert found["pair_map"] == pytest.approx(100 * 6 / 11) and found["coverage"]["clips"] == 2
    found = score(tmp_path)["detection"]
    assert found["pair_map"] == 100 and found["coverage"]["clips"] == 1


def test_where_the_truth_is_not_told_there_are_no_scores_and_a_word_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score(tmp_path, "clip", truth={"clip": {0: [(LEFT, 255)]}}) == {}
    assert "no scores of detections: clip, frame 1: an instance of the truth has no actor" in capsys.readouterr().out
