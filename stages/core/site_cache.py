"""DVC's site caches: pickles that DVC reads, in folders that it makes with mode 0777 wherever it was called."""

import os
from pathlib import Path

NAME = ".dvc-site"


def writable_by_others(root: Path) -> list[Path]:
    """The site caches of the checkout at ``root`` into which, or below which, other accounts may write."""
    found = []
    for folder, below, _ in os.walk(root):
        if NAME in below and any(_is_open(cache) for cache in (Path(folder, NAME), Path(folder, NAME, "repo"))):
            found.append(Path(folder, NAME))
        below[:] = [name for name in below if not name.startswith(".")]  # .venv, .git
    return sorted(found)


def _is_open(folder: Path) -> bool:
    return folder.is_dir() and bool(folder.stat().st_mode & 0o022)
