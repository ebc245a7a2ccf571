"""Joint: what is detected in a frame, and the label maps that are painted of it."""

from dataclasses import replace

import pytest
import torch

from models import joint
from models.parts.region_types import Detections, InstanceBatch
from stages.core.datasets.labels import A2D
from tests.help.small_joints import (  # fmt: skip
    DETECTOR,
    RGB,
    TINY,
    TWO_WINDOWS,
    assert_well_formed,
    batch,
    build,
    detected,
    differing,
    of_actors,
    of_head,
    variant,
)

pytestmark = pytest.mark.usefixtures("one_thread")


# Detections


def test_a_window_s_detections_and_maps_do_not_depend_on_its_batch() -> None:
    network, given = build().eval(), batch([*TWO_WINDOWS, []])
    together, maps = network.detect(given), network.predict(given)
    for number, expected in enumerate(together):
        one = slice(number, number + 1)
        alone = InstanceBatch(frames=given["frames"][one], flow=given["flow"][one])
        assert differing(vars(expected), detected(network, alone)) == set()
        assert torch.equal(network.predict(alone).joint[0], maps.joint[number])


@pytest.mark.parametrize("name", ["full", *joint.VARIANTS])
@pytest.mark.parametrize("size", [(64, 96), (61, 83)], ids=["even", "odd"])
def test_detections_lie_in_the_frame_and_maps_have_its_size(name: str, size: tuple[int, int]) -> None:
    config = TINY if name == "full" else variant(name)
    given = batch(length=config.window.length, height=size[0], width=size[1])
    network = build(config).eval()
    first, second = network.detect(given)
    for found in (first, second):
        assert len(found.scores) > 3
        assert_well_formed(found, height=size[0], width=size[1])
    predicted = network.predict(given)
    assert all(map_.shape == (2, *size) and map_.dtype == torch.uint8 for map_ in vars(predicted).values())


@pytest.mark.parametrize("changes", [{"score_threshold": 1.0}, {"proposals": 0}], ids=["too unsure", "no proposal"])
def test_where_nothing_is_found_all_is_background(changes: dict[str, float]) -> None:
    network, given = build(replace(TINY, detector=replace(DETECTOR, **changes))).eval(), batch()  # type: ignore[arg-type]
    for found in network.detect(given):
        assert len(found.scores) == 0
        assert_well_formed(found)
    assert not any(map_.any() for map_ in vars(network.predict(given)).values())


def test_only_actions_that_the_actor_can_do_count_towards_the_threshold() -> None:
    """The head says flying; an adult cannot fly, a bird can."""
    for actor, threshold, any_found in [(1, 0.3, False), (4, 0.3, True), (1, 0.0, True)]:
        network = build(replace(TINY, action_threshold=threshold)).eval()
        of_head(network, {4: 5.0})
        of_actors(network, actor)
        found, _ = network.detect(batch())
        assert bool(len(found.scores)) == any_found
        assert (found.actor_scores.argmax(1) == actor).all()


def test_among_overlapping_detections_of_one_actor_the_surest_is_left() -> None:
    def of(iou: float) -> Detections:
        network = build(replace(TINY, detector=replace(DETECTOR, nms=iou))).eval()
        of_actors(network, 7)
        return network.detect(batch())[0]

    few, many = of(0.05), of(0.95)
    assert 0 < len(few.scores) < len(many.scores) and few.scores[0] == many.scores[0]


# Painting


def detections(*found: tuple[tuple[float, ...], float, dict[int, float], dict[int, float]]) -> Detections:
    """Box, mask's probability, scores of actors and of actions of each; the surest actor first."""
    actors, actions = torch.zeros(len(found), 8), torch.zeros(len(found), 10)
    for row, (_, _, who, does) in enumerate(found):
        for scores, given in ((actors, who), (actions, does)):
            for label, score in given.items():
                scores[row, label] = score
    return Detections(
        boxes=torch.tensor([box for box, *_ in found]),
        scores=actors[:, 1:].amax(1),
        actor_scores=actors,
        action_scores=actions,
        soft_masks=torch.stack([torch.full((28, 28), mask) for _, mask, *_ in found]),
    )


