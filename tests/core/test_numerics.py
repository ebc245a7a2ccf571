"""Kernels that are wrong on some processor: seen, kept, never used. Numbers that are not finite: errors."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from benchmarks.workspace import CHECKOUT
from models import methods
from models.base import configuration, finite
from models.parts import convolutions, fcis, flownet, maskrcnn
from models.parts.convolutions import KNOWN_FAULTS, Convolution, Guard
from models.parts.folding import for_inference, naming_layers
from models.parts.network import Training
from stages.commands import profile
from stages.core import items, kernel_process, numerics, processor
from stages.core.batches import windows
from stages.core.batches.framing import FRAMINGS
from stages.core.datasets.labels import A2D
from stages.core.inference import answers, label_maps, region_masks, segmenters
from stages.core.inference import predictor as predictors
from stages.core.optical_flow import networks
from stages.core.runs import FULL
from stages.core.training.loop import Checkpointing, fit
from tests.help.faulty_kernels import Faulty, everything

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
PLAIN = Convolution(
    input=(2, 8, 9, 11), input_strides=(792, 1, 88, 8), weight=(12, 8, 3, 3), weight_strides=(72, 1, 24, 8), bias=True,
    stride=(1, 1), padding=(1, 1), dilation=(1, 1), transposed=False, output_padding=(0, 0), groups=1, dtype="float32",
    threads=1, backward=True,
)  # fmt: skip
IN_BFLOAT16 = replace(PLAIN, dtype="bfloat16", backward=False)


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found lies in the test's own folder."""
    monkeypatch.setattr(items, "CACHE", tmp_path / ".items")


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[Convolution]:
    """Convolutions in the order in which they were looked at: in this process, where stand-ins for faults are."""
    seen: list[Convolution] = []

    def look(convolution: Convolution) -> str:
        seen.append(convolution)
        return convolutions.fault(convolution)

    monkeypatch.setattr(numerics, "look", look)
    return seen


# What is wrong with one convolution


