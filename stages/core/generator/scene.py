"""Clips of actors in action before a moving camera, with masks, sentences and exact optical flow.

Places and speeds are in units of the frame's height, so that a seed shows the same scene at every height. What the
camera, the background, the number and the places of the actors are is drawn apart from what the actors do.

Axis letters: T frames, N instances, P parts (background is part 0), H rows, W columns.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from stages.core.datasets.labels import ACTIONS, ACTORS, VALID_IDS
from stages.core.generator.figures import Figure, make_figure
from stages.core.generator.motions import Motion, make_motion
from stages.core.generator.pools import background_count, generator, look_count
from stages.core.generator.render import SPRITE_DETAIL, paint_frames, paint_sprite
from stages.core.generator.sentences import Subject, describe
from stages.core.generator.textures import paint_background

FRAMES = (24, 48)
ASPECTS = (1.375, 1.78)
BORDER = 0.18
"""How far the background's canvas reaches beyond the frame, in frame heights; beyond it the canvas is reflected."""
MAX_INSTANCES = 8
TURN = np.cos(np.deg2rad([36, 72, 108, 144]))
"""Width of a figure while it turns about; it is never seen edge-on, so every map between frames stays finite."""


@dataclass(frozen=True)
class Clip:
    """A clip and everything that is known about it.

    ``frames`` (T, H, W, 3) uint8 RGB; ``instances`` N label ids; ``parts`` (T, H, W) uint8 index of the visible part
    at each pixel's centre; ``part_instances`` (P,) instance of each part, -1 for background; ``affines``
    (T, P, 2, 3) float32: the displacement of a pixel (x, y) of part p from frame t to t + 1 is
    ``affines[t, p] @ (x, y, 1)``; ``sentences`` one per instance, None where nothing singles it out; ``looks`` the
    (actor, index) of each instance in the pool; ``background`` the index of the background.
    """

    seed: int
    pool: str
    frames: np.ndarray
    instances: tuple[int, ...]
    parts: np.ndarray
    part_instances: np.ndarray
    affines: np.ndarray
    sentences: tuple[str | None, ...]
    looks: tuple[tuple[str, int], ...]
    background: int

    @cached_property
    def masks(self) -> np.ndarray:
        """(T, N, H, W) bool: the visible pixels of each instance."""
        owner = self.part_instances[self.parts]
        return owner[:, None] == np.arange(len(self.instances))[None, :, None, None]

    @cached_property
    def semantic(self) -> np.ndarray:
        """(T, H, W) uint8 label id of each pixel, 0 for background."""
        labels = np.array([*self.instances, 0], dtype=np.uint8)
        return labels[self.part_instances[self.parts]]

    def flow(self, t: int) -> np.ndarray:
        """(H, W, 2) float32: where each pixel of frame t goes by frame t + 1, in pixels, u right and v down.

        Known for the last frame, too. Raises ``ValueError`` where the clip has no frame t.
        """
        if not 0 <= t < len(self.frames):
            raise ValueError(f"frame {t} of a clip of {len(self.frames)} frames; count from 0")
        return part_flow(self.parts[t], self.affines[t])


def part_flow(parts: np.ndarray, affines: np.ndarray) -> np.ndarray:
    """(H, W, 2) float32 flow of the part map ``parts`` (H, W) whose parts move by ``affines`` (P, 2, 3)."""
    height, width = parts.shape
    x = np.arange(width, dtype=np.float32)[None, :, None]
    y = np.arange(height, dtype=np.float32)[:, None, None]
    a = affines.astype(np.float32)[parts]  # (H, W, 2, 3)
    return a[..., 0] * x + a[..., 1] * y + a[..., 2]


