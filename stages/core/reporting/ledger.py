"""The published figures (docs/published.csv, one a row: paper, table, method, inputs, data set, variant, metric, value)
and what was computed here beside them.

Figures are percent as printed. The papers' names of methods and variants are mapped to this project's.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from models.methods import FIXED_VOCABULARY

PUBLISHED = Path("docs/published.csv")
METHODS = {"baseline": "deeplab", "pair_classifier": "video_classifier"}
"""A paper's name of a method -> its name here."""
VARIANTS = {
    "": "full",
    "masks train A2D+GT, test A2D": "full",
    "masks train COCO+GT, test COCO": "other_masks",
    "masks train A2D+GT, test GT": "true_masks",
    "without actor prior": "without_actor_prior",
    "without SSA-masking": "without_ssa_masking",
    "without atrous convolutions": "without_atrous",
    "without multi-scale": "without_multi_scale",
    "fine-tuned": "full",
    "best A2D Sentences setting": "full",
    "frames=1": "frames_1",
    "frames=4": "frames_4",
    "frames=8": "frames_8",
    "frames=16": "full",
    "text_encoder=conv": "full",
    "text_encoder=lstm": "lstm",
    "text_encoder=bilstm": "bilstm",
    "resolution_loss=multi": "full",
    "resolution_loss=single": "one_resolution",
    "fusion weights rgb:flow 2:1": "full",
    "multi-label video classification": "full",
}
"""A paper's row or setting -> the variant of a run here. The paper of methods on sentences asks the fixed vocabulary of
table 3 without a word for it: there `full` is ``models.methods.FIXED_VOCABULARY``."""
METRICS = {"map": "classification/mean_average_precision"}
"""The published name of a metric -> that of results.csv."""
CITED = {
    "dang2018": "Dang et al. 2018",
    "gavrilyuk2018": "Gavrilyuk et al. 2018",
    "rana2021": "Rana and Rawat 2021",
}
PAPERS = {"joint": "ji2018", "region_masks": "dang2018", "sentence": "gavrilyuk2018", "ssa2d": "rana2021"}
"""A method -> the paper that it is of, by which it may be called too."""
TASKS = {"a2d": "A2D", "vidor": "VidOR", "vidor-predicates": "VidOR"}
"""Key of a label space -> the data set of the published figures that stand beside what was computed with its labels."""
TASKS_OF_SENTENCES = {"a2d": "A2D Sentences"}
"""The same of figures of segmentation from a sentence."""
ELSEWHERE = "J-HMDB Sentences"
"""Data set of the rows of results.csv about runs that were trained on another one: those of data/transfer."""
LEARNED_FROM = {"A2D Sentences": "A2D", ELSEWHERE: "A2D"}
"""Data set of a published figure -> the one that its method was trained on, where that has another name."""
WITHOUT_REFERIT = ("hu2016", "li2017")
"""Methods whose published figures start from a training on ReferIt, which there is none of here."""
SENTENCE = "sentence/"
"""What metrics of segmentation from a sentence begin with."""
SHOWN = {"/mean_iou": "mIoU", "/overall_iou": "overall IoU", "/mean_average_precision": "mAP"}
"""What the metrics end with that the report shows -> what they are called there."""
_SAME = ["method", "inputs", "variant", "metric"]


def paper_of(name: str) -> str:
    """The paper that is called ``name`` or whose method is; ``name`` itself where nobody knows it."""
    return PAPERS.get(name, name)


def load(path: Path = PUBLISHED) -> pd.DataFrame:
    """The published figures under this project's names. Raises ``ValueError`` for a file of other columns."""
    columns = ["paper", "table", "method", "inputs", "dataset", "variant", "metric", "value"]
    table = pd.read_csv(path, dtype=dict.fromkeys(columns[:-1], str), keep_default_na=False)
    if list(table.columns) != columns:
        raise ValueError(f"{path}: columns {', '.join(table.columns)}; expected {', '.join(columns)}")
    table["method"] = table["method"].replace(METHODS)
    table["variant"] = table["variant"].replace(VARIANTS)
    table["metric"] = table["metric"].replace(METRICS)
    of_vocabulary = (table["paper"] == PAPERS["sentence"]) & (table["table"] == "3") & (table["method"] == "sentence")
    table.loc[of_vocabulary, "variant"] = FIXED_VOCABULARY
    return table


