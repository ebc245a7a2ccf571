"""Mask R-CNN, and what it shares with FCIS: frames and instances for mmdet, the backbone, choice of regions, COCO."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import mmdet
import pytest
import torch
from mmdet import models as mmdet_models
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from models.parts import detection, maskrcnn, resnet
from models.parts.network import channels_last, load_encoder, parameter_count
from models.parts.region_types import RegionBatch
from tests.help.rectangles import ACTORS, TWO_FRAMES, assert_finds, assert_well_formed, box_iou, learn, rectangles

ENCODER = resnet.Config(layers=(1, 1, 1, 1), width=8, bottleneck=False, stride=32)
TINY = replace(maskrcnn.small, encoder=ENCODER, channels=16, hidden=32, proposals=20, rois=16)


def build(
    config: maskrcnn.Config = TINY, *, seed: int = 0, learned: tuple[str, ...] | None = None
) -> maskrcnn.MaskRCNN:
    torch.manual_seed(seed)
    return maskrcnn.build(config, ACTORS, learned=learned)


@cache
def mmdets_own() -> Any:
    """mmdet's Mask R-CNN of its configuration file, without values."""
    folder = Path(mmdet.__file__).parent / ".mim" / "configs" / "mask_rcnn"
    config = Config.fromfile(folder / "mask-rcnn_r101_fpn_1x_coco.py")
    with torch.device("meta"), DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(config.model)


# Sizes


def test_the_paper_s_parameters_are_mmdet_s_but_for_the_classes() -> None:
    """mmdet's 63,163,120 are for 80 kinds: a class has 1,025 for its score, four times that for its box, 257 for its
    mask."""
    with torch.device("meta"):
        ours = parameter_count(build(maskrcnn.paper))
    assert ours == 62_770_234 == parameter_count(mmdets_own()) - 73 * (1025 + 4 * 1025 + 257)


def test_the_small_network_s_size_is_known() -> None:
    assert parameter_count(build(maskrcnn.small)) == 1_362_514


def test_keys_shapes_and_settings_of_the_paper_s_network_are_mmdet_s() -> None:
    theirs = mmdets_own()
    with torch.device("meta"):
        ours = maskrcnn.build(maskrcnn.paper, detection.COCO).detector
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}

    def assert_same(mine: Any, reference: Any) -> None:
        """All that ours says; theirs says more, of which each is the default."""
        if not isinstance(mine, dict):
            assert mine == reference
            return
        for key, value in mine.items():
            assert_same(value, reference[key])

    assert_same(ours.train_cfg, theirs.train_cfg)
    assert_same(ours.test_cfg.rpn, theirs.test_cfg.rpn)
    test = theirs.test_cfg.rcnn
    paper = maskrcnn.paper
    assert (paper.score_threshold, paper.nms, paper.regions, paper.mask_threshold) == (
        test.score_thr, test.nms.iou_threshold, test.max_per_img, test.mask_thr_binary,
    )  # fmt: skip


def test_the_backbone_computes_what_mmdet_s_does_with_the_same_weights() -> None:
    torch.manual_seed(0)
    theirs = mmdet_models.ResNet(depth=50)
    theirs.eval()
    ours = detection.Backbone(resnet.Config(layers=(3, 4, 6, 3), stride=32), fixed=False).eval()
    load_encoder(ours, theirs.state_dict(), where="mmdet")
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for mine, reference in zip(ours(x), theirs(x), strict=True):
            torch.testing.assert_close(mine, reference)
    assert detection.stage_channels(ours.config) == [256, 512, 1024, 2048]


