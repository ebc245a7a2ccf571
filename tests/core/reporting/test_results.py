"""What evaluate found, as the report reads it: rows of results.csv, the oracle, and zero-shot splits."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages import report
from stages.core import runs
from stages.core.datasets.labels import A2D
from stages.core.reporting import results, sections
from stages.core.reporting.results import Result
from stages.core.scores import resampling, segmentation
from stages.core.scores.confusion import Confusions
from tests.help.boxes import detection, write_detections, write_index

DRAWS = resampling.Parameters(resamples=20, seed=0)


def confusions(*clips: dict[tuple[int, int], int]) -> Confusions:
    """(truth, predicted) -> pixels, clip by clip."""
    matrices = np.zeros((len(clips), A2D.ids, A2D.ids), np.int64)
    for position, cells in enumerate(clips):
        for cell, pixels in cells.items():
            matrices[position][cell] = pixels
    return Confusions([f"clip{position}" for position in range(len(clips))], {"joint": matrices}, A2D)


def result(variant: str, found: Confusions) -> Result:
    run = runs.Run(f"deeplab-rgb-{variant}-0", "deeplab", "rgb", variant, 0, None)
    parts = {"all": found, "non_boundary": found, "small": found, "medium": found, "large": found}
    scores = segmentation.summary(segmentation.Comparison(parts, None, 3, 3), DRAWS)
    return Result(run, scores | {"coverage": {"scored": 3, "of": 4}}, found)


FULL = result("full", confusions({(0, 0): 8, (17, 17): 3, (17, 0): 1}, {(0, 0): 4, (66, 68): 2}))


def test_every_figure_is_a_row_with_its_coverage() -> None:
    rows = {(row[3], row[5]): (row[6], row[7]) for row in results.rows("sample", FULL)}
    assert rows["full", "actor/global_accuracy"] == (pytest.approx(100 * 17 / 18), "3/4")
    assert ("full", "joint/mean_iou_low") in rows


def test_a_pair_s_accuracy_and_scores_without_boundaries_stand_where_the_paper_has_them() -> None:
    """Dang et al. 2018: table 5 has each pair's accuracy, table 2 is the variant `non-boundary`."""
    rows = {(row[3], row[5]): row[6] for row in results.rows("sample", FULL)}
    assert rows["full", "accuracy/adult-running"] == 75 and rows["full", "accuracy/cat-rolling"] == 0
    assert rows["non-boundary", "joint/mean_iou"] == rows["full", "joint/mean_iou"]


def test_zero_shot_scores_each_pair_on_the_run_that_held_its_actor_out() -> None:
    """Without the adult's actions 17 is called 18; without the cat's 66 is right in 1 of 2 pixels."""
    adult = result("without_adult", confusions({(0, 0): 8, (17, 18): 4}, {(0, 0): 4, (66, 66): 2}))
    cat = result("without_cat", confusions({(0, 0): 8, (17, 17): 4}, {(0, 0): 4, (66, 66): 1, (66, 68): 1}))
    evidence = results.zero_shot([FULL, adult, cat])
    assert list(evidence) == ["deeplab, rgb, 0"]
    values = resampling.values(evidence["deeplab, rgb, 0"])
    assert (values["adult/class_accuracy"], values["cat/class_accuracy"]) == (0, 50)
    assert values["class_accuracy"] == 25  # of two pairs


def test_without_runs_that_held_an_actor_out_there_is_no_zero_shot() -> None:
    assert results.zero_shot([FULL]) == {}


def test_the_report_shows_zero_shot_splits_and_says_over_how_many_pairs() -> None:
    adult = result("without_adult", confusions({(17, 17): 3, (17, 18): 1}))
    lines = sections.zero_shot([adult], DRAWS)
    assert lines[-1].startswith("| deeplab, rgb, 0 | 75.0 |") and "| 1 of 43 | adult 75.0 |" in lines[-1]
    assert sections.zero_shot([FULL], DRAWS) == []


def test_what_was_not_told_an_actor_s_actions_is_compared_in_zero_shot_s_own_section_alone() -> None:
    adult = result("without_adult", confusions({(17, 17): 3, (17, 18): 1}))
    lines = report._comparisons({one.run.name: one for one in (FULL, adult)}, results.oracle([FULL]), DRAWS)
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| deeplab-rgb-full-0 against the oracle"]


def detected(variant: str, averages: dict[str, float], found: Path | None = None) -> Result:
    """A run of `joint` whose detections score ``averages`` (pair, actor, action), and nothing for large actors."""
    values = {f"{kind}_map{bound}": value for kind, value in averages.items() for bound in ("", "_low", "_high")}
    none = dict.fromkeys(values)
    scores = {**values, "classes": {"pair": 43, "actor": 7, "action": 8}}
    by_size = {"thirds": [4, 9], "small": values, "medium": values, "large": none}
    run = runs.Run(f"joint-rgb-{variant}-0", "joint", "rgb", variant, 0)
    metrics = FULL.metrics | {"detection": scores | {"by_size": by_size}}
    return Result(run, metrics, FULL.confusions, detections=found or Path("detections.parquet"))


