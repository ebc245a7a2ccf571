"""`stages.core.scores.zero_shot`: each actor scored by the model that never saw its actions, counted by hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.core.datasets.labels import A2D
from stages.core.packs import masks
from stages.core.scores import resampling, zero_shot
from tests.help.boxes import Box, write_detections, write_index
from tests.help.boxes import detection as row

PARAMETERS = resampling.Parameters(resamples=5, seed=0)
ACTORS = A2D.actors[1:]
LEFT: Box = (10, 10, 30, 20)
RIGHT: Box = (110, 10, 130, 20)

# Three pairs: adult-running (17), adult-walking (18), dog-walking (78).
BOXES = {"clip": {0: [(LEFT, 17)], 1: [(LEFT, 18)]}, "--other": {0: [(RIGHT, 78)]}}


def write_models(folder: Path, models: Mapping[str, list[dict[str, Any]]]) -> Path:
    """One file an actor; those that ``models`` leaves out found nothing worth 0.1 anywhere."""
    nothing = [row(video, 0, (150, 50, 160, 60), 39, 0.05) for video in BOXES]
    for actor in ACTORS:
        write_detections(folder / f"{actor}.parquet", models.get(actor, nothing))
    return folder


def of_boxes(tmp_path: Path, models: Mapping[str, list[dict[str, Any]]], **options: Any) -> dict[str, Any]:
    index, folder = write_index(tmp_path / "index", BOXES), write_models(tmp_path / "models", models)
    return zero_shot.run(index, folder, kind="detection", parameters=PARAMETERS, **options)


ADULT = [row("clip", 0, LEFT, 17), row("clip", 1, LEFT, 17), row("--other", 0, RIGHT, 78)]
"""Calls the walking adult a running one: 17 is right first or second of two (100 or 50), 18 is not found."""
DOG = [row("--other", 0, RIGHT, 78), row("clip", 0, RIGHT, 11)]


def test_every_pair_is_scored_on_the_model_of_its_own_actor(tmp_path: Path) -> None:
    """Equal scores count together: 17 has one right of two, 50; 18 has 0. Dog-walking is 100. Mean of three pairs."""
    found = of_boxes(tmp_path, {"adult": ADULT, "dog": DOG})
    assert found["per_class"] == {
        "adult-running": {"pair_map": 50},
        "adult-walking": {"pair_map": 0},
        "dog-walking": {"pair_map": 100},
    }
    assert found["pair_map"] == 50 and (found["pairs"], found["of_pairs"]) == (3, 43)
    splits = found["splits"]
    assert list(splits) == list(ACTORS)
    assert (splits["adult"]["pair_map"], splits["adult"]["pairs"], splits["adult"]["of_pairs"]) == (25, 2, 8)
    assert (splits["dog"]["pair_map"], splits["dog"]["pairs"], splits["dog"]["of_pairs"]) == (100, 1, 7)
    assert np.isnan(splits["cat"]["pair_map"]) and splits["cat"]["pairs"] == 0
    assert sum(split["of_pairs"] for split in splits.values()) == 43


def test_what_a_model_says_of_other_actors_counts_nowhere(tmp_path: Path) -> None:
    """The adult's model finds the dog and the dog's does not; the cat's finds everything."""
    found = of_boxes(tmp_path, {"adult": ADULT, "dog": [row("clip", 0, LEFT, 17), row("--other", 0, LEFT, 78)]})
    everything = [*ADULT, row("clip", 1, LEFT, 18)]
    other = of_boxes(tmp_path, {"adult": ADULT, "dog": DOG, "cat": everything})
    assert found["splits"]["dog"]["pair_map"] == 0
    assert other["pair_map"] == 50


