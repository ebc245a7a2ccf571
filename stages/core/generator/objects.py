"""Objects that are no actors: kinds that a data set such as COCO tells apart and A2D does not.

Drawn as figures are (``stages.core.generator.figures``): trees of textured parts, x forward, y down, one unit about the
height of the object, the origin in its middle.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from stages.core.generator.figures import FAR_SHADE, Figure, Layer, Part, ellipse, limb, smooth
from stages.core.generator.materials import ACCENT, BODY, DARK, LIGHT, LIMB, TYPICAL
from stages.core.generator.pools import generator
from stages.core.generator.textures import (
    KINDS,
    Paint,
    colour_name,
    darker,
    hsv_to_rgb,
    plain_paint,
    random_colour,
    random_paint,
)

Span = tuple[float, float]


@lru_cache(maxsize=256)
def make_object(pool: str, kind: str, index: int) -> Figure:
    """Look ``index`` of ``kind`` in ``pool``; the same arguments give the same object.

    Raises ``ValueError`` for a kind that is not one of ``OBJECTS``.
    """
    if kind not in OBJECTS:
        raise ValueError(f"no object of kind {kind!r}; choose one of {', '.join(OBJECTS)}")
    rng = generator(pool, "look", kind, index)
    design, hue, saturation, value, textures = OBJECTS[kind]
    paints, colour = _random_paints(rng, hue, saturation, value, textures)
    parts = design(rng)
    outline = np.concatenate([polygon + part.pivot for part in parts for polygon, _ in part.layers])
    width, height = np.abs(outline).max(axis=0).tolist()
    return Figure(
        actor=kind,
        parts=tuple(parts),
        paints=paints,
        reach=(width, height),
        colour=colour,
        relief=rng.uniform(0.25, 0.6),
    )


def _random_paints(
    rng: np.random.Generator, hue: Span, saturation: Span, value: Span, textures: tuple[str, ...]
) -> tuple[tuple[Paint, ...], str]:
    """Paints in the places that figures have, and the name of the main colour: mostly what the kind is made of."""
    if rng.random() < TYPICAL:
        base = random_colour(rng, hue=hue, saturation=saturation, value=value)
    else:
        base, textures = random_colour(rng, saturation=(0.15, 1.0), value=(0.3, 1.0)), KINDS
    body = random_paint(rng, base, textures, foreign=0.15)
    accent = random_paint(rng, random_colour(rng, saturation=(0.15, 1.0), value=(0.3, 1.0)))
    limbs = random_paint(rng, darker(base, rng.uniform(0.4, 0.8)), ("plain", "mottled"))
    dark = plain_paint(hsv_to_rgb(0.0, 0.0, rng.uniform(0.06, 0.2)))
    light = plain_paint(hsv_to_rgb(0.0, 0.0, rng.uniform(0.8, 0.96)))
    return (body, accent, limbs, dark, light), colour_name(base)


def _bar(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """(4, 2) outline of a rectangle."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _body(layers: list[Layer]) -> Part:
    return Part("body", -1, (0.0, 0.0), 0.0, tuple(layers), 0)


def _bottle(rng: np.random.Generator) -> list[Part]:
    r = rng.uniform
    wide, neck, shoulder = r(0.13, 0.2), r(0.04, 0.065), -r(0.1, 0.25)
    flask = smooth([
        (-neck, -0.45), (neck, -0.45), (neck, shoulder - 0.05), (wide, shoulder + 0.1), (wide, 0.5), (-wide, 0.5),
        (-wide, shoulder + 0.1), (-neck, shoulder - 0.05),
    ])  # fmt: skip
    low = r(0.1, 0.2)
    label, cap = _bar(-wide * 0.98, low, wide * 0.98, low + r(0.12, 0.22)), _bar(-neck * 1.2, -0.5, neck * 1.2, -0.41)
    return [_body([(flask, BODY), (label, ACCENT), (cap, DARK)])]


