"""Where items are computed: in this process, in processes of this machine, or in Ray. Only this module imports ray.

All three take a module-level function and a list of arguments and give back (position, result) as results come, with a
bounded number in flight. The choice changes no result, so it is no parameter of any stage: ``workers`` in params.yaml,
or ``ACTOR_ACTION_RUNNER``.
"""

import multiprocessing
import os
import secrets
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice, takewhile
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, Literal

from stages.core.params import Section, load

RUNNER_VARIABLE = "ACTOR_ACTION_RUNNER"
PROCESSES_VARIABLE = "ACTOR_ACTION_PROCESSES"
"""How many processes a flow lets one of its stages use, while others run beside it."""
RAY_BATCH = 25
"""Items a Ray task: twenty tasks of 25 are ten times cheaper than 500 of one."""


class Workers(Section):
    """Section ``workers`` of params.yaml."""

    runner: Literal["auto", "serial", "processes", "ray"] = "auto"
    processes: int = 0
    gpu_share: float = 0.25

    @property
    def count(self) -> int:
        """Processes of this machine to use: as params.yaml says, else as the flow says, else one per core."""
        return self.processes or int(os.environ.get(PROCESSES_VARIABLE, 0)) or cores()


def cores() -> int:
    """The cores that this process may use: a container or SLURM can grant fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; found without the seconds of torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:  # CUDA stops at -1
        return list(takewhile(lambda name: name not in ("", "-1"), map(str.strip, chosen.split(","))))
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]


def configured() -> Workers:
    """The workers that params.yaml and the environment ask for; ``auto`` is resolved."""
    workers = load("workers", Workers)
    runner = os.environ.get(RUNNER_VARIABLE, workers.runner)
    if runner == "auto":
        runner = "ray" if os.environ.get("RAY_ADDRESS") else "processes"
    return Workers.model_validate({**workers.model_dump(), "runner": runner})


Task = Callable[[Any], Any]


def compute(
    function: Task, arguments: Sequence[Any], *, workers: Workers, gpu: bool = False
) -> Iterator[tuple[int, Any]]:
    """Yield ``(position, function(arguments[position]))`` in the order of completion.

    ``function`` must be importable by name in another process. Its exception ends the iteration; what was computed
    before has been yielded. ``gpu``: each Ray task asks for a share of a GPU where the cluster has one; processes are
    no more than have their share, and spread over the GPUs.
    """
    if not arguments:
        return iter(())
    if workers.runner == "ray":
        return _ray(function, arguments, gpu_share=workers.gpu_share if gpu else 0.0)
    if workers.runner == "processes" and workers.count > 1 and len(arguments) > 1:
        gpus = visible_gpus() if gpu else []
        count = min(workers.count, len(arguments))
        if gpus and workers.gpu_share > 0:
            count = min(count, max(1, int(len(gpus) / workers.gpu_share)))
        return _processes(function, arguments, count=count, gpus=gpus)
    return _serial(function, arguments)


def _serial(function: Task, arguments: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    _single_thread()
    for position, argument in enumerate(arguments):
        yield position, function(argument)


def _processes(
    function: Task, arguments: Sequence[Any], *, count: int, gpus: Sequence[str]
) -> Iterator[tuple[int, Any]]:
    # forkserver: a fork of a process that runs threads (torch, arrow) can deadlock, and spawn imports everything anew.
    context = multiprocessing.get_context("forkserver")
    own_gpus: SimpleQueue[str] = context.SimpleQueue()
    for number in range(count if gpus else 0):
        own_gpus.put(gpus[number % len(gpus)])
    started = (own_gpus,) if gpus else ()
    with ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=started) as pool:
        queue = iter(enumerate(arguments))
        running: dict[Future[Any], int] = {}
        try:
            while True:
                for position, argument in islice(queue, 4 * count - len(running)):
                    running[pool.submit(function, argument)] = position
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def ray_folder() -> str:
    """Where a Ray of ours has its sockets and files, made for this user alone: Ray lets everybody write to its folders.

    Not in the workspace: the path of a socket has 107 bytes at most. Raises ``ValueError`` if it is another's.
    """
    folder = Path(tempfile.gettempdir()) / f"ray-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ValueError(f"{folder} is not a folder of this user alone: remove it, or name another one in RAY_TMPDIR")
    return str(folder)


def _ray(function: Task, arguments: Sequence[Any], *, gpu_share: float) -> Iterator[tuple[int, Any]]:
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # keeps every socket on the loopback
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_TMPDIR", ray_folder())
        # Else Ray writes a token into ~/.ray that everybody who can look in there can read.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    if not ray.is_initialized():
        # Without RAY_ADDRESS this starts a cluster of its own, which ends with the process.
        ray.init(log_to_driver=False, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": os.getcwd()}})
    resources = ray.cluster_resources()
    # A share of a GPU that the cluster hasn't got would wait for ever, silently.
    gpus = gpu_share if resources.get("GPU", 0) > 0 else 0
    slots = int(resources.get("CPU", 1))
    batch = max(1, min(RAY_BATCH, len(arguments) // (2 * slots)))
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(_batch)
    batches = iter([range(start, min(start + batch, len(arguments))) for start in range(0, len(arguments), batch)])
    running: dict[Any, range] = {}
    while True:
        for positions in islice(batches, 2 * slots - len(running)):
            running[remote.remote(function, [arguments[position] for position in positions])] = positions
        if not running:
            return
        done, _ = ray.wait(list(running), num_returns=1)
        for reference in done:
            yield from zip(running.pop(reference), ray.get(reference), strict=True)


def _batch(function: Task, arguments: Sequence[Any]) -> list[Any]:
    _single_thread()
    return [function(argument) for argument in arguments]


def _begin(own_gpus: "SimpleQueue[str] | None" = None) -> None:
    if own_gpus is not None:  # the fork server may have imported torch, but CUDA reads this at its first call
        os.environ["CUDA_VISIBLE_DEVICES"] = own_gpus.get()
    _single_thread()


def _single_thread() -> None:
    import cv2  # not above: a flow imports this module, and needs no cv2

    # Items are the parallelism; and the number of threads must be fixed for the same bytes everywhere.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    cv2.setNumThreads(1)
