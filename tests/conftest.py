"""What tests share: a scratch copy of the project to run commands in, and the folder of real data beside it."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

# A shell that starts the tests in the background has Ctrl-C ignored, and children inherit that: what ends on Ctrl-C
# would never end.
signal.signal(signal.SIGINT, signal.default_int_handler)

CHECKOUT = Path(__file__).resolve().parent.parent
COPIED = ("flows", "stages", "models", "dvc.yaml", "params.yaml", "pyproject.toml", ".dvcignore")


@dataclass(frozen=True)
class Project:
    """A scratch workspace with the project's code and no data."""

    root: Path

    def python(self, *arguments: str, check: bool = True, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run ``python ARGUMENTS`` in it, with this test's own interpreter; fails the test if that fails."""
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.root, env=self.environment(**variables),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if check and done.returncode != 0:
            pytest.fail(f"python {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def environment(self, **variables: str) -> dict[str, str]:
        # The stages' commands say `python`: it must be this one, whether or not the environment is activated.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, **variables}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "project"
    root.mkdir()
    for name in filter(lambda name: (CHECKOUT / name).exists(), COPIED):
        if (CHECKOUT / name).is_dir():
            shutil.copytree(CHECKOUT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(CHECKOUT / name, root / name)
    (root / ".dvc").mkdir()
    shutil.copy(CHECKOUT / ".dvc" / "config", root / ".dvc" / "config")
    (root / "data").mkdir()
    shutil.copy(CHECKOUT / "data" / ".gitignore", root / "data" / ".gitignore")
    subprocess.run(["git", "init", "-q", root], check=True)
    return Project(root)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of papers and real clips beside the checkout."""
    folder = CHECKOUT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder
