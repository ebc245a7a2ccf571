"""Figures 1 and 3 of Rana and Rawat: which points they have, and that they are drawn."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from stages.core.reporting import figures, ledger

MODEL = ["method", "inputs"]


def results(*rows: tuple[str, str, str, int, str, float]) -> pd.DataFrame:
    """From (method, inputs, variant, seed, metric, value)."""
    return pd.DataFrame(rows, columns=[*MODEL, "variant", "seed", "metric", "value"])


def profile(folder: Path, method: str, inputs: str, config: str, *, milliseconds: float, alone: bool = True) -> None:
    content = {
        "method": method, "inputs": inputs, "config": config, "alone": alone, "parameters": 2_500_000,
        "ms_per_frame": {"without_flow": milliseconds - 1, "with_flow": milliseconds},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{method}-{inputs}-{config}.json").write_text(json.dumps(content))


def all_published() -> pd.DataFrame:
    nothing = pd.DataFrame(columns=["dataset", *MODEL, "variant", "seed", "metric", "value", "coverage"])
    return ledger.ledger(ledger.load(), nothing, dataset="sample", config="small")


SCORES = results(
    ("ssa2d", "rgb", "full", 0, "joint/mean_iou", 10),
    ("ssa2d", "rgb", "full", 1, "joint/mean_iou", 14),
    ("ssa2d", "rgb", "without_atrous", 0, "joint/mean_iou", 2),
    ("deeplab", "rgb", "full", 0, "joint/mean_iou", 8),
)


def test_a_point_is_a_plain_method_s_mean_over_seeds_and_its_time_with_flow(tmp_path: Path) -> None:
    profile(tmp_path, "ssa2d", "rgb", "small", milliseconds=20)
    profile(tmp_path, "ssa2d", "rgb", "paper", milliseconds=999)
    found = figures.speeds(SCORES, figures.profiles(tmp_path, config="small")).set_index("method")
    ours = found.loc["ssa2d"]
    assert (ours["joint/mean_iou"], ours["ms_per_frame/total"], ours["parameters_millions"]) == (12, 20, 2.5)
    assert found.loc["deeplab", "joint/mean_iou"] == 8 and pd.isna(found.loc["deeplab", "ms_per_frame/total"])


def test_the_published_points_are_those_that_the_paper_prints_both_numbers_of() -> None:
    points = figures.published_speeds(all_published()).set_index(MODEL)
    printed = {name: (row["ms_per_frame/total"], row["joint/mean_iou"]) for name, row in points.iterrows()}
    assert printed == {
        ("ssa2d", "rgb"): (67, 34.6), ("ssa2d", "rgb+flow"): (180, 39.5), ("region_masks", "rgb"): (750, 34.5),
        ("region_masks", "rgb+flow"): (1100, 38.6), ("joint", "rgb+flow"): (350, 36.9),
    }  # fmt: skip


def test_the_numbers_of_figure_1_stand_beside_the_published_ones_and_say_what_is_missing(tmp_path: Path) -> None:
    profile(tmp_path, "ssa2d", "rgb", "small", milliseconds=20, alone=False)
    here = figures.speeds(SCORES, figures.profiles(tmp_path, config="small"))
    lines = figures.speeds_markdown(here, figures.published_speeds(all_published()))
    assert "| ssa2d | rgb | 20.0 (67.0) | 50.0 (14.9) | 12.0 (34.6) |" in lines
    assert "| deeplab | rgb | not profiled | not profiled | 8.0 |" in lines
    assert "| joint | rgb+flow | not profiled (350.0) | not profiled (2.9) | not run (36.9) |" in lines
    assert "Not measured alone, repeat: ssa2d rgb." in lines[-1]


PAIRS = results(
    ("ssa2d", "rgb", "full", 0, "accuracy/background", 99), ("ssa2d", "rgb+flow", "full", 0, "accuracy/background", 99),
    ("ssa2d", "rgb", "full", 0, "accuracy/dog-none", 10), ("ssa2d", "rgb+flow", "full", 0, "accuracy/dog-none", 30),
    ("ssa2d", "rgb", "full", 1, "accuracy/dog-none", 20), ("ssa2d", "rgb+flow", "full", 1, "accuracy/dog-none", 50),
    ("ssa2d", "rgb", "full", 0, "accuracy/cat-none", 7), ("ssa2d", "rgb+flow", "full", 0, "accuracy/cat-none", 6),
    ("ssa2d", "rgb", "full", 0, "accuracy/car-none", np.nan),
    ("ssa2d", "rgb+flow", "full", 0, "accuracy/car-none", np.nan),
    ("deeplab", "rgb", "full", 0, "accuracy/dog-none", 90),
    ("ssa2d", "rgb", "shared_trunk", 0, "accuracy/dog-none", 90),
)  # fmt: skip


def test_pairs_are_means_over_seeds_without_background_and_pairs_without_truth() -> None:
    """dog-none: (10 + 20) / 2 without flow, (30 + 50) / 2 with it."""
    table = figures.pairs(PAIRS, method="ssa2d")
    assert table.to_dict("index") == {
        "dog-none": {"rgb": 15, "rgb+flow": 40}, "cat-none": {"rgb": 7, "rgb+flow": 6},
    }  # fmt: skip
    lines = figures.pairs_markdown(table)
    assert "| dog-none | 15.0 | 40.0 | +25.0 |" in lines
    assert lines[-1] == "1 of 2 pairs gain by flow, +12.0 points on average."


def test_without_a_run_on_flow_there_are_no_pairs_to_compare() -> None:
    table = figures.pairs(PAIRS[PAIRS.inputs == "rgb"], method="ssa2d")
    assert table.empty and figures.pairs_markdown(table) == ["not run"]


def colours(path: Path) -> set[tuple[int, ...]]:
    """The RGB values of a picture."""
    picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    return {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()}


@pytest.mark.parametrize("profiled", [True, False])
def test_figure_1_has_points_for_what_was_published_and_for_what_was_profiled(tmp_path: Path, profiled: bool) -> None:
    """A method on flow alone is green: nothing published is."""
    scores = results(("deeplab", "flow", "full", 0, "joint/mean_iou", 8))
    if profiled:
        profile(tmp_path, "deeplab", "flow", "small", milliseconds=20)
    here = figures.speeds(scores, figures.profiles(tmp_path, config="small"))
    figures.draw_speeds(tmp_path / "1.png", here, figures.published_speeds(all_published()), title="toy")
    orange, blue, green = (255, 127, 14), (31, 119, 180), (44, 160, 44)
    found = colours(tmp_path / "1.png")
    assert {orange, blue} <= found and (green in found) == profiled


def test_figure_3_has_two_bars_a_pair(tmp_path: Path) -> None:
    figures.draw_pairs(tmp_path / "deeper" / "3.png", figures.pairs(PAIRS, method="ssa2d"), title="toy")
    assert {(255, 127, 14), (31, 119, 180)} <= colours(tmp_path / "deeper" / "3.png")
    assert [path.name for path in (tmp_path / "deeper").iterdir()] == ["3.png"]
