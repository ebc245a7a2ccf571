"""Augmented pairs: their flow still leads each pixel to where it goes, and colours change alike in both frames."""

import cv2
import numpy as np
import pytest

from stages.core.batches.pair_transforms import PAPER, Ranges, about, augment, draw_maps, recolour, turn, warp
from stages.core.optical_flow.files import Pair
from tests.help.make import texture

HEIGHT, WIDTH = 96, 128
SIZE = (HEIGHT, WIDTH)
MIDDLE = np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
UNCOLOURED = Ranges(colour=(1, 1), gamma=(1, 1), brightness=0, contrast=(0, 0), noise=(0, 0))


def _moved(x: float, y: float) -> np.ndarray:
    return about(np.zeros(2), np.eye(2), to=np.array([x, y], float))


def _grid(height: int, width: int) -> np.ndarray:
    """(H, W, 2) float32: x and y of each pixel."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float32)


def _pair(motion: np.ndarray, height: int = HEIGHT, width: int = WIDTH) -> Pair:
    """A texture that moves by ``motion`` (3, 3) as a whole."""
    first = cv2.GaussianBlur(texture(height, width), (0, 0), 1)
    second = cv2.warpAffine(first, motion[:2], (width, height), borderMode=cv2.BORDER_REFLECT)
    flow = _grid(height, width) @ (motion[:2, :2] - np.eye(2)).T + motion[:2, 2]
    return Pair(first, second, flow.astype(np.float32))


def _still(height: int = HEIGHT, width: int = WIDTH, flow: tuple[float, float] = (0.0, 0.0)) -> Pair:
    picture = texture(height, width)
    return Pair(picture, picture, np.full((height, width, 2), flow, np.float32))


def _error(pair: Pair, flow: np.ndarray) -> float:
    """Mean absolute difference between the first frame and the second fetched along ``flow``, where it is inside."""
    height, width = flow.shape[:2]
    places = np.nan_to_num(_grid(height, width) + flow, nan=-1)
    inside = ((places >= 0) & (places <= (width - 1, height - 1))).all(-1)
    assert inside.mean() > 0.3
    fetched = cv2.remap(pair.second, places[..., 0], places[..., 1], cv2.INTER_LINEAR)
    return float(np.abs(fetched.astype(float) - pair.first)[inside].mean())


def test_the_identity_changes_nothing() -> None:
    pair = _pair(_moved(3.25, -1.5))
    pair.flow[3, 4] = np.nan
    same = warp(pair, np.eye(3), np.eye(3), size=SIZE)
    for name in ("first", "second", "flow"):
        np.testing.assert_array_equal(getattr(same, name), getattr(pair, name))


def test_a_shift_of_both_frames_moves_the_flow_and_keeps_its_vectors() -> None:
    pair = _pair(about(MIDDLE, turn(0.1, 1.05)))
    moved = warp(pair, _moved(5, -3), _moved(5, -3), size=SIZE)
    # What was at (x, y) is at (x + 5, y - 3).
    np.testing.assert_array_equal(moved.first[: HEIGHT - 3, 5:], pair.first[3:, : WIDTH - 5])
    np.testing.assert_array_equal(moved.second[: HEIGHT - 3, 5:], pair.second[3:, : WIDTH - 5])
    np.testing.assert_allclose(moved.flow[: HEIGHT - 3, 5:], pair.flow[3:, : WIDTH - 5], atol=1e-4)
    # What comes from outside is black, and where it goes is not known.
    assert not moved.first[HEIGHT - 3 :].any() and not moved.first[:, :5].any()
    assert np.isnan(moved.flow[HEIGHT - 3 :]).all() and np.isnan(moved.flow[:, :5]).all()


def test_a_quarter_turn_of_both_frames_turns_the_vectors() -> None:
    pair = _still(64, 64, flow=(5.0, 2.0))
    turned = warp(pair, *[about(np.array([31.5, 31.5]), turn(np.pi / 2, 1.0))] * 2, size=(64, 64))
    # Clockwise with y down: right becomes down, down becomes left. So (5, 2) becomes (-2, 5).
    np.testing.assert_allclose(turned.flow, np.broadcast_to([-2.0, 5.0], (64, 64, 2)), atol=1e-5)
    np.testing.assert_array_equal(turned.first, np.rot90(pair.first, -1))


def test_a_turn_by_any_angle_turns_the_vectors() -> None:
    turned = warp(_still(flow=(4.0, 0.0)), *[about(MIDDLE, turn(np.deg2rad(30), 1.0))] * 2, size=SIZE)
    known = turned.flow[np.isfinite(turned.flow).all(-1)]
    assert len(known) > 0.5 * HEIGHT * WIDTH
    # cos 30 = 0.8660, sin 30 = 0.5
    np.testing.assert_allclose(known, np.broadcast_to([4 * 0.8660254, 4 * 0.5], known.shape), atol=1e-5)


def test_a_scale_of_both_frames_scales_the_vectors() -> None:
    scaled = warp(_still(flow=(4.0, -2.0)), *[about(MIDDLE, turn(0.0, 1.5))] * 2, size=SIZE)
    np.testing.assert_allclose(scaled.flow, np.broadcast_to([6.0, -3.0], (*SIZE, 2)), atol=1e-5)


def test_a_shift_of_the_second_frame_alone_is_added_to_the_flow() -> None:
    moved = warp(_still(flow=(1.0, 1.0)), np.eye(3), _moved(4, -1), size=SIZE)
    np.testing.assert_allclose(moved.flow, np.broadcast_to([5.0, 0.0], (*SIZE, 2)), atol=1e-5)


def test_a_scale_of_the_second_frame_alone_is_a_flow_from_its_middle() -> None:
    grown = warp(_still(), np.eye(3), about(MIDDLE, turn(0.0, 1.1)), size=SIZE)
    # 10 % of the distance to the middle, (63.5, 47.5): (-6.35, -4.75) at (0, 0) and (3.65, 0.25) at (100, 50).
    np.testing.assert_allclose(grown.flow[0, 0], (-6.35, -4.75), atol=1e-4)
    np.testing.assert_allclose(grown.flow[50, 100], (3.65, 0.25), atol=1e-4)


def test_a_relative_transform_acts_on_where_the_pixel_goes() -> None:
    # The pixel at (30, 20) goes to (40, 20); the second frame is then doubled about (0, 0): to (80, 40), by (50, 20).
    result = warp(_still(flow=(10.0, 0.0)), np.eye(3), about(np.zeros(2), turn(0.0, 2.0)), size=SIZE)
    np.testing.assert_allclose(result.flow[20, 30], (50.0, 20.0), atol=1e-4)


def test_a_flipped_pair_has_flipped_vectors() -> None:
    pair = _pair(about(MIDDLE, turn(0.1, 1.0)))
    flipped = warp(pair, *[about(MIDDLE, np.diag([-1.0, 1.0]))] * 2, size=SIZE)
    np.testing.assert_array_equal(flipped.first, pair.first[:, ::-1])
    np.testing.assert_allclose(flipped.flow, pair.flow[:, ::-1] * (-1, 1), atol=1e-4)


def test_motions_are_not_mixed_at_the_edge_of_a_figure() -> None:
    pair = _still()
    pair.flow[:, WIDTH // 2 :] = (20.0, 0.0)
    moved = warp(pair, *[_moved(0.5, 0.5)] * 2, size=SIZE)
    assert set(np.unique(moved.flow[1:, 1:, 0])) == {0.0, 20.0}


def test_one_unknown_vector_does_not_spread() -> None:
    pair = _still()
    pair.flow[40, 50] = np.nan
    moved = warp(pair, *[_moved(-0.3, -0.3)] * 2, size=SIZE)
    assert np.isnan(moved.flow[: HEIGHT - 1, : WIDTH - 1]).all(-1).sum() == 1


@pytest.mark.parametrize("seed", range(6))
def test_an_augmented_pair_is_consistent_with_its_flow(seed: int) -> None:
    motion = about(np.array([100.0, 70.0]), turn(0.06, 1.04), to=np.array([107.0, 66.0]))
    pair = _pair(motion, height=160, width=224)
    first, second = draw_maps((160, 224), np.random.default_rng(seed), size=SIZE)
    assert not np.allclose(first, second)  # so the relative transform is in it
    result = warp(pair, first, second, size=SIZE)
    right = _error(result, result.flow)
    assert right < 2
    for wrong in (-result.flow, result.flow[..., ::-1], 0.8 * result.flow, np.zeros_like(result.flow)):
        assert _error(result, wrong) > 3 * right


def test_maps_stay_in_the_paper_s_ranges_and_show_nothing_outside() -> None:
    white = np.full((160, 224, 3), 255, np.uint8)
    pair = Pair(white, white, np.zeros((160, 224, 2), np.float32))
    random = np.random.default_rng(0)
    scales, angles, flips = [], [], set()
    for _ in range(150):
        first, second = draw_maps((160, 224), random, size=SIZE)
        result = warp(pair, first, second, size=SIZE)
        assert result.first.min() == 255 and result.second.min() == 255 and np.isfinite(result.flow).all()
        scale = np.sqrt(abs(np.linalg.det(first[:2, :2])))
        mirror = np.sign(np.linalg.det(first[:2, :2]))
        unflipped = first[:2, :2] / scale
        scales.append(scale)
        angles.append(np.rad2deg(np.arcsin(np.clip(unflipped[1, 0] * np.sign(unflipped[0, 0]), -1, 1))))
        flips.add((np.sign(unflipped[0, 0]), mirror))
    assert 0.9 <= min(scales) < 1.05 and 1.8 < max(scales) <= 2.0
    assert -17 <= min(angles) < -12 and 12 < max(angles) <= 17
    assert len(flips) == 4


def test_a_crop_as_large_as_the_frame_is_not_moved() -> None:
    pair = _pair(_moved(2, 1))
    ranges = Ranges(scale=(1.0, 1.0), flip_horizontal=0, flip_vertical=0)
    first, second = draw_maps(SIZE, np.random.default_rng(0), size=SIZE, ranges=ranges)
    assert np.array_equal(first, np.eye(3)) and np.array_equal(second, np.eye(3))
    np.testing.assert_array_equal(warp(pair, first, second, size=SIZE).first, pair.first)


def test_a_crop_larger_than_the_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="a crop of 97 x 128 does not fit frames of 96 x 128"):
        augment(_still(), np.random.default_rng(0), size=(97, 128))


def test_the_generator_alone_decides() -> None:
    pair = _pair(_moved(2, 1))
    one, two, other = (augment(pair, np.random.default_rng(seed), size=(64, 80)) for seed in (1, 1, 2))
    assert one.first.shape == one.second.shape == (64, 80, 3) and one.flow.shape == (64, 80, 2)
    assert one.first.dtype == np.uint8 and one.flow.dtype == np.float32
    for name in ("first", "second", "flow"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
        assert not np.array_equal(getattr(one, name), getattr(other, name))


def test_no_change_of_colour_leaves_the_frames_as_they_are() -> None:
    pair = _pair(_moved(2, 1))
    same = recolour(pair, np.random.default_rng(0), ranges=UNCOLOURED)
    assert np.array_equal(same.first, pair.first) and np.array_equal(same.second, pair.second)


def test_both_frames_get_the_same_colours_and_noise_of_their_own() -> None:
    pair = _still()
    quiet = Ranges(noise=(0, 0))
    for seed in range(5):
        changed = recolour(pair, np.random.default_rng(seed), ranges=quiet)
        assert np.array_equal(changed.first, changed.second)
        assert np.abs(changed.first.astype(float) - pair.first).mean() > 3
        assert changed.flow is pair.flow
    noisy = recolour(pair, np.random.default_rng(0), ranges=Ranges(**{**vars(UNCOLOURED), "noise": (0.04, 0.04)}))
    of_first, of_second = (frame.astype(float) - pair.first for frame in (noisy.first, noisy.second))
    # 0.04 of 255 is 10.2; clipping at black and white takes a little away.
    assert 8 < of_first.std() < 10.5 and 8 < of_second.std() < 10.5
    assert abs(np.corrcoef(of_first.ravel(), of_second.ravel())[0, 1]) < 0.05


def test_brightness_contrast_and_gamma_are_those_drawn() -> None:
    grey = np.full((2, 2, 3), 64, np.uint8)
    pair = Pair(grey, grey, np.zeros((2, 2, 2), np.float32))

    def light(**changed) -> int:
        ranges = Ranges(**{**vars(UNCOLOURED), **changed})
        return int(recolour(pair, np.random.default_rng(0), ranges=ranges).first[0, 0, 0])

    assert light(contrast=(-0.5, -0.5)) == 96  # half way to the middle, 127.5: 95.75
    assert light(gamma=(1.5, 1.5)) == 32  # 255 * (64 / 255) ** 1.5 = 32.06
    assert light(colour=(2, 2)) == 64  # the same factor for each channel is no change of colour


def test_the_defaults_are_the_paper_s() -> None:
    assert (PAPER.translation, PAPER.rotation, PAPER.scale) == (0.2, 17.0, (0.9, 2.0))
    assert (PAPER.noise, PAPER.contrast, PAPER.colour) == ((0.0, 0.04), (-0.8, 0.4), (0.5, 2.0))
    assert (PAPER.gamma, PAPER.brightness) == ((0.7, 1.5), 0.2)
