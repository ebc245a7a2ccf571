"""The sample data set: which clips it holds, and the one archive it travels in."""

import base64
import hashlib
import lzma
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from stages.core.datasets.labels import VALID_IDS
from stages.core.generator.a2d import ClipPlan, annotated_frames
from stages.core.generator.pools import derive_seed, generator
from stages.core.generator.scene import make_clip

TRAIN_CLIPS, TEST_CLIPS = 210, 74
INSTANCE_SHARES = (0.45, 0.3, 0.17, 0.08)
"""Share of clips with one, two, three and four actors."""
FIVE_ANNOTATED = 0.12
"""Share of clips with five annotated frames; the others have three."""
LEAST_VISIBLE = 0.0015
"""Share of the frame that every actor must show in every annotated frame."""


def sample_plans(
    *, seed: int = 0, train: int = TRAIN_CLIPS, test: int = TEST_CLIPS, height: int = 128, check: bool = True
) -> list[ClipPlan]:
    """The clips of the sample: test clips come from another pool, and every split goes round all 43 pairs.

    With ``check``, clips in which an actor cannot be seen are replaced by the next seed; it makes every clip once at
    low resolution.
    """
    return list(_split_plans(seed, "train", train, height, check)) + list(
        _split_plans(seed, "test", test, height, check)
    )


def _split_plans(seed: int, split: str, count: int, height: int, check: bool) -> Iterator[ClipPlan]:
    rng = generator("sample", split, seed)
    pairs = _endless_pairs(seed, split)
    for number in range(count):
        instances = int(rng.choice(len(INSTANCE_SHARES), p=INSTANCE_SHARES)) + 1
        labels = tuple(next(pairs) for _ in range(instances))
        annotated = 5 if rng.random() < FIVE_ANNOTATED else 3
        clip_seed = derive_seed("clip of sample", seed, split, number) % 10**9
        while check and not _is_visible(clip_seed, split, labels, annotated):
            clip_seed += 1
        video = _video_id(derive_seed("video", seed, split, number), number)
        yield ClipPlan(video, clip_seed, split, split, labels, annotated, height)


def _endless_pairs(seed: int, split: str) -> Iterator[int]:
    """The 43 pairs in random order, over and over: every pair occurs as often as every other, give or take one."""
    rng = generator("pairs", split, seed)
    while True:
        yield from rng.permutation(VALID_IDS[1:]).tolist()


def _is_visible(seed: int, pool: str, labels: tuple[int, ...], annotated: int) -> bool:
    clip = make_clip(seed, pool, height=48, labels=labels)
    numbers = annotated_frames(len(clip.frames), annotated)
    shares = clip.masks[numbers].mean(axis=(2, 3))
    return bool(shares.min() >= LEAST_VISIBLE)


def _video_id(seed: int, number: int) -> str:
    """Eleven characters as YouTube's; some begin with - or --, as A2D's do, and some hold an underscore."""
    digest = hashlib.sha256(str(seed).encode()).digest()
    text = base64.urlsafe_b64encode(digest).decode()[:11]
    if number % 29 == 3:
        return "--" + text[2:]
    if number % 29 == 11:
        return "-" + text[1:]
    if number % 17 == 5:
        return text[:4] + "_" + text[5:]
    return text


def write_archive(folder: Path, target: Path) -> None:
    """Pack the release at ``folder`` into a .tar.xz: sorted names, no times, no owners, so the same bytes each time.

    Raises ``ValueError`` where ``folder`` holds no release.
    """
    if not (folder / "Release/videoset.csv").is_file():
        raise ValueError(
            f"{folder} holds no release; write one with `python -m stages.commands.generate sample --to={folder}`"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(target.name + ".part")
    paths = sorted(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda p: p.relative_to(folder).as_posix()
    )
    with (
        lzma.open(unfinished, "wb", preset=9 | lzma.PRESET_EXTREME) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for path in paths:
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                archive.addfile(entry, file)
    os.replace(unfinished, target)
