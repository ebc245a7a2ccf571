"""A network made ready to predict computes the same, without a batch norm; the plain form of the benchmark too."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.inference import plainly
from models import deeplab, ssa2d
from models.base import configuration
from models.parts.folding import for_inference
from stages.core.datasets.labels import A2D

NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


def with_random_statistics(network: nn.Module) -> nn.Module:
    """``network`` in evaluation, its norms far from the identity that they start as."""
    for module in network.modules():
        if isinstance(module, NORMS):
            for values, low, high in ((module.running_mean, -1, 1), (module.running_var, 0.5, 2)):
                assert values is not None
                values.uniform_(low, high)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -1, 1)
    return network.eval()


@pytest.mark.parametrize(
    ("module", "inputs", "variant"),
    [
        *[(module, inputs, "full") for module in (ssa2d, deeplab) for inputs in ("rgb", "rgb+flow")],
        *[(ssa2d, "rgb", variant) for variant in ("shared_trunk", "non_local")],
        (deeplab, "rgb+flow", "late_fusion"),
    ],
)
def test_a_folded_network_computes_the_same(module: Any, inputs: str, variant: str) -> None:
    """All that are made of convolutions and batch norms in another way."""
    torch.manual_seed(0)
    network = with_random_statistics(module.build(configuration(module, "small", inputs=inputs, variant=variant), A2D))
    folded = for_inference(copy.deepcopy(network))
    assert not any(isinstance(layer, NORMS) for layer in folded.modules())
    batch = {"frames": torch.randint(0, 256, (1, 8, 48, 64, 3), dtype=torch.uint8)}
    if "flow" in inputs:  # as numbers for the 3D encoder, as a picture for the 2D one
        batch["flow"] = torch.rand(1, 8, 48, 64, 2) if module is ssa2d else batch["frames"].flip(1)
    with torch.no_grad():
        for plain, other in zip(network(batch), folded(batch), strict=True):
            assert (plain - other).abs().max() < 1e-4 * plain.abs().max()


def test_the_plain_form_that_it_is_measured_against_predicts_the_same() -> None:
    torch.manual_seed(0)
    network = with_random_statistics(ssa2d.build(ssa2d.small, A2D))
    batch = {"frames": torch.randint(0, 256, (1, 8, 41, 62, 3), dtype=torch.uint8)}
    found, plain = (one.predict_frames(batch, range(8)) for one in (network, plainly(network, A2D)))
    for name in ("joint", "actor", "action"):
        assert (getattr(found, name) == getattr(plain, name)).float().mean() > 0.999


def test_a_norm_behind_anything_else_stays() -> None:
    network = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)).eval()
    assert isinstance(for_inference(network)[1], nn.BatchNorm2d)
