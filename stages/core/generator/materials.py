"""What figures are made of: mostly what their kind is made of, so that colours tell actors, but never actions."""

import numpy as np

from stages.core.generator.textures import (
    Paint,
    colour_name,
    hsv_to_rgb,
    plain_paint,
    random_colour,
    random_paint,
)

BODY, ACCENT, LIMB, DARK, LIGHT = range(5)
"""Places in ``Figure.paints``: main texture, second texture, limbs, near black, near white."""
TYPICAL = 0.8
"""Share of figures made of their kind's own materials; the others may have any colours."""
_SKIN = ((0.02, 0.11), (0.25, 0.65), (0.4, 0.95), ("plain", "shaded"))
MATERIALS: dict[
    str, dict[int, tuple[tuple[float, float], tuple[float, float], tuple[float, float], tuple[str, ...]]]
] = {
    "adult": {BODY: ((0.52, 0.78), (0.3, 0.9), (0.25, 0.75), ("plain", "stripes", "shaded", "checks")), LIMB: _SKIN},
    "baby": {BODY: ((0.82, 1.02), (0.15, 0.5), (0.75, 1.0), ("plain", "spots", "stripes")), LIMB: _SKIN},
    "ball": {
        BODY: ((0.12, 0.2), (0.7, 1.0), (0.8, 1.0), ("checks", "spots", "stripes")),
        ACCENT: ((0.0, 1.0), (0.0, 0.1), (0.85, 1.0), ("plain",)),
    },
    "bird": {
        BODY: ((0.3, 0.52), (0.5, 1.0), (0.45, 0.95), ("mottled", "shaded", "spots")),
        LIMB: ((0.05, 0.12), (0.8, 1.0), (0.7, 1.0), ("plain",)),
    },
    "car": {BODY: ((0.94, 1.03), (0.75, 1.0), (0.6, 1.0), ("plain", "shaded"))},
    "cat": {BODY: ((0.06, 0.11), (0.55, 0.9), (0.6, 1.0), ("stripes", "mottled"))},
    "dog": {BODY: ((0.05, 0.1), (0.25, 0.6), (0.15, 0.45), ("spots", "mottled", "plain"))},
}
"""Hue, saturation, value and kind of texture of the paints by place: what tells an actor, but never its action."""


def random_paints(rng: np.random.Generator, actor: str) -> tuple[tuple[Paint, ...], str]:
    """Paints of a figure and the name of its main colour: mostly what its kind is made of, sometimes anything."""
    typical = rng.random() < TYPICAL

    def paint(place: int) -> Paint:
        if not typical or place not in MATERIALS[actor]:
            return random_paint(rng, random_colour(rng, saturation=(0.15, 1.0), value=(0.3, 1.0)))
        hue, saturation, value, kinds = MATERIALS[actor][place]
        base = random_colour(rng, hue=hue, saturation=saturation, value=value)
        return random_paint(rng, base, kinds, foreign=0.15)

    body, accent = paint(BODY), paint(ACCENT)
    limbs = body if LIMB not in MATERIALS[actor] and rng.random() < 0.7 else paint(LIMB)
    dark = plain_paint(hsv_to_rgb(0.0, 0.0, rng.uniform(0.06, 0.2)))
    light = plain_paint(hsv_to_rgb(0.0, 0.0, rng.uniform(0.8, 0.96)))
    red, green, blue = body.tile[..., :3].reshape(-1, 3).mean(axis=0).tolist()
    return (body, accent, limbs, dark, light), colour_name((red, green, blue))
