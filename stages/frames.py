"""Stage `frames`: every clip decoded once, one packed Arrow file per clip.

Reads data/index and the mp4 files of data/raw. Writes data/frames: clips/<video>.arrow, manifest, quarantine.
"""

from pathlib import Path
from typing import Literal

from stages.core import cli, items, schemas
from stages.core.packs import frames
from stages.core.params import Section, load


class Parameters(Section):
    """Section ``frames`` of params.yaml."""

    encoding: Literal["jpeg", "png"]
    quality: int


def run(
    parameters: Parameters,
    *,
    raw: Path = Path("data/raw"),
    index: Path = Path("data/index"),
    output: Path = Path("data/frames"),
) -> items.Outcome:
    """Decode every clip of the index. A clip that can't be decoded goes to quarantine."""
    clips = schemas.read_parquet(index / "clips.parquet", schemas.CLIPS).to_pylist()
    work = [
        items.Item(
            name=clip["video"],
            inputs={"clip": clip["content"], "frames": str(clip["frames"])},
            argument={"path": str((raw / clip["path"]).absolute()), "frames": clip["frames"]},
        )
        for clip in clips
    ]
    libraries = ["av", "opencv-python-headless", "pyarrow"]
    return items.run(
        "frames", frames.pack_clip, work, parameters=parameters.model_dump(), libraries=libraries, output=output
    )


def main() -> None:
    """Decode the clips of data/raw."""
    run(load("frames", Parameters))


if __name__ == "__main__":
    cli.run(main)
