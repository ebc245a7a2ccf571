"""The label table of A2D's Release/README: a release whose ids mean something else is refused."""

from pathlib import Path

import pytest

from stages.core.datasets import a2d
from tests.help import make

TABLE = """Any text, with six words in one line

NAME ID Valid R G B
BG 0 1 0 0 0
adult-climbing\t11\t1\t52\t1\t1
  dog-flying   74 0   205 1 123

THE END of it 1 2 3 4
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "README"
    path.write_text(text)
    return path


def test_rows_of_six_fields_after_the_header_are_read_however_they_are_spaced(tmp_path: Path) -> None:
    assert a2d.read_label_table(write(tmp_path, TABLE)) == {0: "BG", 11: "adult-climbing", 74: "dog-flying"}


@pytest.mark.parametrize("text", ["", "NAME ID Valid R G B\n", "adult-running 11 1 52 1 1\n", "\0\xff\n"])
def test_a_file_without_a_table_contradicts_nothing(tmp_path: Path, text: str) -> None:
    assert a2d.read_label_table(write(tmp_path, text)) == {}


@pytest.mark.parametrize(
    "row",
    [
        "adult-running 11 1 52 1 1",  # 11 is adult-climbing
        "adult-climbing 12 1 52 1 1",
        "adult-climbing 11 1 52 1 2",
        "adult-climbing 11 0 52 1 1",
        "horse-running 87 1 1 1 1",
        "dog 70 1 1 1 1",
        "dog-flying 74 0 205 1 123",  # a second time
    ],
)
def test_a_row_that_contradicts_our_labels_is_an_error_that_shows_it(tmp_path: Path, row: str) -> None:
    with pytest.raises(ValueError, match=f"contradict the labels of A2D(?s:.*)\n  {row}$"):
        a2d.read_label_table(write(tmp_path, TABLE + row + "\n"))


def test_a_release_with_another_table_is_refused(tmp_path: Path) -> None:
    release = make.write_release(tmp_path, make.RELEASE[:1])
    a2d.check_layout(release)
    (release / a2d.README).write_text("NAME ID Valid R G B\ncat-climbing 11 1 52 1 1\n")
    with pytest.raises(ValueError, match=r"README.*contradict"):
        a2d.check_layout(release)


@pytest.mark.needs_shared
def test_the_real_clips_have_the_whole_table(shared: Path) -> None:
    table = a2d.read_label_table(shared / "data/a2d-davis/Release/README")
    assert len(table) == 64 and (table[0], table[11], table[79]) == ("BG", "adult-climbing", "dog-none")
