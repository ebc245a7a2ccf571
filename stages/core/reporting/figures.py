"""Figures of a paper, drawn again: what was computed here, with the published points beside.

Rana and Rawat 2021, figure 1: speed against joint mean IoU; figure 3: the accuracy of each pair without and with flow.
Times come from the files of `python -m stages.commands.profile`: a method that was not profiled has no point.
"""

import json
import os
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from stages.core.runs import FULL

MILLISECONDS, PARAMETERS, MEAN_IOU = "ms_per_frame/total", "parameters_millions", "joint/mean_iou"
"""Metrics of the published figures; the first two are measured here by profiles alone."""
MODEL = ["method", "inputs"]
RGB, FLOW = "rgb", "rgb+flow"
_COLOURS = {RGB: "tab:orange", FLOW: "tab:blue"}


def profiles(folder: Path, *, config: str) -> pd.DataFrame:
    """One row a profile of ``config`` in ``folder``: method, inputs, ms a frame with its flow, millions of parameters,
    and whether it was measured alone."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob(f"*-{config}.json"))]
    rows = [
        (one["method"], one["inputs"], one["ms_per_frame"]["with_flow"], one["parameters"] / 1e6, one["alone"])
        for one in found
    ]
    return pd.DataFrame(rows, columns=[*MODEL, MILLISECONDS, PARAMETERS, "alone"])


def speeds(results: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Joint mean IoU (over seeds) of each plain method, beside its time in ``profiles`` (NaN where not profiled)."""
    plain = results[(results["variant"] == FULL) & (results["metric"] == MEAN_IOU)].dropna(subset="value")
    means = plain.groupby(MODEL, as_index=False)["value"].mean().rename(columns={"value": MEAN_IOU})
    return means.merge(measured, on=MODEL, how="left")


def published_speeds(ledger: pd.DataFrame) -> pd.DataFrame:
    """The points of figure 1 for which the paper prints both numbers, in table 1."""
    rows = ledger[(ledger["paper"] == "rana2021") & (ledger["table"] == "1")]
    rows = rows[rows["metric"].isin((MILLISECONDS, MEAN_IOU)) & (rows["variant"] == FULL)]
    return rows.pivot(index=MODEL, columns="metric", values="value").dropna().reset_index()


def pairs(results: pd.DataFrame, *, method: str) -> pd.DataFrame:
    """Accuracy of each pair with truth, in the mean over seeds: a row a pair, columns rgb and rgb+flow, percent.

    Empty where ``method`` was not run with both.
    """
    plain = results[(results["method"] == method) & (results["variant"] == FULL)]
    chosen = plain[plain["metric"].str.startswith("accuracy/") & plain["inputs"].isin((RGB, FLOW))]
    table = chosen.assign(pair=chosen["metric"].str.removeprefix("accuracy/"))
    table = table.pivot_table(index="pair", columns="inputs", values="value", sort=False).reindex(columns=[RGB, FLOW])
    return table.drop(index="background", errors="ignore").dropna()


def speeds_markdown(here: pd.DataFrame, published: pd.DataFrame) -> list[str]:
    """Figure 1 as a table, `here (published)`."""
    both = published.merge(here, on=MODEL, how="outer", suffixes=("", " here"))
    lines = ["| method | inputs | ms per frame | frames per second | joint mean IoU |", "|---|---|---:|---:|---:|"]
    for row in both.to_dict("records"):
        ours, theirs = row[f"{MILLISECONDS} here"], row[MILLISECONDS]
        cells = [
            (ours, theirs, "not profiled"),
            (1e3 / ours, 1e3 / theirs, "not profiled"),
            (row[f"{MEAN_IOU} here"], row[MEAN_IOU], "not run"),
        ]
        shown = " | ".join(
            (missing if pd.isna(one) else f"{one:.1f}") + ("" if pd.isna(other) else f" ({other:.1f})")
            for one, other, missing in cells
        )
        lines.append(f"| {row['method']} | {row['inputs']} | {shown} |")
    busy = [f"{row.method} {row.inputs}" for row in here.itertuples() if not row.alone]
    return [*lines, *([f"\nNot measured alone, repeat: {', '.join(busy)}."] if busy else [])]


def pairs_markdown(table: pd.DataFrame) -> list[str]:
    """Figure 3 as a table, and how many pairs flow helps."""
    if table.empty:
        return ["not run"]
    gains = table[FLOW] - table[RGB]
    lines = ["| pair | rgb | rgb+flow | difference |", "|---|---:|---:|---:|"]
    lines += [f"| {pair} | {row[RGB]:.1f} | {row[FLOW]:.1f} | {gains[pair]:+.1f} |" for pair, row in table.iterrows()]
    return [*lines, "", _summary(gains)]


def draw_speeds(path: Path, here: pd.DataFrame, published: pd.DataFrame, *, title: str) -> None:
    """Figure 1 as a PNG: dots were measured here, crosses are published (another machine, other data)."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="frames per second", ylabel="joint mean IoU, percent", title=title)
    for points, marker, source in ((published, "x", "published, K80"), (here.dropna(), "o", "here")):
        for row in points.to_dict("records"):
            rate, colour = 1e3 / row[MILLISECONDS], _COLOURS.get(row["inputs"], "tab:green")
            axes.plot(rate, row[MEAN_IOU], marker, color=colour)
            name = f"{row['method']} {row['inputs']}"
            axes.annotate(name, (rate, row[MEAN_IOU]), xytext=(5, 4), textcoords="offset points", fontsize=7)
        axes.plot([], [], marker, color="grey", label=source)
    axes.margins(x=0.2, y=0.1)
    axes.legend()
    _write(figure, path)


def draw_pairs(path: Path, table: pd.DataFrame, *, title: str) -> None:
    """Figure 3 as a PNG: two bars a pair, orange RGB and blue RGB + flow, as in the paper."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    axes = figure.add_subplot(ylabel="accuracy, percent", title=f"{title}: {_summary(table[FLOW] - table[RGB])}")
    for offset, inputs in ((-0.2, RGB), (0.2, FLOW)):
        axes.bar([n + offset for n in range(len(table))], table[inputs], 0.4, color=_COLOURS[inputs], label=inputs)
    axes.set_xticks(range(len(table)), table.index.tolist(), rotation=90)
    axes.margins(x=0.01)
    axes.legend()
    _write(figure, path)


def _summary(gains: pd.Series) -> str:
    return f"{(gains > 0).sum()} of {len(gains)} pairs gain by flow, {gains.mean():+.1f} points on average."


def _write(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(part, format="png", dpi=120)
    os.replace(part, path)
