"""``python -m stages.commands.prune``: remove from the item cache what is old and no output of this checkout holds.

No stage of dvc.yaml. Every change of code, parameters or data leaves a generation of results in ``.items``, and every
training a checkpoint: for going back to, but they are never removed by themselves. Kept is what a manifest of data/
names and what was written or used in the last ``--days``. Results that outputs hold are the same files, so only what
nothing else holds gives room. DVC's own cache: ``dvc gc --workspace``.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from stages.core import cli, items
from stages.core.workspace import AnotherRun, only_run

RAW = "raw"
"""The folder in data/ that is somebody's data set; the others are outputs of stages."""


def run(*, days: float, data: Path = Path("data"), cache: Path | None = None) -> int:
    """Remove what is older than ``days``; the bytes that became free.

    Raises ``ValueError`` while a run is at work, which could need what is removed.
    """
    cache = cache or items.CACHE
    try:
        with only_run():
            kept, before = _named_by(data), time.time() - days * 86400
            return sum(_removed(path) for path in _old(cache, kept=kept, before=before))
    except AnotherRun as error:
        raise ValueError(f"{error}; try again when it has ended") from None


def _named_by(data: Path) -> set[str]:
    folders = (folder for folder in data.iterdir() if folder.is_dir() and folder.name != RAW) if data.is_dir() else ()
    manifests = (path for folder in folders for path in folder.rglob("manifest.parquet"))
    return {key for path in manifests for key in items.read_manifest(path.parent).values()}


def _old(cache: Path, *, kept: set[str], before: float) -> Iterator[Path]:
    """Records of items and their results, checkpoints and their locks."""
    newest: dict[str, float] = {}
    found: dict[str, list[Path]] = {}
    for path in [*cache.glob("*/??/*"), *cache.glob("checkpoints/*")]:
        if path.is_file() and not path.name.startswith("."):
            key = path.name.partition(".")[0]
            found.setdefault(key, []).append(path)
            newest[key] = max(newest.get(key, 0), path.stat().st_mtime)
    for key, paths in found.items():
        if key not in kept and newest[key] < before:
            yield from paths


def _removed(path: Path) -> int:
    status = path.stat()
    path.unlink()
    return status.st_size if status.st_nlink == 1 else 0


def main(days: Annotated[float, typer.Option(help="how long what no output holds is kept", min=0)] = 30) -> None:
    """Remove old results and checkpoints from .items."""
    print(f"{run(days=days) / 1e9:.2f} GB freed in {items.CACHE}")


if __name__ == "__main__":
    cli.run(main)
