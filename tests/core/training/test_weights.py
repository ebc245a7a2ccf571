"""Files of weights that the user names: read as they are saved in public, or one error that says what to do."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.core.training import weights

STATE = {"conv1.weight": torch.ones(64, 3, 7, 7)}


def truncated(path: Path) -> None:
    torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:2000])


BROKEN: dict[str, Callable[[Path], Any]] = {
    "missing": lambda path: None,
    "truncated": truncated,
    "empty": Path.touch,
    "text": lambda path: path.write_text("go to the model zoo for this file\n"),
    "page": lambda path: path.write_text("<!DOCTYPE html><html>Sign in to download</html>"),
    "pickled list": lambda path: path.write_bytes(pickle.dumps([1, 2], protocol=2)),
    "saved list": lambda path: torch.save([1, 2], path),
    "other than tensors": lambda path: torch.save({"state_dict": {"epoch": 3}}, path),
}


@pytest.mark.parametrize("write", BROKEN.values(), ids=BROKEN)
def test_a_missing_or_broken_file_is_an_error_that_names_it_and_says_what_to_do(
    tmp_path: Path, write: Callable[[Path], Any]
) -> None:
    write(tmp_path / "public.pth")
    with pytest.raises(ValueError, match=r"public.pth .*correct `weights` in params.yaml or download the file again"):
        weights.read(tmp_path / "public.pth")


def test_a_checkpoint_of_more_than_weights_is_not_called_broken(tmp_path: Path) -> None:
    torch.save({"state_dict": STATE, "config": tmp_path}, tmp_path / "more.pth")
    with pytest.raises(ValueError, match=r"more.pth holds more than weights: save its `state_dict` alone"):
        weights.read(tmp_path / "more.pth")


@pytest.mark.parametrize("checkpoint", [STATE, {"state_dict": STATE, "div_flow": 20.0, "arch": "flownets"}])
@pytest.mark.parametrize("as_zip", [True, False])
def test_a_state_dict_is_read_alone_or_beside_numbers_and_words_in_both_formats(
    tmp_path: Path, checkpoint: dict[str, Any], as_zip: bool
) -> None:
    torch.save(checkpoint, tmp_path / "public.pth", _use_new_zipfile_serialization=as_zip)
    found = weights.read(tmp_path / "public.pth")
    assert found.keys() == checkpoint.keys()
    assert torch.equal(found.get("state_dict", found)["conv1.weight"], STATE["conv1.weight"])
