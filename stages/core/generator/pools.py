"""Named pools of looks and backgrounds: what separates training from test clips.

A pool is a finite list of looks per actor and of backgrounds, each of which is nothing but a seed derived by sha256 of
(pool, kind, index). Two pools share no seed, so a test clip never shows a figure or a background of a training clip.
"""

import hashlib

import numpy as np

LOOKS = {"train": 60, "test": 40, "pretrain": 400, "flow": 36}
"""Looks an actor in a pool; a pool that is not named here has ``OTHER_LOOKS``."""
BACKGROUNDS = {"train": 160, "test": 80, "pretrain": 600, "flow": 600}
OTHER_LOOKS = 48
OTHER_BACKGROUNDS = 96


def derive_seed(*ingredients: str | int) -> int:
    """A 128-bit seed: the first half of sha256 over the ingredients, which are told apart by type and by place."""
    text = "\x1f".join(f"{type(i).__name__}:{i}" for i in ingredients)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def generator(*ingredients: str | int) -> np.random.Generator:
    """A random generator that depends on the ingredients alone."""
    return np.random.Generator(np.random.PCG64(derive_seed(*ingredients)))


def look_count(pool: str) -> int:
    """How many looks of one actor the pool holds."""
    return LOOKS.get(pool, OTHER_LOOKS)


def background_count(pool: str) -> int:
    """How many backgrounds the pool holds."""
    return BACKGROUNDS.get(pool, OTHER_BACKGROUNDS)
