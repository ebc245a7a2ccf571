"""FlowNet: published sizes, correlation against a plain loop, multi-scale loss, odd frame sizes, public checkpoints."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from models.parts import flownet
from models.parts.flownet import Config, FlowNet, Pairs, correlation
from models.parts.network import channels_last, parameter_count

TINY = {
    "s": replace(flownet.flownets_paper, width=0.06),
    "c": replace(flownet.flownetc_paper, width=0.06, displacement=2, step=1),
}
KINDS = pytest.mark.parametrize("kind", ["s", "c"])
PAPER = {"s": flownet.flownets_paper, "c": flownet.flownetc_paper}


pytestmark = pytest.mark.usefixtures("one_thread")


def pairs(height: int = 64, width: int = 128, *, count: int = 1, seed: int = 0) -> Pairs:
    """Noise."""
    random = torch.Generator().manual_seed(seed)
    first, second = torch.randint(0, 256, (2, count, height, width, 3), generator=random, dtype=torch.uint8)
    return Pairs(first=first, second=second)


def tiny(kind: str) -> FlowNet:
    torch.manual_seed(0)
    return flownet.build(TINY[kind]).eval()


class Constant(flownet.FlowNetS):
    """Predicts the same flow, in units of ``div_flow``, everywhere and at every scale."""

    def __init__(self, u: float, v: float, config: Config = TINY["s"]) -> None:
        super().__init__(config)
        self.flow = torch.tensor([u, v], dtype=torch.float32).view(1, 2, 1, 1)

    def forward(self, pairs: Pairs) -> list[Tensor]:
        return [self.flow.expand_as(flow) for flow in super().forward(pairs)]


# Sizes and shapes


@pytest.mark.parametrize(
    ("config", "count", "published"),
    [(flownet.flownets_paper, 38_675_536, 38.68e6), (flownet.flownetc_paper, 39_174_320, 39.18e6)],
    ids=["s", "c"],
)
def test_the_paper_s_sizes_are_the_published_ones(config: Config, count: int, published: float) -> None:
    with torch.device("meta"):
        assert parameter_count(flownet.build(config)) == count
    assert abs(count / published - 1) < 2e-4


def test_the_difference_to_flownetc_of_flownet2_is_its_biases() -> None:
    """NVIDIA's port counts 39,175,298: there, deconvolutions, predictions and upsampled flow have biases."""
    with torch.device("meta"):
        network = flownet.build(flownet.flownetc_paper)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    assert parameter_count(network) + sum(layer.out_channels for layer in layers if layer.bias is None) == 39_175_298


def test_the_small_networks_sizes_are_known() -> None:
    with torch.device("meta"):
        counts = [parameter_count(flownet.build(c)) for c in (flownet.flownets_small, flownet.flownetc_small)]
    assert counts == [2_437_360, 2_569_744]


def test_the_small_sizes_normalise_batches_under_the_public_port_s_names() -> None:
    """flownets_bn of the port: convolutions without a bias, then their batch norm; nothing in the refinement."""
    with torch.device("meta"):
        state = flownet.build(flownet.flownets_small).state_dict()
    norms = {f"{name}.1.{value}" for name in CONTRACTING for value in NORM}
    assert set(state) == {f"{name}.0.weight" for name in CONTRACTING} | norms | REFINING


def test_flow_layers_see_the_published_numbers_of_channels() -> None:
    with torch.device("meta"):
        for config in PAPER.values():
            network = flownet.build(config)
            seen = [network.get_submodule(f"predict_flow{level}").in_channels for level in (6, 5, 4, 3, 2)]
            assert seen == [1024, 1026, 770, 386, 194]


def test_the_published_correlation_has_441_channels_and_473_with_the_redirected_ones() -> None:
    assert flownet.flownetc_paper.displacements**2 == 441
    with torch.device("meta"):
        state = flownet.build(flownet.flownetc_paper).state_dict()
    assert state["conv_redir.0.weight"].shape == (32, 256, 1, 1)
    assert state["conv3_1.0.weight"].shape == (256, 473, 3, 3)


@KINDS
@pytest.mark.parametrize("config", [PAPER, TINY], ids=["paper", "tiny"])
def test_five_scales_from_a_quarter_to_a_64th(kind: str, config: dict[str, Config]) -> None:
    with torch.device("meta"):
        network = flownet.build(config[kind])
        frames = torch.empty(2, 320, 448, 3, dtype=torch.uint8)
        flows = network(Pairs(first=frames, second=frames))
    assert [tuple(flow.shape) for flow in flows] == [
        (2, 2, 80, 112), (2, 2, 40, 56), (2, 2, 20, 28), (2, 2, 10, 14), (2, 2, 5, 7)
    ]  # fmt: skip


