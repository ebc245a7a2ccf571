"""Runs two of mmcv's compiled operators, where there is a GPU on it too: a wheel compiled against another torch, or
without CUDA, fails here, at import or at a call.
"""

import torch
from mmcv.ops import nms, roi_align


def check(device: str) -> None:
    overlapping = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.1]], device=device)
    _, kept = nms(overlapping, torch.tensor([0.9, 0.8], device=device), 0.5)
    assert kept.tolist() == [0], kept
    boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]], device=device)
    pooled = roi_align(torch.ones(1, 1, 8, 8, device=device), boxes, (2, 2))
    assert pooled.sum() == 4, pooled


check("cpu")
if torch.cuda.is_available():
    try:
        check("cuda")
    except RuntimeError as error:
        if "implementation for device cuda" not in str(error):
            raise
        raise SystemExit("mmcv was built without CUDA: rebuild it where nvcc is, with FORCE_CUDA=1") from None
