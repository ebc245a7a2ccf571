"""The generator of the sample: its clips, its exact flow, its release, and that one frame does not tell the action."""

import hashlib
import tarfile
from collections import Counter
from pathlib import Path

import av
import cv2
import h5py
import numpy as np
import pytest

from stages.core.datasets import a2d
from stages.core.datasets.labels import A2D, ACTIONS, VALID_IDS
from stages.core.generator import (
    ClipPlan,
    ReleaseFlow,
    make_clip,
    part_flow,
    sample_plans,
    write_archive,
    write_release,
)  # fmt: skip
from stages.core.generator.leak import collect, measure
from stages.core.generator.pairs import POOL
from stages.core.generator.pools import LOOKS, background_count, derive_seed, look_count

PLANS = (
    ClipPlan("--two_actor", 11, "train", "train", (17, 63), annotated=3, height=64),
    ClipPlan("-one_actor_", 12, "train", "train", (36,), annotated=5, height=64),
    ClipPlan("threeactors", 13, "test", "test", (48, 78, 29), annotated=3, height=64),
)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    write_release(folder, PLANS)
    return folder


@pytest.mark.parametrize("label", VALID_IDS[1:])
def test_every_pair_can_be_made_and_is_seen(label: int) -> None:
    clip = make_clip(3, "train", height=64, frames=3, labels=[label])
    assert clip.frames.shape[0] == 3 and clip.frames.dtype == np.uint8 and clip.frames.shape[3] == 3
    assert clip.masks.shape == (3, 1, *clip.frames.shape[1:3])
    assert clip.masks.any(axis=(1, 2, 3)).all()
    assert set(np.unique(clip.semantic)) == {0, label}


def test_same_seed_gives_same_bytes_whatever_numpy_s_global_state() -> None:
    np.random.seed(1)
    first = make_clip(5, "train", height=64, frames=4)
    np.random.seed(2)
    cv2.setRNGSeed(9)
    second = make_clip(5, "train", height=64, frames=4)
    assert np.array_equal(first.frames, second.frames)
    assert np.array_equal(first.affines, second.affines)
    assert first.sentences == second.sentences


def test_another_seed_gives_another_clip() -> None:
    first, second = (make_clip(seed, "train", height=64, width=96, frames=1, labels=[78]) for seed in (1, 2))
    assert not np.array_equal(first.frames, second.frames)


def test_a_short_clip_is_the_beginning_of_a_longer_one() -> None:
    short, long = (make_clip(8, "train", height=64, frames=frames) for frames in (2, 9))
    assert np.array_equal(short.parts, long.parts[:2])
    assert np.array_equal(short.frames, long.frames[:2])


