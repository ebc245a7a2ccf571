"""Anybody's own clip through a trained run: which run, evaluate's label maps, an overlay, errors in one line."""

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from models import deeplab, region_masks, ssa2d
from models.base import MultiLabelPredictions, Window, configuration
from models.methods import method
from models.parts import fcis
from models.parts.resnet import Config as Encoder
from stages import evaluate, features, frames, index, optical_flow, regions
from stages.commands import predict
from stages.core import cli, numerics, runs
from stages.core.batches import windows, words
from stages.core.batches.framing import FRAMINGS, Framing
from stages.core.datasets import layouts
from stages.core.datasets.labels import A2D, VIDOR
from stages.core.inference import long_clips, segmenters
from stages.core.inference import predictor as predictors
from stages.core.packs import masks as packed_masks
from stages.core.params import edited, load
from stages.core.reporting import overlays
from stages.core.scores import segmentation
from stages.core.scores.maps import PackedMaps, open_prediction
from stages.core.training import loop
from tests.help import make, noise_clips
from tests.help.make_datasets import write_pictures

ENCODER = Encoder(layers=(1, 1, 1, 1), width=8, bottleneck=False)
OWN = make.Square("-own", split="test", label=77, frames=40, annotated=(2, 20, 39), speed=(1, 0))
SQUARES = (make.RELEASE[0], OWN)
RUN, WITH_FLOW = "deeplab-rgb-full-0", "deeplab-rgb+flow-full-0"
ON_REGIONS = "region_masks-rgb+flow-full-0"
ON_VIDEO, OF_PAIRS = "video_classifier-rgb+flow-full-0", "sentence-rgb+flow-fixed_vocabulary-0"
TRAINED = (RUN, WITH_FLOW, "ssa2d-rgb-full-0", ON_REGIONS)
FRAMING = Framing(height=40, crop=None, still=(40, 53))


def save(folder: Path, network: Any, content: dict[str, Any]) -> None:
    """``network`` where a training would have left it. What it says is noise, but never background alone."""
    loop.save_weights(folder / "model.pt", network)
    (folder / "run.json").write_text(json.dumps(content))