def test_a_missing_model_is_an_error_that_lists_it_or_counted(tmp_path: Path) -> None:
    index, folder = write_index(tmp_path / "index", BOXES), write_models(tmp_path / "models", {"dog": DOG})
    for actor in ("adult", "bird"):
        (folder / f"{actor}.parquet").unlink()
    with pytest.raises(ValueError, match=r"without the actions of adult, bird; put them there as <actor>/"):
        zero_shot.run(index, folder, kind="detection", parameters=PARAMETERS)
    found = zero_shot.run(index, folder, kind="detection", count_missing=True, parameters=PARAMETERS)
    assert found["coverage"] == {"scored": 3, "of": 3, "clips": 2, "missing_models": ["adult", "bird"]}
    assert (found["pair_map"], found["pairs"], found["of_pairs"]) == (100, 1, 43)
    assert "adult" not in found["splits"]
    with pytest.raises(ValueError, match="no predictions of the models without the actions of adult, baby"):
        zero_shot.run(index, tmp_path / "none", kind="detection", count_missing=True, parameters=PARAMETERS)


def test_two_predictions_of_one_model_are_an_error(tmp_path: Path) -> None:
    index, folder = write_index(tmp_path / "index", BOXES), write_models(tmp_path / "models", {})
    (folder / "adult").mkdir()
    with pytest.raises(ValueError, match="are one model"):
        zero_shot.run(index, folder, kind="detection", parameters=PARAMETERS)


def test_a_clip_that_one_model_does_not_mention_is_an_error_or_left_out_for_all(tmp_path: Path) -> None:
    adult = [detection for detection in ADULT if detection["video"] == "clip"]
    with pytest.raises(ValueError, match=r"adult\.parquet: no detections of 1 of 2 clips, the first is --other"):
        of_boxes(tmp_path, {"adult": adult, "dog": DOG})
    found = of_boxes(tmp_path, {"adult": adult, "dog": DOG}, count_missing=True)
    assert found["coverage"]["scored"] == 2 and found["pairs"] == 2 and found["pair_map"] == 25
    dog = [detection for detection in DOG if detection["video"] == "--other"]
    with pytest.raises(ValueError, match="no test clip that all models mention"):
        of_boxes(tmp_path, {"adult": adult, "dog": dog}, count_missing=True)


def test_methods_are_compared_model_by_model(tmp_path: Path) -> None:
    worse = write_models(tmp_path / "worse", {"adult": ADULT})
    found = of_boxes(tmp_path, {"adult": ADULT, "dog": DOG}, against=worse)
    assert found["against"]["pair_map"]["difference"] == pytest.approx(100 / 3)
    assert found["splits"]["adult"]["pair_map_low"] <= 25 <= found["splits"]["adult"]["pair_map_high"]
    (worse / "cat.parquet").unlink()
    with pytest.raises(ValueError, match="models of other actors"):
        of_boxes(tmp_path, {"adult": ADULT, "dog": DOG}, against=worse, count_missing=True)


def line(*ids: int) -> np.ndarray:
    """A label map of one line."""
    return np.array([ids], np.uint8)


Maps = Mapping[str, Mapping[int, np.ndarray]]
MAPS: Maps = {"clip": {1: line(0, 17, 17, 18), 4: line(0, 0, 0, 18)}, "--other": {1: line(78, 78, 0, 0)}}
CALLED: dict[str, Maps] = {
    # 17: 2 of 2 right, called so 3 times: IoU 2 / 3, accuracy 1. 18: 1 of 2 right, called so twice: 1 / 3, 1 / 2.
    "adult": {"clip": {1: line(0, 17, 17, 17), 4: line(0, 0, 18, 18)}, "--other": {1: line(0, 0, 0, 0)}},
    # 78: 1 of 2 right, called so once: 1 / 2, 1 / 2; all adults are background here.
    "dog": {"clip": {1: line(0, 0, 0, 0), 4: line(0, 0, 0, 0)}, "--other": {1: line(78, 76, 0, 0)}},
}


def write_maps(folder: Path, maps: Maps) -> Path:
    for video, frames in maps.items():
        (folder / video).mkdir(parents=True, exist_ok=True)
        for frame, labels in frames.items():
            (folder / video / f"{frame:05d}.png").write_bytes(masks.encode(labels))
    return folder


