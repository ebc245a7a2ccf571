"""The ledger of published against reproduced figures."""

from pathlib import Path

import pandas as pd
import pytest

from models.methods import VARIANTS
from stages.core.datasets.labels import LABEL_SPACES
from stages.core.reporting import ledger as ledgers

COLUMNS = ["dataset", "method", "inputs", "variant", "seed", "metric", "value", "coverage"]


def computed(*rows: tuple[str, str, int, float], name: str = "sample") -> pd.DataFrame:
    """results.csv from (method, inputs, seed, joint mean IoU)."""
    full = [
        (name, method, inputs, "full", seed, "joint/mean_iou", value, "9/9") for method, inputs, seed, value in rows
    ]
    return pd.DataFrame(full, columns=COLUMNS)


def of(table: pd.DataFrame, method: str, inputs: str) -> pd.DataFrame:
    """Rows of the joint mean IoU of one method on A2D."""
    rows = table[(table.method == method) & (table.inputs == inputs) & (table.dataset == "A2D")]
    return rows[(rows.metric == "joint/mean_iou") & (rows.variant == "full")]


def test_every_published_figure_names_its_source_and_a_method() -> None:
    table = ledgers.load()
    assert len(table) == 595
    assert set(table.paper) == set(ledgers.CITED)
    assert not (table[["table", "method", "metric", "dataset"]] == "").any().any()
    assert {"deeplab", "region_masks", "joint", "sentence", "ssa2d", "hu2016", "li2017"} <= set(table.method)
    assert "baseline" not in set(table.method)


def test_what_a_paper_prints_is_what_the_ledger_holds() -> None:
    """Rana and Rawat 2021, table 1 and 2, and Dang et al. 2018, table 1."""
    table = ledgers.load()
    assert of(table, "ssa2d", "rgb").value.tolist() == [34.6, 34.6]
    assert of(table, "deeplab", "rgb+flow").value.tolist() == [34.9]


def test_two_tables_of_a_paper_that_disagree_are_both_kept_as_printed() -> None:
    """SSA2D on RGB: table 2 prints as actor scores what table 1 has for RGB + flow."""
    table = ledgers.load()
    rows = table[(table.method == "ssa2d") & (table.dataset == "A2D") & (table.metric == "actor/mean_iou")]
    full = rows[rows.variant == "full"]
    assert full[["table", "inputs", "value"]].values.tolist() == [
        ["1", "rgb", 66.8], ["1", "rgb+flow", 67.5], ["2", "rgb", 67.5]
    ]  # fmt: skip


def test_the_rows_of_an_ablation_are_the_variants_of_the_method() -> None:
    table = ledgers.load()
    rows = table[(table.paper == "rana2021") & (table.table == "2") & (table.dataset == "A2D")]
    ablations = ["without_actor_prior", "without_ssa_masking", "without_atrous", "without_multi_scale"]
    assert list(dict.fromkeys(rows.variant)) == ["full", *ablations] and set(ablations) < set(VARIANTS["ssa2d"])
    results = computed(("ssa2d", "rgb", 0, 4.0)).assign(variant="without_atrous")
    ledger = ledgers.ledger(table, results, dataset="sample", config="small")
    found = ledger[ledger.here.notna()]
    assert found[["table", "variant", "value", "here"]].values.tolist() == [["2", "without_atrous", 31.7, 4.0]]


def of_sentences(*rows: tuple[str, str, str, str, str, float]) -> pd.DataFrame:
    """results.csv from (data set, method, inputs, variant, metric, value)."""
    return pd.DataFrame([(*row[:4], 0, *row[4:], "3/4") for row in rows], columns=COLUMNS)


def filled(results: pd.DataFrame, *, name: str = "sample", miniature: bool = True) -> pd.DataFrame:
    """What ``results`` have in common with the paper on sentences."""
    table = ledgers.ledger(ledgers.load(), results, dataset=name, config="paper", miniature=miniature)
    assert set(table[table.here.notna()].paper) == {"gavrilyuk2018"}
    return table[table.here.notna()]


