"""Answers to sentences: what is asked about a frame, that it is encoded once, what files hold, how empty masks are."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from benchmarks.sentences import by_pycocotools
from models.base import Window
from stages.core import runs, schemas
from stages.core.batches import transforms, windows, words
from stages.core.datasets import a2d
from stages.core.datasets.dataset import AnnotatedFrame, Dataset, load
from stages.core.datasets.labels import A2D, JHMDB, LabelSpace
from stages.core.inference import answers, questions
from stages.core.inference import predictor as predictors
from stages.core.inference.questions import Question
from stages.core.scores import emptiness, resampling, segmentation
from stages.core.scores import sentences as scores
from tests.help import make

DRAWS = resampling.Parameters(resamples=20, seed=0)
PARAMETERS = segmentation.Parameters(resamples=20, seed=0, non_boundary=15)
RUN = runs.Run("sentence-rgb-full-0", "sentence", "rgb", "full", 0)


# What is asked

ADULT, CAT, DOG = (A2D.actors.index(name) for name in ("adult", "cat", "dog"))
RUN_, ROLL, WALK = (A2D.actions.index(name) for name in ("running", "rolling", "walking"))
Rows = Sequence[tuple[int, int, int, int | None]]
"""Frame, instance, actor and action (None: nobody told)."""


def asked(folder: Path, rows: Rows, spoken: Sequence[tuple[int, str]], space: LabelSpace = A2D) -> list[Question]:
    """What is asked about a clip with these instances and these sentences about instances."""
    mask = coco.encode(np.ones((2, 2), np.uint8, order="F"))["counts"]
    box = {"x1": 0, "y1": 0, "x2": 2, "y2": 2, "height": 2, "width": 2, "mask": mask}
    instances = [
        {"video": "clip", "frame": f, "instance": i, "actor": actor, "actions": [] if does is None else [does], **box}
        for f, i, actor, does in rows
    ]
    said = [{"video": "clip", "instance": instance, "sentence": sentence} for instance, sentence in spoken]
    schemas.write_parquet(folder / "instances.parquet", schemas.rows_to_table(instances, schemas.INSTANCES))
    schemas.write_parquet(folder / "sentences.parquet", schemas.rows_to_table(said, schemas.SENTENCES))
    frames = tuple(AnnotatedFrame("clip", frame, b"") for frame in sorted({row[0] for row in rows}))
    (found,) = questions.questions(Dataset("test", frames, 2, folder, label_space=space, index=folder)).values()
    return found


def of_kind(found: Sequence[Question], kind: str) -> list[tuple[int, str]]:
    return [(one.frame, one.sentence) for one in found if one.kind == kind]


def test_each_sentence_is_asked_where_its_actor_is_and_of_one_who_left_where_he_is_not(tmp_path: Path) -> None:
    rows = [(3, 0, CAT, RUN_), (3, 1, DOG, WALK), (9, 1, DOG, WALK)]
    found = asked(tmp_path, rows, [(0, "the cat"), (1, "the dog"), (0, "who runs")])
    assert of_kind(found, "asked") == [(3, "the cat"), (3, "the dog"), (9, "the dog"), (3, "who runs")]
    assert of_kind(found, "left") == [(9, "the cat"), (9, "who runs")]
    assert next(one.key for one in found if one.kind == "asked") == "v_clip_f_4_i_0"
    assert len({one.key for one in found}) == len(found)


def test_nobody_is_an_actor_in_no_annotated_frame_and_another_action_one_that_no_such_actor_does(
    tmp_path: Path,
) -> None:
    rows = [(3, 0, CAT, RUN_), (3, 1, DOG, WALK), (3, 2, DOG, ROLL), (9, 1, DOG, WALK)]
    found = asked(tmp_path, rows, [])
    nobody, other = of_kind(found, "nobody"), of_kind(found, "other_action")
    assert [frame for frame, _ in nobody] == [frame for frame, _ in other] == [3, 9]
    assert not {sentence.split()[0] for _, sentence in nobody} & {"cat", "dog"}
    assert {sentence.split()[0] for _, sentence in other} <= {"cat", "dog"}
    assert other[1][1].startswith("dog ") and other[1][1] != "dog walking"
    assert other[0][1] not in {"cat running", "dog walking", "dog rolling"}
    assert found == asked(tmp_path, rows, []), "the same at every call"


def test_who_may_do_it_or_be_there_unsaid_is_not_asked_about(tmp_path: Path) -> None:
    found = asked(tmp_path, [(3, 0, CAT, RUN_), (3, 1, CAT, None)], [])
    assert of_kind(found, "other_action") == [] and len(of_kind(found, "nobody")) == 1
    found = asked(tmp_path, [(3, 0, CAT, RUN_), (3, 1, 255, None)], [])
    assert of_kind(found, "nobody") == [] and len(of_kind(found, "other_action")) == 1


def test_where_all_actors_are_of_one_kind_there_is_always_somebody(tmp_path: Path) -> None:
    found = asked(tmp_path, [(0, 0, 1, 5)], [(0, "he climbs")], JHMDB)
    assert of_kind(found, "nobody") == []
    (other,) = of_kind(found, "other_action")
    assert other[1].startswith("person ") and other[1] != f"person {JHMDB.actions[5]}".replace("_", " ")


def beside(folder: Path, *columns: tuple[int, int, int, int]) -> dict[str, tuple[int, int] | None]:
    """Sentence -> columns seen where its actor is gone, of instances (frame, actor, x1, x2) in frames 10 wide."""
    mask = coco.encode(np.ones((4, 10), np.uint8, order="F"))["counts"]
    box = {"video": "clip", "y1": 0, "y2": 4, "height": 4, "width": 10, "mask": mask, "actions": [RUN_]}
    numbers = {actor: number for number, actor in enumerate(dict.fromkeys(actor for _, actor, *_ in columns))}
    instances = [
        {**box, "frame": frame, "instance": 10 * numbers[actor] + x1 // 5, "actor": actor, "x1": x1, "x2": x2}
        for frame, actor, x1, x2 in columns
    ]
    who = {**dict(enumerate(A2D.actors)), questions.UNTOLD: "somebody"}.get
    said = sorted({(row["instance"], f"{who(row['actor'])} {row['instance'] % 10}") for row in instances})
    spoken = [{"video": "clip", "instance": instance, "sentence": sentence} for instance, sentence in said]
    schemas.write_parquet(folder / "instances.parquet", schemas.rows_to_table(instances, schemas.INSTANCES))
    schemas.write_parquet(folder / "sentences.parquet", schemas.rows_to_table(spoken, schemas.SENTENCES))
    frames = tuple(AnnotatedFrame("clip", frame, b"") for frame in sorted({row["frame"] for row in instances}))
    (found,) = questions.questions(Dataset("test", frames, 2, folder, index=folder)).values()
    assert all(one.frame == frames[len(frames) // 2].frame for one in found if one.kind in {"gone", "stopped"})
    return {one.sentence: one.columns for one in found if one.kind == "gone"}


def test_of_who_is_gone_the_wider_side_is_seen_that_no_annotated_frame_shows_him_or_his_like_on(tmp_path: Path) -> None:
    assert beside(tmp_path, (0, DOG, 0, 2)) == {"dog 0": (2, 10)}
    assert beside(tmp_path, (0, DOG, 0, 2), (8, DOG, 3, 5)) == {"dog 0": (5, 10)}, "he moves"
    assert beside(tmp_path, (0, DOG, 0, 2), (0, CAT, 6, 9)) == {"dog 0": (2, 10), "cat 1": (0, 6)}
    assert beside(tmp_path, (0, DOG, 0, 2), (0, DOG, 6, 9)) == {}, "the other dog could be meant"
    assert beside(tmp_path, (0, DOG, 0, 2), (0, questions.UNTOLD, 6, 9)) == {}, "nobody told who that is"
    assert beside(tmp_path, (0, DOG, 3, 7)) == {}, "less than a third of the frame is left on either side"
    assert beside(tmp_path, (0, DOG, 4, 7)) == {"dog 0": (0, 4)}


def test_an_id_that_two_instances_of_a_frame_have_is_no_error(tmp_path: Path) -> None:
    """As in frame 25 of the release's EadxBPmQvtg."""
    found = asked(tmp_path, [(3, 0, CAT, RUN_), (3, 0, DOG, RUN_)], [(0, "the cat")])
    assert of_kind(found, "asked") == of_kind(found, "stopped") == [(3, "the cat")]