def of_maps(tmp_path: Path, models: Mapping[str, Maps], **options: Any) -> dict[str, Any]:
    background = {video: {frame: labels * 0 for frame, labels in frames.items()} for video, frames in MAPS.items()}
    for actor in ACTORS:
        write_maps(tmp_path / "models" / actor, models.get(actor, background))
    truth = write_maps(tmp_path / "truth", MAPS)
    return zero_shot.run(truth, tmp_path / "models", kind="segmentation", parameters=PARAMETERS, **options)


def test_label_maps_get_the_iou_and_accuracy_of_each_model_s_own_pairs(tmp_path: Path) -> None:
    found = of_maps(tmp_path, CALLED)
    assert found["per_class"] == {
        "adult-running": {"mean_iou": pytest.approx(200 / 3), "class_accuracy": 100},
        "adult-walking": {"mean_iou": pytest.approx(100 / 3), "class_accuracy": 50},
        "dog-walking": {"mean_iou": 50, "class_accuracy": 50},
    }
    assert found["mean_iou"] == pytest.approx(50) and found["class_accuracy"] == pytest.approx(200 / 3)
    assert found["splits"]["adult"]["mean_iou"] == pytest.approx(50) and found["splits"]["adult"]["pairs"] == 2
    assert found["splits"]["dog"]["class_accuracy"] == 50
    assert (found["pairs"], found["of_pairs"]) == (3, 43)
    assert found["coverage"] == {"scored": 3, "of": 3, "clips": 2, "missing_models": []}


def test_the_truth_itself_scores_100(tmp_path: Path) -> None:
    found = of_maps(tmp_path, dict.fromkeys(ACTORS, MAPS))
    assert found["mean_iou"] == found["class_accuracy"] == found["mean_iou_low"] == 100


def test_a_frame_that_one_model_lacks_is_an_error_or_counts_for_the_others_only(tmp_path: Path) -> None:
    lacking = {**CALLED, "dog": {**CALLED["dog"], "clip": {1: line(0, 0, 0, 0)}}}
    with pytest.raises(ValueError, match=r"dog: clip, frame 4: no prediction"):
        of_maps(tmp_path, lacking)
    found = of_maps(tmp_path, lacking, count_missing=True)
    assert found["coverage"]["scored"] == 2
    assert found["per_class"]["adult-walking"]["class_accuracy"] == 50  # by the adult's model, which has frame 4


def test_pairs_are_scored_by_the_actor_s_size_too(tmp_path: Path) -> None:
    """adult-walking is of one pixel in each of its frames, the other two pairs are of two pixels; none is large."""
    found = of_maps(tmp_path, CALLED)["by_size"]
    assert list(found) == ["small", "medium", "large"]
    assert [found[size]["pairs"] for size in found] == [1, 2, 0]
    assert found["small"]["class_accuracy"] == 50 and found["medium"]["class_accuracy"] == 75
    assert np.isnan(found["large"]["class_accuracy"])


def test_unknown_ids_and_other_resolutions_say_which_model_and_frame(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cat: --other, frame 1, prediction: unknown label ids \[40\]"):
        of_maps(tmp_path, {"cat": {**MAPS, "--other": {1: line(40, 0, 0, 0)}}})
    with pytest.raises(ValueError, match=r"cat: --other, frame 1, joint: prediction of \(1, 5\)"):
        of_maps(tmp_path, {"cat": {**MAPS, "--other": {1: line(0, 0, 0, 0, 0)}}})


def test_a_clip_of_weight_two_counts_as_the_same_clip_twice() -> None:
    pairs = zero_shot.Pairs(A2D, ["adult", "dog"])
    pixels = np.random.default_rng(0).integers(1, 9, (2, 3, len(pairs.ids)))
    pixels[:, 1:] += pixels[:, :1]
    once = zero_shot.MapEvidence(["a", "b"], pixels, pairs)
    twice = zero_shot.MapEvidence(["a", "b", "a"], pixels[[0, 1, 0]], pairs)
    assert once.measure(np.array([2, 1])) == pytest.approx(resampling.values(twice))
    assert once.joined(once).measure(np.array([2, 0, 0, 1])) == pytest.approx(resampling.values(twice))