def make_clip(
    seed: int, pool: str, *, height: int = 128, width: int | None = None, frames: int | None = None,
    labels: Sequence[int] | None = None,
) -> Clip:  # fmt: skip
    """Make one clip; the same arguments give the same bytes.

    ``width`` (even) and ``frames`` are drawn where they are not given; a shorter clip is the beginning of a longer one.
    ``labels`` are the ids (actor * 10 + action) of the instances, else one to four are drawn evenly from the 43 pairs.
    Raises ``ValueError`` for labels that are no valid pairs and for sizes that cannot be painted.
    """
    rng = generator("clip", pool, seed)
    aspect = float(rng.uniform(*ASPECTS))
    drawn_frames = int(rng.integers(FRAMES[0], FRAMES[1] + 1))
    drawn_count = int(rng.choice([1, 2, 3, 4], p=[0.45, 0.3, 0.17, 0.08]))
    frames = drawn_frames if frames is None else frames
    width = 2 * round(height * aspect / 2) if width is None else width
    _check_sizes(height, width, frames)
    if labels is None:
        pairs = np.array(VALID_IDS[1:])
        labels = generator("labels", pool, seed).choice(pairs, size=drawn_count).tolist()
    labels = tuple(int(label) for label in labels)
    _check_labels(labels)

    aspect = width / height
    steps = frames + 1
    camera = _move_camera(generator("camera", pool, seed), steps, aspect)
    background = int(rng.integers(background_count(pool)))
    actors = _cast(generator("places", pool, seed), seed, pool, labels, steps, aspect)

    pixels = np.array([[height, 0, -0.5], [0, height, -0.5], [0, 0, 1.0]])
    to_frame = pixels @ camera  # (T + 1, 3, 3), world to pixels
    canvas, canvas_to_world = _canvas(pool, background, height, aspect)
    maps = [to_frame @ canvas_to_world]
    sprites: list[np.ndarray] = []
    owners = [-1]
    subjects: list[Subject] = []
    # The largest is painted first: the smaller lies in front.
    for actor in sorted(actors, key=lambda a: -a.area):
        world = actor.walk(camera, aspect)
        subjects.append(actor.subject((camera @ world)[:, 0, 2] / aspect))
        posed = _pose(actor.figure, actor.motion, world)
        for index in sorted(range(len(actor.figure.parts)), key=lambda i: (actor.figure.parts[i].depth, i)):
            part = actor.figure.parts[index]
            sprite, to_part = paint_sprite(actor.figure, part, index, actor.scale * height * SPRITE_DETAIL)
            sprites.append(sprite)
            owners.append(actor.instance)
            maps.append(to_frame @ posed[index] @ to_part)
    stacked = np.stack(maps, axis=1)  # (T + 1, P, 3, 3)
    with _one_thread():
        painted, parts = paint_frames(canvas, sprites, stacked[:-1], height=height, width=width)
    steps_between = stacked[1:] @ np.linalg.inv(stacked[:-1])
    affines = (steps_between[:, :, :2] - np.eye(3)[:2]).astype(np.float32)
    return Clip(
        seed=seed, pool=pool, frames=_expose(generator("light", pool, seed), painted), instances=labels, parts=parts,
        part_instances=np.array(owners, dtype=np.int16), affines=affines,
        sentences=describe(generator("sentences", pool, seed), sorted(subjects, key=lambda s: s.instance)),
        looks=tuple((a.figure.actor, a.look) for a in sorted(actors, key=lambda a: a.instance)), background=background,
    )  # fmt: skip


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sprites are too small to share: OpenCV's threads would wait for each other more than they paint."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _check_sizes(height: int, width: int, frames: int) -> None:
    if height < 32 or width < 32 or width % 2 or height % 2:
        raise ValueError(f"a frame of {height} x {width} cannot be made; both sides must be even and at least 32")
    if frames < 1:
        raise ValueError(f"a clip of {frames} frames cannot be made; ask for at least one")


def _check_labels(labels: tuple[int, ...]) -> None:
    wrong = [label for label in labels if label not in VALID_IDS[1:]]
    if wrong:
        raise ValueError(f"labels {wrong} are no valid pairs; choose from {', '.join(map(str, VALID_IDS[1:]))}")
    if not 1 <= len(labels) <= MAX_INSTANCES:
        raise ValueError(f"{len(labels)} labels were given; a clip shows 1 to {MAX_INSTANCES} figures")


