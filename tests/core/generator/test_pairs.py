"""Generated pairs: their flow leads each pixel to where it goes, and displacements are spread as they should be."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from stages.core.generator.figures import DESIGNS, make_figure
from stages.core.generator.pairs import FARTHEST, FIGURES, POOL, ExactPair, make_pair
from stages.core.generator.pools import look_count


def _warped(pair: ExactPair, flow: np.ndarray) -> np.ndarray:
    """The second frame, fetched back along ``flow``."""
    height, width = flow.shape[:2]
    places = flow + np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)
    return cv2.remap(pair.second, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _occluded(pair: ExactPair) -> np.ndarray:
    """(H, W) bool: pixels of the first frame that something hides in the second, or that leave it."""
    height, width = pair.parts.shape[1:]
    x = np.rint(np.arange(width) + pair.flow[..., 0]).astype(np.int64)
    y = np.rint(np.arange(height)[:, None] + pair.flow[..., 1]).astype(np.int64)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    landed = pair.parts[1][np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    return ~inside | (landed != pair.parts[0])


def _inside_of_parts(pair: ExactPair) -> np.ndarray:
    """(H, W) bool: moving pixels that are seen in both frames, away from edges of parts, whose pixels are mixtures."""
    square = np.ones((5, 5), np.uint8)
    at_edge = [cv2.dilate(parts, square) != cv2.erode(parts, square) for parts in pair.parts]
    edge_there = _warped(replace(pair, second=at_edge[1].astype(np.float32)), pair.flow) > 0
    return ~_occluded(pair) & ~at_edge[0] & ~edge_there & (np.hypot(*pair.flow.transpose(2, 0, 1)) > 2)


@pytest.mark.parametrize("size", [(96, 128), (160, 120)])
def test_the_second_frame_fetched_along_the_flow_is_the_first(size: tuple[int, int]) -> None:
    pairs = [make_pair(3, number, height=size[0], width=size[1]) for number in range(8)]
    seen = [_inside_of_parts(pair) for pair in pairs]
    assert np.mean(seen) > 0.1

    def error(change: Callable[[np.ndarray], np.ndarray]) -> float:
        """Mean absolute difference (0 to 255) to the first frame."""
        differences = [np.abs(_warped(pair, change(pair.flow)).astype(float) - pair.first) for pair in pairs]
        return float(np.concatenate([d[mask] for d, mask in zip(differences, seen, strict=True)]).mean())

    assert error(lambda flow: flow) < 1.5  # bilinear sampling, twice
    assert error(lambda flow: -flow) > 10
    assert error(lambda flow: flow[..., ::-1].copy()) > 10
    assert error(lambda flow: flow * np.float32(0.8)) > 5
    assert error(lambda flow: flow * np.array([1, 0], np.float32)) > 5
    assert error(np.zeros_like) > 5


def test_nothing_moves_farther_than_asked_for() -> None:
    fastest = [
        max(np.hypot(*make_pair(0, number, height=96, width=128, farthest=farthest).flow.reshape(-1, 2).T).max()
            for number in range(10))
        for farthest in (6.0, 30.0)
    ]  # fmt: skip
    assert fastest[0] <= 6.001 < 20 < fastest[1] <= 30.001


def test_most_pixels_move_little_and_none_farther_than_sixty() -> None:
    pairs = [make_pair(0, number, height=96, width=128) for number in range(40)]
    speed = np.hypot(*np.stack([pair.flow for pair in pairs]).reshape(-1, 2).T)
    assert 55 < speed.max() <= FARTHEST + 1e-3
    counts, _ = np.histogram(speed, [0, 10, 40, 61])
    under_10, middle, over_40 = counts / speed.size
    assert 0.55 < under_10 < 0.85
    assert 0.12 < middle < 0.4
    assert 0.01 < over_40 < 0.12
    assert 0.15 < np.mean(speed < 1) < 0.45  # still, or nearly


def test_small_frames_move_half_their_longer_side_at_most() -> None:
    farthest = [
        np.hypot(*make_pair(0, number, height=32, width=48).flow.reshape(-1, 2).T).max() for number in range(12)
    ]
    assert 20 < max(farthest) <= 24 + 1e-3


def test_every_part_moves_by_an_affine_map_of_its_own() -> None:
    pair = make_pair(0, 1, height=128, width=160)
    y, x = np.mgrid[:128, :160]
    maps = []
    for part in np.unique(pair.parts[0]):
        own = pair.parts[0] == part
        if own.sum() < 30:
            continue
        design = np.stack([x[own], y[own], np.ones(own.sum())], axis=1)
        fitted, *_ = np.linalg.lstsq(design, pair.flow[own].astype(float), rcond=None)
        assert np.abs(design @ fitted - pair.flow[own]).max() < 1e-3
        maps.append(fitted.ravel())
    assert len(np.unique(np.round(maps, 3), axis=0)) > FIGURES[1] + 1  # so figures are more than one rigid body


def test_seed_and_number_alone_make_a_pair() -> None:
    np.random.seed(1)
    cv2.setRNGSeed(1)
    first = make_pair(5, 7, height=64, width=96)
    make_pair(5, 8, height=96, width=64)
    np.random.seed(2)
    second = make_pair(5, 7, height=64, width=96)
    for name in ("first", "second", "flow", "parts"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    for other in (make_pair(5, 8, height=64, width=96), make_pair(6, 7, height=64, width=96)):
        assert not np.array_equal(first.first, other.first)


@pytest.mark.parametrize("size", [(32, 32), (33, 57), (100, 40)])
def test_pairs_are_made_at_any_size(size: tuple[int, int]) -> None:
    pair = make_pair(0, 0, height=size[0], width=size[1])
    assert pair.first.shape == pair.second.shape == (*size, 3)
    assert pair.first.dtype == pair.second.dtype == np.uint8
    assert pair.flow.shape == (*size, 2) and pair.flow.dtype == np.float32 and np.isfinite(pair.flow).all()


def test_frames_too_small_for_a_figure_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 32"):
        make_pair(0, 0, height=31, width=64)


def test_all_shapes_of_the_pool_stay_in_memory() -> None:
    """A shape takes longer to make than a whole figure to paint."""
    largest = make_figure.cache_info().maxsize
    assert largest is not None and look_count(POOL) * len(DESIGNS) <= largest