def test_a_fixed_backbone_keeps_its_norms_statistics_and_its_first_stage() -> None:
    backbone = detection.Backbone(ENCODER, fixed=True).train()
    kept = {name: value.clone() for name, value in backbone.state_dict().items()}
    sum(level.sum() for level in backbone(torch.randn(2, 3, 64, 64) * 5)).backward()
    assert all(torch.equal(value, kept[name]) for name, value in backbone.state_dict().items())
    still = {name.split(".")[0] for name, parameter in backbone.named_parameters() if parameter.grad is None}
    learned = {name.split(".")[0] for name, parameter in backbone.named_parameters() if parameter.grad is not None}
    assert still == {"conv1", "bn1", "layer1"} and learned == {"layer2", "layer3", "layer4"}


def test_the_fixed_norms_of_an_untrained_backbone_let_no_value_grow_with_depth() -> None:
    torch.manual_seed(0)
    backbone = detection.Backbone(resnet.Config(layers=(1, 1, 20, 1), width=8, stride=32), fixed=True)
    maps = backbone(torch.randn(1, 3, 64, 64))
    assert all(level.std() < 5 for level in maps)


# Frames and instances


def test_frames_are_scaled_normalised_and_filled_up() -> None:
    frames = torch.zeros(2, 320, 568, 3, dtype=torch.uint8)
    frames[..., 0] = 255
    x, meta = detection.network_input(frames, scale=(600, 1000), divisor=16)
    assert x.shape == (2, 3, 576, 1008)
    assert meta["img_shape"] == (563, 1000), "the longer side is 1000 before the shorter one is 600"
    assert meta["scale_factor"] == (1000 / 568, 563 / 320)
    assert x[0, :, 200, 200].tolist() == pytest.approx([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225], rel=1e-4)
    assert not x[:, :, 563:].any() and not x[:, :, :, 1000:].any()


def test_frames_without_a_scale_stay_as_they_are() -> None:
    x, meta = detection.network_input(torch.zeros(1, 64, 70, 3, dtype=torch.uint8), scale=None, divisor=32)
    assert x.shape == (1, 3, 64, 96) and meta["img_shape"] == (64, 70) and meta["scale_factor"] == (1, 1)


def test_instances_are_scaled_with_their_frames_and_counted_from_0() -> None:
    batch = rectangles([[(5, (8, 16, 40, 48))], []])
    _, meta = detection.network_input(batch["frames"], scale=(128, 200), divisor=32)
    first, second = detection.ground_truth(batch, meta, classes=8)
    assert first.bboxes.tolist() == [[16, 32, 80, 96]] and first.labels.tolist() == [4]
    rows, columns = first.masks.masks[0].nonzero()
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (16, 32, 80, 96)
    assert first.masks.masks.shape == (1, 128, 192)
    assert len(second) == 0 and second.bboxes.shape == (0, 4)


@pytest.mark.parametrize("box", [(10, 10, 10, 20), (10, 20, 30, 20), (30, 10, 20, 20)])
def test_a_box_without_area_is_an_error(box: tuple[int, int, int, int]) -> None:
    batch = rectangles([[(1, (0, 0, 5, 5))]])
    batch["boxes"] = [torch.tensor([box], dtype=torch.float32)]
    with pytest.raises(ValueError, match=r"box without area.*leave instances that are not seen out"):
        build().loss(batch)


@pytest.mark.parametrize("label", [0, 8])
def test_a_label_that_is_no_class_is_an_error(label: int) -> None:
    batch = rectangles([[(1, (0, 0, 5, 5))]])
    batch["labels"] = [torch.tensor([label])]
    with pytest.raises(ValueError, match="of the classes 1 to 7"):
        build().loss(batch)


# Choice of regions


def test_overlapping_regions_of_one_class_leave_the_best() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8], [50, 50, 60, 60.0], [0, 0, 0.5, 10]])
    scores = torch.tensor([[0.2, 0.6, 0.2], [0.1, 0.9, 0.0], [0.1, 0.2, 0.7], [0.96, 0.04, 0.0], [0.0, 1.0, 0.0]])
    kept = detection.best_regions(boxes, scores, threshold=0.05, iou=0.5, most=10)
    assert kept.tolist() == [1, 2], "the first loses to the second; the third is of another class; 0.04 is too little"
    assert detection.best_regions(boxes, scores, threshold=0.05, iou=0.95, most=2).tolist() == [1, 2]
    assert detection.best_regions(boxes, scores, threshold=0.05, iou=0.95, most=9).tolist() == [1, 2, 0]
    assert detection.best_regions(boxes, scores, threshold=1.0, iou=0.5, most=10).tolist() == []


