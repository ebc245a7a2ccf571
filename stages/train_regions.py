"""Stage `train_regions`: one instance segmenter, whose region masks methods label (Dang et al. 2018, section 3.1).

Reads data/index, data/frames and data/pretrain. A segmenter `<segmenter>-own` learns from the annotated train frames,
`<segmenter>-other` from pictures of the generator, or is loaded as it was trained on COCO. Writes
data/train_regions/<name>: model.pt, run.json and curves.csv. Checkpoints lie in .items/checkpoints: a killed training
goes on.
"""

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from models.parts.detection import COCO
from models.parts.network import channels_last, choose_device, parameter_count
from stages.core import cli, items
from stages.core.batches import segmenter_batches
from stages.core.batches.framing import FRAMINGS
from stages.core.closure import import_closure
from stages.core.datasets import dataset, instances
from stages.core.generator.stills import KINDS
from stages.core.inference import segmenters
from stages.core.params import Section, load, nearest
from stages.core.training import loop, weights


class Segmenter(Section):
    """One entry of ``train_regions.segmenters``."""

    steps: int | None = None  # in place of the configuration's own, as is the batch
    batch: int | None = None
    weights: Path | None = None  # a checkpoint of COCO: `own` starts from it, `other` is it


class Parameters(Section):
    """Section ``train_regions`` of params.yaml."""

    config: str  # small or paper: the sizes of models/parts/fcis.py and models/parts/maskrcnn.py
    segmenters: dict[str, Segmenter]
    seed: int
    pretrained: bool  # start from data/pretrain where there are no other weights
    stills: int  # generated for `other`; each is seen steps * batch / stills times
    loaders: int
    threads: int
    checkpoint_seconds: float


def run(
    parameters: Parameters, *, name: str, data: Path = Path("data"), output: Path = Path("data/train_regions")
) -> None:
    """Train segmenter ``name`` (fcis-own, maskrcnn-other, ...).

    Raises ``ValueError`` for a segmenter that params.yaml doesn't list, weights that don't fit, and a data set without
    annotated train frames.
    """
    if name not in parameters.segmenters:
        raise ValueError(f"train_regions.segmenters has no `{name}`{nearest(name, list(parameters.segmenters))}")
    module, learns_from = segmenters.parse(name)
    own = parameters.segmenters[name]
    config = segmenters.configuration(module, parameters.config)
    published = config.training
    config = replace(
        config, training=replace(published, steps=own.steps or published.steps, batch=own.batch or published.batch)
    )
    torch.set_num_threads(parameters.threads)
    torch.manual_seed(parameters.seed)
    labels = dataset.read_description(data / "index").label_space.actors
    is_coco = learns_from == "other" and own.weights is not None
    learned = labels if learns_from == "own" else COCO if is_coco else KINDS
    network = module.build(config, labels, learned=learned)
    started_from = _load_weights(network, own, data / "pretrain" if parameters.pretrained else None)
    curve: list[dict[str, float]] = []
    trained_on = "COCO"
    if not is_coco:
        source, trained_on, ingredients = _source(learns_from, parameters, data)
        key = items.digest(
            {
                "segmenter": [name, asdict(config)],
                "source": ingredients,
                "parameters": parameters.model_dump(include={"config", "seed", "threads"}),
                "weights": started_from,
                "code": import_closure("stages.core.batches.segmenter_batches")
                | import_closure("stages.core.training.loop")
                | import_closure(module.__name__),
                "torch": torch.__version__,
            }
        )
        curve = _train(network, config, source, parameters, name, key)
    folder = output / name
    loop.save_weights(folder / "model.pt", network)
    loop.write_curve(folder / "curves.csv", curve)
    content = {
        "name": name,
        "config": parameters.config,
        "parameters": asdict(config),
        "labels": labels,
        "learned": learned,
        "parameter_count": parameter_count(network),
        "trained_on": trained_on,
        "started_from": sorted(started_from),
    }
    (folder / "run.json").write_text(json.dumps(content, indent=2, sort_keys=True, default=str) + "\n")
    last = f", loss {curve[-1]['loss']:.3f}" if curve else ""
    print(f"train_regions: {name}: {content['parameter_count']:,} parameters, {trained_on}{last}")


def _load_weights(network: Any, own: Segmenter, pretrained: Path | None) -> dict[str, str]:
    """Load what ``network`` starts from; name of the weights -> digest of their file."""
    files: dict[str, Path] = {}
    if own.weights is not None:
        files = {weights.COCO: own.weights}
    elif pretrained is not None:
        files = {slot: pretrained / f"{slot}.pt" for slot in network.encoder_slots()}
    return weights.load(network, files)


def _source(learns_from: str, parameters: Parameters, data: Path) -> tuple[segmenter_batches.Source, str, Any]:
    """What is learned from, in words, and the ingredients that it depends on."""
    if learns_from == "other":
        shape = FRAMINGS[parameters.config].still
        stills = segmenter_batches.Stills(seed=parameters.seed, count=parameters.stills, shape=shape)
        return stills, f"{parameters.stills} generated stills", [parameters.stills, shape]
    annotated = dataset.load(data / "index", data / "frames", split="train")
    if not annotated.frames:
        raise ValueError("train_regions: no annotated train frame can be used; see data/index/quarantine.parquet")
    truth = instances.read(annotated)
    clips = items.read_manifest(data / "frames")
    ingredients = {
        "clips": [clips[video] for video in annotated.videos],
        "instances": [[frame, [[seen.actor, seen.rle] for seen in truth[frame]]] for frame in truth],
    }
    return segmenter_batches.AnnotatedFrames(annotated, truth), f"{len(annotated.frames)} annotated frames", ingredients


def _train(
    network: Any, config: Any, source: segmenter_batches.Source, parameters: Parameters, name: str, key: str
) -> list[dict[str, float]]:
    channels_last(network).to(choose_device())
    drawn = segmenter_batches.RegionSamples(source, FRAMINGS[parameters.config], seed=parameters.seed)
    return loop.fit(
        f"train_regions-{name}",
        network,
        network.loss,
        network.parameter_groups(),
        partial(
            segmenter_batches.batches,
            drawn,
            seed=parameters.seed,
            steps=config.training.steps,
            batch=config.training.batch,
            loaders=parameters.loaders,
        ),
        config.training,
        seed=parameters.seed,
        checkpointing=loop.Checkpointing(key=key, seconds=parameters.checkpoint_seconds),
    )


def main(name: Annotated[str, typer.Option("--segmenter", help="fcis or maskrcnn, -own or -other")]) -> None:
    """Train one segmenter of params.yaml."""
    run(load("train_regions", Parameters), name=name)


if __name__ == "__main__":
    cli.run(main)
