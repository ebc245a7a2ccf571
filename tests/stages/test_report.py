"""The report on methods that label no pixels beside those that do: sections, figures, and the picture of sentences."""

import csv
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pycocotools import mask as coco

from benchmarks.workspace import CHECKOUT
from stages import report
from stages.core import runs, schemas
from stages.core.datasets import a2d, dataset
from stages.core.datasets.labels import A2D
from stages.core.datasets.sentences import write_coco
from stages.core.reporting import pictures, sections_on_sentences, sheets
from stages.core.reporting.results import Result
from stages.core.scores import resampling, segmentation
from stages.core.scores import sentences as scores
from stages.core.scores.confusion import Confusions
from tests.help import make

DRAWS = resampling.Parameters(resamples=20, seed=0)
FIRST = make.Square("third_in_it", label=36, split="test", speed=(3, 0), colour=(60, 80, 230))
SECOND = make.Square("third_in_it", label=35, split="test", speed=(3, 0))
"""Of the same clip and kind; it stands further down."""
BELOW = 20
"""Pixels."""
ALONE = make.Square("fourth_in_it", label=17, split="test")


def run(name: str) -> runs.Run:
    method, inputs, variant, seed = name.split("-")
    return runs.Run(name, method, inputs, variant, int(seed))


RGB, FLOW, BOTH, FRAME = (
    run(f"sentence-{which}-0") for which in ("rgb-full", "flow-full", "rgb+flow-full", "rgb-frames_1")
)
VIDEOS, VOCABULARY = run("video_classifier-rgb+flow-full-0"), run("sentence-rgb+flow-fixed_vocabulary-0")
MISSING = tuple(run(f"{which}-0") for which in ("deeplab-rgb-full", "li2017-rgb-full", "video_classifier-rgb-full"))
ALL = {one.name: one for one in (RGB, FLOW, BOTH, FRAME, VIDEOS, VOCABULARY, *MISSING)}


