"""Claims of a paper: the runs they need are listed beside the user's, and what came out is said claim by claim."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.workspace import CHECKOUT
from stages import claims
from stages.claims import Claim, Setting
from stages.core import runs

ONE, OTHER = Setting("region_masks", "rgb"), Setting("deeplab", "rgb")


def results(*values: tuple[Setting, int, str, float]) -> pd.DataFrame:
    rows = [(side.method, side.inputs, side.variant, seed, metric, value) for side, seed, metric, value in values]
    return pd.DataFrame(rows, columns=["method", "inputs", "variant", "seed", "metric", "value"])


@pytest.fixture
def parameters(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text((CHECKOUT / "params.yaml").read_text())
    return path


@pytest.mark.parametrize("paper", list(claims.CLAIMS))
def test_the_runs_of_a_paper_s_claims_are_sound_and_are_added_once(parameters: Path, paper: str) -> None:
    before, there = parameters.read_text(), runs.all_runs(parameters)
    added = claims.add(paper, parameters)
    now = runs.all_runs(parameters)
    assert added and set(now) == set(there) | set(added)
    for claim in claims.of_paper(paper):
        assert {side.name(seed) for side in (claim.better, claim.worse) for seed in claims.SEEDS} <= set(now)
    assert claims.add(paper, parameters) == []
    comments = [line for line in before.splitlines() if line.startswith("#")]
    assert all(comment in parameters.read_text() for comment in comments)


def shown(claim: Claim, table: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(claims.CLAIMS, "toy", (claim,))
    return claims.lines("toy", table)[-1]


def test_a_claim_holds_by_the_mean_difference_over_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 0: (50 - 40 + 30 - 26) / 2 = 7; seed 1: (50 - 51 + 30 - 31) / 2 = -1; seed 2 was not run on both sides."""
    table = results(
        (ONE, 0, "a", 50), (ONE, 0, "b", 30), (OTHER, 0, "a", 40), (OTHER, 0, "b", 26),
        (ONE, 1, "a", 50), (ONE, 1, "b", 30), (OTHER, 1, "a", 51), (OTHER, 1, "b", 31), (ONE, 2, "a", 9),
    )  # fmt: skip
    line = shown(Claim("One beats the other", ONE, OTHER, ("a", "b")), table, monkeypatch)
    assert line == "| One beats the other | +3.0 | -1.0 to +7.0 | 1 of 2 |"


def test_a_claim_of_more_here_than_there_is_a_difference_of_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    table = results((ONE, 0, "small", 20), (OTHER, 0, "small", 10), (ONE, 0, "large", 60), (OTHER, 0, "large", 58))
    line = shown(Claim("Most for small ones", ONE, OTHER, ("small",), than=("large",)), table, monkeypatch)
    assert line == "| Most for small ones | +8.0 | +8.0 to +8.0 | 1 of 1 |"


def test_a_claim_that_was_not_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    line = shown(Claim("Nobody ran it", ONE, OTHER, ("a",)), results((ONE, 0, "a", 5)), monkeypatch)
    assert line == "| Nobody ran it | not run | | |"


def test_an_unknown_paper_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean `dang2018`"):
        claims.of_paper("dang2017")
