"""Optical flow: its sign and scale, its packed form, and the encodings that methods take."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.workspace import CHECKOUT
from stages import optical_flow as flow_stage
from stages.core import items
from stages.core.batches import flow_encodings
from stages.core.items import BadItem
from stages.core.optical_flow import backends, classical
from stages.core.packs import flow
from tests.help import make

FINE: Mapping[str, Any] = {
    "backend": "dis", "preset": "medium", "direction": "forward", "height": None, "quantum": 0.0625,
}  # fmt: skip


def drift(count: int, *, right: int, down: int) -> np.ndarray:
    """(T, 80, 96, 3): a texture that moves ``right`` and ``down`` pixels a frame."""
    large = make.texture(200, 220)
    origin = (60, 60)
    return np.stack(
        [
            large[origin[0] - down * t : origin[0] - down * t + 80, origin[1] - right * t : origin[1] - right * t + 96]
            for t in range(count)
        ]
    )


def packed_flow(folder: Path, pictures: np.ndarray, **changed: Any) -> flow.ClipFlow:
    clip = make.pack_frames(folder / "frames.arrow", pictures)
    classical.pack_flow({"path": str(clip)}, FINE | changed, folder / "flow.arrow")
    return flow.ClipFlow(folder / "flow.arrow")


def typical(field: np.ndarray) -> tuple[float, float]:
    """Median (u, v) away from the border."""
    return tuple(np.median(field[16:-16, 16:-16], axis=(0, 1)).tolist())


def test_forward_flow_is_in_pixels_to_the_next_frame_right_and_down(tmp_path: Path) -> None:
    field = packed_flow(tmp_path, drift(3, right=3, down=2)).frame(0)
    assert field.shape == (80, 96, 2) and field.dtype == np.float32
    assert typical(field) == pytest.approx((3, 2), abs=0.2)


def test_backward_flow_is_in_pixels_to_the_frame_before(tmp_path: Path) -> None:
    fields = packed_flow(tmp_path, drift(3, right=3, down=2), direction="backward")
    assert typical(fields.frame(1)) == pytest.approx((-3, -2), abs=0.2)


def test_left_and_up_are_negative(tmp_path: Path) -> None:
    fields = packed_flow(tmp_path, drift(2, right=-2, down=-4))
    assert typical(fields.frame(0)) == pytest.approx((-2, -4), abs=0.2)


@pytest.mark.parametrize(("direction", "edge", "inner"), [("forward", 2, 1), ("backward", 0, 1)])
def test_the_frame_without_a_neighbour_shows_the_motion_of_the_frame_beside_it(
    tmp_path: Path, direction: str, edge: int, inner: int
) -> None:
    fields = packed_flow(tmp_path, drift(3, right=3, down=2), direction=direction)
    assert typical(fields.frame(edge)) == pytest.approx(typical(fields.frame(inner)), abs=0.3)


def test_flow_has_as_many_frames_as_its_clip_and_clamps_beyond(tmp_path: Path) -> None:
    fields = packed_flow(tmp_path, drift(4, right=1, down=0))
    assert len(fields) == 4
    assert np.array_equal(fields.frame(-2), fields.frame(0)) and np.array_equal(fields.frame(9), fields.frame(3))


def test_stored_values_are_whole_multiples_of_the_quantum(tmp_path: Path) -> None:
    fields = packed_flow(tmp_path, drift(2, right=3, down=1), quantum=0.25)
    steps = fields.frame(0) / 0.25
    assert np.array_equal(steps, np.rint(steps)) and len(np.unique(steps)) > 2


def test_a_clip_of_one_frame_has_no_motion_to_estimate(tmp_path: Path) -> None:
    with pytest.raises(BadItem, match="one frame"):
        packed_flow(tmp_path, drift(1, right=0, down=0))


def test_the_same_clip_gives_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        packed_flow(tmp_path / name, drift(3, right=2, down=1))
        written.append((tmp_path / name / "flow.arrow").read_bytes())
    assert written[0] == written[1]


# Recipes


def test_a_recipe_names_its_backend_and_direction() -> None:
    assert backends.parse_recipe("dis-forward") == ("dis", "forward")
    assert backends.parse_recipe("dis-backward") == ("dis", "backward")


@pytest.mark.parametrize("recipe", ["dis", "dis-sideways", "flownets3-forward", "", "forward-dis", "dis-forward-2"])
def test_an_unknown_recipe_is_an_error_that_names_what_there_is(recipe: str) -> None:
    with pytest.raises(ValueError, match=r"is no recipe.*dis.*forward, backward"):
        backends.parse_recipe(recipe)


def test_the_stage_refuses_an_unknown_recipe_before_it_does_anything(tmp_path: Path) -> None:
    parameters = flow_stage.Parameters(recipes={}, dis=flow_stage.Dis(preset="fast"), height=None, quantum=0.1)
    with pytest.raises(ValueError, match="is no recipe"):
        flow_stage.run(parameters, recipe="dis-sideways", frames=tmp_path / "none", output=tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("recipe", "reads", "message"),
    [
        ("tvl1-forward", "data/frames", r"no `tvl1-forward`; there are dis-forward, flownets-forward"),
        ("dis-forward", "data/train_flow/flownets", r"dis-forward reads `.*`; make it data/frames"),
        ("flownets-forward", "data/frames", r"flownets-forward reads `.*`; make it data/train_flow/flownets"),
    ],
)
def test_a_recipe_that_nobody_listed_or_that_reads_another_folder_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, reads: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    right = {"dis-forward": {"reads": "data/frames"}, "flownets-forward": {"reads": "data/train_flow/flownets"}}
    listed = {name: {"reads": reads} if name == recipe else entry for name, entry in right.items()}
    section = {"recipes": listed, "dis": {"preset": "fast"}, "height": None, "quantum": 0.1}
    Path("params.yaml").write_text(yaml.safe_dump({"optical_flow": section}))
    with pytest.raises(ValueError, match=message):
        flow_stage.main(recipe)


def test_the_shipped_recipes_read_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.setattr(flow_stage, "run", lambda _, *, recipe: started.append(recipe))
    shipped = yaml.safe_load(Path("params.yaml").read_text())["optical_flow"]["recipes"]
    for recipe in shipped:
        flow_stage.main(recipe)
    assert started == list(shipped)


def test_the_stage_keeps_each_recipe_in_a_folder_and_a_cache_of_its_own(tmp_path: Path) -> None:
    make.write_release(tmp_path / "data/raw", make.RELEASE[:2])
    with make.workspace(tmp_path):
        data = make.run_to_flow(tmp_path)
        make.run_to_flow(tmp_path, recipe="dis-backward")
    folders = [data / "optical_flow" / recipe for recipe in ("dis-forward", "dis-backward")]
    keys = [items.read_manifest(folder) for folder in folders]
    assert list(keys[0]) == list(keys[1]) == ["--first_one", "-second_one"]
    assert not set(keys[0].values()) & set(keys[1].values())
    forward, backward = (flow.ClipFlow(folder / "clips/--first_one.arrow").frame(5) for folder in folders)
    inside = make.RELEASE[0].mask(5)
    assert np.median(forward[inside], axis=0)[0] > 1 > -1 > np.median(backward[inside], axis=0)[0]


# The colour wheel


def middlebury(u: float, v: float, maximum: float) -> list[float]:
    """RGB by the published formula, pixel by pixel: 55 hues, linear between neighbours, white at rest."""
    hues: list[tuple[float, float, float]] = []
    for length, start, end in (
        (15, (255, 0, 0), (255, 255, 0)), (6, (255, 255, 0), (0, 255, 0)), (4, (0, 255, 0), (0, 255, 255)),
        (11, (0, 255, 255), (0, 0, 255)), (13, (0, 0, 255), (255, 0, 255)), (6, (255, 0, 255), (255, 0, 0)),
    ):  # fmt: skip
        for step in range(length):
            ramp = np.floor(255 * step / length)
            hues.append(tuple(a + np.sign(b - a) * ramp for a, b in zip(start, end, strict=True)))
    position = (np.arctan2(-v, -u) / np.pi + 1) / 2 * 54
    low = int(position)
    weight = position - low
    radius = np.hypot(u, v) / maximum
    mixed = [(1 - weight) * a + weight * b for a, b in zip(hues[low], hues[(low + 1) % 55], strict=True)]
    return [255 - radius * (255 - channel) for channel in mixed]


def test_the_wheel_by_table_is_the_published_formula_to_a_level() -> None:
    field = np.random.default_rng(0).normal(size=(20, 30, 2)).astype(np.float32) * 9
    maximum = float(np.hypot(field[..., 0], field[..., 1]).max())
    expected = np.array([[middlebury(float(u), float(v), maximum) for u, v in line] for line in field])
    assert np.abs(flow_encodings.colour_wheel(field) - expected).max() <= 1.5


def one_colour(u: float, v: float) -> np.ndarray:
    """RGB of (u, v) in a field whose largest motion it is."""
    return flow_encodings.colour_wheel(np.array([[[u, v], [0, 0]]], np.float32))[0, 0].astype(int)


def test_what_is_at_rest_is_white() -> None:
    assert (flow_encodings.colour_wheel(np.zeros((3, 4, 2), np.float32)) == 255).all()
    assert (flow_encodings.colour_wheel(np.array([[[5, 0], [0, 0]]], np.float32))[0, 1] == 255).all()


def test_hue_is_direction_as_in_the_middlebury_pictures() -> None:
    right, down, left, up = (one_colour(*d) for d in ((1, 0), (0, 1), (-1, 0), (0, -1)))
    assert right.tolist() == [255, 0, 0]  # red
    assert down[0] == 255 and down[1] > 200 and down[2] == 0  # yellow
    assert left[0] == 0 and min(left[1:]) > 200  # cyan
    assert up[2] == 255 and up[1] == 0  # blue to violet


def test_opposite_directions_never_share_a_colour() -> None:
    for angle in np.linspace(0, 2 * np.pi, 24, endpoint=False):
        here, there = one_colour(np.cos(angle), np.sin(angle)), one_colour(-np.cos(angle), -np.sin(angle))
        assert np.abs(here - there).max() > 100


def test_faster_is_more_saturated() -> None:
    picture = flow_encodings.colour_wheel(np.array([[[1, 0], [2, 0], [4, 0]]], np.float32))[0].astype(int)
    assert picture[0, 1] > picture[1, 1] > picture[2, 1] and (picture[:, 0] == 255).all()


@settings(deadline=None)
@given(scale=st.floats(0.01, 100), seed=st.integers(0, 1000))
def test_the_picture_does_not_depend_on_the_scale_of_the_motion(scale: float, seed: int) -> None:
    field = np.random.default_rng(seed).normal(0, 3, (5, 6, 2)).astype(np.float32)
    first, second = flow_encodings.colour_wheel(field), flow_encodings.colour_wheel(field * np.float32(scale))
    assert np.abs(first.astype(int) - second).max() <= 1


# The other encodings


def test_clipped_flow_lies_in_minus_one_to_one_and_20_pixels_are_one() -> None:
    field = np.array([[[10, -20], [55, -100]]], np.float32)
    assert flow_encodings.clipped(field).tolist() == [[[0.5, -1], [1, -1]]]


def test_magnitude_is_the_third_channel() -> None:
    assert flow_encodings.with_magnitude(np.array([[[3, -4]]], np.float32)).tolist() == [[[3, -4, 5]]]
