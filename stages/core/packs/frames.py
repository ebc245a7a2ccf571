"""Frames of one clip: decoding an mp4, packing its frames, reading them back."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa

from stages.core import items
from stages.core.items import BadItem
from stages.core.schemas import FRAME_PACK, Pack, write_pack

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp"})
TOLERATED_SHORTFALL = 0.1
"""Share of a clip's frames that may be missing at its end (containers and csv differ by a frame or two)."""


def pack_clip(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """Decode ``argument["path"]`` and pack its frames into one Arrow file at ``target``.

    ``argument["frames"]`` is the number of frames expected, None where the data set doesn't say; ``parameters``:
    encoding (jpeg or png) and quality. Raises ``BadItem`` for a clip that can't be decoded or ends early.
    """
    images: list[bytes] = []
    shape = (0, 0)
    try:
        for image in decode(Path(argument["path"])):
            if images and image.shape[:2] != shape:
                raise BadItem(f"frame {len(images) + 1} is {image.shape[:2]} where the frames before are {shape}")
            shape = image.shape[:2]
            images.append(encode_image(image, encoding=parameters["encoding"], quality=parameters["quality"]))
    except av.error.FFmpegError as error:
        raise BadItem(f"can't be decoded after {len(images)} frames: {error.strerror}") from error
    expected = argument["frames"] or 1
    if len(images) < expected * (1 - TOLERATED_SHORTFALL):
        raise BadItem(f"truncated: {len(images)} frames can be decoded where the data set promises {expected}")
    columns = {"frame": pa.array(range(len(images)), pa.int32()), "image": pa.array(images, pa.binary())}
    write_pack(target, columns, FRAME_PACK, height=str(shape[0]), width=str(shape[1]))


def decode(path: Path) -> Iterator[np.ndarray]:
    """Frames of a video file, or pictures of a folder, in order: (H, W, 3) uint8 BGR, OpenCV's order of channels.

    They are upright, as players show them: telephones store how far to turn the frames, not turned ones.
    """
    if path.is_dir():
        yield from map(_read_picture, pictures(path))
        return
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise BadItem("holds no video stream")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1  # clips are the parallelism
        for frame in container.decode(stream):
            if frame.rotation % 90:
                raise BadItem(f"to be shown turned by {frame.rotation} degrees, which is no multiple of 90")
            # Both count counterclockwise.
            yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="bgr24"), frame.rotation // 90))


def pictures(folder: Path) -> list[Path]:
    """The pictures of a clip that is a folder, in the order of their names."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file())


def clip_digest(path: Path) -> str:
    """sha256 of a video file, or of the pictures of a folder and their names."""
    if not path.is_dir():
        return items.file_digest(path)
    return items.digest([[picture.name, items.file_digest(picture)] for picture in pictures(path)])


def encode_image(image: np.ndarray, *, encoding: str, quality: int) -> bytes:
    """(H, W, 3) uint8 BGR to the bytes of a JPEG or PNG file."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if encoding == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    encoded, buffer = cv2.imencode(f".{encoding}", image, options)
    assert encoded
    return buffer.tobytes()


class Clip:
    """A packed clip: random access to its decoded frames."""

    def __init__(self, path: Path) -> None:
        self._pack = Pack(path)
        self.height = int(self._pack.metadata["height"])
        self.width = int(self._pack.metadata["width"])

    def __len__(self) -> int:
        return len(self._pack)

    def frame(self, number: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB of 0-based frame ``number``."""
        data = np.frombuffer(self._pack.column(number, "image")[0].as_buffer(), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert image is not None, "packed by encode_image"
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def frames(self, numbers: Sequence[int]) -> np.ndarray:
        """(T, H, W, 3) uint8 RGB; numbers outside the clip are clamped to its first and last frame."""
        decoded: dict[int, np.ndarray] = {}
        for number in numbers:
            clamped = min(max(number, 0), len(self) - 1)
            if clamped not in decoded:
                decoded[clamped] = self.frame(clamped)
        return np.stack([decoded[min(max(number, 0), len(self) - 1)] for number in numbers])


def _read_picture(path: Path) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(path.read_bytes() or b"\0", np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise BadItem(f"{path.name} is no picture")
    return image
