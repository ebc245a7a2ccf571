"""Claims of a paper: the runs they need are listed beside the user's, and what came out is said claim by claim."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pycocotools import mask as coco

from benchmarks.workspace import CHECKOUT
from stages.commands import claims
from stages.core import runs, schemas
from stages.core.datasets.dataset import Description, write_description
from stages.core.datasets.labels import A2D
from stages.core.datasets.sentences import Sample, coco_truth, write_coco
from stages.core.params import edited
from stages.core.reporting import claims as table_of_claims
from stages.core.reporting.claims import CLAIMS, PAIRS, Claim, Setting
from stages.core.scores import resampling

DRAWS = resampling.Parameters(resamples=40, seed=0)
ONE, OTHER = Setting("region_masks", "rgb"), Setting("deeplab", "rgb")


def results(*values: tuple[Setting, int, str, float]) -> pd.DataFrame:
    rows = [(side.method, side.inputs, side.variant, seed, metric, value) for side, seed, metric, value in values]
    return pd.DataFrame(rows, columns=["method", "inputs", "variant", "seed", "metric", "value"])


@pytest.fixture
def parameters(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text((CHECKOUT / "params.yaml").read_text())
    return path


@pytest.mark.parametrize("paper", list(CLAIMS))
def test_the_runs_of_a_paper_s_claims_are_sound_and_are_added_once(parameters: Path, paper: str) -> None:
    before, there = parameters.read_text(), runs.all_runs(parameters)
    added = claims.add(paper, parameters)
    now = runs.all_runs(parameters)
    assert added and set(now) == set(there) | set(added)
    for claim in table_of_claims.of_paper(paper):
        seeds = claims.SEEDS[: claim.seeds]
        assert {side.name(seed) for side in (claim.better, claim.worse) for seed in seeds} <= set(now)
    assert claims.add(paper, parameters) == []
    comments = [line for line in before.splitlines() if line.startswith("#")]
    assert all(comment in parameters.read_text() for comment in comments)


def test_runs_on_flow_read_the_recipe_of_the_baseline_and_the_others_none(parameters: Path) -> None:
    other = parameters.read_text().replace(
        "reads: data/optical_flow/dis-forward", "reads: data/optical_flow/tvl1-forward"
    )
    parameters.write_text(other)
    claims.add("rana2021", parameters)
    flows = {run.inputs: str(run.flow) for run in runs.all_runs(parameters).values() if run.method == "ssa2d"}
    assert flows == {"rgb": "None", "rgb+flow": "data/optical_flow/tvl1-forward"}


def test_runs_on_flow_alone_read_the_recipe_of_those_on_both(parameters: Path) -> None:
    other = parameters.read_text().replace(
        "reads: data/optical_flow/dis-forward", "reads: data/optical_flow/tvl1-forward"
    )
    parameters.write_text(other)
    claims.add("sentence", parameters)
    assert runs.named("sentence-flow-full-2", parameters).flow == Path("data/optical_flow/tvl1-forward")
    assert runs.named("hu2016-rgb-full-0", parameters).flow is None


def test_without_a_run_of_the_baseline_flow_is_the_default_one(parameters: Path) -> None:
    with edited(parameters) as content:
        content["runs"] = {}
    claims.add("rana2021", parameters)
    assert runs.named("ssa2d-rgb+flow-full-2", parameters).flow == Path(claims.FLOW)


def test_each_part_of_the_single_shot_paper_is_tested_by_the_run_without_it() -> None:
    """Table 2 takes the parts away from the RGB model; the parts that the code adds are no claims."""
    sides = {(claim.better, claim.worse) for claim in table_of_claims.of_paper("rana2021")}
    full = Setting("ssa2d", "rgb")
    ablations = ("without_actor_prior", "without_ssa_masking", "without_atrous", "without_multi_scale")
    assert {(full, Setting("ssa2d", "rgb", variant)) for variant in ablations} < sides
    assert (Setting("ssa2d", "rgb+flow"), full) in sides
    addition = Setting("ssa2d", "rgb", "infusion_by_addition")
    assert {(full, addition), (addition, full)} < sides


def test_headlines_of_the_joint_paper_are_tested_over_seeds_and_its_choices_with_one() -> None:
    full, rgb = Setting("joint", "rgb+flow"), Setting("joint", "rgb")
    found = {(claim.worse, claim.metrics[0]): claim for claim in table_of_claims.of_paper("ji2018")}
    assert all(claim.better == full for claim in found.values())
    seeds = {(side.variant, side.inputs, metric): claim.seeds for (side, metric), claim in found.items()}
    assert seeds == {
        ("full", "rgb", "action/class_accuracy"): 3,
        ("full", "rgb", "detection/pair_map"): 3,
        ("without_temporal", "rgb+flow", "action/class_accuracy"): 3,
        ("late_fusion", "rgb+flow", "action/class_accuracy"): 1,
        ("rois_from_both", "rgb+flow", "actor/class_accuracy"): 1,
    }
    means = {"action/class_accuracy", "action/mean_iou", "joint/class_accuracy", "joint/mean_iou"}
    assert set(found[rgb, "action/class_accuracy"].metrics) == means


def test_headlines_of_the_paper_on_sentences_are_tested_over_seeds_and_the_rest_with_one() -> None:
    both, rgb, flow = (Setting("sentence", inputs) for inputs in ("rgb+flow", "rgb", "flow"))
    lstm, bilstm, one_resolution, *frames = (
        Setting("sentence", "rgb", variant)
        for variant in ("lstm", "bilstm", "one_resolution", "frames_8", "frames_4", "frames_1")
    )
    headlines = {
        (both, rgb), (both, flow), (rgb, flow), (rgb, lstm), (rgb, bilstm), (bilstm, lstm), (rgb, one_resolution)
    }  # fmt: skip
    found = {
        (claim.better, claim.worse): claim.seeds
        for claim in table_of_claims.of_paper("sentence")
        if claim.worse.method == "sentence"
    }
    assert found == dict.fromkeys(headlines, 3) | dict.fromkeys(pairwise([rgb, *frames]), 1)
    overall = {claim.metrics for claim in table_of_claims.of_paper("sentence") if claim.worse.method == "sentence"}
    assert overall == {("sentence/overall_iou",)}


def test_each_metric_in_which_the_paper_on_sentences_beats_a_baseline_is_a_claim() -> None:
    """A mean over metrics would hide that one of them fails: "for all metrics using RGB frames" (section 5.2)."""
    found = [claim for claim in table_of_claims.of_paper("sentence") if claim.worse.method != "sentence"]
    expected = {
        (Setting("sentence", inputs), Setting(baseline, "rgb"), (f"sentence/{metric}",), 1)
        for inputs in ("rgb", "rgb+flow")
        for baseline in ("hu2016", "li2017")
        for metric in ("overall_iou", "mean_iou", "map")
    }
    assert {(claim.better, claim.worse, claim.metrics, claim.seeds) for claim in found} == expected
    assert len({claim.text for claim in found}) == len(found) == 12


def test_the_pairs_of_figure_3_are_all_valid_pairs_and_not_background() -> None:
    assert len(PAIRS) == 43 and "accuracy/dog-none" in PAIRS and "accuracy/background" not in PAIRS


def test_a_paper_may_be_called_by_its_method() -> None:
    assert table_of_claims.of_paper("ssa2d") is CLAIMS["rana2021"]
    assert table_of_claims.of_paper("region_masks") is CLAIMS["dang2018"]
    assert table_of_claims.of_paper("joint") is CLAIMS["ji2018"]
    nothing = results((ONE, 0, "a", 5))
    assert claims.lines("ssa2d", nothing, DRAWS) == claims.lines("rana2021", nothing, DRAWS)


def shown(claim: Claim, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, data: Path = Path("nowhere")) -> str:
    monkeypatch.setitem(CLAIMS, "toy", (claim,))
    return claims.lines("toy", table, DRAWS, data=data)[-1]


def test_a_claim_holds_by_the_mean_difference_over_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 0: (50 - 40 + 30 - 26) / 2 = 7; seed 1: (50 - 51 + 30 - 31) / 2 = -1; seed 2 was not run on both sides."""
    table = results(
        (ONE, 0, "a", 50), (ONE, 0, "b", 30), (OTHER, 0, "a", 40), (OTHER, 0, "b", 26),
        (ONE, 1, "a", 50), (ONE, 1, "b", 30), (OTHER, 1, "a", 51), (OTHER, 1, "b", 31), (ONE, 2, "a", 9),
    )  # fmt: skip
    line = shown(Claim("One beats the other", ONE, OTHER, ("a", "b")), table, monkeypatch)
    assert line == "| One beats the other | +3.0 | -1.0 to +7.0 | 1 of 2 |"


