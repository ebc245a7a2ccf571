"""Which items a training step gets, and the processes that read them ahead."""

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

AHEAD = 4
"""Batches that every loading process keeps ready."""


class Sampler:
    """For every step a batch of (number of the draw, position below ``count``).

    Every epoch is a permutation from (seed, epoch), so what is drawn depends on the number of the draw alone.
    """

    def __init__(self, count: int, *, batch: int, seed: int, start: int, steps: int) -> None:
        self._count, self._batch, self._seed, self._start, self._steps = count, batch, seed, start, steps

    def __len__(self) -> int:
        return self._steps - self._start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        orders: dict[int, np.ndarray] = {}
        for step in range(self._start, self._steps):
            chosen = []
            for drawn in range(step * self._batch, (step + 1) * self._batch):
                epoch, place = divmod(drawn, self._count)
                if epoch not in orders:
                    orders = {epoch: np.random.default_rng((self._seed, epoch)).permutation(self._count)} | orders
                    orders = {key: order for key, order in orders.items() if key >= epoch - 1}
                chosen.append((drawn, int(orders[epoch][place])))
            yield chosen


def drawn_batches(
    dataset: Dataset[Any],
    *,
    seed: int,
    start: int,
    steps: int,
    batch: int,
    loaders: int,
    collate: Callable[[list[Any]], Any] | None = None,
) -> Iterator[Any]:
    """Batches of steps ``start`` to ``steps - 1`` of a ``dataset`` that is read by (number of the draw, position).

    ``loaders`` processes read ahead (0: none); ``collate`` makes a batch of what was drawn (None: PyTorch's own way).
    """
    count = len(dataset)  # type: ignore[arg-type]
    loader = DataLoader(
        dataset,
        batch_sampler=Sampler(count, batch=batch, seed=seed, start=start, steps=steps),
        collate_fn=collate,
        num_workers=loaders,
        # spawn: a reader whose parent was killed sees it and ends; one of a fork server does not
        multiprocessing_context="spawn" if loaders else None,
        worker_init_fn=_single_thread,
        prefetch_factor=AHEAD if loaders else None,
    )
    return iter(loader)


def _single_thread(worker: int) -> None:
    del worker
    cv2.setNumThreads(1)  # loaders are the parallelism
