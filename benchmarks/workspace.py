"""A copy of this project with few clips, in a folder of its own: there benchmarks and tests run real `dvc repro`."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from models.methods import METHODS
from stages.core.datasets import a2d
from stages.core.generator import sample_plans, write_release
from stages.core.runs import all_runs

CHECKOUT = Path(__file__).resolve().parent.parent
COPIED = ("flows", "stages", "models", "dvc.yaml", "params.yaml", "pyproject.toml", ".dvcignore", ".gitignore")
FOREIGN = ("ACTOR_ACTION_", "DVC_", "MLFLOW_", "PREFECT_", "RAY_")
"""Settings of the caller that must not reach into a workspace: they name other caches, servers and clusters."""
SEED = 77

SHORT = {
    "pretrain": {
        "clips": 4,
        "height": 48,
        "side": 32,
        "side3d": 32,
        "frames": 6,
        "steps": 2,
        "batch": 2,
        "loaders": 0,
        "threads": 1,
    },
    "train_flow": {"pairs": 2, "height": 128, "width": 192, "loaders": 0, "threads": 1, "checkpoint_seconds": 0},
    "train_flow.networks": {"flownets": {"steps": 2}},
    "evaluate_flow": {"backends": ["dis", "flownets"], "shapes": [{"height": 64, "width": 96, "pairs": 2}]},
    "train_regions": {"threads": 1, "loaders": 0, "checkpoint_seconds": 0},
    "train_regions.segmenters": {"fcis-own": {"steps": 2}},
    "regions": {"most": 5},
    "train.common": {"threads": 1, "loaders": 0, "checkpoint_seconds": 0},
    "evaluate": {"resamples": 10},
    "miniature": {"clips": 1},
}
"""Parameters with which everything runs and nothing is learned."""


@dataclass(frozen=True)
class Workspace:
    """The project at ``root``; commands run in it with this process's own interpreter."""

    root: Path

    def run(
        self, *command: str, check: bool = True, variables: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python COMMAND``. Raises ``RuntimeError`` with all it said if it fails and ``check`` is set."""
        environment = self.environment() | dict(variables or {})
        done = subprocess.run(
            [sys.executable, *command], cwd=self.root, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise RuntimeError(f"python {' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def dvc(self, *command: str, check: bool = True) -> str:
        """Run ``dvc COMMAND``; all it said."""
        done = self.run("-m", "dvc", *command, check=check)
        return done.stdout + done.stderr

    def environment(self) -> dict[str, str]:
        """The variables of a command in this workspace."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        # Commands in dvc.yaml say `python`: it must be this one, whether or not the environment is activated.
        inherited["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)])
        return inherited | {"DVC_NO_ANALYTICS": "true", "DO_NOT_TRACK": "1"}

    def set(self, changes: Mapping[str, Any]) -> None:
        """Set sections or single values of params.yaml: dots lead inwards, a mapping is merged, None removes."""
        path = self.root / "params.yaml"
        content = yaml.safe_load(path.read_text())
        for name, value in changes.items():
            *outer, last = name.split(".")
            section = content
            for key in outer:
                section = section[key]
            if value is None:
                del section[last]
            else:
                section[last] = section[last] | value if isinstance(section.get(last), dict) else value
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    def put(self, release: Path) -> None:
        """Make ``release`` the data set, as `make data FROM=...` does."""
        self.run("-m", "stages.commands.data", "put", f"--from={release}", "--name=sample")


def copy_project(root: Path) -> Workspace:
    """A workspace at the new ``root`` with the project's code and no data."""
    root.mkdir(parents=True)
    for name in filter(lambda name: (CHECKOUT / name).exists(), COPIED):
        if (CHECKOUT / name).is_dir():
            shutil.copytree(CHECKOUT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(CHECKOUT / name, root / name)
    for name in (".dvc/config", ".dvc-site/repo/.gitkeep", "data/.gitignore", "docs/published.csv"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, root / name)
    subprocess.run(["git", "init", "-q", root], check=True)
    return Workspace(root)


def make(root: Path, release: Path, *, runs: Sequence[str] = ()) -> Workspace:
    """A workspace with the clips of ``release``; of the runs in params.yaml it keeps ``runs`` (empty: all)."""
    workspace = copy_project(root)
    workspace.set(SHORT | {f"train.{name}": {"steps": 2, "batch": 2} for name in METHODS})
    dropped = [name for name in names_of_runs() if runs and name not in runs]
    workspace.set({f"runs.{name}": None for name in dropped})
    fronts = yaml.safe_load((root / "params.yaml").read_text())["features"]["fronts"]
    workspace.set({f"features.fronts.{name}": None for name in dropped if name in fronts})
    workspace.put(release)
    return workspace


def names_of_runs() -> list[str]:
    """The runs in this checkout's params.yaml."""
    return list(all_runs(CHECKOUT / "params.yaml"))


def make_release(folder: Path, *, train: int, test: int, height: int, processes: int = 1) -> list[str]:
    """Generate clips as a release; returns their videos, in order."""
    plans = sample_plans(seed=SEED, train=train, test=test, height=height, check=False)
    write_release(folder, plans, processes=processes)
    return [plan.video for plan in plans]


def take(release: Path, folder: Path, videos: Iterable[str]) -> Path:
    """Those ``videos`` of ``release`` as a release of their own at the new ``folder``; its files may be changed."""
    wanted = set(videos)

    def left_out(where: str, names: list[str]) -> list[str]:
        inside = Path(where).name in {a2d.CLIPS_FOLDER.name, "Flow", "mat", "col", a2d.INSTANCE_FOLDER.name}
        return [name for name in names if inside and name.removesuffix(".mp4").removesuffix(".arrow") not in wanted]

    shutil.copytree(release, folder, ignore=left_out)
    for table in (a2d.VIDEOSET, a2d.SENTENCES):
        with (release / table).open(newline="") as file:
            rows = [row for row in csv.reader(file) if row[0] in wanted or row[0] == "video_id"]
        with (folder / table).open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return folder