def test_another_height_shows_the_same_scene() -> None:
    small, large = (make_clip(21, "train", height=height, width=height * 3 // 2, frames=2) for height in (64, 128))
    assert small.instances == large.instances and small.looks == large.looks
    reduced = cv2.resize(large.frames[1], small.frames.shape[2:0:-1], interpolation=cv2.INTER_AREA)
    assert np.abs(reduced.astype(float) - small.frames[1]).mean() < 12
    sampled = large.semantic[1][::2, ::2]
    assert (sampled == small.semantic[1]).mean() > 0.97


@pytest.mark.parametrize("seed", range(4))
def test_flow_leads_each_pixel_to_where_it_goes(seed: int) -> None:
    clip = make_clip(seed, "train", height=128, frames=5)
    height, width = clip.frames.shape[1:3]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for t in range(4):
        flow = clip.flow(t)
        assert flow.shape == (height, width, 2) and flow.dtype == np.float32
        to_x, to_y = x + flow[..., 0], y + flow[..., 1]
        following = cv2.remap(clip.frames[t + 1], to_x, to_y, cv2.INTER_LINEAR)
        nearest = (np.rint(to_y).astype(int), np.rint(to_x).astype(int))
        inside = (nearest[0] >= 0) & (nearest[0] < height) & (nearest[1] >= 0) & (nearest[1] < width)
        landed = clip.parts[t + 1][np.clip(nearest[0], 0, height - 1), np.clip(nearest[1], 0, width - 1)]
        visible = inside & (landed == clip.parts[t])
        assert visible.mean() > 0.7
        error = np.abs(following.astype(float) - clip.frames[t]).mean(axis=2)
        still = np.abs(clip.frames[t + 1].astype(float) - clip.frames[t]).mean(axis=2)
        moving = visible & (np.hypot(flow[..., 0], flow[..., 1]) > 1.0)
        assert error[visible].mean() < 5  # noise and change of light alone
        if moving.sum() > 50:
            assert error[moving].mean() < 0.5 * still[moving].mean() + 1.5


def test_flow_of_a_part_is_its_affine_map() -> None:
    parts = np.array([[0, 1], [0, 1]], np.uint8)
    affines = np.array([[[0, 0, 1], [0, 0, 2]], [[0.5, 0, 0], [0, 0.5, 0]]], np.float32)
    flow = part_flow(parts, affines)
    assert flow[1, 0].tolist() == [1, 2]
    assert flow[1, 1].tolist() == [0.5, 0.5]


def test_the_smaller_of_two_lies_in_front() -> None:
    for seed in range(30):
        clip = make_clip(seed, "train", height=64, frames=1, labels=[34, 35])
        first, second = (np.flatnonzero(clip.part_instances == i)[0] for i in (0, 1))
        areas = clip.masks[0].sum(axis=(1, 2))
        alone = [make_clip(seed, "train", height=64, frames=1, labels=[34, 35]).masks[0, i].sum() for i in (0, 1)]
        assert areas.tolist() == alone
        if min(areas) > 40 and max(areas) > 2 * min(areas):
            assert (areas[0] < areas[1]) == (first > second)


def test_labels_that_are_no_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="no valid pairs"):
        make_clip(0, "train", labels=[14])
    with pytest.raises(ValueError, match="even"):
        make_clip(0, "train", height=64, width=65)
    with pytest.raises(ValueError, match="count from 0"):
        make_clip(0, "train", height=64, frames=1).flow(1)


def pool_seeds(pool: str) -> set[int]:
    """Every seed of the pool: looks of the 7 actors and backgrounds."""
    looks = {derive_seed(pool, "look", actor, index) for actor in range(1, 8) for index in range(look_count(pool))}
    return looks | {derive_seed(pool, "background", index) for index in range(background_count(pool))}


def test_pools_share_no_look_and_no_background() -> None:
    seeds = {pool: pool_seeds(pool) for pool in ("train", "test", "pretrain", "other", POOL)}
    assert LOOKS["train"] >= 40
    for pool, own in seeds.items():
        for other, theirs in seeds.items():
            assert pool == other or not own & theirs, f"{pool} and {other} share a seed"
    assert derive_seed("a", 12) != derive_seed("a", "12") != derive_seed("a1", 2)


def test_a_clip_keeps_to_its_pool() -> None:
    for seed in range(5):
        clip = make_clip(seed, "test", height=64, frames=1)
        assert all(0 <= index < look_count("test") for _, index in clip.looks)


def test_camera_background_and_places_do_not_depend_on_the_action() -> None:
    """Two clips of a seed that differ in the action alone move their background alike and begin alike."""
    walking, rolling = (make_clip(4, "train", height=64, frames=6, labels=[label]) for label in (78, 76))
    assert walking.background == rolling.background
    assert np.allclose(walking.affines[:, 0], rolling.affines[:, 0])
    assert walking.looks == rolling.looks
    assert walking.frames.shape == rolling.frames.shape


def test_sentences_single_their_instance_out() -> None:
    told = 0
    for seed in range(25):
        clip = make_clip(seed, "train", height=48, frames=24)
        spoken = [sentence for sentence in clip.sentences if sentence is not None]
        assert len(set(spoken)) == len(spoken)
        told += len(spoken)
    assert told >= 25


def test_release_is_read_back_by_the_project_s_own_reader(release: Path) -> None:
    a2d.check_layout(release)
    rows, bad = a2d.read_videoset(release / a2d.VIDEOSET)
    assert not bad and [row.video for row in rows] == [plan.video for plan in PLANS]
    assert [row.split for row in rows] == ["train", "train", "test"]
    for row, plan in zip(rows, PLANS, strict=True):
        clip = plan.make()
        assert (row.frames, row.height, row.width) == clip.parts.shape
        numbers = a2d.annotated_frames(release, row.video)
        assert numbers == [k * (row.frames // 6) - 1 for k in range(1, plan.annotated + 1)]
        for number in numbers:
            annotation = a2d.read_annotation(release, row.video, number)
            assert np.array_equal(annotation.labels, clip.semantic[number])
            for mask, box, instance in zip(annotation.masks, annotation.boxes, annotation.instances, strict=True):
                assert np.array_equal(mask, clip.masks[number, instance])
                ys, xs = np.nonzero(mask)
                assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_annotation_files_have_the_shapes_of_the_real_release(release: Path) -> None:
    with h5py.File(next((release / "Release/Annotations/mat/-one_actor_").glob("*.mat"))) as one:
        width, height = one["reS_id"].shape
        assert width > height and one["reMask"].shape == (width, height) and one["reMask"].dtype == np.uint8
        assert one["reBBox"].shape == (4, 1) and one["id"].shape == (1, 1) and "instance" not in one
    path = sorted((release / "a2d_annotation_with_instances/threeactors").glob("*.h5"))[0]
    with h5py.File(path) as three:
        count = three["id"].shape[1]
        assert count > 1 and three["reMask"].shape[0] == count and three["reBBox"].shape == (4, count)
        assert three["instance"].shape == (count,) and three["instance"].dtype == np.uint8


def test_colour_maps_and_readme_carry_a2d_s_colours(release: Path) -> None:
    path = sorted((release / "Release/Annotations/col/threeactors").glob("*.png"))[0]
    colours = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    labels = a2d.read_annotation(release, "threeactors", int(path.stem) - 1).labels
    assert np.array_equal(colours, A2D.palette[labels])
    readme = (release / "Release/README").read_text()
    assert "adult-climbing 11 1 52 1 1" in readme and "ball-running 37 0 133 255 103" in readme


def test_videos_hold_the_frames(release: Path) -> None:
    clip = PLANS[0].make()
    with av.open(str(release / "Release/clips320H/--two_actor.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.pix_fmt == "yuv420p" and stream.codec_context.name == "h264"
        assert stream.average_rate == 24
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == len(clip.frames)
    assert np.abs(np.stack(frames).astype(float) - clip.frames).mean() < 12


def test_flow_files_hold_the_clip_s_flow(release: Path) -> None:
    clip, flow = PLANS[2].make(), ReleaseFlow(release / "Release/Flow/threeactors.arrow")
    assert flow.frames == tuple(a2d.annotated_frames(release, "threeactors"))
    for number in flow.frames:
        assert np.array_equal(flow.flow(number), clip.flow(number))
    with pytest.raises(ValueError, match="no flow of frame 0"):
        flow.flow(0)


def test_a_release_is_the_same_bytes_again_and_with_two_processes(release: Path, tmp_path: Path) -> None:
    write_release(tmp_path / "again", PLANS, processes=2)
    assert _digests(release) == _digests(tmp_path / "again")
    write_archive(release, tmp_path / "one.tar.xz")
    write_archive(tmp_path / "again", tmp_path / "two.tar.xz")
    assert (tmp_path / "one.tar.xz").read_bytes() == (tmp_path / "two.tar.xz").read_bytes()
    with tarfile.open(tmp_path / "one.tar.xz") as archive:
        assert {entry.mtime for entry in archive} == {0}


def test_a_video_planned_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="planned twice"):
        write_release(tmp_path, [PLANS[0], PLANS[0]])


def test_every_split_of_the_sample_goes_round_all_pairs() -> None:
    plans = sample_plans(check=False)
    assert len({plan.video for plan in plans}) == len(plans) and all(len(plan.video) == 11 for plan in plans)
    assert any(plan.video.startswith("--") for plan in plans) and any("_" in plan.video for plan in plans)
    for split, least in (("train", 8), ("test", 3)):
        clips = Counter(label for plan in plans if plan.split == split for label in set(plan.labels))
        assert set(clips) == set(VALID_IDS[1:])
        assert min(clips.values()) >= least
        assert all(plan.pool == split for plan in plans if plan.split == split)


def test_flow_tells_actions_that_one_frame_does_not() -> None:
    """The small, quick form of ``python -m stages.commands.generate leak``."""
    _assert_no_leak(train=110, test=45, height=96, least_motion=0.8)


@pytest.mark.slow
def test_flow_tells_actions_that_one_frame_does_not_on_the_whole_sample() -> None:
    _assert_no_leak(train=600, test=150, height=128, least_motion=0.85)


def _assert_no_leak(*, train: int, test: int, height: int, least_motion: float) -> None:
    fitted = collect(sample_plans(train=train, test=0, height=height, check=False), processes=2)
    tested = collect(sample_plans(train=0, test=test, height=height, check=False), processes=2)
    report = measure(fitted, tested, trees=100)
    assert report.figures > 100 and len(ACTIONS) == len(report.motion_confusion)
    assert report.appearance < 0.6
    assert report.motion > least_motion


def _digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}
