"""Generated stills: objects and actors of a pool of their own, every instance with exactly its visible pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core.generator.figures import DESIGNS, Figure, make_figure
from stages.core.generator.objects import OBJECTS, make_object
from stages.core.generator.stills import INSTANCES, KINDS, make_still


def test_the_same_arguments_give_the_same_bytes_and_others_do_not() -> None:
    first, again = (make_still(1, 5, height=48, width=64) for _ in range(2))
    assert first.picture.tobytes() == again.picture.tobytes() and first.owner.tobytes() == again.owner.tobytes()
    assert first.kinds == again.kinds
    changed = [make_still(1, 6, height=48, width=64), make_still(2, 5, height=48, width=64)]
    changed.append(make_still(1, 5, height=48, width=64, pool="train"))
    assert all(other.picture.tobytes() != first.picture.tobytes() for other in changed)


@settings(max_examples=25, deadline=None)
@given(number=st.integers(0, 10**6), height=st.integers(32, 70), width=st.integers(32, 70))
def test_every_instance_has_pixels_and_no_pixel_has_two(number: int, height: int, width: int) -> None:
    still = make_still(3, number, height=height, width=width)
    assert still.picture.shape == (height, width, 3) and still.picture.dtype == np.uint8
    assert still.masks.shape == (len(still.kinds), height, width)
    assert INSTANCES[0] <= len(still.kinds) <= INSTANCES[1] and set(still.kinds) <= set(KINDS[1:])
    assert still.masks.any((1, 2)).all() and still.masks.sum(0).max() == 1


def test_kinds_are_actors_without_age_and_at_least_six_others() -> None:
    seen = {kind for number in range(120) for kind in make_still(4, number, height=40, width=40).kinds}
    assert seen == set(KINDS[1:])
    assert {"baby", "adult"}.isdisjoint(KINDS) and len(OBJECTS) >= 6 and set(OBJECTS) < set(KINDS)


def outline(figure: Figure) -> bytes:
    """Every corner of every part."""
    return b"".join(polygon.tobytes() for part in figure.parts for polygon, _ in part.layers)


@pytest.mark.parametrize("kind", OBJECTS)
def test_an_object_is_made_the_same_again_and_its_body_lies_within_its_reach(kind: str) -> None:
    made, again = make_object("other", kind, 3), make_object.__wrapped__("other", kind, 3)
    assert outline(made) == outline(again) and made.reach == again.reach
    assert outline(made) != outline(make_object("other", kind, 4))
    body = np.concatenate([polygon for polygon, _ in made.parts[0].layers])
    assert (np.abs(body).max(0) <= np.array(made.reach) + 1e-9).all()
    assert all(0 <= paint < len(made.paints) for part in made.parts for _, paint in part.layers)


def test_the_pool_s_looks_are_no_other_pool_s() -> None:
    assert outline(make_figure("other", "cat", 0)) != outline(make_figure("train", "cat", 0))
    assert outline(make_object("other", "box", 0)) != outline(make_object("train", "box", 0))


def test_what_cannot_be_made_is_an_error() -> None:
    with pytest.raises(ValueError, match="both sides must be at least 32"):
        make_still(1, 1, height=31, width=64)
    with pytest.raises(ValueError, match="no object of kind 'cat'; choose one of bottle"):
        make_object("other", "cat", 0)
    assert set(DESIGNS).isdisjoint(OBJECTS)
