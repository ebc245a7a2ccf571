"""Backends of optical flow: every one finds a known motion, whatever the size of the batch and of the frame."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models.parts import flownet
from stages.core.optical_flow import backends, classical, estimation
from stages.core.training import loop
from tests.help import make

RIGHT, DOWN = 3, 2


@pytest.fixture(scope="module")
def frames() -> tuple[np.ndarray, np.ndarray]:
    """Two pairs (2, 80, 96, 3): a texture that moves 3 right and 2 down, and one at rest."""
    large = make.texture(200, 220)
    still = large[60:140, 60:156]
    moved = large[60 - DOWN : 140 - DOWN, 60 - RIGHT : 156 - RIGHT]
    return np.stack([still, still]), np.stack([moved, still])


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """An untrained small FlowNetS, as `train_flow` leaves it."""
    torch.manual_seed(0)
    loop.save_weights(tmp_path / "model.pt", flownet.build(flownet.flownets_small))
    (tmp_path / "run.json").write_text(json.dumps({"network": "flownets", "config": "small"}))
    return tmp_path


def middle(field: np.ndarray) -> list[float]:
    """Median (u, v) away from the border."""
    return np.median(field[16:-16, 16:-16], axis=(0, 1)).tolist()


@pytest.mark.parametrize("name", classical.NAMES)
def test_a_classical_backend_finds_a_shift_in_pixels_right_and_down(
    name: str, frames: tuple[np.ndarray, np.ndarray]
) -> None:
    moving, resting = backends.open_backend(name)(*frames)
    assert moving.shape == (80, 96, 2) and moving.dtype == np.float32
    assert middle(moving) == pytest.approx([RIGHT, DOWN], abs=0.2)
    assert middle(resting) == pytest.approx([0, 0], abs=0.05)


@pytest.mark.parametrize(("name", "tolerance"), [("dis", 0.15), ("farneback", 0.15), ("tvl1", 0.15)])
def test_flipped_frames_give_flipped_flow(name: str, tolerance: float, frames: tuple[np.ndarray, np.ndarray]) -> None:
    """Mean difference in pixels, away from the border: the estimates go over the frame in one direction."""
    estimate = backends.open_backend(name)
    first, second = (pair[:1] for pair in frames)
    field, flipped = estimate(first, second)[0], estimate(first[:, :, ::-1].copy(), second[:, :, ::-1].copy())[0]
    mirrored = flipped[:, ::-1] * (-1, 1)
    assert np.abs(field - mirrored)[16:-16, 16:-16].mean() < tolerance


@pytest.mark.parametrize("name", ["dis", "farneback"])
@pytest.mark.parametrize("height", [40, 160])
def test_flow_of_resized_frames_stays_in_pixels_of_the_frame(
    name: str, height: int, frames: tuple[np.ndarray, np.ndarray]
) -> None:
    field = estimation.at_height(backends.open_backend(name), height)(*frames)[0]
    assert field.shape == (80, 96, 2)
    assert middle(field) == pytest.approx([RIGHT, DOWN], abs=0.4)


def test_a_network_gives_a_pair_the_same_flow_in_every_batch(
    weights: Path, frames: tuple[np.ndarray, np.ndarray]
) -> None:
    estimate = backends.open_backend("flownets", weights=weights, digest="a")
    together = estimate(*frames)
    alone = np.concatenate([estimate(frames[0][[i]], frames[1][[i]]) for i in range(2)])
    assert together.shape == (2, 80, 96, 2) and np.array_equal(together, alone)


def test_weights_that_changed_at_their_place_are_read_again(
    weights: Path, frames: tuple[np.ndarray, np.ndarray]
) -> None:
    before = backends.open_backend("flownets", weights=weights, digest="a")(*frames)
    torch.manual_seed(1)
    loop.save_weights(weights / "model.pt", flownet.build(flownet.flownets_small))
    assert not np.array_equal(before, backends.open_backend("flownets", weights=weights, digest="b")(*frames))


def test_a_network_without_weights_and_an_unknown_name_are_errors_that_say_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"needs weights: the folder data/train_flow/flownetc"):
        backends.open_backend("flownetc")
    with pytest.raises(ValueError, match=r"no backend `raft`; there are dis, farneback, tvl1, flownets, flownetc"):
        backends.open_backend("raft")
