"""Runs: the name says method, inputs, variant and seed, and its entry must agree with it."""

from pathlib import Path

import pytest

from benchmarks.workspace import CHECKOUT
from models.methods import METHODS, VARIANTS, method
from stages.core import runs

FLOW = "data/optical_flow/dis-forward"


def parse(name: str, *, method: str = "deeplab", reads: str = "data/frames", regions: str = "data/frames") -> runs.Run:
    return runs.parse(name, runs.Entry(method=method, reads=reads, regions=regions))


def test_a_name_says_method_inputs_variant_and_seed() -> None:
    run = parse("deeplab-rgb+flow-without_cat-12", reads=FLOW)
    assert (run.method, run.inputs, run.variant, run.seed) == ("deeplab", "rgb+flow", "without_cat", 12)
    assert run.flow == Path(FLOW) and run.name == "deeplab-rgb+flow-without_cat-12"
    assert run.held_out == "cat" and parse("deeplab-rgb-full-0").held_out is None


def test_a_method_without_one_of_its_parts_holds_no_actor_out() -> None:
    run = parse("ssa2d-rgb-without_actor_prior-0", method="ssa2d")
    assert (run.variant, run.held_out) == ("without_actor_prior", None)
    assert parse("ssa2d-rgb-without_cat-0", method="ssa2d").held_out == "cat"


def test_an_actor_is_held_out_of_a_variant_behind_its_name() -> None:
    run = parse("joint-rgb-joint_space-without_cat-0", method="joint")
    assert (run.variant, run.held_out) == ("joint_space-without_cat", "cat")
    assert runs.split_variant("joint", run.variant) == ("joint_space", "cat")
    assert runs.split_variant("joint", "without_cat") == ("full", "cat")
    assert runs.split_variant("joint", "without_temporal") == ("without_temporal", None)
    assert runs.split_variant("ssa2d", "without_actor_prior-without_cat") == ("without_actor_prior", "cat")
    with pytest.raises(ValueError, match="no variant `jointspace-without_cat`; there are full, without_temporal"):
        parse("joint-rgb-jointspace-without_cat-0", method="joint")


def test_a_variant_that_nobody_built_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no variant `late-fusion`; there are full, late_fusion, without_<actor>"):
        parse("deeplab-rgb-late-fusion-0")
    assert parse("deeplab-rgb-late_fusion-0").variant == "late_fusion"


def test_every_variant_is_one_of_its_method_s_module() -> None:
    of_modules = {name: tuple(getattr(method(name), "VARIANTS", {})) for name in METHODS}
    assert {name: VARIANTS.get(name, ()) for name in METHODS} == of_modules


def test_a_method_on_regions_reads_its_front_end_s_features_and_region_masks() -> None:
    name, features, regions = "region_masks-rgb+flow-full-0", "data/features/deeplab-rgb+flow-full-0", "data/regions/x"
    run = parse(name, method="region_masks", reads=features, regions=regions)
    assert run.folders == {"flow": None, "features": Path(features), "regions": Path(regions)}
    for reads, others in (("data/frames", regions), ("data/features/deeplab-rgb-full-0", regions), (features, "data")):
        with pytest.raises(ValueError, match=r"let it read data/features/<front-end>|write data/regions/<source>"):
            parse(name, method="region_masks", reads=reads, regions=others)
    with pytest.raises(ValueError, match="its front-end would have seen those actions"):
        parse("region_masks-rgb+flow-without_cat-0", method="region_masks", reads=features, regions=regions)


def test_a_fixed_vocabulary_names_the_run_on_videos_that_chooses_what_is_asked() -> None:
    name, scores = "sentence-rgb+flow-fixed_vocabulary-0", "data/evaluate/video_classifier-rgb-full-0"
    run = parse(name, method="sentence", reads="data/optical_flow/dis-forward", regions=scores)
    assert run.video_scores == Path(scores) and run.regions is None and run.folders["regions"] is None
    for wrong in ("data/frames", "data/evaluate/sentence-rgb-full-0", "data/train/video_classifier-rgb-full-0"):
        with pytest.raises(ValueError, match=r"write data/evaluate/<run> of video_classifier, whose scores choose"):
            parse(name, method="sentence", reads="data/optical_flow/dis-forward", regions=wrong)