def test_a_claim_of_more_here_than_there_is_a_difference_of_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    table = results((ONE, 0, "small", 20), (OTHER, 0, "small", 10), (ONE, 0, "large", 60), (OTHER, 0, "large", 58))
    line = shown(Claim("Most for small ones", ONE, OTHER, ("small",), than=("large",)), table, monkeypatch)
    assert line == "| Most for small ones | +8.0 | +8.0 to +8.0 | 1 of 1 |"


def write_confusion(data: Path, side: Setting, clips: dict[str, dict[tuple[int, int], int]]) -> None:
    """What evaluate leaves of a run: (truth, predicted) -> pixels of each clip."""
    rows = [
        {"video": video, "kind": "joint", "truth": truth, "predicted": predicted, "pixels": pixels}
        for video, cells in clips.items()
        for (truth, predicted), pixels in cells.items()
    ]
    path = data / "evaluate" / side.name(0) / "confusion.parquet"
    schemas.write_parquet(path, schemas.rows_to_table(rows, schemas.CONFUSION))


def test_a_claim_of_one_seed_has_an_interval_over_the_clips_that_both_sides_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One side has each clip right; the other calls half of `first` another action and nothing of `second`.

    Background is right: class accuracy over it and 17 is 25 points ahead with `first` alone, 50 with `second` alone.
    """
    right = {(0, 0): 8, (17, 17): 8}
    write_confusion(tmp_path, ONE, {"first": right, "second": right, "third": right})
    others = {"first": {(0, 0): 8, (17, 17): 4, (17, 18): 4}, "second": {(0, 0): 8, (17, 0): 8}}
    write_confusion(tmp_path, OTHER, others)
    (tmp_path / "index").mkdir()
    write_description(tmp_path / "index", Description("a2d", A2D))
    table = results(*((side, seed, "joint/class_accuracy", 90 - 40 * (side == OTHER)) for side in (ONE, OTHER)
                      for seed in range(3)))  # fmt: skip
    claim = Claim("One beats the other", ONE, OTHER, ("joint/class_accuracy",), seeds=1)
    line = shown(claim, table, monkeypatch, tmp_path)
    assert line == "| One beats the other | +40.0 | +25.0 to +50.0 | 1 of 1 |"


def write_answers(data: Path, side: Setting, answers: dict[str, tuple[int, int]]) -> None:
    """A run's answers: of image ids, pixels (from, before) of a row of 10; (0, 4) is right."""

    def rle(start: int, stop: int) -> bytes:
        row = np.zeros((1, 10), np.uint8, order="F")
        row[0, start:stop] = 1
        return coco.encode(row)["counts"]

    asked = [Sample(image_id, "", 0, 0, "it moves", rle(0, 4), 1, 10) for image_id in answers]
    write_coco(data / "index/sentences.json", coco_truth(asked))
    found = [
        {"image_id": image_id, "score": 1.0, "segmentation": {"size": [1, 10], "counts": rle(*pixels).decode()}}
        for image_id, pixels in answers.items()
    ]
    write_coco(data / "evaluate" / side.name(0) / "predictions/answers.json", found)