AVERAGES = {"pair": 12.34, "actor": 40.0, "action": 20.0}


def test_mean_average_precisions_are_rows_with_their_intervals_and_by_size() -> None:
    rows = {row[5]: row[6] for row in results.rows("sample", detected("full", AVERAGES))}
    assert (rows["detection/pair_map"], rows["detection/actor_map_low"]) == (12.34, 40)
    assert (rows["small/detection/action_map"], rows["large/detection/pair_map"]) == (20, None)
    assert not any("detection" in row[5] for row in results.rows("sample", FULL))


def test_the_report_shows_detection_over_how_many_classes_and_leaves_out_who_finds_no_boxes() -> None:
    lines = sections.detection([FULL, detected("full", AVERAGES)])
    assert "43 pairs, 7 actors, 8 actions" in lines[0]
    assert lines[-1] == "| joint-rgb-full-0 | 12.3 | 12.3 to 12.3 | 40.0 | 40.0 to 40.0 | 20.0 | 20.0 to 20.0 |"
    assert len(lines) == 5 and sections.detection([FULL]) == []


def test_zero_shot_by_boxes_scores_each_pair_on_its_actor_s_model_and_each_variant_apart(tmp_path: Path) -> None:
    """The model without the adult's actions finds the running adult; in a joint space it says that it is a dog."""
    box, other = (10, 10, 30, 20), (110, 10, 130, 20)
    index = write_index(tmp_path / "index", {"clip": {0: [(box, 17)]}, "--other": {0: [(other, 78)]}})
    found = {
        "without_adult": [detection("clip", 0, box, 17), detection("--other", 0, box, 78)],
        "without_dog": [detection("--other", 0, other, 76)],
        "joint_space-without_adult": [detection("clip", 0, box, 78)],
    }
    given = [
        detected(
            variant, AVERAGES, write_detections(tmp_path / f"{variant}.parquet", rows, looked_at=["clip", "--other"])
        )
        for variant, rows in found.items()
    ]
    evidence = results.zero_shot_by_boxes([*given, detected("full", AVERAGES)], index)
    assert list(evidence) == ["joint, rgb, 0", "joint joint_space, rgb, 0"]
    values = resampling.values(evidence["joint, rgb, 0"])
    assert (values["adult/pair_map"], values["dog/pair_map"], values["pair_map"]) == (100, 0, 50)
    lines = sections.zero_shot_by_boxes(given, index, DRAWS)
    assert lines[-2].startswith("| joint, rgb, 0 | 50.0 |") and lines[-2].endswith("| 2 of 43 | adult 100.0, dog 0.0 |")
    assert lines[-1].startswith("| joint joint_space, rgb, 0 | 0.0 |") and "| 1 of 43 | adult 0.0 |" in lines[-1]
    assert sections.zero_shot_by_boxes([FULL], tmp_path / "nowhere", DRAWS) == []


def test_the_oracle_is_that_of_the_run_that_covers_most() -> None:
    found = results.oracle([FULL])
    assert found is not None and found.coverage == "3/4" and found.scores["actor"].mean_iou == 100
    assert results.oracle([]) is None


def test_a_run_that_was_not_evaluated_has_no_results(tmp_path: Path) -> None:
    run = runs.Run("sentence-rgb-full-0", "sentence", "rgb", "full", 0)
    assert results.read_all({run.name: run}, tmp_path, A2D) == {}
    (tmp_path / run.name).mkdir()
    (tmp_path / run.name / "metrics.json").write_text(json.dumps(ASKED))
    assert list(results.read_all({run.name: run}, tmp_path, A2D)) == [run.name]


ASKED = {
    "sentences": {
        "overall_iou": 50.0, "overall_iou_low": 40.0, "coco_map": None,
        "by_size": {"thresholds": [4, 9], "small": {"samples": 0}, "medium": {"samples": 2, "map": 12.0},
                    "large": {"samples": 1, "map": 24.0}},
        "coverage": {"scored": 3, "of": 4, "clips": 2},
    },
    "emptiness": {"asked": {"share": 9.0, "empty": 0.0, "samples": 3}, "left": {"share": 2.0, "empty": 60.0,
                                                                                 "samples": 5}},
    "unknown_words": {},
    "coverage": {"scored": 3, "of": 4, "clips": 2},
}  # fmt: skip


