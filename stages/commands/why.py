"""``python -m stages.commands.why --stage=frames --clip=VIDEO``: why was this clip computed again?

No stage of dvc.yaml: reads the records of the item cache (``.items/<stage>``), in which every result lies beside the
ingredients of its key. Says what changed from the result before the newest to the newest, and what of the code and the
libraries has changed since: then the next run computes the clip again. Writes nothing.
"""

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from stages.core import cli, items
from stages.core.closure import import_closure
from stages.core.params import nearest

GONE = "(none)"


@dataclass(frozen=True)
class Result:
    """One record of the item cache: what its key was made of, and when it was written (seconds since the epoch)."""

    ingredients: Mapping[str, Mapping[str, Any]]
    written: float
    quarantine: str | None


def run(stage: str, clip: str, *, cache: Path | None = None) -> str:
    """What there is to say about ``clip`` in ``stage``, as text. Raises ``ValueError`` for a stage without records."""
    folder = _stage_folder(stage, cache or items.CACHE)
    name = clip_name(clip)
    results, others = _results(folder, name)
    if not results:
        return f"{folder.name}: `{name}` was never computed{nearest(name, others)}"
    newest = results[0]
    when = datetime.fromtimestamp(newest.written).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    lines = [f"{folder.name}: `{name}` has {len(results)} result{'s' * (len(results) > 1)}, the newest of {when}"]
    if newest.quarantine is not None:
        lines.append(f"  it is in quarantine: {newest.quarantine}")
    if len(results) == 1:
        lines.append("there is none before it to compare it with")
    else:
        lines.append("changed from the result before:")
        lines += _lines(differences(results[1].ingredients, newest.ingredients))
    since = differences(newest.ingredients, _as_now(newest.ingredients))
    lines.append("changed since in this checkout:" if since else "its code and libraries are unchanged since")
    return "\n".join(lines + _lines(since))


def clip_name(clip: str) -> str:
    """The video of ``--clip``: an id, or the path of an mp4 or of a packed file."""
    path = Path(clip)
    return path.stem if path.suffix in {".mp4", ".arrow"} else path.name


def differences(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """(kind, what) of every ingredient that is not the same; kinds are inputs, parameters, code and libraries."""
    found = []
    for kind in sorted(before.keys() | after.keys()):
        old, new = before.get(kind, {}), after.get(kind, {})
        for name in sorted(old.keys() | new.keys()):
            if name not in old or name not in new or old[name] != new[name]:
                found.append((kind, f"{name}: {_short(old.get(name, GONE))} -> {_short(new.get(name, GONE))}"))
    return found


def _stage_folder(stage: str, cache: Path) -> Path:
    """``frames``, ``optical_flow-dis-forward`` or DVC's ``optical_flow@dis-forward``; ``evaluate`` if there is one."""
    known = sorted(path.name for path in cache.glob("*") if any(path.glob("??/*.json")))
    wanted = stage.replace("@", "-")
    if wanted in known:
        return cache / wanted
    parts = [name for name in known if name.startswith(f"{wanted}-")]
    if len(parts) == 1:
        return cache / parts[0]
    if parts:
        raise ValueError(f"--stage={stage} has several parts; name one of {', '.join(parts)}")
    hint = nearest(wanted, known) or "; nothing has been computed yet: run `dvc repro`"
    raise ValueError(f"--stage={stage}: {cache} holds no results of it{hint}")


def _results(folder: Path, name: str) -> tuple[list[Result], list[str]]:
    """Results of the item ``name``, the newest first, and the names of the other items."""
    found: list[Result] = []
    others: set[str] = set()
    for path in folder.glob("??/*.json"):
        record = json.loads(path.read_text())
        if record["item"] == name:
            found.append(Result(record["ingredients"], path.stat().st_mtime, record.get("quarantine")))
        else:
            others.add(record["item"])
    return sorted(found, key=lambda result: -result.written), sorted(others)[:1000]


def _as_now(ingredients: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The ingredients with the code and the libraries of this checkout; a new import shows in the module it is in."""
    code = {}
    for module in ingredients["code"]:
        if module in (closure := import_closure(module)):
            code[module] = closure[module]
    libraries = {}
    for library in ingredients["libraries"]:
        try:
            libraries[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**ingredients, "code": code, "libraries": libraries}


def _lines(changes: list[tuple[str, str]]) -> list[str]:
    width = max((len(kind) for kind, _ in changes), default=0)
    return [f"  {kind:{width}}  {what}" for kind, what in changes]


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:8]}..." if len(text) == 64 and not text.strip("0123456789abcdef") else text


def main(
    stage: Annotated[str, typer.Option(help="frames, optical_flow-dis-forward, evaluate-RUN, ...")],
    clip: Annotated[str, typer.Option(help="--clip=VIDEO, or --clip=PATH of the clip")],
) -> None:
    """Say which ingredients of a clip's result changed: inputs, parameters, code modules, libraries."""
    print(run(stage, clip))


if __name__ == "__main__":
    cli.run(main)
