"""A run on sentences asked about a fixed vocabulary: what a clip is asked, how it is answered, its three label maps."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from torch.nn import functional as F

from models import hu2016, li2017, sentence
from models.base import SINGLE_FRAME, Window
from models.parts import i3d, resnet, text
from models.parts.text import TextBatch
from stages import train as train_stage
from stages.core import items, runs, schemas
from stages.core.batches import window_batches, windows, words
from stages.core.batches.words import Vectors
from stages.core.datasets import dataset, vocabulary
from stages.core.datasets.dataset import Dataset
from stages.core.datasets.labels import A2D, IGNORE, VIDOR
from stages.core.datasets.vocabulary import KINDS, queries
from stages.core.inference import answers, fixed_vocabulary
from stages.core.inference import predictor as predictors
from stages.core.items import BadItem
from stages.core.scores import segmentation
from stages.core.scores.maps import PackedMaps
from stages.core.training import loop
from tests.core.batches.test_words import word2vec
from tests.help import make
from tests.models import test_sentence

METHODS = {"sentence": ("rgb", "flow", "rgb+flow"), "hu2016": ("rgb",), "li2017": ("rgb",)}
MODULES: dict[str, ModuleType] = {"sentence": sentence, "hu2016": hu2016, "li2017": li2017}
FIRST = make.Square("--first", label=17, split="test", frames=10)
SECOND = make.Square("second", label=66, split="test", frames=6, annotated=(1, 4), colour=(60, 80, 230))
UNSCORED = make.Square("unscored", label=36, split="test", frames=6, annotated=(1,))
SQUARES = (make.RELEASE[0], FIRST, SECOND, UNSCORED)
SCORES = {FIRST.video: {17: 0.9, 78: 0.6}, SECOND.video: {66: 0.3}}
"""Video -> pairs that score more than the others; of SECOND none is above the threshold."""
VOCABULARY = sorted({word for kind in KINDS for query in queries(A2D, kind).values() for word in query.split()})
WORDS = np.random.default_rng(0).normal(size=(len(VOCABULARY), 300)).astype(np.float32)
SHAPE = (make.HEIGHT, make.WIDTH)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """data/ of a workspace with a file of word vectors, scores of two of three videos, and runs that learned nothing
    (`train`)."""
    folder = tmp_path_factory.mktemp("vocabulary")
    make.write_release(folder / "data/raw", SQUARES)
    threads = torch.get_num_threads()
    encoder = resnet.Config(layers=(1, 1, 1, 1), width=8, bottleneck=False)
    baseline = {"encoder": encoder, "text_encoder": text.Config("lstm", 12), "height": 32, "crop": None}
    tiny = replace(
        sentence.small,
        encoder=replace(i3d.SMALL, width=0.07, last="Mixed_4f"),
        decoder=(8, 6),
        window=Window(before=2, after=1),
        height=32,
        crop=None,
    )
    with make.workspace(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentence, "small", tiny)
        patch.setattr(hu2016, "small", replace(hu2016.small, **baseline))
        patch.setattr(li2017, "small", replace(li2017.small, **baseline))
        write_words(Path("words.bin"))
        data = make.run_to_flow(folder)
        write_scores(data, SCORES)
        yield data
    torch.set_num_threads(threads)


def write_words(path: Path, *, without: Sequence[str] = (), table: np.ndarray = WORDS) -> Path:
    """A file of word2vec with the words of the vocabulary."""
    kept = [number for number, word in enumerate(VOCABULARY) if word not in without]
    path.write_bytes(word2vec(tuple(VOCABULARY[number] for number in kept), table[kept]))
    return path


def write_scores(data: Path, scores: Mapping[str, Mapping[int, float]]) -> None:
    """What the run on videos has left, 0.1 for pairs that are not named."""
    rows = [
        {"video": video, "scores": [of.get(pair, 0.1) for pair in A2D.valid_ids[1:]]} for video, of in scores.items()
    ]
    path = data / "evaluate/video_classifier-rgb-full-0/predictions/video_scores.parquet"
    schemas.write_parquet(path, schemas.rows_to_table(rows, schemas.VIDEO_SCORES))


def train(data: Path, method: str = "sentence", inputs: str = "rgb", words: Path = Path("words.bin")) -> runs.Run:
    """A run whose network is as it starts."""
    name = f"{method}-{inputs}-fixed_vocabulary-0"
    module = MODULES[method]
    torch.manual_seed(0)
    loop.save_weights(data / "train" / name / "model.pt", module.build(module.with_inputs(module.small, inputs), A2D))
    common = {"config": "small", "word_vectors": str(words)}
    content = {"method": method, "inputs": inputs, "variant": "fixed_vocabulary", "label_space": "a2d"}
    (data / "train" / name / "run.json").write_text(json.dumps(content | {"parameters": {"common": common}}))
    flow = data / "optical_flow/dis-forward" if "flow" in inputs else None
    scores = data / "evaluate/video_classifier-rgb-full-0"
    return runs.Run(name, method, inputs, "fixed_vocabulary", 0, flow=flow, video_scores=scores)


def load(data: Path, run: runs.Run) -> Dataset:
    return dataset.load(data / "index", data / "frames", split="test", **run.folders)


def clip_items(data: Path, run: runs.Run) -> dict[str, items.Item]:
    return {item.name: item for item in fixed_vocabulary.clip_items(run, load(data, run), data)}


def test_a_frame_is_named_by_each_actor_action_and_pair_in_it_with_the_pixels_of_all_who_bear_the_name(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two adults, one running (17) and one walking (18), a bird flying (44), an unlabelled corner."""
    shown = np.zeros(SHAPE, np.uint8)
    shown[2:6, 2:6], shown[2:6, 10:14], shown[10:14, 2:6], shown[-3:, -3:] = 17, 18, 44, IGNORE
    monkeypatch.setattr(Dataset, "labels", lambda *_: shown)
    samples = vocabulary.named(dataset.load(data / "index", data / "frames", split="train"))
    first, *_ = samples.frames
    asked = [one for one in samples.sentences if (one.video, one.frame) == (first.video, first.frame)]
    pixels = {one.sentence: coco.decode(one.rle).astype(bool) for one in asked}
    assert len(samples.sentences) == len(asked) * len(samples.frames) and len({one.image_id for one in asked}) == 8
    of_pairs = {"adult running": {17}, "adult walking": {18}, "bird flying": {44}}
    alone = {"adult": {17, 18}, "bird": {44}, "running": {17}, "walking": {18}, "flying": {44}}
    assert {name: set(np.unique(shown[mask])) for name, mask in pixels.items()} == of_pairs | alone
    assert all(mask.sum() == 16 * len((of_pairs | alone)[name]) for name, mask in pixels.items())


