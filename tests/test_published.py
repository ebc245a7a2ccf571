"""The ledger of published against reproduced figures."""

from pathlib import Path

import pandas as pd
import pytest

from stages.core import published

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
    table = published.load()
    assert len(table) == 595
    assert set(table.paper) == set(published.CITED)
    assert not (table[["table", "method", "metric", "dataset"]] == "").any().any()
    assert {"deeplab", "region_masks", "joint", "sentence", "ssa2d", "hu2016", "li2017"} <= set(table.method)
    assert "baseline" not in set(table.method)


def test_what_a_paper_prints_is_what_the_ledger_holds() -> None:
    """Rana and Rawat 2021, table 1 and 2, and Dang et al. 2018, table 1."""
    table = published.load()
    assert of(table, "ssa2d", "rgb").value.tolist() == [34.6, 34.6]
    assert of(table, "deeplab", "rgb+flow").value.tolist() == [34.9]


def test_a_figure_stands_beside_the_mean_over_seeds_of_what_was_computed() -> None:
    results = computed(("deeplab", "rgb", 0, 7.0), ("deeplab", "rgb", 1, 9.0), ("ssa2d", "rgb", 0, 4.6))
    table = published.ledger(published.load(), results, dataset="sample", config="small")
    assert len(table) == len(published.load())
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
    table = published.ledger(published.load(), results, dataset=name, config=config)
    assert of(table, "deeplab", "rgb").remark.tolist() == [remark]


def test_the_text_says_how_much_is_filled_and_shows_both_figures() -> None:
    results = computed(("deeplab", "rgb", 0, 7.0))
    lines = published.markdown(published.ledger(published.load(), results, dataset="sample", config="small"))
    assert lines[0] == "1 of 595 published figures have a counterpart computed here (ledger.csv)."
    assert "| deeplab | rgb | joint mIoU | 32.1 | 7.0 | -25.1 | 9/9 | Dang et al. 2018, table 1 |" in lines[-1]


def test_nothing_computed_is_an_empty_ledger_and_no_error() -> None:
    table = published.ledger(published.load(), computed(), dataset="sample", config="small")
    assert published.markdown(table) == ["0 of 595 published figures have a counterpart computed here (ledger.csv)."]


def test_a_file_of_other_columns_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "published.csv").write_text("paper,value\ndang2018,1\n")
    with pytest.raises(ValueError, match="columns paper, value; expected paper, table, method"):
        published.load(tmp_path / "published.csv")
