"""Which stage may start now, and which can't start any more: bookkeeping without processes or clocks."""

from collections.abc import Sequence
from dataclasses import dataclass

from flows.dag import Stage


@dataclass(frozen=True)
class StageRun:
    """How one stage ended: ran, restored (from DVC's run cache), unchanged, failed or skipped (both with a ``why``)."""

    stage: str
    state: str
    seconds: float = 0.0
    why: str = ""


class Schedule:
    """Stages that must run, each started when all that it needs among them has succeeded."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        names = {stage.name for stage in stages}
        self._waiting = {stage.name: {need for need in stage.needs if need in names} for stage in stages}
        self._done: set[str] = set()

    def ready(self) -> list[str]:
        """Stages that wait for nothing, in order."""
        return [name for name, needs in self._waiting.items() if needs <= self._done]

    def start(self, name: str) -> None:
        del self._waiting[name]

    def succeeded(self, name: str) -> None:
        self._done.add(name)

    def failed(self, name: str) -> list[StageRun]:
        """Take out all that need ``name``, directly or not, and say why."""
        because = {name: f"{name} failed"}
        skipped = []
        for waiting, needs in self._waiting.items():  # in order, so that what it needs was looked at before
            broken = sorted(needs & because.keys())
            if broken:
                through = "" if name in needs else f" (through {broken[0]})"
                because[waiting] = f"needs {name}, which failed{through}"
                skipped.append(StageRun(waiting, "skipped", why=because[waiting]))
        for run in skipped:
            del self._waiting[run.stage]
        return skipped