@pytest.fixture(scope="module")
def painter(one_thread: None) -> joint.Joint:
    return build(RGB)


def test_the_surest_detection_lies_on_top_and_pixels_of_none_are_background(painter: joint.Joint) -> None:
    sure = ((0.0, 0.0, 4.0, 2.0), 0.9, {1: 0.9}, {7: 0.9})
    unsure = ((2.0, 0.0, 6.0, 2.0), 1.0, {6: 0.8}, {6: 1.0})
    painted = painter.paint([detections(sure, unsure)], (3, 8))
    assert painted.joint.tolist() == [[[17, 17, 17, 17, 66, 66, 0, 0]] * 2 + [[0] * 8]]
    assert painted.actor.tolist() == [[[1, 1, 1, 1, 6, 6, 0, 0]] * 2 + [[0] * 8]]
    assert painted.action.tolist() == [[[7, 7, 7, 7, 6, 6, 0, 0]] * 2 + [[0] * 8]]


def test_a_pixel_at_the_threshold_of_the_surest_mask_is_the_next_detection_s(painter: joint.Joint) -> None:
    box = (0.0, 0.0, 4.0, 1.0)
    for mask, expected in [(0.5, 66), (0.501, 17)]:
        found = detections((box, mask, {1: 0.9}, {7: 0.9}), (box, 0.8, {6: 0.8}, {6: 1.0}))
        assert painter.paint([found], (1, 4)).joint.tolist() == [[[expected] * 4]]


def test_soft_masks_are_stretched_over_their_boxes(painter: joint.Joint) -> None:
    found = detections(((2.0, 0.0, 6.0, 1.0), 1.0, {1: 0.9}, {7: 0.9}))
    found.soft_masks[:, :, 14:] = 0
    assert painter.paint([found], (1, 8)).joint.tolist() == [[[0, 0, 17, 17, 0, 0, 0, 0]]]


def test_frames_are_painted_apart_and_one_without_detections_is_background(painter: joint.Joint) -> None:
    found = detections(((0.0, 0.0, 2.0, 1.0), 1.0, {1: 0.9}, {7: 0.9}))
    nothing = Detections(*(value[:0] for value in vars(found).values()))
    painted = painter.paint([nothing, found], (1, 2))
    assert painted.joint.tolist() == [[[0, 0]], [[17, 17]]] and painted.joint.dtype == torch.uint8


def test_the_joint_map_has_the_best_pair_that_can_occur_the_others_what_the_heads_say(painter: joint.Joint) -> None:
    """Bird-running is the best of all pairs but cannot be; adult-running, 0.35, is before bird-walking, 0.08."""
    found = detections(((0.0, 0.0, 1.0, 1.0), 1.0, {4: 0.6, 1: 0.4}, {0: 0.95, 7: 0.875, 8: 0.125}))
    painted = painter.paint([found], (1, 1))
    assert (painted.joint.item(), painted.actor.item(), painted.action.item()) == (17, 4, 7)


def test_pairs_that_cannot_occur_never_come_out(painter: joint.Joint) -> None:
    random = torch.Generator().manual_seed(0)
    count = 3000
    left = torch.arange(float(count))
    found = Detections(
        boxes=torch.stack([left, torch.zeros(count), left + 1, torch.ones(count)], dim=1),
        scores=torch.ones(count),
        actor_scores=torch.rand(count, 8, generator=random),
        action_scores=torch.rand(count, 10, generator=random),
        soft_masks=torch.ones(count, 28, 28),
    )
    painted = painter.paint([found], (1, count))
    assert set(painted.joint.unique().tolist()) == set(A2D.valid_ids[1:]), "each that can occur is the best somewhere"
    assert set(painted.actor.unique().tolist()) == set(range(1, 8))
    assert set(painted.action.unique().tolist()) == set(range(1, 10))
