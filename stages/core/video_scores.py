"""What a trained classifier of videos says of each: a score for each pair, and how right they are.

A video is seen in clips that lie end to end, one after another, so memory does not grow with it; its scores are their
mean (Gavrilyuk et al. 2018, section 5.3).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from models.inference import computing_in
from stages.core import prediction, tables, vocabulary, windows
from stages.core.dataset import Dataset
from stages.core.scores import classification
from stages.core.scores.segmentation import Parameters
from stages.core.tables import VIDEO_SCORES
from stages.core.video import Clip

FILE = "video_scores.parquet"
"""In a run's folder of predictions: the scores of all videos."""


def score_clip(argument: Mapping[str, Any], parameters: Mapping[str, Any], target: Path) -> None:
    """Scores of one video by a trained run, computed in ``parameters["precision"]``, packed at ``target``: one row."""
    torch.set_num_threads(1)  # videos are the parallelism, and the number of threads decides the last bits
    predictor = prediction.load_predictor(Path(argument["run"]), argument["weights"])
    samples, video = prediction.clip_of(argument), argument["video"]
    frames = len(Clip(samples.clips_folder / f"{video}.arrow"))
    clips = vocabulary.window_numbers(frames, length=predictor.config.test_frames)
    total = torch.zeros(())
    with computing_in(parameters["precision"], predictor.device):
        for numbers in clips:
            batch = predictor.batch([windows.read(samples, video, numbers, labelled=False)])
            total = total + predictor.network.scores(batch)[0].float().cpu()
    tables.write_pack(target, {"video": [video], "scores": [(total / len(clips)).tolist()]}, VIDEO_SCORES)


def collect(predictions: Path, videos: Sequence[str]) -> pa.Table:
    """The scores in the packs of ``videos`` below ``predictions``; one without a pack is in quarantine."""
    paths = [predictions / "clips" / f"{video}.arrow" for video in videos]
    packs = [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in paths if path.exists()]
    return pa.concat_tables([VIDEO_SCORES.empty_table(), *packs])


def evaluate(samples: Dataset, predictions: Path, parameters: Parameters) -> dict[str, Any]:
    """Write all scores into ``predictions`` and compare them with what the videos show.

    Gives ``classification`` (as ``scores.classification.run``) and ``coverage``, which counts videos.
    """
    assert samples.index is not None, "loaded with its tables"
    tables.write_parquet(predictions / FILE, collect(predictions, samples.videos))
    result = classification.run(
        samples.index, predictions / FILE, count_missing=True, labels=samples.label_space, parameters=parameters
    )
    return {"classification": result, "coverage": result["coverage"]}
