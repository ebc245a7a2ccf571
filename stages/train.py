"""Stage `train`: one run, a method on one set of inputs with one seed.

Reads data/index, data/frames, the run's flow recipe and data/pretrain. Writes data/train/<run>: model.pt (weights),
run.json (what was trained) and curves.csv. Checkpoints lie in .items/checkpoints: a killed training goes on.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import torch
import typer
from pydantic import Field

from models.base import configuration
from models.methods import FIXED_VOCABULARY, MULTI_LABEL, ON_INSTANCES, ON_SENTENCES, ON_VIDEOS
from models.methods import method as method_module
from models.parts.network import channels_last, choose_device, parameter_count
from stages.core import cli, items, runs, tracking
from stages.core.batches import instance_batches, region_batches, video_batches, window_batches, words
from stages.core.closure import import_closure
from stages.core.datasets import dataset, vocabulary
from stages.core.params import Section, load
from stages.core.training import loop, weights


class Common(Section):
    """Section ``train.common`` of params.yaml."""

    config: str
    pretrained: bool
    threads: int
    loaders: int
    checkpoint_seconds: float
    word_vectors: str  # of methods on sentences: `words.PACKAGE`, or a binary file of word2vec


class Method(Section):
    """Section ``train.<method>`` of params.yaml: what differs from the method's own configuration."""

    steps: int | None = None
    batch: int | None = None
    learning_rate_factor: float = 1.0
    # Name of an encoder -> file of public weights, in place of data/pretrain's; `coco`: a whole Mask R-CNN's.
    weights: dict[str, Path] = Field(default_factory=dict)


def configure(run_: runs.Run, common: Common, method: Method) -> Any:
    """The configuration of ``run_``'s method with its inputs, its variant and the parameters' changes."""
    module = method_module(run_.method)
    variant, _ = runs.split_variant(run_.method, run_.variant)
    config = configuration(module, common.config, inputs=run_.inputs, variant=variant)
    own = config.training
    return replace(
        config,
        training=replace(
            own,
            steps=method.steps or own.steps,
            batch=method.batch or own.batch,
            learning_rates={name: rate * method.learning_rate_factor for name, rate in own.learning_rates.items()},
        ),
    )


def run(
    run_: runs.Run,
    common: Common,
    method: Method,
    *,
    dataset_name: str,
    data: Path = Path("data"),
    output: Path = Path("data/train"),
) -> None:
    """Train ``run_``.

    Raises ``ValueError`` for nothing to learn from, labels that the method can't learn, and weights that do not fit.
    """
    torch.set_num_threads(common.threads)
    torch.manual_seed(run_.seed)
    config = configure(run_, common, method)
    samples = dataset.load(data / "index", data / "frames", split="train", **run_.folders)
    if not samples.frames:
        raise ValueError(f"{run_.name}: no annotated train frame can be used; see data/index/quarantine.parquet")
    if run_.variant == FIXED_VOCABULARY:
        vocabulary.check(samples.label_space, run=run_.name)
        samples = vocabulary.named(samples)
    _check_data_set(run_, samples)
    if run_.held_out is not None:
        samples = dataset.hold_out(samples, run_.held_out)
    vectors = _vectors(run_, samples, common)
    network = method_module(run_.method).build(config, samples.label_space)
    started_from = weights.load(network, _starting_weights(network, common, method, data))
    key = _training_key(run_, config, samples, started_from, common, vectors)
    tracked = items.digest([run_.name, key])  # runs that share a training are two in MLflow
    channels_last(network).to(choose_device())
    told = common.model_dump(mode="json", exclude={"loaders", "checkpoint_seconds"})  # these two change no result
    content = {
        "run": run_.name,
        "key": tracked,
        "method": run_.method,
        "inputs": run_.inputs,
        "variant": run_.variant,
        "seed": run_.seed,
        "label_space": samples.label_space.key,
        "parameters": {"common": told, "config": asdict(config)},
        "parameter_count": parameter_count(network),
        "started_from": started_from,
        "dataset": {"name": dataset_name, "hash": items.file_digest(data / "index" / "frames.parquet")},
        "steps": config.training.steps,
        "train_frames": len(samples.frames),
    }
    if vectors is not None:
        spoken = [asked.sentence for asked in samples.sentences]
        content["unknown_words"] = words.report_unknown(vectors, spoken, where=run_.name)
    print(f"{run_.name}: {content['parameter_count']:,} parameters, {len(samples.frames)} annotated frames")

    source = _source_of_batches(run_)
    of_sentences = {} if vectors is None else {"sentences": True, "vectors": vectors}

    def batches(start: int) -> Any:
        return source.training_batches(
            samples,
            config,
            seed=run_.seed,
            start=start,
            steps=config.training.steps,
            batch=config.training.batch,
            loaders=common.loaders,
            **of_sentences,
        )

    with tracking.live(run_.name, key=tracked, parameters=content["parameters"]) as live:
        curve = loop.fit(
            run_.name,
            network,
            network.loss,
            network.parameter_groups(),
            batches,
            config.training,
            seed=run_.seed,
            checkpointing=loop.Checkpointing(key=key, seconds=common.checkpoint_seconds),
            log=live.log,
        )
    folder = output / run_.name
    loop.save_weights(folder / "model.pt", network)
    loop.write_curve(folder / "curves.csv", curve)
    (folder / "run.json").write_text(json.dumps(content, indent=2, sort_keys=True, default=str) + "\n")