def lower(mask: np.ndarray) -> np.ndarray:
    return np.roll(mask, BELOW, axis=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """data/ with two test clips: in one two balls with a sentence each, and a third sentence about the first."""
    folder = tmp_path_factory.mktemp("report")
    raw = make.write_release(folder / "data/raw", (*make.RELEASE[:2], FIRST, ALONE))
    for frame in FIRST.annotated:
        masks = [FIRST.mask(frame), lower(SECOND.mask(frame))]
        labels = np.where(masks[1], SECOND.label, np.where(masks[0], FIRST.label, 0)).astype(np.uint8)
        name = f"{FIRST.video}/{frame + 1:05d}"
        make.write_annotation(raw, name, labels, masks, [FIRST.label, SECOND.label], instances=[0, 1])
    with (raw / a2d.SENTENCES).open("a", newline="") as file:
        csv.writer(file).writerows([(FIRST.video, 0, "ball above"), (FIRST.video, 1, "the ball below the other ball")])
    with make.workspace(folder):
        shutil.copytree(CHECKOUT / "docs", folder / "docs")
        data = make.run_to_frames(folder)
        samples = dataset.load(data / "index", data / "frames", split="test")
        # One stream answers with the other ball where there is one; both streams are right; one frame sees nothing.
        write_answers(data / "evaluate", RGB, samples, moved=BELOW, metrics=told(4.0))
        write_answers(data / "evaluate", FLOW, samples, moved=BELOW, metrics=told(3.0))
        write_answers(data / "evaluate", BOTH, samples, moved=0, metrics=told(2.0))
        write_answers(data / "evaluate", FRAME, samples, moved=None, metrics=told(0.0))
        write_answers(data / "transfer", BOTH, samples, moved=0, metrics={"unknown_words": {"handstand": 3, "golf": 3}})
        write_videos(data / "evaluate")
        write_label_maps(data / "evaluate", samples)
        yield data


def told(share: float) -> dict[str, Any]:
    """The rest of metrics.json."""
    of_asked = {"share": 10.0, "empty": 0.0, "samples": 8}
    nobody = {"share": share, "empty": 50.0, "samples": 4}
    unknown = {"golf": 1, "ambling": 2, "loping": 5, "darting": 2}
    return {"emptiness": {"asked": of_asked, "nobody": nobody}, "unknown_words": unknown}


def write_answers(
    folder: Path, one: runs.Run, samples: dataset.Dataset, *, moved: int | None, metrics: Mapping[str, Any]
) -> None:
    """What evaluate leaves of a run on sentences: true masks ``moved`` down, or nothing; of one more none is there."""
    predictions = folder / one.name / "predictions"
    answers = []
    for asked in samples.sentences[:-1]:
        mask = coco.decode(asked.rle) if moved is not None else np.zeros((make.HEIGHT, make.WIDTH), np.uint8)
        rle = coco.encode(np.asfortranarray(np.roll(mask, moved or 0, axis=0)))
        segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
        answers.append({"image_id": asked.image_id, "segmentation": segmentation, "score": 0.5})
    write_coco(predictions / "answers.json", answers)
    assert samples.index is not None
    result = scores.run(
        samples.index / "sentences.json", predictions / "answers.json", count_missing=True, parameters=DRAWS
    )
    whole = {"sentences": result, **metrics, "coverage": result["coverage"]}
    (folder / one.name / "metrics.json").write_text(json.dumps(resampling.rounded(whole)))


def write_videos(folder: Path) -> None:
    bounds = {"mean_average_precision_low": 55.0, "mean_average_precision_high": 81.0}
    scored = {"mean_average_precision": 71.25, **bounds, "pairs": 3}
    by_size = {size: {"videos": 0} for size in ("small", "medium", "large")}
    whole = {"classification": {**scored, "by_size": by_size}, "coverage": {"scored": 2, "of": 2, "clips": 2}}
    (folder / VIDEOS.name).mkdir()
    (folder / VIDEOS.name / "metrics.json").write_text(json.dumps(whole))


def write_label_maps(folder: Path, samples: dataset.Dataset) -> None:
    """What evaluate leaves of a fixed vocabulary, as of any method that labels pixels; without its packs."""
    matrices = np.zeros((2, A2D.ids, A2D.ids), np.int64)
    matrices[:, 0, 0], matrices[0, 36, 36], matrices[1, 17, 18] = 9, 3, 1
    found = Confusions(samples.videos, {"joint": matrices}, A2D)
    parts = dict.fromkeys(("all", "non_boundary", "small", "medium", "large"), found)
    metrics = segmentation.summary(segmentation.Comparison(parts, None, 3, 3), DRAWS)
    metrics["coverage"] = {"scored": 4, "of": 4, "clips": 2}
    cells = [
        {"video": samples.videos[clip], "kind": "joint", "truth": truth, "predicted": predicted, "pixels": int(pixels)}
        for clip, matrix in enumerate(matrices)
        for (truth, predicted), pixels in np.ndenumerate(matrix)
        if pixels
    ]
    path = folder / VOCABULARY.name / "confusion.parquet"
    schemas.write_parquet(path, schemas.rows_to_table(cells, schemas.CONFUSION))
    (path.parent / "metrics.json").write_text(json.dumps(resampling.rounded(metrics)))


@pytest.fixture(scope="module")
def written(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """The folder of the report, and its lines."""
    output = tmp_path_factory.mktemp("output")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "all_runs", lambda: ALL)
        text = report.run(report.Parameters(rows=2), DRAWS, "squares", "small", data=data, output=output)
    yield output, text.splitlines()


def below(lines: list[str], start: str) -> list[str]:
    """The rows of the table under the line that begins with ``start``."""
    (first,) = [number for number, line in enumerate(lines) if line.startswith(start)]
    rows = lines[first + 4 :]
    return rows[: next((number for number, line in enumerate(rows) if not line.startswith("|")), len(rows))]


def test_each_run_stands_in_the_table_of_its_kind_also_where_it_was_not_run(written: tuple[Path, list[str]]) -> None:
    lines = written[1]
    start = next(number for number, line in enumerate(lines) if line.startswith("| run | actor glo"))
    main = [line.split(" |")[0] for line in lines[start + 2 : lines.index("", start)]]
    oracle = "| oracle: true mask and actor, its most frequent action"
    assert main == [f"| {VOCABULARY.name}", oracle, f"| {MISSING[0].name}"]
    names = [line.split(" |")[0] for line in below(lines, "Segmentation from a sentence: percent")]
    assert names == [f"| {one.name}" for one in (RGB, FLOW, BOTH, FRAME, MISSING[1])]
    videos = below(lines, "Videos: ")
    assert videos == [
        f"| {VIDEOS.name} | 71.2 | 55.0 to 81.0 | 3 | 2/2 |", f"| {MISSING[2].name} | not run | | | |"
    ]  # fmt: skip
    assert "2 test clips, 4/4 annotated frames scored" in "\n".join(lines)
    assert "**Smoke test**: 2 test clips are too few to compare methods by." in lines


def test_a_line_of_sentences_has_every_score_its_coverage_and_the_unknown_words(
    written: tuple[Path, list[str]],
) -> None:
    right, nothing = below(written[1], "Segmentation from a sentence: percent")[2:4]
    cells = " | ".join(["100.0"] * 7)  # P@0.5 to P@0.9, mAP, overall IoU
    words = "7/8 | 10 (loping, ambling, darting and 1 more) |"
    assert right == f"| {BOTH.name} | {cells} | 100.0 to 100.0 | 100.0 | 100.0 | {words}"
    assert nothing.startswith(f"| {FRAME.name} | 0.0 |") and "| 0.0 to 0.0 |" in nothing


def test_both_streams_stand_against_one_and_a_variant_against_the_plain_run(written: tuple[Path, list[str]]) -> None:
    lines = [line for line in written[1] if " against " in line and "oracle" not in line]
    pairs = list(dict.fromkeys(line.split(" | ")[0].strip("| ") for line in lines))
    assert pairs == [
        f"{BOTH.name} against {RGB.name}", f"{BOTH.name} against {FLOW.name}", f"{FRAME.name} against {RGB.name}"
    ]  # fmt: skip
    assert [line.split(" | ")[1] for line in lines[:3]] == ["overall IoU", "mean IoU", "mAP"]
    worse = float(lines[6].split(" | ")[2])
    assert worse <= 0 < float(lines[0].split(" | ")[2])


def test_masks_of_nobody_stand_beside_those_of_actors(written: tuple[Path, list[str]]) -> None:
    lines = written[1]
    rows = below(lines, "Masks where nobody is meant: ")
    assert rows == [
        f"| {one.name} | 10.0 | 0.0 | {share} | 50.0 |"
        for one, share in ((RGB, 4.0), (FLOW, 3.0), (BOTH, 2.0), (FRAME, 0.0))
    ]
    assert any(line.endswith("8 asked, 4 nobody.") for line in lines)
    assert "| run | asked: share | asked: empty | nobody: share | nobody: empty |" in lines


def test_another_data_set_has_a_table_of_its_own_that_says_whether_it_is_the_real_one(
    written: tuple[Path, list[str]],
) -> None:
    (row,) = below(
        written[1], "Segmentation from a sentence on a generated miniature in the layout of J-HMDB Sentences"
    )
    assert row.startswith(f"| {BOTH.name} | 100.0 |") and row.endswith("| 7/8 | 6 (golf, handstand) |")
    one = Result(BOTH, json.loads((Path("data/transfer") / BOTH.name / "metrics.json").read_text()), None)
    real = sections_on_sentences.elsewhere([one], miniature=False)
    assert real[0] == "Segmentation from a sentence on J-HMDB Sentences, without any training on it:"


def test_without_runs_on_sentences_or_videos_nothing_is_said_of_them() -> None:
    asked, missing = [run("deeplab-rgb-full-0")], list[str]()
    found = [Result(one, {"joint": {}}, None) for one in asked]
    assert sections_on_sentences.segmentation(found, missing) == sections_on_sentences.videos(found, missing) == []
    assert (
        sections_on_sentences.comparisons(found, Path("index"), DRAWS) == sections_on_sentences.emptiness(found) == []
    )
    assert sections_on_sentences.elsewhere([], miniature=True) == []


def test_rows_of_results_tell_the_data_sets_apart(written: tuple[Path, list[str]]) -> None:
    rows = pd.read_csv(written[0] / "results.csv").set_index(["dataset", "inputs", "variant", "metric"])["value"]
    assert rows["squares", "rgb+flow", "full", "sentence/overall_iou"] == 100
    assert rows["J-HMDB Sentences", "rgb+flow", "full", "sentence/overall_iou"] == 100
    assert rows["squares", "rgb", "full", "emptiness/nobody/share"] == 4
    assert rows["squares", "rgb+flow", "full", "classification/mean_average_precision"] == 71.25
    assert ("squares", "rgb+flow", "fixed_vocabulary", "joint/mean_iou") in rows.index
    ledger = pd.read_csv(written[0] / "ledger.csv", keep_default_na=False)
    filled = ledger[ledger["here"] != ""]
    assert set(filled["paper"]) == {"gavrilyuk2018"} and set(filled["table"]) == {"1", "2", "3", "ablation", "text"}
    assert filled[filled["table"] == "2"]["remark"].str.contains("miniature").all()


@pytest.mark.parametrize(("transfer", "miniature"), [("{folder: data/miniature}", True), ("{folder: JHMDB}", False)])
def test_where_no_folder_of_the_other_data_set_is_named_a_miniature_lies_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transfer: str, miniature: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    sections = "index: {dataset: squares}\nreport: {rows: 2}\ntrain: {common: {config: small}}\n"
    scored = "evaluate: {resamples: 9, seed: 0, non_boundary: 15}\n"
    (tmp_path / "params.yaml").write_text(f"{sections}{scored}transfer_data: {transfer}\n")
    given: dict[str, Any] = {}
    monkeypatch.setattr(report, "run", lambda *_, **named: given.update(named))
    report.main()
    assert given == {"miniature": miniature}


# Pictures


def grid_of(monkeypatch: pytest.MonkeyPatch, folder: Path, data: Path) -> list[list[np.ndarray]]:
    """The cells of the picture of the answers in ``folder``."""
    kept: list[Any] = []
    monkeypatch.setattr(pictures, "write_sheet", lambda path, rows, *, titles: kept.extend(rows))
    samples = dataset.load(data / "index", data / "frames", split="test")
    answers = {folder.name: folder / "predictions/answers.json"}
    assert sheets.write_sentences(samples, answers, target=Path("unused.png"))
    return kept


def green_rows(cell: np.ndarray, frame: np.ndarray) -> tuple[int, int]:
    """The first and the last row of pixels that are clearly greener than in ``frame``."""
    difference = cell.astype(int) - frame.astype(int)
    greener = (difference[..., 1] > difference[..., 2] + 25).sum(1) > 3
    rows = np.flatnonzero(greener[: pictures.CELL_HEIGHT - sheets.TEXT_HEIGHT])
    return (int(rows[0]), int(rows[-1])) if len(rows) else (0, 0)


def test_two_sentences_single_out_two_actors_of_one_kind_each_with_the_truth_and_the_answer(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clip with one actor isn't shown; neither are two sentences about one actor, though they come first."""
    (row,) = grid_of(monkeypatch, data / "evaluate" / BOTH.name, data)
    frame, first, first_answer, second, second_answer = row
    scale = (pictures.CELL_HEIGHT - sheets.TEXT_HEIGHT) / make.HEIGHT
    for cell, top in ((first, 6), (first_answer, 6), (second, 6 + BELOW), (second_answer, 6 + BELOW)):
        assert green_rows(cell, frame) == pytest.approx((top * scale, (top + make.SIDE) * scale), abs=4)
    text = slice(pictures.CELL_HEIGHT - sheets.TEXT_HEIGHT, None)
    assert (frame[text] == 255).all() and (first_answer[text] == 255).all()
    assert (first[text] < 128).any() and (second[text] < first[text]).any()


def test_a_wrong_answer_is_shown_where_it_is_and_an_empty_one_is_the_frame(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((frame, _, wrong, _, _),) = grid_of(monkeypatch, data / "evaluate" / RGB.name, data)
    scale = (pictures.CELL_HEIGHT - sheets.TEXT_HEIGHT) / make.HEIGHT
    assert green_rows(wrong, frame)[0] == pytest.approx((6 + BELOW) * scale, abs=4)
    ((frame, _, nothing, _, _),) = grid_of(monkeypatch, data / "evaluate" / FRAME.name, data)
    assert (nothing == frame).all()


@pytest.fixture
def titles(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Sequence[str]]:
    """The columns of each picture that the report draws."""
    seen: dict[str, Sequence[str]] = {}
    monkeypatch.setattr(runs, "all_runs", lambda: ALL)
    monkeypatch.setattr(pictures, "write_sheet", lambda path, rows, *, titles: seen.update({path.name: titles}))
    report.run(report.Parameters(rows=2), DRAWS, "squares", "small", data=data, output=tmp_path)
    return seen


def test_the_picture_has_a_column_for_the_best_run_of_each_method_on_sentences(
    titles: dict[str, Sequence[str]],
) -> None:
    methods = list(dict.fromkeys(name.split("-")[0] for name in titles["sentences.png"] if "-" in name))
    best = [name for name in titles["sentences.png"] if "-" in name]
    assert best == [*best[: len(methods)]] * 2 and BOTH.name in best
    assert titles["sentences.png"][:2] == ["frame", "meant first"]


def test_the_sheet_of_label_maps_has_no_column_of_a_run_on_sentences(titles: dict[str, Sequence[str]]) -> None:
    assert titles["sheet.png"] == ["frame", "ground truth", VOCABULARY.name]


def test_where_no_two_actors_of_one_kind_are_told_apart_there_is_no_picture(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "of_one_kind", lambda *_: iter(()))
    samples = dataset.load(data / "index", data / "frames", split="test")
    answers = {BOTH.name: data / "evaluate" / BOTH.name / "predictions/answers.json"}
    assert not sheets.write_sentences(samples, answers, target=tmp_path / "sentences.png")
    assert not (tmp_path / "sentences.png").exists()


def test_what_was_not_answered_is_not_chosen(data: Path) -> None:
    samples = dataset.load(data / "index", data / "frames", split="test")
    everything = [asked.image_id for asked in samples.sentences]
    ((one, other),) = sheets.of_one_kind(samples, everything)
    assert (one.frame, one.instance, other.instance) == (FIRST.annotated[0], 0, 1)
    ((later, _),) = sheets.of_one_kind(samples, [name for name in everything if name != other.image_id])
    assert later.frame == FIRST.annotated[1]


@pytest.mark.parametrize(
    ("name", "schema", "changed"),
    [
        ("instances", schemas.INSTANCES, {"actor": 255}),
        ("instances", schemas.INSTANCES, {}),
        ("sentences", schemas.SENTENCES, {"sentence": "a ball"}),
    ],
)
def test_two_actors_of_unknown_or_of_two_kinds_and_one_sentence_twice_are_not_told_apart(
    data: Path, tmp_path: Path, name: str, schema: Any, changed: dict[str, Any]
) -> None:
    """Without a change to all rows, the two are made an adult and a baby."""
    shutil.copytree(data / "index", tmp_path / "index")
    path = tmp_path / f"index/{name}.parquet"
    rows = schemas.read_parquet(path, schema).to_pylist()
    rows = [row | (changed or {"actor": 1 + row["instance"]}) for row in rows]
    schemas.write_parquet(path, schemas.rows_to_table(rows, schema))
    samples = dataset.load(tmp_path / "index", data / "frames", split="test")
    assert list(sheets.of_one_kind(samples, [asked.image_id for asked in samples.sentences])) == []


def test_a_long_sentence_is_broken_between_words() -> None:
    cell = sheets._cell(np.zeros((96, 160, 3), np.uint8), "a brown dog is walking on the left of the white dog")
    text = cell[pictures.CELL_HEIGHT - sheets.TEXT_HEIGHT :].min(axis=(1, 2)) < 128
    lines = np.flatnonzero(np.diff(text.astype(int)) == 1)
    assert len(lines) >= 2 and cell.shape[0] == pictures.CELL_HEIGHT