@st.composite
def any_convolution(draw: st.DrawFn) -> Convolution:
    """Of 2D and 3D, plain and transposed, grouped, dilated, strided; 8 channels and more, for AVX2's sake."""
    axes = draw(st.sampled_from((2, 3)))
    groups, transposed = draw(st.sampled_from((1, 1, 2))), draw(st.booleans())
    channels, outputs = (groups * draw(st.sampled_from((8, 16, 24))) for _ in range(2))
    kernel, stride, dilation = (draw(st.sampled_from(choice)) for choice in ((1, 3, 5), (1, 2), (1, 2)))
    x = torch.empty(draw(st.integers(1, 5)), channels, *(draw(st.integers(1, 12)) for _ in range(axes)))
    shape = (channels, outputs // groups) if transposed else (outputs, channels // groups)
    weight = torch.empty(*shape, *[kernel] * axes)
    if draw(st.booleans()):
        last = {2: torch.channels_last, 3: torch.channels_last_3d}[axes]
        x, weight = x.contiguous(memory_format=last), weight.contiguous(memory_format=last)
    padding = [kernel // 2 * dilation] * axes
    places = ([stride] * axes, padding, [dilation] * axes, transposed, [0] * axes, groups)
    return convolutions.described(x, weight, bias=draw(st.booleans()), settings=places, backward=draw(st.booleans()))


@settings(deadline=None, max_examples=40)
@given(asked=any_convolution())
def test_nothing_is_found_wrong_with_sound_kernels(asked: Convolution) -> None:
    assert convolutions.fault(asked) == ""


@pytest.mark.parametrize(
    "spoil",
    [
        lambda y: torch.full_like(y, torch.nan),
        lambda y: 10 * y,
        lambda y: y.index_fill(1, torch.tensor([5]), 0),
        lambda y: y[:, [*range(1, y.shape[1]), 0]],
        lambda y: torch.cat([y[..., :-1], 1.5 * y[..., -1:]], dim=-1),
        lambda y: y + (torch.arange(y.numel()).view(y.shape) == 77) * y.abs().max(),
    ],
    ids=["not finite", "ten times off", "an output missing", "outputs exchanged", "wrong at an edge", "one number off"],
)
@pytest.mark.parametrize("asked", [PLAIN, IN_BFLOAT16], ids=["float32", "bfloat16"])
def test_what_a_kernel_gives_wrong_is_seen(asked: Convolution, spoil: Callable[[Tensor], Tensor]) -> None:
    with Faulty(everything, spoil):
        assert "its numbers are off by" in convolutions.fault(asked)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_wrong_output_of_thousands_is_seen(dtype: str) -> None:
    wide = replace(
        PLAIN, input=(1, 8, 7, 7), input_strides=(392, 1, 56, 8), weight=(2048, 8, 1, 1), weight_strides=(8, 1, 8, 8),
        padding=(0, 0), dtype=dtype, backward=False,
    )  # fmt: skip
    assert convolutions.fault(wide) == ""
    with Faulty(everything, lambda y: y.index_fill(1, torch.tensor([2001]), 0)):
        assert "its numbers are off by" in convolutions.fault(wide)


def test_a_single_number_is_no_false_alarm() -> None:
    """By chance it may lie near 0, and its rounding does not."""
    for channels in range(8, 200, 3):
        lone = replace(
            IN_BFLOAT16, input=(1, channels, 1, 1), input_strides=(channels, 1, channels, channels), bias=False,
            weight=(16, channels, 1, 1), weight_strides=(channels, 1, channels, channels), padding=(0, 0),
        )  # fmt: skip
        assert convolutions.fault(lone) == ""


def test_numbers_that_are_wrong_only_now_and_then_are_seen() -> None:
    calls = iter(range(100))
    with Faulty(everything, lambda y: y if next(calls) % 3 < 2 else y + 1):
        assert "its numbers are off by" in convolutions.fault(PLAIN)


def test_wrong_gradients_are_seen_where_gradients_are_asked_for() -> None:
    with Faulty(everything, lambda gradient: gradient.index_fill(1, torch.tensor([2]), 0), gradients=True):
        assert "its gradients are off by" in convolutions.fault(PLAIN)
        assert convolutions.fault(replace(PLAIN, backward=False)) == ""


# Looking in another process


def in_a_process(code: str, **environment: str) -> Any:
    """The JSON that ``code`` prints last, in a Python of its own."""
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), **environment}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=CHECKOUT, env=env)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif("avx2" not in numerics.machine()["processor"], reason="a fault of oneDNN's kernels for AVX2")
def test_a_kernel_that_is_wrong_on_real_processors_is_found_and_looking_goes_on() -> None:
    """oneDNN's own fault, by its kernels for AVX2: gradients of a 1 x 1 convolution with stride 2 on four channels.

    Where this fails because nothing is wrong any more: docs/gotchas.md can lose the row.
    """
    code = (
        "import json; from dataclasses import replace; from stages.core import numerics;"
        "from models.parts.convolutions import KNOWN_FAULTS; wrong = KNOWN_FAULTS[1];"
        "right = replace(wrong, weight=(8, 8, 1, 1), weight_strides=(8, 1, 8, 8), input=(4, 8, 32, 32),"
        " input_strides=(8192, 1, 256, 8));"
        "print(json.dumps([numerics.look(wrong), numerics.look(right)]))"
    )
    wrong, right = in_a_process(code, ONEDNN_MAX_CPU_ISA="AVX2")
    assert wrong and right == ""


@pytest.mark.parametrize(
    "ending, says",
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "it crashes (signal 11)"),
        ("os.kill(os.getpid(), signal.SIGABRT)", "it crashes (signal 6)"),
        ("os.kill(os.getpid(), signal.SIGPROF)", "it does not end"),
    ],
)
def test_a_crash_is_a_fault_and_so_is_that_it_does_not_end(
    ending: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_process, "_looker", ended_by(ending))
    assert numerics.look(PLAIN) == says


