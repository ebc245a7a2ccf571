"""What tests share: a scratch copy of the project to run commands in, and the folder of real data beside it."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.workspace import CHECKOUT, Workspace, copy_project

# A shell that starts the tests in the background has Ctrl-C ignored, and children inherit that: what ends on Ctrl-C
# would never end.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def project(tmp_path: Path) -> Workspace:
    return copy_project(tmp_path / "project")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For networks so small that they only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of papers and real clips beside the checkout."""
    folder = CHECKOUT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


@pytest.fixture(scope="session")
def davis(shared: Path) -> Path:
    """The real clips in the layout of A2D."""
    release = shared / "data/a2d-davis"
    if not release.is_dir():
        pytest.skip(f"{release} is not there")
    return release