@KINDS
def test_the_paper_s_size_predicts_and_learns_on_a_small_pair(kind: str) -> None:
    torch.manual_seed(0)
    network = channels_last(flownet.build(PAPER[kind]))
    assert isinstance(network, FlowNet)
    batch = pairs(64, 64)
    assert network.predict(batch).shape == (1, 64, 64, 2)
    network.loss(Pairs(**batch, flow=torch.full((1, 64, 64, 2), 3.0)))["loss"].backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [({"kind": "x"}, "neither `s`"), ({"displacement": 5, "step": 2}, "multiple of step"), ({"step": 0}, "step 0")],
)
def test_a_configuration_that_means_nothing_is_an_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(flownet.flownetc_paper, **change)


# Correlation


def looped(first: Tensor, second: Tensor, *, displacement: int, step: int) -> Tensor:
    """The definition, one displacement and one pixel at a time."""
    batch, channels, height, width = first.shape
    shifts = range(-displacement, displacement + 1, step)
    planes = []
    for dy in shifts:
        for dx in shifts:
            plane = first.new_zeros(batch, height, width)
            for y in range(max(0, -dy), min(height, height - dy)):
                for x in range(max(0, -dx), min(width, width - dx)):
                    plane[:, y, x] = (first[:, :, y, x] * second[:, :, y + dy, x + dx]).sum(1) / channels
            planes.append(plane)
    return torch.stack(planes, dim=1)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 5), st.integers(1, 7), st.integers(0, 2), st.integers(1, 3))
def test_correlation_and_its_gradients_are_those_of_a_plain_loop(
    batch: int, channels: int, height: int, width: int, reach: int, step: int
) -> None:
    random = torch.Generator().manual_seed(height * 10 + width)
    shape = (batch, channels, height, width)
    inputs = [torch.randn(shape, generator=random, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    got = correlation(*inputs, displacement=reach * step, step=step)
    expected = looped(*inputs, displacement=reach * step, step=step)
    assert got.shape == expected.shape == (batch, (2 * reach + 1) ** 2, height, width)
    torch.testing.assert_close(got, expected)
    weights = torch.randn(got.shape, generator=random, dtype=torch.float64)
    gradients = [torch.autograd.grad((values * weights).sum(), inputs) for values in (got, expected)]
    torch.testing.assert_close(*gradients)


def test_the_published_correlation_is_that_of_a_plain_loop() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 1, 8, 6, 9, dtype=torch.float64)
    got = correlation(first, second, displacement=20, step=2)
    assert got.shape == (1, 441, 6, 9)
    torch.testing.assert_close(got, looped(first, second, displacement=20, step=2))


def test_a_feature_that_moved_answers_in_the_channel_of_its_displacement() -> None:
    first, second = torch.zeros(2, 1, 4, 30, 40)
    first[:, :, 10, 20] = 1
    second[:, :, 14, 12] = 1  # 4 down, 8 to the left: row 10 + 2, column 10 - 4
    got = correlation(first, second, displacement=20, step=2)
    assert got.nonzero().tolist() == [[0, 12 * 21 + 6, 10, 20]]
    assert got.max() == 1  # 4 channels of 1 * 1, over 4 channels


def test_products_pass_a_leaky_relu_before_conv3_1() -> None:
    network = tiny("c")
    seen: list[Tensor] = []
    network.get_submodule("conv3_1").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    features: list[Tensor] = []
    network.get_submodule("conv3").register_forward_hook(lambda _, __, output: features.append(output))
    with torch.no_grad():
        network(pairs())
    one, two = features[0].chunk(2)
    products = correlation(one, two, displacement=2, step=1)
    assert (products < 0).any()
    expected = torch.where(products < 0, products * 0.1, products)
    torch.testing.assert_close(seen[0][:, -25:], expected)


# Prediction


@KINDS
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 65), (90, 142), (33, 130)])
def test_any_size_gives_flow_of_that_size(kind: str, size: tuple[int, int]) -> None:
    flow = tiny(kind).predict(pairs(*size, count=2))
    assert flow.shape == (2, *size, 2) and flow.dtype == torch.float32 and flow.isfinite().all()


