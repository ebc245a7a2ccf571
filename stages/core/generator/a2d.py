"""Writes generated clips in the layout of the A2D release and of A2D Sentences, byte for byte the same every time.

    Release/README, Release/videoset.csv, Release/clips320H/<vid>.mp4,
    Release/Annotations/mat/<vid>/<frame:05d>.mat, Release/Annotations/col/<vid>/<frame:05d>.png,
    a2d_annotation.txt, a2d_missed_videos.txt, a2d_annotation_with_instances/<vid>/<frame:05d>.h5

and one kind of file that A2D has not: Release/Flow/<vid>.arrow with the exact optical flow (``ReleaseFlow`` reads it).
Frame numbers in files count from 1.
"""

import csv
import io
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import h5py
import numpy as np
import pyarrow as pa

from stages.core.datasets.labels import A2D, VALID_IDS
from stages.core.generator.scene import Clip, make_clip, part_flow
from stages.core.packs import masks

FRAMES_PER_SECOND = 24
FLOW_SCHEMA = pa.schema([("frame", pa.int32()), ("parts", pa.binary()), ("affines", pa.list_(pa.float32()))])


@dataclass(frozen=True)
class ClipPlan:
    """One row of a release: which clip it is and which of its frames are annotated.

    ``annotated`` is 3 or 5, the n of A2D's rule k * floor(frames / 6), k = 1 to n; ``labels`` None draws them.
    """

    video: str
    seed: int
    pool: str
    split: str
    labels: tuple[int, ...] | None = None
    annotated: int = 3
    height: int = 128

    def make(self) -> Clip:
        """The clip, as ``make_clip`` makes it."""
        return make_clip(self.seed, self.pool, height=self.height, labels=self.labels)


