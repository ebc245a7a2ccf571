"""``python -m stages.tables --paper=dang2018``: a paper's tables, computed here, with the published figures beside.

Reads data/report/ledger.csv, which stage `report` writes. A cell is `here (published)`; `not run` where no run of
params.yaml has it. Writes nothing: the tables go to the terminal as Markdown.
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from stages.core import cli
from stages.core.params import nearest

LOST = ("dang2018", "4")
"""The paper's text has no names in this table, a comparison with earlier work: its rows stand in two later papers."""
LOST_SOURCES = {"rana2021": "1", "gavrilyuk2018": "3"}
LOST_ROWS = "xu201.*|kalogeiton.*|region_masks"
ROW = ["method", "inputs", "variant"]


def tables(ledger: pd.DataFrame, paper: str, *, table: str | None = None) -> list[str]:
    """Markdown of every table of ``paper``, or of ``table``. Raises ``ValueError`` that names what there is."""
    papers = sorted(set(ledger["paper"]))
    if paper not in papers:
        raise ValueError(f"--paper={paper}{nearest(paper, papers)}; there are {', '.join(papers)}")
    of_paper = {name: rows for name, rows in ledger[ledger["paper"] == paper].groupby("table")}
    if paper == LOST[0]:
        printed = pd.concat([ledger[(ledger["paper"] == p) & (ledger["table"] == t)] for p, t in LOST_SOURCES.items()])
        of_paper[LOST[1]] = printed[
            printed["method"].str.fullmatch(LOST_ROWS) & (printed["metric"] != "ms_per_frame/total")
        ]
    if table is not None and table not in of_paper:
        raise ValueError(f"--table={table}: {paper} has {', '.join(sorted(of_paper))}")
    lines = []
    for name in sorted(of_paper) if table is None else [table]:
        lines += [f"## {paper}, table {name}: here (published)", "", *_markdown(of_paper[name]), ""]
    return lines


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


def _cell(found: pd.DataFrame, metric: str) -> str:
    if metric not in found.index:
        return ""
    here, value = found.loc[metric, "here"], found.loc[metric, "value"]
    return f"{'not run' if pd.isna(here) else f'{here:.1f}'} ({value:.1f})"


def main(
    paper: Annotated[str, typer.Option(help="dang2018, rana2021 or gavrilyuk2018")],
    table: Annotated[str | None, typer.Option(help="one table; all of them without it")] = None,
    ledger: Annotated[Path, typer.Option(help="as stage `report` writes it")] = Path("data/report/ledger.csv"),
) -> None:
    """Print a paper's tables with what was computed here."""
    if not ledger.exists():
        raise ValueError(f"{ledger} not found: run `dvc repro report`")
    types = dict.fromkeys(["paper", "table", *ROW, "dataset", "metric", "remark"], str)
    print(
        "\n".join(
            tables(pd.read_csv(ledger, dtype=types, keep_default_na=False, na_values={"here": ""}), paper, table=table)
        )
    )


if __name__ == "__main__":
    cli.run(main)
