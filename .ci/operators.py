"""Runs two of mmcv's compiled operators: a wheel compiled against another torch fails here, at import or at a call."""

import torch
from mmcv.ops import nms, roi_align

overlapping = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.1]])
_, kept = nms(overlapping, torch.tensor([0.9, 0.8]), 0.5)
assert kept.tolist() == [0], kept
pooled = roi_align(torch.ones(1, 1, 8, 8), torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]]), (2, 2))
assert pooled.sum() == 4, pooled