# Kinds of COCO


def test_the_kinds_of_coco_are_those_of_its_checkpoints() -> None:
    from mmdet.datasets import CocoDataset

    assert list(detection.COCO) == ["background", *CocoDataset.METAINFO["classes"]]


def test_persons_are_reported_as_adults_and_what_is_no_actor_as_background() -> None:
    scores = torch.full((1, 81), 0.1 / 78)
    for kind, score in (("background", 0.2), ("person", 0.4), ("sports ball", 0.3)):
        scores[0, detection.COCO.index(kind)] = score
    [reported] = detection.reported_scores(scores, detection.reported_classes(detection.COCO, ACTORS))
    # bird, car, cat and dog are four of the 78 others; 74 join the background
    expected = [0.2 + 74 * 0.1 / 78, 0.4, 0, 0.3, *[0.1 / 78] * 4]
    assert reported.tolist() == pytest.approx(expected, abs=1e-6)


def test_classes_that_are_learned_under_their_own_names_are_reported_as_they_are() -> None:
    assert detection.reported_classes(ACTORS, ACTORS) == [1, 2, 3, 4, 5, 6, 7]
    assert detection.reported_classes(detection.COCO, detection.COCO) == list(range(1, 81))
    assert detection.reported_classes(("background", "chair", "person", "dog"), ACTORS) == [2, -1, -1, -1, -1, -1, 3]


def test_a_network_that_knows_none_of_the_classes_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"learned background, chair, \.\.\. can report none of background, adult"):
        detection.reported_classes(("background", "chair"), ACTORS)


@cache
def checkpoint() -> dict[str, Tensor]:
    """Keys and shapes of mmdet's COCO checkpoint; each row of the heads holds its own number. 0 MB: values repeat."""
    state = {key: torch.zeros(()).expand(value.shape) for key, value in mmdets_own().state_dict().items()}
    for layer in ("bbox_head.fc_cls", "bbox_head.fc_reg", "mask_head.conv_logits"):
        for key in (f"roi_head.{layer}.weight", f"roi_head.{layer}.bias"):
            shape = state[key].shape
            state[key] = torch.arange(float(shape[0])).view(-1, *[1] * (len(shape) - 1)).expand(shape)
    state["backbone.layer3.22.bn3.weight"] = torch.full((1024,), 3.0)
    return state


def heads(network: maskrcnn.MaskRCNN) -> dict[str, list[float]]:
    """First column of each head."""
    roi_head = network.detector.roi_head
    layers = {
        "class": roi_head.bbox_head.fc_cls,
        "box": roi_head.bbox_head.fc_reg,
        "mask": roi_head.mask_head.conv_logits,
    }
    assert all(torch.equal(layer.weight.flatten(1)[:, 0], layer.bias) for layer in layers.values())
    return {name: layer.bias.tolist() for name, layer in layers.items()}


def test_a_checkpoint_of_coco_loads_as_it_is_where_its_kinds_are_learned() -> None:
    network = build(maskrcnn.paper, learned=detection.COCO)
    network.load_coco({"meta": {}, "state_dict": checkpoint()}, where="coco.pth")
    assert heads(network) == {"class": list(range(81)), "box": list(range(320)), "mask": list(range(80))}
    assert network.detector.backbone.layer3[22].bn3.weight.eq(3).all()


