"""What a run can be asked for; the command line and the deployment's parameters end here."""

import os
from dataclasses import dataclass
from pathlib import Path

from stages.core import params
from stages.core.workers import RUNNER_VARIABLE, cores

RUNNERS = ("auto", "serial", "processes", "ray")


@dataclass(frozen=True)
class Options:
    """``only`` these stages and what they need (all if empty); ``retries`` of a failed stage; ``runner`` inside stages
    (None: ACTOR_ACTION_RUNNER, else params.yaml); ``parallel`` stages at a time (0: half the cores, at least two)."""

    only: tuple[str, ...] = ()
    retries: int = 1
    runner: str | None = None
    parallel: int = 0

    def __post_init__(self) -> None:
        if self.retries < 0 or self.parallel < 0:
            raise ValueError("--retries and --parallel can't be negative")
        if self.runner is not None and self.runner not in RUNNERS:
            raise ValueError(f"--runner={self.runner}{params.nearest(self.runner, list(RUNNERS))}")

    @property
    def side_by_side(self) -> int:
        """Stages at a time: each uses several cores itself, but at the start and end of a stage most of them idle."""
        return self.parallel or max(2, cores() // 2)

    @staticmethod
    def processes(at_work: int) -> int:
        """Processes for a stage that starts as one of ``at_work``: all cores for one alone, two per core in all."""
        return min(cores(), max(2, 2 * cores() // at_work))

    def chosen_runner(self, root: Path) -> str:
        """The runner that stages are told. Raises ``ValueError`` for an unknown one in params.yaml."""
        runner = self.runner or os.environ.get(RUNNER_VARIABLE)
        path = root / params.PARAMS
        if not runner and path.exists():
            runner = (params.read(path).get("workers") or {}).get("runner")
        runner = runner or "auto"
        if runner not in RUNNERS:
            raise ValueError(f"workers.runner: `{runner}`{params.nearest(runner, list(RUNNERS))}")
        return runner
