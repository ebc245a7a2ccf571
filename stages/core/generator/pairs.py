"""Image pairs with exact optical flow for training FlowNet, after FlyingChairs (Dosovitskiy et al. 2015, section 4.2).

In place of chairs before photographs, the generator's figures before its backgrounds, from a pool of their own. The
background moves by an affine map, every figure by one relative to it, as when camera and objects move, and its limbs
turn about their joints. Most motions are small and few are large: displacements are drawn in pixels, up to 60, whatever
the size of the frames. Nothing changes but places: light and noise belong to the augmentation.

Maps are (3, 3) in pixels (x, y, 1); pixel centres have whole coordinates. Axis letters: P parts (background is part 0),
H rows, W columns; 2 of the frames.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from stages.core.generator.figures import DESIGNS, Figure, make_figure
from stages.core.generator.pools import background_count, generator, look_count
from stages.core.generator.render import SPRITE_DETAIL, paint_frames, paint_sprite
from stages.core.generator.scene import part_flow
from stages.core.generator.textures import paint_background
from stages.core.optical_flow.files import Pair

POOL = "flow"
"""Has as many looks (36 of each of 7 actors) as ``make_figure`` keeps: shapes are made once, textures are exchanged."""
FARTHEST = 60.0
"""Largest displacement in pixels."""
LEAST_SIDE = 32
FIGURES = (3, 8)
EXTENTS = (0.18, 0.75)
"""Size of a figure (root of width times height at rest) as a share of the frame's shorter side, log-uniform."""
STEEPNESS = 6
"""Exponent of a uniform variable: half of all motions are below 2 % of the largest one."""
BACKGROUND_TURN, BACKGROUND_ZOOM = np.deg2rad(5), 0.08
FIGURE_TURN, FIGURE_ZOOM, FIGURE_SQUEEZE = np.deg2rad(30), 0.25, 0.15
"""Largest rotations in radians and largest logarithms of scales, from the first to the second frame."""
JOINT_TURN = np.deg2rad(45)


@dataclass(frozen=True)
class ExactPair(Pair):
    """A pair that was made: ``parts`` (2, H, W) uint8 is the part seen at each pixel of both frames."""

    parts: np.ndarray


def make_pair(
    seed: int, number: int, *, height: int, width: int, pool: str = POOL, farthest: float = FARTHEST
) -> ExactPair:
    """Pair ``number`` of ``seed``, of the looks and backgrounds of ``pool``; the same arguments give the same bytes.

    Nothing moves more than ``farthest`` pixels, nor more than half of the frame's longer side.
    Raises ``ValueError`` for frames with a side below 32 pixels.
    """
    if min(height, width) < LEAST_SIDE:
        raise ValueError(f"pairs of {height} x {width} cannot be made; both sides must be at least {LEAST_SIDE}")
    random = generator("pair", pool, seed, number)
    farthest = min(farthest, max(height, width) / 2)
    frame_corners = _corners(height, width)
    camera = _limited(_move_camera(random, height, width, farthest), frame_corners, farthest)
    canvas, placed = _place_background(random, pool, height, width)
    sprites: list[np.ndarray] = []
    first, motions = [placed], [camera]
    for _ in range(random.integers(FIGURES[0], FIGURES[1] + 1)):
        painted, maps, moved = _make_figure(random, pool, camera, height=height, width=width, farthest=farthest)
        sprites += painted
        first += maps
        motions += moved
    assert len(first) <= 256, "parts are numbered by one byte"
    places, steps = np.stack(first), np.stack(motions)  # (P, 3, 3)
    frames, parts = paint_frames(canvas, sprites, np.stack([places, steps @ places]), height=height, width=width)
    flow = part_flow(parts[0], (steps - np.eye(3))[:, :2])
    pictures = [cv2.cvtColor(frame, cv2.COLOR_RGBA2RGB) for frame in frames]
    return ExactPair(first=pictures[0], second=pictures[1], flow=flow, parts=parts)


def _mostly_small(random: np.random.Generator, largest: float, count: int | None = None) -> np.ndarray:
    """Up to ``largest`` to either side, mostly near zero."""
    share = random.uniform(-1, 1, count)
    return largest * share * np.abs(share) ** (STEEPNESS - 1)


def _affine(centre: np.ndarray, to: np.ndarray, *, turn: float = 0.0, zoom: np.ndarray | float = 1.0) -> np.ndarray:
    """(3, 3): scale by ``zoom`` (of x and y, or of both) and turn about ``centre``, which goes ``to``."""
    c, s = np.cos(turn), np.sin(turn)
    result = np.eye(3)
    result[:2, :2] = np.array([[c, -s], [s, c]]) * zoom
    result[:2, 2] = to - result[:2, :2] @ centre
    return result


def _shift(random: np.random.Generator, farthest: float) -> np.ndarray:
    """(2,) pixels in any direction."""
    direction = random.uniform(0, 2 * np.pi)
    return _mostly_small(random, farthest) * np.array([np.cos(direction), np.sin(direction)])


