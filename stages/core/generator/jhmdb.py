"""J-HMDB and J-HMDB Sentences in miniature: generated clips in their exact layout (``stages.core.datasets.jhmdb``).

Gavrilyuk et al. 2018, section 5.2 and table 2, test on J-HMDB Sentences what was trained on A2D Sentences. Who has not
that data set has this one in its place: it shows that the test works, not how well a network generalises, for its
figures come from the generator of the sample (pool `test`, so no training clip shows them).

A clip shows adults. One of them does what the folder's name says, has a mask in every frame and is meant by the clip's
one sentence; the others have neither, as in J-HMDB, but the sentence tells the one from them. What the generator can do
and J-HMDB has no class of (crawling, eating, rolling) only the others do.

Axes: T frames, H rows, W columns. Frame numbers in files count from 1.
"""

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import scipy.io

from stages.core.datasets.jhmdb import IMAGES_FOLDER, MASKS_FOLDER, SAMPLES, SENTENCES, SPLITS_FOLDER
from stages.core.datasets.labels import A2D
from stages.core.generator.pools import derive_seed, generator
from stages.core.generator.scene import Clip, make_clip
from stages.core.packs.frames import encode_image

HEIGHT, WIDTH = 240, 320
"""Of every clip of J-HMDB, in pixels."""
FRAMES = (15, 40)
"""Fewest and most frames of a clip of J-HMDB."""
POOL = "test"
CLASSES = {"climb_stairs": 11, "jump": 15, "run": 17, "stand": 19, "walk": 18}
"""Class of J-HMDB -> A2D's id of an adult who does that: the four that the paper names, and `stand` for none."""
ADULTS = tuple(label for label in A2D.valid_ids if A2D.actors[label // A2D.stride] == "adult")
OTHERS = (0.5, 0.35, 0.15)
"""Share of clips with nobody, one and two beside the person."""
LEAST_VISIBLE = 0.01
"""Share of the frame that the person shows at least, in every frame."""
SPLITS = (1, 2, 3)
FIXED_SAMPLES = 3
"""Frames of a clip that the list of fixed samples names, drawn once."""
MAT_HEADER = b"MATLAB 5.0 MAT-file".ljust(116)
"""In place of SciPy's, which holds the time."""


@dataclass(frozen=True)
class MiniatureClip:
    """``video`` of the class ``action``. ``labels`` are A2D's ids of who is there, the annotated person first."""

    video: str
    action: str
    seed: int
    labels: tuple[int, ...]
    frames: int
    height: int = HEIGHT

    def make(self) -> Clip:
        """The clip, as ``make_clip`` makes it; another height shows the same scene."""
        width = self.height * WIDTH // HEIGHT
        return make_clip(self.seed, POOL, height=self.height, width=width, frames=self.frames, labels=self.labels)


def miniature_clips(clips: int, *, seed: int) -> list[MiniatureClip]:
    """Which clips the miniature holds, one class after the other.

    Each is made once at low resolution: where the person can't be seen, or no sentence tells them from the others, the
    next seed takes its place.
    """
    random = generator("miniature", seed)
    planned = []
    for number in range(clips):
        action = list(CLASSES)[number % len(CLASSES)]
        others = random.choice(ADULTS, size=random.choice(len(OTHERS), p=OTHERS)).tolist()
        clip = MiniatureClip(
            video=f"generated_{action}_np{1 + len(others)}_{number:03d}",
            action=action,
            seed=derive_seed("clip of miniature", seed, number) % 10**9,
            labels=(CLASSES[action], *others),
            frames=int(random.integers(*FRAMES, endpoint=True)),
        )
        while not _is_usable(replace(clip, height=48).make()):
            clip = replace(clip, seed=clip.seed + 1)
        planned.append(clip)
    return planned


def _is_usable(clip: Clip) -> bool:
    return clip.sentences[0] is not None and bool(clip.masks[:, 0].mean(axis=(1, 2)).min() >= LEAST_VISIBLE)


def write_miniature(folder: Path, clips: Sequence[MiniatureClip]) -> None:
    """Write ``clips`` below ``folder`` as J-HMDB and J-HMDB Sentences; the same clips give the same bytes."""
    spoken = ["video_id,query"]
    samples = []
    for clip in clips:
        sentence = _write_clip(folder, clip)
        spoken.append(f"{clip.video},{sentence}")
        samples += [_sample(clip, frame, sentence) for frame in _fixed_frames(clip)]
    (folder / SENTENCES).write_text("\n".join(spoken) + "\n")
    (folder / SAMPLES).write_text(json.dumps(samples))
    for split in SPLITS:
        for action in dict.fromkeys(clip.action for clip in clips):
            path = folder / SPLITS_FOLDER / f"{action}_test_split{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_split(split, [clip.video for clip in clips if clip.action == action]))


def _write_clip(folder: Path, clip: MiniatureClip) -> str:
    """Write the pictures and masks of ``clip``; return its sentence."""
    made = clip.make()
    pictures = folder / IMAGES_FOLDER / clip.action / clip.video
    pictures.mkdir(parents=True)
    for number, frame in enumerate(made.frames, start=1):
        data = encode_image(frame[..., ::-1].copy(), encoding="png", quality=0)
        (pictures / f"{number:05d}.png").write_bytes(data)
    path = folder / _mask_file(clip)
    path.parent.mkdir(parents=True)
    path.write_bytes(_puppet_mask(made.masks[:, 0]))
    sentence = made.sentences[0]
    assert sentence is not None, "miniature_clips takes clips that have one"
    return sentence


def _mask_file(clip: MiniatureClip) -> PurePosixPath:
    return MASKS_FOLDER / clip.action / clip.video / "puppet_mask.mat"


def _puppet_mask(masks: np.ndarray) -> bytes:
    """(T, H, W) bool as a file of MATLAB 5, part_mask (H, W, T)."""
    file = io.BytesIO()
    scipy.io.savemat(file, {"part_mask": masks.transpose(1, 2, 0).astype(np.uint8)}, do_compression=True)
    return MAT_HEADER + file.getvalue()[len(MAT_HEADER) :]


def _fixed_frames(clip: MiniatureClip) -> list[int]:
    random = generator("fixed samples of miniature", clip.video, clip.seed)
    return sorted(random.choice(clip.frames, size=FIXED_SAMPLES, replace=False).tolist())


def _sample(clip: MiniatureClip, frame: int, sentence: str) -> list[str | int]:
    """A row of the public list of samples; its paths begin where MTTR's code is run."""
    root = PurePosixPath("jhmdb_sentences")
    picture = root / IMAGES_FOLDER / clip.action / clip.video / f"{frame + 1:05d}.png"
    return [clip.video, f"./{picture}", f"./{root / _mask_file(clip)}", clip.frames, sentence]


def _split(split: int, videos: Iterable[str]) -> str:
    """One official split of a class: about 30 % of its clips (2) are test clips, in each split others."""
    return "".join(f"{video}.avi {2 if place % 3 == split - 1 else 1}\n" for place, video in enumerate(videos))
