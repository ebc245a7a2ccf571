"""Segmentation from a sentence: sections 3.2 to 3.4 step by step, sizes, what is fixed, fusion, variants, learning."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import IGNORE, sentence
from models.base import SINGLE_FRAME, Window
from models.parts import i3d, text
from models.parts.folding import for_inference
from models.parts.network import load_encoder, parameter_count
from models.parts.text import TextBatch, dynamic_convolution, logistic_loss
from stages.core.datasets.labels import A2D
from tests.models.test_ssa2d import float64, steps_of_training  # noqa: F401

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = replace(
    sentence.small,
    encoder=replace(sentence.small.encoder, width=0.07),
    decoder=(8, 6),
    crop=None,
    window=Window(before=4, after=3),
)
"""Of 8 frames."""
LABELLED = TINY.window.before
INPUTS = ("rgb", "flow", "rgb+flow")


def build(config: sentence.Config = TINY, *, inputs: str = "rgb") -> sentence.Sentence:
    torch.manual_seed(0)
    return sentence.build(sentence.with_inputs(config, inputs), A2D)


def batch(height: int = 32, width: int = 48, *, frames: int = 8) -> TextBatch:
    """Two clips of noise with a bright rectangle, the actor that sentences of four words and of one are about."""
    random = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 80, (2, frames, height, width, 3), generator=random, dtype=torch.uint8)
    pictures[:, :, 8:24, 8:40] += 120
    mask = torch.full((2, frames, height, width), IGNORE, dtype=torch.uint8)
    mask[:, frames // 2] = 0
    mask[:, frames // 2, 8:24, 8:40] = 1
    words = torch.randn(2, 4, text.WORD_CHANNELS, generator=random)
    words[1, 1:] = 0
    return TextBatch(
        frames=pictures,
        flow=torch.rand(2, frames, height, width, 2, generator=random) * 2 - 1,
        words=words,
        lengths=torch.tensor([4, 1]),
        mask=mask,
    )


def some_of(given: TextBatch, kept: slice) -> TextBatch:
    """Those samples of a batch."""
    return TextBatch(**{key: value[kept] for key, value in given.items()})  # type: ignore[typeddict-item]


def on_meta(config: sentence.Config, inputs: str) -> sentence.Sentence:
    """The network without its weights: for counts and shapes."""
    with torch.device("meta"):
        return build(config, inputs=inputs)


def total_count(network: nn.Module) -> int:
    """Parameters, those that are fixed too."""
    return sum(parameter.numel() for parameter in network.parameters())


def values(network: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and batch norms' statistics."""
    return {key: value.clone() for key, value in network.state_dict().items()}


def recorded(network: nn.Module, module: nn.Module, given: TextBatch) -> tuple[Tensor, Tensor]:
    """What ``module`` is given and gives when ``network`` runs."""
    seen: list[Any] = []
    hook = module.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    with torch.no_grad():
        network(given)
    hook.remove()
    ((x, y),) = seen
    return x, y


# Sizes and shapes


@pytest.mark.parametrize(
    ("inputs", "learnt", "total"),
    [("rgb", 18_945_652, 24_674_740), ("flow", 18_945_652, 24_652_788), ("rgb+flow", 37_891_304, 49_327_528)],
)
def test_the_paper_s_network_has_a_known_size(inputs: str, learnt: int, total: int) -> None:
    """The paper publishes none."""
    network = on_meta(sentence.paper, inputs)
    assert (parameter_count(network), total_count(network)) == (learnt, total)


@pytest.mark.parametrize(
    ("inputs", "learnt", "total"), [("rgb", 1_449_124, 1_821_028), ("rgb+flow", 2_898_248, 3_636_568)]
)
def test_the_small_network_s_size_is_known(inputs: str, learnt: int, total: int) -> None:
    network = on_meta(sentence.small, inputs)
    assert (parameter_count(network), total_count(network)) == (learnt, total)


def test_the_parts_of_the_paper_s_network_have_the_sizes_that_follow_from_its_text() -> None:
    stream = on_meta(sentence.paper, "rgb").streams["rgb"]
    assert parameter_count(stream.encoder) == parameter_count(stream.encoder.get_submodule("Mixed_4f"))
    assert total_count(stream.encoder) == total_count(i3d.I3D(replace(i3d.DENSE, last="Mixed_4f")))
    assert parameter_count(stream.text) == 2 * 300 * 300 + 300
    coarse = 832 + 8
    assert [parameter_count(block) for block in stream.blocks] == [
        64 * coarse * 256 + 256 + 9 * 256 * 256 + 256,
        64 * 256 * 128 + 128 + 9 * 128 * 128 + 128,
    ]
    assert parameter_count(stream.filters) == 301 * (coarse + 256 + 128)


