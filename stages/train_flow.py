"""Stage `train_flow`: one FlowNet, trained on pairs with exact flow, or loaded from the public checkpoint.

Reads nothing of data/raw: pairs come from the generator (a pool of its own) and, where `chairs` names the folder,
from FlyingChairs. Writes data/train_flow/<network>: model.pt, run.json and curves.csv. Checkpoints lie in
.items/checkpoints: a killed training goes on.
"""

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from models.parts import flownet
from models.parts.network import channels_last, choose_device, parameter_count
from stages.core import cli, items
from stages.core.batches import pair_batches
from stages.core.closure import import_closure
from stages.core.optical_flow import files
from stages.core.params import Section, load, nearest
from stages.core.training import loop, weights


class Network(Section):
    """One entry of ``train_flow.networks``."""

    weights: Path | None = None  # a public checkpoint (flownets_EPE1.951.pth, ...), in place of a training
    steps: int | None = None  # in place of the configuration's own


class Parameters(Section):
    """Section ``train_flow`` of params.yaml."""

    config: str  # small or paper: the sizes of models/parts/flownet.py
    networks: dict[str, Network]
    seed: int
    pairs: int  # generated; each is seen steps * batch / pairs times
    height: int  # of the generated pairs, in pixels
    width: int
    chairs: Path | None  # the folder of FlyingChairs (00001_img1.ppm, ...), if you have it
    loaders: int
    threads: int
    checkpoint_seconds: float


def run(parameters: Parameters, *, network: str, output: Path = Path("data/train_flow")) -> None:
    """Train ``network`` (flownets or flownetc) or load its public weights.

    Raises ``ValueError`` for a network that params.yaml doesn't list and a checkpoint that is broken or doesn't fit.
    """
    if network not in parameters.networks:
        raise ValueError(f"train_flow.networks has no `{network}`{nearest(network, list(parameters.networks))}")
    torch.set_num_threads(parameters.threads)
    torch.manual_seed(parameters.seed)
    config = flownet.configuration(network, parameters.config)
    own = parameters.networks[network]
    config = replace(config, training=replace(config.training, steps=own.steps or config.training.steps))
    model = flownet.build(config)
    folder = output / network
    curve: list[dict[str, float]] = []
    if own.weights is not None:
        flownet.load_public(model, weights.read(own.weights), where=str(own.weights))
    else:
        curve = _train(model, config, parameters, network)
    generated = "generated pairs and FlyingChairs" if parameters.chairs else "generated pairs"
    trained_on = "public weights" if own.weights else generated
    loop.save_weights(folder / "model.pt", model)
    loop.write_curve(folder / "curves.csv", curve)
    content = {
        "network": network,
        "config": parameters.config,
        "parameters": asdict(config),
        "parameter_count": parameter_count(model),
        "trained_on": trained_on,
    }
    (folder / "run.json").write_text(json.dumps(content, indent=2, sort_keys=True, default=str) + "\n")
    last = f", endpoint error {curve[-1]['endpoint_error']:.2f} pixels in training" if curve else ""
    print(f"train_flow: {network}: {content['parameter_count']:,} parameters, {content['trained_on']}{last}")


def _train(
    model: flownet.FlowNet, config: flownet.Config, parameters: Parameters, network: str
) -> list[dict[str, float]]:
    numbers = [] if parameters.chairs is None else files.chairs(parameters.chairs, split="train")
    draws = round(config.curriculum * config.training.steps * config.training.batch)
    pairs = pair_batches.TrainingPairs(
        seed=parameters.seed,
        count=parameters.pairs,
        height=parameters.height,
        width=parameters.width,
        crop=config.crop,
        chairs=parameters.chairs,
        numbers=numbers,
        ranges=pair_batches.RANGES[parameters.config],
        curriculum=pair_batches.Curriculum(draws) if draws else None,
    )
    key = items.digest(
        {
            "network": [network, asdict(config)],
            "parameters": parameters.model_dump(exclude={"networks", "loaders", "checkpoint_seconds"}),
            "chairs": numbers,
            "code": import_closure("stages.core.batches.pair_batches") | import_closure("stages.core.training.loop"),
            "torch": torch.__version__,
        }
    )
    channels_last(model).to(choose_device())
    return loop.fit(
        f"train_flow-{network}",
        model,
        model.loss,
        model.parameter_groups(),
        partial(
            pair_batches.batches,
            pairs,
            seed=parameters.seed,
            steps=config.training.steps,
            batch=config.training.batch,
            loaders=parameters.loaders,
        ),
        config.training,
        seed=parameters.seed,
        checkpointing=loop.Checkpointing(key=key, seconds=parameters.checkpoint_seconds),
    )


def main(network: Annotated[str, typer.Option(help="flownets or flownetc")]) -> None:
    """Train one FlowNet of params.yaml."""
    run(load("train_flow", Parameters), network=network)


if __name__ == "__main__":
    cli.run(main)
