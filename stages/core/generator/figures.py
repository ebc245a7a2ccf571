"""Articulated figures of the seven actors: trees of textured parts in the figure's own coordinates.

x points forward (the way the figure faces), y down, one unit is a body length: the height of a standing adult or baby,
the length of a car, bird, cat or dog, the diameter of a ball. The origin is the point the whole body rotates about.
A limb hangs along +y from its joint; a positive angle swings it backwards, and nods a head downwards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from stages.core.generator.materials import ACCENT, BODY, DARK, LIGHT, LIMB, random_paints
from stages.core.generator.pools import generator
from stages.core.generator.textures import Paint

FAR_SHADE = 0.74
"""Limbs on the far side are darker by this factor, so that crossing limbs stay apart."""

Layer = tuple[np.ndarray, int]


@dataclass(frozen=True)
class Part:
    """A rigid sprite: ``layers`` are (polygon (K, 2) about the joint, index of its paint), painted in order.

    ``pivot`` is the joint in the parent's coordinates, ``rest`` the angle at rest in radians, ``depth`` the painting
    order (larger is nearer).
    """

    joint: str
    parent: int
    pivot: tuple[float, float]
    rest: float
    layers: tuple[Layer, ...]
    depth: int
    shade: float = 1.0


@dataclass(frozen=True)
class Figure:
    """One look of an actor. ``reach`` is half the width and height of the body at rest, in body lengths."""

    actor: str
    parts: tuple[Part, ...]
    paints: tuple[Paint, ...]
    reach: tuple[float, float]
    colour: str
    relief: float


def ellipse(x: float, y: float, rx: float, ry: float, *, turn: float = 0.0, corners: int = 22) -> np.ndarray:
    """(K, 2) outline of an ellipse."""
    theta = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    ring = np.stack([rx * np.cos(theta), ry * np.sin(theta)], axis=1)
    c, s = np.cos(turn), np.sin(turn)
    return ring @ np.array([[c, s], [-s, c]]) + (x, y)


def limb(length: float, top: float, bottom: float) -> np.ndarray:
    """(K, 2) outline of a tapered limb with round ends, hanging from the origin; widths at ``top`` and ``bottom``."""
    theta = np.linspace(0, np.pi, 8)
    lower = np.stack([bottom / 2 * np.cos(theta), length + bottom / 2 * np.sin(theta)], axis=1)
    upper = np.stack([-top / 2 * np.cos(theta), -top / 2 * np.sin(theta)], axis=1)
    return np.concatenate([lower, upper])


def smooth(points: Sequence[tuple[float, float]], *, rounds: int = 2) -> np.ndarray:
    """(K, 2) outline with its corners cut ``rounds`` times (Chaikin)."""
    outline = np.asarray(points, dtype=float)
    for _ in range(rounds):
        following = np.roll(outline, -1, axis=0)
        outline = np.stack([0.75 * outline + 0.25 * following, 0.25 * outline + 0.75 * following], axis=1)
        outline = outline.reshape(-1, 2)
    return outline


@lru_cache(maxsize=256)
def make_figure(pool: str, actor: str, index: int) -> Figure:
    """Look ``index`` of ``actor`` in ``pool``; the same arguments give the same figure.

    Raises ``ValueError`` for an actor that is not one of the seven.
    """
    if actor not in DESIGNS:
        raise ValueError(f"no figure of actor {actor!r}; choose one of {', '.join(DESIGNS)}")
    rng = generator(pool, "look", actor, index)
    base, parts = random_paints(rng, actor), DESIGNS[actor](rng)
    paints, colour = base
    torso = np.concatenate([outline for part in parts for outline, _ in part.layers if part.parent < 0])
    standing = {"adult": (0.2, 0.5), "baby": (0.25, 0.5)}
    extent = np.abs(torso).max(axis=0)
    reach = standing.get(actor, (float(max(extent[0], 0.42)), float(max(extent[1], 0.36 if actor != "car" else 0.24))))
    return Figure(
        actor=actor, parts=tuple(parts), paints=paints, reach=reach, colour=colour, relief=rng.uniform(0.25, 0.6)
    )


def _near_and_far(
    parts: list[Part], joints: tuple[str, str], pivot: tuple[float, float], limbs: Sequence[Sequence[Layer]],
    knee: tuple[float, float], *, depth: int, spread: float, rest: tuple[float, float] = (0.0, 0.0),
) -> None:  # fmt: skip
    """Append a two-piece limb twice: behind the body (darker) and before it; ``parts[0]`` is the body."""
    for side, sign in (("far", -1), ("near", 1)):
        shade = FAR_SHADE if side == "far" else 1.0
        place = (pivot[0] - sign * spread, pivot[1])
        upper = len(parts)
        parts.append(Part(f"{joints[0]}_{side}", 0, place, rest[0], tuple(limbs[0]), sign * depth, shade))
        if len(limbs) > 1:
            # The lower piece lies behind the upper one, as a shin behind a thigh.
            lower = Part(f"{joints[1]}_{side}", upper, knee, rest[1], tuple(limbs[1]), sign * depth - 1, shade)
            parts.append(lower)


def _human(rng: np.random.Generator, *, baby: bool) -> list[Part]:
    r = rng.uniform
    if baby:
        head, neck, hip, thick = r(0.175, 0.215), -r(0.09, 0.13), r(0.17, 0.22), r(0.115, 0.15)
        girth, arm = r(0.26, 0.34), r(0.12, 0.15)
        shoulder = neck + 0.05
    else:
        head, neck, hip, thick = r(0.068, 0.088), -r(0.31, 0.34), r(0.0, 0.06), r(0.06, 0.095)
        girth, arm = r(0.14, 0.24), r(0.155, 0.195)
        shoulder = neck + 0.06
    leg = (0.5 - hip) / 2
    chest, waist = girth / 2, girth / 2 * r(0.65, 1.05)
    torso = smooth([
        (-chest, neck), (chest * 0.9, neck), (chest, shoulder + 0.08), (waist, hip - 0.02), (waist, hip + 0.05),
        (-waist, hip + 0.05), (-waist, hip - 0.02), (-chest, shoulder + 0.08),
    ])  # fmt: skip
    clothes: list[Layer] = [(torso, BODY)]
    if baby or rng.random() < 0.6:
        low = hip - r(0.02, 0.09)
        clothes.append((smooth([(-waist * 1.08, low), (waist * 1.08, low), (waist, hip + 0.07), (-waist, hip + 0.07)]),
                        LIGHT if baby else ACCENT))  # fmt: skip
    parts = [Part("torso", -1, (0.0, 0.0), 0.0, tuple(clothes), 0)]
    up = -head * 0.95
    face: list[Layer] = [
        (limb(head * 0.6, head * 0.7, head * 0.7) - (0, head * 0.6), LIMB),
        (ellipse(0, up, head * 0.9, head), LIMB),
        (ellipse(head * 0.85, up + head * 0.15, head * 0.24, head * 0.18), LIMB),
    ]
    hair = ellipse(0, up, head * 0.98, head * 1.08)
    top = hair[(hair[:, 1] < up - head * r(0.0, 0.3)) | (hair[:, 0] < -head * r(0.35, 0.8))]
    if len(top) > 3 and (not baby or rng.random() < 0.5):
        face.append((top, ACCENT))
    face.append((ellipse(head * 0.45, up - head * 0.05, head * 0.13, head * 0.16), DARK))
    parts.append(Part("neck", 0, (0.01, neck + 0.02), 0.0, tuple(face), 1))
    thigh, shin = limb(leg, thick * 1.25, thick), limb(leg - thick * 0.3, thick, thick * 0.8)
    foot = smooth([(-thick * 0.5, leg - thick * 0.55), (thick * 0.9, leg - thick * 0.5), (thick * 1.5, leg),
                   (-thick * 0.5, leg)], rounds=1)  # fmt: skip
    legs = [[(thigh, ACCENT)], [(shin, ACCENT if rng.random() < 0.5 else LIMB), (foot, DARK)]]
    _near_and_far(parts, ("hip", "knee"), (0, hip), legs, (0, leg), depth=2, spread=0.015)
    upper, lower = limb(arm, thick, thick * 0.85), limb(arm * 0.85, thick * 0.85, thick * 0.7)
    hand = ellipse(0, arm, thick * 0.5, thick * 0.55)
    arms = [[(upper, BODY)], [(lower, BODY if rng.random() < 0.5 else LIMB), (hand, LIMB)]]
    _near_and_far(parts, ("shoulder", "elbow"), (0, shoulder), arms, (0, arm), depth=4, spread=0.02)
    return parts


def _adult(rng: np.random.Generator) -> list[Part]:
    return _human(rng, baby=False)


def _baby(rng: np.random.Generator) -> list[Part]:
    return _human(rng, baby=True)


def _ball(rng: np.random.Generator) -> list[Part]:
    layers: list[Layer] = [(ellipse(0, 0, 0.5, 0.5, corners=40), BODY)]
    kind = rng.choice(["beach", "patches", "bands", "star"])
    if kind == "beach":
        count = int(rng.integers(2, 5))
        for i in range(count):
            start = 2 * np.pi * i / count
            theta = np.linspace(start, start + np.pi / count, 8)
            edge = 0.5 * np.stack([np.cos(theta), np.sin(theta)], axis=1)
            layers.append((np.concatenate([[(0.0, 0.0)], edge]), ACCENT))
        layers.append((ellipse(0, 0, 0.09, 0.09), LIGHT))
    elif kind == "patches":
        layers.append((ellipse(0.02, 0.0, 0.14, 0.14, corners=5), DARK))
        for i in range(5):
            angle = 2 * np.pi * (i + rng.uniform(-0.1, 0.1)) / 5
            layers.append((ellipse(0.37 * np.cos(angle), 0.37 * np.sin(angle), 0.1, 0.1, corners=5, turn=angle), DARK))
    elif kind == "bands":
        layers.append((ellipse(0, 0, 0.49, rng.uniform(0.07, 0.14)), ACCENT))
        layers.append((ellipse(0, 0, rng.uniform(0.05, 0.1), 0.49), LIGHT))
    else:
        theta = np.linspace(0, 2 * np.pi, 10, endpoint=False)
        radius = np.where(np.arange(10) % 2 == 0, 0.42, 0.17)[:, None]
        layers.append((radius * np.stack([np.cos(theta), np.sin(theta)], axis=1), ACCENT))
        layers.append((ellipse(0.3, 0.22, 0.08, 0.08), LIGHT))
    return [Part("body", -1, (0.0, 0.0), 0.0, tuple(layers), 0)]


def _car(rng: np.random.Generator) -> list[Part]:
    r = rng.uniform
    radius, belt, roof = r(0.085, 0.115), -r(0.01, 0.06), -r(0.17, 0.26)
    floor = 0.12
    front, back = r(0.05, 0.24), -r(0.25, 0.48)
    slope = r(0.04, 0.14)
    hull = smooth([(-0.5, belt + 0.02), (0.42, belt + 0.01), (0.5, belt + 0.06), (0.5, floor), (-0.5, floor)], rounds=1)
    low = belt + 0.05
    cabin = smooth(
        [(back - 0.02, low), (back + slope * 0.5, roof), (front, roof), (front + slope * 1.4, low)], rounds=1
    )
    layers: list[Layer] = [
        (cabin, BODY),
        (hull, BODY),
        (np.array([(-0.49, 0.05), (0.49, 0.05), (0.49, 0.085), (-0.49, 0.085)]), ACCENT),
    ]
    edges = np.linspace(back + slope * 0.6, front + slope * 0.5, int(rng.integers(3, 5)))
    for left, right in pairwise(edges):
        lean = slope * 0.35 * (right == edges[-1])
        pane = [
            (left + 0.015, belt),
            (left + 0.025, roof + 0.035),
            (right - 0.025 - lean, roof + 0.035),
            (right - 0.01, belt),
        ]
        layers.append((np.array(pane), LIGHT))
    layers.append((ellipse(0.465, belt + 0.075, 0.03, 0.025), LIGHT))
    parts = [Part("body", -1, (0.0, 0.0), 0.0, tuple(layers), 0)]
    spokes = int(rng.integers(3, 6))
    rim = radius * r(0.6, 0.75)
    wheel: list[Layer] = [(ellipse(0, 0, radius, radius), DARK), (ellipse(0, 0, rim, rim), LIGHT)]
    for i in range(spokes):
        bar = np.array([(-0.014, 0.0), (0.014, 0.0), (0.014, rim), (-0.014, rim)])
        c, s = np.cos(2 * np.pi * i / spokes), np.sin(2 * np.pi * i / spokes)
        wheel.append((bar @ np.array([[c, s], [-s, c]]), ACCENT if i == 0 else DARK))
    for joint, x in (("wheel_front", r(0.26, 0.33)), ("wheel_back", -r(0.26, 0.33))):
        parts.append(Part(joint, 0, (x, floor + 0.01), 0.0, tuple(wheel), 1))
    return parts


def _bird(rng: np.random.Generator) -> list[Part]:
    r = rng.uniform
    long, high, lean = r(0.22, 0.28), r(0.14, 0.19), r(-0.35, 0.05)
    body = ellipse(0, 0, long, high, turn=lean)
    belly = ellipse(0.04, high * 0.35, long * 0.65, high * 0.5, turn=lean)
    parts = [Part("body", -1, (0.0, 0.0), 0.0, ((body, BODY), (belly, ACCENT)), 0)]
    neck, head = r(0.05, 0.17), r(0.075, 0.105)
    x, y = 0.05, -neck - head * 0.6
    root, tip_x = x + head * 0.75, x + head + r(0.1, 0.17)
    layers = (
        (limb(neck + head * 0.5, head * 1.3, head * 1.5) * (1, -1), BODY),
        (ellipse(x, y, head, head * 0.95), BODY),
        (np.array([(root, y - head * 0.4), (tip_x, y + head * 0.15), (root, y + head * 0.5)]), LIGHT),
        (ellipse(x + head * 0.4, y - head * 0.2, head * 0.2, head * 0.2), DARK),
    )  # fmt: skip
    parts.append(Part("neck", 0, (long * 0.7, -high * 0.45), 0.0, layers, 1))
    tail_length, fan = r(0.14, 0.26), r(0.05, 0.1)
    tail = np.array([(-0.035, -0.05), (0.035, -0.05), (fan, tail_length), (0, tail_length * 0.88), (-fan, tail_length)])
    parts.append(Part("tail", 0, (-long * 0.85, -lean * 0.1), np.pi / 2 + r(-0.2, 0.3), ((tail, ACCENT),), -1))
    thin, leg = r(0.022, 0.034), r(0.09, 0.13)
    foot = np.array([(-thin, leg - 0.012), (0.085, leg + 0.006), (0.085, leg + 0.022), (-0.03, leg + 0.022)])
    legs = [[(limb(leg, thin * 1.5, thin), LIGHT)], [(limb(leg, thin, thin), LIGHT), (foot, LIGHT)]]
    _near_and_far(parts, ("hip", "knee"), (0.0, high * 0.75), legs, (0, leg), depth=2, spread=0.02)
    span, chord = r(0.32, 0.46), r(0.09, 0.13)
    wing = smooth([(-chord * 0.5, -0.03), (chord * 0.6, -0.03), (chord, span * 0.35), (chord * 0.75, span * 0.75),
                   (0, span), (-chord * 0.55, span * 0.5)])  # fmt: skip
    tip = smooth([(chord * 0.6, span * 0.6), (chord * 0.65, span * 0.8), (0, span), (-chord * 0.2, span * 0.75)])
    _near_and_far(
        parts, ("wing", ""), (0.07, -high * 0.3), [[(wing, LIMB), (tip, ACCENT)]], (0, 0), depth=4, spread=0.0
    )
    return parts


def _quadruped(rng: np.random.Generator, *, dog: bool) -> list[Part]:
    r = rng.uniform
    girth = r(0.11, 0.15) if dog else r(0.09, 0.125)
    front, back = 0.24, -0.28
    chest = girth * r(1.0, 1.2)
    trunk = smooth([
        (back - 0.06, -girth * 0.8), (0.0, -girth * r(0.8, 1.0)), (front + 0.05, -chest), (front + 0.1, 0.0),
        (front, chest), (-0.05, girth * r(0.7, 1.0)), (back, girth * 0.9), (back - 0.08, 0.0),
    ])  # fmt: skip
    coat: list[Layer] = [(trunk, BODY)]
    if rng.random() < 0.5:
        coat.append((ellipse(r(-0.2, 0.15), r(-0.05, 0.03), r(0.07, 0.13), girth * 0.6), ACCENT))
    parts = [Part("body", -1, (0.0, 0.0), 0.0, tuple(coat), 0)]
    if dog:
        parts += _dog_head(rng, chest)
    else:
        parts += _cat_head(rng, chest)
    thick = r(0.075, 0.1) if dog else r(0.052, 0.07)
    leg = r(0.15, 0.19) if dog else r(0.13, 0.165)
    paw = ellipse(thick * 0.25, leg - 0.005, thick * 0.65, thick * 0.42)
    sock = LIGHT if rng.random() < 0.3 else LIMB
    legs = [[(limb(leg, thick * 1.5, thick), LIMB)], [(limb(leg * 0.95, thick, thick * 0.8), LIMB), (paw, sock)]]
    for joints, x in ((("hip", "knee"), back + 0.02), (("shoulder", "elbow"), front - 0.02)):
        _near_and_far(parts, joints, (x, girth * 0.45), legs, (0, leg), depth=2, spread=0.025)
    if dog:
        stub = limb(r(0.1, 0.17), 0.065, 0.04)
        parts.append(Part("tail", 0, (back - 0.03, -girth * 0.5), r(1.9, 2.7), ((stub, LIMB),), -1))
        return parts
    thin, piece = r(0.032, 0.045), r(0.2, 0.26)
    index = len(parts)
    parts.append(
        Part("tail", 0, (back - 0.04, -girth * 0.45), r(1.6, 2.4), ((limb(piece, thin * 1.2, thin), LIMB),), -1)
    )
    parts.append(Part("tail_tip", index, (0, piece), r(-0.3, 0.9), ((limb(piece, thin, thin * 0.8), LIMB),), -2))
    return parts


def _dog_head(rng: np.random.Generator, chest: float) -> list[Part]:
    r = rng.uniform
    head, snout = r(0.095, 0.12), r(0.13, 0.19)
    x, y = 0.1, -r(0.12, 0.17)
    nose = x + head + snout
    muzzle = smooth([(x, y - head * 0.35), (nose, y), (nose, y + head * 0.75), (x, y + head * 0.9)], rounds=1)
    layers = (
        (smooth([(-0.09, 0.1), (-0.05, -0.06), (x - head, y), (x + head * 0.6, y + head * 0.5), (0.08, 0.1)]), BODY),
        (muzzle, LIMB),
        (ellipse(x, y, head * 1.05, head), BODY),
        (ellipse(nose, y + head * 0.15, 0.03, 0.03), DARK),
        (ellipse(x + head * 0.45, y - head * 0.15, 0.02, 0.022), DARK),
    )
    ear = smooth([(-0.03, -0.02), (0.04, -0.02), (0.06, 0.1), (0.02, r(0.15, 0.19)), (-0.03, 0.1)])
    return [
        Part("neck", 0, (0.27, -chest * 0.55), 0.0, layers, 1),
        Part("ear", 1, (x - head * 0.35, y - head * 0.55), r(0.1, 0.35), ((ear, ACCENT),), 6),
    ]


def _cat_head(rng: np.random.Generator, chest: float) -> list[Part]:
    r = rng.uniform
    head = r(0.11, 0.135)
    x, y = 0.08, -r(0.1, 0.14)
    ear, wide = head * r(1.0, 1.35), head * 0.42
    layers: list[Layer] = [
        (
            smooth(
                [(-0.08, 0.09), (-0.05, -0.05), (x - head * 0.8, y), (x + head * 0.6, y + head * 0.5), (0.06, 0.09)]
            ),
            BODY,
        )
    ]
    for centre in (-0.55, 0.5):
        foot = x + centre * head
        layers.append((np.array([(foot - wide, y - head * 0.4), (foot + centre * 0.05, y - head * 0.5 - ear),
                                 (foot + wide, y - head * 0.4)]), BODY if centre > 0 else ACCENT))  # fmt: skip
    layers += [
        (ellipse(x, y, head * 1.05, head * 0.92), BODY),
        (ellipse(x + head * 0.8, y + head * 0.35, head * 0.38, head * 0.3), LIGHT),
        (ellipse(x + head * 1.1, y + head * 0.22, 0.016, 0.016), DARK),
        (ellipse(x + head * 0.42, y - head * 0.1, 0.022, 0.028), DARK),
    ]
    return [Part("neck", 0, (0.27, -chest * 0.5), 0.0, tuple(layers), 1)]


def _cat(rng: np.random.Generator) -> list[Part]:
    return _quadruped(rng, dog=False)


def _dog(rng: np.random.Generator) -> list[Part]:
    return _quadruped(rng, dog=True)


DESIGNS: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "adult": _adult, "baby": _baby, "ball": _ball, "bird": _bird, "car": _car, "cat": _cat, "dog": _dog,
}  # fmt: skip