@pytest.mark.parametrize(("height", "width"), [(512, 512), (288, 511), (400, 300)])
def test_the_paper_s_maps_are_of_32_128_and_512_for_any_frame_that_512_holds(height: int, width: int) -> None:
    network = on_meta(sentence.paper, "rgb+flow").eval()
    with torch.device("meta"):
        given = batch(height, width, frames=16)
        responses = network(given)
    assert list(responses) == ["rgb", "flow"]
    for maps in responses.values():
        assert {r: tuple(x.shape) for r, x in maps.items()} == {r: (2, 1, r, r) for r in (32, 128, 512)}
    assert network.response(given).shape == (2, height, width)


def test_the_paper_s_training_is_that_of_section_3_4() -> None:
    training = sentence.paper.training
    assert (training.steps, training.optimiser, training.weight_decay) == (15_000, "adam", 0)
    assert training.learning_rates == {"encoder": 1e-3, "rest": 1e-3}
    assert training.schedule == "step:5000,10000:0.1"
    assert sentence.paper.loss_weights == {32: 1, 128: 1, 512: 1}
    assert sentence.paper.background_weight == 1 and sentence.paper.fusion == {"rgb": 2, "flow": 1}
    assert sentence.paper.window.length == 16 and sentence.paper.crop == (512, 512)


# Video encoder


def test_i3d_s_features_are_averaged_over_time_normalised_and_given_coordinates() -> None:
    network = build().eval()
    stream = network.streams["rgb"]
    _, features = recorded(network, stream.encoder.get_submodule("Mixed_4f"), batch())
    mean = features.mean(2)
    assert mean.shape == (2, TINY.encoder.channels("Mixed_4f"), 2, 3) and mean.any()
    expected = mean / mean.square().sum(1, keepdim=True).sqrt()
    found, _ = recorded(network, stream.blocks[0], batch())
    assert torch.allclose(found[:, :-8], expected, atol=1e-5)
    assert torch.equal(found[:, -8:], text.with_coordinates(mean)[:, -8:])


@pytest.mark.parametrize("inputs", ["rgb", "flow"])
def test_i3d_sees_rgb_from_minus_1_to_1_and_flow_as_it_is_encoded(inputs: str) -> None:
    network, given = build(inputs=inputs).eval(), batch()
    found, _ = recorded(network, network.streams[inputs].encoder.get_submodule("Conv3d_1a_7x7"), given)
    clip = given["frames"].float() / 255 * 2 - 1 if inputs == "rgb" else given["flow"]
    assert torch.allclose(found, clip.permute(0, 4, 1, 2, 3), atol=1e-6)


@pytest.mark.parametrize("inputs", INPUTS)
def test_only_the_last_inception_block_of_i3d_is_fine_tuned(inputs: str) -> None:
    network = build(inputs=inputs).train()
    before = values(network)
    steps_of_training(network, batch(), steps=2)
    after = values(network)
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    of_encoders = {key for key in after if ".encoder." in key}
    last = {key for key in of_encoders if ".encoder.Mixed_4f." in key}
    assert changed & of_encoders == last, "its batch norms' statistics too, and no others"
    assert changed - of_encoders == after.keys() - of_encoders


def test_the_fixed_layers_batch_norms_normalise_by_their_statistics_in_training_too() -> None:
    network = build()
    fixed = [
        recorded(network.train(training), network.streams["rgb"].encoder.get_submodule("Mixed_4e"), batch())[1]
        for training in (True, False)
    ]
    assert torch.equal(*fixed)
    last = network.train().streams["rgb"].encoder.get_submodule("Mixed_4f")
    assert all(module.training for module in last.modules())


@pytest.mark.parametrize(("inputs", "slots"), [("rgb", ["rgb3d"]), ("rgb+flow", ["rgb3d", "flow3d"])])
def test_encoders_start_from_weights_of_deeper_ones(inputs: str, slots: list[str]) -> None:
    found = build(inputs=inputs).encoder_slots()
    assert list(found) == slots
    for config in (i3d.SMALL, i3d.Config()):  # what stage `pretrain` saves, what is public
        for name, encoder in found.items():
            assert isinstance(encoder, i3d.I3D)
            channels = {"rgb3d": 3, "flow3d": 2}[name]
            deeper = i3d.I3D(replace(config, width=0.07, inputs=channels)).state_dict()
            load_encoder(encoder, deeper | {"logits.conv3d.bias": torch.zeros(400)}, where=name)
            assert all(torch.equal(value, deeper[key]) for key, value in encoder.state_dict().items())
            assert not next(encoder.parameters()).requires_grad


