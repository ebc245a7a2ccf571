"""What the papers say of their methods, as differences between runs: what stages/commands/claims.py puts to the
test."""

from collections.abc import Callable
from dataclasses import dataclass

from stages.core.datasets.labels import A2D
from stages.core.params import nearest
from stages.core.reporting.ledger import paper_of
from stages.core.reporting.results import KINDS
from stages.core.runs import FULL


@dataclass(frozen=True)
class Setting:
    """A run without its seed."""

    method: str
    inputs: str
    variant: str = FULL

    def name(self, seed: int) -> str:
        """Of the run with ``seed``."""
        return f"{self.method}-{self.inputs}-{self.variant}-{seed}"


@dataclass(frozen=True)
class Claim:
    """``better`` is ahead of ``worse`` in the mean over ``metrics``; with ``than``, by more there than over those.

    A headline of the paper is tested with three ``seeds``, another claim with one and an interval over the test clips:
    its ``metrics`` are all of label maps or all of segmentation from a sentence, and it has no ``than``.
    """

    text: str
    better: Setting
    worse: Setting
    metrics: tuple[str, ...]
    than: tuple[str, ...] = ()
    seeds: int = 3


def _figures(*kinds: str) -> tuple[str, ...]:
    """The two figures of each kind that background does not decide."""
    return tuple(f"{kind}/{figure}" for kind in kinds for figure in ("class_accuracy", "mean_iou"))


def _accuracies(chosen: Callable[[str, str], bool]) -> tuple[str, ...]:
    """Metrics of the valid pairs of actor and action that are ``chosen``."""
    pairs = [divmod(label, A2D.stride) for label in A2D.valid_ids[1:]]
    names = [(A2D.actors[actor], A2D.actions[action]) for actor, action in pairs]
    return tuple(f"accuracy/{actor}-{action}" for actor, action in names if chosen(actor, action))


BODY_PART = ("climbing", "crawling", "eating", "running", "walking")
"""Actions of limbs or head; the whole body flies, jumps, rolls, or rests."""
FAST = ("adult-jumping", "car-running", "ball-flying", "cat-running", "dog-jumping")
"""The pairs of which Dang et al. say that flow adds more than 10 points (section 4)."""
PAIRS = _accuracies(lambda actor, action: True)
"""The accuracy of each pair: figure 3 of Rana and Rawat."""
_MEANS = _figures("action", "joint")
_ALL = tuple(f"{kind}/{figure}" for kind in KINDS for figure in ("global_accuracy", "class_accuracy", "mean_iou"))

_BASELINE, _REGIONS = Setting("deeplab", "rgb+flow"), Setting("region_masks", "rgb+flow")
_RGB_BASELINE, _RGB_REGIONS = Setting("deeplab", "rgb"), Setting("region_masks", "rgb")
_SSA2D, _RGB_SSA2D = Setting("ssa2d", "rgb+flow"), Setting("ssa2d", "rgb")
_JOINT, _RGB_JOINT = Setting("joint", "rgb+flow"), Setting("joint", "rgb")
_SENTENCE, _RGB_SENTENCE = Setting("sentence", "rgb+flow"), Setting("sentence", "rgb")
_FLOW_SENTENCE = Setting("sentence", "flow")
_LSTM, _BILSTM = Setting("sentence", "rgb", "lstm"), Setting("sentence", "rgb", "bilstm")
_OVERALL = ("sentence/overall_iou",)
"""The measure of the ablations (Gavrilyuk et al., section 5.1)."""
_OF_SENTENCES = {"overall IoU": "sentence/overall_iou", "mean IoU": "sentence/mean_iou", "mAP": "sentence/map"}
"""The measures of which section 5.2 says by how much the paper outperforms the baselines."""


def _ssa2d(variant: str) -> Setting:
    """Table 2's rows are of RGB alone."""
    return Setting("ssa2d", "rgb", variant)