def test_figures_of_sentences_are_rows_by_size_too_and_counts_are_none() -> None:
    run = runs.Run("sentence-rgb-lstm-1", "sentence", "rgb", "lstm", 1)
    rows = results.rows("sample", Result(run, ASKED, None))
    assert {row[:5] for row in rows} == {("sample", "sentence", "rgb", "lstm", 1)} and {row[7] for row in rows} == {
        "3/4"
    }
    assert {row[5]: row[6] for row in rows} == {
        "sentence/overall_iou": 50, "sentence/overall_iou_low": 40, "sentence/coco_map": None,
        "medium/sentence/map": 12, "large/sentence/map": 24, "emptiness/asked/share": 9, "emptiness/asked/empty": 0,
        "emptiness/left/share": 2, "emptiness/left/empty": 60,
    }  # fmt: skip


def test_the_mean_average_precision_of_videos_is_a_row_and_no_pair_is() -> None:
    scores = {
        "mean_average_precision": 70.0, "mean_average_precision_high": 75.0, "pairs": 43,
        "per_pair": {"adult-running": {"average_precision": 60.0, "videos": 3}},
        "by_size": {size: {"videos": 4, "mean_average_precision": 65.0, "pairs": 9}
                    for size in ("small", "medium", "large")},
    }  # fmt: skip
    run = runs.Run("video_classifier-rgb-full-0", "video_classifier", "rgb", "full", 0)
    metrics = {"classification": scores, "coverage": {"scored": 4, "of": 4, "clips": 4}}
    found = {row[5]: row[6] for row in results.rows("sample", Result(run, metrics, None))}
    assert found == {
        "classification/mean_average_precision": 70, "classification/mean_average_precision_high": 75,
        **{f"{size}/classification/mean_average_precision": 65 for size in ("small", "medium", "large")},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "variant", "section"),
    [
        ("deeplab", "full", "joint"),
        ("hu2016", "full", "sentences"),
        ("sentence", "fixed_vocabulary", "joint"),
        ("video_classifier", "full", "classification"),
    ],
)
def test_a_method_on_sentences_that_is_asked_for_names_of_classes_labels_pixels(
    method: str, variant: str, section: str
) -> None:
    assert results.section(runs.Run("", method, "rgb", variant, 0)) == section


def test_the_oracle_does_not_look_at_runs_that_label_no_pixel() -> None:
    """They count sentences, of which there may be more than frames."""
    run = runs.Run("sentence-rgb-full-0", "sentence", "rgb", "full", 0)
    asked = Result(run, ASKED | {"coverage": {"scored": 900, "of": 900, "clips": 2}}, None)
    assert results.oracle([asked]) is None
    found = results.oracle([asked, FULL])
    assert found is not None and found.coverage == "3/4"


def test_the_report_shows_how_wrong_each_backend_of_flow_is(tmp_path: Path) -> None:
    values = {"endpoint_error": 1.25, "fl_all": 30.0}
    cells = [
        ("generated 64 x 96", backend, speed, metric, value)
        for backend in ("zero", "dis")
        for speed in ("all", "under_10", "10_to_40", "over_40")
        for metric, value in values.items()
    ]
    columns = ["pairs", "backend", "speed", "metric", "value"]
    pd.DataFrame(cells, columns=columns).to_csv(tmp_path / "scores.csv", index=False)
    lines = sections.flow(tmp_path)
    assert "| generated 64 x 96 | dis | 1.25 | 1.25 | 1.25 | 1.25 | 30.0 |" in lines
    assert sections.flow(tmp_path / "nowhere") == []


def test_the_report_shows_how_good_region_masks_are_and_leaves_out_what_was_not_measured(tmp_path: Path) -> None:
    sized = {size: {"covered": value} for size, value in (("small", 10), ("medium", 50), ("large", None))}
    scores = {"regions_per_frame": 3.25, "ap": 20.0, "ap50": 40.0, "recall": 30.0, "covered": 45.0}
    for name, content in {"fcis-own": scores | {"by_size": sized, "actor_ap": 15, "actor_ap50": 35}, "x": {}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(content))
    lines = sections.regions(tmp_path)
    assert lines[-1] == "| fcis-own | 3.2 | 20.0 | 40.0 | 30.0 | 45.0 | 10.0 | 50.0 |  | 15.0 | 35.0 |"
    assert sections.regions(tmp_path / "x") == []


def test_the_report_shows_whether_an_actor_has_a_single_action() -> None:
    told = {"found": 90.0, "single": 60.0, "single_low": 50.0, "single_high": 70.0, "purity": 95.0}
    consistent = Result(FULL.run, FULL.metrics | {"consistency": told}, FULL.confusions)
    assert sections.consistency([consistent])[-1] == "| deeplab-rgb-full-0 | 90.0 | 60.0 | 50.0 to 70.0 | 95.0 |"
    assert sections.consistency([FULL]) == []
