"""The plan of a run: DVC's own view of the pipeline, in order, with what is stale."""

from pathlib import Path

import pytest

from flows.dag import Plan, Stage, order, plan
from flows.schedule import Schedule
from tests.help import toy

PIPELINE = """
stages:
  one:
    cmd: mkdir -p data && cp source data/one
    deps:
      - source
    outs:
      - data/one
  each:
    foreach:
      m-rgb+flow-full-0:
        reads: data/one
      m-rgb-full-0:
        reads: data/one
    do:
      cmd: mkdir -p data/each && cp data/one data/each/${key}
      deps:
        - ${item.reads}
      outs:
        - data/each/${key}
  cell:
    matrix:
      recipe:
        - dis
        - tvl1
    cmd: mkdir -p data/cell && cp data/one data/cell/${item.recipe}
    deps:
      - data/one
    outs:
      - data/cell/${item.recipe}
  all:
    cmd: cat data/each/* data/cell/* > all
    deps:
      - data/each
      - data/cell
    outs:
      - all
"""
EACH = ("each@m-rgb+flow-full-0", "each@m-rgb-full-0", "cell@dis", "cell@tvl1")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = toy.make(tmp_path_factory.mktemp("dag"), PIPELINE)
    (folder / "source").write_text("1")
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


def stage(name: str, *needs: str, stale: bool = False) -> Stage:
    return Stage(name, needs, stale)


def test_what_is_needed_comes_first_and_else_the_order_is_kept() -> None:
    assert order({"d": ["b", "c"], "c": ["a"], "b": ["a"], "a": []}) == ["a", "c", "b", "d"]


def test_a_circle_is_named() -> None:
    with pytest.raises(ValueError, match=r"circle.*a, b"):
        order({"a": ["b"], "b": ["a"], "c": []})


def test_an_up_to_date_stage_below_a_stale_one_is_planned_too() -> None:
    stages = (stage("a"), stage("b", "a", stale=True), stage("c", "b"), stage("d", "a"))
    assert [chosen.name for chosen in Plan(stages).to_run] == ["b", "c"]


def test_only_takes_every_run_of_a_stage_and_what_they_need() -> None:
    wanted = Plan((stage("a"), stage("t@1", "a"), stage("t@2", "a"), stage("z", "t@1")))
    assert [chosen.name for chosen in wanted.only(["t"]).stages] == ["a", "t@1", "t@2"]
    assert [chosen.name for chosen in wanted.only(["t@2"]).stages] == ["a", "t@2"]
    assert wanted.only([]) == wanted


def test_an_unknown_stage_gets_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"no stage `trian`.*did you mean `train`"):
        Plan((stage("train@1"), stage("evaluate@1"))).only(["trian"])


def test_every_stage_of_foreach_and_matrix_is_planned_with_its_needs(here: Path) -> None:
    needs = {found.name: set(found.needs) for found in plan().stages}
    assert needs == {"one": set(), **{name: {"one"} for name in EACH}, "all": set(EACH)}
    names = list(needs)
    assert names[0] == "one" and names[-1] == "all"


def test_what_is_stale_follows_the_files(here: Path) -> None:
    toy.dvc(here, "repro")
    assert plan().to_run == ()
    (here / "data/cell/dis").unlink()
    assert [chosen.name for chosen in plan().to_run] == ["cell@dis", "all"]
    (here / "source").write_text("2")
    assert [chosen.name for chosen in plan().to_run] == ["one", *EACH, "all"]


def test_a_faulty_pipeline_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy.make(tmp_path, "stages:\n  one:\n    cmd: touch x\n    oust:\n      - x\n"))
    with pytest.raises(ValueError, match=r"DVC can't read the pipeline.*oust"):
        plan()


def test_a_stage_starts_when_all_it_needs_is_done() -> None:
    schedule = Schedule([stage("a"), stage("b"), stage("c", "a", "b", "not-in-the-plan")])
    assert schedule.ready() == ["a", "b"]
    schedule.start("a")
    schedule.start("b")
    schedule.succeeded("b")
    assert schedule.ready() == []
    schedule.succeeded("a")
    assert schedule.ready() == ["c"]


def test_what_needs_a_failed_stage_is_skipped_and_says_why() -> None:
    schedule = Schedule([stage("a"), stage("b", "a"), stage("c", "b"), stage("d")])
    schedule.start("a")
    skipped = schedule.failed("a")
    assert [(run.stage, run.why) for run in skipped] == [
        ("b", "needs a, which failed"),
        ("c", "needs a, which failed (through b)"),
    ]
    assert schedule.ready() == ["d"]
