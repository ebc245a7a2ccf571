"""Actions as motion: what the joints and the whole body of an actor do over time.

An action differs from the others by how it moves, hardly by how it looks in one frame: every action starts from a
posture that is only sometimes its typical one, walking and running share their strides' width and differ in pace, and
'none' holds a pose frozen out of another action. Waves are near triangular and joints move a quarter period apart, so
that at almost any instant something moves as fast as the action's pace says.

Angles are radians, lengths body lengths, time frames. Axis letters: T time steps.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

TYPICAL_SHARE = 0.75
"""How often a clip starts from its action's typical posture; otherwise from any posture of the actor."""

STANDING_SHARE = 0.3
"""How often 'none' is a plain stance; otherwise it is a frozen pose of another action."""

QUARTER = np.pi / 2


@dataclass
class Motion:
    """Curves over T time steps; rates at step t lead from t to t + 1.

    ``forward`` is speed the way the figure faces, ``upward`` speed of a climb that turns back at the frame's edge,
    ``height`` displacement upwards around zero, ``spin`` rate of rotation (positive rolls forwards), ``tilt`` the
    body's angle, ``joints`` angles by joint.
    """

    forward: np.ndarray
    upward: np.ndarray
    height: np.ndarray
    spin: np.ndarray
    tilt: np.ndarray
    joints: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def still(cls, steps: int) -> "Motion":
        """No motion at all."""
        return cls(np.zeros(steps), np.zeros(steps), np.zeros(steps), np.zeros(steps), np.zeros(steps))

    def add(self, joint: str, angle: np.ndarray | float) -> None:
        """Add ``angle`` to the curve of ``joint``."""
        self.joints[joint] = self.joints.get(joint, 0.0) + angle + np.zeros_like(self.tilt)


def make_motion(rng: np.random.Generator, actor: str, action: str, steps: int, *, actions: tuple[str, ...]) -> Motion:
    """Motion of ``action`` over ``steps`` time steps, with a posture to start from.

    ``actions`` are all that ``actor`` can do: 'none' freezes a pose of one of them. Drawing does not depend on
    ``steps``, so a longer motion begins like a shorter one.
    """
    time = np.arange(steps, dtype=float)
    shown = action
    if action == "none":
        shown = "none" if rng.random() < STANDING_SHARE else str(rng.choice(actions))
    motion = Motion.still(steps)
    _take_posture(rng, motion, actor, shown)
    if shown != "none":
        _MOVES[shown](rng, motion, actor, time)
    if shown == "rolling" or _LIES.get(actor, 0.0) > rng.random():
        motion.tilt = motion.tilt + rng.uniform(0, 2 * np.pi)
    if action == "none":
        _freeze(rng, motion, time)
    return motion


def _wave(phase: np.ndarray) -> np.ndarray:
    """Triangle wave of amplitude 1 with slightly rounded corners, in phase with the sine."""
    return np.arcsin(0.97 * np.sin(phase)) / np.arcsin(0.97)


def _phase(rng: np.random.Generator, time: np.ndarray, period: tuple[float, float]) -> np.ndarray:
    drift = 1.0 + 0.08 * np.sin(time * rng.uniform(0.1, 0.3) + rng.uniform(0, 6))
    length = rng.uniform(*period)
    return rng.uniform(0, 2 * np.pi) + np.cumsum(drift) * 2 * np.pi / length


def _pace(rng: np.random.Generator, time: np.ndarray, speed: tuple[float, float]) -> np.ndarray:
    jitter = 1.0 + 0.1 * np.sin(time * rng.uniform(0.2, 0.6) + rng.uniform(0, 6))
    return rng.uniform(*speed) * jitter


_LIES = {"adult": 0.08, "baby": 0.08, "cat": 0.08, "dog": 0.08, "bird": 0.08, "car": 0.12, "ball": 1.0}
"""How often a body lies at any angle whatever it does, so that lying is no sign of rolling."""