def train(name: str) -> None:
    """The run ``name`` of params.yaml, with the weights that it would start from."""
    chosen = runs.named(name)
    module = method(chosen.method)
    torch.manual_seed(0)
    network = module.build(configuration(module, "small", inputs=chosen.inputs, variant=chosen.variant), A2D)
    if name == ON_REGIONS:  # masks of a network that has not learned are faint: it must be sure to claim a pixel
        for head in (network.actor, network.action):
            head[-1].weight.data *= 1000
    own = {"method": chosen.method, "inputs": chosen.inputs, "variant": chosen.variant, "label_space": "a2d"}
    parameters = {"common": {"config": "small", "word_vectors": "a file"}}
    save(Path("data/train") / name, network, own | {"parameters": parameters})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """data/ of a workspace with small runs of params.yaml, not learned; its one test clip is `OWN`."""
    folder = tmp_path_factory.mktemp("own")
    make.write_release(folder / "data/raw", SQUARES)
    threads = torch.get_num_threads()
    with make.workspace(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(deeplab, "small", replace(deeplab.small, encoder=ENCODER, height=40, head_init=1))
        patch.setattr(region_masks, "small", replace(region_masks.small, encoder=ENCODER, height=40, pool=2))
        patch.setattr(ssa2d, "small", replace(noise_clips.TINY, height=None))
        patch.setitem(FRAMINGS, "small", FRAMING)
        with edited() as content:  # none of it as the functions themselves have it
            content["frames"]["encoding"] = "png"
            content["optical_flow"] |= {"height": 32, "quantum": 0.5, "dis": {"preset": "fast"}}
            content["regions"]["most"] = 5
        index.run(load("index", layouts.Parameters))
        frames.run(load("frames", frames.Parameters))
        optical_flow.run(load("optical_flow", optical_flow.Parameters), recipe="dis-forward")
        for name in TRAINED:
            train(name)
        segmenter = {"name": "fcis-own", "config": "small", "labels": A2D.actors, "learned": A2D.actors}
        save(Path("data/train_regions/fcis-own"), fcis.build(fcis.small, A2D.actors), segmenter)
        features.run(runs.named(WITH_FLOW))
        regions.run(load("regions", regions.Parameters), source="fcis-own")
        yield folder / "data"
    torch.set_num_threads(threads)


def clip_of(data: Path) -> Path:
    return data / "raw/Release/clips320H" / f"{OWN.video}.mp4"


def decoded(video: Path) -> tuple[np.ndarray, Fraction]:
    """(T, H, W, 3) uint8 RGB, and frames a second."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.pix_fmt == "yuv420p" and stream.codec_context.name == "h264"
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]), stream.average_rate


# What is predicted


@pytest.mark.parametrize("name", TRAINED)
def test_label_maps_are_those_that_evaluate_gives_in_pieces_too(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    chosen = runs.named(name)
    evaluate.run(chosen, load("evaluate", segmentation.Parameters).model_copy(update={"resamples": 2}))
    if chosen.method == "ssa2d":
        monkeypatch.setattr(long_clips, "STRIDES", 3)  # of 4 frames
    folder = predict.run(chosen, clip_of(data), output=tmp_path / "found")
    truth = PackedMaps(data / "evaluate" / name / "predictions")
    found = open_prediction(folder / "masks", heads={})
    seen = set()
    for frame in OWN.annotated:
        expected, mine = truth.maps(OWN.video, frame), found.maps(OWN.video, frame)
        assert expected is not None and mine is not None
        assert np.array_equal(expected["joint"], mine["joint"])
        seen |= set(np.unique(mine["joint"]).tolist())
    assert len(seen) > 1, "a map of background alone would say nothing"
    assert len(list((folder / "masks" / OWN.video).iterdir())) == OWN.frames


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 40), st.builds(Window, before=st.integers(0, 9), after=st.integers(0, 9)))
def test_pieces_show_windows_and_flow_the_frames_that_the_whole_clip_shows_them(
    length: int, every: int, window: Window
) -> None:
    cut = long_clips.cut(length, every=every, window=window)
    assert [frame for piece in cut for frame in piece.wanted] == list(range(0, length, every))

    def tiled(wanted: Sequence[int], span: range) -> dict[int, list[int]]:
        """Wanted frame -> the clip's frames in its window, of methods that label all frames of one."""
        own = [frame - span.start for frame in wanted]
        tiles = windows.tile(own, frames=len(span), length=window.length)
        return {span[f]: shown(numbers, span) for numbers, of_window, _ in tiles for f in of_window}

    def shown(numbers: Sequence[int], span: range) -> list[int]:
        return [span[min(max(number, 0), len(span) - 1)] for number in numbers]

    for piece in cut:
        assert tiled(piece.wanted, piece.span) == tiled(piece.wanted, range(length))
        for frame in piece.wanted:
            around = windows.numbers(frame, window)
            own = [number - piece.span.start for number in around]
            assert shown(own, piece.span) == shown(around, range(length))
        for seen in tiled(piece.wanted, piece.span).values():
            for other in (min(seen) - 1, max(seen) + 1):  # between which and the window there is flow
                assert other in piece.span or other not in range(length)


def test_pieces_are_short_however_long_a_clip_is() -> None:
    assert max(len(piece.span) for piece in long_clips.cut(10_000, every=1, window=Window(before=8, after=7))) < 200
    assert len(long_clips.cut(10_000, every=5_000, window=Window())) == 2


# What is written


def test_the_overlay_has_the_clip_s_frames_size_and_rate(data: Path, tmp_path: Path) -> None:
    clip = tmp_path / "slow.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = make.HEIGHT, make.WIDTH, "yuv420p"
        for picture in OWN.pictures()[:19]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    folder = predict.run(runs.named(RUN), clip)
    overlay, rate = decoded(folder / "overlay.mp4")
    assert overlay.shape == (19, make.HEIGHT, make.WIDTH, 3) and rate == 10
    assert predict.run(runs.named(RUN), clip, every=5) == folder
    some, rate = decoded(folder / "overlay.mp4")
    assert len(some) == 4 and rate == 2, "frames 1, 6, 11 and 16, as long as the clip"
    masks = folder / "masks/slow"
    assert sorted(path.name for path in masks.iterdir()) == [f"{number:05d}.png" for number in (1, 6, 11, 16)]


def test_a_folder_of_pictures_of_odd_sides_gets_masks_of_its_size_and_an_overlay_of_even_sides(
    data: Path, tmp_path: Path
) -> None:
    write_pictures(tmp_path / "clip.of.pictures", OWN.pictures()[:3, :47, :63])
    folder = predict.run(runs.named(RUN), tmp_path / "clip.of.pictures")
    assert re.fullmatch(r"data/predict/clip\.of\.pictures-deeplab-rgb-full-0-[0-9a-f]{6}", str(folder))
    masks = sorted((folder / "masks/clip.of.pictures").iterdir())
    assert [packed_masks.decode(path.read_bytes()).shape for path in masks] == [(47, 63)] * 3
    overlay, rate = decoded(folder / "overlay.mp4")
    assert overlay.shape == (3, 48, 64, 3) and rate == 24


def test_the_table_counts_the_pixels_of_the_masks(data: Path, tmp_path: Path) -> None:
    folder = predict.run(runs.named(RUN), clip_of(data), every=13, output=tmp_path / "found")
    table = pd.read_csv(folder / "labels.csv")
    assert list(table) == ["frame", "label", "pixels"] and table["frame"].unique().tolist() == [1, 14, 27, 40]
    for number, rows in table.groupby("frame"):
        labels = packed_masks.decode((folder / "masks" / OWN.video / f"{number:05d}.png").read_bytes())
        counted = {A2D.name(label): int((labels == label).sum()) for label in np.unique(labels).tolist()}
        assert dict(zip(rows["label"], rows["pixels"], strict=True)) == counted


def test_the_picture_shines_through_the_colours_of_its_labels_within_white_contours() -> None:
    picture = np.full((40, 60, 3), 100, np.uint8)
    labels = np.zeros((40, 60), np.uint8)
    labels[20:36, 20:40] = 17
    shown = overlays.draw(picture, labels, overlays.of_labels(A2D), ranked=[])
    assert (shown[:19] == 100).all() and (shown[:, 41:] == 100).all()
    assert (shown[21:35, 21:39] == (100 + A2D.palette[17].astype(int) + 1) // 2).all()
    assert (shown[20, 20:40] == 255).all() and (shown[20:36, 39] == 255).all()


def test_the_legend_names_what_is_in_the_frame_in_the_order_of_the_clip() -> None:
    picture = np.zeros((200, 300, 3), np.uint8)
    labels = np.zeros((200, 300), np.uint8)
    labels[150:160, 200:210], labels[170:180, 200:210] = 17, 77
    legend = overlays.of_labels(A2D)
    shown = overlays.draw(picture, labels, legend, ranked=[0, 36, 77, 17])
    fields = [tuple(shown[row * 10 + 5, 5].tolist()) for row in range(3)]
    assert fields == [A2D.colours[77], A2D.colours[17], (0, 0, 0)]
    names = shown[:20, 10:150].max(axis=(1, 2))
    assert names[:10].max() > 200 and names[10:].max() > 200, "white letters behind both"
    labels[:8, 100:200] = np.arange(11, 19, dtype=np.uint8)[:, None]
    shown = overlays.draw(picture, labels, legend, ranked=range(256))
    assert [tuple(shown[row * 10 + 5, 5].tolist()) for row in (5, 6)] == [A2D.colours[16], (0, 0, 0)], "six at most"


def test_a_long_name_stays_within_the_frame_and_a_tiny_frame_is_drawn_on() -> None:
    sentence = "the dog that is running on the left " * 5
    labels = np.ones((60, 80), np.uint8)
    shown = overlays.draw(np.zeros((60, 80, 3), np.uint8), labels, overlays.of_sentence(sentence), ranked=[1])
    untouched = overlays.draw(np.zeros((60, 80, 3), np.uint8), labels, overlays.of_sentence(""), ranked=[])
    assert np.array_equal(shown[10:], untouched[10:]) and not np.array_equal(shown[:10], untouched[:10])
    assert overlays.draw(np.zeros((2, 2, 3), np.uint8), labels[:2, :2], overlays.of_sentence("x"), ranked=[1]).any()


def test_results_are_replaced_and_other_folders_are_left_alone(data: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "clip", OWN.pictures()[:4])
    output = tmp_path / "outputs/found"
    for every in (1, 2):
        predict.run(runs.named(RUN), tmp_path / "clip", every=every, output=output)
    assert len(list((output / "masks/clip").iterdir())) == 2
    (output / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match=r"--output=.*found holds something else; name a new folder"):
        predict.run(runs.named(RUN), tmp_path / "clip", output=output)
    assert (output / "mine.txt").exists()
    assert [path.name for path in output.parent.iterdir()] == ["found"], "nothing is left of the work"


# Several labels at once, and sentences


class Answering(torch.nn.Module):
    """A network that is told what to say, and keeps what it was shown."""

    def __init__(self, **methods: Any) -> None:
        super().__init__()
        self.shown: list[Any] = []
        for name, says in methods.items():
            setattr(self, name, lambda batch, says=says: self.shown.append(batch) or says(batch))


@pytest.fixture
def answering(data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., runs.Run]:
    """Puts a network in the place of a trained one."""

    def put(network: Answering, labels: Any = A2D, height: int | None = None) -> runs.Run:
        config = SimpleNamespace(window=Window(before=1, after=1), height=height, flow_encoding="clipped")
        predictor = predictors.Predictor(network, config, labels, torch.device("cpu"))
        monkeypatch.setattr(predictors, "load_predictor", lambda *_: predictor)
        return runs.named(RUN)

    return put


def test_where_actors_do_several_things_at_once_masks_hold_actors(
    answering: Callable[..., runs.Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dog = VIDOR.actors.index("dog")

    def says(_: Any) -> MultiLabelPredictions:
        actor = torch.zeros(1, make.HEIGHT, make.WIDTH, dtype=torch.uint8)
        actor[:, 30:40, 30:50] = dog
        return MultiLabelPredictions(
            actor, torch.ones(1, len(VIDOR.actions), make.HEIGHT, make.WIDTH, dtype=torch.bool)
        )

    write_pictures(tmp_path / "clip", OWN.pictures()[:2])
    folder = predict.run(answering(Answering(predict=says), VIDOR), tmp_path / "clip", output=tmp_path / "found")
    table = pd.read_csv(folder / "labels.csv")
    assert table[table["label"] == "dog"]["pixels"].tolist() == [200, 200]
    assert set(table["label"]) == {"background", "dog"}
    assert set(np.unique(packed_masks.decode((folder / "masks/clip/00002.png").read_bytes()))) == {0, dog}
    assert "actors, who may do several things each, in 2 of 2 frames" in capsys.readouterr().out


COLOURS = {word: np.eye(300, dtype=np.float32)[channel] for channel, word in enumerate(("red", "green", "blue"))}
"""Vectors of colours: the first three channels say which."""


def asked_colour(batch: Any) -> torch.Tensor:
    """Where the middle frame of the window has more of the first word's colour than of the others."""
    assert batch["words"].shape == (1, int(batch["lengths"]), 300)
    colour = int(batch["words"][0, 0].argmax())
    middle = batch["frames"][:, 1].int()
    others = [channel for channel in range(3) if channel != colour]
    return 2.0 * (middle[..., colour] > middle[..., others].amax(-1) + 60) - 1


@pytest.fixture
def on_sentences(answering: Callable[..., runs.Run], monkeypatch: pytest.MonkeyPatch) -> Callable[..., runs.Run]:
    """The same for a network that is asked about a colour."""

    def vectors(source: str, *, sentences: Sequence[str]) -> words.Vectors:
        assert source == "a file"
        wanted = {word for sentence in sentences for word in words.tokens(sentence)}
        return words.Vectors({w: COLOURS[w] for w in wanted & COLOURS.keys()}, frozenset(wanted - COLOURS.keys()))

    monkeypatch.setattr(words, "vectors", vectors)
    return lambda network, **given: replace(answering(network, **given), method="sentence")


@pytest.mark.parametrize("height", [None, 2 * make.HEIGHT])
def test_a_sentence_is_answered_by_masks_of_what_it_means(
    on_sentences: Callable[..., runs.Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], height: int | None
) -> None:
    network = Answering(response=asked_colour)
    squares = np.zeros((3, 5, make.HEIGHT, make.WIDTH), bool)  # one a channel
    for frame in range(5):
        squares[0, frame, 16:32, 16 * (frame % 3) :][:, :16] = squares[2, frame, 16:32, 48:] = True
    pictures = np.where(squares, 250, 40).astype(np.uint8).transpose(1, 2, 3, 0)
    write_pictures(tmp_path / "clip", pictures)
    run = on_sentences(network, height=height)
    for colour, place, left in (("red", 0, 16), ("blue", 2, 48)):  # in the last frame
        folder = predict.run(run, tmp_path / "clip", sentence=f"{colour} squares", output=tmp_path / colour)
        for frame in range(5):
            mask = packed_masks.decode((folder / f"masks/clip/{frame + 1:05d}.png").read_bytes())
            assert np.array_equal(mask, squares[place, frame])
        table = pd.read_csv(folder / "labels.csv")
        assert table[table["label"] == f"{colour} squares"]["pixels"].tolist() == [256] * 5
        assert "words that are not known, and do not count: squares" in capsys.readouterr().out
        overlay, _ = decoded(folder / "overlay.mp4")
        mixed = (np.array(overlays.GREEN) + pictures[4][squares[place, 4]][0]) / 2
        assert np.abs(overlay[4, 20:28, left + 4 : left + 12] - mixed).max() < 20
        assert np.abs(overlay[4, 4:6, 4:6] - np.array(overlays.GREEN)).max() < 50, "a field of the legend"
    assert all(shown["lengths"].tolist() == [1] for shown in network.shown)


def test_clips_of_one_name_and_sentences_about_one_clip_have_folders_of_their_own(
    on_sentences: Callable[..., runs.Run], tmp_path: Path
) -> None:
    run = on_sentences(Answering(response=asked_colour))
    for place in ("here", "there"):
        write_pictures(tmp_path / place / "clip", OWN.pictures()[:1])
    asked = [("here", "red"), ("there", "red"), ("here", "blue")]
    assert len({predict.run(run, tmp_path / place / "clip", sentence=text) for place, text in asked}) == 3


def test_a_sentence_is_wanted_or_not_wanted_and_needs_a_known_word(
    data: Path, on_sentences: Callable[..., runs.Run]
) -> None:
    with pytest.raises(ValueError, match=r"--sentence: deeplab takes none"):
        predict.run(runs.named(RUN), clip_of(data), sentence="dog")
    run = on_sentences(Answering(response=asked_colour))
    for empty in ("", "  "):
        with pytest.raises(ValueError, match=r'answers a sentence: add --sentence="dog running on the left"'):
            predict.run(run, clip_of(data), sentence=empty)
    with pytest.raises(ValueError, match=r"none of its words is known \(ein, hund\)"):
        predict.run(run, clip_of(data), sentence="ein Hund")


# Which run, and what is wrong


def listed(folder: Path, monkeypatch: pytest.MonkeyPatch, trained: Sequence[str]) -> Path:
    """A workspace whose params.yaml lists runs with and without flow of three seeds; gives its data/."""
    monkeypatch.chdir(folder)
    names = [f"ssa2d-{inputs}-{variant}" for inputs in ("rgb", "rgb+flow", "flow") for variant in ("full-2", "full-1")]
    names += ["ssa2d-rgb+flow-non_local-0", ON_VIDEO, OF_PAIRS]
    entry = {"reads": "data/optical_flow/dis-forward", "regions": f"data/evaluate/{ON_VIDEO}"}
    content = {"runs": {name: entry | {"method": name.partition("-")[0]} for name in names}}
    Path("params.yaml").write_text(yaml.safe_dump(content))
    for name in trained:
        path = Path("data/train") / name / "model.pt"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    return Path("data")


@pytest.mark.parametrize(
    ("trained", "chosen"),
    [
        (["ssa2d-rgb-full-1", "ssa2d-rgb+flow-full-1", "ssa2d-rgb+flow-full-2"], "ssa2d-rgb+flow-full-1"),
        (["ssa2d-rgb-full-1", "ssa2d-rgb+flow-full-2"], "ssa2d-rgb+flow-full-2"),
        (["ssa2d-rgb-full-2", "ssa2d-flow-full-1", "ssa2d-rgb+flow-non_local-0"], "ssa2d-rgb-full-2"),
        ([], "ssa2d-rgb+flow-full-1"),
    ],
    ids=["lowest seed", "with flow", "plain", "untrained"],
)
def test_a_method_stands_for_its_plain_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[str], chosen: str
) -> None:
    data = listed(tmp_path, monkeypatch, trained)
    assert predict.choose(method="ssa2d", name="", data=data).name == chosen
    assert predict.choose(method="", name="ssa2d-rgb-full-2", data=data).name == "ssa2d-rgb-full-2"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"method": "ssad2", "name": ""}, "no method `ssad2`; did you mean `ssa2d`?"),
        ({"method": "", "name": "ssa2d-rgb-full-7"}, "no `ssa2d-rgb-full-7`; did you mean `ssa2d-rgb-full-"),
        ({"method": "deeplab", "name": ""}, "lists no plain run of deeplab: add deeplab-rgb-full-0"),
        ({"method": "", "name": ""}, "name a method"),
        ({"method": "ssa2d", "name": "ssa2d-rgb-full-1"}, "name a method"),
        ({"method": "video_classifier", "name": ""}, "--method=video_classifier: it says what a video shows"),
        ({"method": "", "name": ON_VIDEO}, f"--run={ON_VIDEO}: it says what a video shows, not where; name another"),
        ({"method": "", "name": OF_PAIRS}, "name the plain run, --run=sentence-rgb+flow-full-0, and a --sentence"),
    ],
)
def test_a_run_that_there_is_not_or_that_labels_no_clip_is_an_error_that_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, str], said: str
) -> None:
    data = listed(tmp_path, monkeypatch, [])
    with pytest.raises(ValueError, match=re.escape(said)):
        predict.choose(**asked, data=data)


