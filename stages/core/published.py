"""The published figures (docs/published.csv, one a row: paper, table, method, inputs, data set, variant, metric, value)
and what was computed here beside them.

Figures are percent as printed. The papers' names of methods and variants are mapped to this project's.
"""

from pathlib import Path

import pandas as pd

PUBLISHED = Path("docs/published.csv")
METHODS = {"baseline": "deeplab"}
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
}
"""A paper's row or setting -> the variant of a run here."""
CITED = {
    "dang2018": "Dang et al. 2018",
    "gavrilyuk2018": "Gavrilyuk et al. 2018",
    "rana2021": "Rana and Rawat 2021",
}
PAPERS = {"joint": "ji2018", "region_masks": "dang2018", "sentence": "gavrilyuk2018", "ssa2d": "rana2021"}
"""A method -> the paper that it is of, by which it may be called too."""
TASKS = {"a2d": "A2D", "vidor": "VidOR", "vidor-predicates": "VidOR"}
"""Key of a label space -> the data set of the published figures that stand beside what was computed with its labels."""
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
    return table


def ledger(
    published: pd.DataFrame, results: pd.DataFrame, *, dataset: str, config: str, labels: str = "a2d"
) -> pd.DataFrame:
    """Every published figure with ``here`` (the mean over seeds, NaN where not run), ``difference``, ``coverage`` and a
    ``remark``: what keeps the two from being compared.

    ``results`` are the rows of results.csv, of data set ``dataset`` and configuration ``config`` (small or paper);
    ``labels`` is the key of the data set's label space: figures of other labels stay `not run`.
    """
    means = results.groupby(_SAME, as_index=False).agg(here=("value", "mean"), coverage=("coverage", "first"))
    table = published.merge(
        means.assign(dataset=TASKS.get(labels, "")), on=["dataset", *_SAME], how="left", validate="many_to_one"
    )
    table["difference"] = table["here"] - table["value"]
    table["remark"] = [_remark(row.here, row.dataset, dataset, config) for row in table.itertuples()]
    return table


def markdown(table: pd.DataFrame) -> list[str]:
    """How much of the ledger is filled, and the mean IoU of what is, line by line."""
    here = table[table["here"].notna()]
    lines = [f"{len(here)} of {len(table)} published figures have a counterpart computed here (ledger.csv)."]
    shown = here[here["metric"].str.endswith("/mean_iou")]
    if len(shown):
        lines += [
            "",
            "| method | inputs | variant | measure | published | here | difference | frames | source | remark |",
            "|---|---|---|---|---:|---:|---:|---:|---|---|",
        ]
    for row in shown.itertuples():
        source = f"{CITED.get(row.paper, row.paper)}, table {row.table}"
        lines.append(
            f"| {row.method} | {row.inputs} | {row.variant} | {row.metric.removesuffix('/mean_iou')} mIoU | "
            f"{row.value:.1f} | {row.here:.1f} | {row.difference:+.1f} | {row.coverage} | {source} | {row.remark} |"
        )
    return lines


def _remark(here: float, of: str, dataset: str, config: str) -> str:
    if pd.isna(here):
        return "not run"
    reasons = [
        f"other data ({dataset})" if of != dataset else "",
        f"other sizes ({config})" if config != "paper" else "",
    ]
    differing = [reason for reason in reasons if reason]
    return f"{', '.join(differing)}: not comparable" if differing else ""
