"""Frames of a clip: decoded once, packed in order, read back at random; a broken clip says what is wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from stages import frames as frames_stage
from stages import index as index_stage
from stages.core import items
from stages.core.datasets import layouts
from stages.core.generator.a2d import write_video
from stages.core.items import BadItem
from stages.core.packs import frames as packed_frames
from tests.help import make

PNG: Mapping[str, Any] = {"encoding": "png", "quality": 95}


def pack(path: Path, target: Path, *, frames: int, parameters: Mapping[str, Any] = PNG) -> packed_frames.Clip:
    packed_frames.pack_clip({"path": str(path), "frames": frames}, parameters, target)
    return packed_frames.Clip(target)


def numbered(count: int) -> np.ndarray:
    """(T, H, W, 3): frame t is grey of 20 * t."""
    return np.broadcast_to((np.arange(count) * 20).astype(np.uint8)[:, None, None, None], (count, 32, 48, 3)).copy()


def test_every_frame_is_packed_in_order_and_size(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", numbered(10), crf=1)
    clip = pack(tmp_path / "clip.mp4", tmp_path / "clip.arrow", frames=10)
    assert (len(clip), clip.height, clip.width) == (10, 32, 48)
    assert np.allclose([clip.frame(t).mean() for t in range(10)], np.arange(10) * 20, atol=3)


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_red_stays_red_in_either_encoding(tmp_path: Path, encoding: str) -> None:
    red = np.zeros((4, 32, 48, 3), np.uint8)
    red[..., 0] = 230
    write_video(tmp_path / "clip.mp4", red, crf=1)
    clip = pack(
        tmp_path / "clip.mp4", tmp_path / "clip.arrow", frames=4, parameters={"encoding": encoding, "quality": 95}
    )
    assert np.allclose(clip.frame(2).mean((0, 1)), (230, 0, 0), atol=6)


def test_png_keeps_what_the_decoder_gave(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", make.RELEASE[0].pictures(), crf=20)
    clip = pack(tmp_path / "clip.mp4", tmp_path / "clip.arrow", frames=12)
    decoded = [frame[..., ::-1] for frame in packed_frames.decode(tmp_path / "clip.mp4")]
    assert np.array_equal(clip.frames(range(12)), np.stack(decoded))


def test_numbers_outside_the_clip_give_its_first_and_last_frame(tmp_path: Path) -> None:
    clip = packed_frames.Clip(make.pack_frames(tmp_path / "clip.arrow", numbered(5)))
    assert clip.frames([-3, 0, 4, 9])[:, 0, 0, 0].tolist() == [0, 0, 80, 80]


def test_a_clip_of_one_frame_is_a_clip(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", numbered(1), crf=1)
    clip = pack(tmp_path / "clip.mp4", tmp_path / "clip.arrow", frames=1)
    assert len(clip) == 1 and clip.frames([-1, 0, 1]).shape == (3, 32, 48, 3)


def to_be_turned(path: Path, degrees: int) -> Path:
    """The clip at ``path``, with a header that says to show it turned clockwise, as a telephone writes it."""

    def header(angle: float) -> bytes:
        cosine, sine = round(np.cos(angle) * 2**16), round(np.sin(angle) * 2**16)
        matrix = (cosine, sine, 0, -sine, cosine, 0, 0, 0, 2**30)  # of ISO 14496-12, 8.3.2
        return b"".join(number.to_bytes(4, "big", signed=True) for number in matrix)

    content = path.read_bytes()
    track = content.index(b"tkhd")
    path.write_bytes(content[:track] + content[track:].replace(header(0), header(np.deg2rad(degrees)), 1))
    return path


@pytest.mark.parametrize(("degrees", "corner"), [(0, (0, 0)), (90, (0, -1)), (180, (-1, -1)), (270, (-1, 0))])
def test_a_clip_that_was_filmed_on_its_side_is_packed_upright(
    tmp_path: Path, degrees: int, corner: tuple[int, int]
) -> None:
    frames = numbered(3)
    frames[:, :16, :16] = 250  # at the top left as it is stored
    write_video(tmp_path / "clip.mp4", frames, crf=1)
    clip = pack(to_be_turned(tmp_path / "clip.mp4", degrees), tmp_path / "clip.arrow", frames=3)
    assert (clip.height, clip.width) == ((48, 32) if degrees % 180 else (32, 48))
    shown = clip.frames(range(3))
    assert shown.shape == (3, clip.height, clip.width, 3)
    corners = {(row, column): shown[:, row, column].min() > 200 for row in (0, -1) for column in (0, -1)}
    assert [place for place, bright in corners.items() if bright] == [corner]
    read, by_opencv = cv2.VideoCapture(str(tmp_path / "clip.mp4")).read()
    assert read and np.allclose(shown[0], by_opencv[..., ::-1], atol=3)


def test_a_clip_to_be_shown_aslant_is_a_bad_item(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", numbered(3), crf=1)
    with pytest.raises(BadItem, match=r"turned by -45 degrees, which is no multiple of 90"):
        pack(to_be_turned(tmp_path / "clip.mp4", 45), tmp_path / "clip.arrow", frames=3)


def test_a_text_file_called_mp4_can_t_be_decoded(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_text("<html>404 not found</html>" * 40)
    with pytest.raises(BadItem, match="can't be decoded"):
        pack(tmp_path / "clip.mp4", tmp_path / "clip.arrow", frames=10)


def test_a_missing_or_empty_file_can_t_be_decoded(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    for name in ("empty.mp4", "missing.mp4"):
        with pytest.raises(BadItem, match="can't be decoded"):
            pack(tmp_path / name, tmp_path / "clip.arrow", frames=10)


def test_an_mp4_cut_before_its_index_can_t_be_decoded(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", make.RELEASE[0].pictures(), crf=10)  # the index comes last
    whole = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "clip.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadItem, match="can't be decoded after 0 frames"):
        pack(tmp_path / "clip.mp4", tmp_path / "clip.arrow", frames=12)


def streamed(path: Path, frames: np.ndarray) -> Path:
    """An mp4 whose index comes first, as downloads have it: cut short, it can be decoded up to the cut."""
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "1", "g": "4", "bf": "0"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_an_mp4_cut_in_its_middle_goes_to_quarantine_and_not_into_training(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (24, 32, 48, 3), np.uint8)
    path = streamed(tmp_path / "clip.mp4", pictures)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadItem, match=r"can't be decoded after \d+ frames|truncated: \d+ frames .* promises 24"):
        pack(path, tmp_path / "clip.arrow", frames=24)


def test_a_frame_or_two_less_than_promised_is_tolerated_and_a_fifth_is_not(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", numbered(12), crf=1)
    assert len(pack(tmp_path / "clip.mp4", tmp_path / "clip.arrow", frames=13)) == 12
    with pytest.raises(BadItem, match=r"truncated: 12 frames can be decoded where the data set promises 15"):
        pack(tmp_path / "clip.mp4", tmp_path / "clip.arrow", frames=15)


def test_a_file_with_sound_only_is_a_bad_item(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "clip.mp4"), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(BadItem, match="no video"):
        pack(tmp_path / "clip.mp4", tmp_path / "clip.arrow", frames=3)


def test_the_same_clip_packs_to_the_same_bytes(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", make.RELEASE[0].pictures(), crf=20)
    for name in ("a", "b"):
        pack(
            tmp_path / "clip.mp4", tmp_path / f"{name}.arrow", frames=12, parameters={"encoding": "jpeg", "quality": 90}
        )
    assert (tmp_path / "a.arrow").read_bytes() == (tmp_path / "b.arrow").read_bytes()


def test_the_frames_stage_packs_good_clips_and_quarantines_bad_ones(tmp_path: Path) -> None:
    raw = make.write_release(tmp_path / "raw")
    (raw / "Release/clips320H/-second_one.mp4").write_text("no video")
    parameters = frames_stage.Parameters(encoding="png", quality=95)
    with make.workspace(tmp_path):
        index_stage.run(layouts.Parameters(dataset="squares"), raw=raw, output=tmp_path / "index")
        folders = {"raw": raw, "index": tmp_path / "index", "output": tmp_path / "frames"}
        outcome = frames_stage.run(parameters, **folders)
        assert list(outcome.quarantined) == ["-second_one"]
        assert list(items.read_manifest(tmp_path / "frames")) == ["--first_one", "third_in_it"]
        assert len(packed_frames.Clip(tmp_path / "frames/clips/--first_one.arrow")) == 12
        lossy = frames_stage.Parameters(encoding="jpeg", quality=95)
        assert frames_stage.run(parameters, **folders).computed == []
        assert len(frames_stage.run(lossy, **folders).computed) == 3