def test_whose_action_is_none_or_untold_can_t_stop(tmp_path: Path) -> None:
    none = A2D.actions.index("none")
    found = asked(tmp_path, [(3, 0, CAT, RUN_), (3, 1, DOG, none), (3, 2, DOG, None)], [(0, "a"), (1, "b"), (2, "c")])
    assert of_kind(found, "stopped") == [(3, "a")]


def test_a_view_of_who_is_gone_or_has_stopped_is_cut_and_held() -> None:
    frames = np.arange(3 * 4 * 6 * 3, dtype=np.uint8).reshape(3, 4, 6, 3)
    flow = np.ones((3, 4, 6, 2), np.float32)
    window = windows.Sample(frames, np.zeros((3, 4, 6), np.uint8), flow)
    gone, stopped = Question("", 0, "gone", "", (1, 4)), Question("", 0, "stopped", "")
    cut, held = (questions.seen(window, one, position=1) for one in (gone, stopped))
    assert np.array_equal(cut.frames, frames[:, :, 1:4]) and cut.flow is not None and cut.flow.shape == (3, 4, 3, 2)
    assert all(np.array_equal(frame, frames[1]) for frame in held.frames)
    assert held.flow is not None and held.flow.shape == flow.shape and not held.flow.any()
    assert questions.seen(window, Question("", 0, "asked", ""), position=1) is window
    of_views = questions.by_view([gone, Question("b", 0, "asked", ""), stopped, Question("a", 0, "nobody", "")])
    assert sorted([one.kind for one in group] for group in of_views) == [["asked", "nobody"], ["gone"], ["stopped"]]


