"""Batches: a training step's batch depends on its seed and number alone, and holds what the method asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pytest
import torch

from models.base import Batch, Window
from stages.core.batches import transforms, window_batches, windows
from stages.core.batches.sampler import Sampler
from stages.core.batches.words import Vectors
from stages.core.datasets import a2d
from stages.core.datasets.dataset import Dataset, load
from stages.core.datasets.labels import IGNORE
from tests.help import make

AROUND = Window(before=1, after=1)


@dataclass(frozen=True)
class Config:
    """What the loader reads of a method's configuration."""

    window: Window = AROUND
    height: int | None = 36
    crop: tuple[int, int] | None = (24, 40)
    flow_encoding: str = "colour_wheel"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make.packed_dataset(tmp_path_factory.mktemp("packed"), with_flow=True)


def batches(
    samples: Dataset, config: Config, *, start: int = 0, steps: int = 5, seed: int = 3, loaders: int = 0
) -> list[Batch]:
    return list(
        window_batches.training_batches(samples, config, seed=seed, start=start, steps=steps, batch=3, loaders=loaders)
    )


def same(first: Sequence[Batch], second: Sequence[Batch]) -> bool:
    return len(first) == len(second) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)  # type: ignore[literal-required]
        for a, b in zip(first, second, strict=True)
    )


def test_a_batch_has_the_axes_that_methods_expect(samples: Dataset) -> None:
    (batch,) = batches(samples, Config(), steps=1)
    assert batch["frames"].shape == (3, 3, 24, 40, 3) and batch["frames"].dtype == torch.uint8
    assert batch["labels"].shape == (3, 3, 24, 40) and batch["labels"].dtype == torch.uint8
    assert batch["flow"].shape == (3, 3, 24, 40, 3)


def test_only_the_annotated_frame_of_a_window_is_labelled(samples: Dataset) -> None:
    for batch in batches(samples, Config()):
        assert (batch["labels"][:, [0, 2]] == IGNORE).all()
        assert (batch["labels"][:, 1] != IGNORE).flatten(1).any(1).all()


def test_a_method_that_labels_whole_clips_learns_at_every_output_step(samples: Dataset) -> None:
    config = Config(window=Window(before=2, after=3, every=2), crop=None, height=None)
    labelled = [
        position
        for batch in batches(samples, config, steps=12)
        for window in batch["labels"]
        for position in (window != IGNORE).flatten(1).any(1).nonzero()[:, 0].tolist()
    ]
    assert {0, 2, 4} <= set(labelled)


def test_the_drawn_window_has_its_frame_where_the_window_allows_it() -> None:
    random = np.random.default_rng(0)
    drawn = [windows.drawn_numbers(10, Window(before=2, after=3, every=2), random) for _ in range(40)]
    assert {numbers.index(10) for numbers in drawn} == {0, 2, 4}
    assert all(numbers == list(range(numbers[0], numbers[0] + 6)) for numbers in drawn)
    assert windows.drawn_numbers(10, Window(before=2, after=3), random) == [8, 9, 10, 11, 12, 13]


def test_the_same_seed_gives_the_same_batches_and_another_seed_others(samples: Dataset) -> None:
    first = batches(samples, Config())
    assert same(first, batches(samples, Config()))
    assert not same(first, batches(samples, Config(), seed=4))


def test_a_training_that_starts_at_step_3_sees_the_batches_of_step_3_and_on(samples: Dataset) -> None:
    np.random.seed(11)
    torch.manual_seed(5)
    assert same(batches(samples, Config())[3:], batches(samples, Config(), start=3))


def test_steps_differ_from_one_another(samples: Dataset) -> None:
    first, second = batches(samples, Config(), steps=2)
    assert not torch.equal(first["frames"], second["frames"])


@pytest.mark.slow
def test_reading_ahead_in_processes_changes_no_batch(samples: Dataset) -> None:
    assert same(batches(samples, Config(), steps=3), batches(samples, Config(), steps=3, loaders=2))


