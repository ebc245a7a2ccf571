"""Forms in which flow can be stored: bytes a frame against the error that a form makes, on real estimates.

Each form is written as the pipeline's packs are (Arrow, zstd, a row a frame). The flow is that of DIS on clips that
the stages have decoded (data/frames), or on generated pairs where there are none.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer
from rich.console import Console
from rich.table import Table

from stages.core import cli
from stages.core.generator.pairs import make_pair
from stages.core.optical_flow import dis
from stages.core.packs.frames import Clip

Form = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Flow -> (what is stored, the flow that is read back)."""


def _whole(quantum: float, kind: type[np.signedinteger]) -> Form:
    def store(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        limit = np.iinfo(kind)
        stored = np.clip(np.rint(flow / quantum), limit.min, limit.max).astype(kind)
        return stored, stored.astype(np.float32) * np.float32(quantum)

    return store


def _own_scale(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    quantum = float(max(np.abs(flow).max(), 1e-9)) / 127
    return _whole(quantum, np.int8)(flow)


FORMS: dict[str, Form] = {
    "float32": lambda flow: (flow, flow),
    "float16": lambda flow: (flow.astype(np.float16), flow.astype(np.float16).astype(np.float32)),
    "int16, 1/64 pixel": _whole(1 / 64, np.int16),
    "int16, 1/16 pixel": _whole(1 / 16, np.int16),
    "int16, 1/4 pixel": _whole(1 / 4, np.int16),
    "int8, 20 pixels at most": _whole(20 / 127, np.int8),
    "int8, scaled to each frame": _own_scale,
}


def measure(frames: Path, *, clips: int = 4, count: int = 12) -> list[tuple[str, float, float, float]]:
    """(form, bytes a frame, mean error, largest error in pixels) over ``count`` frames of each of ``clips`` clips."""
    flows = list(_flows(frames, clips, count))
    rows = []
    for name, store in FORMS.items():
        pairs = [store(flow) for flow in flows]
        errors = [np.linalg.norm(back - flow, axis=-1) for (_, back), flow in zip(pairs, flows, strict=True)]
        mean, largest = float(np.mean([e.mean() for e in errors])), float(max(e.max() for e in errors))
        rows.append((name, _packed_bytes([stored for stored, _ in pairs]) / len(flows), mean, largest))
    return rows


def _flows(frames: Path, clips: int, count: int) -> Iterator[np.ndarray]:
    packed = sorted((frames / "clips").glob("*.arrow"))[:clips]
    for path in packed:
        clip = Clip(path)
        for number in range(min(count, len(clip) - 1)):
            yield dis.estimate(clip.frame(number), clip.frame(number + 1))
    if not packed:
        for number in range(clips):
            pair = make_pair(0, number, height=160, width=224)
            yield dis.estimate(pair.first, pair.second)


def _packed_bytes(arrays: list[np.ndarray]) -> int:
    """Of a pack with a row a frame."""
    kind = pa.from_numpy_dtype(arrays[0].dtype)
    schema = pa.schema([("flow", pa.list_(kind))])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        for array in arrays:
            writer.write_batch(pa.record_batch([pa.array([array.ravel()], pa.list_(kind))], schema=schema))
    return int(sink.getvalue().size)


def main(
    frames: Annotated[Path, typer.Option(help="output of the stage `frames`")] = Path("data/frames"),
    clips: Annotated[int, typer.Option(help="clips of it", min=1)] = 8,
) -> None:
    """Bytes against error of each form."""
    table = Table("form", "kB a frame", "mean error, pixels", "largest error")
    for name, size, mean, largest in measure(frames, clips=clips):
        table.add_row(name, f"{size / 1000:.1f}", f"{mean:.4f}", f"{largest:.3f}")
    Console().print(table)


if __name__ == "__main__":
    cli.run(main)
