"""What a run says at its end: a line per stage, the report's table, and where the results are."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from flows.schedule import StageRun
from stages.core.addresses import hidden

REPORT = Path("data/report/report.md")
MLFLOW = Path(".mlflow/mlflow.db")
COLOURS = {"ran": "green", "restored": "cyan", "unchanged": "dim", "failed": "bold red", "skipped": "yellow"}


def failures(runs: Sequence[StageRun]) -> int:
    return sum(run.state == "failed" for run in runs)


def report_is_of(runs: Sequence[StageRun]) -> bool:
    """Whether the report's file says what these runs came to; one that failed or was skipped left an earlier one."""
    return not any(run.stage == "report" and run.state in ("failed", "skipped") for run in runs)


def in_words(runs: Sequence[StageRun]) -> str:
    """``3 ran, 1 failed (train@x), 2 skipped``."""
    counts = Counter(run.state for run in runs)
    failed = ", ".join(run.stage for run in runs if run.state == "failed")
    known = [state for state in COLOURS if counts[state]]
    return ", ".join(f"{counts[state]} {state}" + (f" ({failed})" if state == "failed" else "") for state in known)


def print_stages(console: Console, runs: Sequence[StageRun]) -> None:
    table = Table("stage", "state", "seconds", "", title="Stages")
    table.columns[2].justify = "right"
    for run in runs:
        colour = COLOURS.get(run.state, "")
        seconds = f"{run.seconds:.1f}" if run.state != "skipped" else ""
        table.add_row(run.stage, f"[{colour}]{run.state}[/]", seconds, run.why, style="")
    console.print(table)


def print_results(console: Console, root: Path, runs: Sequence[StageRun] = ()) -> None:
    """The report's tables, and the paths of report and MLflow database; what isn't there isn't mentioned."""
    report = root / REPORT
    if report.exists() and not report_is_of(runs):
        console.print(f"report: {REPORT} is of an earlier run", highlight=False)
    elif report.exists():
        console.print(Markdown(_tables(report.read_text())))
        console.print(f"report: {REPORT}", highlight=False)
    if address := os.environ.get("MLFLOW_TRACKING_URI"):
        console.print(f"MLflow: {hidden(address)}", highlight=False)
    elif (root / MLFLOW).exists():
        console.print(f"MLflow: {MLFLOW} (`make ui` shows it)", highlight=False)


def _tables(markdown: str) -> str:
    """The tables of a Markdown text, with the headings that stand directly over them."""
    kept: list[str] = []
    heading = ""
    for line in markdown.splitlines():
        if line.startswith("#"):
            heading = line
        elif line.startswith("|"):
            if heading:
                kept += ["", heading, ""]
                heading = ""
            kept.append(line)
        elif kept and kept[-1].startswith("|"):
            kept.append("")
    return "\n".join(kept)