def _sentence(variant: str) -> Setting:
    """The rows of the ablation are of RGB alone."""
    return Setting("sentence", "rgb", variant)


def _beats(baseline: str, authors: str) -> tuple[Claim, ...]:
    """The model outperforms them "for all metrics" (section 5.2, caption of table 1): a claim a metric."""
    sides = (_RGB_SENTENCE, "RGB alone beats", "section 5.2"), (_SENTENCE, "Both streams beat", "table 1")
    return tuple(
        Claim(f"{beats} {authors} in {name} ({where})", better, Setting(baseline, "rgb"), (metric,), seeds=1)
        for better, beats, where in sides
        for name, metric in _OF_SENTENCES.items()
    )


CLAIMS = {
    "dang2018": (
        Claim("Regions beat the baseline for action and joint (table 1, RGB + flow)", _REGIONS, _BASELINE, _MEANS),
        Claim("Regions beat the baseline for action and joint (table 1, RGB)", _RGB_REGIONS, _RGB_BASELINE, _MEANS),
        Claim(
            "Regions help small actors more than large ones (section 4)",
            _REGIONS,
            _BASELINE,
            ("small/joint/class_accuracy",),
            than=("large/joint/class_accuracy",),
        ),
        Claim(
            "Regions help actions of a body part more than those of the whole body (section 4)",
            _REGIONS,
            _BASELINE,
            _accuracies(lambda _, action: action in BODY_PART),
            than=_accuracies(lambda _, action: action not in BODY_PART),
        ),
        Claim("Flow helps with regions (table 1)", _REGIONS, _RGB_REGIONS, _MEANS),
        Claim("Flow helps the baseline (table 1)", _BASELINE, _RGB_BASELINE, _MEANS),
        Claim(
            "Flow helps fast pairs most (table 5)",
            _REGIONS,
            _RGB_REGIONS,
            tuple(f"accuracy/{pair}" for pair in FAST),
            than=_accuracies(lambda actor, action: f"{actor}-{action}" not in FAST),
        ),
        Claim(
            "The baseline wins global accuracy (table 1)",
            _BASELINE,
            _REGIONS,
            tuple(f"{kind}/global_accuracy" for kind in KINDS),
        ),
        Claim(
            "Masks learned on the data set beat those learned on other data (table 3)",
            _REGIONS,
            Setting("region_masks", "rgb+flow", "other_masks"),
            _ALL,
        ),
        Claim(
            "True masks are an upper bound (table 3)", Setting("region_masks", "rgb+flow", "true_masks"), _REGIONS, _ALL
        ),
        Claim(
            "An actor carries a single action more often with regions (section 1)",
            _REGIONS,
            _BASELINE,
            ("consistency/single",),
        ),
        Claim(
            "Early fusion beats late fusion (section 3.2)",
            _BASELINE,
            Setting("deeplab", "rgb+flow", "late_fusion"),
            ("joint/mean_iou",),
        ),
    ),
    "gavrilyuk2018": (
        Claim("Both streams beat RGB alone (section 5.1, table 1)", _SENTENCE, _RGB_SENTENCE, _OVERALL),
        Claim("Both streams beat flow alone (section 5.1)", _SENTENCE, _FLOW_SENTENCE, _OVERALL),
        Claim("RGB alone beats flow alone (section 5.1)", _RGB_SENTENCE, _FLOW_SENTENCE, _OVERALL),
        Claim("Convolution over words beats an LSTM (section 5.1)", _RGB_SENTENCE, _LSTM, _OVERALL),
        Claim("Convolution over words beats a bidirectional LSTM (section 5.1)", _RGB_SENTENCE, _BILSTM, _OVERALL),
        Claim("A bidirectional LSTM beats an LSTM (section 5.1: slightly)", _BILSTM, _LSTM, _OVERALL),
        Claim(
            "A loss at three resolutions beats one at the highest (section 5.1)",
            _RGB_SENTENCE,
            _sentence("one_resolution"),
            _OVERALL,
        ),
        Claim("16 frames beat 8 (section 5.1)", _RGB_SENTENCE, _sentence("frames_8"), _OVERALL, seeds=1),
        Claim("8 frames beat 4 (section 5.1)", _sentence("frames_8"), _sentence("frames_4"), _OVERALL, seeds=1),
        Claim("4 frames beat 1 (section 5.1)", _sentence("frames_4"), _sentence("frames_1"), _OVERALL, seeds=1),
        *_beats("hu2016", "Hu et al."),
        *_beats("li2017", "Li et al."),
    ),
    "ji2018": (
        Claim("Flow helps action and joint (section 3.2)", _JOINT, _RGB_JOINT, _MEANS),
        Claim("Flow helps to detect pairs (sections 1, 3.2)", _JOINT, _RGB_JOINT, ("detection/pair_map",)),
        Claim(
            "Temporal context helps action and joint (sections 3.2, 4.3)",
            _JOINT,
            Setting("joint", "rgb+flow", "without_temporal"),
            _MEANS,
        ),
        Claim(
            "Mid-level fusion beats late fusion (section 3.2)",
            _JOINT,
            Setting("joint", "rgb+flow", "late_fusion"),
            _MEANS,
            seeds=1,
        ),
        Claim(
            "RoIs of appearance alone beat those of both streams (section 3.1)",
            _JOINT,
            Setting("joint", "rgb+flow", "rois_from_both"),
            _figures("actor", "joint"),
            seeds=1,
        ),
    ),
    "rana2021": (
        Claim("Flow helps action and joint (table 1, section 4.3)", _SSA2D, _RGB_SSA2D, _MEANS),
        Claim("Flow helps the pairs on average (figure 3)", _SSA2D, _RGB_SSA2D, PAIRS),
        Claim(
            "The actor prior helps action (table 2, section 4.4)",
            _RGB_SSA2D,
            _ssa2d("without_actor_prior"),
            _figures("action"),
        ),
        Claim(
            "The actor prior helps actor too (table 2, section 4.4)",
            _RGB_SSA2D,
            _ssa2d("without_actor_prior"),
            _figures("actor"),
        ),
        Claim(
            "SSA-masking helps action (table 2, section 4.4)",
            _RGB_SSA2D,
            _ssa2d("without_ssa_masking"),
            _figures("action"),
        ),
        Claim("Atrous convolutions help everything (table 2)", _RGB_SSA2D, _ssa2d("without_atrous"), _ALL),
        Claim("The feature pyramid helps everything (table 2)", _RGB_SSA2D, _ssa2d("without_multi_scale"), _ALL),
        # "Similar": neither of the two should hold by much.
        Claim(
            "Infusion by concatenation beats addition (section 3.4: similar)",
            _RGB_SSA2D,
            _ssa2d("infusion_by_addition"),
            _ALL,
        ),
        Claim(
            "Infusion by addition beats concatenation (section 3.4: similar)",
            _ssa2d("infusion_by_addition"),
            _RGB_SSA2D,
            _ALL,
        ),
    ),
}


def of_paper(name: str) -> tuple[Claim, ...]:
    """The claims of the paper or method called ``name``. Raises ``ValueError`` that names the papers there are."""
    paper = paper_of(name)
    if paper not in CLAIMS:
        raise ValueError(f"--paper={name}{nearest(name, list(CLAIMS))}; there are claims of {', '.join(CLAIMS)}")
    return CLAIMS[paper]


def needed(name: str) -> dict[Setting, int]:
    """What the claims of the paper or method called ``name`` compare -> with how many seeds."""
    seeds: dict[Setting, int] = {}
    for claim in of_paper(name):
        for side in (claim.better, claim.worse):
            seeds[side] = max(claim.seeds, seeds.get(side, 0))
    return seeds
