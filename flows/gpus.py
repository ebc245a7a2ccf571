"""One GPU for each stage of a flow, where there are several: else all of them would take the first."""

import contextlib
import threading
from collections.abc import Iterator, Sequence


class Gpus:
    """The GPUs of this machine and how many stages each has. Safe to use from many threads."""

    def __init__(self, names: Sequence[str]) -> None:
        self._users = dict.fromkeys(names, 0)
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def one(self) -> Iterator[dict[str, str]]:
        """The variables of a stage that runs inside this block: they show it the GPU that the fewest others use."""
        if len(self._users) < 2:
            yield {}
            return
        with self._lock:
            gpu = min(self._users, key=self._users.__getitem__)
            self._users[gpu] += 1
        try:
            yield {"CUDA_VISIBLE_DEVICES": gpu}
        finally:
            with self._lock:
                self._users[gpu] -= 1
