"""The generalised 3D dice loss of Rana and Rawat 2021, section 3.5, equation 1.

Axes: N labelled steps of a batch, K classes, H, W pixels.
"""

import torch
from torch import Tensor


def generalised_dice_loss(
    probabilities: Tensor, truth: Tensor, *, kept: Tensor, clips: Tensor, epsilon: float = 1e-6
) -> Tensor:
    """Equation 1, averaged over clips: 1 - 2 sum p q / sum_c (sum p^2 + sum q^2 + epsilon) over a clip's kept pixels.

    ``probabilities`` and ``truth`` (N, K, H, W), ``kept`` (N, H, W) bool; ``clips`` (N,) tells which clip a step is of.
    """
    classes = probabilities.shape[1]
    predicted, true = (x * kept[:, None] for x in (probabilities, truth))
    both = torch.stack([(predicted * true).flatten(1).sum(1), (predicted.square() + true).flatten(1).sum(1)])  # (2, N)
    overlap, total = both.new_zeros(2, int(clips.max()) + 1).index_add(1, clips, both)
    return 1 - (2 * overlap / (total + classes * epsilon))[clips.unique()].mean()
