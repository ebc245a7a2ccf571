"""The DVC pipeline as a graph: its stages in order, what each needs, and which are stale.

Everything comes from one opening of the repository through DVC's own Python API, so `foreach`, `matrix`, imports and
nested dvc.yaml files are resolved by DVC itself. A process of `dvc` costs 0.7 s; this costs about that once, for all
stages together.
"""

import difflib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUSY_SECONDS = 3.0
"""How long a plan waits for another dvc that holds a stage, before it calls that stage stale."""


@dataclass(frozen=True)
class Stage:
    """One resolved stage, e.g. ``train@deeplab-rgb-full-0`` or ``data.dvc``."""

    name: str
    needs: tuple[str, ...]
    stale: bool


@dataclass(frozen=True)
class Plan:
    """Stages in an order in which each comes after all that it needs."""

    stages: tuple[Stage, ...]

    @property
    def to_run(self) -> tuple[Stage, ...]:
        """The stale stages and all that need one of them, which may turn out unchanged when their turn comes."""
        chosen: dict[str, Stage] = {}
        for stage in self.stages:
            if stage.stale or any(need in chosen for need in stage.needs):
                chosen[stage.name] = stage
        return tuple(chosen.values())

    def only(self, names: Iterable[str]) -> "Plan":
        """These stages and what they need; ``train`` stands for every ``train@...``. ``ValueError`` if unknown."""
        wanted: set[str] = set()
        for name in names:
            found = {stage.name for stage in self.stages if name in (stage.name, stage.name.split("@")[0])}
            if not found:
                known = sorted({stage.name for stage in self.stages} | {s.name.split("@")[0] for s in self.stages})
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known)}"
                raise ValueError(f"no stage `{name}` in dvc.yaml; {hint}")
            wanted |= found
        if not wanted:
            return self
        for stage in reversed(self.stages):
            if stage.name in wanted:
                wanted |= set(stage.needs)
        return Plan(tuple(stage for stage in self.stages if stage.name in wanted))


def order(needs: Mapping[str, Iterable[str]]) -> list[str]:
    """Names so that each comes after all that it needs; otherwise in the order given. ``ValueError`` on a cycle."""
    placed: dict[str, None] = {}
    waiting = {name: set(what) for name, what in needs.items()}
    while waiting:
        ready = [name for name, what in waiting.items() if what <= placed.keys()]
        if not ready:
            raise ValueError(f"stages need each other in a circle or need an unknown one: {', '.join(sorted(waiting))}")
        for name in ready:
            placed[name] = None
            del waiting[name]
    return list(placed)


def plan() -> Plan:
    """Read the pipeline of the DVC repository in the current folder. Raises ``ValueError`` if it can't be read."""
    os.environ.setdefault("DVC_NO_ANALYTICS", "true")
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(_wait_for_lock=True) as repo:
            graph = repo.index.graph
            with repo.lock:
                resolved = {stage.addressing: stage for stage in graph}
                needs = {
                    name: tuple(upstream.addressing for upstream in graph.successors(stage))
                    for name, stage in resolved.items()
                }
                stages = tuple(Stage(name, needs[name], _is_stale(resolved[name])) for name in order(needs))
    except DvcException as error:
        raise ValueError(f"DVC can't read the pipeline in {Path.cwd()}: {_reason(error)}") from error
    return Plan(stages)


def _is_stale(stage: Any) -> bool:
    from dvc.lock import LockError

    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            return bool(stage.changed())
        except LockError:
            # Another dvc reads or writes these files. Calling the stage stale is safe: dvc asks again before it runs.
            if time.monotonic() > deadline:
                return True
            time.sleep(0.2)


def _reason(error: BaseException) -> str:
    """The messages of an error and its causes: DVC puts the line of a faulty dvc.yaml into the last of them."""
    messages = []
    cause: BaseException | None = error
    while cause is not None:
        messages.append(" ".join(str(cause).split()))
        cause = cause.__cause__
    return ": ".join(message for message in messages if message)
