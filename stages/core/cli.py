"""What people see of a stage: a mistake of theirs is one clear line, not a traceback; work shows its progress."""

import sys
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def run(main: Callable[..., Any]) -> None:
    """Run ``main`` as a typer command. A ``ValueError`` ends it with its message and exit code 1."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app()
    except ValueError as error:
        sys.exit(f"error: {error}")


def progress() -> Progress:
    """A bar with counts, time passed and time to go; on a terminal only: a log should not hold a line a redraw."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
