"""Networks that a stage before this one has trained: data/<stage>/<name> with model.pt and run.json."""

from pathlib import Path

from stages.core import items


def digest(folder: Path, *, stage: str) -> str:
    """Of the network that ``stage`` left in ``folder``. Raises ``ValueError`` when it is not there."""
    if not (folder / "model.pt").exists():
        raise ValueError(f"{folder / 'model.pt'} not found: run `dvc repro {stage}@{folder.name}`")
    return items.digest([items.file_digest(folder / name) for name in ("model.pt", "run.json")])
