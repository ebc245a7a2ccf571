"""``python -m flows.ui``: Prefect's server with a worker for the schedules in prefect.yaml, and MLflow's pages.

All on loopback, all ended by Ctrl-C or TERM. A run of ``make reproduce`` meanwhile shows up in Prefect's pages, too.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows import mlflow_pages, server
from flows.child import Child, Children
from flows.work_pool import POOL
from stages.core import cli
from stages.core.addresses import hidden

LOGS = Path(".prefect/logs")


@dataclass(frozen=True)
class Services:
    """What runs, by name, and where: Prefect's pages and MLflow's (None where MLFLOW_TRACKING_URI names another)."""

    children: dict[str, Child]
    prefect: str
    mlflow: str | None


def start(
    children: Children, root: Path, *, prefect_port: int = 4200, mlflow_port: int = 5000, mlflow: bool = True
) -> Services:
    """Start everything, each in turn when what it needs answers. A port that is taken is replaced by a free one.

    Raises ``RuntimeError`` if something doesn't start; the message says where its log is.
    """
    where = server.address(server.free_port(prefect_port))
    url = where["PREFECT_API_URL"]
    environment = {
        **server.settings(root),
        **where,
        **server.login(root),
        "ACTOR_ACTION_ROOT": str(root.resolve()),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root.resolve()), os.environ.get("PYTHONPATH")])),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # queues for its assistants: processes that nothing here uses
    }
    logs = root / LOGS
    logs.mkdir(parents=True, exist_ok=True)
    started: dict[str, Child] = {}

    def begin(name: str, command: Sequence[str]) -> Child:
        log = logs / f"{name}.log"
        started[name] = children.start(command, root=root, environment=environment, output=log)
        return started[name]

    def finish(name: str, command: Sequence[str]) -> None:
        lines: list[str] = []
        if children.run(command, log=lines.append, root=root, environment=environment) != 0:
            raise RuntimeError(f"{name} failed:\n" + "\n".join(lines[-10:]))

    begin("prefect-server", server.command())
    pages = None
    if mlflow and not os.environ.get("MLFLOW_TRACKING_URI"):
        # Before its server starts: two that make MLflow's database at the same time both fail.
        finish("MLflow's database", [sys.executable, "-m", "stages.commands.track", "--make-database"])
        port = server.free_port(mlflow_port)
        pages = f"http://{server.HOST}:{port}"
        begin("mlflow", _mlflow_command(root, port))
    try:
        server.wait_for(f"{url}/health", started["prefect-server"])
        prefect = [sys.executable, "-m", "prefect"]
        finish("making the work pool", [sys.executable, "-m", "flows.work_pool"])
        begin("prefect-worker", [*prefect, "worker", "start", "--pool", POOL, "--type", "process"])
        finish("deploying prefect.yaml", [*prefect, "--no-prompt", "deploy", "--all"])
        if pages is not None:
            server.wait_for(f"{pages}/health", started["mlflow"])
    except RuntimeError as error:
        raise RuntimeError(f"{error}; logs are in {LOGS}") from error
    return Services(started, prefect=url.removesuffix("/api"), mlflow=pages)


def _mlflow_command(root: Path, port: int) -> list[str]:
    folder = root.resolve() / ".mlflow"
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", mlflow_pages.NAME, "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]  # else mlartifacts, in the current folder
    return [*command, "--host", server.HOST, "--port", str(port)]


def main(
    prefect_port: Annotated[int, typer.Option(help="of Prefect's pages; another if it is taken")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="of MLflow's pages; another if it is taken")] = 5000,
) -> None:
    """Start Prefect's server, a worker for the schedules of prefect.yaml, and MLflow's pages; Ctrl-C ends all."""
    console, root = Console(), Path.cwd()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as stack:
        children = stack.enter_context(Children())
        try:
            note = stack.enter_context(server.note(root))
            console.print("starting Prefect and MLflow (a first start makes their databases: half a minute)")
            services = start(children, root, prefect_port=prefect_port, mlflow_port=mlflow_port)
            print(f"{services.prefect}/api", file=note, flush=True)
            console.print(f"Prefect: {services.prefect}", highlight=False)
            console.print(f"MLflow:  {services.mlflow or hidden(os.environ['MLFLOW_TRACKING_URI'])}", highlight=False)
            path = os.path.relpath(server.home(root) / "token", root)
            console.print(f"both ask for a password (MLflow: with any user name): cat {path}", highlight=False)
            console.print("Ctrl-C ends both")
            while all(child.is_alive for child in services.children.values()):
                time.sleep(0.5)
        except KeyboardInterrupt:
            console.print("ending Prefect and MLflow")
            return
        except RuntimeError as error:
            sys.exit(f"error: {error}")
        ended = [name for name, child in services.children.items() if not child.is_alive]
        sys.exit(f"error: {', '.join(ended)} ended by itself; its log is in {LOGS}")


if __name__ == "__main__":
    cli.run(main)