# Answers

LEFT, RIGHT = make.Square("-left", split="test", speed=(0, 1)), make.Square("right", label=66, split="test")


class Halves:
    """Answers "left" with the left half of a frame, "right" with the other, surer of it, all else with nothing."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []

    def response(self, batch: Any) -> torch.Tensor:
        self.batches.append((len(batch["frames"]), len(batch["words"])))
        height, width = batch["frames"].shape[2:4]
        maps = torch.full((len(batch["words"]), height, width), -1.0)
        for one, first, length in zip(maps, batch["words"][:, 0, 0], batch["lengths"], strict=True):
            if length and first > 0:
                one[:, : width // 2] = 1
            elif length and first < 0:
                one[:, width // 2 :] = 3
        return maps


def of_words(source: str, *, sentences: Any) -> words.Vectors:
    """Vectors of "left" and "right"."""
    assert source == "a file"
    wanted = {word for sentence in sentences for word in words.tokens(sentence)}
    known = {"left": np.ones(300, np.float32), "right": -np.ones(300, np.float32)}
    return words.Vectors({w: known[w] for w in wanted & known.keys()}, frozenset(wanted - known.keys()))


Evaluated = tuple[dict[str, Any], Path, Halves]
"""Scores, the file of answers, and the network."""


@pytest.fixture
def evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Evaluated]:
    """Evaluates a network that answers in halves on the test clips of a release; without the clip ``broken``."""

    def evaluate(*, height: int | None = None, broken: str = "") -> Evaluated:
        network = Halves()
        config = SimpleNamespace(window=Window(before=1, after=1), height=height, flow_encoding="clipped")
        predictor = predictors.Predictor(network, config, A2D, torch.device("cpu"))
        monkeypatch.setattr(predictors, "load_predictor", lambda *_: predictor)
        monkeypatch.setattr(words, "vectors", of_words)
        raw = make.write_release(tmp_path / "data/raw", (make.RELEASE[0], LEFT, RIGHT))
        lines = ("-left,0,square on the left", "-left,0,the other one", "right,0,right")
        (raw / a2d.SENTENCES).write_text("video_id,instance_id,query\n" + "\n".join(lines) + "\n")
        if broken:
            (raw / a2d.CLIPS_FOLDER / f"{broken}.mp4").write_bytes(b"no video")
        with make.workspace(tmp_path):
            data = make.run_to_frames(tmp_path)
            trained = data / "train" / RUN.name
            trained.mkdir(parents=True)
            (trained / "model.pt").write_bytes(b"")
            content = {"parameters": {"common": {"word_vectors": "a file"}}}
            (trained / "run.json").write_text(json.dumps(content))
            samples = load(data / "index", data / "frames", split="test")
            folder = data / "evaluate" / RUN.name
            found = answers.evaluate(RUN, samples, PARAMETERS, data=data, folder=folder, stage="evaluate-it")
        return found, folder / "predictions" / scores.ANSWERS, network

    return evaluate


@pytest.mark.parametrize("height", [None, 2 * make.HEIGHT])
def test_answers_have_the_size_of_the_frame_and_score_by_how_sure_they_are(
    evaluated: Callable[..., Evaluated], height: int | None
) -> None:
    _, path, _ = evaluated(height=height)
    by_name = {one["image_id"]: one for one in json.loads(path.read_text())}
    assert set(by_name) == {
        f"v_{name}_f_{frame}_i_0{more}" for name, more in (("-left", ""), ("-left", "_s_2"), ("right", ""))
        for frame in (3, 7)
    }  # fmt: skip
    half = np.zeros((make.HEIGHT, make.WIDTH), bool)
    half[:, : make.WIDTH // 2] = True
    expected = {"v_-left_f_3_i_0": (half, 1), "v_right_f_7_i_0": (~half, 3)}
    for name, (mask, response) in expected.items():
        assert np.array_equal(coco.decode(by_name[name]["segmentation"]), mask)
        assert by_name[name]["score"] == pytest.approx(1 / (1 + np.exp(-response)), abs=0.01)
    empty = by_name["v_-left_f_7_i_0_s_2"]
    assert not coco.decode(empty["segmentation"]).any() and empty["score"] == 0


def test_scores_are_those_of_the_files_and_words_without_a_vector_are_counted(
    evaluated: Callable[..., Evaluated], capsys: pytest.CaptureFixture[str]
) -> None:
    found, _, _ = evaluated()
    square, half = make.SIDE**2, make.HEIGHT * make.WIDTH // 2
    # "right" is asked of a square in the left half
    assert found["sentences"]["mean_iou"] == pytest.approx(100 * (2 * square / half) / 6, abs=0.01)
    assert found["sentences"]["overall_iou"] == pytest.approx(
        100 * 2 * square / (2 * half + 2 * square + 2 * (half + square))
    )
    assert found["coverage"] == {"scored": 6, "of": 6, "clips": 2}
    assert found["unknown_words"] == {"the": 4, "square": 2, "on": 2, "other": 2, "one": 2}
    assert "6 sentences, 5 words without a vector (the, " in capsys.readouterr().out


def test_a_frame_is_encoded_once_for_all_that_is_asked_about_it(evaluated: Callable[..., Evaluated]) -> None:
    _, _, network = evaluated()
    # Of each of four frames: sentences, somebody who is not there, and another action. Of two frames the sentences once
    # more where the actor is cut off, and where the clip stands still.
    as_it_is, changed = [(1, 3), (1, 3), (1, 4), (1, 4)], [(1, 1), (1, 1), (1, 2), (1, 2)]
    assert sorted(network.batches) == [*changed, *as_it_is]


@pytest.mark.parametrize(("size", "shape"), [((24, 40), (24, 32)), ((48, 24), (18, 24))])
def test_a_frame_is_as_large_as_it_is_in_training(size: tuple[int, int], shape: tuple[int, int]) -> None:
    shown: list[Any] = []

    class Seeing:
        def response(self, batch: Any) -> torch.Tensor:
            shown.append(batch["frames"])
            return torch.zeros(1, *batch["frames"].shape[2:4])

    config = SimpleNamespace(height=24, crop=size, flow_encoding="clipped")
    predictor = predictors.Predictor(Seeing(), config, A2D, torch.device("cpu"), fits=True)
    frames = np.zeros((1, make.HEIGHT, make.WIDTH, 3), np.uint8)
    window = windows.Sample(frames, np.zeros(frames.shape[:3], np.uint8))
    assert answers.respond(predictor, window, [np.ones((1, 300), np.float32)], "float32").shape == (
        1,
        make.HEIGHT,
        make.WIDTH,
    )
    trained = transforms.augment_whole(window, np.random.default_rng(0), height=24, size=size)
    assert shown[0].shape[2:4] == shape and trained.frames.shape[1:3] == size


def test_no_more_sentences_than_memory_holds_are_answered_together(
    evaluated: Callable[..., Evaluated], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "AT_ONCE", 3)
    found, _, network = evaluated()
    changed = [(1, 1), (1, 1), (1, 2), (1, 2)]
    assert sorted(network.batches) == sorted([*changed, (1, 1), (1, 1), (1, 3), (1, 3), (1, 3), (1, 3)])
    assert found["coverage"]["scored"] == 6


def test_sentences_about_a_clip_that_can_t_be_used_are_promised_and_not_scored(
    evaluated: Callable[..., Evaluated],
) -> None:
    found, _, _ = evaluated(broken="-left")
    assert found["coverage"] == {"scored": 2, "of": 6, "clips": 1}


def test_masks_where_nobody_is_meant_are_told_from_those_of_sentences(evaluated: Callable[..., Evaluated]) -> None:
    found, _, _ = evaluated()
    kinds = found["emptiness"]
    assert {kind: one["samples"] for kind, one in kinds.items()} == {
        "asked": 6, "nobody": 4, "other_action": 4, "gone": 3, "stopped": 3
    }  # fmt: skip
    assert kinds["asked"]["share"] == pytest.approx(100 * 4 / 6 / 2)
    assert kinds["asked"]["empty"] == pytest.approx(100 * 2 / 6)
    assert kinds["nobody"]["share"] == 0 and kinds["nobody"]["empty"] == 100


def test_a_mask_of_less_than_a_hundredth_of_the_frame_is_empty() -> None:
    rows = [{"kind": "left", "pixels": pixels, "of": 1000} for pixels in (0, 9, 10, 501)]
    found = emptiness.run({"first": rows[:3], "second": rows[3:]}, DRAWS)["left"]
    assert (found["share"], found["empty"], found["samples"]) == (13, 50, 4)
    assert found["share_low"] < 13 < found["share_high"]
    first, second = (emptiness.run({"clip": part}, DRAWS)["left"]["share"] for part in (rows[:3], rows[3:]))
    assert first == pytest.approx(19 / 30) and second == pytest.approx(50.1)


def test_a_data_set_without_sentences_is_an_error(tmp_path: Path) -> None:
    schemas.write_parquet(tmp_path / "instances.parquet", schemas.INSTANCES.empty_table())
    schemas.write_parquet(tmp_path / "sentences.parquet", schemas.SENTENCES.empty_table())
    schemas.write_parquet(tmp_path / "clips.parquet", schemas.CLIPS.empty_table())
    nothing = Dataset("test", (AnnotatedFrame("clip", 0, b""),), 1, tmp_path, index=tmp_path)
    with pytest.raises(ValueError, match="sentence-rgb-full-0: no sentence about an actor in an annotated test frame"):
        answers.evaluate(RUN, nothing, PARAMETERS, data=tmp_path, folder=tmp_path / "found", stage="evaluate-it")


def test_coco_s_tool_agrees_on_the_same_files(evaluated: Callable[..., Evaluated]) -> None:
    found, path, _ = evaluated()
    truth = json.loads((path.parents[3] / "index" / "sentences.json").read_text())
    scores = by_pycocotools(truth, json.loads(path.read_text()))
    assert {name: found["sentences"][name] for name in scores} == pytest.approx(scores)