# Postures: tilt and joint angles in degrees; joints of the near and far side share an entry.
_HUMAN = {
    "upright": {"tilt": 0, "shoulder": -5, "elbow": -25},
    "lean": {"tilt": 20, "shoulder": 10, "elbow": -70, "hip": -10, "knee": 20},
    "prone": {"tilt": 75, "hip": -75, "knee": 60, "shoulder": -80, "elbow": -10, "neck": -45},
    "arms_up": {"tilt": 0, "shoulder": -145, "elbow": -25, "hip": -25, "knee": 35},
    "crouch": {"tilt": 22, "hip": -65, "knee": 85, "shoulder": -30, "elbow": -70},
    "feeding": {"tilt": 8, "shoulder": -35, "elbow": -105, "neck": 15},
}
_QUADRUPED = {
    "stand": {"tilt": 0},
    "nose_down": {"tilt": 8, "neck": 45, "shoulder": -10, "elbow": 15},
    "rear": {"tilt": -48, "hip": 10, "knee": 15, "shoulder": -20, "elbow": 25},
    "crouch": {"tilt": 0, "hip": -45, "knee": 70, "shoulder": -35, "elbow": 60, "neck": 10},
    "stretch": {"tilt": -12, "hip": 30, "shoulder": -35, "neck": -10},
}
_BIRD = {
    "stand": {"tilt": 0, "wing": 95},
    "wings_open": {"tilt": -5, "wing": 150, "hip": 20, "knee": 20},
    "wings_down": {"tilt": 0, "wing": 45, "hip": 30, "knee": 20},
    "nose_down": {"tilt": 15, "neck": 55, "wing": 98, "hip": -15},
    "upright": {"tilt": -40, "wing": 70, "hip": 25},
}
_CAR = {"level": {"tilt": 0}, "nose_up": {"tilt": -20}, "nose_down": {"tilt": 18}, "over": {"tilt": 180}}
_BALL = {"round": {"tilt": 0}}
_POSTURES = {
    "adult": _HUMAN, "baby": _HUMAN, "ball": _BALL, "bird": _BIRD, "car": _CAR, "cat": _QUADRUPED, "dog": _QUADRUPED,
}  # fmt: skip
_TYPICAL = {
    "climbing": ("arms_up", "rear", "upright"),
    "crawling": ("prone", "crouch"),
    "eating": ("feeding", "nose_down"),
    "flying": ("wings_open", "wings_down", "nose_up", "nose_down", "round"),
    "jumping": ("arms_up", "crouch", "stretch", "stand", "nose_up"),
    "rolling": ("crouch", "over", "wings_down"),
    "running": ("lean", "upright", "stretch", "stand", "level"),
    "walking": ("upright", "stand"),
    "none": ("upright", "stand", "level"),
}


def _take_posture(rng: np.random.Generator, motion: Motion, actor: str, action: str) -> None:
    postures = _POSTURES[actor]
    typical = [name for name in _TYPICAL[action] if name in postures]
    is_typical = bool(typical) and rng.random() < TYPICAL_SHARE
    name = str(rng.choice(typical if is_typical else list(postures)))
    for joint, degrees in postures[name].items():
        if joint == "tilt":
            motion.tilt = motion.tilt + np.deg2rad(degrees + rng.normal(0, 9))
        elif joint == "neck":
            motion.add("neck", np.deg2rad(degrees))
        else:
            for side in ("near", "far"):
                motion.add(f"{joint}_{side}", np.deg2rad(degrees + rng.normal(0, 7)))
    motion.add("neck", np.deg2rad(rng.normal(0, 8)))
    motion.add("tail", np.deg2rad(rng.normal(0, 15)))


def _freeze(rng: np.random.Generator, motion: Motion, time: np.ndarray) -> None:
    """Hold the first pose and sway a little, less than a degree a frame."""
    sway = np.deg2rad(0.7) * np.sin(2 * np.pi * time / rng.uniform(18, 30) + rng.uniform(0, 6))
    for joint, curve in motion.joints.items():
        motion.joints[joint] = curve[0] + sway * rng.uniform(-1.5, 1.5)
    motion.tilt = motion.tilt[0] + 0.6 * sway
    for rate in (motion.forward, motion.upward, motion.height, motion.spin):
        rate[:] = 0.0