def test_what_is_not_trained_says_what_to_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run `dvc repro train@ssa2d-rgb\+flow-full-0`"):
        predict.run(runs.named("ssa2d-rgb+flow-full-0"), clip_of(data))
    with pytest.raises(ValueError, match="run `dvc repro train_flow@flownets`"):
        other_flow = replace(runs.named(WITH_FLOW), flow=Path("data/optical_flow/flownets-forward"))
        predict.run(other_flow, clip_of(data), output=tmp_path / "found")
    for of_truth in ({"regions": Path("data/regions/truth")}, {"variant": "true_masks"}):
        with pytest.raises(ValueError, match="labels true masks, which only annotated clips have"):
            predict.run(replace(runs.named(ON_REGIONS), **of_truth), clip_of(data), output=tmp_path / "found")
    elsewhere = replace(runs.named(ON_REGIONS), regions=Path("data/regions/fcis-other"))
    with pytest.raises(ValueError, match=r"regions.sources has no `fcis-other`; did you mean `fcis-own`"):
        predict.run(elsewhere, clip_of(data), output=tmp_path / "found")
    assert list(tmp_path.iterdir()) == []


def test_a_clip_that_can_t_be_used_says_why_in_one_line(data: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    write_pictures(tmp_path / "one", OWN.pictures()[:1])
    clips = {
        RUN: {
            tmp_path / "text.mp4": "can't be decoded",
            tmp_path / "nowhere.mp4": "No such file",
            tmp_path / "empty": "no pictures",
        },
        WITH_FLOW: {tmp_path / "one": "one frame only: no motion"},
    }
    for name, wrong in clips.items():
        for clip, reason in wrong.items():
            with pytest.raises(ValueError, match=rf"^--clip={re.escape(str(clip))}: [^\n]*{reason}[^\n]*$"):
                predict.run(runs.named(name), clip, output=tmp_path / "outputs/found")
    assert list((tmp_path / "outputs").iterdir()) == []


@pytest.mark.parametrize("name", TRAINED)
def test_every_network_that_a_run_needs_is_looked_after(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its own, and for one on regions the front-end's and the segmenter's."""
    asked: set[tuple[int, ...]] = set()
    monkeypatch.setattr(numerics, "verdict", lambda convolution: asked.add(convolution.weight) or "")
    for opened in (predictors.load_predictor, segmenters.load):
        opened.cache_clear()  # they know this clip's shapes from other tests
    predict.run(runs.named(name), clip_of(data), every=10, output=tmp_path / "found")
    networks = {"train/" + name: ""}
    if name == ON_REGIONS:
        networks = {"train/" + WITH_FLOW: "encoders", "train_regions/fcis-own": ""}
    for network, part in networks.items():
        weights = torch.load(data / network / "model.pt", weights_only=True)
        shapes = {tuple(weight.shape) for key, weight in weights.items() if key.startswith(part)}
        # Those of 1 x 1 are cut into parts by ssa2d.
        assert {shape for shape in shapes if shape[2:] and max(shape[2:]) > 1} <= asked


def test_numbers_that_are_not_finite_are_an_error_that_names_clip_run_and_layer(data: Path, tmp_path: Path) -> None:
    model = data / "train" / RUN / "model.pt"
    kept, weights = model.read_bytes(), torch.load(model, weights_only=True)
    layer = next(name for name in weights if name.endswith("conv1.weight"))
    weights[layer].flatten()[0] = torch.nan
    torch.save(weights, model)
    try:
        with pytest.raises(
            ValueError, match=rf"^--clip=[^\n]*{RUN}, clip `[^\n]*not finite; layer `encoders.rgb.conv1`"
        ):
            predict.run(runs.named(RUN), clip_of(data), output=tmp_path / "found")
    finally:
        model.write_bytes(kept)
    assert list(tmp_path.iterdir()) == []


def test_no_mask_is_made_of_responses_that_are_not_finite(
    on_sentences: Callable[..., runs.Run], tmp_path: Path
) -> None:
    run = on_sentences(Answering(response=lambda batch: torch.full((len(batch["frames"]), 8, 8), torch.nan)))
    write_pictures(tmp_path / "clip", OWN.pictures()[:1])
    with pytest.raises(ValueError, match=f"{re.escape(run.name)}, clip `.*: responses that are not finite"):
        predict.run(run, tmp_path / "clip", sentence="red", output=tmp_path / "found")


def test_a_clip_whose_name_begins_with_a_hyphen_is_asked_about_on_the_command_line(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(f"{OWN.video}.mp4").write_bytes(clip_of(data).read_bytes())
    monkeypatch.setattr(sys, "argv", ["predict", f"--clip={OWN.video}.mp4", "--run=deeplab-rgb-full-0", "--every=39"])
    with pytest.raises(SystemExit) as ended:
        cli.run(predict.main)
    assert not ended.value.code
    said = capsys.readouterr().out
    assert said.startswith("by the run deeplab-rgb-full-0\n") and "2 of 40 frames of -own.mp4" in said
    assert list(data.glob("predict/-own-deeplab-rgb-full-0-??????/masks/-own/00040.png"))