@dataclass
class _Actor:
    """One instance: who it is, what it does, where it begins (frame coordinates in frame heights)."""

    instance: int
    label: int
    look: int
    figure: Figure
    motion: Motion
    scale: float
    start: tuple[float, float]
    facing: int
    rise: int
    yaw: float

    @property
    def area(self) -> float:
        return self.figure.reach[0] * self.figure.reach[1] * self.scale**2

    def walk(self, camera: np.ndarray, aspect: float) -> np.ndarray:
        """(T, 3, 3) map from the figure's body lengths to the world, turning back at the frame's edges."""
        motion, scale = self.motion, self.scale
        turns = self.figure.actor != "ball"
        low, high = _between(self.figure.reach[0] * scale, aspect)
        top, bottom = _between(self.figure.reach[1] * scale, 1.0)
        x, y = (np.linalg.inv(camera[0]) @ (*self.start, 1.0))[:2]
        heading, rise, angle = self.facing, self.rise, 0.0
        turning: list[float] = []
        maps = np.zeros((len(camera), 3, 3))
        for t, to_frame in enumerate(camera):
            seen_x = to_frame[0, 0] * x + to_frame[0, 1] * y + to_frame[0, 2]
            seen_y = to_frame[1, 0] * x + to_frame[1, 1] * y + to_frame[1, 2]
            ahead = motion.forward[t] * scale * (3.0 if turns else 1.0)
            leaves = seen_x + ahead > high if heading > 0 else seen_x - ahead < low
            if leaves and not turning and motion.forward[t] > 0.004:
                turning = list(TURN) if turns else [-1.0]
            if (seen_y < top and rise > 0) or (seen_y > bottom and rise < 0):
                rise = -rise
            share = turning.pop(0) if turning else 1.0
            width = heading * share * self.yaw if turns else self.facing
            c, s = np.cos(motion.tilt[t] + angle), np.sin(motion.tilt[t] + angle)
            lift = motion.height[t] * scale
            maps[t] = [[width * scale * c, -width * scale * s, x], [scale * s, scale * c, y - lift], [0, 0, 1]]
            x += heading * share * motion.forward[t] * scale
            y -= rise * motion.upward[t] * scale
            # A ball has no face to turn: it rolls the other way instead.
            angle += motion.spin[t] * (1.0 if turns else heading * self.facing * share)
            if share < 0 and not turning:
                heading = -heading
        return maps

    def subject(self, places: np.ndarray) -> Subject:
        """``places`` (T,) are the figure's x over the clip, 0 to 1."""
        return Subject(
            instance=self.instance, actor=self.figure.actor, action=ACTIONS[self.label % 10], colour=self.figure.colour,
            extent=self.area**0.5, place=float(places.mean()), roams=float(np.ptp(places)) > 0.3,
        )  # fmt: skip


def _between(reach: float, extent: float) -> tuple[float, float]:
    """Where a figure's middle may be, so that it stays in the frame; large figures may leave partly."""
    margin = min(reach * 0.9, extent / 2 - 0.12)
    return margin, extent - margin


