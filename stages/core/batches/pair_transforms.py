"""Augmentation of an image pair with its flow (Dosovitskiy et al. 2015, section 4.3).

One strong geometric transform for both frames and a small one more for the second, so that the flow changes, too; then
the same colours for both frames, and noise of each frame's own. Flow is recomputed, not approximated: where the first
frame's pixel p goes to A p and the second's to B p, the vector at A p is B (p + flow(p)) - A p.

Maps are (3, 3) from pixels (x, y, 1) of a source frame to pixels of the result; pixel centres have whole coordinates.
Axis letters: H rows, W columns.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from stages.core.optical_flow.files import Pair

TRIES = 50
"""How often a transform is drawn that shows nothing outside the frames; then the crop is only moved."""


@dataclass(frozen=True)
class Ranges:
    """What is drawn from; the defaults are the paper's where it gives them.

    The paper gives no size of the second frame's own transform: 0.03 is what the released training definitions have.
    """

    translation: float = 0.2  # to either side, in x and y, as a share of the frame's width
    rotation: float = 17.0  # degrees to either side
    scale: tuple[float, float] = (0.9, 2.0)  # log-uniform
    relative: float = 0.03  # standard deviations: shift (share of the crop), rotation (radians), logarithm of the scale
    flip_horizontal: float = 0.5  # probability
    flip_vertical: float = 0.5
    noise: tuple[float, float] = (0.0, 0.04)  # standard deviation; intensities are 0 to 1
    contrast: tuple[float, float] = (-0.8, 0.4)  # added to a factor of 1
    colour: tuple[float, float] = (0.5, 2.0)  # factor of each channel, log-uniform
    gamma: tuple[float, float] = (0.7, 1.5)
    brightness: float = 0.2  # standard deviation of what is added


PAPER = Ranges()


def augment(pair: Pair, random: np.random.Generator, *, size: tuple[int, int], ranges: Ranges = PAPER) -> Pair:
    """A crop of ``size`` (height, width) of ``pair``, moved, turned, scaled, flipped and coloured at random.

    Raises ``ValueError`` where the crop is larger than the frame.
    """
    first, second = draw_maps(pair.flow.shape[:2], random, size=size, ranges=ranges)
    return recolour(warp(pair, first, second, size=size), random, ranges=ranges)


def draw_maps(
    frame: tuple[int, ...], random: np.random.Generator, *, size: tuple[int, int], ranges: Ranges = PAPER
) -> tuple[np.ndarray, np.ndarray]:
    """Maps of the first and the second frame of ``frame`` (height, width) to a crop of ``size``, both inside it."""
    if size[0] > frame[0] or size[1] > frame[1]:
        raise ValueError(
            f"a crop of {size[0]} x {size[1]} does not fit frames of {frame[0]} x {frame[1]}; write a smaller one"
        )
    middle = _middle(size)
    flips = 1 - 2 * (random.random(2) < (ranges.flip_horizontal, ranges.flip_vertical))
    mirror = about(middle, np.diag(flips))
    for _ in range(TRIES):
        shift = random.uniform(-ranges.translation, ranges.translation, 2) * frame[1]
        angle = np.deg2rad(random.uniform(-ranges.rotation, ranges.rotation))
        scale = float(_log_uniform(random, ranges.scale, 1)[0])
        own_shift, (own_angle, own_scale) = random.normal(0, ranges.relative, (2, 2))
        first = mirror @ about(_middle(frame), turn(angle, scale), to=middle + shift)
        own_move = own_shift * (size[1], size[0])
        second = about(middle, turn(own_angle, np.exp(own_scale)), to=middle + own_move) @ first
        if _is_inside(first, frame, size) and _is_inside(second, frame, size):
            return first, second
    corner = random.random(2) * (frame[1] - size[1], frame[0] - size[0])
    moved = mirror @ about(np.rint(corner), np.eye(2), to=np.zeros(2))
    return moved, moved


def warp(pair: Pair, first: np.ndarray, second: np.ndarray, *, size: tuple[int, int]) -> Pair:
    """``pair`` under the map ``first`` of its first frame and ``second`` of its second, cut to ``size``.

    Pictures are bilinear, black outside the frames; flow is not known outside the first frame. Bilinear flow is exact
    on a surface that moves by an affine map, up to OpenCV's grid of 1/32 pixel; where it mixes motions that are more
    than a pixel apart, at the edge of a figure, the nearest vector is taken.
    """
    height, width = size
    to_first, to_second = np.linalg.inv(first), np.linalg.inv(second)
    pictures = [
        cv2.warpAffine(picture, inverse[:2], (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        for picture, inverse in ((pair.first, to_first), (pair.second, to_second))
    ]
    flow = _sampled(pair.flow, to_first, size)
    # B (p + flow) - A p with p = inverse(A) q: split, so that no large numbers cancel in single precision.
    vectors = flow @ second[:2, :2].T.astype(np.float32)
    return Pair(pictures[0], pictures[1], vectors + _applied(second @ to_first - np.eye(3), size))


def recolour(pair: Pair, random: np.random.Generator, *, ranges: Ranges = PAPER) -> Pair:
    """Colour, gamma, brightness and contrast, the same for both frames, and Gaussian noise, another for each.

    The factors of the channels are divided by their mean: brightness is drawn on its own.
    """
    factors = _log_uniform(random, ranges.colour, 3)
    gamma = random.uniform(*ranges.gamma)
    brightness = random.normal(0, ranges.brightness)
    contrast = 1 + random.uniform(*ranges.contrast)
    sigma = random.uniform(*ranges.noise)
    light = np.clip(np.linspace(0, 1, 256)[:, None] * factors / factors.mean(), 0, 1) ** gamma + brightness  # (256, 3)
    table = (np.clip((light - 0.5) * contrast + 0.5, 0, 1) * 255).astype(np.float32)
    frames = []
    for picture in (pair.first, pair.second):
        noise = random.standard_normal(picture.shape, np.float32) * np.float32(255 * sigma)
        # OpenCV rounds to nearest and saturates as it converts.
        frames.append(cv2.add(cv2.LUT(picture, table[None]), noise, dtype=cv2.CV_8U))
    return Pair(frames[0], frames[1], pair.flow)


def turn(angle: float, scale: float) -> np.ndarray:
    """(2, 2) rotation by ``angle`` radians, clockwise as seen since y points down, and scaling."""
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[c, -s], [s, c]])


def about(centre: np.ndarray, linear: np.ndarray, *, to: np.ndarray | None = None) -> np.ndarray:
    """(3, 3) map that applies ``linear`` (2, 2) about ``centre`` (x, y), which goes ``to``, or stays."""
    result = np.eye(3)
    result[:2, :2] = linear
    result[:2, 2] = (centre if to is None else to) - linear @ centre
    return result


def _log_uniform(random: np.random.Generator, bounds: tuple[float, float], count: int) -> np.ndarray:
    return np.exp(random.uniform(np.log(bounds[0]), np.log(bounds[1]), size=count))


def _middle(size: tuple[int, ...]) -> np.ndarray:
    """(x, y) of the middle of (height, width)."""
    return np.array([size[1] - 1, size[0] - 1]) / 2


def _is_inside(placed: np.ndarray, frame: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Do all pixels of the result come from inside the frame? Its corners tell."""
    right, bottom = size[1] - 1, size[0] - 1
    corners = np.array([[0, right, 0, right], [0, 0, bottom, bottom], [1, 1, 1, 1]])
    x, y, _ = np.linalg.inv(placed) @ corners
    return bool(x.min() >= 0 and y.min() >= 0 and x.max() <= frame[1] - 1 and y.max() <= frame[0] - 1)


def _applied(matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 2) float32: the first two rows of ``matrix`` (3, 3) times (x, y, 1) at each pixel of ``size``."""
    x, y = np.arange(size[1])[None, :, None], np.arange(size[0])[:, None, None]
    return (matrix[:2, 0] * x + matrix[:2, 1] * y + matrix[:2, 2]).astype(np.float32)


def _sampled(flow: np.ndarray, inverse: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 2) float32: ``flow`` where each pixel of the result comes from; NaN outside."""
    places = _applied(inverse, size)
    smooth, nearest = (
        np.asarray(
            cv2.remap(flow, places[..., 0], places[..., 1], interpolation, borderValue=(np.nan, np.nan, 0.0, 0.0))
        )
        for interpolation in (cv2.INTER_LINEAR, cv2.INTER_NEAREST)
    )
    agrees = np.abs(smooth - nearest).max(-1, keepdims=True) <= 1  # not where one of four neighbours is NaN
    return np.where(agrees, smooth, nearest)