def _box(rng: np.random.Generator) -> list[Part]:
    r = rng.uniform
    wide, lean, lid = r(0.35, 0.6), r(-0.2, 0.2), r(0.1, 0.22)
    front = _bar(-wide, -0.5 + lid, wide, 0.5)
    top = np.array([(-wide + lean, -0.5), (wide + lean, -0.5), (wide, -0.5 + lid), (-wide, -0.5 + lid)])
    tape = r(-0.3, 0.3) * wide
    layers: list[Layer] = [(top, LIMB), (front, BODY), (_bar(tape - 0.04, -0.5 + lid, tape + 0.04, 0.1), LIGHT)]
    if rng.random() < 0.5:
        layers.append((_bar(wide * 0.3, 0.2, wide * 0.85, 0.4), ACCENT))
    return [_body(layers)]


def _chair(rng: np.random.Generator) -> list[Part]:
    r = rng.uniform
    deep, seat, thick, lean = r(0.22, 0.3), r(0.0, 0.1), r(0.04, 0.07), r(0.0, 0.1)
    back = np.array(
        [(-deep - lean, -0.5), (-deep - lean + thick, -0.5), (-deep + thick, seat), (-deep, seat)]
    )  # as seen from the side
    near: list[Layer] = [(back, BODY), (_bar(-deep, seat, deep, seat + thick * 1.4), BODY)]
    if rng.random() < 0.5:
        near.append((_bar(-deep + thick, seat - 0.06, deep * 0.95, seat), ACCENT))
    legs: list[Layer] = [
        (_bar(-deep, seat + thick, -deep + thick, 0.5), LIMB),
        (_bar(deep - thick, seat + thick, deep, 0.5), LIMB),
    ]
    far = Part("legs_far", 0, (r(0.04, 0.09), -0.03), 0.0, tuple(legs), -1, FAR_SHADE)
    return [_body([*legs, *near]), far]


def _kite(rng: np.random.Generator) -> list[Part]:
    r = rng.uniform
    wide, cross, low = r(0.25, 0.38), -r(0.05, 0.2), r(0.25, 0.35)
    sail = np.array([(0, -0.5), (wide, cross), (0, low), (-wide, cross)])
    layers: list[Layer] = [(sail, BODY), (np.array([(0, -0.5), (wide, cross), (0, cross)]), ACCENT)]
    layers += [(np.array([(0, cross), (0, low), (-wide, cross)]), ACCENT), (_bar(-0.012, -0.5, 0.012, low), DARK)]
    knots: list[Layer] = [(_bar(-0.008, 0.0, 0.008, 0.5 - low), DARK)]
    for place in (0.3, 0.8):
        y = (0.5 - low) * place
        knots.append((np.array([(-0.07, y - 0.04), (0.07, y + 0.04), (0.07, y - 0.04), (-0.07, y + 0.04)]), LIMB))
    return [_body(layers), Part("tail", 0, (0.0, low), 0.0, tuple(knots), -1)]


def _lamp(rng: np.random.Generator) -> list[Part]:
    r = rng.uniform
    top, foot, high = r(0.08, 0.16), r(0.14, 0.24), r(0.24, 0.36)
    wide = top + r(0.06, 0.16)
    stand: list[Layer] = [(_bar(-0.025, -0.35, 0.025, 0.46), DARK), (ellipse(0, 0.46, foot, 0.045), LIMB)]
    shade = np.array([(-top, -high / 2), (top, -high / 2), (wide, high / 2), (-wide, high / 2)])
    rim = _bar(-wide, high / 2 - 0.03, wide, high / 2)
    return [_body(stand), Part("shade", 0, (0.0, -0.5 + high / 2), 0.0, ((shade, BODY), (rim, ACCENT)), 1)]


