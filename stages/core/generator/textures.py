"""Procedural textures of figures and backgrounds, defined without a resolution.

Everything is drawn from a random generator first and painted afterwards, so that the same generator state gives the
same picture at any size (up to its sharpness). Colours and patterns know nothing of actions.

Axis letters: H rows, W columns, C = 3 (RGB).
"""

from dataclasses import dataclass

import cv2
import numpy as np

TILE = 64
"""Side of a figure's texture tile in texels."""

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Paint:
    """A texture that repeats: ``tile`` (64, 64, 4) uint8 RGBA, opaque, covers ``period`` body lengths."""

    tile: np.ndarray
    period: float


def random_colour(
    rng: np.random.Generator,
    *,
    hue: tuple[float, float] = (0.0, 1.0),
    saturation: tuple[float, float] = (0.0, 1.0),
    value: tuple[float, float] = (0.1, 1.0),
) -> Colour:
    """RGB in 0..255, uniform over the given ranges of hue (turns: 1.05 is 0.05), saturation and value."""
    h, s, v = rng.uniform(*hue), rng.uniform(*saturation), rng.uniform(*value)
    return hsv_to_rgb(h % 1.0, s, v)


def hsv_to_rgb(hue: float, saturation: float, value: float) -> Colour:
    """RGB in 0..255 of hue, saturation and value in 0..1."""
    sector = np.array([5.0, 3.0, 1.0])
    k = (sector + hue * 6.0) % 6.0
    rgb = value - value * saturation * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)
    red, green, blue = (255.0 * rgb).tolist()
    return red, green, blue


def darker(colour: Colour, factor: float) -> Colour:
    """The colour with its light reduced by ``factor``."""
    red, green, blue = colour
    return red * factor, green * factor, blue * factor


def colour_name(rgb: Colour) -> str:
    """The everyday word for a colour."""
    r, g, b = (c / 255.0 for c in rgb)
    high, low = max(r, g, b), min(r, g, b)
    if high < 0.22:
        return "black"
    if high - low < 0.16 * high + 0.02:
        return "white" if high > 0.82 else "grey"
    span = high - low
    if high == r:
        hue = ((g - b) / span) % 6.0
    elif high == g:
        hue = (b - r) / span + 2.0
    else:
        hue = (r - g) / span + 4.0
    degrees = hue * 60.0
    if degrees < 14 or degrees >= 340:
        return "pink" if high > 0.8 and span < 0.5 * high else "red"
    if degrees < 42:
        return "brown" if high < 0.68 else "orange"
    for limit, name in ((68, "yellow"), (165, "green"), (195, "turquoise"), (255, "blue"), (290, "purple")):
        if degrees < limit:
            return name
    return "pink"


def lattice_noise(rng: np.random.Generator, cells: int, height: int, width: int) -> np.ndarray:
    """(H, W) float32 in 0..1: a random lattice of ``cells`` rows, smoothly interpolated."""
    columns = max(2, round(cells * width / height))
    lattice = rng.random((cells, columns), dtype=np.float32)
    smooth = cv2.INTER_AREA if cells > height else cv2.INTER_CUBIC
    return cv2.resize(lattice, (width, height), interpolation=smooth)


KINDS = ("plain", "stripes", "spots", "checks", "mottled", "shaded")


def random_paint(
    rng: np.random.Generator, base: Colour, kinds: tuple[str, ...] = KINDS, *, foreign: float = 0.5
) -> Paint:
    """A texture around ``base`` of one of ``kinds``; its second colour is any one with probability ``foreign``."""
    kind = rng.choice(kinds)
    second = random_colour(rng) if rng.random() < foreign else darker(base, rng.uniform(0.45, 0.85))
    grid = (np.arange(TILE, dtype=np.float32) + 0.5) / TILE
    x, y = np.meshgrid(grid, grid)
    repeats = int(rng.integers(1, 4))
    share = rng.uniform(0.25, 0.5)
    edge = 8.0
    noise = lattice_noise(rng, int(rng.integers(4, 12)), TILE, TILE)
    if kind == "stripes":
        along = [(1, 0), (0, 1), (1, 1), (1, -1)][int(rng.integers(4))]
        wave = ((along[0] * x + along[1] * y) * repeats) % 1.0
        mix = np.clip((share - np.abs(wave - 0.5)) * edge * 2 + 0.5, 0, 1)
    elif kind == "spots":
        dx, dy = (x * repeats) % 1.0 - 0.5, (y * repeats) % 1.0 - 0.5
        mix = np.clip((share * 0.8 - np.hypot(dx, dy)) * edge + 0.5, 0, 1)
    elif kind == "checks":
        product = np.sin(2 * np.pi * x * repeats) * np.sin(2 * np.pi * y * repeats)
        mix = np.clip(product * edge + 0.5, 0, 1)
    elif kind == "mottled":
        mix = np.clip((noise - 0.5) * 5.0 + 0.5, 0, 1)
    elif kind == "shaded":
        mix = 0.5 - 0.5 * np.cos(2 * np.pi * y)
    else:
        mix = np.zeros_like(x)
    colours = np.array(base, np.float32) + mix[..., None] * (
        np.array(second, np.float32) - np.array(base, np.float32)
    ) * rng.uniform(0.5, 1.0)
    grain = (noise - 0.5) * rng.uniform(10, 50)
    tile = np.clip(colours + grain[..., None], 0, 255).astype(np.uint8)
    return Paint(tile=cv2.cvtColor(tile, cv2.COLOR_RGB2RGBA), period=rng.uniform(0.18, 0.45))