def test_for_fine_tuning_each_actor_starts_from_the_weights_of_its_kind() -> None:
    network = build(maskrcnn.paper)
    network.load_coco(checkpoint(), where="coco.pth")
    kinds = [0, 0, 32, 14, 2, 15, 16]  # person twice, sports ball, bird, car, cat, dog, as mmdet counts
    boxes = [4 * kind + side for kind in kinds for side in range(4)]
    assert heads(network) == {"class": [*kinds, 80], "box": boxes, "mask": kinds}
    assert network.detector.backbone.layer3[22].bn3.weight.eq(3).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: {k: v for k, v in w.items() if k != "roi_head.bbox_head.fc_cls.bias"},
            r"missing keys .*fc_cls.bias",
        ),
        (lambda w: w | {"mask_head.x": torch.zeros(1)}, r"unexpected keys \['mask_head.x'\] \(1\)"),
        (lambda w: w | {"roi_head.bbox_head.fc_cls.bias": torch.zeros(21)}, "other shapes .*fc_cls.bias"),
    ],
    ids=["missing", "unexpected", "other classes"],
)
def test_a_checkpoint_that_does_not_fit_is_an_error_that_lists_its_keys(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    with torch.device("meta"):
        network = build(maskrcnn.paper)
    with pytest.raises(ValueError, match=f"mine.pth does not fit.*{message}"):
        network.load_coco(change(checkpoint()), where="mine.pth")


def test_a_class_that_coco_has_no_kind_for_is_an_error() -> None:
    network = maskrcnn.build(TINY, ("background", "dog", "dragon"))
    with pytest.raises(ValueError, match="no kind of object for dragon"):
        network.load_coco({}, where="coco.pth")


@pytest.mark.parametrize(("kind", "actor"), [("person", "adult"), ("sports ball", "ball"), ("chair", None)])
def test_what_a_network_of_coco_finds_is_reported_in_our_classes(kind: str, actor: str | None) -> None:
    network = build(learned=detection.COCO).eval()
    bias = network.detector.roi_head.bbox_head.fc_cls.bias
    nn.init.constant_(bias[detection.COCO.index(kind) - 1], 20.0)
    [regions] = network.predict(rectangles(TWO_FRAMES)["frames"][:1])
    assert_well_formed(regions, classes=8)
    assert bool(len(regions.boxes)) == (actor is not None)
    assert {ACTORS[int(best)] for best in regions.class_scores.argmax(1)} == ({actor} if actor else set())


# Learning and finding


def test_the_small_network_learns_two_frames_and_finds_what_is_in_them() -> None:
    batch = rectangles(TWO_FRAMES)
    network = build(maskrcnn.small)
    losses = learn(network, batch, steps=35, learning_rate=2e-3)
    assert losses[-1] < losses[0] / 3
    found = network.eval().predict(batch["frames"])
    assert_finds(found, batch, threshold=maskrcnn.small.mask_threshold)


def test_the_loss_is_the_sum_of_its_parts() -> None:
    losses = build().loss(rectangles(TWO_FRAMES))
    assert set(losses) == {"loss", "rpn_cls", "rpn_bbox", "cls", "bbox", "mask"}
    assert all(part.isfinite() and part > 0 for part in losses.values())
    torch.testing.assert_close(losses["loss"], sum(part for name, part in losses.items() if name != "loss"))


@pytest.mark.parametrize("frames", [[[], TWO_FRAMES[0]], [[], []]], ids=["one of two", "both"])
def test_frames_without_instances_are_background_to_learn_from(frames: list[Any]) -> None:
    network = build()
    losses = network.loss(rectangles(frames))
    losses["loss"].backward()
    assert losses["rpn_cls"] > 0 and losses["cls"] > 0
    if not any(frames):
        assert losses["mask"] == losses["bbox"] == losses["rpn_bbox"] == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_a_frame_in_which_nothing_is_found_has_no_regions() -> None:
    [regions] = build(replace(TINY, score_threshold=1.0)).eval().predict(rectangles(TWO_FRAMES)["frames"][:1])
    assert len(regions.boxes) == 0
    assert_well_formed(regions, classes=8)


@pytest.mark.parametrize("size", [(64, 96), (61, 83), (40, 200)])
def test_regions_of_any_frame_are_well_formed(size: tuple[int, int]) -> None:
    frames = rectangles(TWO_FRAMES[:1], height=size[0], width=size[1])["frames"]
    for scale in (None, (48, 90)):
        [regions] = build(replace(TINY, score_threshold=0.0, scale=scale)).eval().predict(frames)
        assert len(regions.boxes) > 3
        assert_well_formed(regions, classes=8, height=size[0], width=size[1])


def test_a_frame_s_regions_do_not_depend_on_its_batch() -> None:
    network = build(replace(TINY, score_threshold=0.0)).eval()
    frames = rectangles([*TWO_FRAMES, []])["frames"]
    together = network.predict(frames)
    for frame, expected in zip(frames, together, strict=True):
        [alone] = network.predict(frame[None])
        assert all(torch.equal(getattr(alone, name), getattr(expected, name)) for name in vars(alone))


def test_rois_are_pooled_as_well_where_channels_lie_last() -> None:
    """mmcv's RoIAlign reads memory as if channels came first, without a word; frames have them last from the start."""
    detector: Any = channels_last(build()).eval().detector
    x, _ = detection.network_input(rectangles(TWO_FRAMES)["frames"], scale=None, divisor=32)
    rois = torch.tensor([[0, 8.0, 10, 40, 42], [1, 0, 0, 96, 64]])
    with torch.no_grad():
        plain = [
            level.clone(memory_format=torch.contiguous_format)
            for level in mmdet_models.MaskRCNN.extract_feat(detector, x)
        ]
        expected = detector.roi_head.bbox_roi_extractor(plain, rois)
        found = detector.roi_head._bbox_forward(detector.extract_feat(x), rois)["bbox_feats"]
    assert expected.any() and torch.equal(found, expected)


def test_a_larger_scale_of_the_network_leaves_boxes_in_the_frame_s_pixels() -> None:
    """Trained and tested at twice the size of the frames."""
    batch = rectangles([[(1, (16, 10, 48, 42))]])
    network = build(replace(TINY, scale=(96, 144)))
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(30):
        optimiser.zero_grad()
        network.loss(batch)["loss"].backward()
        optimiser.step()
    [regions] = network.eval().predict(batch["frames"])
    assert box_iou(regions.boxes[0], batch["boxes"][0][0]) > 0.5


# Parameters


@pytest.mark.parametrize("config", [maskrcnn.paper, maskrcnn.small], ids=["paper", "small"])
def test_each_parameter_that_learns_is_in_one_group_with_a_rate(config: maskrcnn.Config) -> None:
    with torch.device("meta"):
        network = build(config)
    groups = network.parameter_groups()
    grouped = [parameter for group in groups.values() for parameter in group]
    assert len(grouped) == len({id(parameter) for parameter in grouped})
    assert sum(parameter.numel() for parameter in grouped) == parameter_count(network)
    assert set(groups) == set(config.training.learning_rates)


def test_pretrained_weights_of_the_dilated_network_load() -> None:
    network = build(maskrcnn.small)
    pretrained = resnet.ResNet(resnet.SMALL)
    assert pretrained.config.stride == 8
    load_encoder(network.encoder_slots()["rgb2d"], pretrained.state_dict(), where="rgb2d.pt")  # type: ignore[arg-type]
    assert torch.equal(
        network.detector.backbone.layer4[0].conv2.weight, pretrained.state_dict()["layer4.0.conv2.weight"]
    )


def test_building_a_network_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    build()
    assert capfd.readouterr() == ("", "")


def test_a_batch_is_left_as_it_was() -> None:
    batch, same = rectangles(TWO_FRAMES), rectangles(TWO_FRAMES)
    build().loss(batch)
    for name in RegionBatch.__annotations__:
        for now, before in zip(batch[name], same[name], strict=True):  # type: ignore[literal-required]
            assert torch.equal(now, before)
