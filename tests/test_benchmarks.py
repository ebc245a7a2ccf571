"""Every benchmark runs at its smallest, and `stages.commands.profile` measures every method: no claim about the figures
here."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import __main__ as bench
from benchmarks import (
    confusion,
    convergence,
    feeding,
    flow_storage,
    frames,
    inference,
    noop,
    one_more_clip,
    parts,
    region_to_pixel,
    sentences,
    stages_side_by_side,
    threads,
)
from benchmarks import flow as flow_benchmark
from benchmarks.ratio import Ratio
from models import ssa2d
from models.base import Batch
from models.methods import METHODS
from models.parts import i3d
from stages.commands import profile
from stages.core import items
from stages.core.datasets.labels import A2D
from tests.help import make

SMALLEST = {
    "confusion_torchmetrics": lambda folder: confusion.measure(frames=2, height=16, width=24),
    "confusion_bincount": lambda folder: confusion.measure(against="bincount", frames=2, height=16, width=24),
    "feeding": lambda folder: feeding.measure_feeding(folder, clips=2, height=48, steps=1),
    "frames": lambda folder: frames.measure(folder, clips=2, height=48, copies=2),
    "inference": lambda folder: inference.measure("small", side=32, repeats=1),
    "inference_bfloat16": lambda folder: inference.measure("small", precision="bfloat16", side=32, repeats=1),
    "inference_checked": lambda folder: inference.measure_checked("small", side=32, repeats=1),
    "noop": lambda folder: noop.measure(folder, clips=2, runs=1, repeats=1),
    "region_to_pixel": lambda folder: region_to_pixel.measure(regions=3, height=16, width=24),
    "sentences": lambda folder: sentences.measure(samples=2, height=16, width=24),
    "waiting": lambda folder: feeding.measure_waiting(folder, clips=2, height=48, steps=1),
    "one_more_clip": lambda folder: one_more_clip.measure(folder, clips=2, height=48),
    "threads": lambda folder: threads.measure(folder, clips=2, height=48, steps=1),
    "stages_side_by_side": lambda folder: stages_side_by_side.measure(folder, stages=2, work_seconds=0.1),
}

QUICK = {
    "confusion_torchmetrics", "confusion_bincount", "frames", "inference", "inference_bfloat16", "inference_checked",
    "region_to_pixel", "sentences",
}  # fmt: skip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(items, "CACHE", tmp_path / ".items")
    return tmp_path / ".items"


def test_every_benchmark_of_the_table_has_its_smallest_run_here() -> None:
    assert set(bench.benchmarks(clips=10)) == set(SMALLEST)


def test_an_unknown_benchmark_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean `frames`"):
        bench.run(10, ["frame"])


# The others run whole `dvc` or Prefect commands many times.
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SMALLEST]
)
def test_a_benchmark_prints_one_ratio_of_two_times(name: str, tmp_path: Path) -> None:
    ratio = SMALLEST[name](tmp_path)
    assert isinstance(ratio, Ratio) and ratio.name == name
    assert ratio.seconds > 0 and ratio.against > 0
    assert str(ratio).startswith(f"{name}: {ratio.value:.2f} = ")


def test_quantised_flow_is_smaller_than_floats_and_off_by_half_a_quantum_at_most(tmp_path: Path) -> None:
    rows = {name: (size, largest) for name, size, _, largest in flow_storage.measure(tmp_path, clips=2)}
    assert rows["float32"][1] == 0
    assert rows["int16, 1/16 pixel"][0] < rows["float16"][0] < rows["float32"][0]
    assert 0 < rows["int16, 1/16 pixel"][1] <= 2**0.5 / 32 + 1e-6


def test_backends_are_measured_side_by_side(tmp_path: Path) -> None:
    rows = flow_benchmark.measure(tmp_path, pairs=1, height=64, width=96, paper=False)
    assert [row[0] for row in rows] == ["dis", "farneback", "tvl1"]
    assert all(error > 0 and milliseconds > 0 for _, error, _, milliseconds in rows)


def test_the_parts_of_region_masks_and_its_baseline_are_measured_side_by_side() -> None:
    milliseconds = parts.measure("small", height=64, width=64, regions=3, repeats=1)
    assert list(milliseconds) == ["flow", "regions", "segmentation", "all three", "baseline with flow"]
    assert all(value > 0 for value in milliseconds.values())
    together = milliseconds["flow"] + milliseconds["regions"] + milliseconds["segmentation"]
    assert milliseconds["all three"] == pytest.approx(together)


@pytest.mark.parametrize("config", ["small", pytest.param("paper", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_profiled(method: str, config: str, cache: Path) -> None:
    sizes = {"height": 64, "width": 64} if config == "small" else {}
    result = profile.run(method, "rgb", config, frames=1, repeats=1, **sizes)
    assert json.loads((cache / f"profiles/{method}-rgb-{config}.json").read_text()) == result
    assert result["parameters"] > 0 and result["gflop_per_frame"] > 0
    assert result["ms_per_frame"]["with_flow"] == result["ms_per_frame"]["without_flow"] > 0
    # Its size is a matter of who else is busy, not what it is the share of.
    reached = result["gflop_per_frame"] / (result["ms_per_frame"]["without_flow"] / 1e3)
    assert result["share_of_convolution_peak"] == pytest.approx(reached / result["convolution_peak_gflops"])
    assert result["share_of_convolution_peak"] > 0


def test_a_method_that_labels_all_frames_of_a_window_is_profiled_by_the_frame(cache: Path) -> None:
    """Its operations a frame are those of the window over its frames."""
    result = profile.run("ssa2d", "rgb", "small", height=64, width=64, frames=1, repeats=1)
    assert result["window"] == 8
    network = ssa2d.build(ssa2d.small, A2D).eval()
    with FlopCounterMode(display=False) as counter:
        network.predict(Batch(frames=torch.zeros(1, 8, 64, 64, 3, dtype=torch.uint8)))
    assert result["gflop_per_frame"] == pytest.approx(counter.get_total_flops() / 8 / 1e9)


def test_time_and_memory_are_measured_for_each_number_of_actors() -> None:
    found = inference.against_actors("small", side=48, repeats=1)
    assert list(found) == list(inference.ACTORS) and all(time > 0 for time, _ in found.values())


def test_convergence_is_measured_on_train_clips_that_nobody_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make.write_release(tmp_path / "data/raw")
    monkeypatch.setattr(ssa2d, "small", replace(ssa2d.small, height=40, crop=(40, 48)))
    with make.workspace(tmp_path):
        data = make.run_to_frames(tmp_path)
        (data / "pretrain").mkdir()
        torch.save(i3d.I3D(i3d.SMALL).state_dict(), data / "pretrain/rgb3d.pt")
        found = convergence.measure(data, steps=4, every=2, seed=0)
    assert list(found) == ["full", "without_ssa_masking"]
    for learned in found.values():
        assert list(learned.scores) == [2, 4] and learned.seconds > 0


def test_steps_saved_are_counted_to_one_score_for_both() -> None:
    found = {
        "full": convergence.Learned({10: 5.0, 20: 20.0, 30: 30.0}, 1.0),
        "without_ssa_masking": convergence.Learned({10: 1.0, 20: 12.0, 30: 20.0}, 1.0),
    }
    assert convergence.steps_saved(found) == (18.0, 20, 30)
    found["full"] = convergence.Learned({10: 5.0}, 1.0)
    assert convergence.steps_saved(found)[1] is None


def test_a_profile_with_flow_counts_its_estimation(cache: Path) -> None:
    result = profile.run("deeplab", "rgb+flow", "small", height=64, width=64, frames=1, repeats=1)
    assert result["ms_per_frame"]["with_flow"] > result["ms_per_frame"]["without_flow"]
    assert [path.name for path in (cache / "profiles").iterdir()] == ["deeplab-rgb+flow-small.json"]


def test_a_profile_of_what_does_not_exist_is_one_clear_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stages.commands.profile", "--method=deeplap", "--inputs=rgb"]
    done = subprocess.run(command, cwd=profile.__file__.rsplit("/", 3)[0], capture_output=True, text=True)
    assert done.returncode == 1 and "no method `deeplap`" in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(ValueError, match="did you mean `rgb"):
        profile.run("deeplab", "rbg", "small")
