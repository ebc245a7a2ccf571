"""``python -m stages.commands.paper_tables --paper=rana2021``: a paper's tables and figures, computed here, the
published ones beside.

Reads data/report/ledger.csv and results.csv, which stage `report` writes, and for times and parameters what `python -m
stages.commands.profile` wrote. A cell is `here (published)`; `not run` where no run of params.yaml has it, and a line
says where `make claims` would add one. Tables go to the terminal as Markdown. Figures 1 and 3 of Rana and Rawat are
drawn into data/figures: they show times, and data/report is an output that DVC hashes and removes.
"""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from stages.core import cli, items
from stages.core.params import nearest, read
from stages.core.reporting import figures
from stages.core.reporting.claims import Setting, needed
from stages.core.reporting.figures import FLOW, MILLISECONDS, MODEL, PARAMETERS, RGB
from stages.core.reporting.ledger import paper_of
from stages.core.runs import FULL, Run, all_runs

LOST = ("dang2018", "4")
"""The paper's text has no names in this table, a comparison with earlier work: its rows stand in two later papers."""
LOST_SOURCES = {"rana2021": "1", "gavrilyuk2018": "3"}
LOST_ROWS = "xu201.*|kalogeiton.*|region_masks"
ROW = ["method", "inputs", "variant"]
DRAWN = "rana2021"
"""The paper whose figures are drawn."""


def tables(ledger: pd.DataFrame, paper: str, *, table: str | None = None, runs: Iterable[Run] = ()) -> list[str]:
    """Markdown of every table of ``paper`` (or of the paper of that method), or of ``table``.

    Below a table stands how to add what it lacks beside ``runs``, those of params.yaml. Raises ``ValueError`` that
    names what there is.
    """
    papers, asked, paper = sorted(set(ledger["paper"])), paper, paper_of(paper)
    if paper not in papers:
        raise ValueError(f"--paper={asked}{nearest(asked, papers)}; there are {', '.join(papers)}")
    of_paper = {name: rows for name, rows in ledger[ledger["paper"] == paper].groupby("table")}
    if paper == LOST[0]:
        printed = pd.concat([ledger[(ledger["paper"] == p) & (ledger["table"] == t)] for p, t in LOST_SOURCES.items()])
        of_paper[LOST[1]] = printed[
            printed["method"].str.fullmatch(LOST_ROWS) & (printed["metric"] != "ms_per_frame/total")
        ]
    if table is not None and table not in of_paper:
        raise ValueError(f"--table={table}: {paper} has {', '.join(sorted(of_paper))}")
    addable = set(needed(paper)) - {Setting(run.method, run.inputs, run.variant) for run in runs}
    lines = []
    for name in sorted(of_paper) if table is None else [table]:
        rows = of_paper[name]
        lines += [f"## {paper}, table {name}: here (published)", "", *_markdown(rows)]
        lines += [*_how_to_run(rows, addable, paper), ""]
    return lines


