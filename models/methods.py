"""The methods there are, known without torch. No method imports this: one more leaves the others' results."""

import importlib
from types import ModuleType

METHODS = {
    "deeplab": "models.deeplab",
    "joint": "models.joint",
    "region_masks": "models.region_masks",
    "ssa2d": "models.ssa2d",
}
"""Name of each method -> its module. A method is one file and one line here."""

ON_REGIONS = ("region_masks",)
"""Methods that label region masks, on the features of a trained front-end."""

ON_INSTANCES = ("joint",)
"""Methods that learn from the actors of a frame one by one and find them with boxes and masks."""

MULTI_LABEL = ("ssa2d",)
"""Methods that learn and predict several actions at once (``Labels.multi_label``); the others give a pixel one."""

VARIANTS = {
    "deeplab": ("late_fusion",),
    "joint": ("without_temporal", "late_fusion", "rois_from_both", "joint_space"),
    "region_masks": ("other_masks", "true_masks"),
    "ssa2d": (
        "without_actor_prior", "without_ssa_masking", "without_atrous", "without_multi_scale", "infusion_by_addition",
        "shared_trunk", "non_local", "mask_each_step",
    ),
}  # fmt: skip
"""Name of a method -> its ablations and contrasts, the keys of ``VARIANTS`` in its module, known without torch."""


def method(name: str) -> ModuleType:
    """The module of method ``name``. Raises ``ValueError`` that names the methods there are."""
    if name not in METHODS:
        raise ValueError(f"no method `{name}`; there are {', '.join(METHODS)}")
    return importlib.import_module(METHODS[name])