def _cast(
    rng: np.random.Generator, seed: int, pool: str, labels: tuple[int, ...], steps: int, aspect: float
) -> list[_Actor]:
    count = len(labels)
    low, high = {1: (0.34, 0.85), 2: (0.31, 0.6)}.get(count, (0.26, 0.48))
    extents = np.exp(rng.uniform(np.log(low), np.log(high), size=count))
    # Places are drawn together, the tries that overlap least are kept; actions have no say in it.
    tries = rng.uniform(size=(12, count, 2))
    spread = np.abs(tries[:, :, None, 0] - tries[:, None, :, 0]) + np.eye(count) * 9
    places = tries[int(np.argmax(spread.min(axis=(1, 2))))]
    facings = rng.choice([-1, 1], size=count)
    yaws = rng.uniform(0.8, 1.0, size=count)
    rises = rng.choice([-1, 1], size=count)
    actors = []
    for instance, label in enumerate(labels):
        own = generator("instance", pool, seed, instance)
        name = ACTORS[label // 10]
        look = int(own.integers(look_count(pool)))
        figure = make_figure(pool, name, look)
        actions = tuple(ACTIONS[i % 10] for i in VALID_IDS[1:] if i // 10 == label // 10)
        motion = make_motion(own, name, ACTIONS[label % 10], steps, actions=actions)
        half_width, half_height = figure.reach
        scale = float(extents[instance]) / (2 * (half_width * half_height) ** 0.5)
        scale = min(scale, 0.8 / (2 * half_height), 0.62 * aspect / (2 * half_width))
        across, down = _between(half_width * scale, aspect), _between(half_height * scale * 1.15, 1.0)
        share_x, share_y = places[instance].tolist()
        start = (across[0] + share_x * (across[1] - across[0]), down[0] + share_y * (down[1] - down[0]))
        facing, rise, yaw = int(facings[instance]), int(rises[instance]), float(yaws[instance])
        actors.append(_Actor(instance, label, look, figure, motion, scale, start, facing, rise, yaw))
    return actors


def _pose(figure: Figure, motion: Motion, world: np.ndarray) -> list[np.ndarray]:
    """(T, 3, 3) map from each part's coordinates to the world."""
    posed: list[np.ndarray] = []
    for part in figure.parts:
        parent = world if part.parent < 0 else posed[part.parent]
        angle = motion.joints.get(part.joint, np.zeros(len(world))) + part.rest
        joint = np.zeros((len(world), 3, 3))
        joint[:, 0, 0] = joint[:, 1, 1] = np.cos(angle)
        joint[:, 1, 0] = np.sin(angle)
        joint[:, 0, 1] = -joint[:, 1, 0]
        joint[:, 0, 2], joint[:, 1, 2], joint[:, 2, 2] = *part.pivot, 1.0
        posed.append(parent @ joint)
    return posed


def _move_camera(rng: np.random.Generator, steps: int, aspect: float) -> np.ndarray:
    """(T, 3, 3) map from world to frame, both in frame heights: a swaying pan, zoom and rotation about the middle."""
    time = np.arange(steps, dtype=float)
    liveliness = rng.choice([0.0, 0.4, 1.0], p=[0.15, 0.35, 0.5])

    def sway(amplitude: float) -> np.ndarray:
        slow = np.sin(2 * np.pi * (time / rng.uniform(40, 90) + rng.uniform()))
        fast = np.sin(2 * np.pi * (time / rng.uniform(9, 20) + rng.uniform()))
        return liveliness * amplitude * rng.uniform(0.2, 1.0) * (slow + rng.uniform(0.0, 0.08) * fast)

    pan_x, pan_y, roll, zoom = sway(0.14), sway(0.06), sway(np.deg2rad(3.5)), np.exp(sway(0.07))
    maps = np.zeros((steps, 3, 3))
    c, s = np.cos(roll) * zoom, np.sin(roll) * zoom
    middle_x, middle_y = aspect / 2, 0.5
    maps[:, 0, 0], maps[:, 0, 1], maps[:, 1, 0], maps[:, 1, 1], maps[:, 2, 2] = c, -s, s, c, 1.0
    maps[:, 0, 2] = middle_x + pan_x - c * middle_x + s * middle_y
    maps[:, 1, 2] = middle_y + pan_y - s * middle_x - c * middle_y
    return maps


def _canvas(pool: str, background: int, height: int, aspect: float) -> tuple[np.ndarray, np.ndarray]:
    """The background (h, w, 4) uint8 and the (3, 3) map from its pixels to the world."""
    rows, columns = round(height * (1 + 2 * BORDER)), round(height * (aspect + 2 * BORDER))
    picture = paint_background(generator(pool, "background", background), rows, columns)
    canvas = cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA)
    to_world = np.array([[1 / height, 0, 0.5 / height - BORDER], [0, 1 / height, 0.5 / height - BORDER], [0, 0, 1]])
    return canvas, to_world


def _expose(rng: np.random.Generator, painted: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) uint8: light that changes a little over time, and the camera's noise."""
    steps, height, width = painted.shape[:3]
    time = np.arange(steps)
    swing = np.sin(2 * np.pi * (time / rng.uniform(20, 60) + rng.uniform()))
    gain = rng.uniform(0.88, 1.08) * (1.0 + rng.uniform(0, 0.06) * swing)
    offset = rng.uniform(-8, 8) + rng.uniform(0, 5) * swing
    sigma = rng.uniform(0.0, 2.5)
    shifts = rng.integers(0, 8, size=(200, 2))
    noise = rng.normal(0.0, 1.0, size=(height + 8, width + 8)).astype(np.float32) * sigma
    lighter = cv2.cvtColor(np.clip(noise, 0, 255).round().astype(np.uint8), cv2.COLOR_GRAY2RGB)
    darker = cv2.cvtColor(np.clip(-noise, 0, 255).round().astype(np.uint8), cv2.COLOR_GRAY2RGB)
    frames = np.empty((steps, height, width, 3), dtype=np.uint8)
    for t in range(steps):
        frame = cv2.cvtColor(painted[t], cv2.COLOR_RGBA2RGB)
        frame = cv2.convertScaleAbs(frame, alpha=float(gain[t]), beta=float(offset[t]))
        dy, dx = shifts[t % len(shifts)]
        frame = cv2.add(frame, np.ascontiguousarray(lighter[dy : dy + height, dx : dx + width]))
        cv2.subtract(frame, np.ascontiguousarray(darker[dy : dy + height, dx : dx + width]), dst=frames[t])
    return frames