def _stride(rng: np.random.Generator, motion: Motion, actor: str, phase: np.ndarray, *, swing: float) -> None:
    """Swing the limbs; ``swing`` in degrees. Which limbs swing together is drawn, not given by the action."""
    a = np.deg2rad(swing)
    bend = a * rng.uniform(0.7, 1.3)
    offset = rng.uniform(-0.5, 0.5)
    if actor in ("cat", "dog"):
        shift = rng.choice([0.0, 0.35, 0.5]) * 2 * np.pi  # of the near fore limb against the near hind limb
        split = rng.choice([np.pi, 0.5])  # trot, or both sides nearly together as in a gallop
    else:
        shift, split = np.pi, np.pi
    for side, own in (("near", 0.0), ("far", split + offset)):
        hind = phase + own
        fore = hind + shift
        motion.add(f"hip_{side}", -a * _wave(hind))
        motion.add(f"knee_{side}", bend * (0.6 + 0.6 * _wave(hind + QUARTER)))
        if actor in ("adult", "baby"):
            motion.add(f"shoulder_{side}", -a * 0.8 * _wave(fore))
            motion.add(f"elbow_{side}", -bend * (0.3 + 0.3 * _wave(fore + QUARTER)))
        elif actor in ("cat", "dog"):
            motion.add(f"shoulder_{side}", -a * _wave(fore))
            motion.add(f"elbow_{side}", bend * (0.5 + 0.5 * _wave(fore + QUARTER)))
    motion.tilt = motion.tilt + a * 0.08 * _wave(phase * 2)
    motion.add("tail", a * 0.4 * _wave(phase + 1.0))
    motion.add("tail_tip", a * 0.5 * _wave(phase))
    motion.add("ear", a * 0.4 * _wave(phase * 2 + 2.0))
    motion.add("neck", a * 0.12 * _wave(phase * 2 + QUARTER))


def _flutter(rng: np.random.Generator, motion: Motion, phase: np.ndarray, swing: float) -> None:
    angle = np.deg2rad(swing) * _wave(phase)
    motion.add("wing_near", angle)
    motion.add("wing_far", angle + np.deg2rad(rng.uniform(-12, 12)))


def _climb(rng: np.random.Generator, motion: Motion, actor: str, time: np.ndarray) -> None:
    phase = _phase(rng, time, (10, 15))
    _stride(rng, motion, actor, phase, swing=rng.uniform(20, 34))
    motion.upward = _pace(rng, time, (0.034, 0.048)) * (1.0 + 0.25 * _wave(2 * phase))


def _crawl(rng: np.random.Generator, motion: Motion, actor: str, time: np.ndarray) -> None:
    phase = _phase(rng, time, (16, 22))
    _stride(rng, motion, actor, phase, swing=rng.uniform(17, 30))
    motion.forward = _pace(rng, time, (0.01, 0.014))


def _eat(rng: np.random.Generator, motion: Motion, actor: str, time: np.ndarray) -> None:
    phase = _phase(rng, time, (6, 9))
    motion.add("neck", np.deg2rad(rng.uniform(20, 32)) * _wave(phase))
    for side, share in (("near", 1.0), ("far", rng.choice([0.0, 0.8]))):
        if actor in ("adult", "baby"):
            motion.add(f"elbow_{side}", -np.deg2rad(30) * share * (0.5 + _wave(phase + QUARTER)))
            motion.add(f"shoulder_{side}", np.deg2rad(12) * share * _wave(phase + QUARTER))
    motion.tilt = motion.tilt + np.deg2rad(2.0) * _wave(phase + QUARTER)
    motion.add("tail", np.deg2rad(10) * _wave(phase + QUARTER))
    motion.add("ear", np.deg2rad(15) * _wave(phase + QUARTER))


