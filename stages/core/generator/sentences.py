"""Sentences that single an actor out among the others of its clip, in the manner of A2D Sentences."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np


@dataclass(frozen=True)
class Subject:
    """What a sentence may say of an instance; ``extent`` in frame heights, ``place`` 0 (left) to 1 (right) on average.

    An instance that ``roams`` is not described by its place.
    """

    instance: int
    actor: str
    action: str
    colour: str
    extent: float
    place: float
    roams: bool


NOUNS = {
    "adult": ("man", "person", "woman", "adult"), "baby": ("baby", "little child", "toddler"), "ball": ("ball",),
    "bird": ("bird",), "car": ("car", "automobile"), "cat": ("cat", "kitten"), "dog": ("dog", "puppy"),
}  # fmt: skip
VERBS = {
    "climbing": ("climbing", "climbing up"), "crawling": ("crawling", "crawling slowly"), "eating": ("eating",),
    "flying": ("flying", "flying through the air"), "jumping": ("jumping", "jumping up and down"),
    "rolling": ("rolling", "rolling over"), "running": ("running", "running fast"), "walking": ("walking",),
    "none": ("standing still", "staying in place"),
}  # fmt: skip
VERBS_OF_PAIR = {("car", "running"): ("driving", "driving fast"), ("ball", "rolling"): ("rolling", "rolling along")}
NEAR_IN_SIZE = 1.3
"""Two of a kind are called small and large only where their extents differ by more than this factor."""


def describe(rng: np.random.Generator, subjects: Sequence[Subject]) -> tuple[str | None, ...]:
    """One sentence per subject, in their order; None where no property tells a subject from the others."""
    return tuple(_describe_one(rng, subject, [s for s in subjects if s is not subject]) for subject in subjects)


def _describe_one(rng: np.random.Generator, subject: Subject, others: list[Subject]) -> str | None:
    properties = ("colour", "action", "place", "size")
    noun = str(rng.choice(NOUNS[subject.actor]))
    verbs = VERBS_OF_PAIR.get((subject.actor, subject.action), VERBS[subject.action])
    verb = str(rng.choice(verbs))
    order = [str(p) for p in rng.permutation(properties)]
    extra = set(rng.choice(properties[:3], size=int(rng.integers(1, 3)), replace=False).tolist()) | {"action"}
    rivals = [s for s in others if s.actor == subject.actor]
    size = _size_word(subject, rivals)
    place = _place_words(subject, rivals)
    usable = [p for p in order if not (p == "size" and size is None) and not (p == "place" and place is None)]
    for count in range(len(usable) + 1):
        for chosen in combinations(usable, count):
            if all(_differ(subject, rival, chosen) for rival in rivals):
                told = set(chosen) | (extra & set(usable))
                words = [size if "size" in told else None, subject.colour if "colour" in told else None, noun,
                         verb if "action" in told else None, place if "place" in told else None]  # fmt: skip
                return " ".join(word for word in words if word)
    return None


def _differ(subject: Subject, rival: Subject, properties: tuple[str, ...]) -> bool:
    """Size and place words are only offered where they hold against every rival."""
    return any(p in ("size", "place") or getattr(subject, p) != getattr(rival, p) for p in properties)


def _size_word(subject: Subject, rivals: list[Subject]) -> str | None:
    if rivals and all(subject.extent > NEAR_IN_SIZE * r.extent for r in rivals):
        return "large"
    if rivals and all(subject.extent * NEAR_IN_SIZE < r.extent for r in rivals):
        return "small"
    return None


def _place_words(subject: Subject, rivals: list[Subject]) -> str | None:
    if subject.roams or any(r.roams for r in rivals):
        return None
    if subject.place < 0.42 and all(r.place > subject.place + 0.12 for r in rivals):
        return "on the left"
    if subject.place > 0.58 and all(r.place < subject.place - 0.12 for r in rivals):
        return "on the right"
    if 0.42 <= subject.place <= 0.58 and all(abs(r.place - 0.5) > 0.2 for r in rivals):
        return "in the middle"
    return None
