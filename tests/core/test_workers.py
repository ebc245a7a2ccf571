"""Runners: wherever items are computed, the same results come back, and what params.yaml asks for is what is used."""

import os
import time
from pathlib import Path

import pytest

from stages.core import workers
from stages.core.workers import PROCESSES_VARIABLE, RUNNER_VARIABLE, Workers, compute, visible_gpus

RUNNERS = [Workers(runner="serial"), Workers(runner="processes", processes=2)]


def square(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is below zero")
    return number * number


def process_id(_: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("runner", RUNNERS, ids=lambda runner: runner.runner)
def test_every_argument_comes_back_once_with_its_position(runner: Workers) -> None:
    arguments = list(range(20))
    results = list(compute(square, arguments, workers=runner))
    assert sorted(results) == [(number, number * number) for number in arguments]


@pytest.mark.parametrize("runner", RUNNERS, ids=lambda runner: runner.runner)
def test_an_exception_comes_through_as_it_was_raised(runner: Workers) -> None:
    with pytest.raises(ValueError, match="-1 is below zero"):
        list(compute(square, [1, 2, -1], workers=runner))


@pytest.mark.parametrize("runner", [*RUNNERS, Workers(runner="ray")], ids=lambda runner: runner.runner)
def test_nothing_to_do_starts_nothing(runner: Workers) -> None:
    assert list(compute(square, [], workers=runner)) == []


def test_serial_stays_in_this_process_and_processes_do_not() -> None:
    serial = {found for _, found in compute(process_id, [1, 2, 3], workers=RUNNERS[0])}
    apart = {found for _, found in compute(process_id, [1, 2, 3], workers=RUNNERS[1])}
    assert serial == {os.getpid()} and os.getpid() not in apart


def test_one_argument_or_one_process_is_not_worth_a_pool() -> None:
    assert list(compute(process_id, [1], workers=RUNNERS[1])) == [(0, os.getpid())]
    single = Workers(runner="processes", processes=1)
    assert {found for _, found in compute(process_id, [1, 2], workers=single)} == {os.getpid()}


def test_a_consumer_that_stops_early_leaves_no_pool_behind() -> None:
    results = compute(square, list(range(50)), workers=RUNNERS[1])
    next(results)
    results.close()  # waits for the pool
    with pytest.raises(StopIteration):
        next(results)


@pytest.fixture
def parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(RUNNER_VARIABLE, raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    path = tmp_path / "params.yaml"
    path.write_text("workers:\n  runner: auto\n  processes: 3\n")
    return path


def test_auto_means_processes_and_ray_where_a_cluster_is_named(
    parameters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert workers.configured() == Workers(runner="processes", processes=3)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert workers.configured().runner == "ray"


def test_the_environment_overrides_params_yaml(parameters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNNER_VARIABLE, "serial")
    assert workers.configured().runner == "serial"


def test_an_unknown_runner_is_an_error_of_the_user_s(parameters: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNNER_VARIABLE, "threads")
    with pytest.raises(ValueError, match="runner"):
        workers.configured()


def test_no_number_of_processes_means_one_per_core_that_was_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PROCESSES_VARIABLE, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7})
    assert Workers(processes=0).count == 3
    assert Workers(processes=5).count == 5


def test_a_flow_bounds_the_processes_unless_params_yaml_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROCESSES_VARIABLE, "7")
    assert Workers(processes=0).count == 7
    assert Workers(processes=5).count == 5


def gpu_of_this_process(folder: Path) -> str:
    """The GPU of this process, once there is another process too: it must not take all the work."""
    (folder / str(os.getpid())).touch()
    end = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    return os.environ.get("CUDA_VISIBLE_DEVICES", "all")


def test_processes_spread_over_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    many = Workers(runner="processes", processes=8, gpu_share=1.0)
    assert {gpu for _, gpu in compute(gpu_of_this_process, [tmp_path] * 2, workers=many, gpu=True)} == {"2", "5"}


@pytest.mark.parametrize(
    ("gpu_share", "gpu", "count"), [(1.0, True, 2), (0.5, True, 4), (3.0, True, 1), (0.0, True, 8), (1.0, False, 8)]
)
def test_a_share_of_a_gpu_bounds_the_processes_that_use_one(
    monkeypatch: pytest.MonkeyPatch, gpu_share: float, gpu: bool, count: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setattr(workers, "_processes", lambda *_, count, gpus: iter([count]))
    asked = Workers(runner="processes", processes=8, gpu_share=gpu_share)
    assert list(compute(square, list(range(8)), workers=asked, gpu=gpu)) == [count]


@pytest.mark.parametrize(("chosen", "seen"), [("", []), ("-1", []), ("3, 1", ["3", "1"]), ("0,-1,2", ["0"])])
def test_the_user_s_choice_of_gpus_is_kept(monkeypatch: pytest.MonkeyPatch, chosen: str, seen: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_gpus() == seen


def test_gpus_are_those_that_nvidia_smi_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-a)'\necho '  MIG 1g'\necho 'GPU 1: A (UUID: GPU-b)'\n")
    program.chmod(0o755)
    assert visible_gpus() == ["0", "1"]
