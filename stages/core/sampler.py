"""Which items a training step gets."""

from collections.abc import Iterator

import numpy as np


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
