"""A paper's tables from the ledger: what was computed here, with the published figure beside."""

from pathlib import Path

import pandas as pd
import pytest

from stages.commands import paper_tables
from stages.core.reporting import ledger as ledgers
from stages.core.runs import Run

RESULTS = pd.DataFrame(
    [("sample", "deeplab", "rgb", "full", 0, "joint/mean_iou", 8.0, "9/9")],
    columns=["dataset", "method", "inputs", "variant", "seed", "metric", "value", "coverage"],
)


@pytest.fixture(scope="module")
def ledger() -> pd.DataFrame:
    return ledgers.ledger(ledgers.load(), RESULTS, dataset="sample", config="small")


def test_a_cell_is_what_was_computed_and_what_was_published(ledger: pd.DataFrame) -> None:
    lines = paper_tables.tables(ledger, "dang2018", table="1")
    (line,) = [line for line in lines if line.startswith("| deeplab | rgb |")]
    assert line.endswith("| 8.0 (32.1) |") and "not run (95.7)" in line
    assert "Remark: other data (sample), other sizes (small): not comparable." in lines


@pytest.mark.parametrize("paper", sorted(ledgers.CITED))
def test_every_table_of_every_paper_can_be_printed_whole(ledger: pd.DataFrame, paper: str) -> None:
    text = "\n".join(paper_tables.tables(ledger, paper))
    for number in set(ledger[ledger.paper == paper]["table"]):
        assert f"## {paper}, table {number}:" in text
    cells = ledger[ledger.paper == paper].drop_duplicates(["table", *paper_tables.ROW, "dataset", "metric"])
    assert text.count(" (") >= len(cells)


def test_the_settings_of_masks_are_variants_of_runs(ledger: pd.DataFrame) -> None:
    lines = paper_tables.tables(ledger, "dang2018", table="3")
    assert [line.split(" | ")[2] for line in lines if line.startswith("| region")] == [
        "other_masks", "full", "true_masks"
    ]  # fmt: skip


def test_a_table_without_names_has_its_rows_from_papers_that_print_them(ledger: pd.DataFrame) -> None:
    lines = paper_tables.tables(ledger, "dang2018", table="4")
    methods = {line.split(" | ")[0].strip("| ") for line in lines if line.startswith("| ") and "not run" in line}
    assert methods == {
        "xu2015", "xu2016", "xu2016+gbh", "xu2016+tsp", "kalogeiton2017", "kalogeiton2017+gbh",
        "kalogeiton2017+sharpmask", "region_masks",
    }  # fmt: skip


def how_to_run(lines: list[str]) -> list[str]:
    return [line for line in lines if "make claims" in line]


def test_below_a_table_stands_how_to_add_the_runs_that_the_paper_s_claims_have_and_nobody_listed(
    ledger: pd.DataFrame,
) -> None:
    def lines(table: str, *listed: tuple[str, str, str]) -> list[str]:
        runs = [Run("", method, inputs, variant, seed=0) for method, inputs, variant in listed]
        return how_to_run(paper_tables.tables(ledger, "region_masks", table=table, runs=runs))

    plain = [("region_masks", inputs, "full") for inputs in ("rgb", "rgb+flow")]
    masks = [("region_masks", "rgb+flow", variant) for variant in ("other_masks", "true_masks")]
    begin = "`make claims PAPER=dang2018` adds the runs that it needs to params.yaml (rows of this table"
    assert lines("3", *plain) == [f"{begin}: 2)."]
    assert lines("3", *plain, masks[0]) == [f"{begin}: 1)."]
    assert lines("3", *plain, *masks) == []
    assert lines("4", *plain) == []  # only earlier work was not run


def test_the_tables_of_the_paper_on_sentences_have_what_was_computed_and_what_it_prints() -> None:
    rows = [
        ("sample", "sentence", "rgb+flow", "full", 0, "sentence/map", 8.0, "9/9"),
        ("J-HMDB Sentences", "sentence", "rgb+flow", "full", 0, "sentence/map", 9.0, "9/9"),
        ("sample", "sentence", "rgb", "frames_4", 0, "sentence/overall_iou", 7.0, "9/9"),
        ("sample", "sentence", "rgb+flow", "fixed_vocabulary", 0, "joint/mean_iou", 6.0, "9/9"),
        ("sample", "video_classifier", "rgb+flow", "full", 0, "classification/mean_average_precision", 5.0, "9/9"),
    ]
    results = pd.DataFrame(rows, columns=RESULTS.columns)
    found = ledgers.ledger(ledgers.load(), results, dataset="sample", config="small")

    def line(table: str, start: str) -> str:
        (one,) = [one for one in paper_tables.tables(found, "sentence", table=table) if one.startswith(start)]
        return one

    assert "| 8.0 (21.5) |" in line("1", "| sentence | rgb+flow |")
    assert "| not run (2.0) |" in line("1", "| hu2016 | rgb | trained on ReferIt |")
    assert "| 9.0 (23.3) |" in line("2", "| sentence |")
    assert line("ablation", "| sentence | rgb | frames_4 |").endswith("| 7.0 (52.2) |")
    assert line("3", "| sentence |").endswith("| 6.0 (34.8) |")
    assert line("text", "| video_classifier |").endswith("| 5.0 (70.0) |")


