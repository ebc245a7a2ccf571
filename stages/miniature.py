"""Stage `miniature`: J-HMDB and J-HMDB Sentences in miniature, for who has not the data set.

Reads nothing. Writes data/miniature: generated clips in the exact layout of J-HMDB, which `transfer_data` reads.
"""

import shutil
from pathlib import Path

from pydantic import Field

from stages.core import cli
from stages.core.generator.jhmdb import miniature_clips, write_miniature
from stages.core.params import Section, load


class Parameters(Section):
    """Section ``miniature`` of params.yaml."""

    clips: int = Field(ge=1)
    seed: int


def run(parameters: Parameters, *, output: Path = Path("data/miniature")) -> None:
    """Write the miniature to ``output``, in place of what is there."""
    clips = miniature_clips(parameters.clips, seed=parameters.seed)
    if output.exists():  # DVC removes it before, a run by hand doesn't
        shutil.rmtree(output)
    write_miniature(output, clips)
    print(f"miniature: {len(clips)} clips, {sum(clip.frames for clip in clips)} frames")


def main() -> None:
    """Write data/miniature."""
    run(load("miniature", Parameters))


if __name__ == "__main__":
    cli.run(main)
