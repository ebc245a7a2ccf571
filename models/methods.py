"""The methods there are, known without torch. No method imports this: one more leaves the others' results."""

import importlib
from types import ModuleType

METHODS = {
    "deeplab": "models.deeplab",
    "hu2016": "models.hu2016",
    "joint": "models.joint",
    "li2017": "models.li2017",
    "region_masks": "models.region_masks",
    "sentence": "models.sentence",
    "ssa2d": "models.ssa2d",
    "video_classifier": "models.video_classifier",
}
"""Name of each method -> its module. A method is one file and one line here."""

ON_REGIONS = ("region_masks",)
"""Methods that label region masks, on the features of a trained front-end."""

ON_INSTANCES = ("joint",)
"""Methods that learn from the actors of a frame one by one and find them with boxes and masks."""

ON_SENTENCES = ("hu2016", "li2017", "sentence")
"""Methods that segment the actor that a sentence means; they know no classes. Their networks have ``response(batch)``
where others have ``predict(batch)``."""

ON_VIDEOS = ("video_classifier",)
"""Methods that say what a video shows, and not where, by ``scores(batch)``."""

FIXED_VOCABULARY = "fixed_vocabulary"
"""Variant of `sentence` that learns the names of classes in place of sentences: it is asked about those that a method
on videos finds (``stages.core.datasets.vocabulary``), and so labels pixels."""

MULTI_LABEL = ("ssa2d",)
"""Methods that learn and predict several actions at once (``Labels.multi_label``); the others give a pixel one."""

VARIANTS = {
    "deeplab": ("late_fusion",),
    "joint": ("without_temporal", "late_fusion", "rois_from_both", "joint_space"),
    "region_masks": ("other_masks", "true_masks"),
    "sentence": ("frames_1", "frames_4", "frames_8", "lstm", "bilstm", "one_resolution", FIXED_VOCABULARY),
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
