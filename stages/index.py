"""Stage `index`: a release's csv, annotations and splits as tables.

Reads data/raw. Writes data/index: clips, frames (annotated, with label maps), instances, sentences and quarantine
(.parquet). A clip or an annotation that can't be read goes to quarantine with its reason; nothing else is lost.
"""

from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.core import a2d, annotations, cli, dataset, items, tables
from stages.core.params import load


def run(
    parameters: dataset.Parameters, *, raw: Path = Path("data/raw"), output: Path = Path("data/index")
) -> items.Outcome:
    """Index the release at ``raw``. Raises ``ValueError`` when it is not in A2D's layout or has no usable clip."""
    del parameters  # the name goes into tables made from this one, not into this one
    a2d.check_layout(raw)
    rows, quarantine = a2d.read_videoset(raw / a2d.VIDEOSET)
    work = []
    clips: list[dict[str, Any]] = []
    for row in rows:
        clip = raw / a2d.CLIPS_FOLDER / f"{row.video}.mp4"
        if not clip.exists():
            quarantine[row.video] = f"clip {a2d.CLIPS_FOLDER / clip.name} is missing"
            continue
        clips.append(
            {
                "video": row.video, "split": row.split, "label": row.label, "height": row.height, "width": row.width,
                "frames": row.frames, "annotated": row.annotated, "path": str(a2d.CLIPS_FOLDER / clip.name),
                "content": items.file_digest(clip),
            }
        )  # fmt: skip
        work.append(_item(raw, row))
        files = len(a2d.annotated_frames(raw, row.video))
        if files < row.annotated:
            quarantine[f"{row.video}/annotations"] = (
                f"{files} annotation files (.mat) where videoset.csv promises {row.annotated}"
            )
    if not work:
        raise ValueError(f"{raw}: no clip of {a2d.VIDEOSET} is there; put <video>.mp4 files into {a2d.CLIPS_FOLDER}")
    outcome = items.run(
        "index",
        annotations.index_clip,
        work,
        parameters={},
        libraries=["h5py", "opencv-python-headless", "pyarrow", "pycocotools"],
        output=output,
    )
    frames, instances = [], []
    for item in work:
        clip_frames, clip_instances, bad = annotations.read_clip(output / "clips" / f"{item.name}.arrow")
        frames.append(clip_frames)
        instances.append(clip_instances)
        quarantine |= bad
    sentences, bad_sentences = a2d.read_sentences(raw / a2d.SENTENCES)
    quarantine |= bad_sentences | outcome.quarantined
    rows_of_sentences = [
        {"video": video, "instance": instance, "sentence": text} for video, instance, text in sentences
    ]
    tables.write_parquet(output / "clips.parquet", tables.rows_to_table(clips, tables.CLIPS))
    tables.write_parquet(output / "frames.parquet", pa.concat_tables(frames))
    tables.write_parquet(output / "instances.parquet", pa.concat_tables(instances))
    tables.write_parquet(output / "sentences.parquet", tables.rows_to_table(rows_of_sentences, tables.SENTENCES))
    items.write_quarantine(output / "quarantine.parquet", quarantine)
    counts = {split: sum(clip["split"] == split for clip in clips) for split in ("train", "test")}
    print(f"index: {counts['train']} train and {counts['test']} test clips, {sum(map(len, frames))} annotated frames")
    for name, reason in sorted(quarantine.items())[:20]:
        print(f"  quarantine: {name}: {reason}")
    return outcome


def _item(raw: Path, row: a2d.ClipRow) -> items.Item:
    inputs = {"video": row.video, "frames": str(row.frames), "split": row.split}
    for frame in a2d.annotated_frames(raw, row.video):
        for folder, suffix in ((a2d.MAT_FOLDER, "mat"), (a2d.INSTANCE_FOLDER, "h5")):
            path = raw / folder / row.video / f"{frame + 1:05d}.{suffix}"
            if path.exists():
                inputs[path.name] = items.file_digest(path)
    argument = {"folder": str(raw.absolute()), "video": row.video, "frames": row.frames, "split": row.split}
    return items.Item(name=row.video, inputs=inputs, argument=argument)


def main() -> None:
    """Index data/raw."""
    run(load("index", dataset.Parameters))


if __name__ == "__main__":
    cli.run(main)
