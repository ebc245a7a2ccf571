"""Transforms: frames, flow and labels of a window always change together, and flow stays the motion of the frames."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core.batches import photometry, transforms
from stages.core.batches.windows import Sample
from stages.core.datasets.labels import IGNORE
from tests.help import make


def window(height: int = 24, width: int = 36, *, steps: int = 2, seed: int = 0) -> Sample:
    random = np.random.default_rng(seed)
    return Sample(
        frames=random.integers(0, 255, (steps, height, width, 3)).astype(np.uint8),
        labels=random.choice(np.array([0, 17, 66, IGNORE], np.uint8), (steps, height, width)),
        flow=random.normal(0, 4, (steps, height, width, 2)).astype(np.float32),
    )


def marked(top: int, left: int, *, height: int = 48, width: int = 64, side: int = 12) -> Sample:
    """A black, resting, background window with one square: white in the frame, (6, 3) in the flow, 17 in the labels."""
    place = (slice(None), slice(top, top + side), slice(left, left + side))
    frames = np.zeros((2, height, width, 3), np.uint8)
    labels = np.zeros((2, height, width), np.uint8)
    flow = np.zeros((2, height, width, 2), np.float32)
    frames[place], labels[place], flow[place] = 255, 17, (6, 3)
    return Sample(frames=frames, labels=labels, flow=flow)


def same(a: Sample, b: Sample) -> bool:
    assert a.flow is not None and b.flow is not None
    return all(np.array_equal(x, y) for x, y in ((a.frames, b.frames), (a.labels, b.labels), (a.flow, b.flow)))


def flow_of(sample: Sample) -> np.ndarray:
    assert sample.flow is not None
    return sample.flow


def test_flipping_twice_changes_nothing() -> None:
    sample = window()
    assert same(transforms.flip(transforms.flip(sample)), sample)


def test_a_flip_mirrors_everything_and_turns_motion_to_the_right_into_motion_to_the_left() -> None:
    sample = window()
    flipped = transforms.flip(sample)
    assert np.array_equal(flipped.frames, sample.frames[:, :, ::-1])
    assert np.array_equal(flipped.labels, sample.labels[:, :, ::-1])
    assert np.array_equal(flow_of(flipped)[..., 0], -flow_of(sample)[:, :, ::-1, 0])
    assert np.array_equal(flow_of(flipped)[..., 1], flow_of(sample)[:, :, ::-1, 1])


def test_resizing_scales_flow_with_the_frame_in_each_direction() -> None:
    sample = window(24, 36)
    constant = Sample(sample.frames, sample.labels, np.full((2, 24, 36, 2), (6, 4), np.float32))
    resized = transforms.resize(constant, 12, 54)
    assert resized.frames.shape == (2, 12, 54, 3) and resized.labels.shape == (2, 12, 54)
    assert np.allclose(flow_of(resized), (6 * 54 / 36, 4 * 12 / 24))


def test_resizing_to_the_same_size_changes_nothing() -> None:
    sample = window()
    assert same(transforms.resize(sample, 24, 36), sample)


def test_labels_are_never_mixed() -> None:
    for size in ((10, 17), (50, 80)):
        assert set(np.unique(transforms.resize(window(), *size).labels)) <= {0, 17, 66, IGNORE}


def test_to_height_keeps_the_aspect_and_none_keeps_the_size() -> None:
    assert transforms.to_height(window(24, 36), 12).frames.shape == (2, 12, 18, 3)
    assert transforms.to_height(window(24, 36), None).frames.shape == (2, 24, 36, 3)


@pytest.mark.parametrize("size", [(8, 12), (72, 108)], ids=["smaller", "larger"])
def test_resizing_and_flipping_give_the_same_in_either_order(size: tuple[int, int]) -> None:
    # Fails where frames and labels are sampled about different pixel centres.
    sample = window(24, 36)
    first, second = transforms.flip(transforms.resize(sample, *size)), transforms.resize(transforms.flip(sample), *size)
    assert np.abs(first.frames.astype(int) - second.frames).max() <= 1
    assert np.allclose(flow_of(first), flow_of(second), atol=1e-4)
    assert np.array_equal(first.labels, second.labels)


def test_a_crop_inside_cuts_everything_alike() -> None:
    sample = window()
    cut = transforms.crop(sample, 3, 5, 10, 20)
    assert np.array_equal(cut.frames, sample.frames[:, 3:13, 5:25])
    assert np.array_equal(cut.labels, sample.labels[:, 3:13, 5:25])
    assert np.array_equal(flow_of(cut), flow_of(sample)[:, 3:13, 5:25])


def test_what_a_crop_shows_beyond_the_frame_is_black_at_rest_and_unlabelled() -> None:
    sample = window(24, 36)
    cut = transforms.crop(sample, -4, -6, 40, 60)
    inside = np.zeros((40, 60), bool)
    inside[4:28, 6:42] = True
    assert np.array_equal(cut.labels[:, inside], sample.labels.reshape(2, -1))
    assert (cut.labels[:, ~inside] == IGNORE).all()
    assert (cut.frames[:, ~inside] == 0).all() and (flow_of(cut)[:, ~inside] == 0).all()


def test_a_window_without_flow_stays_without() -> None:
    sample = Sample(frames=window().frames, labels=window().labels, flow=None)
    changed = transforms.augment(sample, np.random.default_rng(0), height=30, size=(16, 20))
    assert changed.flow is None and changed.frames.shape == (2, 16, 20, 3)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_an_augmented_square_is_in_the_same_place_in_frame_labels_and_flow(seed: int) -> None:
    # Larger than the frame at any scale: nothing is cut off.
    sample = transforms.augment(marked(18, 8), np.random.default_rng(seed), height=None, size=(70, 90))
    labelled = sample.labels == 17
    moving = flow_of(sample)[..., 1] > 1.5
    grey = sample.frames.astype(float).mean(-1)
    bright = grey > (grey.max() + grey.min()) / 2
    area = labelled.sum(dtype=int)
    assert area > 0
    for other in (bright, moving):
        outline = 2 * 4 * np.sqrt(area / 2)  # pixels along the border of both steps' squares
        assert (labelled ^ other).sum() <= outline


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_augmented_flow_is_the_motion_of_the_augmented_frames(seed: int) -> None:
    """A square that moves (3, 2) a frame: in the augmented window its centre moves by the augmented flow."""
    square = make.Square("clip", speed=(3, 2))
    flow = np.where(square.mask(0)[None, ..., None], np.array((3, 2)), 0).astype(np.float32)
    labels = np.stack([np.where(square.mask(t), 17, 0) for t in (0, 4)]).astype(np.uint8)
    sample = Sample(frames=square.pictures()[[0, 4]], labels=labels, flow=np.concatenate([flow, flow]))
    changed = transforms.augment(sample, np.random.default_rng(seed), height=None, size=(70, 90))
    first, second = (np.argwhere(changed.labels[t] == 17).mean(0)[::-1] for t in (0, 1))
    motion = np.median(flow_of(changed)[0][changed.labels[0] == 17], axis=0)
    assert (second - first) / 4 == pytest.approx(motion, abs=0.35)


def test_augmentation_flips_and_scales_by_chance_and_gives_the_asked_size() -> None:
    widths, signs = set(), set()
    for seed in range(30):
        sample = transforms.augment(marked(18, 24), np.random.default_rng(seed), height=None, size=(40, 50))
        assert sample.frames.shape == (2, 40, 50, 3) and sample.frames.dtype == np.uint8
        assert sample.labels.shape == (2, 40, 50) and flow_of(sample).shape == (2, 40, 50, 2)
        widths.add(int((sample.labels[0] == 17).any(0).sum()))
        signs.add(float(np.sign(flow_of(sample)[..., 0][sample.labels == 17].sum())))
    assert signs == {-1.0, 1.0} and len(widths) > 3


def test_the_same_random_numbers_give_the_same_window() -> None:
    first, second = (
        transforms.augment(window(), np.random.default_rng(4), height=None, size=(16, 20)) for _ in range(2)
    )
    assert same(first, second)
    assert not same(first, transforms.augment(window(), np.random.default_rng(5), height=None, size=(16, 20)))


def test_colours_are_jittered_alike_in_every_frame_of_a_window() -> None:
    still = np.repeat(np.random.default_rng(0).integers(60, 190, (1, 24, 36, 3)).astype(np.uint8), 4, axis=0)
    jittered = photometry.jitter(still, np.random.default_rng(1))
    assert jittered.dtype == np.uint8 and not np.array_equal(jittered, still)
    assert (jittered == jittered[:1]).all()


# Whole frames


@pytest.mark.parametrize(
    ("height", "size", "fitted"),
    [
        (None, (64, 64), (24, 36)),
        (12, (64, 64), (12, 18)),
        (48, (32, 80), (32, 48)),  # too high
        (48, (64, 40), (26, 39)),  # too wide
        (None, (10, 12), (8, 12)),
    ],
)
def test_a_frame_has_the_height_asked_for_or_the_largest_at_which_it_fits(
    height: int | None, size: tuple[int, int], fitted: tuple[int, int]
) -> None:
    assert transforms.to_fit(window(24, 36), height=height, size=size).frames.shape[1:3] == fitted


def test_a_whole_frame_is_padded_below_and_at_the_right_with_black_at_rest_and_unlabelled() -> None:
    sample = marked(18, 8)
    for seed in range(12):
        changed = transforms.augment_whole(sample, np.random.default_rng(seed), height=24, size=(30, 50))
        flow = flow_of(changed)
        assert changed.frames.shape == (2, 30, 50, 3) and changed.labels.shape == (2, 30, 50)
        assert (changed.labels[:, :24, :32] != IGNORE).all() and (changed.labels == 17).sum() == 2 * 6 * 6
        for padding in (np.s_[:, 24:], np.s_[:, :, 32:]):
            assert (changed.labels[padding] == IGNORE).all()
            assert not changed.frames[padding].any() and not flow[padding].any()


def test_whole_frames_are_flipped_with_what_is_said_by_chance_and_keep_their_colours() -> None:
    sample = referred()
    seen = set()
    for seed in range(12):
        changed = transforms.augment_whole(sample, np.random.default_rng(seed), height=None, size=(24, 40))
        flipped = np.array_equal(changed.labels[:, :, :36], sample.labels[:, :, ::-1])
        shown = sample.frames[:, :, ::-1] if flipped else sample.frames
        assert np.array_equal(changed.frames[:, :, :36], shown)
        seen.add((flipped, changed.sentence))
    assert seen == {(False, sample.sentence), (True, "the Right dog walks right of the upright cat")}


@pytest.mark.parametrize("size", [(40, 50), (60, 80)], ids=["crop", "padding"])
def test_little_augmentation_flips_and_moves_at_one_scale_and_keeps_colours(size: tuple[int, int]) -> None:
    """The square is half the size at half the height, and its motion: only where it is and its side are chance."""
    seen = set()
    for seed in range(20):
        changed = transforms.augment_little(
            marked(36, 40, height=96, width=128, side=24), np.random.default_rng(seed), height=48, size=size
        )
        square = changed.labels == 17
        assert changed.frames.shape == (2, *size, 3) and square.sum() == 2 * 12 * 12
        assert (changed.frames[square] == 255).all() and not changed.frames[~square].any()
        assert np.unique(np.abs(flow_of(changed)[square]), axis=0).tolist() == [[3, 1.5]]
        seen.add((*np.argwhere(square[0])[0].tolist(), bool(flow_of(changed)[square][0, 0] < 0)))
    assert len(seen) > 10 and {flipped for *_, flipped in seen} == {False, True}


# Sentences, masks and several actions at once


def referred() -> Sample:
    """A window of two frames with the mask of a sentence, and three actions at its first frame only."""
    plain = window()
    mask = np.where(plain.labels == IGNORE, IGNORE, plain.labels == 17).astype(np.uint8)
    actions = np.zeros((2, 3, 24, 36), np.uint8)
    actions[0, 1], actions[0, 2, :12] = plain.labels[0] == 17, 1
    return replace(plain, sentence="the Left dog walks left of the upright cat", mask=mask, actions=actions)


def test_a_flipped_sentence_swaps_left_and_right() -> None:
    """`upright` is no side; capitals stay."""
    flipped = transforms.flip(referred())
    assert flipped.sentence == "the Right dog walks right of the upright cat"
    assert transforms.flip(flipped).sentence == referred().sentence
    assert transforms.swap_sides("RIGHT: leftmost, right-hand, rightwards") == "LEFT: rightmost, left-hand, leftwards"
    assert transforms.flip(window()).sentence is None


@pytest.mark.parametrize(
    "change",
    [
        transforms.flip,
        lambda sample: transforms.resize(sample, 48, 72),
        lambda sample: transforms.resize(sample, 12, 18),
        lambda sample: transforms.crop(sample, 3, 5, 10, 20),
        lambda sample: transforms.crop(sample, -4, -6, 40, 60),
        lambda sample: transforms.augment(sample, np.random.default_rng(2), height=None, size=(16, 20)),
        lambda sample: transforms.augment_whole(sample, np.random.default_rng(2), height=None, size=(16, 40)),
    ],
    ids=["flip", "enlarge", "shrink", "crop", "crop past the edge", "augment", "augment whole"],
)
def test_a_sentence_s_mask_and_an_action_s_mask_go_where_the_labels_go(change: Callable[[Sample], Sample]) -> None:
    changed = change(referred())
    assert changed.mask is not None and changed.actions is not None
    assert np.array_equal(changed.mask == 1, changed.labels == 17)
    assert np.array_equal(changed.mask == IGNORE, changed.labels == IGNORE)
    assert np.array_equal(changed.actions[0, 1] == 1, changed.labels[0] == 17)
    assert changed.actions.shape == (2, 3, *changed.labels.shape[1:]) and not changed.actions[1].any()
