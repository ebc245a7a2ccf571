"""The published sizes of region masks and their front-end, each stage for one step, on one real clip: slow."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import workspace
from stages.core.datasets import a2d

FRONT, BACK = "deeplab-rgb+flow-full-0", "region_masks-rgb+flow-full-0"


@pytest.mark.slow
@pytest.mark.needs_shared
def test_region_masks_learn_a_step_and_label_a_real_clip_at_published_sizes(davis: Path, tmp_path: Path) -> None:
    clips, _ = a2d.A2DRelease(davis).clips()
    videos = [next(clip.video for clip in clips if clip.split == split) for split in ("train", "test")]
    release = workspace.take(davis, tmp_path / "release", videos)
    project = workspace.make(tmp_path / "project", release, runs=[FRONT, BACK])
    one_step = {"steps": 1, "batch": 1}
    project.set(
        {
            "train_regions": {"config": "paper", "pretrained": False},
            "train_regions.segmenters": {"fcis-own": one_step, "maskrcnn-own": one_step},
            "regions.sources": {"maskrcnn-own": {"reads": "data/train_regions/maskrcnn-own"}},
            "train.common": {"config": "paper", "pretrained": False},
            "train.deeplab": one_step,
            "train.region_masks": one_step,
        }
    )
    project.dvc("repro", f"evaluate@{BACK}", "regions@fcis-own", "regions@maskrcnn-own")
    predicted = pd.read_feather(project.root / f"data/evaluate/{BACK}/predictions/clips/{videos[1]}.arrow")
    annotated = pd.read_parquet(project.root / "data/index/frames.parquet")
    assert set(predicted["frame"]) == set(annotated.loc[annotated["video"] == videos[1], "frame"])
    for source in ("fcis-own", "maskrcnn-own"):
        assert len(pd.read_parquet(project.root / f"data/regions/{source}/manifest.parquet")) == len(videos)
