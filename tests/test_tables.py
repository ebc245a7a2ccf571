"""A paper's tables from the ledger: what was computed here, with the published figure beside."""

import pandas as pd
import pytest

from stages import tables
from stages.core import published

RESULTS = pd.DataFrame(
    [("sample", "deeplab", "rgb", "full", 0, "joint/mean_iou", 8.0, "9/9")],
    columns=["dataset", "method", "inputs", "variant", "seed", "metric", "value", "coverage"],
)


@pytest.fixture(scope="module")
def ledger() -> pd.DataFrame:
    return published.ledger(published.load(), RESULTS, dataset="sample", config="small")


def test_a_cell_is_what_was_computed_and_what_was_published(ledger: pd.DataFrame) -> None:
    lines = tables.tables(ledger, "dang2018", table="1")
    (line,) = [line for line in lines if line.startswith("| deeplab | rgb |")]
    assert line.endswith("| 8.0 (32.1) |") and "not run (95.7)" in line
    assert "Remark: other data (sample), other sizes (small): not comparable." in lines


@pytest.mark.parametrize("paper", sorted(published.CITED))
def test_every_table_of_every_paper_can_be_printed_whole(ledger: pd.DataFrame, paper: str) -> None:
    text = "\n".join(tables.tables(ledger, paper))
    for number in set(ledger[ledger.paper == paper]["table"]):
        assert f"## {paper}, table {number}:" in text
    cells = ledger[ledger.paper == paper].drop_duplicates(["table", *tables.ROW, "dataset", "metric"])
    assert text.count(" (") >= len(cells)


def test_the_settings_of_masks_are_variants_of_runs(ledger: pd.DataFrame) -> None:
    lines = tables.tables(ledger, "dang2018", table="3")
    assert [line.split(" | ")[2] for line in lines if line.startswith("| region")] == [
        "other_masks", "full", "true_masks"
    ]  # fmt: skip


def test_a_table_without_names_has_its_rows_from_papers_that_print_them(ledger: pd.DataFrame) -> None:
    lines = tables.tables(ledger, "dang2018", table="4")
    methods = {line.split(" | ")[0].strip("| ") for line in lines if line.startswith("| ") and "not run" in line}
    assert methods == {
        "xu2015", "xu2016", "xu2016+gbh", "xu2016+tsp", "kalogeiton2017", "kalogeiton2017+gbh",
        "kalogeiton2017+sharpmask", "region_masks",
    }  # fmt: skip


def test_an_unknown_paper_or_table_is_an_error_that_names_what_there_is(ledger: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="did you mean `dang2018`"):
        tables.tables(ledger, "dang2017")
    with pytest.raises(ValueError, match="dang2018 has 1, 2, 3, 4, 5, text"):
        tables.tables(ledger, "dang2018", table="9")