def test_each_setting_of_the_paper_on_sentences_is_a_variant_of_its_method() -> None:
    table = ledgers.load()
    rows = table[(table.paper == "gavrilyuk2018") & (table.method == "sentence") & (table.dataset != "A2D")]
    assert set(rows.variant) == {"full", "frames_1", "frames_4", "frames_8", "lstm", "bilstm", "one_resolution"}
    assert set(rows.variant) - {"full"} < set(VARIANTS["sentence"])
    ablations = table[(table.table == "ablation") & (table.variant != "full")]
    assert set(ablations.inputs) == {"rgb"} and len(ablations) == 6
    baselines = table[(table.paper == "gavrilyuk2018") & table.method.isin(["hu2016", "li2017"])]
    assert set(baselines.variant) == {"full", "trained on ReferIt"}


@pytest.mark.parametrize(
    ("variant", "values"),
    [("full", [53.6] * 5), ("frames_1", [48.2]), ("lstm", [51.8]), ("bilstm", [52.1]), ("one_resolution", [49.4])],
)
def test_an_overall_iou_on_rgb_stands_beside_table_1_and_the_ablation(variant: str, values: list[float]) -> None:
    found = filled(of_sentences(("sample", "sentence", "rgb", variant, "sentence/overall_iou", 20)))
    assert found.value.tolist() == values and set(found.dataset) == {"A2D Sentences"}
    assert set(found.here) == {20} and set(found.coverage) == {"3/4"}


def test_a_baseline_without_referit_stands_beside_the_fine_tuned_one_and_says_so() -> None:
    found = filled(of_sentences(("A2D", "hu2016", "rgb", "full", "sentence/map", 5)), name="A2D")
    assert found[["table", "value", "remark"]].values.tolist() == [
        ["1", 13.2, "no training on ReferIt before: not comparable"]
    ]


@pytest.mark.parametrize(
    ("trained_on", "miniature", "remark"),
    [
        ("sample", True, "other data (sample), a miniature of J-HMDB Sentences: not comparable"),
        ("A2D", True, "a miniature of J-HMDB Sentences: not comparable"),
        ("A2D", False, ""),
    ],
)
def test_what_was_computed_on_another_data_set_stands_in_table_2_alone(
    trained_on: str, miniature: bool, remark: str
) -> None:
    both = of_sentences(
        ("J-HMDB Sentences", "sentence", "rgb+flow", "full", "sentence/mean_iou", 30),
        (trained_on, "sentence", "rgb+flow", "full", "sentence/mean_iou", 10),
    )
    found = filled(both, name=trained_on, miniature=miniature)
    assert found[["table", "dataset", "value", "here"]].values.tolist() == [
        ["1", "A2D Sentences", 42.6, 10], ["2", "J-HMDB Sentences", 54.2, 30]
    ]  # fmt: skip
    assert found.remark.iloc[1] == remark
    assert found.remark.iloc[0] == ("" if trained_on == "A2D" else "other data (sample): not comparable")


def test_label_maps_of_a_fixed_vocabulary_stand_in_table_3_and_the_classifier_in_the_text() -> None:
    found = filled(of_sentences(
        ("A2D", "sentence", "rgb+flow", "fixed_vocabulary", "joint/mean_iou", 20),
        ("A2D", "video_classifier", "rgb+flow", "full", "classification/mean_average_precision", 60),
    ), name="A2D")  # fmt: skip
    assert found[["table", "value", "here", "remark"]].values.tolist() == [["3", 34.8, 20, ""], ["text", 70, 60, ""]]


def test_table_3_has_the_maps_of_actors_and_of_actions_asked_alone_and_not_the_marginals_of_pairs() -> None:
    found = filled(of_sentences(*(
        ("A2D", "sentence", "rgb+flow", "fixed_vocabulary", f"{kind}/mean_iou", value)
        for kind, value in [("actor", 1), ("actor_head", 2), ("action", 3), ("action_head", 4), ("joint", 5)]
    )), name="A2D")  # fmt: skip
    assert dict(zip(found["metric"], found["here"], strict=True)) == {
        "actor/mean_iou": 2, "action/mean_iou": 4, "joint/mean_iou": 5
    }  # fmt: skip
    assert set(found["value"]) == {53.7, 49.4, 34.8}


def test_sentences_about_other_labels_stand_beside_nothing() -> None:
    results = of_sentences(("sample", "sentence", "rgb", "full", "sentence/overall_iou", 20))
    table = ledgers.ledger(ledgers.load(), results, dataset="sample", config="paper", labels="jhmdb")
    assert table.here.isna().all()


