"""What a trained run says that a video shows: the item of stage `evaluate` of methods on videos, and its score.

Reads a clip's packed frames and flow; writes one Arrow file of one row. Gavrilyuk et al. 2018, section 5.3: "we extract
32-frame clips over the video and average the scores across all the clips and across RGB and Flow streams".

Axes: P pairs without background.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from models.base import finite
from stages.core.batches import windows
from stages.core.datasets.dataset import read_description
from stages.core.inference import predictor as predictors
from stages.core.packs.frames import Clip
from stages.core.schemas import VIDEO_SCORES, write_pack
from stages.core.scores import classification, resampling

FILE = "video_scores.parquet"
"""Name of the table of a run's scores, in its predictions/."""


@predictors.locating
def score_clip(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """Scores of the clip ``argument["video"]``, computed in ``parameters["precision"]``, packed at ``target``.

    ``argument`` is that of ``predictor.clip_items``. Frames are whole, of the configuration's height.
    """
    torch.set_num_threads(1)  # clips are the parallelism, and the number of threads decides the last bits
    predictor = predictors.load_predictor(Path(argument["run"]), argument["weights"])
    samples, video = predictors.clip_of(argument), argument["video"]
    frames = len(Clip(samples.clips_folder / f"{video}.arrow"))
    clips = windows.window_numbers(frames, length=predictor.config.test_frames)
    total = torch.zeros(())
    for numbers in clips:  # one at a time, so that memory does not grow with the video
        batch = predictor.batch([windows.read(samples, video, numbers, labelled=False)])
        with predictor.checked(parameters["precision"], predictor.device, batch["frames"]):
            scores = finite(predictor.network.scores(batch)[0], "scores")  # (P,)
        total = total + scores.float().cpu()
    write_pack(target, {"video": [video], "scores": [(total / len(clips)).tolist()]}, VIDEO_SCORES)


def collect(predictions: Path, videos: Sequence[str]) -> pa.Table:
    """``VIDEO_SCORES`` of the packs of ``videos`` below ``predictions``; a video in quarantine has no row."""
    paths = [predictions / "clips" / f"{video}.arrow" for video in videos]
    packs = [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in paths if path.exists()]
    return pa.concat_tables([VIDEO_SCORES.empty_table(), *packs]).combine_chunks()


def score(index: Path, path: Path, parameters: resampling.Parameters) -> dict[str, Any]:
    """``classification`` of the scores at ``path`` on the test videos of data/index at ``index``, and ``coverage``.

    The coverage counts videos, where that of methods that label pixels counts frames: ``scored`` of the ``of`` with an
    annotated test frame. Raises ``ValueError`` when none of them has scores.
    """
    labels = read_description(index).label_space
    found = classification.run(index, path, count_missing=True, labels=labels, parameters=parameters)
    coverage = {name: found["coverage"][name] for name in ("scored", "of", "clips")}
    return {"classification": found, "coverage": coverage}
