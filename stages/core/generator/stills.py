"""Pictures of actors and other objects, as a segmenter sees them that was trained on another data set than A2D.

The part that COCO plays in Dang et al. 2018, section 4 ("Influence of the quality of region masks"): figures of the
seven actors and kinds of object that are no actors, from a pool of looks and backgrounds of their own. As in COCO, a
person is a person, of whatever age.

Maps are (3, 3) in pixels (x, y, 1); pixel centres have whole coordinates. Axis letters: N instances, P parts
(background is part 0), H rows, W columns.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from stages.core.datasets.labels import ACTIONS, ACTORS, VALID_IDS
from stages.core.generator.figures import DESIGNS, Figure, make_figure
from stages.core.generator.motions import make_motion
from stages.core.generator.objects import OBJECTS, make_object
from stages.core.generator.pools import background_count, generator, look_count
from stages.core.generator.render import SPRITE_DETAIL, paint_frames, paint_sprite
from stages.core.generator.textures import paint_background

POOL = "other"
KINDS = ("background", "person", "ball", "bird", "car", "cat", "dog", *OBJECTS)
"""Kinds of instance, background first."""
PERSON = {"adult": "person", "baby": "person"}
INSTANCES = (1, 6)
EXTENTS = (0.15, 0.8)
"""Size of an instance (root of width times height at rest) as a share of the picture's shorter side, log-uniform."""
LEAST_SIDE = 32


@dataclass(frozen=True)
class Still:
    """``picture`` (H, W, 3) uint8 RGB; ``kinds`` of the N instances that are seen; ``owner`` (H, W) uint8: the number
    of the instance at each pixel, from 1, and 0 for background."""

    picture: np.ndarray
    kinds: tuple[str, ...]
    owner: np.ndarray

    @property
    def masks(self) -> np.ndarray:
        """(N, H, W) bool: the visible pixels of each instance, at least one."""
        return self.owner == np.arange(1, len(self.kinds) + 1)[:, None, None]


def make_still(seed: int, number: int, *, height: int, width: int, pool: str = POOL) -> Still:
    """Picture ``number`` of ``seed``, of the looks and backgrounds of ``pool``; the same arguments give the same bytes.

    Raises ``ValueError`` for a picture with a side below 32 pixels.
    """
    if min(height, width) < LEAST_SIDE:
        raise ValueError(f"a still of {height} x {width} cannot be made; both sides must be at least {LEAST_SIDE}")
    random = generator("still", pool, seed, number)
    canvas, place = _place_background(random, pool, height, width)
    placed = [_place(random, pool, height, width) for _ in range(random.integers(INSTANCES[0], INSTANCES[1] + 1))]
    placed.sort(key=lambda instance: -instance.scale * np.sqrt(np.prod(instance.figure.reach)))  # the small in front
    sprites, maps, owners = [], [place], [0]
    for position, instance in enumerate(placed, start=1):
        parts = instance.figure.parts
        posed = _pose(instance)
        for index in sorted(range(len(parts)), key=lambda index: (parts[index].depth, index)):
            sprite, to_part = paint_sprite(instance.figure, parts[index], index, instance.scale * SPRITE_DETAIL)
            sprites.append(sprite)
            maps.append(posed[index] @ to_part)
            owners.append(position)
    assert len(maps) <= 256, "parts are numbered by one byte"
    (painted,), (parts_map,) = paint_frames(canvas, sprites, np.stack(maps)[None], height=height, width=width)
    owner = np.array(owners, np.uint8)[parts_map]
    seen = np.unique(owner[owner > 0])
    renumbered = np.zeros(len(placed) + 1, np.uint8)
    renumbered[seen] = np.arange(1, len(seen) + 1)
    kinds = tuple(PERSON.get(kind, kind) for kind in (placed[position - 1].figure.actor for position in seen))
    return Still(picture=cv2.cvtColor(painted, cv2.COLOR_RGBA2RGB), kinds=kinds, owner=renumbered[owner])


@dataclass(frozen=True)
class _Placed:
    """One figure or object: ``scale`` pixels a body length, where it stands, and angles of its joints in radians."""

    figure: Figure
    scale: float
    stands: np.ndarray  # (3, 3), from the figure's coordinates to the picture
    joints: Mapping[str, float]


def _place(random: np.random.Generator, pool: str, height: int, width: int) -> _Placed:
    """An actor in the middle of one of its actions or, as often, an object; its middle lies in the picture."""
    if random.random() < 0.5:
        actor = str(random.choice(list(DESIGNS)))
        figure = make_figure(pool, actor, int(random.integers(look_count(pool))))
        actions = tuple(ACTIONS[label % 10] for label in VALID_IDS if ACTORS[label // 10] == actor)
        motion = make_motion(random, actor, str(random.choice(actions)), 1, actions=actions)
        turn, joints = float(motion.tilt[0]), {name: float(angles[0]) for name, angles in motion.joints.items()}
    else:
        figure = make_object(pool, str(random.choice(list(OBJECTS))), int(random.integers(look_count(pool))))
        turn = random.normal(0, np.deg2rad(10))
        joints = {part.joint: random.normal(0, np.deg2rad(6)) for part in figure.parts[1:]}
    side = min(height, width)
    extent = side * np.exp(random.uniform(*np.log(EXTENTS)))
    scale = float(min(extent / (2 * np.sqrt(np.prod(figure.reach))), side / (2 * max(figure.reach))))
    c, s = scale * np.cos(turn), scale * np.sin(turn)
    facing = random.choice([-1, 1]) * random.uniform(0.8, 1.0)
    x, y = random.uniform(0.05, 0.95, 2) * (width, height)
    return _Placed(figure, scale, np.array([[facing * c, -facing * s, x], [s, c, y], [0, 0, 1]]), joints)


def _pose(instance: _Placed) -> list[np.ndarray]:
    """(P, 3, 3) maps from each part's coordinates to the picture."""
    posed: list[np.ndarray] = []
    for part in instance.figure.parts:
        parent = instance.stands if part.parent < 0 else posed[part.parent]
        angle = part.rest + instance.joints.get(part.joint, 0.0)
        c, s = np.cos(angle), np.sin(angle)
        posed.append(parent @ np.array([[c, -s, part.pivot[0]], [s, c, part.pivot[1]], [0, 0, 1]]))
    return posed


def _place_background(random: np.random.Generator, pool: str, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A background (h, w, 4) uint8 and the map from its pixels to the picture, which shows a part of it."""
    index = int(random.integers(background_count(pool)))
    rows, columns = round(height * 1.3), round(width * 1.3)
    canvas = cv2.cvtColor(paint_background(generator(pool, "background", index), rows, columns), cv2.COLOR_RGB2RGBA)
    zoom = random.uniform(0.8, 1.3) * np.array([random.choice([-1, 1]), 1])
    shift = random.uniform(0.4, 0.6, 2) * (width, height) - zoom * (columns / 2, rows / 2)
    return canvas, np.array([[zoom[0], 0, shift[0]], [0, zoom[1], shift[1]], [0, 0, 1]])