@pytest.mark.parametrize("size", [(64, 64), (45, 71)])
def test_flow_is_in_pixels_of_the_frame_whatever_its_size(size: tuple[int, int]) -> None:
    flow = Constant(0.5, -0.25).predict(pairs(*size))
    torch.testing.assert_close(flow, torch.tensor([10.0, -5.0]).expand(1, *size, 2))


def test_full_resolution_is_bilinear_between_the_centres_of_cells() -> None:
    """Cells of 4 pixels have centres 1.5 and 5.5: pixel 2 lies 1/8 of the way from the first to the second."""
    finest = torch.tensor([[0.0, 8.0]]).expand(1, 2, 1, 2)
    flow = tiny("s")._full_size(finest, torch.empty(1, 3, 3, 7))
    assert flow.shape == (1, 2, 3, 7)
    torch.testing.assert_close(flow[0, 0, 0] / 20, torch.tensor([0.0, 0.0, 1.0, 3.0, 5.0, 7.0, 8.0]))


@KINDS
@pytest.mark.parametrize("size", [(64, 128), (50, 90)])
def test_a_pair_s_flow_does_not_depend_on_its_batch(kind: str, size: tuple[int, int]) -> None:
    network = channels_last(tiny(kind))
    assert isinstance(network, FlowNet)
    batch = pairs(*size, count=5)
    together = network.predict(batch)
    for start, stop in ((0, 1), (1, 3), (4, 5)):
        some = network.predict(Pairs(first=batch["first"][start:stop], second=batch["second"][start:stop]))
        assert torch.equal(some, together[start:stop])


