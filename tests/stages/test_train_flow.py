"""Stage `train_flow`: FlowNets learn from pairs with exact flow, go on after a kill, and load public weights."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.parts import flownet
from stages import evaluate_flow, optical_flow, train_flow
from stages.core.batches import pair_batches
from stages.core.optical_flow import files
from stages.core.packs import flow
from tests.help import chairs, make

OUTPUTS = ("model.pt", "run.json", "curves.csv")


def parameters(**changed: object) -> train_flow.Parameters:
    settings = {
        "config": "small", "networks": {"flownets": {"steps": 3}, "flownetc": {"steps": 2}}, "seed": 1, "pairs": 4,
        "height": 64, "width": 96, "chairs": None, "loaders": 0, "threads": 1, "checkpoint_seconds": 0,
    }  # fmt: skip
    return train_flow.Parameters.model_validate(settings | changed)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """`small` on crops of 64 x 64."""
    for name in ("flownets", "flownetc"):
        sizes = flownet.CONFIGURATIONS[name]
        changed = replace(sizes["small"], width=0.125, crop=(64, 64))
        monkeypatch.setitem(sizes, "small", replace(changed, training=replace(changed.training, batch=2)))


def trained(folder: Path, network: str = "flownets", **changed: object) -> dict[str, bytes]:
    with make.workspace(folder / "workspace"):
        train_flow.run(parameters(**changed), network=network, output=folder)
    return {name: (folder / network / name).read_bytes() for name in OUTPUTS}


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("network", ["flownets", "flownetc"])
def test_a_network_is_trained_the_same_twice_and_says_on_what(tmp_path: Path, network: str) -> None:
    first, second = (trained(tmp_path / name, network) for name in "ab")
    assert first == second
    run = json.loads(first["run.json"])
    assert run["network"] == network and run["trained_on"] == "generated pairs" and run["parameter_count"] > 0


@pytest.mark.usefixtures("tiny")
def test_flying_chairs_are_seen_where_the_user_has_them(tmp_path: Path) -> None:
    pairs = pair_batches.TrainingPairs(seed=1, count=1, height=64, width=96, crop=(64, 64))
    (tmp_path / "chairs").mkdir()
    for number in (1, 2):
        chairs.write_pair(tmp_path / "chairs", number, pairs.pair(0))
    (tmp_path / "chairs" / files.SPLIT_FILE).write_text("1\n2\n")
    run = trained(tmp_path, chairs=str(tmp_path / "chairs"))["run.json"]
    assert json.loads(run)["trained_on"] == "generated pairs and FlyingChairs"


def test_public_weights_take_the_place_of_a_training(tmp_path: Path) -> None:
    network = flownet.build(flownet.flownets_small)
    state = {f"module.{key}": torch.full_like(value, 0.25) for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, "div_flow": 20.0, "arch": "flownets"}, tmp_path / "flownets_EPE1.951.pth")
    networks = {"flownets": {"weights": str(tmp_path / "flownets_EPE1.951.pth")}}
    written = trained(tmp_path, networks=networks)
    loaded = torch.load(tmp_path / "flownets/model.pt", weights_only=True)
    assert all(torch.equal(value, state[f"module.{key}"]) for key, value in loaded.items())
    assert json.loads(written["run.json"])["trained_on"] == "public weights"


def test_weights_of_another_network_are_an_error_that_lists_keys(tmp_path: Path) -> None:
    torch.save(flownet.build(flownet.flownetc_small).state_dict(), tmp_path / "flownetc.pth")
    with pytest.raises(ValueError, match=r"flownetc.pth does not fit.*conv_redir"):
        trained(tmp_path, networks={"flownets": {"weights": str(tmp_path / "flownetc.pth")}})


def test_a_network_that_nobody_listed_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no `flownet`; did you mean `flownet"):
        trained(tmp_path, "flownet")


def test_a_draw_depends_on_its_number_and_not_on_what_was_drawn_before() -> None:
    def pairs() -> pair_batches.TrainingPairs:
        return pair_batches.TrainingPairs(seed=3, count=3, height=64, width=96, crop=(48, 64))

    once, twice = pairs(), pairs()
    once[(0, 1)]
    first, second = once[(7, 2)], twice[(7, 2)]
    assert torch.equal(first["first"], second["first"]) and torch.equal(first["flow"], second["flow"])
    assert not torch.equal(first["first"], twice[(8, 2)]["first"])


def test_a_curriculum_begins_with_slow_pairs_and_ends_with_all_of_them() -> None:
    curriculum = pair_batches.Curriculum(draws=100)
    assert [curriculum.farthest(number, 100) for number in (0, 24, 49, 99)] == [6, 30, 60, 60]
    assert [curriculum.position(0, position) for position in (0, 49, 99)] == [0, 9, 19]
    assert curriculum.position(50, 99) == 59  # 0.2 + 0.8 / 2 of them have joined
    assert all(curriculum.position(draw, 99) == 99 for draw in (100, 1000))


def test_pairs_of_a_curriculum_are_drawn_from_its_beginning() -> None:
    slow = pair_batches.TrainingPairs(
        seed=3, count=20, height=64, width=96, crop=(48, 64), curriculum=pair_batches.Curriculum(draws=1000)
    )
    early, late = (
        max(slow[(draw, position)]["flow"].nan_to_num().norm(dim=-1).max().item() for position in range(20))
        for draw in (0, 1000)
    )
    assert early < 30 < late  # 60 * 0.4, in frames that the augmentation enlarges a little


@pytest.mark.usefixtures("tiny")
def test_a_trained_network_estimates_the_flow_of_clips_and_is_scored(tmp_path: Path) -> None:
    make.write_release(tmp_path / "data/raw")
    with make.workspace(tmp_path):
        data = make.run_to_flow(tmp_path)
        train_flow.run(parameters(), network="flownets", output=data / "train_flow")
        settings = optical_flow.Parameters(recipes={}, dis=optical_flow.Dis(preset="fast"), height=None, quantum=0.0625)
        outcome = optical_flow.run(
            settings, recipe="flownets-forward", frames=data / "frames", trained=data / "train_flow",
            output=data / "optical_flow",
        )  # fmt: skip
        again = optical_flow.run(
            settings, recipe="flownets-forward", frames=data / "frames", trained=data / "train_flow",
            output=data / "optical_flow",
        )  # fmt: skip
        wanted = evaluate_flow.Parameters(
            backends=["dis", "flownets"], shapes=[evaluate_flow.Shape(height=64, width=96, pairs=2)], seed=1,
            resamples=5, chairs=None,
        )  # fmt: skip
        result = evaluate_flow.run(wanted, preset="fast", trained=data / "train_flow", output=data / "evaluate_flow")
    assert len(outcome.computed) == 3 and len(again.reused) == 3 and not outcome.quarantined
    clip = flow.ClipFlow(data / "optical_flow/flownets-forward/clips/third_in_it.arrow")
    assert len(clip) == 12 and np.isfinite(clip.frame(0)).all()
    found = result["generated 64 x 96"]
    assert set(found) == {"zero", "dis", "flownets", "pixels"}
    assert 0 < found["dis"]["all/endpoint_error"] < found["zero"]["all/endpoint_error"]
    assert {path.name for path in (data / "evaluate_flow").iterdir()} == {"metrics.json", "scores.csv", "sheet.png"}


def test_a_recipe_whose_network_is_not_trained_says_which_stage_to_run(tmp_path: Path) -> None:
    settings = optical_flow.Parameters(recipes={}, dis=optical_flow.Dis(preset="fast"), height=None, quantum=0.0625)
    with pytest.raises(ValueError, match="dvc repro train_flow@flownets"):
        optical_flow.run(settings, recipe="flownets-forward", trained=tmp_path)


@pytest.mark.needs_shared
def test_the_real_pair_of_flying_chairs_is_scored_at_its_own_size(tmp_path: Path, shared: Path) -> None:
    """It is 384 x 512 and slow (4.3 pixels in the mean): DIS comes within 3, zero does not."""
    wanted = evaluate_flow.Parameters(
        backends=["dis", "farneback"], shapes=[], seed=1, resamples=5, chairs=shared / "data/flyingchairs"
    )
    found = evaluate_flow.run(wanted, preset="medium", output=tmp_path)["FlyingChairs"]
    assert found["pixels"]["all"] == 384 * 512
    assert found["dis"]["all/endpoint_error"] < 3 < found["zero"]["all/endpoint_error"]