def _check_data_set(run_: runs.Run, samples: dataset.Dataset) -> None:
    if run_.method in ON_SENTENCES:
        if not samples.sentences:
            raise ValueError(
                f"{run_.name}: no sentence about an actor in an annotated train frame; A2D Sentences has them in "
                "a2d_annotation.txt, and `python -m stages.commands.generate sample` makes some"
            )
    elif samples.label_space.multi_label and run_.method not in MULTI_LABEL:
        raise ValueError(
            f"{run_.name}: an actor does several things at once in this data set and {run_.method} gives a pixel one "
            f"action; train {' or '.join(MULTI_LABEL)}"
        )


def _vectors(run_: runs.Run, samples: dataset.Dataset, common: Common) -> words.Vectors | None:
    """Those of the words that the run learns from; None where it learns from no sentence."""
    if run_.method not in ON_SENTENCES:
        return None
    return words.vectors(common.word_vectors, sentences=[asked.sentence for asked in samples.sentences])


def _source_of_batches(run_: runs.Run) -> ModuleType:
    """The module that makes the batches that the run's method learns from."""
    if run_.method in ON_INSTANCES:
        return instance_batches
    if run_.method in ON_VIDEOS:
        return video_batches
    return window_batches if run_.regions is None else region_batches


def _starting_weights(network: Any, common: Common, method: Method, data: Path) -> dict[str, Path]:
    """Name of the weights that ``network`` starts from -> file."""
    slots = list(network.encoder_slots())
    known = [*slots, weights.COCO] if hasattr(network, "load_coco") else slots
    unknown = sorted(method.weights.keys() - set(known))
    if unknown:
        raise ValueError(f"weights: no encoder {', '.join(unknown)}; this run has {', '.join(known)}")
    if not common.pretrained:
        return dict(method.weights)
    without = weights.COCO_ENCODER if weights.COCO in method.weights else None
    pretrained = {slot: data / "pretrain" / f"{slot}.pt" for slot in slots if slot != without}
    return pretrained | method.weights


def _training_key(
    run_: runs.Run,
    config: Any,
    samples: dataset.Dataset,
    started_from: dict[str, str],
    common: Common,
    vectors: words.Vectors | None,
) -> str:
    module = method_module(run_.method).__name__
    folders = (samples.clips_folder, samples.flow_folder, samples.features_folder, samples.regions_folder)
    manifests = [items.read_manifest(folder.parent) for folder in folders if folder is not None]
    assert samples.index is not None
    source = _source_of_batches(run_)
    return items.digest(
        {
            # Not its name: runs that differ only in what they are tested with share one training.
            "run": [run_.method, run_.inputs, run_.held_out, run_.seed, asdict(config), common.threads],
            "labels": [items.digest(asdict(frame)) for frame in samples.frames],
            "label_space": samples.label_space.key,
            "sentences": [] if vectors is None else [vectors.digest, *map(asdict, samples.sentences)],
            "inputs": {name: [manifest[name] for manifest in manifests] for name in samples.videos},
            "true_regions": items.file_digest(samples.index / "instances.parquet")
            if source is not window_batches
            else "",
            "weights": started_from,
            "code": import_closure("stages.core.training.loop")
            | import_closure(source.__name__)
            | import_closure(module),
            "torch": torch.__version__,
        }
    )


def main(
    run_name: Annotated[str, typer.Option("--run", help="a run of params.yaml, for example ssa2d-rgb-full-0")],
) -> None:
    """Train one run of params.yaml."""
    chosen = runs.named(run_name)
    run(
        chosen,
        load("train.common", Common),
        load(f"train.{chosen.method}", Method),
        dataset_name=dataset.name(),
    )


if __name__ == "__main__":
    cli.run(main)