@KINDS
def test_one_forward_of_a_batch_differs_from_single_pairs_by_rounding_only(kind: str) -> None:
    """What a GPU computes in one piece."""
    network = tiny(kind)
    batch = pairs(count=4)
    with torch.no_grad():
        whole = network._full_size(network(batch)[0], batch["first"].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(whole, network.predict(batch), atol=1e-3, rtol=1e-4)


@KINDS
def test_prediction_is_the_same_in_training_and_evaluation(kind: str) -> None:
    network = tiny(kind)
    expected = network.predict(pairs())
    assert torch.equal(network.train().predict(pairs()), expected) and expected.any()


@KINDS
def test_the_order_of_the_frames_matters(kind: str) -> None:
    network, batch = tiny(kind), pairs()
    turned = Pairs(first=batch["second"], second=batch["first"])
    assert not torch.allclose(network.predict(batch), network.predict(turned), atol=1e-3)


@KINDS
def test_the_gain_of_flow_layers_makes_a_network_start_near_zero_flow(kind: str) -> None:
    torch.manual_seed(0)
    start = flownet.build(replace(TINY[kind], flow_gain=0.01)).predict(pairs()).abs().mean()
    assert 0 < start < tiny(kind).predict(pairs()).abs().mean() / 20


def test_deviation_divides_frames_once_their_mean_is_off() -> None:
    frames = pairs()["first"]
    halved = flownet.build(replace(TINY["s"], deviation=0.5))._normalised(frames)
    torch.testing.assert_close(halved, 2 * tiny("s")._normalised(frames))


def test_frames_are_scaled_and_lose_the_mean() -> None:
    frames = torch.tensor([[[[255, 0, 51]]]], dtype=torch.uint8)
    expected = torch.tensor([1 - 0.411, -0.432, 0.2 - 0.45]).view(1, 3, 1, 1)
    torch.testing.assert_close(tiny("s")._normalised(frames), expected)


# Loss


def truth(u: float, v: float, *, size: tuple[int, int] = (64, 64), count: int = 1) -> Tensor:
    return torch.tensor([u, v], dtype=torch.float32).expand(count, *size, 2).clone()


def test_loss_sums_endpoint_errors_over_each_scale() -> None:
    """The prediction (0, 0) of the flow (6, 8) is wrong by 10 pixels: 0.5 units, at each of 16^2 .. 1 cells."""
    losses = Constant(0, 0).loss(Pairs(**pairs(64, 64), flow=truth(6, 8)))
    expected = 0.5 * (0.005 * 256 + 0.01 * 64 + 0.02 * 16 + 0.08 * 4 + 0.32 * 1)
    assert losses["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert losses["endpoint_error"].item() == pytest.approx(10, rel=1e-5)


def test_the_robust_loss_is_a_power_of_the_endpoint_error() -> None:
    """0.5 units wrong, and the offset 0.01, to the power of a half; the endpoint error that is told stays in pixels."""
    robust = replace(TINY["s"], exponent=0.5)
    losses = Constant(0, 0, robust).loss(Pairs(**pairs(64, 64), flow=truth(6, 8)))
    expected = 0.51**0.5 * (0.005 * 256 + 0.01 * 64 + 0.02 * 16 + 0.08 * 4 + 0.32 * 1)
    assert losses["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert losses["endpoint_error"].item() == pytest.approx(10, rel=1e-5)


def test_loss_is_a_mean_over_pairs() -> None:
    one = Constant(0, 0).loss(Pairs(**pairs(64, 64), flow=truth(6, 8)))["loss"]
    three = Constant(0, 0).loss(Pairs(**pairs(64, 64, count=3), flow=truth(6, 8, count=3)))["loss"]
    torch.testing.assert_close(three, one)


def test_a_right_prediction_costs_nothing_and_its_gradient_is_a_number() -> None:
    network = Constant(0.3, -0.4)
    network.flow = nn.Parameter(network.flow)
    losses = network.loss(Pairs(**pairs(64, 64), flow=truth(6, -8)))
    losses["loss"].backward()
    assert losses["loss"].item() == pytest.approx(0, abs=1e-4)
    assert network.flow.grad is not None and network.flow.grad.isfinite().all()


def test_the_truth_of_a_cell_is_its_mean_flow() -> None:
    flow = truth(0, 0)
    flow[:, :, ::2] = 40.0  # every second column: mean 20, which is one unit
    losses = Constant(1, 1).loss(Pairs(**pairs(64, 64), flow=flow))
    assert losses["loss"].item() == pytest.approx(0, abs=1e-4)
    assert losses["endpoint_error"].item() == pytest.approx(20 * 2**0.5, rel=1e-5)


@pytest.mark.parametrize("how", ["nan", "infinite", "one component", "mask"])
def test_unknown_pixels_count_neither_in_the_truth_of_a_cell_nor_in_the_error(how: str) -> None:
    unknown = torch.zeros(1, 64, 64, dtype=torch.bool)
    unknown[:, ::2] = True
    unknown[:, :, 32:] = True
    batch = Pairs(**pairs(64, 64), flow=truth(6, 8))
    if how == "mask":
        batch["flow"][unknown] = -999
        batch["valid"] = ~unknown
    else:
        wrong = {"nan": (float("nan"),) * 2, "infinite": (float("inf"), 0.0), "one component": (6.0, float("nan"))}
        batch["flow"][unknown] = torch.tensor(wrong[how])
    network = Constant(0.3, 0.4)
    assert network.loss(batch)["loss"].item() == pytest.approx(0, abs=1e-4)
    # Half as many cells at the scales from 4 to 32; at 64 pixels the one cell has known pixels still.
    losses = Constant(0, 0).loss(batch)
    expected = 0.5 * (0.005 * 128 + 0.01 * 32 + 0.02 * 8 + 0.08 * 2 + 0.32 * 1)
    assert losses["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert losses["endpoint_error"].item() == pytest.approx(10, rel=1e-5)


def test_gradients_are_numbers_where_flow_is_unknown() -> None:
    network = tiny("s")
    batch = Pairs(**pairs(64, 64), flow=truth(6, 8))
    batch["flow"][:, 10:50] = float("nan")
    network.loss(batch)["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_a_batch_without_any_known_pixel_is_an_error() -> None:
    with pytest.raises(ValueError, match="no pixel of this batch"):
        tiny("s").loss(Pairs(**pairs(64, 64), flow=truth(float("nan"), 0)))


@KINDS
def test_a_size_that_is_no_multiple_of_64_can_be_learned_from(kind: str) -> None:
    """At 70 x 90 the last cells are cut off by the frame's border: they hold the mean of what is inside."""
    batch = Pairs(**pairs(70, 90), flow=truth(6, 8, size=(70, 90)))
    assert Constant(0.3, 0.4).loss(batch)["loss"].item() == pytest.approx(0, abs=1e-4)
    assert tiny(kind).loss(batch)["loss"].isfinite()


@KINDS
def test_a_few_steps_learn_one_pair(kind: str) -> None:
    """A picture shifted by (8, -4); zero flow would be wrong by 8.9 pixels."""
    torch.manual_seed(0)
    network = flownet.build(TINY[kind])
    picture = F.interpolate(torch.rand(1, 3, 12, 12) * 255, size=(80, 80), mode="bicubic")
    picture = picture.clamp(0, 255).byte().permute(0, 2, 3, 1)
    batch = Pairs(first=picture[:, 8:72, 8:72], second=picture[:, 12:76, :64], flow=truth(8, -4))
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        network.loss(batch)["loss"].backward()
        optimiser.step()
    assert network.loss(batch)["endpoint_error"] < 2


# Public checkpoints


def layers(*names: str) -> set[str]:
    return {f"{name}.0.weight" for name in names} | {f"{name}.0.bias" for name in names}


NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
CONTRACTING = ("conv1", "conv2", "conv3", "conv3_1", "conv4", "conv4_1", "conv5", "conv5_1", "conv6", "conv6_1")
REFINING = {
    *(f"deconv{level}.0.weight" for level in (5, 4, 3, 2)),
    *(f"predict_flow{level}.weight" for level in (6, 5, 4, 3, 2)),
    "upsampled_flow6_to_5.weight",
    "upsampled_flow5_to_4.weight",
    "upsampled_flow4_to_3.weight",
    "upsampled_flow3_to_2.weight",
}
KEYS = {"s": layers(*CONTRACTING) | REFINING, "c": layers(*CONTRACTING, "conv_redir") | REFINING}


def public(kind: str, *, prefix: str = "") -> dict[str, Any]:
    """A checkpoint as the public port saves it."""
    torch.manual_seed(1)
    state = flownet.build(TINY[kind]).state_dict()
    return {
        "epoch": 270,
        "arch": f"flownet{kind}",
        "state_dict": {prefix + key: value for key, value in state.items()},
        "best_EPE": 1.951,
        "div_flow": 20,
    }


@KINDS
def test_key_names_are_those_of_the_public_port(kind: str) -> None:
    with torch.device("meta"):
        state = flownet.build(PAPER[kind]).state_dict()
    assert set(state) == KEYS[kind]
    assert state["deconv5.0.weight"].shape == (1024, 512, 4, 4)
    assert state["predict_flow2.weight"].shape == (2, 194, 3, 3)
    assert state["upsampled_flow6_to_5.weight"].shape == (2, 2, 4, 4)
    assert state["conv1.0.weight"].shape == (64, 6 if kind == "s" else 3, 7, 7)


@KINDS
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("bare", [False, True], ids=["checkpoint", "state dict"])
def test_a_public_checkpoint_loads_from_a_file(tmp_path: Path, kind: str, prefix: str, bare: bool) -> None:
    path = tmp_path / "public.pth"
    saved = public(kind, prefix=prefix)
    torch.save(saved["state_dict"] if bare else saved, path)
    network = tiny(kind)
    flownet.load_public(network, torch.load(path, weights_only=True), where=path.name)
    expected = public(kind)["state_dict"]
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


def without(state: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: without(w, "deconv5.0.weight"), r"missing keys \['deconv5.0.weight'\] \(1\)"),
        (lambda w: w | {"conv1.1.weight": torch.zeros(4)}, r"unexpected keys \['conv1.1.weight'\] \(1\)"),
        (lambda w: w | {"fc.weight": torch.zeros(4)}, r"unexpected keys \['fc.weight'\] \(1\)"),
        (lambda w: w | {"conv1.0.weight": torch.zeros(4, 12, 7, 7)}, r"other shapes \['conv1.0.weight'\] \(1\)"),
        (lambda w: public("c")["state_dict"], r"unexpected keys \['conv_redir.0.bias', 'conv_redir.0.weight'\]"),
    ],
    ids=["missing", "batch norm", "unexpected", "shape", "flownetc"],
)
def test_a_file_that_does_not_fit_is_an_error_that_lists_the_keys_and_changes_nothing(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    network = tiny("s")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    checkpoint = public("s") | {"state_dict": change(public("s")["state_dict"])}
    with pytest.raises(ValueError, match=f"mine.pth does not fit this encoder.*{message}"):
        flownet.load_public(network, checkpoint, where="mine.pth")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_weights_of_another_unit_of_flow_are_an_error_that_says_which() -> None:
    with pytest.raises(ValueError, match="div_flow 1, this network has 20: build it with div_flow=1"):
        flownet.load_public(tiny("s"), public("s") | {"div_flow": "1"}, where="mine.pth")
    network = flownet.build(replace(TINY["s"], div_flow=1.0))
    flownet.load_public(network, public("s") | {"div_flow": "1"}, where="mine.pth")
