"""Clips of videos for training: which frames they hold, that all of a clip is changed alike, and whose truth it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.video_classifier import VideoBatch
from stages.core.batches import transforms, video_batches, windows
from stages.core.datasets.dataset import Dataset, load
from stages.core.datasets.labels import A2D
from tests.help import make

SQUARES = (
    make.Square("--long", label=17, frames=40, annotated=(2, 6)),
    make.Square("short", label=66, frames=5, annotated=(1,)),
    make.Square("tested", label=36, split="test"),
)


@dataclass(frozen=True)
class Config:
    frames: int = 8
    height: int | None = None
    crop: tuple[int, int] = (32, 32)
    jitter: bool = False
    flow_encoding: str = "clipped"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("videos")
    make.write_release(folder / "data/raw", SQUARES)
    with make.workspace(folder):
        data = make.run_to_flow(folder)
        return load(data / "index", data / "frames", split="train", flow=data / "optical_flow" / "dis-forward")


def batches(samples: Dataset, *, start: int = 0, steps: int = 6, loaders: int = 0, **config: Any) -> list[VideoBatch]:
    drawn = video_batches.training_batches(
        samples, Config(**config), seed=3, start=start, steps=steps, batch=2, loaders=loaders
    )
    return list(drawn)


def test_a_batch_has_clips_their_flow_and_the_pairs_of_their_videos(samples: Dataset) -> None:
    pairs = [A2D.valid_ids.index(label) - 1 for label in (17, 66)]
    told = set()
    for batch in batches(samples):
        assert batch["frames"].shape == (2, 8, 32, 32, 3) and batch["frames"].dtype == torch.uint8
        assert batch["flow"].shape == (2, 8, 32, 32, 2) and batch["flow"].abs().max() <= 1
        assert batch["pairs"].shape == (2, len(A2D.valid_ids) - 1) and batch["pairs"].dtype == torch.float32
        assert set(batch) == {"frames", "flow", "pairs"}
        for shown in batch["pairs"]:
            assert shown.sum() == 1
            told.add(int(shown.argmax()))
    assert told == set(pairs), "both videos of the split, each with its own"


def test_clips_lie_anywhere_in_a_video_and_a_short_one_starts_again(
    samples: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, list[list[int]]] = {}
    read = windows.read

    def reading(dataset: Dataset, video: str, numbers: list[int], **given: Any) -> windows.Sample:
        asked.setdefault(video, []).append(numbers)
        return read(dataset, video, numbers, **given)

    monkeypatch.setattr(windows, "read", reading)
    batches(samples, steps=20)
    assert all(numbers == [0, 1, 2, 3, 4, 0, 1, 2] for numbers in asked["short"])
    starts = {numbers[0] for numbers in asked["--long"]}
    assert all(numbers == list(range(numbers[0], numbers[0] + 8)) for numbers in asked["--long"])
    assert len(starts) > 5 and min(starts) >= 0 and max(starts) <= 32


@pytest.mark.parametrize(("jitter", "name"), [(False, "augment_little"), (True, "augment")])
def test_all_of_a_clip_is_augmented_alike(
    samples: Dataset, monkeypatch: pytest.MonkeyPatch, jitter: bool, name: str
) -> None:
    given: list[tuple[int | None, tuple[int, int]]] = []
    augment = getattr(transforms, name)

    def augmenting(sample: windows.Sample, random: Any, *, height: int | None, size: tuple[int, int]) -> windows.Sample:
        given.append((height, size))
        augmented: windows.Sample = augment(sample, random, height=height, size=size)
        return augmented

    monkeypatch.setattr(transforms, name, augmenting)
    (batch,) = batches(samples, steps=1, height=24, crop=(16, 16), jitter=jitter)
    assert given == [(24, (16, 16))] * 2 and batch["frames"].shape[2:4] == (16, 16)


def test_a_step_s_batch_depends_on_its_number_alone(samples: Dataset) -> None:
    from_start, later = batches(samples, steps=4), batches(samples, start=2, steps=4)
    for batch, other in zip(from_start[2:], later, strict=True):
        assert all(torch.equal(batch[name], other[name]) for name in batch)  # type: ignore[literal-required]
    assert not torch.equal(from_start[0]["frames"], from_start[1]["frames"])


def test_clips_that_are_scored_lie_end_to_end_and_are_numbered_as_those_of_training() -> None:
    assert windows.clip_numbers(3, length=4, frames=5) == [3, 4, 0, 1]
    assert windows.window_numbers(5, length=8) == [windows.clip_numbers(0, length=8, frames=5)]


def test_without_flow_there_is_none(samples: Dataset) -> None:
    clip = windows.read(samples, "short", [0, 1], labelled=False)
    bare = windows.Sample(clip.frames, clip.labels)
    assert "flow" not in video_batches.to_batch([(bare, np.zeros(43, np.float32))], encoding="clipped")


@pytest.mark.slow
def test_loading_processes_give_the_same_clips(samples: Dataset, tmp_path: Path) -> None:
    for batch, other in zip(batches(samples, steps=3), batches(samples, steps=3, loaders=2), strict=True):
        assert all(torch.equal(batch[name], other[name]) for name in batch)  # type: ignore[literal-required]
