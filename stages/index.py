"""Stage `index`: a data set's lists, annotations and splits as tables, whatever layout it comes in.

Reads data/raw. Writes data/index: clips, frames (annotated, with label maps), instances, sentences and quarantine
(.parquet), dataset.json (layout and label space) and sentences.json (test samples of sentences, in COCO's form).
A clip or an annotation that can't be read goes to quarantine with its reason; nothing else is lost.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.core import cli, items, schemas
from stages.core.datasets import annotations, dataset, layouts, sentences
from stages.core.datasets.release import ClipRow, Reader
from stages.core.packs import frames as packed_frames
from stages.core.params import load


def run(
    parameters: layouts.Parameters, *, raw: Path = Path("data/raw"), output: Path = Path("data/index")
) -> items.Outcome:
    """Index the data set at ``raw``. Raises ``ValueError`` when it is in no known layout or has no usable clip."""
    layout, reader = layouts.open_release(raw, parameters)
    rows, quarantine = reader.clips()
    work = []
    clips: list[dict[str, Any]] = []
    for row in rows:
        path = raw / row.path
        if not path.exists():
            quarantine[row.video] = f"clip {row.path} is missing"
            continue
        facts = asdict(row) | {"path": str(row.path), "content": packed_frames.clip_digest(path)}
        clips.append({name: facts[name] for name in schemas.CLIPS.names})
        work.append(_item(reader, layout, raw, row))
    if not work:
        raise ValueError(f"{raw}: no clip that the data set lists is there; put {rows[0].path} and the others there")
    outcome = items.run(
        "index",
        annotations.index_clip,
        work,
        # The name goes into tables made from this one, not into this one.
        parameters=parameters.model_dump() | {"dataset": ""},
        libraries=["h5py", "opencv-python-headless", "pillow", "pyarrow", "pycocotools", "scipy"],
        output=output,
    )
    frames, instances = [], []
    for clip in clips:
        clip_frames, clip_instances, bad = annotations.read_clip(output / "clips" / f"{clip['video']}.arrow")
        frames.append(clip_frames)
        instances.append(clip_instances)
        quarantine |= bad
        if (there := len(clip_frames) + len(bad)) < clip["annotated"]:
            quarantine[f"{clip['video']}/annotations"] = (
                f"{there} annotations where the data set promises {clip['annotated']}"
            )
    quarantine |= outcome.quarantined
    found = pa.concat_tables(instances)
    quarantine |= _write_sentences(reader, found, _test_videos(clips), output)
    schemas.write_parquet(output / "clips.parquet", schemas.rows_to_table(clips, schemas.CLIPS))
    schemas.write_parquet(output / "frames.parquet", pa.concat_tables(frames))
    schemas.write_parquet(output / "instances.parquet", found)
    dataset.write_description(output, dataset.Description(layout, reader.label_space))
    items.write_quarantine(output / "quarantine.parquet", quarantine)
    counts = {split: sum(clip["split"] == split for clip in clips) for split in ("train", "test")}
    print(
        f"index: {layout}: {counts['train']} train and {counts['test']} test clips, {sum(map(len, frames))} annotated "
        "frames"
    )
    for name, reason in sorted(quarantine.items())[:20]:
        print(f"  quarantine: {name}: {reason}")
    return outcome


def _item(reader: Reader, layout: str, raw: Path, row: ClipRow) -> items.Item:
    facts = {name: str(value) for name, value in asdict(row).items()}
    files = {
        str(path.relative_to(raw)): items.file_digest(path) for path in reader.annotation_files(row) if path.is_file()
    }
    argument = {"folder": str(raw.absolute()), "layout": layout, "row": row}
    return items.Item(name=row.video, inputs=facts | files | {"layout": layout}, argument=argument)


def _test_videos(clips: list[dict[str, Any]]) -> pa.Array:
    return schemas.strings(clip["video"] for clip in clips if clip["split"] == "test")


def _write_sentences(reader: Reader, instances: pa.Table, test: pa.Array, output: Path) -> dict[str, str]:
    """The table of sentences, the test samples in COCO's form, and sentence -> reason for what can't be used."""
    rows, bad = reader.sentences()
    columns = [{"video": video, "instance": instance, "sentence": text} for video, instance, text in rows]
    table = schemas.rows_to_table(columns, schemas.SENTENCES)
    schemas.write_parquet(output / "sentences.parquet", table)
    _, reasons = sentences.samples(instances, table)
    samples, _ = sentences.samples(*(part.filter(pc.is_in(part["video"], test)) for part in (instances, table)))
    sentences.write_coco(output / "sentences.json", sentences.coco_truth(samples))
    return bad | reasons


def main() -> None:
    """Index data/raw."""
    run(load("index", layouts.Parameters))


if __name__ == "__main__":
    cli.run(main)
