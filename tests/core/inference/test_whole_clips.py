"""Whole clips by overlapping windows: which window labels a frame, and what is predicted and held in memory for it."""

import json
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import ssa2d
from models.base import Batch, Predictions, Window
from stages.core.batches import windows
from stages.core.batches.windows import Sample
from stages.core.datasets.labels import A2D
from stages.core.inference import label_maps
from stages.core.inference import predictor as predictors
from stages.core.scores.maps import PackedMaps
from stages.core.training import loop
from tests.help import make

TINY = replace(
    ssa2d.small,
    encoder=replace(ssa2d.small.encoder, width=0.125),
    decoder=(8, 8, 8),
    pyramid=8,
    height=None,
    window=Window(before=4, after=3),
)
LENGTH = TINY.window.length
FRAMES = 21
CLIP = make.Square("--whole", frames=FRAMES, speed=(2, 1))

lengths = st.integers(1, 20)
clips = st.integers(1, 120)


def tiles(wanted: Sequence[int], frames: int, length: int) -> list[tuple[list[int], list[int], list[int]]]:
    return list(windows.tile(wanted, frames=frames, length=length))


# Which window labels a frame


@given(clips, lengths)
def test_every_frame_of_a_clip_is_labelled_once_at_its_place_in_the_window(frames: int, length: int) -> None:
    found = tiles(range(frames), frames, length)
    assert [frame for _, own, _ in found for frame in own] == list(range(frames))
    for numbers, own, positions in found:
        assert numbers == list(range(numbers[0], numbers[0] + length))
        assert [numbers[position] for position in positions] == own


@given(clips, lengths)
def test_a_frame_is_labelled_by_the_window_in_which_it_is_nearest_the_middle(frames: int, length: int) -> None:
    found = tiles(range(frames), frames, length)
    starts = [numbers[0] for numbers, _, _ in found]

    def off_middle(frame: int, start: int) -> float:
        return abs(frame - start - (length - 1) / 2)

    for numbers, own, _ in found:
        for frame in own:
            assert off_middle(frame, numbers[0]) == min(off_middle(frame, start) for start in starts)


@given(clips, lengths)
def test_a_labelled_frame_has_a_quarter_of_the_window_to_each_side_but_where_the_clip_ends(
    frames: int, length: int
) -> None:
    for numbers, _, positions in tiles(range(frames), frames, length):
        before = 0 if numbers[0] == 0 else length // 4
        after = 0 if numbers[-1] >= frames - 1 else length // 4
        assert all(before <= position <= length - 1 - after for position in positions)


@pytest.mark.parametrize(
    ("frames", "starts"),
    [(1, [0]), (5, [0]), (16, [0]), (17, [0, 8]), (24, [0, 8]), (25, [0, 8, 16]), (160, list(range(0, 145, 8)))],
)
def test_windows_start_every_half_length_and_there_are_no_more_than_it_takes(frames: int, starts: list[int]) -> None:
    assert [numbers[0] for numbers, _, _ in tiles(range(frames), frames, 16)] == starts


def test_sixteen_frames_are_shared_out_as_by_hand() -> None:
    """Of windows 0 to 15, 8 to 23 and 16 to 31: frames 12 and 20 are the first nearer the middle of the next one."""
    owned = [own for _, own, _ in tiles(range(26), 26, 16)]
    assert owned == [list(range(12)), list(range(12, 20)), list(range(20, 26))]


