"""The set-up script: every step once, in its order, and again only when what it was made from changed. No network:
the environment's Python is a script that writes down what it is asked, in a folder with a space in its name."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent

FAKE_PYTHON = """#!/bin/sh
here=$(dirname "$0")
case "$*" in
    "-c "*) exit 0 ;;
    *operators.py)
        if [ -e "$here/fail-operators" ]; then cat "$here/fail-operators" >&2; rm "$here/fail-operators"; exit 1; fi
        exit 0 ;;
    *"pip cache list"*) [ -e "$here/cached" ] && echo onedl_mmcv-2.3.6-cp311-x.whl; exit 0 ;;
esac
seconds=$(cat "$here/slow" 2>/dev/null || echo 0)
echo "$*" | sed 's/.*--no-input //' >> "$here/calls"
case "$*" in *onedl-mmcv==*) echo "CFLAGS=$CFLAGS MAX_JOBS=$MAX_JOBS" > "$here/compiler" ;; esac
sleep "$seconds"
if [ -e "$here/fail" ] && echo "$*" | grep -q -e "$(cat "$here/fail")"; then echo "pip broke"; exit 1; fi
"""

CONSTRAINTS = "torch==2.13.0\nonedl-mmcv==2.3.6\nnumpy==2.2.6\n"
PYPROJECT = '[project]\nname = "toy"\nversion = "1"\ndependencies = ["numpy>=2"]\n'


@dataclass(frozen=True)
class Checkout:
    """A folder with the set-up script and an environment whose pip only takes notes."""

    root: Path

    @property
    def bin(self) -> Path:
        return self.root / ".venv" / "bin"

    def start(self) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if name not in ("CFLAGS", "MAX_JOBS")}
        return subprocess.Popen(
            [sys.executable, ".ci/setup"], cwd=self.root, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def set_up(self, code: int = 0) -> str:
        child = self.start()
        output, _ = child.communicate(timeout=60)
        assert child.returncode == code, output
        return output

    def calls(self) -> list[str]:
        """What pip and dvc were asked since the last look, without the constraints and the folder."""
        path = self.bin / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.replace(f"{self.root}/", "").replace("-c constraints.txt ", "") for line in lines]


TORCH = "install torch==2.13.0 setuptools wheel packaging ninja psutil"
MMCV = "install --no-build-isolation onedl-mmcv==2.3.6"
PROJECT = [
    "install -e .[dev]", "install --force-reinstall --no-deps opencv-python-headless", "check",
    "-m dvc config --local core.site_cache_dir .dvc-site",
]  # fmt: skip


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root = tmp_path / "with space"
    (root / ".ci").mkdir(parents=True)
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "lib/python3.11/site-packages").mkdir(parents=True)
    shutil.copy(CHECKOUT / ".ci" / "setup", root / ".ci")
    (root / "constraints.txt").write_text(CONSTRAINTS)
    (root / "pyproject.toml").write_text(PYPROJECT)
    python = root / ".venv" / "bin" / "python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    return Checkout(root)


def test_from_nothing_every_step_runs_once_in_its_order(checkout: Checkout) -> None:
    output = checkout.set_up()
    assert checkout.calls() == [TORCH, MMCV, *PROJECT]
    assert "about 7 minutes" in output
    cores = len(os.sched_getaffinity(0))
    assert (checkout.bin / "compiler").read_text() == f"CFLAGS=-g0 MAX_JOBS={cores}\n"


def test_a_second_call_does_nothing_says_nothing_and_takes_no_time(checkout: Checkout) -> None:
    checkout.set_up()
    checkout.calls()
    start = time.monotonic()
    assert checkout.set_up() == ""
    assert time.monotonic() - start < 2.0
    assert checkout.calls() == []


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("constraints.txt", "numpy==2.2.6", "numpy==2.2.5"), ("pyproject.toml", "numpy>=2", "numpy>=2.1")],
)
def test_a_changed_dependency_updates_the_project_and_compiles_nothing(
    checkout: Checkout, file: str, old: str, new: str
) -> None:
    checkout.set_up()
    checkout.calls()
    path = checkout.root / file
    path.write_text(path.read_text().replace(old, new))
    checkout.set_up()
    assert checkout.calls() == PROJECT


def test_a_comment_or_a_tools_settings_update_nothing(checkout: Checkout) -> None:
    checkout.set_up()
    checkout.calls()
    (checkout.root / "constraints.txt").write_text("# why these\n" + CONSTRAINTS)
    (checkout.root / "pyproject.toml").write_text(PYPROJECT + "[tool.ruff]\nline-length = 120\n")
    assert checkout.set_up() == ""


def test_a_new_torch_drops_the_cached_mmcv_and_compiles_again(checkout: Checkout) -> None:
    checkout.set_up()
    checkout.calls()
    path = checkout.root / "constraints.txt"
    path.write_text(CONSTRAINTS.replace("2.13.0", "2.13.1"))
    checkout.set_up()
    torch, *rest = checkout.calls()
    assert torch == TORCH.replace("2.13.0", "2.13.1")
    assert rest == ["cache remove onedl_mmcv*", "uninstall -y onedl-mmcv", MMCV, *PROJECT]


def test_a_cached_mmcv_for_another_torch_is_compiled_again(checkout: Checkout) -> None:
    (checkout.bin / "cached").touch()
    (checkout.bin / "fail-operators").touch()
    assert "from pip's cache" in checkout.set_up()
    assert checkout.calls() == [TORCH, MMCV, "cache remove onedl_mmcv*", "uninstall -y onedl-mmcv", MMCV, *PROJECT]


@pytest.mark.parametrize("nvcc", [True, False])
def test_an_mmcv_without_cuda_is_compiled_again_only_where_nvcc_is(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nvcc: bool
) -> None:
    (checkout.bin / "cached").touch()
    (checkout.bin / "fail-operators").write_text("mmcv was built without CUDA: rebuild it\n")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("dirname", "cat", "rm", "sed", "sleep", "grep", "gcc", "g++"):
        (programs / name).symlink_to(shutil.which(name) or "absent")
    if nvcc:
        (programs / "nvcc").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(programs))
    output = checkout.set_up(code=0 if nvcc else 1)
    assert "built without CUDA" in output
    assert ("no nvcc in PATH" in output) != nvcc
    assert ("uninstall -y onedl-mmcv" in checkout.calls()) == nvcc


def test_after_a_failure_the_next_call_goes_on_where_it_was(checkout: Checkout) -> None:
    (checkout.bin / "fail").write_text(r"\.\[dev\]")
    output = checkout.set_up(code=1)
    assert "pip broke" in output
    assert "project.log" in output
    assert checkout.calls() == [TORCH, MMCV, PROJECT[0]]
    (checkout.bin / "fail").unlink()
    checkout.set_up()
    assert checkout.calls() == PROJECT


def test_a_half_installed_package_is_not_taken_for_installed(checkout: Checkout) -> None:
    site = checkout.root / ".venv" / "lib/python3.11/site-packages"
    for name in ("whole-1.0.dist-info", "half-1.0.dist-info", "~alf-1.0.dist-info"):
        (site / name).mkdir()
    (site / "whole-1.0.dist-info" / "RECORD").touch()
    checkout.set_up()
    assert [path.name for path in site.iterdir()] == ["whole-1.0.dist-info"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_pip_too_and_the_next_call_goes_on(checkout: Checkout, number: signal.Signals) -> None:
    (checkout.bin / "slow").write_text("600")
    child = checkout.start()
    wait_for(checkout.bin / "calls")
    child.send_signal(number)
    output, _ = child.communicate(timeout=30)  # pip holds the pipe's other end no more
    assert child.returncode == 130
    assert "the next call goes on" in output
    (checkout.bin / "slow").unlink()
    checkout.calls()
    assert "another set-up" not in checkout.set_up()
    assert checkout.calls() == [TORCH, MMCV, *PROJECT]


def test_two_at_once_take_turns_and_the_second_finds_all_done(checkout: Checkout) -> None:
    (checkout.bin / "slow").write_text("0.5")
    first = checkout.start()
    wait_for(checkout.bin / "calls")
    assert "waiting" in checkout.set_up()
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert checkout.calls() == [TORCH, MMCV, *PROJECT]


def test_when_the_script_is_killed_its_pip_keeps_others_out(checkout: Checkout) -> None:
    (checkout.bin / "slow").write_text("1.5")
    first = checkout.start()
    wait_for(checkout.bin / "calls")
    start = time.monotonic()
    first.kill()
    first.wait()
    (checkout.bin / "slow").unlink()
    assert "waiting" in checkout.set_up()
    assert time.monotonic() - start > 1.0


@pytest.mark.slow
def test_a_moved_checkout_gets_an_environment_of_its_own(checkout: Checkout, tmp_path: Path) -> None:
    checkout.set_up()
    moved = Checkout(tmp_path / "moved")
    checkout.root.rename(moved.root)
    # The new environment has a real pip, which must not ask anybody here.
    child = subprocess.run(
        [sys.executable, ".ci/setup"], cwd=moved.root, env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "making it afresh" in child.stdout
    assert child.returncode == 1
    assert not (moved.bin / "calls").exists()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.02)