def _plant(rng: np.random.Generator) -> list[Part]:
    r = rng.uniform
    pot, rim = r(0.14, 0.22), r(0.12, 0.22)
    vessel = np.array([(-pot, rim), (pot, rim), (pot * 0.7, 0.5), (-pot * 0.7, 0.5)])
    parts = [_body([(vessel, ACCENT), (_bar(-pot * 1.1, rim - 0.03, pot * 1.1, rim + 0.03), LIMB)])]
    count, long, wide = int(rng.integers(5, 10)), r(0.45, 0.6), r(0.05, 0.1)
    for leaf, angle in enumerate(np.linspace(-1.2, 1.2, count) + rng.uniform(-0.1, 0.1, count)):
        length = long * r(0.75, 1.0) * (1 - 0.25 * abs(float(angle)))
        blade = smooth([(0, 0), (wide, -length * 0.5), (0, -length), (-wide, -length * 0.5)])
        depth, shade = (-1, 1.0) if leaf % 2 else (-2, FAR_SHADE)
        parts.append(Part(f"leaf{leaf}", 0, (0.0, rim), float(angle), ((blade, BODY),), depth, shade))
    return parts


def _sign(rng: np.random.Generator) -> list[Part]:
    r = rng.uniform
    plate, corners = r(0.2, 0.28), int(rng.choice([3, 4, 8, 24]))
    turn = {3: np.pi / 2, 4: 0.0, 8: np.pi / 8, 24: 0.0}[corners]
    y = -0.5 + plate
    layers: list[Layer] = [
        (_bar(-0.025, y, 0.025, 0.5), LIMB),
        (ellipse(0, y, plate, plate, turn=turn, corners=corners), LIGHT),
        (ellipse(0, y, plate * 0.86, plate * 0.86, turn=turn, corners=corners), BODY),
        (_bar(-plate * 0.45, y - plate * 0.14, plate * 0.45, y + plate * 0.14), LIGHT),
    ]
    return [_body(layers)]


def _umbrella(rng: np.random.Generator) -> list[Part]:
    r = rng.uniform
    wide, high, ribs = r(0.4, 0.55), r(0.3, 0.42), int(rng.integers(3, 6))
    theta = np.linspace(np.pi, 2 * np.pi, 17)
    hem = -0.5 + high
    dome = np.stack([wide * np.cos(theta), hem + high * np.sin(theta)], axis=1)
    layers: list[Layer] = [(_bar(-0.015, -0.5, 0.015, 0.45), DARK), (dome, BODY)]
    edges = np.linspace(-wide, wide, 2 * ribs)
    for left, right in zip(edges[::2], edges[1::2], strict=True):
        layers.append((np.array([(0.0, -0.5), (right, hem), (left, hem)]), ACCENT))
    layers.append((np.add(limb(0.08, 0.04, 0.04), (0.03, 0.42)), LIMB))
    return [_body(layers)]


_CLOTH, _HARD = ("plain", "stripes", "checks"), ("plain", "shaded", "mottled")
OBJECTS: dict[str, tuple[Callable[[np.random.Generator], list[Part]], Span, Span, Span, tuple[str, ...]]] = {
    "bottle": (_bottle, (0.33, 0.6), (0.2, 0.8), (0.3, 0.8), _HARD),
    "box": (_box, (0.06, 0.11), (0.35, 0.6), (0.5, 0.8), ("plain", "mottled")),
    "chair": (_chair, (0.03, 0.09), (0.5, 0.9), (0.25, 0.6), ("stripes", "plain", "mottled")),
    "kite": (_kite, (0.75, 1.2), (0.7, 1.0), (0.7, 1.0), _CLOTH),
    "lamp": (_lamp, (0.1, 0.17), (0.15, 0.5), (0.8, 1.0), _HARD),
    "plant": (_plant, (0.24, 0.4), (0.5, 0.9), (0.3, 0.7), _HARD),
    "sign": (_sign, (0.97, 1.03), (0.8, 1.0), (0.6, 0.9), ("plain",)),
    "umbrella": (_umbrella, (0.5, 0.85), (0.4, 1.0), (0.3, 0.9), _CLOTH),
}
"""Kind -> its design, and hue (in turns), saturation, value and textures of what it is mostly made of."""
