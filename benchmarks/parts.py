"""Milliseconds a frame of the region masks method by part, and of its baseline, in the form of the closing paragraph
of Dang et al. 2018, section 4: flow, region masks and segmentation took them 350 + 300 + 450 ms, the baseline with its
flow 395 ms, on one K80.

FlowNetS, FCIS and the two-stream networks of RGB + flow at the published size, with random weights: their time does not
depend on them but for the number of regions, which is given.
"""

import statistics
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.ratio import seconds
from models import deeplab, region_masks
from models.base import Batch, configuration
from models.parts import fcis, flownet
from models.parts.network import channels_last, parameter_count
from models.parts.region_types import MASK_SIDE, RegionMaskBatch
from stages.core import cli
from stages.core.datasets.labels import A2D
from stages.core.runs import FULL

PUBLISHED = {"flow": 350, "regions": 300, "segmentation": 450, "all three": 1100, "baseline with flow": 395}
SEGMENTATION = "segmentation"


def measure(
    config: str = "paper", *, height: int = 320, width: int = 568, regions: int = 20, repeats: int = 3
) -> dict[str, float]:
    """Milliseconds by part, medians of ``repeats``, on the threads that PyTorch has."""
    front, back = (
        _ready(module.build(configuration(module, config, inputs="rgb+flow", variant=FULL), A2D))
        for module in (deeplab, region_masks)
    )
    flow_network = _ready(flownet.build(flownet.configuration("flownets", config)))
    segmenter = _ready(fcis.build(getattr(fcis, config), A2D.actors))
    frames = torch.randint(0, 256, (1, 1, height, width, 3), dtype=torch.uint8)
    batch = Batch(frames=frames, flow=frames)
    corners = torch.rand(regions, 2) * torch.tensor([width / 2, height / 2])
    found = {"boxes": [torch.cat([corners, corners + torch.tensor([width / 3, height / 3])], dim=1)]}
    found["soft_masks"] = [torch.rand(regions, MASK_SIDE, MASK_SIDE)]

    def segment() -> None:
        features = list(front.features(batch))
        back.predict(RegionMaskBatch(features=features, shape=(height, width), **found))

    parts = {
        "flow": lambda: flow_network.predict(flownet.Pairs(first=frames[0], second=frames[0])),
        "regions": lambda: segmenter.predict(frames[0]),
        SEGMENTATION: segment,
        "baseline": lambda: front.predict(batch),
    }
    with torch.no_grad():
        found_ms = {name: _milliseconds(part, repeats) for name, part in parts.items()}
    baseline = found_ms.pop("baseline")
    whole = sum(found_ms.values())
    return found_ms | {"all three": whole, "baseline with flow": baseline + found_ms["flow"]}


def _ready(network: Any) -> Any:
    return channels_last(network).eval()


def _milliseconds(part: Any, repeats: int) -> float:
    part()
    return 1000 * statistics.median(seconds(part) for _ in range(repeats))


def main(
    config: Annotated[str, typer.Option(help="paper or small")] = "paper",
    regions: Annotated[int, typer.Option(help="of a frame", min=1)] = 20,
) -> None:
    """Time by part, and how many parameters the networks have."""
    table = Table("part", "ms a frame", "published, K80", title=f"{config}, RGB + flow, 320 x 568, {regions} regions")
    for name, milliseconds in measure(config, regions=regions).items():
        table.add_row(name, f"{milliseconds:.0f}", str(PUBLISHED[name]))
    console = Console()
    console.print(table)
    for inputs in ("rgb", "rgb+flow"):
        counts = {
            module.__name__.removeprefix("models."): parameter_count(
                module.build(configuration(module, config, inputs=inputs, variant=FULL), A2D)
            )
            for module in (deeplab, region_masks)
        }
        console.print(f"{inputs}: " + ", ".join(f"{name} {count:,} parameters" for name, count in counts.items()))


if __name__ == "__main__":
    cli.run(main)
