"""Stage `pretrain`: small encoders that have seen actors and actions, in place of ImageNet and Kinetics weights.

Reads nothing: clips come from the generator, another seed and another pool than the sample's. Writes data/pretrain:
rgb2d.pt, flow2d.pt, rgb3d.pt, flow3d.pt (public key names) and curves.csv. Who has public weights names them in
`train`.
"""

from functools import partial
from pathlib import Path

import torch

from models.parts import i3d, resnet
from models.parts.classifier import Classifiers
from models.parts.network import Training, channels_last, choose_device
from stages.core import cli, items
from stages.core.batches import clip_batches
from stages.core.closure import import_closure
from stages.core.datasets.labels import A2D
from stages.core.params import Section, load
from stages.core.training import loop


class Parameters(Section):
    """Section ``pretrain`` of params.yaml."""

    seed: int
    clips: int  # generated; each is seen steps * batch / clips times
    height: int  # of the generated clips, in pixels
    side: int  # of the square crops, in pixels
    side3d: int  # of those that 3D encoders get
    frames: int
    steps: int
    batch: int
    learning_rate: float
    loaders: int
    threads: int
    checkpoint_seconds: float


def run(parameters: Parameters, *, output: Path = Path("data/pretrain")) -> None:
    """Train the encoders and save them."""
    torch.set_num_threads(parameters.threads)
    torch.manual_seed(parameters.seed)
    network = Classifiers(resnet.SMALL, i3d.SMALL, actors=len(A2D.actors), actions=len(A2D.actions))
    channels_last(network).to(choose_device())
    schedule = Training(
        steps=parameters.steps,
        batch=parameters.batch,
        learning_rates={"all": parameters.learning_rate},
        optimiser="adam",
        schedule="cosine",
        weight_decay=1e-4,
    )
    key = items.digest(
        {
            "parameters": parameters.model_dump(exclude={"loaders", "checkpoint_seconds"}),
            "code": import_closure("stages.core.batches.clip_batches")
            | import_closure("stages.core.training.loop")
            | import_closure("models.parts.classifier"),
            "sizes": [repr(resnet.SMALL), repr(i3d.SMALL)],
            "torch": torch.__version__,
        }
    )
    clips = clip_batches.GeneratedClips(
        seed=parameters.seed,
        count=parameters.clips,
        height=parameters.height,
        side=parameters.side,
        side3d=parameters.side3d,
        frames=parameters.frames,
    )
    batches = partial(
        clip_batches.batches,
        clips,
        seed=parameters.seed,
        steps=parameters.steps,
        batch=parameters.batch,
        loaders=parameters.loaders,
    )
    curve = loop.fit(
        "pretrain",
        network,
        network.loss,
        {"all": list(network.parameters())},
        batches,
        schedule,
        seed=parameters.seed,
        checkpointing=loop.Checkpointing(key=key, seconds=parameters.checkpoint_seconds),
    )
    for name, encoder in network.encoders().items():
        loop.save_weights(output / f"{name}.pt", encoder)
    loop.write_curve(output / "curves.csv", curve)
    last = curve[-1]
    print("pretrain: " + ", ".join(f"{name} {value:.3f}" for name, value in last.items() if name != "step"))


def main() -> None:
    """Pretrain the small encoders."""
    run(load("pretrain", Parameters))


if __name__ == "__main__":
    cli.run(main)