@pytest.mark.parametrize("name", ["KILL", "INT", "HUP", "ALRM"])
def test_what_ends_the_process_from_outside_says_nothing_of_the_kernel(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that runs out, say, or Ctrl-C: an error, and nothing is kept."""
    heeded = "" if name == "KILL" else f"signal.signal(signal.SIG{name}, signal.SIG_DFL); "  # nohup has HUP ignored
    ending = f"{heeded}os.kill(os.getpid(), signal.SIG{name})"
    monkeypatch.setattr(kernel_process, "_looker", ended_by(ending))
    with pytest.raises(RuntimeError, match="ended with -"):
        numerics.verdict(PLAIN)
    assert not numerics.known().looked_at


def test_a_process_that_cannot_look_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_process, "_looker", ended_by("raise MemoryError('no room')"))
    with pytest.raises(RuntimeError, match="ended with 1: MemoryError: no room"):
        numerics.verdict(PLAIN)


def test_after_an_interrupt_the_next_question_does_not_get_the_answer_to_the_last() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    kernel_process._looker.cache_clear()
    asked = kernel_process._looker().process  # it takes a second to start
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            kernel_process.look(PLAIN)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert asked.wait(10) == -signal.SIGKILL
    assert kernel_process.look(PLAIN) == "" and kernel_process._looker().process is not asked


def ended_by(ending: str) -> Any:
    """What stands for the process that looks: it reads a line and ends."""
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
    command = [sys.executable, "-c", f"import os, signal, sys; sys.stdin.readline(); {ending}"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
    found = kernel_process.Looker(process, errors)
    looker = lambda: found  # noqa: E731
    looker.cache_clear = lambda: None  # type: ignore[attr-defined]
    return looker


@pytest.mark.skipif("avx2" not in numerics.machine()["processor"], reason="oneDNN says nothing elsewhere")
def test_what_a_library_prints_is_no_answer() -> None:
    code = (
        "import json; from stages.core import numerics; from models.parts.convolutions import KNOWN_FAULTS;"
        "from stages.core.kernel_process import look; print(json.dumps(look(KNOWN_FAULTS[0])))"
    )
    assert isinstance(in_a_process(code, ONEDNN_VERBOSE="1"), str)


# What is kept


def test_a_machine_looks_once_and_keeps_what_it_found(looked_at: list[Convolution]) -> None:
    with Faulty(lambda x, _: x.dtype == torch.bfloat16, lambda y: 10 * y):
        for _ in range(2):
            assert numerics.verdict(PLAIN) == "" and "off by" in numerics.verdict(IN_BFLOAT16)
    assert looked_at == [PLAIN, IN_BFLOAT16]
    known = numerics.known()
    assert known.looked_at == {"float32": 1, "bfloat16": 1} and list(known.wrong) == [str(IN_BFLOAT16)]


def test_another_processor_torch_or_set_of_instructions_looks_again(
    looked_at: list[Convolution], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = numerics.machine()
    numerics.verdict(PLAIN)
    for name in here:
        monkeypatch.setattr(numerics, "machine", lambda name=name: {**here, name: "another"})
        numerics.verdict(PLAIN)
        assert not numerics.known().wrong and numerics.known().looked_at.total() == 1
    assert len(looked_at) == 1 + len(here)


def test_a_record_that_a_kill_left_broken_is_made_again(looked_at: list[Convolution], tmp_path: Path) -> None:
    numerics.verdict(PLAIN)
    (path,) = (tmp_path / ".items").rglob("*.json")
    path.write_text(path.read_text()[:20])
    assert not numerics.known().looked_at
    numerics.verdict(PLAIN)
    assert len(looked_at) == 2 and json.loads(path.read_text())["convolution"]["groups"] == 1


def test_where_nothing_can_be_kept_the_machine_is_looked_at_all_the_same(
    looked_at: list[Convolution], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(items, "CACHE", Path("/proc/nobody/writes/here"))
    assert numerics.verdict(PLAIN) == "" and looked_at == [PLAIN]
    assert "can't be kept" in capsys.readouterr().out


def test_the_answer_of_the_process_is_that_of_the_function() -> None:
    asked = replace(PLAIN, input=(1, 8, 9, 11))
    assert numerics.look(asked) == convolutions.fault(asked) == ""
    assert Convolution(**{key: tuple(v) if isinstance(v, list) else v for key, v in asdict(asked).items()}) == asked


def test_what_is_wrong_here_is_said_with_what_is_done_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "look", lambda asked: "")
    assert processor.condition() == (True, "convolutions looked at: none yet; none is wrong")
    numerics.verdict(PLAIN)
    monkeypatch.setattr(numerics, "look", lambda asked: "off" if asked.dtype == "bfloat16" else "")
    fine, says = processor.condition()
    assert not fine and says.startswith(f"{KNOWN_FAULTS[0]}: off (1 like this; looked at: 1 in float32)")


# Predictions


class Layers(nn.Module):
    """Every kind of convolution that the methods have, one after another."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.last = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.up(self.first(x).relu()))
        return y


def seen_by(network: nn.Module, precision: Any) -> Tensor:
    checked, x = numerics.Checked(), torch.randn(2, 8, 6, 7, generator=torch.Generator().manual_seed(0))
    with checked(precision, CPU, x), torch.no_grad():
        found: Tensor = network(x).float()
    return found


def test_what_is_wrong_in_bfloat16_is_computed_in_float32(looked_at: list[Convolution]) -> None:
    exact = seen_by(Layers(), "float32")
    with Faulty(lambda x, _: x.dtype == torch.bfloat16, lambda y: torch.full_like(y, torch.nan)) as faulty:
        torch.testing.assert_close(seen_by(Layers(), "bfloat16"), exact, rtol=0.05, atol=0.02)
    assert faulty.times and {asked.dtype for asked in looked_at} == {"float32", "bfloat16"}


def test_what_is_wrong_in_float32_too_is_computed_without_onednn(looked_at: list[Convolution]) -> None:
    exact = seen_by(Layers(), "float32")
    for path in items.CACHE.rglob("*.json"):
        path.unlink()
    with Faulty(everything, lambda y: 10 * y):
        torch.testing.assert_close(seen_by(Layers(), "float32"), exact)
        torch.testing.assert_close(seen_by(Layers(), "bfloat16"), exact, rtol=0.05, atol=0.02)


def test_only_the_layer_that_is_wrong_is_computed_in_another_way(looked_at: list[Convolution]) -> None:
    dtypes: list[torch.dtype] = []

    class Noting(Faulty):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is convolutions.FORWARD and not in_check:
                dtypes.append(args[0].dtype)
            return super().__torch_dispatch__(func, types, args, kwargs)

    in_check = True
    network = Layers()
    with Noting(lambda x, weight: x.dtype == torch.bfloat16 and weight.shape == (16, 8, 3, 3), lambda y: 10 * y):
        seen_by(network, "bfloat16")  # all are looked at
        in_check = False
        seen_by(network, "bfloat16")
    assert dtypes == [torch.float32, torch.bfloat16, torch.bfloat16]


def test_one_box_and_several_are_looked_at_whatever_the_first_frame_has(looked_at: list[Convolution]) -> None:
    with numerics.guard(), torch.no_grad():
        for boxes in (0, 1, 2, 7):
            Layers()(torch.zeros(boxes, 8, 6, 7))
    assert [asked.input[0] for asked in looked_at] == [1, 2] * 3


def test_where_what_is_found_decides_which_layers_run_all_is_looked_after(looked_at: list[Convolution]) -> None:
    checked = numerics.Checked()
    for _ in range(2):
        with checked("float32", CPU):
            assert isinstance(_get_current_dispatch_mode(), Guard)


def test_where_all_is_right_the_next_tensor_of_the_shape_is_not_looked_after(looked_at: list[Convolution]) -> None:
    checked, guarded = numerics.Checked(), []
    for x in (torch.zeros(1, 8, 6, 7), torch.ones(3, 8, 6, 7), torch.zeros(1, 8, 6, 8)):
        with checked("bfloat16", CPU, x), torch.no_grad():
            Layers()(x)
            guarded.append(isinstance(_get_current_dispatch_mode(), Guard))
    assert guarded == [True, False, True]


def test_where_one_is_wrong_every_tensor_is_looked_after(looked_at: list[Convolution]) -> None:
    checked, guarded = numerics.Checked(), []
    with Faulty(lambda x, _: x.dtype == torch.bfloat16, lambda y: 10 * y):
        for _ in range(3):
            with checked("bfloat16", CPU, torch.zeros(1, 2)), torch.no_grad():
                Layers()(torch.ones(1, 8, 6, 7))
                guarded.append(isinstance(_get_current_dispatch_mode(), Guard))
    assert guarded == [True, True, True]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Convolution]:
    """Convolutions whose verdict was asked for."""
    seen: list[Convolution] = []

    def verdict(one: Convolution) -> str:
        seen.append(one)
        return ""

    monkeypatch.setattr(numerics, "verdict", verdict)
    return seen