# Decoding with dynamic filters


def test_the_response_is_each_resolution_s_features_under_the_sentence_s_filter() -> None:
    network, given = build().eval(), batch()
    stream = network.streams["rgb"]
    features: dict[int, Tensor] = {}
    features[32], features[128] = recorded(network, stream.blocks[0], given)
    again, features[512] = recorded(network, stream.blocks[1], given)
    assert torch.equal(again, features[128])
    with torch.no_grad():
        responses, sentences = network(given)["rgb"], stream.text(given["words"], given["lengths"])
    for r, height, width in ((32, 2, 3), (128, 8, 12), (512, 32, 48)):
        weight, bias = (stream.filters[str(r)].get_parameter(name) for name in ("weight", "bias"))
        for n in range(2):
            filter_ = (weight @ sentences[n] + bias).tanh()  # equation 1
            expected = (filter_[:, None, None] * features[r][n]).sum(0)  # equation 2
            assert responses[r].shape == (2, 1, height, width)
            assert torch.allclose(responses[r][n, 0], expected, atol=1e-5)


def test_another_sentence_gives_another_map_at_every_resolution() -> None:
    network, given = build().eval(), batch()
    other = TextBatch(frames=given["frames"], words=given["words"].flip(0), lengths=given["lengths"].flip(0))
    for first, second in zip(network(given)["rgb"].values(), network(other)["rgb"].values(), strict=True):
        assert ((first - second).abs().amax((1, 2, 3)) > 1e-3).all()


@pytest.mark.parametrize("variant", ["full", "lstm", "bilstm"])
def test_sentences_without_a_known_word_have_the_filters_of_the_biases_alone(variant: str) -> None:
    config = TINY if variant == "full" else sentence.VARIANTS[variant](TINY)
    network, given = build(config).eval(), batch()
    stream = network.streams["rgb"]
    features, _ = recorded(network, stream.blocks[0], given)
    empty = {"frames": given["frames"], "lengths": torch.tensor([0, 0])}
    maps = []
    for rows in (0, 5):
        asked = TextBatch(**empty, words=torch.zeros(2, rows, 300))  # type: ignore[typeddict-item]
        with torch.no_grad():
            maps.append(network(asked)["rgb"][32])
    bias = stream.filters["32"].get_parameter("bias")
    assert torch.equal(*maps)
    assert torch.allclose(maps[0], dynamic_convolution(features, bias.tanh().expand(2, -1)), atol=1e-5)


@pytest.mark.parametrize("length", [1, 200])
def test_a_sentence_may_have_one_word_or_200(length: int) -> None:
    network, given = build().eval(), batch()
    given["words"], given["lengths"] = torch.randn(2, length, 300), torch.tensor([length, 1])
    assert network.response(given).isfinite().all() and network.loss(given)["loss"].isfinite()


# The loss


@pytest.mark.parametrize("inputs", INPUTS)
def test_the_loss_is_the_weighted_sum_over_resolutions_and_streams(inputs: str) -> None:
    config = replace(TINY, loss_weights={32: 0.5, 128: 2.0, 512: 3.0}, background_weight=0.25)
    network, given = build(config, inputs=inputs).eval(), batch()
    with torch.no_grad():
        losses, responses = network.loss(given), network(given)
    mask, total = given["mask"][:, LABELLED], 0.0
    for name, maps in responses.items():
        for r, response in maps.items():
            part = logistic_loss(response, mask, background=0.25)
            assert losses.pop(f"{name}_{r}") == part
            total += config.loss_weights[r] * part.item()
    assert losses.pop("loss").item() == pytest.approx(total, rel=1e-6)
    assert losses == {}


def test_only_the_labelled_frame_of_a_mask_counts() -> None:
    network, given = build().eval(), batch()
    loss = network.loss(given)["loss"]
    given["mask"][:, :LABELLED] = 1
    given["mask"][:, LABELLED + 1 :] = 0
    assert network.loss(given)["loss"] == loss


