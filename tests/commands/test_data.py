"""Putting a release in place: whole or not at all, through DVC, without touching where it comes from."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from benchmarks.workspace import Workspace
from stages.commands import data
from stages.core.datasets import a2d, layouts
from stages.core.workspace import only_run


def make_release(folder: Path, clip: str = "--first_clip") -> Path:
    """The smallest folder in the layout of the A2D release."""
    for path, text in {
        "Release/README": "adult-climbing 11 1 52 1 1\n",
        "Release/videoset.csv": f"{clip},11,0:0:0,0:0:1,120,160,24,3,0\n",
        f"Release/clips320H/{clip}.mp4": f"frames of {clip}",
        f"Release/Annotations/mat/{clip}/00001.mat": "labels",
        f"Release/Annotations/col/{clip}/00001.png": "colours",
        "a2d_annotation.txt": f"video_id,instance_id,query\n{clip},1,an adult climbs\n",
        "a2d_missed_videos.txt": "",
        f"a2d_annotation_with_instances/{clip}/00001.h5": "instances",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


@pytest.fixture
def with_sample(project: Workspace, tmp_path: Path) -> Workspace:
    """A project whose archive is a tiny sample, which is in place and tracked."""
    release = make_release(tmp_path / "sample", clip="sampled")
    with tarfile.open(project.root / data.SAMPLE, "w:xz") as archive:
        for root in layouts.ROOTS["a2d"]:
            archive.add(release / root, root)
    project.run("-m", "stages.commands.data", "put", "--from=sample")
    return project


def clips(project: Workspace) -> list[str]:
    return sorted(path.stem for path in (project.root / data.RAW).glob("Release/clips320H/*"))


def state(project: Workspace) -> tuple[str, str, list[str]]:
    return (project.root / data.PIN).read_text(), (project.root / data.PARAMS).read_text(), clips(project)


def test_another_release_takes_its_place_and_the_sample_comes_back_exactly(
    with_sample: Workspace, tmp_path: Path
) -> None:
    before = state(with_sample)
    assert before[2] == ["sampled"]
    release = make_release(tmp_path / "mine")
    (release / "notes.txt").write_text("not part of a release")

    with_sample.run("-m", "stages.commands.data", "put", f"--from={release}")
    pin, params, placed = state(with_sample)
    assert placed == ["--first_clip"]
    assert not (with_sample.root / data.RAW / "notes.txt").exists()
    assert pin != before[0]
    assert params == before[1].replace("dataset: sample  ", "dataset: mine    ")
    assert yaml.safe_load(pin)["outs"][0]["path"] == "data/raw"
    assert "up to date" in with_sample.run("-m", "dvc", "status", "data.dvc").stdout

    with_sample.run("-m", "stages.commands.data", "put", "--from=sample")
    assert state(with_sample) == before
    git = subprocess.run(
        ["git", "status", "--short", "-uall", "data"], cwd=with_sample.root, capture_output=True, text=True
    )
    assert sorted(git.stdout.split()[1::2]) == ["data/.gitignore", "data/sample.tar.xz"]


def test_a_fresh_clone_gets_the_pinned_sample_and_a_clean_status(with_sample: Workspace) -> None:
    before = state(with_sample)
    for folder in (data.RAW, ".dvc/cache", ".dvc/tmp"):
        subprocess.run(["rm", "-r", with_sample.root / folder], check=True)
    assert "sample" in with_sample.run("-m", "stages.commands.data", "ensure").stdout
    assert state(with_sample) == before
    assert "up to date" in with_sample.run("-m", "dvc", "status", "data.dvc").stdout
    assert with_sample.run("-m", "stages.commands.data", "ensure").stdout == ""


def test_pinned_data_that_is_not_the_sample_comes_from_dvc(with_sample: Workspace, tmp_path: Path) -> None:
    with_sample.run("-m", "stages.commands.data", "put", f"--from={make_release(tmp_path / 'mine')}", "--name=other")
    remote = tmp_path / "remote"
    with_sample.run("-m", "dvc", "remote", "add", "-d", "store", str(remote))
    with_sample.run("-m", "dvc", "push")
    subprocess.run(["rm", "-r", with_sample.root / data.RAW], check=True)
    with_sample.run("-m", "stages.commands.data", "ensure")  # from DVC's cache
    assert clips(with_sample) == ["--first_clip"]
    subprocess.run(["rm", "-r", with_sample.root / data.RAW, with_sample.root / ".dvc/cache"], check=True)
    with_sample.run("-m", "stages.commands.data", "ensure")  # from the remote
    assert clips(with_sample) == ["--first_clip"]
    subprocess.run(["rm", "-r", with_sample.root / data.RAW, with_sample.root / ".dvc/cache", remote], check=True)
    failed = with_sample.run("-m", "stages.commands.data", "ensure", check=False)
    assert failed.returncode == 1
    assert "make data FROM=" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_wrong_layout_names_what_is_missing_and_changes_nothing(with_sample: Workspace, tmp_path: Path) -> None:
    before = state(with_sample)
    release = make_release(tmp_path / "mine")
    (release / "Release/videoset.csv").unlink()
    failed = with_sample.run("-m", "stages.commands.data", "put", f"--from={release}", check=False)
    assert failed.returncode == 1
    assert "Release/videoset.csv" in failed.stderr
    assert str(release) in failed.stderr
    assert state(with_sample) == before


def test_when_dvc_fails_the_old_data_set_is_back(with_sample: Workspace, tmp_path: Path) -> None:
    before = state(with_sample)
    (with_sample.root / ".dvc/config").write_text("[core\n")
    release = make_release(tmp_path / "mine")
    failed = with_sample.run("-m", "stages.commands.data", "put", f"--from={release}", check=False)
    assert failed.returncode == 1
    assert "dvc commit" in failed.stderr
    assert state(with_sample) == before
    assert not (with_sample.root / data.WORK).exists()


def test_a_put_that_was_killed_is_undone_by_the_next_call(with_sample: Workspace, tmp_path: Path) -> None:
    before = state(with_sample)
    # Stops where the new release lies in place and dvc should track it, until the test kills it.
    wait = "lambda *_: (print('placed', flush=True), __import__('time').sleep(60))"
    stop = f"from stages.commands import data; data.dvc = {wait}"
    script = f"{stop}; data.put({str(make_release(tmp_path / 'mine'))!r}, name='mine')"
    child = subprocess.Popen([sys.executable, "-c", script], cwd=with_sample.root, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "placed\n"
    assert clips(with_sample) == ["--first_clip"]
    child.kill()
    child.wait()
    with_sample.run("-m", "stages.commands.data", "ensure")
    assert state(with_sample) == before
    assert not (with_sample.root / data.WORK).exists()


def test_a_read_only_source_is_copied_and_left_alone(tmp_path: Path) -> None:
    source = make_release(tmp_path / "source")
    (source / "Release/clips320H").rename(tmp_path / "disk")
    (source / "Release/clips320H").symlink_to(tmp_path / "disk")
    for path in (tmp_path / "disk" / "--first_clip.mp4", source / "Release"):
        path.chmod(0o555)
    listing = sorted((str(p), p.stat().st_mtime_ns) for p in source.rglob("*"))
    data.copy_release(source, tmp_path / "copy", roots=layouts.ROOTS["a2d"])
    (source / "Release").chmod(0o755)
    assert listing == sorted((str(p), p.stat().st_mtime_ns) for p in source.rglob("*"))
    a2d.check_layout(tmp_path / "copy")
    copied = tmp_path / "copy/Release/clips320H"
    assert not copied.is_symlink()
    assert os.stat(copied / "--first_clip.mp4").st_mode & 0o200
    assert data.directory_md5(tmp_path / "copy") == data.directory_md5(make_release(tmp_path / "again"))


def test_links_that_have_no_end_are_errors_that_name_them(tmp_path: Path) -> None:
    for link, target, reason in (
        ("source/clips/up", "source", "a folder that it lies in"),
        ("source/clips/far", ".", "a folder that it lies in"),
        ("disk/back", "source/clips", "a folder that it lies in"),
        ("source/clips/gone.mp4", "nowhere.mp4", "leads nowhere"),
        ("source/top.mp4", "nowhere.mp4", "leads nowhere"),
        ("source/clips/self", "source/clips/self", "leads nowhere"),
    ):
        folder = tmp_path / Path(link).stem
        (folder / "source/clips").mkdir(parents=True)
        (folder / "disk").mkdir()
        (folder / "source/clips/disk").symlink_to(folder / "disk")
        (folder / link).symlink_to(folder / target)
        with pytest.raises(ValueError, match=rf"/{Path(link).name} is a link .*{reason}"):
            data.copy_release(folder / "source", folder / "copy", roots=["clips"])
        assert not (folder / "copy").exists()


def test_two_links_to_one_folder_are_copied_twice(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/clip.mp4").write_text("frames")
    (tmp_path / "source").mkdir()
    for name in ("a", "b"):
        (tmp_path / "source" / name).symlink_to(tmp_path / "disk")
    data.copy_release(tmp_path / "source", tmp_path / "copy", roots=["a", "b"])
    assert [(tmp_path / "copy" / name / "clip.mp4").read_text() for name in ("a", "b")] == ["frames"] * 2


def test_a_data_set_stays_while_a_run_reads_it(with_sample: Workspace, tmp_path: Path) -> None:
    before = state(with_sample)
    put = ("-m", "stages.commands.data", "put", f"--from={make_release(tmp_path / 'mine')}")
    with only_run(with_sample.root):
        failed = with_sample.run(*put, check=False)
        assert failed.returncode == 1
        assert failed.stderr.startswith("error: another run is at work in this workspace (process ")
        assert state(with_sample) == before
        subprocess.run(["rm", "-r", with_sample.root / data.RAW], check=True)
        with_sample.run(
            "-m", "stages.commands.data", "ensure"
        )  # as `make reproduce` does before it sees that another one runs
        assert state(with_sample) == before
    with_sample.run(*put)
    assert clips(with_sample) == ["--first_clip"]


def test_what_nothing_can_be_trained_on_says_so(with_sample: Workspace, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/clip.mp4").write_text("frames")
    said = with_sample.run("-m", "stages.commands.data", "put", f"--from={tmp_path / 'mine'}").stdout
    assert "nothing can be trained on it; to label clips use `python -m stages.commands.predict`" in said
    assert "nothing can be trained" not in with_sample.run("-m", "stages.commands.data", "put", "--from=sample").stdout


def test_an_archive_that_would_write_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil").write_text("evil")
    with tarfile.open(data.SAMPLE, "w:xz") as archive:
        archive.add("evil", "../../evil2")
    with pytest.raises(ValueError, match=r"lead outside: \.\./\.\./evil2"):
        data.unpack_sample(Path("data/new"))
    assert not (tmp_path.parent / "evil2").exists()


def test_an_archive_with_a_link_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("/")
    with tarfile.open(data.SAMPLE, "w:xz") as archive:
        archive.add("link")
    with pytest.raises(ValueError, match="holds links"):
        data.unpack_sample(Path("data/new"))


@pytest.mark.parametrize("name", ["a b", "-x", "../x", "a,b"])
def test_a_name_that_would_break_tables_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="can't name a data set"):
        data.put("sample", name=name)