FRAMES = np.random.default_rng(0).integers(0, 255, (1, 64, 96, 3), np.uint8)


def test_a_segmenter_is_looked_after(asked: list[Convolution]) -> None:
    network = maskrcnn.build(maskrcnn.small, A2D.actors).eval()
    region_masks._find(segmenters.Segmenter(network, FRAMINGS["small"], CPU, A2D.actors), FRAMES)
    assert asked


def test_a_network_of_optical_flow_is_looked_after(asked: list[Convolution]) -> None:
    network = flownet.build(flownet.configuration("flownets", "small")).eval()
    networks.FlowNet(network, CPU)(FRAMES, FRAMES)
    assert asked


def test_what_detects_is_looked_after(asked: list[Convolution], monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = predictor_of("joint")
    length = predictor.config.window.length
    window = windows.Sample(frames=FRAMES.repeat(length, 0), labels=np.zeros((length, 64, 96), np.uint8))
    monkeypatch.setattr(predictors, "read_windows", lambda *_: [(0, window)])
    list(label_maps._detected_rows({}, predictor, (64, 96)))
    assert asked


def test_what_answers_a_sentence_is_looked_after(asked: list[Convolution]) -> None:
    window = windows.Sample(frames=FRAMES, labels=np.zeros((1, 64, 96), np.uint8))
    answers.respond(predictor_of("hu2016"), window, [np.ones((2, 300), np.float32)], "bfloat16")
    assert {one.dtype for one in asked} == {"bfloat16"}


def predictor_of(method: str) -> predictors.Predictor:
    """A method at `small` that has learned nothing, RGB alone."""
    module = methods.method(method)
    config = configuration(module, "small", inputs="rgb", variant=FULL)
    return predictors.Predictor(for_inference(module.build(config, A2D)), config, A2D, CPU)


# Trainings


def trained(folder: Path) -> dict[str, Tensor]:
    network = Layers()

    def batches(start: int) -> Iterator[Tensor]:
        for step in range(start, 4):
            yield torch.randn(3, 8, 6, 7, generator=torch.Generator().manual_seed(step))

    def loss(x: Tensor) -> dict[str, Tensor]:
        return {"loss": (network(x) - 1).square().mean()}

    fit(
        "layers", network, loss, {"all": list(network.parameters())}, batches,
        Training(steps=4, batch=3, learning_rates={"all": 0.05}),
        seed=0, checkpointing=Checkpointing(key="layers", seconds=100, folder=folder),
    )  # fmt: skip
    return network.state_dict()


def test_a_training_learns_the_same_where_the_processor_s_gradients_are_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking itself is tested above: here it is told what it would find."""

    def verdict(asked: Convolution) -> str:
        assert asked.backward
        return "its gradients are off" if asked.weight[0] == 16 and aware else ""

    monkeypatch.setattr(numerics, "verdict", verdict)
    aware = False
    expected = trained(tmp_path / "right")
    with Faulty(lambda _, weight: weight.shape[0] == 16, lambda gradient: -gradient, gradients=True):
        misled = trained(tmp_path / "misled")
        aware = True
        found = trained(tmp_path / "aware")
    assert not torch.allclose(misled["first.weight"], expected["first.weight"], rtol=1e-2)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


def test_a_training_is_looked_after_with_new_shapes_and_always_once_something_was_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(numerics, "verdict", lambda asked: "wrong" if asked.input[-1] == 9 else "")
    looked_after, guarded = numerics.Rehearsed(), []
    for width in (7, 7, 8, 7, 9, 7):
        batch = {"frames": torch.zeros(2, 8, 6, width), "boxes": [torch.zeros(width, 4)]}
        with looked_after(batch):
            guarded.append(isinstance(_get_current_dispatch_mode(), Guard))
            Layers()(batch["frames"])
    assert guarded == [True, False, True, False, True, True]


# Numbers that are not finite


def spoil(network: nn.Module, name: str) -> None:
    """Make a weight of the layer ``name`` not finite."""
    with torch.no_grad():
        next(network.get_submodule(name).parameters()).flatten()[0] = torch.nan


def test_the_first_layer_that_gives_such_numbers_is_named() -> None:
    network = Layers()
    spoil(network, "up")
    with (
        pytest.raises(FloatingPointError, match="layer `up` gives numbers that are not finite"),
        naming_layers(network),
    ):
        network(torch.zeros(1, 8, 6, 7))
    network(torch.zeros(1, 8, 6, 7))  # nobody looks any more


ASKED = ("hu2016", "li2017", "sentence")
"""Methods whose responses are looked at by ``answers.respond``; for those on videos see test_video_scores."""


def spoilt(method: str) -> tuple[nn.Module, Any, Any]:
    """A method at `small` whose first layer gives numbers that are not finite, its configuration, and a batch."""
    module, inputs = methods.method(method), "rgb" if method in ("hu2016", "li2017") else "rgb+flow"
    config = configuration(module, "small", inputs=inputs, variant=FULL)
    network = profile.build(module, config, "small", inputs)
    part = network.back if method == "region_masks" else network
    layers = (nn.Conv2d, nn.Conv3d, nn.Linear)
    spoil(part, next(name for name, layer in part.named_modules() if isinstance(layer, layers) and "text" not in name))
    clip, flow = profile.moving_clip(2, 64, 96), np.zeros((64, 96, 2), np.float32)
    batch = profile._window(clip, profile._numbers(0, config), config, flow=flow)
    return for_inference(network), config, batch


@pytest.mark.parametrize("method", ["deeplab", "region_masks", "ssa2d", "joint"])
def test_no_method_makes_labels_of_numbers_that_are_not_finite(method: str) -> None:
    network, _, batch = spoilt(method)
    with pytest.raises(FloatingPointError, match="not finite"):
        network.predict(batch)


@pytest.mark.parametrize("method", ASKED)
def test_no_mask_is_made_of_responses_that_are_not_finite(method: str) -> None:
    network, config, batch = spoilt(method)
    predictor = predictors.Predictor(network, config, A2D, CPU)
    frames = batch["frames"][0].numpy()
    flow = np.zeros((*frames.shape[:3], 2), np.float32) if "flow" in batch else None
    window = windows.Sample(frames=frames, labels=np.zeros(frames.shape[:3], np.uint8), flow=flow)
    with pytest.raises(FloatingPointError, match="responses that are not finite"):
        answers.respond(predictor, window, [np.ones((2, 300), np.float32)], "float32")


@pytest.mark.parametrize("segmenter", [fcis, maskrcnn])
@pytest.mark.parametrize("part", ["backbone", "rpn"])
def test_no_segmenter_finds_nothing_where_its_numbers_are_not_finite(segmenter: ModuleType, part: str) -> None:
    torch.manual_seed(0)
    network = segmenter.build(segmenter.small, A2D.actors).eval()
    layers = [name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)]
    spoil(network, next(name for name in layers if part == "backbone" or "rpn" in name))
    with pytest.raises(FloatingPointError, match="not finite"):
        network.predict(torch.randint(0, 255, (1, 64, 96, 3), dtype=torch.uint8))


def test_an_item_s_error_names_run_clip_and_layer(tmp_path: Path) -> None:
    network, calls = Layers(), []
    spoil(network, "up")

    @numerics.located(lambda folder, digest: SimpleNamespace(network=network), folder="run", digest="weights")
    def label(argument: Any, parameters: Any, target: Path) -> None:
        calls.append(target)
        finite(network(torch.zeros(1, 8, 6, 7)), "scores")

    with pytest.raises(FloatingPointError) as error:
        label({"run": "data/train/ssa2d-rgb-full-0", "weights": "", "video": "--clip"}, {}, tmp_path)
    assert str(error.value) == (
        "ssa2d-rgb-full-0, clip `--clip`: scores that are not finite; layer `up` gives numbers that are not finite"
    )
    assert len(calls) == 2


# Both paths


@pytest.mark.parametrize("isa", ["AVX512_CORE", pytest.param("AVX2", marks=pytest.mark.slow)])
@pytest.mark.skipif("avx2" not in numerics.machine()["processor"], reason="sets of instructions of x86")
def test_precisions_are_kept_with_other_instructions_too(isa: str, tmp_path: Path) -> None:
    """The other tests run with all that this processor has."""
    tests = [
        "tests/core/inference/test_video_scores.py",
        "tests/core/inference/test_whole_clips.py",
        "tests/core/inference/test_fixed_vocabulary.py",
    ]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "precision", *tests]
    env = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa, "ACTOR_ACTION_ITEMS": str(tmp_path / "items")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CHECKOUT, env=env)
    assert done.returncode == 0, done.stdout[-3000:]