def with_profiles(ledger: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """The ledger with times and parameters of ``measured`` (``figures.profiles``) in the rows of plain methods."""
    profiled = measured.set_index(MODEL)
    filled = ledger.copy()
    of_plain = filled["metric"].isin((MILLISECONDS, PARAMETERS)) & (filled["variant"] == FULL)
    for place, row in filled[of_plain].iterrows():
        if (row["method"], row["inputs"]) in profiled.index:
            filled.loc[place, "here"] = profiled.loc[(row["method"], row["inputs"]), row["metric"]]
            filled.loc[place, "remark"] = "times and parameters are of this machine and configuration: not comparable"
    return filled


def drawings(
    ledger: pd.DataFrame, results: pd.DataFrame, measured: pd.DataFrame, *, config: str, output: Path
) -> list[str]:
    """Figures 1 and 3 of Rana and Rawat: PNGs in ``output``, and their numbers as Markdown."""
    here, published = figures.speeds(results, measured), figures.published_speeds(ledger)
    dataset = ", ".join(sorted(set(results[results["metric"] == figures.MEAN_IOU]["dataset"])))
    of = f"{config} on {dataset}"
    figures.draw_speeds(output / f"{DRAWN}-figure1.png", here, published, title=f"Speed against mean IoU, {of}")
    lines = [f"## {DRAWN}, figure 1: {of} (published, K80)", "", *figures.speeds_markdown(here, published), ""]
    pairs = figures.pairs(results, method="ssa2d")
    lines += [f"## {DRAWN}, figure 3: accuracy of each pair, {of}", "", *figures.pairs_markdown(pairs), ""]
    if len(pairs):
        figures.draw_pairs(output / f"{DRAWN}-figure3.png", pairs, title=f"SSA2D, {RGB} and {FLOW}, {of}")
    return [*lines, f"Drawn in {output}."]


def _markdown(rows: pd.DataFrame) -> list[str]:
    """A line a row of the table, in the order in which it is printed; a column a metric."""
    rows = rows.drop_duplicates([*ROW, "dataset", "metric"])
    lines = []
    for dataset, part in rows.groupby("dataset", sort=False):
        metrics = list(dict.fromkeys(part["metric"]))
        titles = " | ".join(metric.replace("_", " ") for metric in metrics)
        lines += [f"On {dataset}:", "", f"| method | inputs | variant | {titles} |"]
        lines.append("|---|---|---|" + "---:|" * len(metrics))
        for (method, inputs, variant), cells in part.groupby(ROW, sort=False):
            found = cells.set_index("metric")
            values = " | ".join(_cell(found, metric) for metric in metrics)
            lines.append(f"| {method} | {inputs} | {variant} | {values} |")
        lines.append("")
    remarks = sorted({remark for remark in rows["remark"] if remark not in ("", "not run")})
    return [*lines, *(f"Remark: {remark}." for remark in remarks)]


def _how_to_run(rows: pd.DataFrame, addable: Collection[Setting], paper: str) -> list[str]:
    """A line where some of the ``rows`` that were not run are ``addable``, as earlier work is not."""
    not_run = {Setting(*row) for row in rows.loc[rows["here"].isna(), ROW].itertuples(index=False)}
    count = len(not_run.intersection(addable))
    line = f"`make claims PAPER={paper}` adds the runs that it needs to params.yaml (rows of this table: {count})."
    return [line] if count else []


def _cell(found: pd.DataFrame, metric: str) -> str:
    if metric not in found.index:
        return ""
    here, value = found.loc[metric, "here"], found.loc[metric, "value"]
    return f"{'not run' if pd.isna(here) else f'{here:.1f}'} ({value:.1f})"


def main(
    paper: Annotated[str, typer.Option(help="dang2018, gavrilyuk2018 or rana2021, or the paper's method")],
    table: Annotated[str | None, typer.Option(help="one table, and no figures; all of them without it")] = None,
    report: Annotated[Path, typer.Option(help="the folder that stage `report` writes")] = Path("data/report"),
    output: Annotated[Path, typer.Option(help="where figures are drawn")] = Path("data/figures"),
) -> None:
    """Print a paper's tables with what was computed here, and draw its figures."""
    if not (report / "ledger.csv").exists():
        raise ValueError(f"{report / 'ledger.csv'} not found: run `dvc repro report`")
    types = dict.fromkeys(["paper", "table", *ROW, "dataset", "metric", "remark"], str)
    ledger = pd.read_csv(report / "ledger.csv", dtype=types, keep_default_na=False, na_values={"here": ""})
    config = read()["train"]["common"]["config"]
    measured = figures.profiles(items.CACHE / "profiles", config=config)
    ledger = with_profiles(ledger, measured)
    print("\n".join(tables(ledger, paper, table=table, runs=all_runs().values())))
    if table is None and paper_of(paper) == DRAWN:
        results = pd.read_csv(report / "results.csv")
        print("\n".join(drawings(ledger, results, measured, config=config, output=output)))


if __name__ == "__main__":
    cli.run(main)