def ledger(
    published: pd.DataFrame,
    results: pd.DataFrame,
    *,
    dataset: str,
    config: str,
    labels: str = "a2d",
    miniature: bool = True,
) -> pd.DataFrame:
    """Every published figure with ``here`` (the mean over seeds, NaN where not run), ``difference``, ``coverage`` and a
    ``remark``: what keeps the two from being compared.

    ``results`` are the rows of results.csv, of data set ``dataset`` and configuration ``config`` (small or paper);
    ``labels`` is the key of the data set's label space: figures of other labels stay `not run`. Rows of another data
    set are those of ``ELSEWHERE``, where ``miniature`` says that a stand-in lies in its place.
    """
    computed = results.assign(dataset=_published_dataset(results, dataset, labels))
    means = (
        _with_own_maps(computed)
        .groupby(["dataset", *_SAME], as_index=False)
        .agg(here=("value", "mean"), coverage=("coverage", "first"))
    )
    table = published.merge(means, on=["dataset", *_SAME], how="left", validate="many_to_one")
    table["difference"] = table["here"] - table["value"]
    table["remark"] = [_remark(row, dataset, config, miniature=miniature) for row in table.itertuples()]
    return table


def _with_own_maps(results: pd.DataFrame) -> pd.DataFrame:
    """``results`` with what a fixed vocabulary's maps of actors and of actions alone score as `actor` and `action`:
    table 3 is of "actor, action and actor+action as input respectively", not of the marginals of pairs."""
    of_vocabulary = results["variant"] == FIXED_VOCABULARY
    marginals = of_vocabulary & results["metric"].str.match("(actor|action)/")
    found = results[~marginals].copy()
    found["metric"] = found["metric"].mask(
        of_vocabulary[~marginals], found["metric"].str.replace(r"^(actor|action)_head/", r"\1/", regex=True)
    )
    return found


def _published_dataset(results: pd.DataFrame, dataset: str, labels: str) -> pd.Series:
    """Beside the figures on which published data set each row stands; none where it is empty."""
    about_sentences = results["metric"].str.startswith(SENTENCE)
    own = about_sentences.map({True: TASKS_OF_SENTENCES.get(labels, ""), False: TASKS.get(labels, "")})
    return own.where(results["dataset"] == dataset, results["dataset"])


def markdown(table: pd.DataFrame) -> list[str]:
    """How much of the ledger is filled, and the main figures of what is, line by line; a figure that a paper prints
    twice in a table stands once."""
    here = table[table["here"].notna()]
    lines = [f"{len(here)} of {len(table)} published figures have a counterpart computed here (ledger.csv)."]
    shown = here[here["metric"].str.endswith(tuple(SHOWN))].drop_duplicates(
        ["paper", "table", "dataset", *_SAME, "value"]
    )
    if len(shown):
        lines += [
            "",
            "| method | inputs | variant | measure | published | here | difference | frames | source | remark |",
            "|---|---|---|---|---:|---:|---:|---:|---|---|",
        ]
    for row in shown.itertuples():
        of, _, figure = row.metric.rpartition("/")
        source = f"{CITED.get(row.paper, row.paper)}, {'table ' if row.table.isdecimal() else ''}{row.table}"
        lines.append(
            f"| {row.method} | {row.inputs} | {row.variant} | {of} {SHOWN[f'/{figure}']} | "
            f"{row.value:.1f} | {row.here:.1f} | {row.difference:+.1f} | {row.coverage} | {source} | {row.remark} |"
        )
    return lines


def _remark(row: Any, dataset: str, config: str, *, miniature: bool) -> str:
    """What keeps the two figures of a ``row`` of the ledger from being compared."""
    if pd.isna(row.here):
        return "not run"
    learned_from = LEARNED_FROM.get(row.dataset, row.dataset)
    reasons = [
        f"other data ({dataset})" if learned_from != dataset else "",
        f"a miniature of {ELSEWHERE}" if row.dataset == ELSEWHERE and miniature else "",
        "no training on ReferIt before" if row.method in WITHOUT_REFERIT else "",
        f"other sizes ({config})" if config != "paper" else "",
    ]
    differing = [reason for reason in reasons if reason]
    return f"{', '.join(differing)}: not comparable" if differing else ""