def test_a_figure_is_titled_by_the_data_set_that_its_runs_were_trained_on(ledger: pd.DataFrame, tmp_path: Path) -> None:
    elsewhere = ("J-HMDB Sentences", "sentence", "rgb", "full", 0, "sentence/map", 9.0, "9/9")
    results = pd.concat([RESULTS, pd.DataFrame([elsewhere], columns=RESULTS.columns)])
    none = pd.DataFrame(columns=["method", "inputs", "ms_per_frame/total", "parameters_millions", "alone"])
    lines = paper_tables.drawings(ledger, results, none, config="small", output=tmp_path)
    assert lines[0] == "## rana2021, figure 1: small on sample (published, K80)"


def test_a_paper_may_be_called_by_its_method(ledger: pd.DataFrame) -> None:
    assert paper_tables.tables(ledger, "ssa2d") == paper_tables.tables(ledger, "rana2021")


def test_times_and_parameters_are_those_of_the_profile_of_that_method_and_inputs(ledger: pd.DataFrame) -> None:
    measured = pd.DataFrame(
        [("ssa2d", "rgb", 12.34, 0.7, True)],
        columns=["method", "inputs", "ms_per_frame/total", "parameters_millions", "alone"],
    )
    filled = paper_tables.with_profiles(ledger, measured)
    lines = paper_tables.tables(filled, "rana2021", table="1")
    rgb, flow = (line for line in lines if line.startswith("| ssa2d |"))
    assert rgb.endswith("| 12.3 (67.0) |") and flow.endswith("| not run (180.0) |")
    assert "| ssa2d | rgb | full | 0.7 (35.0) |" in paper_tables.tables(filled, "rana2021", table="text")
    assert "Remark: times and parameters are of this machine and configuration: not comparable." in lines
    assert ledger["here"].notna().sum() == 1  # the given ledger is left as it was


@pytest.fixture
def checkout(tmp_path: Path, ledger: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace whose report knows one score of the baseline."""
    report = tmp_path / "data" / "report"
    report.mkdir(parents=True)
    ledger.to_csv(report / "ledger.csv", index=False)
    RESULTS.to_csv(report / "results.csv", index=False)
    (tmp_path / "params.yaml").write_text("train: {common: {config: small}}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(**given: str) -> None:
    folders = {"report": Path("data/report"), "output": Path("data/figures")}
    paper_tables.main(**{"table": None, **folders, **given})  # type: ignore[arg-type]


def test_one_command_prints_the_tables_and_draws_the_figures_of_the_single_shot_paper(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(paper="rana2021")
    printed = capsys.readouterr().out
    for title in ("table 1:", "table 2:", "figure 1:", "figure 3:"):
        assert f"## rana2021, {title}" in printed
    assert "| deeplab | rgb | not profiled | not profiled | 8.0 |" in printed
    # Figure 3 needs both runs.
    assert [path.name for path in (checkout / "data" / "figures").iterdir()] == ["rana2021-figure1.png"]
    assert sorted(path.name for path in (checkout / "data" / "report").iterdir()) == ["ledger.csv", "results.csv"]


def test_a_run_that_params_yaml_lists_is_not_said_to_be_missing(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = "{method: sentence, reads: data/frames, regions: data/frames}"
    with (checkout / "params.yaml").open("a") as file:
        file.write(f"runs: {{sentence-rgb-frames_4-0: {run}, sentence-rgb-lstm-0: {run}}}\n")
    command(paper="sentence", table="ablation")
    (line,) = how_to_run(capsys.readouterr().out.splitlines())
    assert line.startswith("`make claims PAPER=gavrilyuk2018`") and line.endswith("(rows of this table: 7).")


@pytest.mark.parametrize("given", [{"paper": "dang2018"}, {"paper": "rana2021", "table": "1"}])
def test_no_figure_is_drawn_that_nobody_asked_for(checkout: Path, given: dict[str, str]) -> None:
    command(**given)
    assert not (checkout / "data" / "figures").exists()


def test_without_a_report_the_error_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ledger.csv not found: run `dvc repro report`"):
        command(paper="rana2021", report=tmp_path)  # type: ignore[arg-type]


def test_an_unknown_paper_or_table_is_an_error_that_names_what_there_is(ledger: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="did you mean `dang2018`"):
        paper_tables.tables(ledger, "dang2017")
    with pytest.raises(ValueError, match="dang2018 has 1, 2, 3, 4, 5, text"):
        paper_tables.tables(ledger, "dang2018", table="9")