def test_a_training_learns_the_names_in_place_of_the_sentences(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Drawn(Exception):
        pass

    def draw(samples: Dataset, *_: Any, vectors: Vectors, **__: Any) -> None:
        said = {one.sentence for one in samples.sentences}
        assert {"adult running", "adult", "running"} & said and all(len(vectors.of(name)[0]) for name in said)
        assert said <= {query for kind in KINDS for query in queries(A2D, kind).values()}
        raise Drawn

    monkeypatch.setattr(window_batches, "training_batches", draw)
    common = train_stage.Common(
        config="small", pretrained=False, threads=1, loaders=0, checkpoint_seconds=20, word_vectors="words.bin"
    )
    given = {"dataset_name": "squares", "data": data, "output": tmp_path}
    with pytest.raises(Drawn):
        train_stage.run(train(data), common, train_stage.Method(), **given)
    load = dataset.load
    monkeypatch.setattr(dataset, "load", lambda *args, **kwargs: replace(load(*args, **kwargs), label_space=VIDOR))
    with pytest.raises(ValueError, match="several things at once"):
        train_stage.run(train(data), common, train_stage.Method(), **given)


def maps(argument: Mapping[str, Any], folder: Path, precision: str = "float32") -> list[dict[str, np.ndarray]]:
    """The label maps of a clip's frames."""
    folder.mkdir(exist_ok=True)
    fixed_vocabulary.label_clip(argument, {"precision": precision}, folder / f"{argument['video']}.arrow")
    found = PackedMaps(folder)
    return [dict(found.maps(argument["video"], frame) or {}) for frame in argument["frames"]]


# What is asked


def test_a_clip_is_asked_what_its_scores_choose_and_each_query_has_its_words(data: Path) -> None:
    found = clip_items(data, train(data))
    assert found[FIRST.video].argument["queries"] == {
        "actor": {1: "adult", 7: "dog"},
        "action": {7: "running", 8: "walking"},
        "joint": {17: "adult running", 78: "dog walking"},
    }
    words = found[FIRST.video].argument["words"]
    assert set(words) == {"adult", "dog", "running", "walking", "adult running", "dog walking"}
    both = [VOCABULARY.index(word) for word in ("dog", "walking")]
    assert np.array_equal(words["dog walking"], WORDS[both]) and words["dog"].shape == (1, 300)
    best = {"actor": {6: "cat"}, "action": {6: "rolling"}, "joint": {66: "cat rolling"}}
    assert found[SECOND.video].argument["queries"] == best, "the best pair, where none is above the threshold"


def test_a_clip_s_item_is_that_of_any_method_and_what_it_is_asked(data: Path) -> None:
    run = train(data)
    for plain in predictors.clip_items(run, load(data, run), data):
        asked = clip_items(data, run)[plain.name]
        assert plain.inputs.items() <= asked.inputs.items() and plain.argument.items() <= asked.argument.items()
        assert asked.inputs.keys() - plain.inputs.keys() == {"queries", "words"}
        assert all(isinstance(value, str) for value in asked.inputs.values())


def changed(before: Mapping[str, items.Item], after: Mapping[str, items.Item]) -> set[str]:
    return {name for name, item in before.items() if item.inputs != after[name].inputs}


def test_other_scores_that_choose_the_same_are_no_other_work_and_others_are(data: Path) -> None:
    run = train(data)
    before = clip_items(data, run)
    try:
        write_scores(data, SCORES | {FIRST.video: {17: 0.7, 78: 0.8}})
        assert changed(before, clip_items(data, run)) == set()
        write_scores(data, SCORES | {FIRST.video: {17: 0.9, 78: 0.4}})
        assert changed(before, clip_items(data, run)) == {FIRST.video}
    finally:
        write_scores(data, SCORES)


def test_a_video_whose_scores_come_later_is_other_work_even_where_nothing_can_be_asked(
    data: Path, tmp_path: Path
) -> None:
    run = train(data, words=write_words(tmp_path / "few.bin", without=["bird", "rolling"]))
    before = clip_items(data, run)
    try:
        write_scores(data, SCORES | {UNSCORED.video: {46: 0.9}})
        after = clip_items(data, run)
        assert after[UNSCORED.video].argument["queries"]["joint"] == {} and changed(before, after) == {UNSCORED.video}
    finally:
        write_scores(data, SCORES)


def test_other_vectors_are_other_work_for_the_clips_that_are_asked_their_words(data: Path) -> None:
    before = clip_items(data, train(data))
    other = WORDS.copy()
    other[VOCABULARY.index("dog")] += 1
    write_words(Path("other.bin"), table=other)
    for name in ("words.bin", "other.bin"):
        after = clip_items(data, train(data, words=Path(name)))
        own = {video: item.inputs["words"] for video, item in after.items()}
        differing = {video for video, digest in own.items() if digest != before[video].inputs["words"]}
        assert differing == ({FIRST.video} if name == "other.bin" else set())


def test_a_query_without_a_known_word_is_left_out_and_said_once(
    data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = train(data, words=write_words(tmp_path / "few.bin", without=["cat", "rolling"]))
    found = clip_items(data, run)
    assert found[SECOND.video].argument["queries"] == {"actor": {}, "action": {}, "joint": {}}
    assert found[FIRST.video].argument["queries"]["actor"] == {1: "adult", 7: "dog"}
    said = capsys.readouterr().out
    assert said == f"{run.name}: not asked, since no word of it is known: cat, rolling, cat rolling\n"
    clip_items(data, train(data))
    assert capsys.readouterr().out == "", "all words are known"
    assert not any(labels.any() for of in maps(found[SECOND.video].argument, tmp_path) for labels in of.values())


def test_a_query_with_one_known_word_is_asked_by_it(data: Path, tmp_path: Path) -> None:
    run = train(data, words=write_words(tmp_path / "few.bin", without=["rolling"]))
    argument = clip_items(data, run)[SECOND.video].argument
    assert argument["queries"] == {"actor": {6: "cat"}, "action": {}, "joint": {66: "cat rolling"}}
    assert np.array_equal(argument["words"]["cat rolling"], argument["words"]["cat"])


def test_a_video_without_scores_is_a_bad_item_that_says_so(data: Path, tmp_path: Path) -> None:
    item = clip_items(data, train(data))[UNSCORED.video]
    with pytest.raises(BadItem, match="the run on videos has no scores of it"):
        fixed_vocabulary.label_clip(item.argument, make.FLOAT32, tmp_path / "pack")


def test_scores_that_are_not_there_say_what_to_run(data: Path) -> None:
    run = replace(train(data), video_scores=data / "evaluate/video_classifier-rgb-full-1")
    with pytest.raises(ValueError, match="run `dvc repro evaluate@video_classifier-rgb-full-1`"):
        clip_items(data, run)


def test_where_actors_do_several_things_at_once_there_is_no_fixed_vocabulary(data: Path) -> None:
    run = train(data)
    with pytest.raises(ValueError, match="an actor does several things at once"):
        fixed_vocabulary.clip_items(run, replace(load(data, run), label_space=VIDOR), data)


# Answers


def asked_about(number: int) -> dict[str, np.ndarray]:
    """Queries of one to three words."""
    random = np.random.default_rng(1)
    return {f"query {n}": random.normal(size=(1 + n % 3, 300)).astype(np.float32) for n in range(number)}


@pytest.mark.parametrize(("method", "inputs"), [(method, inputs) for method, of in METHODS.items() for inputs in of])
def test_sentences_asked_at_once_of_one_window_have_the_maps_that_they_have_one_by_one(
    data: Path, method: str, inputs: str
) -> None:
    module = MODULES[method]
    torch.manual_seed(0)
    network = module.build(module.with_inputs(module.small, inputs), A2D).eval()
    frames = network.config.window.length
    window = test_sentence.some_of(test_sentence.batch(32, 48, frames=frames), slice(0, 1))
    words, lengths = torch.randn(3, 4, 300, generator=torch.Generator().manual_seed(2)), torch.tensor([4, 1, 2])
    for row, length in zip(words, lengths, strict=True):
        row[length:] = 0
    encoder = next(iter(network.encoder_slots().values()))
    encoded: list[int] = []
    encoder.register_forward_pre_hook(lambda _, inputs: encoded.append(len(inputs[0])))
    together = network.response(TextBatch(frames=window["frames"], flow=window["flow"], words=words, lengths=lengths))
    assert together.shape == (3, 32, 48) and set(encoded) == {1}, "the window is encoded once for all"
    apart = [
        network.response(
            TextBatch(frames=window["frames"], flow=window["flow"], words=words[[n]], lengths=lengths[[n]])
        )
        for n in range(3)
    ]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=1e-4)
    assert (apart[0] - apart[1]).abs().max() > 1e-4, "each sentence has a map of its own"


class Answering:
    """A network whose response to a query is what its first word says, and that keeps what it was shown."""

    def __init__(self, says: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.shown: list[Any] = []
        self._says = says

    def response(self, batch: Any) -> torch.Tensor:
        self.shown.append(batch)
        return torch.stack([self._says(words[0]) for words in batch["words"]])


def predictor(network: Any, *, height: int | None = None) -> predictors.Predictor:
    config = SimpleNamespace(window=SINGLE_FRAME, height=height, flow_encoding="clipped")
    return predictors.Predictor(network, config, A2D, torch.device("cpu"))


def picture(height: int = 6, width: int = 8) -> windows.Sample:
    return windows.Sample(np.zeros((1, height, width, 3), np.uint8), np.zeros((1, height, width), np.uint8))


def test_a_frame_is_asked_64_queries_at_a_time_with_their_words_and_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    assert answers.AT_ONCE == 64
    words = asked_about(150)
    network = Answering(lambda word: word[:48].view(6, 8))
    found = answers.respond(predictor(network), picture(), list(words.values()), "float32").numpy()
    assert [(len(shown["frames"]), len(shown["words"])) for shown in network.shown] == [(1, 64), (1, 64), (1, 22)]
    assert found.dtype == np.float32
    for response, matrix in zip(found, words.values(), strict=True):
        assert np.array_equal(response, matrix[0, :48].reshape(6, 8)), "in the order of the queries"
    asked = [
        (rows, int(n)) for shown in network.shown for rows, n in zip(shown["words"], shown["lengths"], strict=True)
    ]
    for (rows, length), matrix in zip(asked, words.values(), strict=True):
        assert length == len(matrix) and np.array_equal(rows[:length].numpy(), matrix) and not rows[length:].any()


def test_responses_are_resized_bilinearly_in_float32_before_they_are_compared() -> None:
    """Of two maps that cross between the pixels of the network, the line where they cross is where it is in between."""
    network = Answering(lambda word: word[:4].view(2, 2).bfloat16())
    words = {"left": np.zeros((1, 300), np.float32), "right": np.zeros((1, 300), np.float32)}
    words["left"][0, :4], words["right"][0, :4] = (3, 0.25, 3, 0.25), (1, 1, 1, 1)
    found = answers.respond(predictor(network, height=2), picture(8, 8), list(words.values()), "float32")
    row = 3 + (0.25 - 3) * np.clip((np.arange(8) + 0.5) / 4 - 0.5, 0, 1)
    assert np.allclose(found[0], row, atol=1e-6) and np.allclose(found[1], 1)
    assert network.shown[0]["frames"].shape == (1, 1, 2, 2, 3)


def by_words(number: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Responses of 2 x 2 pixels by the first word of a query, ``number`` of them positive."""

    def says(word: torch.Tensor) -> torch.Tensor:
        name = VOCABULARY[int((torch.from_numpy(WORDS) - word).abs().sum(1).argmin())]
        response = {"adult": [4, -1, -1, -1], "dog": [-1, 5, 1, -1], "running": [3, 3, 3, 3], "walking": [2, 9, 2, 2]}
        return torch.tensor(response[name]).float().view(2, 2)[:, :number]

    return says


def test_each_kind_s_map_has_the_id_of_its_highest_response(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Answering(by_words(2))
    monkeypatch.setattr(predictors, "load_predictor", lambda *_: predictor(network))
    argument = clip_items(data, train(data))[FIRST.video].argument
    (found, _) = maps(argument, tmp_path)
    corners = {kind: labels[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() for kind, labels in found.items()}
    assert corners == {"actor": [1, 7, 7, 0], "action": [7, 8, 7, 7], "joint": [17, 78, 78, 0]}
    assert all(labels.shape == SHAPE and labels.dtype == np.uint8 for labels in found.values())
    assert len(network.shown) == len(FIRST.annotated), "asked once a frame"
    assert all(len(shown["frames"]) == 1 and len(shown["words"]) == 6 for shown in network.shown)


@pytest.mark.parametrize(("method", "inputs"), [("sentence", "rgb+flow"), ("hu2016", "rgb"), ("li2017", "rgb")])
def test_a_clip_s_maps_are_those_of_its_queries_asked_one_by_one(
    data: Path, tmp_path: Path, method: str, inputs: str
) -> None:
    run = train(data, method, inputs)
    argument, known = clip_items(data, run)[FIRST.video].argument, load(data, run)
    trained = predictors.load_predictor(Path(argument["run"]), argument["weights"])
    seen = set()
    for frame, found in zip(FIRST.annotated, maps(argument, tmp_path), strict=True):
        numbers = windows.numbers(frame, trained.config.window)
        batch = trained.batch([windows.read(known, FIRST.video, numbers, labelled=False)])
        for kind, of_kind in argument["queries"].items():
            ids, responses = [0], [torch.zeros(SHAPE)]
            for label, query in of_kind.items():
                words = torch.from_numpy(argument["words"][query])[None]
                response = trained.network.response(
                    {**batch, "words": words, "lengths": torch.tensor([words.shape[1]])}
                )
                ids.append(label)
                responses.append(F.interpolate(response[None], size=SHAPE, mode="bilinear")[0, 0])
            expected = np.array(ids)[torch.stack(responses).argmax(0).numpy()]
            assert (found[kind] == expected).mean() > 0.999
            seen |= set(np.unique(found[kind]).tolist())
    assert len(seen) > 1, "a map of background alone would say nothing"


def test_networks_compute_in_the_precision_that_is_asked_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argument = clip_items(data, train(data))[FIRST.video].argument
    found, resize = {}, F.interpolate
    for precision in ("float32", "bfloat16"):
        given: list[torch.Tensor] = []

        def resizing(x: torch.Tensor, given: list[torch.Tensor] = given, **how: Any) -> torch.Tensor:
            given.append(x)
            return resize(x, **how)

        monkeypatch.setattr(F, "interpolate", resizing)
        maps(argument, tmp_path, precision)
        assert all(x.dtype == torch.float32 for x in given)
        found[precision] = given[0]
    assert not torch.equal(found["float32"], found["bfloat16"])


# A run, end to end


def test_a_run_is_scored_like_one_that_labels_pixels_and_a_video_without_scores_is_in_quarantine(
    data: Path, tmp_path: Path
) -> None:
    run = train(data, "sentence", "rgb+flow")
    samples = load(data, run)
    work = fixed_vocabulary.clip_items(run, samples, data)
    done = items.run(
        "vocabulary", fixed_vocabulary.label_clip, work, parameters=make.FLOAT32, libraries=["torch"], output=tmp_path
    )
    assert set(done.quarantined) == {UNSCORED.video}
    compared = segmentation.compare(samples, PackedMaps(tmp_path), count_missing=True)
    assert (compared.scored, compared.annotated) == (4, 5)
    assert set(compared.confusions.matrices) == set(KINDS)


def test_words_are_read_of_the_source_that_the_run_was_trained_with(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, list[str]]] = []

    def reading(source: str, *, sentences: Sequence[str]) -> Vectors:
        given.append((source, list(sentences)))
        found = {word: WORDS[number] for number, word in enumerate(VOCABULARY)}
        return Vectors(found, frozenset())

    monkeypatch.setattr(words, "vectors", reading)
    clip_items(data, train(data, words=Path("elsewhere.bin")))
    ((source, sentences),) = given
    assert source == "elsewhere.bin"
    assert set(sentences) == {query for kind in KINDS for query in queries(A2D, kind).values()}
