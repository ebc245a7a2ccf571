"""The layouts of raw data sets that can be read, and which of them a folder is in. Section ``index`` of params.yaml."""

import os
from collections.abc import Callable
from pathlib import Path

from stages.core.datasets.a2d import A2DRelease
from stages.core.datasets.davis import DAVISRelease
from stages.core.datasets.files import subfolders
from stages.core.datasets.jhmdb import JHMDBRelease
from stages.core.datasets.jhmdb import Parameters as JHMDBParameters
from stages.core.datasets.plain_clips import ClipFolder
from stages.core.datasets.release import Reader
from stages.core.datasets.vidor import Parameters as VidORParameters
from stages.core.datasets.vidor import VidORRelease
from stages.core.params import Section, nearest


class Parameters(Section):
    """Section ``index`` of params.yaml: the data set that a run uses, and choices that some layouts leave."""

    dataset: str  # its name in every table
    jhmdb: JHMDBParameters = JHMDBParameters()
    vidor: VidORParameters = VidORParameters()


LAYOUTS: dict[str, Callable[[Path, Parameters], Reader]] = {
    "a2d": lambda folder, parameters: A2DRelease(folder),
    "jhmdb": lambda folder, parameters: JHMDBRelease(folder, parameters.jhmdb),
    "vidor": lambda folder, parameters: VidORRelease(folder, parameters.vidor),
    "davis": lambda folder, parameters: DAVISRelease(folder),
    "clips": lambda folder, parameters: ClipFolder(folder),
}

MARKERS = {
    "a2d": (
        "Release/videoset.csv", "Release/clips320H", "Release/Annotations", "a2d_annotation.txt",
        "a2d_annotation_with_instances",
    ),
    "jhmdb": ("Rename_Images", "puppet_mask", "jhmdb_annotation.txt"),
    "vidor": (
        "annotation/training", "annotation/validation", "Annotations/training", "Annotations/validation",
        "Videos/training", "Videos/validation",
    ),
    "davis": ("JPEGImages",),
}  # fmt: skip
"""What is in no other layout; plain clips are what has none of these."""


ROOTS = {
    "a2d": ("Release", "a2d_annotation.txt", "a2d_missed_videos.txt", "a2d_annotation_with_instances"),
    "jhmdb": (
        "Rename_Images", "puppet_mask", "jhmdb_annotation.txt", "jhmdb_sentences_samples_metadata.json", "splits",
    ),
    "vidor": ("annotation", "video", "Annotations", "Videos"),
    "davis": ("JPEGImages", "Annotations", "ImageSets", "labels.csv", "sentences.csv"),
}  # fmt: skip
"""What a layout is made of; what else lies beside it stays out of the data set. Of plain clips all belongs to it."""


def roots(layout: str, folder: Path) -> list[str]:
    """The files and folders of the data set at ``folder``."""
    return [name for name in ROOTS.get(layout, sorted(os.listdir(folder))) if (folder / name).exists()]


def open_release(folder: Path, parameters: Parameters) -> tuple[str, Reader]:
    """The layout of the data set at ``folder`` and its reader, checked.

    Raises ``ValueError`` that lists what is missing of the nearest layout, and names all layouts.
    """
    every = f"Layouts that can be read: {', '.join(LAYOUTS)}; stages/core/datasets/<layout>.py shows each."
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; name the one that holds the data set. {every}")
    found = _marked(folder)
    if len(found) > 1:
        held = "; ".join(f"{layout}: {', '.join(markers)}" for layout, markers in found.items())
        raise ValueError(
            f"{folder.absolute()} holds more than one data set ({held}); give each its own folder. {every}"
        )
    if not found:
        for inner in subfolders(folder):
            if _marked(inner):
                raise ValueError(
                    f"{folder.absolute()} holds a data set ({', '.join(_marked(inner))}) one folder further down; name "
                    f"{inner.absolute()}. {every}"
                )
    layout = next(iter(found), "clips")
    release = reader(layout, folder, parameters)
    try:
        release.check()
    except ValueError as error:
        raise ValueError(f"{error}\n{every}") from error
    return layout, release


def reader(layout: str, folder: Path, parameters: Parameters) -> Reader:
    """The reader of ``folder`` in a layout that is known; nothing is read or checked."""
    if layout not in LAYOUTS:
        raise ValueError(f"no layout `{layout}`{nearest(layout, list(LAYOUTS))}")
    return LAYOUTS[layout](folder, parameters)


def _marked(folder: Path) -> dict[str, list[str]]:
    """Layout -> those of its markers that are there."""
    found = {layout: [name for name in markers if (folder / name).exists()] for layout, markers in MARKERS.items()}
    return {layout: names for layout, names in found.items() if names}