def test_the_text_shows_main_figures_of_sentences_and_a_figure_printed_twice_in_a_table_once() -> None:
    results = of_sentences(
        ("A2D", "sentence", "rgb", "full", "sentence/overall_iou", 20),
        ("A2D", "sentence", "rgb", "full", "sentence/precision@0.5", 40),
        ("A2D", "video_classifier", "rgb+flow", "full", "classification/mean_average_precision", 60),
    )
    lines = ledgers.markdown(ledgers.ledger(ledgers.load(), results, dataset="A2D", config="paper"))
    both = "| sentence | rgb | full | sentence overall IoU | 53.6 | 20.0 | -33.6 | 3/4 | Gavrilyuk et al. 2018, "
    videos = "| video_classifier | rgb+flow | full | classification mAP | 70.0 | 60.0 | -10.0 | 3/4 | "
    assert lines[0].startswith("7 of 595")
    assert lines[4:] == [
        f"{both}table 1 |  |", f"{both}ablation |  |", f"{videos}Gavrilyuk et al. 2018, text |  |"
    ]  # fmt: skip


@pytest.mark.parametrize(("labels", "beside"), [("a2d", {"A2D"}), ("vidor", {"VidOR"}), ("jhmdb", set())])
def test_figures_stand_beside_those_of_the_same_labels(labels: str, beside: set[str]) -> None:
    results = computed(("ssa2d", "rgb", 0, 4.0))
    table = ledgers.ledger(ledgers.load(), results, dataset="sample", config="small", labels=labels)
    assert set(table[table.here.notna()].dataset) == beside


def test_every_label_space_with_published_figures_is_one_there_is() -> None:
    assert set(ledgers.TASKS) < set(LABEL_SPACES)
    assert set(ledgers.TASKS.values()) < set(ledgers.load().dataset)


def test_a_figure_stands_beside_the_mean_over_seeds_of_what_was_computed() -> None:
    results = computed(("deeplab", "rgb", 0, 7.0), ("deeplab", "rgb", 1, 9.0), ("ssa2d", "rgb", 0, 4.6))
    table = ledgers.ledger(ledgers.load(), results, dataset="sample", config="small")
    assert len(table) == len(ledgers.load())
    deeplab, ssa2d = of(table, "deeplab", "rgb").iloc[0], of(table, "ssa2d", "rgb")
    assert (deeplab.here, deeplab.coverage) == (8.0, "9/9")
    assert deeplab.difference == pytest.approx(8.0 - 32.1)
    assert ssa2d.difference.tolist() == pytest.approx([-30, -30])
    assert set(table[table.here.isna()].remark) == {"not run"}
    assert set(table[table.here.notna()].dataset) == {"A2D"}  # SSA2D's figures on VidOR are of other labels


@pytest.mark.parametrize(
    ("name", "config", "remark"),
    [
        ("sample", "small", "other data (sample), other sizes (small): not comparable"),
        ("sample", "paper", "other data (sample): not comparable"),
        ("A2D", "small", "other sizes (small): not comparable"),
        ("A2D", "paper", ""),
    ],
)
def test_a_word_says_what_keeps_two_figures_from_being_compared(name: str, config: str, remark: str) -> None:
    results = computed(("deeplab", "rgb", 0, 7.0), name=name)
    table = ledgers.ledger(ledgers.load(), results, dataset=name, config=config)
    assert of(table, "deeplab", "rgb").remark.tolist() == [remark]


def test_the_text_says_how_much_is_filled_and_shows_both_figures() -> None:
    results = computed(("deeplab", "rgb", 0, 7.0))
    lines = ledgers.markdown(ledgers.ledger(ledgers.load(), results, dataset="sample", config="small"))
    assert lines[0] == "1 of 595 published figures have a counterpart computed here (ledger.csv)."
    assert "| deeplab | rgb | full | joint mIoU | 32.1 | 7.0 | -25.1 | 9/9 | Dang et al. 2018, table 1 |" in lines[-1]


def test_nothing_computed_is_an_empty_ledger_and_no_error() -> None:
    table = ledgers.ledger(ledgers.load(), computed(), dataset="sample", config="small")
    assert ledgers.markdown(table) == ["0 of 595 published figures have a counterpart computed here (ledger.csv)."]


def test_a_file_of_other_columns_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "published.csv").write_text("paper,value\ndang2018,1\n")
    with pytest.raises(ValueError, match="columns paper, value; expected paper, table, method"):
        ledgers.load(tmp_path / "published.csv")
