"""Segmentation from sentences: which samples there are, their COCO json, and scores counted by hand and by COCOeval."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco
from pycocotools.coco import COCO

from benchmarks.sentences import by_pycocotools
from stages.core import schemas
from stages.core.datasets.sentences import (
    Sample,
    coco_truth,
    predicted_masks,
    samples,
    true_masks,
    video_of,
    write_coco,
)
from stages.core.scores import resampling, sentences
from stages.core.scores.sentences import Comparison, SentenceEvidence, compare

DRAWS = resampling.Parameters(resamples=20, seed=0)


def line(*pixels: int, width: int = 20) -> np.ndarray:
    """(1, width) uint8 mask of the pixels from ``pixels[0]`` to before ``pixels[1]``; without any, nothing."""
    mask = np.zeros((1, width), np.uint8, order="F")
    if pixels:
        mask[0, slice(*pixels)] = 1
    return mask


def counts(mask: np.ndarray) -> bytes:
    return coco.encode(np.asfortranarray(mask, np.uint8))["counts"]


def truth_of(masks: dict[str, np.ndarray]) -> dict[str, Any]:
    """COCO json of masks by image id."""
    asked = [Sample(image_id, "", 0, 0, "it moves", counts(mask), *mask.shape) for image_id, mask in masks.items()]
    return coco_truth(asked)


def predicted(image_id: str, mask: np.ndarray, score: float = 1.0) -> dict[str, Any]:
    segmentation = {"size": list(mask.shape), "counts": counts(mask).decode()}
    return {"image_id": image_id, "category_id": 1, "segmentation": segmentation, "score": score}


def compared(
    truth: dict[str, Any],
    predictions: list[dict[str, Any]],
    against: list[dict[str, Any]] | None = None,
    *,
    count_missing: bool = False,
    at_least: bool = False,
) -> Comparison:
    masks = true_masks(truth, where="truth")
    found = predicted_masks(predictions, masks, where="prediction")
    others = None if against is None else predicted_masks(against, masks, where="against")
    return compare(masks, found, others, count_missing=count_missing, at_least=at_least)


def scores(truth: dict[str, Any], predictions: list[dict[str, Any]], *, at_least: bool = False) -> dict[str, float]:
    return resampling.values(compared(truth, predictions, at_least=at_least).evidence)


# Samples


def tables_of(
    instances: Sequence[tuple[str, int, int, np.ndarray]], told: Sequence[tuple[str, int, str]]
) -> tuple[Any, Any]:
    """Tables of (video, frame from 0, instance, mask) and (video, instance, sentence)."""
    rows = [
        {"video": video, "frame": frame, "instance": instance, "actor": 1, "actions": [7], "x1": 0, "y1": 0, "x2": 1,
         "y2": 1, "height": mask.shape[0], "width": mask.shape[1], "mask": counts(mask)}
        for video, frame, instance, mask in instances
    ]  # fmt: skip
    sentences_told = [{"video": video, "instance": instance, "sentence": text} for video, instance, text in told]
    return schemas.rows_to_table(rows, schemas.INSTANCES), schemas.rows_to_table(sentences_told, schemas.SENTENCES)


def test_a_sample_is_a_frame_with_the_sentence_s_instance_in_it() -> None:
    shown = [("-a_b", 4, 0, line(0, 3)), ("-a_b", 4, 2, line(5, 6)), ("-a_b", 9, 2, line(6, 9))]
    found, left_out = samples(*tables_of(shown, [("-a_b", 2, "dog is running"), ("-a_b", 0, "cat sits")]))
    assert [sample.image_id for sample in found] == ["v_-a_b_f_5_i_2", "v_-a_b_f_10_i_2", "v_-a_b_f_5_i_0"]
    assert [(sample.frame, sample.sentence) for sample in found[:2]] == [(4, "dog is running"), (9, "dog is running")]
    assert np.array_equal(coco.decode(found[1].rle), line(6, 9)) and left_out == {}


def test_later_sentences_of_one_instance_have_ids_of_their_own() -> None:
    told = [("a", 0, "dog"), ("b", 0, "cat"), ("a", 0, "brown dog"), ("a", 0, "dog runs")]
    found, _ = samples(*tables_of([("a", 0, 0, line(0, 3)), ("b", 0, 0, line(0, 3))], told))
    assert [sample.image_id for sample in found] == ["v_a_f_1_i_0", "v_b_f_1_i_0", "v_a_f_1_i_0_s_2", "v_a_f_1_i_0_s_3"]
    assert [video_of(sample.image_id) for sample in found] == ["a", "b", "a", "a"]


def test_an_id_that_stands_twice_in_a_frame_loses_its_last_instance() -> None:
    """As in the real release: test video EadxBPmQvtg, frame 25."""
    shown = [("EadxBPmQvtg", 24, instance, line(instance, instance + 1)) for instance in (*range(10), 1)]
    shown[-1] = ("EadxBPmQvtg", 24, 1, line(15, 20))
    found, left_out = samples(*tables_of(shown, [("EadxBPmQvtg", 1, "ball")]))
    assert len(found) == 1 and np.array_equal(coco.decode(found[0].rle), line(1, 2))
    assert list(left_out) == ["EadxBPmQvtg/00025, instance 1"] and "twice" in left_out["EadxBPmQvtg/00025, instance 1"]


def test_an_all_zero_mask_and_an_instance_never_seen_are_no_samples_and_told() -> None:
    found, left_out = samples(
        *tables_of([("a", 0, 0, line()), ("a", 3, 0, line(1, 2))], [("a", 0, "dog"), ("a", 5, "cat"), ("b", 0, "car")])
    )
    assert [sample.image_id for sample in found] == ["v_a_f_4_i_0"]
    assert {name: reason.split()[-1] for name, reason in left_out.items()} == {
        "a/00001, instance 0": "zero",
        "a, instance 5": "frame",
        "b, instance 0": "frame",
    }


@pytest.mark.parametrize(
    ("image_id", "video"),
    [
        ("v_-4KM_Us-SAQ_f_28_i_0", "-4KM_Us-SAQ"),
        ("v_--x_f_1_i_12_s_2", "--x"),
        ("v_a_f_3_i_1_f_2_i_0", "a_f_3_i_1"),
        ("v_April_09_brush_hair_u_nm_np1_ba_goo_0_f_7", "April_09_brush_hair_u_nm_np1_ba_goo_0"),  # MTTR's J-HMDB
    ],
)
def test_the_video_is_read_out_of_an_image_id(image_id: str, video: str) -> None:
    assert video_of(image_id) == video


def test_an_image_id_of_another_form_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="`a/00001` is not v_<video>_f_<frame>_i_<instance>"):
        video_of("a/00001")


# COCO json


def test_the_truth_is_coco_json_that_pycocotools_reads_back(tmp_path: Path) -> None:
    mask = np.zeros((4, 6), np.uint8)
    mask[1:3, 2:5] = 1
    found, _ = samples(*tables_of([("a", 0, 0, mask), ("a", 1, 0, mask.T)], [("a", 0, "dog")]))
    for name in ("one", "two"):
        write_coco(tmp_path / name, coco_truth(found))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    read = COCO(str(tmp_path / "one"))
    assert [image["id"] for image in read.imgs.values()] == ["v_a_f_1_i_0", "v_a_f_2_i_0"]
    first = read.anns[1]
    assert np.array_equal(read.annToMask(first), mask)
    assert (first["image_id"], first["area"], first["bbox"]) == ("v_a_f_1_i_0", 6, [2, 1, 3, 2])
    assert (first["category_id"], first["iscrowd"]) == (1, 0)


def test_the_written_truth_is_read_as_the_same_masks(tmp_path: Path) -> None:
    truth = truth_of({"v_b_f_1_i_0": line(0, 3), "v_a_f_1_i_0": line(4, 9)})
    write_coco(tmp_path / "truth.json", truth)
    read = true_masks((tmp_path / "truth.json").read_bytes(), where="truth")
    assert read == true_masks(truth, where="truth")
    assert np.array_equal(coco.decode(read["v_a_f_1_i_0"]), line(4, 9))


def refused(change: dict[str, Any]) -> str:
    """The message for a prediction of a 1 x 20 mask with ``change``."""
    masks = true_masks(truth_of({"v_a_f_1_i_0": line(0, 3)}), where="truth.json")
    prediction = json.dumps([predicted("v_a_f_1_i_0", line(0, 3)), predicted("v_a_f_1_i_0", line(0, 3)) | change])
    with pytest.raises(ValueError, match=r"prediction\.json: ") as error:
        predicted_masks(prediction.encode(), masks, where="prediction.json")
    return str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "d",  # 20 pixels, cut off: 32 + 20 says that more follows
        "d0!",  # a character that is none
        "d0€",
        "c0",  # 19 pixels of 20
        "e0",
        "b0O3",  # 18, then -1, then 3
        "PPPPPPP0",  # longer than any run
    ],
)
def test_malformed_run_lengths_are_an_error_before_pycocotools_sees_them(wrong: str) -> None:
    message = refused({"segmentation": {"size": [1, 20], "counts": wrong}})
    assert "image `v_a_f_1_i_0`: its counts are no compressed RLE of 1 x 20 pixels" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image_id": "v_a_f_1_i_1"},
            "image id `v_a_f_1_i_1` is not in the truth; did you mean one like",
        ),
        ({"image_id": 7}, "1.image_id: Input should be a valid string"),
        ({"segmentation": {"size": [20, 1], "counts": "d0"}}, "mask of [20, 1] for a truth of [1, 20]"),
        ({"segmentation": {"size": [1, 20], "counts": [20]}}, "1.segmentation.counts: Input should be a valid string"),
        ({"segmentation": [[0, 0, 3, 0, 3, 1]]}, "1.segmentation: "),
        ({"score": math.nan}, "1.score: Input should be a finite number"),
        ({"score": None}, "1.score: "),
    ],
    ids=["unknown image", "id is a number", "another resolution", "counts as a list", "polygon", "nan", "no score"],
)
def test_a_prediction_that_is_none_is_a_clear_error(change: dict[str, Any], message: str) -> None:
    assert message in refused(change)


def test_a_file_that_is_no_list_of_predictions_is_a_clear_error(tmp_path: Path) -> None:
    write_coco(tmp_path / "truth.json", truth_of({"v_a_f_1_i_0": line(0, 3)}))
    for content, message in (("{}", "valid array"), ("[", "Invalid JSON"), ("[]", "nothing can be scored")):
        (tmp_path / "prediction.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            sentences.load(tmp_path / "truth.json", tmp_path / "prediction.json")
    with pytest.raises(ValueError, match=r"absent\.json is no file"):
        sentences.load(tmp_path / "truth.json", tmp_path / "absent.json")


def test_a_truth_with_other_than_one_mask_an_image_is_a_clear_error() -> None:
    truth = truth_of({"v_a_f_1_i_0": line(0, 3), "v_b_f_1_i_0": line(0, 3)})
    one, other = truth["annotations"]
    for annotations, message in (
        ([one, other, other], "`v_b_f_1_i_0` has two annotations"),
        ([one], "1 images have no annotation, `v_b_f_1_i_0` first"),
        ([one, other | {"image_id": "v_c_f_1_i_0"}], "`v_c_f_1_i_0`: not listed in `images`"),
        ([one, other | {"iscrowd": 1}], "annotations.1.iscrowd: Input should be 0"),
    ):
        with pytest.raises(ValueError, match=message):
            true_masks(truth | {"annotations": annotations}, where="truth")


@given(mask=arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 40)), elements=st.integers(0, 1)))
def test_every_mask_that_pycocotools_encodes_is_taken_in_str_and_in_bytes(mask: np.ndarray) -> None:
    masks = true_masks(truth_of({"v_a_f_1_i_0": mask}), where="truth")
    as_str, as_bytes = predicted("v_a_f_1_i_0", mask), predicted("v_a_f_1_i_0", mask)
    as_bytes["segmentation"]["counts"] = counts(mask)
    read = [predicted_masks([form], masks, where="prediction") for form in (as_str, as_bytes)]
    assert read[0] == read[1]
    assert np.array_equal(coco.decode(read[0]["v_a_f_1_i_0"][0][1]), mask)


@settings(max_examples=300)
@given(text=st.text(st.characters(min_codepoint=46, max_codepoint=112), max_size=5))
def test_any_text_is_either_refused_or_a_mask_of_all_its_pixels(text: str) -> None:
    masks = true_masks(truth_of({"v_a_f_1_i_0": line(0, 3)}), where="truth")
    wrong = predicted("v_a_f_1_i_0", line()) | {"segmentation": {"size": [1, 20], "counts": text}}
    try:
        (((_, rle),),) = predicted_masks([wrong], masks, where="prediction").values()
    except ValueError:
        return
    # The last of the run lengths that pycocotools reads ends at the last pixel: their complement is the others' sum.
    assert coco.area(rle) == coco.decode(rle).sum() <= 20


# Scores


TWO = truth_of({"v_a_f_1_i_0": line(0, 13), "v_b_f_1_i_0": line(0, 4)})
"""Two samples of 13 and 4 pixels."""
FOUND = [predicted("v_a_f_1_i_0", line(0, 10), 0.9), predicted("v_b_f_1_i_0", line(2, 6), 0.1)]
"""I 10 of U 13 (.77), and I 2 of U 6 (.33)."""


def test_scores_are_those_counted_by_hand() -> None:
    found = scores(TWO, FOUND)
    assert found == pytest.approx(
        {
            "precision@0.5": 50,
            "precision@0.6": 50,
            "precision@0.7": 50,
            "precision@0.8": 0,
            "precision@0.9": 0,
            "overall_iou": 100 * 12 / 19,
            "mean_iou": 100 * (10 / 13 + 2 / 6) / 2,
            # .77 is above .50, .55, .60, .65, .70 and .75: half of the samples at six of ten overlaps.
            "map": 30,
            # At those six the first prediction is right, the second not: precision 1 at recalls 0, .01, ..., .50.
            "coco_map": 100 * 51 / 101 * 6 / 10,
        },
        abs=1e-4,
    )


def test_a_wrong_prediction_with_the_higher_score_costs_coco_s_map_alone() -> None:
    """Precision 1/2 at recalls up to .50."""
    swapped = [prediction | {"score": 1 - prediction["score"]} for prediction in FOUND]
    found = scores(TWO, swapped)
    assert found["coco_map"] == pytest.approx(100 * 51 / 101 * 6 / 10 / 2)
    assert found | {"coco_map": 0} == scores(TWO, FOUND) | {"coco_map": 0}


def test_an_overlap_of_exactly_k_counts_only_where_at_least_k_is_asked_for() -> None:
    """I 12 of U 20: .60."""
    truth, found = truth_of({"v_a_f_1_i_0": line(0, 20)}), [predicted("v_a_f_1_i_0", line(0, 12))]
    above, at_least = scores(truth, found), scores(truth, found, at_least=True)
    assert (above["precision@0.5"], above["precision@0.6"], above["map"]) == (100, 0, 20)
    assert (at_least["precision@0.6"], at_least["precision@0.7"], at_least["map"]) == (100, 0, 30)


def test_nothing_predicted_where_nothing_is_overlaps_wholly() -> None:
    truth = truth_of({"v_a_f_1_i_0": line(), "v_b_f_1_i_0": line(0, 4)})
    found = scores(truth, [predicted("v_a_f_1_i_0", line()), predicted("v_b_f_1_i_0", line(0, 1))])
    assert found["mean_iou"] == pytest.approx(100 * (1 + 1 / 4) / 2, abs=1e-4)
    assert found["precision@0.9"] == 50 and found["overall_iou"] == 25


def test_an_empty_prediction_is_a_prediction_that_finds_nothing() -> None:
    found = scores(TWO, [FOUND[0], predicted("v_b_f_1_i_0", line(), 0.95)])
    assert found["mean_iou"] == pytest.approx(100 * 10 / 13 / 2, abs=1e-4)
    assert found["overall_iou"] == pytest.approx(100 * 10 / 17)
    assert found["coco_map"] == pytest.approx(100 * 51 / 101 * 6 / 10 / 2)


def test_one_pixel_is_found_or_missed_as_any_mask() -> None:
    truth = truth_of({"v_a_f_1_i_0": line(7, 8)})
    assert min(scores(truth, [predicted("v_a_f_1_i_0", line(7, 8))]).values()) == pytest.approx(100)
    assert max(scores(truth, [predicted("v_a_f_1_i_0", line(8, 9))]).values()) == pytest.approx(0, abs=1e-4)


def test_of_several_predictions_the_best_scored_counts_and_coco_s_map_sees_all() -> None:
    """The right one is second: precision 1/2 at every recall; another right one after it changes nothing."""
    truth = truth_of({"v_a_f_1_i_0": line(0, 10)})
    wrong, right = predicted("v_a_f_1_i_0", line(5, 10), 0.9), predicted("v_a_f_1_i_0", line(0, 10), 0.8)
    for found in (scores(truth, [wrong, right]), scores(truth, [wrong, right, right | {"score": 0.1}])):
        assert found["mean_iou"] == pytest.approx(50, abs=1e-4) and found["precision@0.5"] == 0
        assert found["coco_map"] == pytest.approx(50 + 1 / 10 * 50)  # at .50 the wrong one is right too
    assert scores(truth, [wrong | {"score": 0.8}, right])["mean_iou"] == 100  # of equal scores the last


def test_a_sample_without_prediction_is_an_error_or_counted_but_never_a_zero() -> None:
    with pytest.raises(ValueError, match="1 of 2 samples have no prediction, `v_b_f_1_i_0` first"):
        compared(TWO, FOUND[:1])
    found = compared(TWO, FOUND[:1], count_missing=True)
    assert (len(found.evidence.samples), found.of, found.evidence.clips) == (1, 2, ("a",))
    alone = scores(truth_of({"v_a_f_1_i_0": line(0, 13)}), FOUND[:1])
    assert resampling.values(found.evidence) == alone


MASKS = arrays.arrays(np.uint8, (1, 6), elements=st.integers(0, 1))
SCORES = st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9])  # few, so that they are often equal


@st.composite
def cases(draw: st.DrawFn, *, methods: int = 1) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
    """Truth of some samples of some videos, and one to three predictions of each by every method."""
    ids = [f"v_{video}_f_{frame + 1}_i_0" for video in "abc"[: draw(st.integers(1, 3))] for frame in range(2)]
    truth = truth_of({image_id: draw(MASKS) for image_id in ids})
    several = st.lists(st.tuples(MASKS, SCORES), min_size=1, max_size=3)
    found = [[predicted(i, mask, score) for i in ids for mask, score in draw(several)] for _ in range(methods)]
    return truth, found


@settings(deadline=None, max_examples=60)
@given(case=cases())
def test_scores_are_those_of_pycocotools_and_of_mttr_s_loop(case: tuple[dict[str, Any], list[Any]]) -> None:
    truth, (found,) = case
    ours = scores(truth, found)
    if math.isnan(ours["overall_iou"]):  # no pixel anywhere
        return
    theirs = by_pycocotools(json.loads(json.dumps(truth)), json.loads(json.dumps(found)))
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(masks=st.lists(MASKS.filter(np.any), min_size=1, max_size=5))
def test_a_perfect_prediction_scores_100_in_everything(masks: list[np.ndarray]) -> None:
    of = {f"v_{video}_f_1_i_0": mask for video, mask in enumerate(masks)}
    found = scores(truth_of(of), [predicted(image_id, mask) for image_id, mask in of.items()])
    assert found == pytest.approx(dict.fromkeys(found, 100))


@settings(deadline=None, max_examples=30)
@given(case=cases(), data=st.data())
def test_the_order_of_samples_changes_nothing(case: tuple[dict[str, Any], list[Any]], data: st.DataObject) -> None:
    truth, (found,) = case
    other = {name: data.draw(st.permutations(rows)) for name, rows in truth.items()}
    ids = data.draw(st.permutations([image["id"] for image in truth["images"]]))
    # A method's predictions of one sample keep their order: it says which of equal scores comes first.
    reordered = [prediction for image_id in ids for prediction in found if prediction["image_id"] == image_id]
    first, second = compared(truth, found).evidence, compared(other, reordered).evidence
    assert first.clips == second.clips
    assert np.array_equal(first.samples, second.samples) and np.array_equal(first.predictions, second.predictions)


def same(first: dict[str, float], second: dict[str, float]) -> bool:
    return first == pytest.approx(second, abs=1e-9, nan_ok=True)


@settings(deadline=None, max_examples=30)
@given(case=cases())
def test_a_weight_of_two_is_the_clip_twice_and_of_zero_its_absence(case: tuple[dict[str, Any], list[Any]]) -> None:
    truth, (found,) = case
    evidence = compared(truth, found).evidence
    weights = np.arange(len(evidence.clips)) % 3.0
    twice: SentenceEvidence | None = None
    for position, weight in enumerate(weights):
        for _ in range(int(weight)):
            alone = evidence.only(evidence.samples["clip"] == position)
            twice = alone if twice is None else twice.joined(alone)
    if twice is not None:
        assert same(evidence.measure(weights), resampling.values(twice))
    joined = evidence.joined(evidence)
    assert same(joined.measure(np.repeat([0.0, 1.0], len(evidence.clips))), resampling.values(evidence))
    assert math.isnan(evidence.measure(np.zeros(len(weights)))["coco_map"])


@settings(deadline=None, max_examples=30)
@given(case=cases(methods=2), data=st.data())
def test_traded_clips_score_as_the_traded_predictions(
    case: tuple[dict[str, Any], list[Any]], data: st.DataObject
) -> None:
    truth, (one, other) = case
    found = compared(truth, one, other)
    assert found.against is not None
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(found.evidence.clips), max_size=3)))
    kept = kept[: len(found.evidence.clips)].astype(float)
    position = {clip: number for number, clip in enumerate(found.evidence.clips)}
    mixed = [
        *(prediction for prediction in one if kept[position[video_of(prediction["image_id"])]]),
        *(prediction for prediction in other if not kept[position[video_of(prediction["image_id"])]]),
    ]
    traded = found.evidence.joined(found.against).measure(np.concatenate([kept, 1 - kept]))
    assert same(traded, scores(truth, mixed))


# The whole result


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Six videos with masks of 2, 4, ..., 12 pixels; a method that finds all, one that finds the first two pixels."""
    masks = {f"v_{video}_f_1_i_0": line(0, 2 + 2 * number) for number, video in enumerate("abcdef")}
    contents = {
        "truth": truth_of(masks),
        "all": [predicted(image_id, mask) for image_id, mask in masks.items()],
        "some": [predicted(image_id, line(0, 2)) for image_id in masks],
    }
    for name, content in contents.items():
        write_coco(tmp_path / f"{name}.json", content)
    return tmp_path / "truth.json", tmp_path / "all.json", tmp_path / "some.json"