def test_a_claim_about_sentences_has_an_interval_over_the_clips_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One side is right; the other has half of one clip's pixels and none of another's.

    Mean IoU is 50 points ahead with the first clip alone, 100 with the second; overall IoU is too.
    """
    first, second = "v_first_f_1_i_0", "v_second_f_1_i_0"
    write_answers(tmp_path, ONE, {first: (0, 4), second: (0, 4)})
    write_answers(tmp_path, OTHER, {first: (0, 2), second: (0, 0)})
    metrics = ("sentence/overall_iou", "sentence/mean_iou")
    table = results(*((side, 0, metric, 90 - 40 * (side == OTHER)) for side in (ONE, OTHER) for metric in metrics))
    line = shown(Claim("One beats the other", ONE, OTHER, metrics, seeds=1), table, monkeypatch, tmp_path)
    assert line == "| One beats the other | +40.0 | +50.0 to +100.0 | 1 of 1 |"


def test_what_was_computed_on_another_data_set_is_no_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(CHECKOUT / "params.yaml", tmp_path)
    both = results((ONE, 0, "a", 5), (OTHER, 0, "a", 3), (ONE, 0, "a", 50), (OTHER, 0, "a", 90))
    claims.RESULTS.parent.mkdir(parents=True)
    both.assign(dataset=["sample", "sample", "J-HMDB Sentences", "J-HMDB Sentences"]).to_csv(claims.RESULTS)
    monkeypatch.setitem(CLAIMS, "toy", (Claim("One beats the other", ONE, OTHER, ("a",)),))
    claims.main("show", "toy")
    assert "| One beats the other | +2.0 | +2.0 to +2.0 | 1 of 1 |" in capsys.readouterr().out


def test_of_a_claim_of_one_seed_one_run_a_side_is_added(parameters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Setting("deeplab", "rgb+flow", "late_fusion")
    both = (
        Claim("a", Setting("deeplab", "rgb"), other, ("a",), seeds=1),
        Claim("b", ONE, Setting("deeplab", "rgb"), ("a",)),
    )
    monkeypatch.setitem(CLAIMS, "toy", both)
    added = claims.add("toy", parameters)
    assert [name for name in added if "late_fusion" in name] == ["deeplab-rgb+flow-late_fusion-0"]
    assert [name for name in added if name.startswith("deeplab-rgb-full")] == [
        "deeplab-rgb-full-1",
        "deeplab-rgb-full-2",
    ]


def test_a_claim_that_was_not_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    line = shown(Claim("Nobody ran it", ONE, OTHER, ("a",)), results((ONE, 0, "a", 5)), monkeypatch)
    assert line == "| Nobody ran it | not run | | |"


def test_an_unknown_paper_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean `dang2018`"):
        table_of_claims.of_paper("dang2017")
