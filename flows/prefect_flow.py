"""The pipeline as a Prefect flow: a task per stage, each one child process, independent ones side by side.

Prefect is imported here and in no other module that a run without stale stages needs. ``reproduce`` is the flow that
prefect.yaml deploys; ``run`` is the same for a terminal that has the lock and the plan already.
"""

import logging
import queue
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed, State, StateType

from flows.child import Children, StageFailed, reproduce_stage
from flows.dag import Plan, Stage, plan
from flows.gpus import Gpus
from flows.options import Options
from flows.ray_head import RayHead
from flows.schedule import Schedule, StageRun
from flows.summary import REPORT, failures, in_words, report_is_of
from stages.core.workers import PROCESSES_VARIABLE, RUNNER_VARIABLE, visible_gpus
from stages.core.workspace import AnotherRun, only_run

NAME = "reproduce"


class _WithoutTraceback(logging.Filter):
    """A failed stage has told what went wrong in its own lines; the stack above `raise StageFailed` is Prefect's."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], StageFailed):
            record.exc_info = None
        return True


@flow(name=NAME)
def reproduce(
    only: list[str] | None = None, retries: int = 1, runner: str | None = None, parallel: int = 0
) -> State[None]:
    """Bring the pipeline in the current folder up to date; ends at once if another run is at work or nothing changed.

    ``only`` some stages and what they need, ``retries`` of a failed stage, ``runner`` inside stages, ``parallel``
    stages at a time (0: half the cores, at least two).
    """
    root = Path.cwd()
    options = Options(only=tuple(only or ()), retries=retries, runner=runner, parallel=parallel)
    try:
        with only_run(root):
            wanted = plan().only(options.only)
            if not wanted.to_run:
                return Completed(message=f"nothing changed: all {len(wanted.stages)} stages are up to date")
            ray = RayHead.wanted(options.chosen_runner(root), root)
            return _final_state(_run_stages(wanted, options, ray, root))
    except AnotherRun as busy:
        return Completed(message=str(busy))


def run(wanted: Plan, options: Options, ray: RayHead | None, root: Path) -> list[StageRun]:
    """Run the stale stages of ``wanted`` as a flow; the caller holds the workspace."""
    runs: list[StageRun] = []

    @flow(name=NAME, validate_parameters=False)
    def from_terminal(only: list[str], retries: int, runner: str | None, parallel: int) -> State[None]:
        runs.extend(_run_stages(wanted, options, ray, root))
        return _final_state(runs)

    state = from_terminal(list(options.only), options.retries, options.runner, options.parallel, return_state=True)
    if not state.is_completed() and not failures(runs):
        state.result()  # raises what broke outside of any stage
    return runs


def _run_stages(wanted: Plan, options: Options, ray: RayHead | None, root: Path) -> list[StageRun]:
    environment = {RUNNER_VARIABLE: options.chosen_runner(root)}
    if ray is not None:
        environment |= ray.join()
    # Ctrl-C and TERM leave this block by their exceptions, and it ends all children. That has to happen in here, before
    # Prefect waits for its task threads: those wait for their children.
    logging.getLogger("prefect.task_runs").addFilter(_WithoutTraceback())
    with Children() as children:
        runs = _side_by_side(wanted.to_run, options, _stage_task(children, environment, options, root))
        _track(children, root)
    if report_is_of(runs):
        _publish(root)
    return runs


def _stage_task(
    children: Children, environment: dict[str, str], options: Options, root: Path
) -> Callable[[str, int], PrefectFuture[State[None]]]:
    # A closure: Prefect records parameters, and only the stage's name and its number of processes are worth it.
    gpus = Gpus(visible_gpus())

    @task(
        name="stage",
        task_run_name="{stage}",
        retries=options.retries,
        retry_delay_seconds=1,
        cache_policy=NO_CACHE,
        persist_result=False,
    )
    def reproduce_one(stage: str, processes: int) -> State[None]:
        logger = get_run_logger()

        def log(line: str) -> None:
            logger.info("%s", line)

        with gpus.one() as gpu:
            own = environment | gpu | {PROCESSES_VARIABLE: str(processes)}
            ending = reproduce_stage(children, stage, log=log, root=root, environment=own)
        return Completed(name=ending.capitalize())

    return reproduce_one.submit


def _side_by_side(
    stages: tuple[Stage, ...], options: Options, submit: Callable[[str, int], PrefectFuture[State[None]]]
) -> list[StageRun]:
    """At most ``options.side_by_side`` stages at a time, each as soon as what it needs is done."""
    logger = get_run_logger()
    schedule = Schedule(stages)
    finished: queue.SimpleQueue[str] = queue.SimpleQueue()
    futures: dict[str, PrefectFuture[State[None]]] = {}
    started: dict[str, float] = {}
    runs: list[StageRun] = []
    while True:
        starting = schedule.ready()[: options.side_by_side - len(futures)]
        processes = options.processes(len(futures) + len(starting)) if starting else 0
        for name in starting:
            schedule.start(name)
            started[name] = time.monotonic()
            futures[name] = submit(name, processes)
            futures[name].add_done_callback(partial(_note, finished, name))
        if not futures:
            return runs
        name = finished.get()
        seconds = time.monotonic() - started[name]
        future = futures.pop(name)
        future.wait()  # else `state` asks the server, which learns of it later
        state = future.state
        if state.is_completed():
            runs.append(StageRun(name, (state.name or "ran").lower(), seconds))
            schedule.succeeded(name)
            continue
        error = state.result(raise_on_failure=False)
        runs.append(StageRun(name, "failed", seconds, why=_why(error, state)))
        for skipped in schedule.failed(name):
            logger.warning("%s is skipped: it %s", skipped.stage, skipped.why)
            _mark_skipped(skipped)
            runs.append(skipped)


def _note(finished: "queue.SimpleQueue[str]", name: str, _: object) -> None:
    finished.put(name)


def _why(error: object, state: State[None]) -> str:
    if isinstance(error, StageFailed):
        return error.why
    return str(state.message or error)


def _mark_skipped(run: StageRun) -> None:
    @task(name="stage", task_run_name=run.stage, cache_policy=NO_CACHE)
    def skip() -> State[None]:
        return State(type=StateType.CANCELLED, name="Skipped", message=f"it {run.why}")

    skip(return_state=True)


def _track(children: Children, root: Path) -> None:
    """Bring MLflow up to date, from the files of the stages; its failure loses nothing and fails nothing."""
    logger = get_run_logger()
    command = [sys.executable, "-m", "stages.commands.track"]
    code = children.run(command, log=lambda line: logger.info("track | %s", line), root=root)
    if code != 0:
        logger.warning(
            "MLflow was not brought up to date (exit code %d); `python -m stages.commands.track` does it later", code
        )


def _publish(root: Path) -> None:
    report = root / REPORT
    if not report.exists():
        return
    try:
        create_markdown_artifact(key="report", markdown=report.read_text(), description="Methods compared")
    except Exception as error:  # an artifact is a copy of a file that is there: no failure of its upload matters
        get_run_logger().warning("the report was not published in Prefect: %s", error)


def _final_state(runs: list[StageRun]) -> State[None]:
    words = in_words(runs)
    return Failed(message=words) if failures(runs) else Completed(message=words)