def test_every_epoch_draws_every_frame_once_in_another_order() -> None:
    sampler = Sampler(12, batch=5, seed=0, start=0, steps=12)
    drawn = [pair for step in sampler for pair in step]
    assert [number for number, _ in drawn] == list(range(60)) and len(sampler) == 12
    epochs = [[position for _, position in drawn[start : start + 12]] for start in range(0, 60, 12)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_a_batch_larger_than_the_data_set_draws_frames_again() -> None:
    (step,) = Sampler(2, batch=7, seed=0, start=0, steps=1)
    positions = [position for _, position in step]
    assert sorted(positions[:2]) == sorted(positions[2:4]) == sorted(positions[4:6]) == [0, 1]


def test_a_late_start_costs_no_epoch_before_it() -> None:
    whole = list(Sampler(7, batch=3, seed=1, start=0, steps=40))
    assert list(islice(Sampler(7, batch=3, seed=1, start=30, steps=40), 10)) == whole[30:]


def test_the_window_lies_around_its_frame() -> None:
    assert windows.numbers(10, Window(before=2, after=1)) == [8, 9, 10, 11]
    assert windows.numbers(0, Window(before=1)) == [-1, 0]
    assert len(windows.numbers(5, Window(before=8, after=7))) == Window(before=8, after=7).length == 16


def test_without_a_crop_windows_are_whole_and_unchanged(samples: Dataset) -> None:
    (batch,) = batches(samples, Config(window=Window(), height=None, crop=None), steps=1)
    pictures = [square.pictures()[frame] for square in make.RELEASE[:2] for frame in square.annotated]
    for picture in batch["frames"][:, 0].numpy():
        assert any(np.array_equal(picture, known) for known in pictures)


@pytest.mark.parametrize(("encoding", "channels"), [("colour_wheel", 3), ("clipped", 2), ("magnitude", 3)])
def test_flow_is_encoded_as_the_method_asks_after_it_was_resized(
    samples: Dataset, encoding: str, channels: int
) -> None:
    config = Config(window=Window(), height=24, crop=None, flow_encoding=encoding)
    (batch,) = batches(samples, config, steps=1)
    assert batch["flow"].shape == (3, 1, 24, 32, channels)
    read = [transforms.to_height(windows.read(samples, frame.video, [frame.frame]), 24) for frame in samples.frames]
    known = [window_batches.ENCODINGS[encoding](window.flow[0]) for window in read if window.flow is not None]
    for field in batch["flow"][:, 0].numpy():
        assert any(np.array_equal(field, expected) for expected in known)


def test_without_flow_a_batch_holds_none(samples: Dataset) -> None:
    window = windows.read(samples, "--first_one", [2])
    assert "flow" not in window_batches.to_batch([type(window)(window.frames, window.labels, None)], encoding="clipped")


# Sentences

VECTORS = Vectors(
    {word: np.full(300, number, np.float32) for number, word in enumerate(("square", "left", "right", "moving"), 1)},
    unknown=frozenset(("the", "on")),
)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two clips whose squares are in the left half of every annotated frame; a sentence of one of them says so."""
    folder = tmp_path_factory.mktemp("spoken")
    raw = make.write_release(folder / "data/raw")
    first, second, _ = (square.video for square in make.RELEASE)
    lines = ("video_id,instance_id,query", f"{first},0,the square on the left", f"{second},0,moving")
    (raw / a2d.SENTENCES).write_text("\n".join(lines) + "\n")
    with make.workspace(folder):
        data = make.run_to_frames(folder)
        return load(data / "index", data / "frames", split="train")


def spoken_batches(samples: Dataset, *, steps: int = 8, loaders: int = 0) -> list[window_batches.SentenceBatch]:
    drawn = window_batches.training_batches(
        samples,
        Config(),
        seed=0,
        start=0,
        steps=steps,
        batch=3,
        loaders=loaders,
        sentences=True,
        vectors=VECTORS,
    )
    return [window_batches.SentenceBatch(**batch) for batch in drawn]


def test_a_batch_of_sentences_holds_each_sentence_and_the_mask_that_it_means(spoken: Dataset) -> None:
    said = set()
    for batch in spoken_batches(spoken):
        said |= set(batch["sentences"])
        assert batch["mask"].shape == batch["labels"].shape
        assert torch.equal(batch["mask"] == 1, (batch["labels"] == 17) | (batch["labels"] == 66))
        assert torch.equal(batch["mask"] == IGNORE, batch["labels"] == IGNORE)
    assert said == {"the square on the left", "the square on the right", "moving"}


def test_words_are_those_of_the_flipped_sentence_and_name_the_side_that_the_mask_is_on(spoken: Dataset) -> None:
    sides = set()
    for batch in spoken_batches(spoken):
        assert batch["words"].shape[::2] == (3, 300) and batch["words"].dtype == torch.float32
        for sentence, mask, rows, length in zip(
            batch["sentences"], batch["mask"][:, 1], batch["words"][..., 0].tolist(), batch["lengths"], strict=True
        ):
            if sentence == "moving":
                assert length == 1 and rows[0] == 4
                continue
            middle = (mask == 1).nonzero()[:, 1].float().mean()
            side = 2 if middle < 16 else 3  # the frame is 32 wide and stands at the left of its padding
            assert length == 2 and rows == [1, side]
            sides.add(side)
    assert sides == {2, 3}


def test_words_are_padded_with_zero_rows_to_the_longest_sentence() -> None:
    batch = window_batches.with_words(Batch(sentences=["moving", "the", "Left square moving right"]), VECTORS)
    assert batch["words"][..., 7].tolist() == [[4, 0, 0, 0], [0, 0, 0, 0], [2, 1, 4, 3]]
    assert batch["words"].shape == (3, 4, 300) and batch["words"].dtype == torch.float32
    assert batch["lengths"].tolist() == [1, 0, 4] and batch["lengths"].dtype == torch.int64


@pytest.mark.parametrize("sentences", [["on the"], ["", "the"]])
def test_a_batch_without_a_known_word_has_one_row_of_zeros(sentences: list[str]) -> None:
    batch = window_batches.with_words(Batch(sentences=sentences), VECTORS)
    assert torch.equal(batch["words"], torch.zeros(len(sentences), 1, 300))
    assert batch["lengths"].tolist() == [0] * len(sentences)


def test_a_frame_with_a_sentence_stays_whole(spoken: Dataset) -> None:
    """48 x 64 pixels are resized to 24 x 32, where the crop of 24 x 40 holds them; without sentences it cuts."""
    for batch in spoken_batches(spoken):
        assert batch["frames"].shape == (3, 3, 24, 40, 3)
        assert (batch["labels"][:, 1, :, :32] != IGNORE).all() and (batch["labels"][..., 32:] == IGNORE).all()
    cut = batches(spoken, Config(), steps=8)
    assert not any((batch["labels"][:, 1, :, 32:] == IGNORE).all() for batch in cut)


def test_a_window_with_a_sentence_about_nobody_known_has_no_mask(samples: Dataset) -> None:
    window = replace(windows.read(samples, "--first_one", [2]), sentence="")
    batch = window_batches.to_batch([window], encoding="clipped")
    assert batch["sentences"] == [""] and "mask" not in batch
    assert "sentences" not in window_batches.to_batch([replace(window, sentence=None)], encoding="clipped")


@pytest.mark.slow
def test_loading_processes_give_the_same_words(spoken: Dataset) -> None:
    for batch, other in zip(spoken_batches(spoken, steps=3), spoken_batches(spoken, steps=3, loaders=2), strict=True):
        assert batch["sentences"] == other["sentences"] and torch.equal(batch["lengths"], other["lengths"])
        assert torch.equal(batch["words"], other["words"]) and torch.equal(batch["frames"], other["frames"])