@pytest.mark.parametrize("method", ["sentence", "video_classifier"])
def test_no_actor_is_held_out_from_what_learns_no_actor_s_action(method: str) -> None:
    with pytest.raises(ValueError, match=f"{method} learns no action of an actor"):
        parse(f"{method}-rgb-without_cat-0", method=method)


def test_a_run_with_another_flow_says_so_in_its_name_and_reads_it() -> None:
    assert parse("deeplab-rgb+flow-dis_flow-0", reads=FLOW).variant == "dis_flow"
    for name, reads in (("deeplab-rgb+flow-tvl1_flow-0", FLOW), ("deeplab-rgb-dis_flow-0", "data/frames")):
        with pytest.raises(ValueError, match=r"has the flow of `(dis|tvl1)` by its name; let it take flow and read"):
            parse(name, reads=reads)


def test_a_run_without_flow_reads_none() -> None:
    assert parse("ssa2d-rgb-full-0", method="ssa2d").flow is None


@pytest.mark.parametrize("name", ["deeplab", "deeplab-rgb-full", "deeplab-rgb-full-x", "deeplab-depth-full-0", "--rgb"])
def test_a_name_of_another_form_is_an_error_that_shows_the_form(name: str) -> None:
    with pytest.raises(ValueError, match=r"<method>-<inputs>-<variant>-<seed>.*for example"):
        parse(name)


def test_an_unknown_method_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="no method `deeplap`; did you mean `deeplab`"):
        parse("deeplap-rgb-full-0", method="deeplap")


def test_an_entry_of_another_method_is_an_error() -> None:
    with pytest.raises(ValueError, match="its entry says method `ssa2d`; make it `deeplab`"):
        parse("deeplab-rgb-full-0", method="ssa2d")


@pytest.mark.parametrize("inputs", ["flow", "rgb+flow"])
def test_a_run_on_flow_must_read_a_recipe(inputs: str) -> None:
    with pytest.raises(ValueError, match="data/optical_flow/<recipe>"):
        parse(f"deeplab-{inputs}-full-0")


def write(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text)
    return path


def test_a_misspelt_run_is_an_error_that_names_the_nearest(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "runs:\n  deeplab-rgb-full-0:\n    method: deeplab\n    reads: data/frames\n    regions: data/frames\n",
    )
    assert list(runs.all_runs(path)) == ["deeplab-rgb-full-0"]
    with pytest.raises(ValueError, match="did you mean `deeplab-rgb-full-0`"):
        runs.named("deeplab-rbg-full-0", path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "{method: deeplab, read: data/frames, regions: data/frames}",
            "unknown parameter `read`; did you mean `reads`",
        ),
        ("{method: deeplab, regions: data/frames}", "parameter `reads` is missing"),
        ("", "parameter `method` is missing"),
    ],
)
def test_a_faulty_entry_is_an_error_that_names_its_run(tmp_path: Path, entry: str, message: str) -> None:
    path = write(tmp_path, f"runs:\n  deeplab-rgb-full-0: {entry}\n")
    with pytest.raises(ValueError, match=f"runs.deeplab-rgb-full-0.*{message}"):
        runs.all_runs(path)


def test_no_runs_are_no_error(tmp_path: Path) -> None:
    assert runs.all_runs(write(tmp_path, "runs:\n")) == {} == runs.all_runs(write(tmp_path, "index: {}\n"))


def test_the_project_s_own_runs_are_sound_and_use_every_method() -> None:
    found = runs.all_runs(CHECKOUT / "params.yaml")
    assert {run.method for run in found.values()} == set(METHODS)
    assert all(run.name == name for name, run in found.items())