def plain_paint(colour: Colour) -> Paint:
    """A texture of one colour, for eyes, tyres and window panes."""
    tile = np.full((TILE, TILE, 4), 255, dtype=np.uint8)
    tile[..., :3] = np.clip(colour, 0, 255).astype(np.uint8)
    return Paint(tile=tile, period=1.0)


def paint_background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8 background: noise at several scales under stripes, tiles, gradients and clutter shapes.

    The picture stands for a window of the world that is ``width / height`` as wide as high; a generator in the same
    state gives the same scene at every height.
    """
    base = np.array(random_colour(rng, saturation=(0.05, 0.6), value=(0.25, 0.9)), np.float32)
    other = np.array(random_colour(rng, saturation=(0.05, 0.6), value=(0.2, 0.9)), np.float32)
    rows = (np.arange(height, dtype=np.float32) + 0.5) / height
    columns = (np.arange(width, dtype=np.float32) + 0.5) / height
    angle = rng.uniform(0, 2 * np.pi)
    along = np.float32(np.cos(angle)) * columns[None] + np.float32(np.sin(angle)) * rows[:, None]
    mix = _pattern(rng, along, rows, columns)
    cells = np.array([3, 7, 16, 34])
    weights = rng.uniform(0.2, 1.0, size=4) * np.array([1.0, 0.8, 0.5, 0.35])
    for count, weight in zip(cells, weights, strict=True):
        mix = mix + np.float32(weight) * (lattice_noise(rng, int(count), height, width) - 0.5)
    picture = base + mix[..., None] * (other - base)
    canvas = np.clip(picture, 0, 255).astype(np.uint8)
    _paint_clutter(rng, canvas)
    return canvas


def _pattern(rng: np.random.Generator, along: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(H, W) float32 mixture of the two colours: gradient, horizon, soft stripes or tiles."""
    kind = rng.choice(["gradient", "horizon", "stripes", "tiles", "flat"])
    frequency = rng.uniform(1.5, 5.0)
    horizon = rng.uniform(0.35, 0.8)
    softness = rng.uniform(20, 80)
    if kind == "gradient":
        return (along - along.min()) / max(float(np.ptp(along)), 1e-6)
    if kind == "horizon":
        step = np.clip((rows - horizon) * softness + 0.5, 0, 1).astype(np.float32)
        return np.repeat(step[:, None], len(columns), axis=1)
    if kind == "stripes":
        return (0.5 + 0.4 * np.sin(2 * np.pi * frequency * along)).astype(np.float32)
    if kind == "tiles":
        waves = np.sin(2 * np.pi * frequency * columns)[None] * np.sin(2 * np.pi * frequency * rows)[:, None]
        return np.clip(waves * 6.0 + 0.5, 0.1, 0.9).astype(np.float32)
    return np.full(along.shape, 0.4, dtype=np.float32)


def _paint_clutter(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Paint up to twelve ellipses, boxes and bars of random colour, partly transparent, onto ``canvas``."""
    height, width = canvas.shape[:2]
    for _ in range(int(rng.integers(3, 13))):
        centre = rng.uniform(0, 1, size=2) * (width / height, 1.0)
        axes = np.exp(rng.uniform(np.log(0.03), np.log(0.22), size=2))
        turn = rng.uniform(0, np.pi)
        corners = 4 if rng.random() < 0.5 else 16
        colour = random_colour(rng, saturation=(0.0, 0.8), value=(0.1, 0.95))
        opacity = rng.uniform(0.35, 0.9)
        theta = np.linspace(0, 2 * np.pi, corners, endpoint=False) + np.pi / 4
        ring = np.stack([np.cos(theta) * axes[0], np.sin(theta) * axes[1]], axis=1)
        c, s = np.cos(turn), np.sin(turn)
        outline = (ring @ np.array([[c, s], [-s, c]]) + centre) * height - 0.5
        low = np.clip(np.floor(outline.min(axis=0)).astype(int) - 1, 0, None)
        high = np.minimum(np.ceil(outline.max(axis=0)).astype(int) + 2, (width, height))
        if np.any(high <= low):
            continue
        region = canvas[low[1] : high[1], low[0] : high[0]]
        painted = region.copy()
        cv2.fillPoly(painted, [np.round((outline - low) * 16).astype(np.int32)], colour, lineType=cv2.LINE_AA, shift=4)
        cv2.addWeighted(painted, opacity, region, 1.0 - opacity, 0.0, dst=region)
