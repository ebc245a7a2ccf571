"""The raw data set: which release lies in data/raw, through DVC.

    python -m stages.commands.data ensure                   data/raw as data.dvc pins it: the sample, or what DVC has
    python -m stages.commands.data put --from=PATH|sample   another data set in its place, in any layout of
    stages.core.datasets

No stage of the pipeline. Writes data/raw, data.dvc and `index.dataset` of params.yaml, all of them or none: what was
there waits in data/.put until the new release is tracked, and an interrupted `put` is undone by the next call.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer
import yaml
from filelock import FileLock

from stages.core.datasets import layouts
from stages.core.params import PARAMS, edited, load
from stages.core.workspace import AnotherRun, only_run

RAW = Path("data/raw")
PIN = Path("data.dvc")
SAMPLE = Path("data/sample.tar.xz")
WORK = Path("data/.put")  # on the file system of data/raw, so that a folder changes its place in one step
PREVIOUS = WORK / "previous"
LOCK = Path("data/.put.lock")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help="Put the raw data set in place.")


@app.command()
def ensure() -> None:
    """Put data/raw in place if it is missing. Raises ``ValueError`` if neither the sample nor DVC can give it."""
    if is_in_place() and not WORK.exists():
        return
    with locked():
        if is_in_place():
            return
        pinned = pinned_md5()
        if SAMPLE.exists():
            sample = unpack_sample(WORK / "incoming")
            if directory_md5(sample) == pinned:
                remove(RAW)
                os.replace(sample, RAW)
                # The hash is the pinned one: this only fills DVC's cache, so that `dvc status` is clean.
                dvc("commit", PIN)
                print(f"data: sample data set unpacked into {RAW}")
                return
        print(f"data: {RAW} is missing, asking DVC for {pinned}")
        if dvc("checkout", PIN, check=False) != 0 and dvc("pull", PIN, check=False) != 0:
            raise ValueError(
                f"{RAW} is missing and DVC has it neither in its cache nor on a remote (its message is above).\n"
                "Name a remote and pull:     python -m dvc remote add -d NAME URL && python -m dvc pull data.dvc\n"
                "or put a release in place:  make data FROM=/path/to/release   (or FROM=sample)"
            )


@app.command()
def put(
    source: Annotated[str, typer.Option("--from", help="folder of a data set, or `sample`")],
    name: Annotated[str, typer.Option(help="what tables call it; the folder's name by default")] = "",
) -> None:
    """Make a folder, or the sample, the data set, tracked by DVC.

    Raises ``ValueError`` for a wrong layout, a bad name or when DVC can't track it, ``AnotherRun`` while one is at
    work; then everything is as before.
    """
    name = name or ("sample" if source == "sample" else Path(source).resolve().name)
    if not re.fullmatch(r"[\w][\w.+-]*", name):
        raise ValueError(f"`{name}` can't name a data set in tables: choose letters, digits and . _ + - with NAME=...")
    parameters = load("index", layouts.Parameters)
    if source != "sample":
        layout, _ = layouts.open_release(Path(source), parameters)
        if Path(source).resolve().is_relative_to(RAW.resolve()):
            raise ValueError(f"{source} is the data set that is in place: name a folder outside {RAW}")
    with only_run(), locked():
        incoming = WORK / "incoming"
        if source == "sample":
            unpack_sample(incoming)
        else:
            copy_release(Path(source), incoming, roots=layouts.roots(layout, Path(source)))
        _, reader = layouts.open_release(incoming, parameters)
        can_train = any(row.split == "train" and row.annotated for row in reader.clips()[0])
        replace_release(incoming, name)
    print(f"data: {name} is in {RAW}, tracked by {PIN}: `make reproduce` runs on it")
    if not can_train:
        print(
            "data: but no train frame of it is annotated: its index, frames and optical flow are computed, nothing can "
            "be trained on it; to label clips use `python -m stages.commands.predict`"
        )


def replace_release(incoming: Path, name: str) -> None:
    """Swap the folder ``incoming`` in and track it; on any error or interruption put everything back."""
    saved = WORK / "saved"
    saved.mkdir()
    for path in filter(Path.exists, (PIN, PARAMS)):
        shutil.copy2(path, saved / path.name)
    if not RAW.exists():
        RAW.mkdir()  # so that there is always a folder to put back
    os.replace(saved, PREVIOUS)  # from here on, undo() goes back to what it holds
    try:
        os.replace(RAW, PREVIOUS / RAW.name)
        os.replace(incoming, RAW)
        if not PIN.exists():
            PIN.write_text(f"outs:\n- path: {RAW}\n  hash: md5\n")
        dvc("commit", "--force", PIN)
        with edited() as parameters:
            parameters["index"]["dataset"] = name
    except BaseException:
        undo()
        raise
    os.replace(PREVIOUS, WORK / "done")  # from here on, there is no way back
    remove(WORK)


def undo() -> None:
    """Undo an unfinished ``put``, also one of a process that was killed; no effect where there is none."""
    if PREVIOUS.exists():
        if (PREVIOUS / RAW.name).exists():
            remove(RAW)
            os.replace(PREVIOUS / RAW.name, RAW)
        for path in (PIN, PARAMS):
            if (PREVIOUS / path.name).exists():
                shutil.copy2(PREVIOUS / path.name, path)
            else:
                path.unlink(missing_ok=True)
        remove(WORK / "done")
        os.replace(PREVIOUS, WORK / "done")  # a half removed PREVIOUS must never be gone back to
    remove(WORK)


def is_in_place() -> bool:
    return RAW.is_dir() and any(RAW.iterdir())


def pinned_md5() -> str:
    """The hash in data.dvc. Raises ``ValueError`` if the file is missing or tracks another folder."""
    if not PIN.exists():
        raise ValueError(f"{PIN} not found: run from the project's top folder, or `make data FROM=...` makes it")
    outs = yaml.safe_load(PIN.read_text())["outs"]
    if [out["path"] for out in outs] != [str(RAW)]:
        raise ValueError(f"{PIN} must track {RAW} and nothing else: DVC refuses stage outputs below a tracked data/")
    return str(outs[0].get("md5"))


def directory_md5(folder: Path) -> str:
    """The hash that DVC gives to ``folder``, computed without placing it: MD5 of the sorted list of its files."""
    files = []
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "md5").hexdigest()
            files.append({"md5": digest, "relpath": path.relative_to(folder).as_posix()})
    files.sort(key=lambda file: file["relpath"])
    return hashlib.md5(json.dumps(files, sort_keys=True).encode()).hexdigest() + ".dir"


def unpack_sample(target: Path) -> Path:
    """Unpack the archive into the new folder ``target``. Raises ``ValueError`` for a missing, broken or unsafe one."""
    if not SAMPLE.exists():
        raise ValueError(f"{SAMPLE} not found: it is part of the repository (git checkout {SAMPLE})")
    target.mkdir(parents=True)
    try:
        with tarfile.open(SAMPLE) as archive:
            # Checked here: the `filter` of `extractall` is not in Python 3.11.3 and older, which Debian 12 has.
            if unsafe := [member.name for member in archive if not _is_inside(member)]:
                raise ValueError(f"{SAMPLE} holds links, or paths that lead outside: {', '.join(unsafe[:3])}")
            archive.extractall(target)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{SAMPLE} can't be unpacked: {error}") from error
    return target


def _is_inside(member: tarfile.TarInfo) -> bool:
    path = PurePosixPath(member.name)
    return (member.isfile() or member.isdir()) and not path.is_absolute() and ".." not in path.parts


def copy_release(source: Path, target: Path, *, roots: Sequence[str]) -> None:
    """Copy ``roots`` of a data set into the new folder ``target``: contents only, ``source`` may be read-only."""
    broken = [path.name for path in source.iterdir() if not path.exists()]  # links, which are in no list of roots
    files = [path for root in [*roots, *broken] for path in _files(source / root, above=[source.resolve()])]
    needed = sum(path.stat().st_size for path in files)
    target.mkdir(parents=True)
    if needed * 2 > (free := shutil.disk_usage(target).free):  # once here, once in DVC's cache
        raise ValueError(
            f"{source} needs {needed * 2 / 1e9:.1f} GB here and in DVC's cache, {free / 1e9:.1f} GB are free"
        )
    for path in files:
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def _files(path: Path, *, above: Sequence[Path]) -> Iterator[Path]:
    """Files at or below ``path``, which is in the folders ``above``. Follows links: clips may lie on another disk."""
    if not path.exists():
        raise ValueError(f"{path} is a link that leads nowhere: mend or remove it")
    if not path.is_dir():
        yield path
        return
    folder = path.resolve()
    if any(outer.is_relative_to(folder) for outer in above):
        raise ValueError(f"{path} is a link to a folder that it lies in: remove it")
    for inner in path.iterdir():
        yield from _files(inner, above=[*above, folder])


def dvc(*arguments: str | Path, check: bool = True) -> int:
    """Run dvc and return its exit code. Raises ``ValueError`` when it fails and ``check`` is set."""
    code = subprocess.run([sys.executable, "-m", "dvc", *arguments], stdin=subprocess.DEVNULL, check=False).returncode
    if code != 0 and check:
        raise ValueError(f"`dvc {' '.join(map(str, arguments))}` ended with {code}; its message is above")
    return code


def remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


@contextmanager
def locked() -> Iterator[None]:
    """One process at a time; an unfinished ``put`` of an earlier one is undone first."""
    LOCK.parent.mkdir(exist_ok=True)
    with FileLock(LOCK):
        undo()
        try:
            yield
        finally:
            if not PREVIOUS.exists():  # else undo() itself failed: the next call tries again
                remove(WORK)


if __name__ == "__main__":
    try:
        app()
    except (ValueError, AnotherRun) as error:
        sys.exit(f"error: {error}")
