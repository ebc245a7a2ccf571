"""`stages.commands.score segmentation`: anybody's label maps, from PNG folders or packed, counted by hand."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pycocotools import mask as coco
from typer.testing import CliRunner

from stages.commands import score
from stages.core.datasets.dataset import Description, write_description
from stages.core.datasets.labels import A2D, IGNORE
from stages.core.packs import masks
from stages.core.schemas import FRAMES, INSTANCES, PREDICTIONS, rows_to_table, write_pack, write_parquet
from stages.core.scores import confusion, segmentation, sizes
from stages.core.scores.maps import KINDS, PngMaps

Maps = dict[str, dict[int, np.ndarray]]


def row(*ids: int) -> np.ndarray:
    """A map of one line."""
    return np.array([ids], np.uint8)


TRUTH: Maps = {"--first": {1: row(0, 0, 17, 17), 12: row(0, 0, 0, 66)}, "second": {3: row(17, 17, 0, 0)}}
PREDICTED: Maps = {"--first": {1: row(0, 17, 17, 18), 12: row(0, 0, 0, 71)}, "second": {3: row(17, 17, 0, 0)}}


def write(folder: Path, maps: Maps) -> Path:
    for video, frames in maps.items():
        (folder / video).mkdir(parents=True)
        for frame, labels in frames.items():
            (folder / video / f"{frame:05d}.png").write_bytes(masks.encode(labels))
    return folder


def write_index(folder: Path, maps: Maps) -> None:
    """``maps`` as the index stage writes a data set's truth: every connected part is an instance."""
    frames, instances = [], []
    for video, numbered in maps.items():
        for number, labels in numbered.items():
            frame = {"video": video, "frame": number - 1}
            frames.append({**frame, "split": "test", "labels": masks.encode(labels)})
            for mask in sizes.components(labels):
                counts = coco.encode(np.asfortranarray(mask, np.uint8))["counts"]
                instances.append({**frame, "height": labels.shape[0], "width": labels.shape[1], "mask": counts})
    write_parquet(folder / "frames.parquet", rows_to_table(frames, FRAMES))
    write_parquet(folder / "instances.parquet", rows_to_table(instances, INSTANCES))
    write_description(folder, Description("a2d", A2D))


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., Any]:
    """``call(truth, prediction, *options)``: the JSON, or the error's message."""

    def call(truth: Maps = TRUTH, prediction: Maps = PREDICTED, *options: str) -> Any:
        folders = [write(tmp_path / name, maps) for name, maps in (("truth", truth), ("prediction", prediction))]
        return said(["--truth", str(folders[0]), "--prediction", str(folders[1]), *options])

    return call


def said(options: list[str]) -> Any:
    result = CliRunner().invoke(score.app, ["segmentation", "--resamples=20", *options])
    if result.exception is not None:
        assert isinstance(result.exception, ValueError), result.exception
        return str(result.exception)
    return json.loads(result.stdout)


def test_hand_counted_maps_get_their_scores(call: Callable[..., Any]) -> None:
    """12 pixels: background 6 of 7, adult-running (17) 3 of 4 and called so 4 times, cat-rolling (66) 0 of 1."""
    found = call()
    assert found["joint"]["global_accuracy"] == pytest.approx(100 * 9 / 12, abs=1e-3)
    assert found["joint"]["mean_iou"] == pytest.approx(100 * (6 / 7 + 3 / 5 + 0) / 3, abs=1e-3)
    assert found["actor"]["mean_iou"] == pytest.approx(100 * (6 / 7 + 4 / 5 + 0) / 3, abs=1e-3)
    assert found["joint"]["per_class"]["adult-running"] == {"id": 17, "accuracy": 75, "iou": 60}
    assert found["coverage"] == {"scored": 3, "of": 3, "clips": 2}
    assert "actor_head" not in found


