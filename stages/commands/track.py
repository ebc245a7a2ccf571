"""``python -m stages.commands.track``: bring MLflow up to date from dvc.lock and the output files of train, evaluate
and report.

No stage of dvc.yaml: it has no output. It can be repeated at any time; the flow calls it after its stages.
"""

import contextlib
import os
import sqlite3
import sys
from typing import Annotated

import typer

from stages.core import cli
from stages.core.addresses import hidden
from stages.core.reporting.mlflow_runs import Counts, project
from stages.core.tracking import FOLDER, connect, locked, uri


def run(*, make_database: bool) -> Counts:
    """Bring MLflow up to date; with ``make_database`` also where there is no result yet."""
    if make_database:
        with locked():
            connect().client.search_experiments()
            if not os.environ.get("MLFLOW_TRACKING_URI"):
                _keep_default_inside()
    return project()


def _keep_default_inside() -> None:
    """Move the artifacts to come of MLflow's own experiment `Default` into .mlflow; MLflow has no call for that.

    Where an earlier version of this project made the database, they would go to a folder mlruns of the checkout.
    """
    ours = FOLDER.resolve().as_uri() + "/"
    change = (
        "UPDATE experiments SET artifact_location = ? WHERE experiment_id = 0"
        " AND substr(artifact_location, 1, ?) != ? AND artifact_location NOT LIKE 'mlflow-artifacts:%'"
    )
    with contextlib.closing(sqlite3.connect(FOLDER / "mlflow.db")) as database, database:
        database.execute(change, (f"{ours}artifacts/0", len(ours), ours))


def main(
    make_database: Annotated[bool, typer.Option(help="make MLflow's database even without results")] = False,
) -> None:
    """Bring MLflow up to date with the results in this workspace; can be repeated at any time."""
    try:
        counts = run(make_database=make_database)
    except OSError as error:
        sys.exit(_away(error))
    except Exception as error:  # MLflow, SQLAlchemy, requests: each has errors of its own for `not now`
        if type(error).__module__.split(".")[0] not in ("mlflow", "sqlalchemy", "requests", "alembic", "urllib3"):
            raise
        sys.exit(_away(error))
    stale = f", {counts.stale} without their outputs (run the pipeline)" if counts.stale else ""
    print(f"MLflow at {hidden(uri())}: {counts.added} runs added, {counts.known} known{stale}")


def _away(error: Exception) -> str:
    reason = hidden((str(error).strip().splitlines() or [type(error).__name__])[0])
    return f"error: MLflow at {hidden(uri())} can't be used now ({reason}); nothing is lost: mend it and run this again"


if __name__ == "__main__":
    cli.run(main)