def test_the_streams_are_two_networks() -> None:
    together = build(inputs="rgb+flow").train()
    given = batch()
    losses = together.loss(given)
    losses["flow_32"].backward()
    assert all(parameter.grad is None for parameter in together.streams["rgb"].parameters())
    shared = set(together.streams["rgb"].parameters()) & set(together.streams["flow"].parameters())
    assert shared == set()
    alone = []
    for name in ("rgb", "flow"):
        network = build(inputs=name).train()
        network.streams[name].load_state_dict(together.streams[name].state_dict())
        alone.append(network.loss(given)["loss"].item())
    assert losses["loss"].item() == pytest.approx(sum(alone), rel=1e-5)


# Prediction


def test_response_maps_are_averaged_with_rgb_counting_twice() -> None:
    network, given = build(inputs="rgb+flow").eval(), batch()
    with torch.no_grad():
        maps = {name: responses[512][:, 0] for name, responses in network(given).items()}
    assert torch.allclose(network.response(given), (2 * maps["rgb"] + maps["flow"]) / 3, atol=1e-6)


@pytest.mark.parametrize("inputs", ["rgb", "flow"])
def test_the_response_of_one_stream_is_its_map_at_full_resolution(inputs: str) -> None:
    network, given = build(inputs=inputs).eval(), batch()
    with torch.no_grad():
        assert torch.allclose(network.response(given), network(given)[inputs][512][:, 0], atol=1e-6)


@pytest.mark.parametrize(("height", "width", "frames"), [(37, 50, 8), (48, 49, 7), (33, 47, 5)])
@pytest.mark.parametrize("inputs", INPUTS)
def test_frames_of_odd_sizes_are_padded_with_black_and_the_padding_is_cut_off_and_never_learnt_from(
    inputs: str, height: int, width: int, frames: int
) -> None:
    network, given = build(inputs=inputs).eval(), batch(height, width, frames=frames)
    given["mask"] = torch.zeros_like(given["mask"])
    padded, (below, right) = TextBatch(**given), (-height % 16, -width % 16)
    padded["frames"] = F.pad(given["frames"], (0, 0, 0, right, 0, below))
    padded["flow"] = F.pad(given["flow"], (0, 0, 0, right, 0, below))
    padded["mask"] = F.pad(given["mask"], (0, right, 0, below), value=IGNORE)
    found = network.response(given)
    assert found.shape == (2, height, width) and torch.equal(found, network.response(padded)[:, :height, :width])
    assert network.loss(given)["loss"] == network.loss(padded)["loss"]
    padded["mask"][padded["mask"] == IGNORE] = 0
    assert network.loss(given)["loss"] != network.loss(padded)["loss"]


def test_frames_smaller_than_the_crop_are_padded_to_its_size() -> None:
    network = build(replace(TINY, crop=(64, 40))).eval()
    given = batch(32, 56)
    assert network(given)["rgb"][512].shape == (2, 1, 64, 64), "the width is the frame's, the height the crop's"
    padded = TextBatch(**given)
    padded["frames"] = F.pad(given["frames"], (0, 0, 0, 8, 0, 32))
    assert torch.equal(network.response(given), network.response(padded)[:, :32, :56])


def test_a_network_made_ready_to_predict_answers_the_same() -> None:
    network, given = build().train(), batch()
    steps_of_training(network, given, steps=2)
    network.eval()
    assert torch.allclose(for_inference(copy.deepcopy(network)).response(given), network.response(given), atol=1e-4)


@pytest.mark.parametrize("variant", ["full", "lstm", "bilstm"])
def test_a_window_alone_is_answered_as_in_a_batch(variant: str) -> None:
    network = build(TINY if variant == "full" else sentence.VARIANTS[variant](TINY), inputs="rgb+flow").eval()
    given = batch()
    together = network.response(given)
    for n in range(2):
        alone = some_of(given, slice(n, n + 1))
        alone["words"] = alone["words"][:, : int(alone["lengths"])]
        assert torch.allclose(network.response(alone)[0], together[n], atol=1e-5)


# Variants and learning


@pytest.mark.parametrize(
    ("variant", "window"),
    [
        ("frames_1", SINGLE_FRAME),
        ("frames_4", Window(before=2, after=1)),
        ("frames_8", Window(before=4, after=3)),
    ],
)
@pytest.mark.parametrize("config", [sentence.paper, sentence.small])
def test_ablations_of_the_window_have_so_many_frames(config: sentence.Config, variant: str, window: Window) -> None:
    found = sentence.VARIANTS[variant](config)
    assert found == replace(config, window=window) and found.window.length == int(variant.removeprefix("frames_"))