def test_a_head_s_own_maps_are_scored_beside_the_marginals(call: Callable[..., Any], tmp_path: Path) -> None:
    actors = {video: {n: labels // 10 for n, labels in frames.items()} for video, frames in TRUTH.items()}
    found = call(TRUTH, PREDICTED, "--actor", str(write(tmp_path / "actor", actors)))
    assert found["actor_head"]["mean_iou"] == 100 > found["actor"]["mean_iou"]
    assert "action_head" not in found


def test_packed_maps_score_as_the_same_maps_in_pngs(call: Callable[..., Any], tmp_path: Path) -> None:
    """Packed frames count from 0, PNGs from 1."""
    write_index(tmp_path / "index", TRUTH)
    (tmp_path / "packed/clips").mkdir(parents=True)
    for video, frames in PREDICTED.items():
        parts = {
            "joint": list(frames.values()),
            "actor": [labels // 10 for labels in frames.values()],
            "action": [labels % 10 for labels in frames.values()],
        }
        columns: dict[str, Any] = {
            kind: pa.array([masks.encode(m) for m in parts[kind]], pa.binary()) for kind in KINDS
        }
        columns["frame"] = pa.array([frame - 1 for frame in frames], pa.int32())
        write_pack(tmp_path / f"packed/clips/{video}.arrow", columns, PREDICTIONS)
    packed = said(["--truth", str(tmp_path / "index"), "--prediction", str(tmp_path / "packed")])
    of_pngs = call()
    assert all(packed[key] == of_pngs[key] for key in ("joint", "actor", "action", "coverage"))
    small = [found["by_size"]["small"]["joint"] for found in (packed, of_pngs)]
    assert small[0] == small[1]
    assert packed["actor_head"]["mean_iou"] == packed["actor"]["mean_iou"]


def without(frame: int) -> Maps:
    return {**PREDICTED, "--first": {n: labels for n, labels in PREDICTED["--first"].items() if n != frame}}


def test_a_frame_without_prediction_is_an_error_or_counted_but_never_a_zero(call: Callable[..., Any]) -> None:
    assert "--first, frame 12: no prediction" in call(TRUTH, without(12))


def test_a_counted_missing_frame_lowers_the_coverage_and_no_score(call: Callable[..., Any]) -> None:
    found = call(TRUTH, without(12), "--count-missing")
    assert found["coverage"] == {"scored": 2, "of": 3, "clips": 2}
    assert "cat-rolling" not in found["joint"]["per_class"]


def test_no_prediction_at_all_is_an_error(call: Callable[..., Any]) -> None:
    other = {"other": {1: TRUTH["second"][3]}}
    assert "nothing can be scored" in call(TRUTH, other, "--count-missing")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((2, 2), np.uint8), r"second, frame 3, joint: prediction of (2, 2) for a truth of (1, 4)"),
        (np.full((1, 4), 10, np.uint8), "second, frame 3, prediction: unknown label ids [10]"),
        (np.full((1, 4), 80, np.uint8), "second, frame 3, joint: predicted id 80"),
        (np.full((1, 4), IGNORE, np.uint8), "second, frame 3, joint: predicted id 255"),
        (np.zeros((1, 4, 3), np.uint8), "00003.png: not a PNG of one uint8 channel"),
    ],
    ids=["another resolution", "no pair", "past the last id", "void", "a colour picture"],
)
def test_a_map_that_is_none_is_a_clear_error(call: Callable[..., Any], labels: np.ndarray, message: str) -> None:
    assert message in call(TRUTH, {**PREDICTED, "second": {3: labels}})


@pytest.mark.parametrize("wrong", [5, 99])
def test_an_unknown_id_in_the_truth_is_a_clear_error(call: Callable[..., Any], wrong: int) -> None:
    truth = {**TRUTH, "second": {3: np.full((1, 4), wrong, np.uint8)}}
    found = call(truth)
    assert "second, frame 3" in found and f"[{wrong}]" in found and "truth" in found


def test_unlabelled_pixels_count_nowhere(call: Callable[..., Any]) -> None:
    truth = {"second": {3: np.array([[17, IGNORE, IGNORE, 0]], np.uint8)}}
    assert call(truth, {"second": {3: np.array([[17, 66, 0, 0]], np.uint8)}})["joint"]["mean_iou"] == 100