def _move_camera(random: np.random.Generator, height: int, width: int, farthest: float) -> np.ndarray:
    """(3, 3) motion of the background."""
    middle = np.array([width - 1, height - 1]) / 2
    turn, zoom = _mostly_small(random, BACKGROUND_TURN), np.exp(_mostly_small(random, BACKGROUND_ZOOM))
    return _affine(middle, middle + _shift(random, farthest), turn=float(turn), zoom=float(zoom))


def _place_background(random: np.random.Generator, pool: str, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The background (h, w, 4) uint8 and the map from its pixels to the first frame: zoomed, turned and mirrored."""
    index = int(random.integers(background_count(pool)))
    rows, columns = round(height * 1.2), round(width * 1.2)
    canvas = cv2.cvtColor(paint_background(generator(pool, "background", index), rows, columns), cv2.COLOR_RGB2RGBA)
    flips = random.choice([-1, 1], 2)
    zoom, turn = random.uniform(0.85, 1.3), random.uniform(-np.pi / 8, np.pi / 8)
    centre, to = np.array([columns, rows]) / 2, random.uniform(0.3, 0.7, 2) * (width, height)
    return canvas, _affine(centre, to, turn=turn, zoom=zoom * flips)


def _make_figure(
    random: np.random.Generator, pool: str, camera: np.ndarray, *, height: int, width: int, farthest: float
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Sprites of one figure, back to front, their maps to the first frame, and the motion of each to the second."""
    shape, dressed = (_random_figure(random, pool) for _ in range(2))
    figure = replace(shape, paints=dressed.paints)
    side = min(height, width)
    extent = side * np.exp(random.uniform(*np.log(EXTENTS)))
    scale = float(min(extent / (2 * np.sqrt(np.prod(figure.reach))), side / (2 * max(figure.reach))))
    own = _shift(random, farthest)
    # Half of its way before and half behind the place drawn, so that the fast ones are seen in both frames, too.
    centre = random.uniform(0, 1, 2) * (width, height) - own / 2
    facing = scale * np.array([random.choice([-1, 1]), 1])
    stands = _affine(np.zeros(2), centre, turn=random.normal(0, np.deg2rad(30)), zoom=facing)
    stretch = _mostly_small(random, FIGURE_ZOOM) + _mostly_small(random, FIGURE_SQUEEZE) * np.array([1, -1])
    turned = _affine(centre, centre + own, turn=float(_mostly_small(random, FIGURE_TURN)), zoom=np.exp(stretch))
    angles = random.normal(0, np.deg2rad(25), len(figure.parts))
    before = _pose(figure, stands, angles)
    after = _pose(figure, turned @ stands, angles + _mostly_small(random, JOINT_TURN, len(figure.parts)))
    motions = camera @ after @ np.linalg.inv(before)

    order = sorted(range(len(figure.parts)), key=lambda index: (figure.parts[index].depth, index))
    sprites, places, corners = [], [], []
    for index in order:
        sprite, to_part = paint_sprite(figure, figure.parts[index], index, scale * SPRITE_DETAIL)
        sprites.append(sprite)
        places.append(before[index] @ to_part)
        corners.append(places[-1] @ _corners(*sprite.shape[:2]))
    return sprites, places, list(_limited(motions[order], np.concatenate(corners, axis=1), farthest))


def _random_figure(random: np.random.Generator, pool: str) -> Figure:
    actor = str(random.choice(list(DESIGNS)))
    return make_figure(pool, actor, int(random.integers(look_count(pool))))


def _pose(figure: Figure, body: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """(parts, 3, 3) maps from each part's coordinates to the frame; ``angles`` (parts,) of the joints."""
    posed: list[np.ndarray] = []
    for part, angle in zip(figure.parts, angles.tolist(), strict=True):
        parent = body if part.parent < 0 else posed[part.parent]
        posed.append(parent @ _affine(np.zeros(2), np.array(part.pivot), turn=angle + part.rest))
    return np.stack(posed)


def _corners(height: int, width: int) -> np.ndarray:
    """(3, 4) corners of a picture, its outermost pixels' far edges included."""
    return np.array([[-1, width, -1, width], [-1, -1, height, height], [1, 1, 1, 1]], float)


def _limited(motions: np.ndarray, corners: np.ndarray, farthest: float) -> np.ndarray:
    """``motions`` (..., 3, 3) that take none of ``corners`` (3, K) farther than ``farthest``.

    All displacements are scaled by one factor: an affine map stays one, and limbs stay in their joints.
    """
    ways = (motions - np.eye(3)) @ corners
    longest = np.hypot(ways[..., 0, :], ways[..., 1, :]).max()
    return np.eye(3) + (motions - np.eye(3)) * min(1.0, farthest / longest) if longest > 0 else motions
