"""Generator of clips with actors, actions, masks, sentences and exact optical flow, in the layout of A2D.

The one public surface: ``make_clip`` makes a ``Clip``; ``sample_plans`` says which clips the sample holds,
``write_release`` writes them as a release, ``ReleaseFlow`` reads their exact flow, ``write_archive`` packs a release.
"""

from stages.core.generator.a2d import ClipPlan, ReleaseFlow, write_release
from stages.core.generator.sample import sample_plans, write_archive
from stages.core.generator.scene import Clip, make_clip, part_flow

__all__ = [
    "Clip",
    "ClipPlan",
    "ReleaseFlow",
    "make_clip",
    "part_flow",
    "sample_plans",
    "write_archive",
    "write_release",
]
