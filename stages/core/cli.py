"""How every stage's command line starts: a user's mistake is one clear line, not a traceback."""

import sys
from collections.abc import Callable
from typing import Any

import typer


def run(main: Callable[..., Any]) -> None:
    """Run ``main`` as a typer command. A ``ValueError`` ends it with its message and exit code 1."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app()
    except ValueError as error:
        sys.exit(f"error: {error}")