def test_the_result_has_intervals_sizes_and_coverage_and_is_json(files: tuple[Path, Path, Path]) -> None:
    """Overlaps 1, 1/2 (2 and 4 pixels: small), 1/3, 1/4 (medium), 1/5, 1/6 (large)."""
    truth, _, some = files
    found = json.loads(json.dumps(sentences.run(truth, some, parameters=DRAWS), allow_nan=False))
    assert found["coverage"] == {"scored": 6, "of": 6, "clips": 6}
    assert found["mean_iou_low"] < found["mean_iou"] < found["mean_iou_high"]
    assert found["overall_iou"] == pytest.approx(100 * 12 / 42)
    by_size = found["by_size"]
    assert by_size["thresholds"] == [4, 8]
    assert [by_size[size]["samples"] for size in ("small", "medium", "large")] == [2, 2, 2]
    assert [by_size[size]["overall_iou"] for size in ("small", "medium", "large")] == pytest.approx(
        [100 * 4 / 6, 100 * 4 / 14, 100 * 4 / 22]
    )


def test_two_methods_are_compared_on_the_samples_that_both_have(files: tuple[Path, Path, Path]) -> None:
    truth, everything, some = files
    partly = json.loads(some.read_text())[1:]
    write_coco(some, partly)
    with pytest.raises(ValueError, match="1 of 6 samples have no prediction"):
        sentences.run(truth, everything, against=some, parameters=DRAWS)
    found = sentences.run(truth, everything, against=some, count_missing=True, parameters=DRAWS)
    assert found["coverage"] == {"scored": 5, "of": 6, "clips": 5}
    # On b to f: 40 pixels, of which the other finds 10.
    assert found["against"]["overall_iou"]["difference"] == pytest.approx(100 - 25)
    assert found["by_size"]["thresholds"] == [4, 8] and found["by_size"]["small"]["samples"] == 1
    assert found["by_size"]["large"]["against"]["overall_iou"]["difference"] == pytest.approx(100 - 100 * 4 / 22)


def test_equal_masks_are_all_small_and_the_other_sizes_have_no_scores(tmp_path: Path) -> None:
    masks = {f"v_{video}_f_1_i_0": line(0, 5) for video in "abc"}
    write_coco(tmp_path / "truth.json", truth_of(masks))
    write_coco(tmp_path / "all.json", [predicted(image_id, mask) for image_id, mask in masks.items()])
    by_size = sentences.run(tmp_path / "truth.json", tmp_path / "all.json", parameters=DRAWS)["by_size"]
    assert by_size["small"]["mean_iou"] == 100
    assert by_size["medium"] == by_size["large"] == {"samples": 0}
