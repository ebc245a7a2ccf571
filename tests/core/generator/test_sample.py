"""The archive in the repository is what the generator makes."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from stages.commands.data import unpack_sample
from stages.core.datasets import a2d
from stages.core.generator import sample_plans, write_release
from stages.core.packs.frames import decode

ARCHIVE = Path("data/sample.tar.xz")
MOST_BYTES = 12_000_000
FRAME_TOLERANCE = 2.0
"""Mean difference in grey levels: codecs of other versions need not write the same bytes."""


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack_sample(tmp_path_factory.mktemp("shipped") / "raw")


def test_the_archive_is_small_enough_to_clone() -> None:
    assert ARCHIVE.stat().st_size <= MOST_BYTES


def test_the_archive_is_a_release_whose_clips_and_annotations_are_complete(shipped: Path) -> None:
    a2d.check_layout(shipped)
    rows, bad = a2d.read_videoset(shipped / a2d.VIDEOSET)
    assert not bad
    assert 200 <= len(rows) <= 400
    for row in rows:
        assert 24 <= row.frames <= 48
        assert (shipped / a2d.CLIPS_FOLDER / f"{row.video}.mp4").exists()
        assert a2d.annotated_frames(shipped, row.video) == [
            k * (row.frames // 6) - 1 for k in range(1, row.annotated + 1)
        ]


def test_clips_made_again_have_the_shipped_masks_and_frames(shipped: Path, tmp_path: Path) -> None:
    plans = sample_plans(train=2, test=1)
    write_release(tmp_path, plans)
    assert len(plans) == 3
    for plan in plans:
        made, kept = (sorted((folder / a2d.MAT_FOLDER / plan.video).glob("*.mat")) for folder in (tmp_path, shipped))
        assert [path.name for path in made] == [path.name for path in kept]
        for ours, theirs in zip(made, kept, strict=True):
            with h5py.File(ours) as first, h5py.File(theirs) as second:
                assert sorted(first) == sorted(second)
                for name in first:
                    np.testing.assert_array_equal(first[name][()], second[name][()], err_msg=f"{ours.name} {name}")
        clips = (folder / a2d.CLIPS_FOLDER / f"{plan.video}.mp4" for folder in (tmp_path, shipped))
        for ours_frame, theirs_frame in zip(*(decode(clip) for clip in clips), strict=True):
            assert np.abs(ours_frame.astype(int) - theirs_frame.astype(int)).mean() < FRAME_TOLERANCE