def test_ablations_of_the_text_encoder_have_lstms_with_a_state_of_1_000() -> None:
    for kind, outputs in (("lstm", 1000), ("bilstm", 2000)):
        config = sentence.VARIANTS[kind](sentence.small)
        assert (config.text_encoder.kind, config.text_encoder.channels) == (kind, 1000)
        stream = on_meta(config, "rgb").streams["rgb"]
        assert {layer.in_features for layer in stream.filters.values()} == {outputs}


def test_with_one_resolution_the_loss_is_that_of_the_finest_map() -> None:
    network, given = build(sentence.VARIANTS["one_resolution"](TINY)).eval(), batch()
    losses = network.loss(given)
    assert losses.keys() == {"loss", "rgb_512"} and losses["loss"] == losses["rgb_512"]
    full = build().eval()
    assert full.load_state_dict(network.state_dict(), strict=False).unexpected_keys == []
    assert torch.equal(full.response(given), network.response(given))


@pytest.mark.parametrize(
    ("variant", "inputs"), [*((name, "rgb") for name in ("full", *sentence.VARIANTS)), ("full", "rgb+flow")]
)
def test_every_variant_gives_gradient_to_every_parameter_that_learns_and_learns_a_step(
    variant: str, inputs: str
) -> None:
    config = TINY if variant == "full" else sentence.VARIANTS[variant](replace(TINY, window=Window(before=8, after=7)))
    network = build(config, inputs=inputs).train()
    first, second = steps_of_training(network, batch(frames=config.window.length), steps=2)
    assert second < first
    assert all(p.grad is not None and p.grad.any() for p in network.parameters() if p.requires_grad)


@pytest.mark.parametrize("inputs", INPUTS)
def test_parameter_groups_are_the_last_blocks_and_the_rest(inputs: str) -> None:
    network = build(inputs=inputs)
    groups = network.parameter_groups()
    blocks = [stream.encoder.get_submodule("Mixed_4f") for stream in network.streams.values()]
    assert set(groups["encoder"]) == {parameter for block in blocks for parameter in block.parameters()}
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert len(groups["encoder"]) + len(groups["rest"]) == len(learned)
    assert {*groups["encoder"], *groups["rest"]} == set(learned)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("inputs", "golden"),
    [
        ("rgb", [2.20017, 2.11122, 1.96682, 1.81342, 1.66864]),
        ("rgb+flow", [4.24878, 4.09199, 3.83512, 3.5563, 3.28788]),
    ],
)
def test_the_first_five_losses_of_the_small_network_are_those_recorded(inputs: str, golden: list[float]) -> None:
    network = build(replace(sentence.small, crop=None), inputs=inputs).train()
    assert steps_of_training(network, batch(frames=16), steps=5) == pytest.approx(golden, abs=1e-3)


def squares(number: int, random: torch.Generator, words: Tensor) -> TextBatch:
    """A red and a blue square side by side in grey frames; one word of ``words`` (2, 300) asks for one of them."""
    pictures = torch.full((number, 1, 64, 64, 3), 60, dtype=torch.uint8)
    asked = torch.randint(0, 2, (number,), generator=random)
    mask = torch.zeros(number, 1, 64, 64, dtype=torch.uint8)
    for n in range(number):
        swapped = int(torch.randint(0, 2, (1,), generator=random))
        for which, colour in enumerate(((220, 20, 20), (20, 20, 220))):
            top, left = torch.randint(0, 9, (2,), generator=random).tolist()
            rows, columns = slice(2 * top, 2 * top + 24), slice(left + 32 * (which ^ swapped), None)
            columns = slice(columns.start, columns.start + 24)
            pictures[n, 0, rows, columns] = torch.tensor(colour, dtype=torch.uint8)
            mask[n, 0, rows, columns] = int(which == asked[n])
    return TextBatch(frames=pictures, words=words[asked][:, None], lengths=torch.ones(number).long(), mask=mask)


def test_it_learns_to_find_the_square_of_the_colour_that_a_word_asks_for() -> None:
    random = torch.Generator().manual_seed(0)
    words = torch.randn(2, 300, generator=random)
    config = sentence.VARIANTS["frames_1"](TINY)
    network = build(replace(config, encoder=replace(config.encoder, width=0.125), decoder=(16, 8))).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(150):
        loss = network.loss(squares(8, random, words))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    given = squares(32, random, words)
    found, true = network.eval().response(given) > 0, given["mask"][:, 0] == 1
    iou = (found & true).sum((1, 2)) / (found | true).sum((1, 2))
    assert iou.mean() > 0.6, "both squares would be 0.5"
    given["words"] = words.sum(0) - given["words"]
    assert ((network.response(given) > 0) & true).sum() < 0.2 * true.sum(), "asked for the other, not this one"