def annotated_frames(frames: int, annotated: int) -> list[int]:
    """0-based numbers of the annotated frames of a clip by A2D's rule."""
    return [k * (frames // 6) - 1 for k in range(1, annotated + 1)]


def write_release(
    folder: Path, plans: Sequence[ClipPlan], *, processes: int = 1, flow_of_all_frames: bool = False, crf: int = 18
) -> None:
    """Write the clips of ``plans`` as a release below ``folder``; the bytes do not depend on ``processes``.

    ``crf`` is libx264's constant rate factor. Raises ``ValueError`` where two plans name the same video.
    """
    videos = [plan.video for plan in plans]
    if len(set(videos)) != len(videos):
        twice = sorted({video for video in videos if videos.count(video) > 1})
        raise ValueError(f"videos {', '.join(twice)} are planned twice; give each clip an id of its own")
    for plan in plans:
        if plan.split not in ("train", "test"):
            raise ValueError(f"video {plan.video}: split {plan.split!r} is neither train nor test")
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [(folder, plan, flow_of_all_frames, crf) for plan in plans]
    if processes > 1:
        # spawn: forking a process whose OpenCV threads run can hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context, initializer=_use_one_thread) as pool:
            rows = list(pool.map(_write_clip, tasks, chunksize=4))
    else:
        rows = [_write_clip(task) for task in tasks]

    (folder / "Release/README").write_text(_readme(), encoding="utf-8")
    _write_csv(folder / "Release/videoset.csv", [row for row, _ in rows])
    sentences = [(plan.video, i, text) for plan, (_, told) in zip(plans, rows, strict=True) for i, text in told]
    _write_csv(folder / "a2d_annotation.txt", [("video_id", "instance_id", "query"), *sentences])
    missed = [plan.video for plan, (_, told) in zip(plans, rows, strict=True) if not told]
    (folder / "a2d_missed_videos.txt").write_text("\n".join(missed), encoding="utf-8")


def _use_one_thread() -> None:
    cv2.setNumThreads(1)


def _write_clip(task: tuple[Path, ClipPlan, bool, int]) -> tuple[tuple, list[tuple[int, str]]]:
    """Write one clip's files; return its row of videoset.csv and its (instance, sentence) rows."""
    folder, plan, flow_of_all_frames, crf = task
    clip = plan.make()
    frames, height, width = clip.parts.shape
    numbers = annotated_frames(frames, plan.annotated)
    write_video(folder / f"Release/clips320H/{plan.video}.mp4", clip.frames, crf=crf)
    seen: set[int] = set()
    for number in numbers:
        name = f"{plan.video}/{number + 1:05d}"
        seen |= _write_annotation(folder, name, clip, number)
        _write_png(folder / f"Release/Annotations/col/{name}.png", A2D.palette[clip.semantic[number]])
    flow_frames = list(range(frames - 1)) if flow_of_all_frames else numbers
    _write_flow(folder / f"Release/Flow/{plan.video}.arrow", clip, flow_frames)
    seconds = -(-frames // FRAMES_PER_SECOND)
    acting = [label for label in clip.instances if label % 10 != 9]
    row = (
        plan.video, (acting or list(clip.instances))[0], "00:00:00", f"00:00:{seconds:02d}", height, width, frames,
        len(numbers), int(plan.split == "test"),
    )  # fmt: skip
    told = [(i, text) for i, text in enumerate(clip.sentences) if text is not None and i in seen]
    return row, told


def write_video(path: Path, frames: np.ndarray, *, crf: int) -> None:
    """Encode (T, H, W, 3) uint8 RGB as H.264, yuv420p."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # One thread: x264's bytes depend on how many it has.
        stream.codec_context.thread_count = 1
        # With AVX-512, x264's bytes vary from call to call where the width is no multiple of 16.
        stream.options = {"crf": str(crf), "preset": "slow", "threads": "1", "x264-params": "asm=SSE4.2"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _write_annotation(folder: Path, name: str, clip: Clip, number: int) -> set[int]:
    """Write the .mat file of one frame and its .h5 copy; return the instances that are visible in it."""
    masks = clip.masks[number]
    seen = [i for i in range(len(clip.instances)) if masks[i].any()]
    arrays: dict[str, np.ndarray] = {
        "id": np.array([[clip.instances[i] for i in seen]], dtype=np.float64).reshape(1, -1),
        "reBBox": np.array([_box(masks[i]) for i in seen], dtype=np.float64).reshape(-1, 4).T,
        "reMask": masks[seen[0]].T if len(seen) == 1 else masks[seen].transpose(0, 2, 1),
        "reS_id": clip.semantic[number].T,
    }
    _write_hdf5(folder / f"Release/Annotations/mat/{name}.mat", arrays)
    arrays["instance"] = np.array(seen, dtype=np.uint8)
    _write_hdf5(folder / f"a2d_annotation_with_instances/{name}.h5", arrays)
    return set(seen)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of a mask, 0-based, half open."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _write_hdf5(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", track_order=False) as file:
        for key in sorted(arrays):
            values = arrays[key]
            if key in ("reMask", "reS_id") and values.size:
                file.create_dataset(
                    key, data=values.astype(np.uint8), compression="gzip", compression_opts=9, chunks=values.shape,
                    track_times=False,
                )  # fmt: skip
            else:
                file.create_dataset(key, data=values, track_times=False)


def _write_png(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_encode_png(image[..., ::-1]))


def _encode_png(image: np.ndarray) -> bytes:
    encoded, buffer = cv2.imencode(".png", np.ascontiguousarray(image), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    assert encoded
    return buffer.tobytes()


def _write_flow(path: Path, clip: Clip, numbers: Iterable[int]) -> None:
    """Write part maps and affine tables: what ``ReleaseFlow`` computes the flow from."""
    numbers = list(numbers)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [
        pa.array([n + 1 for n in numbers], pa.int32()),
        pa.array([_encode_png(clip.parts[n]) for n in numbers], pa.binary()),
        pa.array([clip.affines[n].ravel() for n in numbers], pa.list_(pa.float32())),
    ]
    table = pa.Table.from_arrays(columns, schema=FLOW_SCHEMA)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, FLOW_SCHEMA) as writer:
        writer.write_table(table)


class ReleaseFlow:
    """The exact optical flow of one clip of a release, from ``Release/Flow/<vid>.arrow``."""

    def __init__(self, path: Path) -> None:
        """Raises ``ValueError`` where ``path`` is missing or of another kind."""
        if not path.exists():
            raise ValueError(
                f"{path} does not exist; write the release with `python -m stages.commands.generate sample`"
            )
        with pa.OSFile(str(path), "rb") as source:
            table = pa.ipc.open_file(source).read_all()
        if table.schema != FLOW_SCHEMA:
            raise ValueError(f"{path} has columns {table.schema.names}; a flow file has {FLOW_SCHEMA.names}")
        self._rows = {row["frame"] - 1: row for row in table.to_pylist()}

    @property
    def frames(self) -> tuple[int, ...]:
        """0-based numbers of the frames whose flow to the next frame is known."""
        return tuple(sorted(self._rows))

    def flow(self, frame: int) -> np.ndarray:
        """(H, W, 2) float32 flow from 0-based ``frame`` to the next, in pixels, u right and v down."""
        if frame not in self._rows:
            raise ValueError(f"no flow of frame {frame}; there is flow of {', '.join(map(str, self.frames))}")
        row = self._rows[frame]
        return part_flow(masks.decode(row["parts"]), np.array(row["affines"], dtype=np.float32).reshape(-1, 2, 3))


def _readme() -> str:
    lines = ["Generated clips of actors and actions, in the layout of the A2D release.", "", "NAME ID Valid R G B"]
    for label, colour in sorted(A2D.colours.items()):
        name = "BG" if label == 0 else A2D.name(label)
        lines.append(f"{name} {label} {int(label in VALID_IDS)} {' '.join(map(str, colour))}")
    return "\n".join(lines) + "\n"


def _write_csv(path: Path, rows: Iterable[Sequence]) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue().encode("utf-8"))