def test_names_that_are_no_frame_numbers_are_an_error(tmp_path: Path) -> None:
    write(tmp_path, {"clip": {1: TRUTH["second"][3]}})
    (tmp_path / "clip/1.png").write_bytes(b"")
    with pytest.raises(ValueError, match="are one frame"):
        PngMaps(tmp_path)
    (tmp_path / "clip/1.png").rename(tmp_path / "clip/first.png")
    with pytest.raises(ValueError, match="the name is no frame number"):
        PngMaps(tmp_path)


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no <video>/<frame>"):
        PngMaps(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        PngMaps(tmp_path / "none")


def test_the_band_of_15_leaves_7_pixels_out_to_each_side_of_the_middle() -> None:
    truth = np.zeros((5, 60), np.uint8)
    truth[:, 30:] = 17
    left_out = np.flatnonzero(confusion.boundary_band(truth, width=15)[2])
    assert left_out.tolist() == list(range(22, 37))  # the middle is 29, the last pixel before the change
    assert confusion.boundary_band(truth, width=31)[2].sum() == 31
    assert not confusion.boundary_band(np.zeros((5, 60), np.uint8), width=15).any()
    with pytest.raises(ValueError, match="has no middle"):
        confusion.boundary_band(truth, width=14)


def test_mistakes_at_boundaries_cost_nothing_off_them(call: Callable[..., Any]) -> None:
    truth = np.zeros((40, 60), np.uint8)
    truth[:, 30:] = 17
    predicted = np.roll(truth, 3, axis=1)
    predicted[:, :3] = 0
    found = call({"clip": {1: truth}}, {"clip": {1: predicted}}, "--non-boundary=15")
    assert found["non_boundary"]["joint"]["mean_iou"] == 100 > found["joint"]["mean_iou"]


def test_the_counts_are_those_of_a_plain_loop() -> None:
    random = np.random.default_rng(0)
    ids = np.array([*A2D.valid_ids, IGNORE], np.uint8)
    truth, predicted = random.choice(ids, (20, 30)), random.choice(ids[:-1], (20, 30))
    expected = np.zeros((80, 80), np.int64)
    for t, p in zip(truth.ravel(), predicted.ravel(), strict=True):
        if t != IGNORE:
            expected[t, p] += 1
    assert np.array_equal(confusion.confusion(truth, predicted, classes=80), expected)


def test_scores_by_size_leave_the_actors_of_other_sizes_out(call: Callable[..., Any]) -> None:
    """Three adults of 1, 2 and 3 pixels in a frame each; the small one is missed, the large one found in full."""
    truth = {"clip": {1: row(17, 0, 0, 0), 2: row(17, 17, 0, 0), 3: row(17, 17, 17, 0)}}
    predicted = {"clip": {1: row(0, 0, 0, 0), 2: row(17, 0, 0, 0), 3: row(17, 17, 17, 0)}}
    found = call(truth, predicted)["by_size"]
    assert found["thirds"] == [1, 2]
    accuracies = [found[size]["actor"]["class_accuracy"] for size in ("small", "medium", "large")]
    assert accuracies == [50, 75, 100]  # background is right everywhere


def test_every_score_has_an_interval_that_holds_it(call: Callable[..., Any]) -> None:
    found = call()
    for scores in (found, found["by_size"]["small"]):
        for kind in ("actor", "action", "joint"):
            for figure in confusion.FIGURES:
                assert scores[kind][f"{figure}_low"] <= scores[kind][figure] <= scores[kind][f"{figure}_high"]


def test_a_second_method_is_compared_on_the_same_clips(call: Callable[..., Any], tmp_path: Path) -> None:
    perfect = write(tmp_path / "perfect", TRUTH)
    against = call(TRUTH, PREDICTED, "--against", str(perfect))["joint"]["against"]["mean_iou"]
    assert against["difference"] == pytest.approx(100 * (6 / 7 + 3 / 5 + 0) / 3 - 100, abs=1e-3)
    assert against["low"] <= against["difference"] <= against["high"] and 0 < against["p"] <= 1


def test_a_truth_without_any_actor_is_scored_without_sizes(call: Callable[..., Any]) -> None:
    empty = {"clip": {1: row(0, 0, 0, 0)}}
    found = call(empty, {"clip": {1: row(0, 0, 17, 0)}})
    assert found["joint"]["mean_iou"] == 75 and "by_size" not in found


class MadeUp:
    """As many frames as asked for, each made when it is asked for: truth and prediction in one."""

    label_space = A2D

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self.videos = ["clip"]

    def annotated(self, video: str) -> list[int]:
        return list(range(self._frames))

    def labels(self, video: str, frame: int) -> np.ndarray:
        labels = np.zeros((320, 568), np.uint8)
        labels[40 + frame % 50 : 160, 100:300] = 17
        return labels

    def actors(self, video: str, frame: int) -> list[np.ndarray]:
        return sizes.components(self.labels(video, frame))

    def maps(self, video: str, frame: int) -> dict[str, np.ndarray]:
        return {"joint": self.labels(video, frame)}


def peak_of(frames: int) -> int:
    tracemalloc.start()
    segmentation.compare(MadeUp(frames), MadeUp(frames), non_boundary=15)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_ten_times_the_frames_take_no_more_memory() -> None:
    """A frame of 320 x 568 has 0.18 MB: 36 frames more, held, would be 6.5 MB."""
    peak_of(4)  # imports and caches
    assert peak_of(40) < peak_of(4) + 1_000_000