@given(st.data(), clips, lengths)
def test_only_windows_with_a_wanted_frame_are_there_and_a_frame_has_the_same_one_as_ever(
    data: st.DataObject, frames: int, length: int
) -> None:
    wanted = data.draw(st.lists(st.integers(0, frames - 1), unique=True))

    def placed(chosen: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Frame -> start of its window, position in it."""
        found = tiles(chosen, frames, length)
        assert all(own for _, own, _ in found)
        return {f: (numbers[0], at) for numbers, own, positions in found for f, at in zip(own, positions, strict=True)}

    everywhere = placed(range(frames))
    assert placed(wanted) == {frame: everywhere[frame] for frame in wanted}


# What is predicted


def clamped(numbers: Sequence[int], frames: int) -> list[int]:
    return [min(max(number, 0), frames - 1) for number in numbers]


def window(start: int) -> Batch:
    """Frames ``start`` to ``start + 7`` of the clip; behind its end the last one."""
    pictures = CLIP.pictures()[clamped(range(start, start + LENGTH), FRAMES)]
    return Batch(frames=torch.from_numpy(pictures)[None])


def argument_for(folder: Path, frames: Sequence[int], **changed: Any) -> dict[str, Any]:
    """An item of ``predict_clip`` on the packed clip."""
    make.pack_frames(folder / "clips" / f"{CLIP.video}.arrow", CLIP.pictures())
    folders = {"clip": str(folder / "clips"), "index": str(folder)}
    own = {"video": CLIP.video, "frames": list(frames), "run": str(folder), "weights": str(folder), "true": False}
    return {**own, "folders": folders, **changed}


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssa2d.SSA2D:
    """A very small network as a trained run at ``tmp_path``; its batch statistics come from the clip."""
    monkeypatch.setattr(ssa2d, "small", TINY)
    torch.manual_seed(0)
    network = ssa2d.build(TINY, A2D).train()
    with torch.no_grad():
        for _ in range(8):
            network({"frames": torch.cat([window(start)["frames"] for start in (0, 8)])})
    loop.save_weights(tmp_path / "model.pt", network)
    run = {"method": "ssa2d", "inputs": "rgb", "variant": "full", "label_space": "a2d"}
    (tmp_path / "run.json").write_text(json.dumps(run | {"parameters": {"common": {"config": "small"}}}))
    return network.eval()


def same(maps: Any, predicted: Predictions) -> bool:
    """Up to a few pixels: folded batch norms round otherwise, and by another number of threads again otherwise."""
    equal = [maps[name] == getattr(predicted, name)[0].numpy() for name in ("joint", "actor", "action")]
    return float(np.mean(equal)) > 0.995


def test_a_clip_gets_for_each_frame_what_the_network_says_in_the_window_where_it_is_nearest_the_middle(
    tmp_path: Path, network: ssa2d.SSA2D
) -> None:
    """Windows of 8 start at 0, 4, 8, 12 and 16, and the last one of 21 frames ends behind the clip."""
    (tmp_path / "found").mkdir()
    label_maps.predict_clip(
        argument_for(tmp_path, range(FRAMES)), make.FLOAT32, tmp_path / "found" / f"{CLIP.video}.arrow"
    )
    packed, elsewhere = PackedMaps(tmp_path / "found"), 0
    for frame in range(FRAMES):
        start, other = np.argsort([abs(frame - start - 3.5) for start in range(0, 17, 4)])[:2] * 4
        maps = packed.maps(CLIP.video, frame)
        assert maps is not None and maps["joint"].shape == (make.HEIGHT, make.WIDTH)
        assert same(maps, network.predict_frames(window(start), [frame - start])), frame
        if 0 <= frame - other < LENGTH:
            elsewhere += not same(maps, network.predict_frames(window(other), [frame - other]))
    assert elsewhere > FRAMES // 2, "another window would have said something else"


def test_annotated_frames_get_what_the_whole_clip_would(tmp_path: Path, network: ssa2d.SSA2D) -> None:
    found = {}
    for name, frames in (("all", range(FRAMES)), ("some", (3, 10, 20))):
        (tmp_path / name).mkdir()
        label_maps.predict_clip(argument_for(tmp_path, frames), make.FLOAT32, tmp_path / name / f"{CLIP.video}.arrow")
        packed = PackedMaps(tmp_path / name)
        found[name] = {f: maps["joint"].tobytes() for f in range(FRAMES) if (maps := packed.maps(CLIP.video, f))}
    assert list(found["some"]) == [3, 10, 20] and len(set(found["all"].values())) > FRAMES // 2
    assert found["some"] == {frame: found["all"][frame] for frame in (3, 10, 20)}


def test_maps_of_resized_frames_are_stored_at_the_frame_s_own_size(
    tmp_path: Path, network: ssa2d.SSA2D, monkeypatch: pytest.MonkeyPatch
) -> None:
    del network
    monkeypatch.setattr(ssa2d, "small", replace(TINY, height=2 * make.HEIGHT))
    (tmp_path / "found").mkdir()
    argument = argument_for(tmp_path, [5], weights="resized")
    label_maps.predict_clip(argument, make.FLOAT32, tmp_path / "found" / f"{CLIP.video}.arrow")
    maps = PackedMaps(tmp_path / "found").maps(CLIP.video, 5)
    assert maps is not None and {found.shape for found in maps.values()} == {(make.HEIGHT, make.WIDTH)}


def test_a_clip_is_predicted_in_the_precision_that_is_asked_for(
    tmp_path: Path, network: ssa2d.SSA2D, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the mantissa changes few pixels, but it changes some features."""
    del network
    seen: list[torch.dtype] = []
    predict = ssa2d.SSA2D.predict_frames

    def watched(self: ssa2d.SSA2D, batch: Batch, positions: Sequence[int]) -> Any:
        with torch.no_grad():
            seen.append(self(batch)[0].dtype)
        return predict(self, batch, positions)

    monkeypatch.setattr(ssa2d.SSA2D, "predict_frames", watched)
    found = {}
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        (tmp_path / precision).mkdir()
        target = tmp_path / precision / f"{CLIP.video}.arrow"
        label_maps.predict_clip(argument_for(tmp_path, [5, 10]), {"precision": precision}, target)
        assert set(seen) == {dtype}
        seen.clear()
        packed = PackedMaps(tmp_path / precision)
        found[precision] = np.stack([packed.maps(CLIP.video, frame)["joint"] for frame in (5, 10)])  # type: ignore[index]
    assert (found["float32"] == found["bfloat16"]).mean() > 0.9


# What is read, and what is in memory


class Centred:
    """A method that labels one frame of its window: background, always."""

    def __init__(self) -> None:
        self.shown: list[weakref.ref[Any]] = []

    def predict(self, batch: Batch) -> Predictions:
        return self.background(batch, 1)

    def background(self, batch: Batch, count: int) -> Predictions:
        self.shown.append(weakref.ref(batch["frames"]))
        none = torch.zeros(count, *batch["frames"].shape[2:4], dtype=torch.uint8)
        return Predictions(none, none, none)


class AllAtOnce(Centred):
    """A method that labels any frames of its window."""

    def predict_frames(self, batch: Batch, positions: Sequence[int]) -> Predictions:
        return self.background(batch, len(positions))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Centred, Sequence[int]], tuple[list[list[int]], int]]:
    """Predicts the clip by a method; gives the windows that were read, and how many were ever held beside a new one."""

    def predict(folder: Path, network: Centred, frames: Sequence[int]) -> tuple[list[list[int]], int]:
        config = SimpleNamespace(window=TINY.window, height=None, flow_encoding="clipped")
        predictor = predictors.Predictor(network, config, A2D, torch.device("cpu"))
        read, asked, held = windows.read, [], [0]
        samples: list[weakref.ref[Any]] = []

        def watching(dataset: Any, video: str, numbers: Sequence[int], **options: Any) -> Sample:
            held.append(sum(one() is not None for one in (*samples, *network.shown)))
            asked.append(list(numbers))
            sample = read(dataset, video, numbers, **options)
            samples.append(weakref.ref(sample.frames))
            return sample

        monkeypatch.setattr(predictors, "load_predictor", lambda *_: predictor)
        monkeypatch.setattr(windows, "read", watching)
        label_maps.predict_clip(argument_for(folder, frames), make.FLOAT32, folder / "found.arrow")
        return asked, max(held)

    return predict


def test_of_a_clip_of_any_length_one_window_is_in_memory_at_a_time(tmp_path: Path, watched: Any) -> None:
    network = AllAtOnce()
    asked, held = watched(tmp_path, network, range(FRAMES))
    assert asked == [list(range(start, start + LENGTH)) for start in range(0, 17, 4)]
    assert len(network.shown) == len(asked) and held == 0


def test_for_annotated_frames_no_window_is_read_that_holds_none(tmp_path: Path, watched: Any) -> None:
    asked, _ = watched(tmp_path, AllAtOnce(), [9, 8, 20])
    assert asked == [list(range(4, 12)), list(range(16, 24))]


def test_a_method_that_labels_one_frame_of_its_window_gets_one_around_each(tmp_path: Path, watched: Any) -> None:
    asked, _ = watched(tmp_path, Centred(), [9, 20])
    assert asked == [list(range(5, 13)), list(range(16, 24))]