def _fly(rng: np.random.Generator, motion: Motion, actor: str, time: np.ndarray) -> None:
    if actor == "bird":
        phase = _phase(rng, time, (6, 8.5))
        _flutter(rng, motion, phase, rng.uniform(40, 62))
        motion.forward = _pace(rng, time, (0.08, 0.12))
        motion.height = 0.03 * np.sin(phase + np.pi) + 0.25 * np.sin(time * 0.13 + rng.uniform(0, 6))
        return
    # Balls and cars fly along parabolas joined by short bounces, without rolling.
    period, rise = rng.uniform(20, 28), rng.uniform(0.5, 0.8)
    along = (time / period + rng.uniform()) % 1.0
    motion.height = rise * (4.0 * along * (1.0 - along) - 2 / 3)
    motion.forward = _pace(rng, time, (0.12, 0.19) if actor == "ball" else (0.08, 0.12))
    if actor == "car":
        motion.tilt = motion.tilt + np.deg2rad(24) * (along - 0.5)


def _jump(rng: np.random.Generator, motion: Motion, actor: str, time: np.ndarray) -> None:
    phase = _phase(rng, time, (9, 12.5))
    rise = rng.uniform(0.45, 0.65) if actor == "ball" else rng.uniform(0.32, 0.46)
    motion.height = 0.5 * rise * _wave(phase)
    motion.forward = _pace(rng, time, (0.0, 0.02))
    fold = np.deg2rad(rng.uniform(16, 30)) * (0.5 + 0.5 * _wave(phase + QUARTER))
    for side in ("near", "far"):
        motion.add(f"hip_{side}", -fold)
        motion.add(f"knee_{side}", 1.6 * fold)
        if actor in ("cat", "dog"):
            motion.add(f"shoulder_{side}", -fold)
            motion.add(f"elbow_{side}", 1.4 * fold)
        else:
            motion.add(f"shoulder_{side}", -fold)
    motion.tilt = motion.tilt + np.deg2rad(3) * _wave(phase + QUARTER)
    motion.add("tail", 0.6 * fold)
    motion.add("ear", -0.8 * fold)
    if actor == "bird":
        _flutter(rng, motion, phase, rng.uniform(8, 16))


def _roll(rng: np.random.Generator, motion: Motion, actor: str, time: np.ndarray) -> None:
    rate = {"ball": (0.16, 0.28), "car": (0.14, 0.23)}.get(actor, (0.16, 0.27))
    motion.spin = _pace(rng, time, rate)
    radius = {"ball": 0.5, "car": 0.28}.get(actor, 0.3 * rng.uniform(0.4, 1.0))
    motion.forward = motion.spin * radius
    phase = _phase(rng, time, (9, 15))
    for joint in ("hip", "shoulder"):
        for side in ("near", "far"):
            motion.add(f"{joint}_{side}", np.deg2rad(rng.uniform(4, 10)) * _wave(phase))


def _run(rng: np.random.Generator, motion: Motion, actor: str, time: np.ndarray) -> None:
    if actor == "car":
        motion.forward = _pace(rng, time, (0.06, 0.1))
        turning = np.cumsum(motion.forward) / 0.1
        for joint in ("wheel_front", "wheel_back"):
            motion.add(joint, turning + rng.uniform(0, 6))
        motion.height = 0.006 * np.sin(time * 1.9)
        return
    phase = _phase(rng, time, (7, 9.5))
    _stride(rng, motion, actor, phase, swing=rng.uniform(20, 36))
    motion.forward = _pace(rng, time, (0.078, 0.112))
    motion.height = 0.022 * _wave(2 * phase)


def _walk(rng: np.random.Generator, motion: Motion, actor: str, time: np.ndarray) -> None:
    phase = _phase(rng, time, (13, 17))
    _stride(rng, motion, actor, phase, swing=rng.uniform(20, 36))
    motion.forward = _pace(rng, time, (0.03, 0.042))
    motion.height = 0.012 * _wave(2 * phase)


_MOVES: dict[str, Callable[[np.random.Generator, Motion, str, np.ndarray], None]] = {
    "climbing": _climb, "crawling": _crawl, "eating": _eat, "flying": _fly, "jumping": _jump, "rolling": _roll,
    "running": _run, "walking": _walk,
}  # fmt: skip
