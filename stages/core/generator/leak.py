"""Does one frame give the action away? Classifiers on single frames and on single frame pairs' exact flow.

An honest data set of actions needs motion: within the true mask, with the true actor known, a classifier of one RGB
frame must guess most actions, and one of the flow to the next frame must not. Both see a figure at one instant only
and are fitted on figures of pool ``train``, measured on figures of pool ``test``.

Axis letters: S figures, D features, H rows, W columns.
"""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np

from stages.core.datasets.labels import ACTIONS, ACTORS
from stages.core.generator.a2d import ClipPlan, annotated_frames

LEAST_PIXELS = 60
"""Figures that show less are left out of fitting and of measuring."""
CROP = 48
CELLS = 6
ORIENTATIONS = 8
GRID = 4


@dataclass(frozen=True)
class Figures:
    """Features and labels of S figures: ``appearance`` (S, D) of one frame, ``motion`` (S, E) of its flow, (S,) ids."""

    appearance: np.ndarray
    motion: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class LeakReport:
    """Accuracies (0 to 1) of the action on S test figures and confusion matrices (10, 10), truth by rows."""

    figures: int
    appearance: float
    motion: float
    chance: float
    appearance_confusion: np.ndarray
    motion_confusion: np.ndarray


def appearance_features(frame: np.ndarray, mask: np.ndarray, actor: int) -> np.ndarray:
    """(D,) float32: what one frame shows within ``mask`` (H, W): shape moments, silhouette, HOG, colours, actor."""
    shape = mask.astype(np.uint8)
    x, y, w, h = cv2.boundingRect(shape)
    crop_mask = shape[y : y + h, x : x + w]
    moments = cv2.moments(shape, binaryImage=True)
    central = [moments[k] for k in ("nu20", "nu11", "nu02", "nu30", "nu21", "nu12", "nu03")]
    hu = cv2.HuMoments(moments).ravel()
    hu = np.sign(hu) * np.log10(np.abs(hu) + 1e-9)
    place = [w / h, h / mask.shape[0], w / mask.shape[1], shape.sum() / (w * h), x / mask.shape[1], y / mask.shape[0]]
    silhouette = cv2.resize(crop_mask * 255, (24, 24), interpolation=cv2.INTER_AREA).ravel() / 255.0
    crop = cv2.resize(frame[y : y + h, x : x + w], (CROP, CROP), interpolation=cv2.INTER_AREA).astype(np.float32)
    stencil = cv2.resize(crop_mask, (CROP, CROP), interpolation=cv2.INTER_NEAREST)
    inside = frame[mask].astype(np.float32)
    colours = np.concatenate(
        [inside.mean(axis=0), inside.std(axis=0), np.percentile(inside, [10, 50, 90], axis=0).ravel()]
    )
    one_hot = np.eye(len(ACTORS))[actor]
    parts = [central, hu, place, silhouette, _oriented_gradients(crop * stencil[..., None]), colours, one_hot]
    return np.concatenate(parts).astype(np.float32)


def motion_features(flow: np.ndarray, mask: np.ndarray, background: np.ndarray, actor: int) -> np.ndarray:
    """(E,) float32: how the figure in ``mask`` moves against the background just outside it, per body size.

    ``flow`` (H, W, 2) in pixels, ``mask`` and ``background`` (H, W) bool. Mirrored so that it moves to the right.
    """
    rows, columns = np.nonzero(mask)
    size = np.sqrt(len(rows))
    reach = 2 * max(2, round(0.15 * size)) + 1
    ring = (cv2.dilate(mask.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0) & background
    around = np.median(flow[ring], axis=0) if ring.any() else np.median(flow[background], axis=0)
    u, v = ((flow[rows, columns] - around) / size).T
    x, y = (columns - columns.mean()) / size, (rows - rows.mean()) / size
    if np.median(u) < 0:
        u, x = -u, -x
    design = np.stack([np.ones_like(x), x, y], axis=1)
    fit_u, fit_v = np.linalg.lstsq(design, np.stack([u, v], axis=1), rcond=None)[0].T
    rest_u, rest_v = u - design @ fit_u, v - design @ fit_v
    rest = np.hypot(rest_u, rest_v)
    speed = np.hypot(u, v)
    whole = [
        fit_u[1] + fit_v[2],
        fit_v[1] - fit_u[2],
        fit_u[1] - fit_v[2],
        fit_u[2] + fit_v[1],
        rest.mean(),
        rest.std(),
        size,
    ]
    spread = np.concatenate([np.percentile(values, [2, 10, 25, 50, 75, 90, 98]) for values in (u, v, speed, rest)])
    along_x = np.clip((x - x.min()) / max(np.ptp(x), 1e-6) * GRID, 0, GRID - 1e-6).astype(int)
    along_y = np.clip((y - y.min()) / max(np.ptp(y), 1e-6) * GRID, 0, GRID - 1e-6).astype(int)
    cell = along_y * GRID + along_x
    count = np.maximum(np.bincount(cell, minlength=GRID * GRID), 1)
    grids = [
        np.bincount(cell, weights=values, minlength=GRID * GRID) / count for values in (u, v, rest_u, rest_v, rest)
    ]
    one_hot = np.eye(len(ACTORS))[actor]
    parts = [whole, fit_u[:1], fit_v[:1], np.abs(fit_v[:1]), spread, *grids, one_hot]
    return np.concatenate(parts).astype(np.float32)


def collect(plans: Sequence[ClipPlan], *, processes: int = 1) -> Figures:
    """Features of every figure in the annotated frames of the planned clips, in their order."""
    if processes > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            rows = [row for part in pool.map(_features_of_clip, plans, chunksize=8) for row in part]
    else:
        rows = [row for plan in plans for row in _features_of_clip(plan)]
    appearance, motion, labels = zip(*rows, strict=True)
    return Figures(np.stack(appearance), np.stack(motion), np.array(labels))


def measure(fitted: Figures, tested: Figures, *, trees: int = 400, processes: int = 2) -> LeakReport:
    """Fit forests of randomised trees on ``fitted`` and measure the action they tell on ``tested``.

    ``chance`` is the accuracy of always naming the actor's most frequent action.
    """
    truth = tested.labels % 10
    guesses = {}
    for kind in ("appearance", "motion"):
        forest = _forest(trees, processes)
        forest.fit(getattr(fitted, kind), fitted.labels)
        scores = forest.predict_proba(getattr(tested, kind))
        # The actor is known: only its own pairs compete.
        wrong = (forest.classes_ // 10)[None, :] != (tested.labels // 10)[:, None]
        guesses[kind] = forest.classes_[np.where(wrong, -1.0, scores).argmax(axis=1)] % 10
    common = 0
    for actor in np.unique(tested.labels // 10):
        common += np.bincount(truth[tested.labels // 10 == actor]).max()
    return LeakReport(
        figures=len(truth), appearance=float((guesses["appearance"] == truth).mean()),
        motion=float((guesses["motion"] == truth).mean()), chance=common / len(truth),
        appearance_confusion=_confusion(truth, guesses["appearance"]),
        motion_confusion=_confusion(truth, guesses["motion"]),
    )  # fmt: skip


def confusion_text(confusion: np.ndarray) -> str:
    """A confusion matrix (10, 10) as lines: share of each true action, in percent, that was told as each action."""
    names = ACTIONS[1:]
    lines = ["truth     " + "".join(f"{name[:6]:>8}" for name in names)]
    for index, name in enumerate(names, start=1):
        row = confusion[index]
        shares = 100.0 * row / max(row.sum(), 1)
        lines.append(f"{name:<10}" + "".join(f"{share:8.0f}" for share in shares[1:]))
    return "\n".join(lines)


def _forest(trees: int, processes: int):
    from sklearn.ensemble import ExtraTreesClassifier  # slow to import, and only the measurement needs it

    return ExtraTreesClassifier(
        n_estimators=trees, max_features=0.12, min_samples_leaf=1, n_jobs=processes, random_state=0
    )


def _confusion(truth: np.ndarray, guess: np.ndarray) -> np.ndarray:
    return np.bincount(truth * 10 + guess, minlength=100).reshape(10, 10)


def _features_of_clip(plan: ClipPlan) -> list[tuple[np.ndarray, np.ndarray, int]]:
    clip = plan.make()
    rows = []
    for number in annotated_frames(len(clip.frames), plan.annotated):
        flow = clip.flow(number)
        background = clip.semantic[number] == 0
        for instance, label in enumerate(clip.instances):
            mask = clip.masks[number, instance]
            if mask.sum() < LEAST_PIXELS:
                continue
            actor = label // 10
            rows.append((
                appearance_features(clip.frames[number], mask, actor),
                motion_features(flow, mask, background, actor), label,
            ))  # fmt: skip
    return rows


def _oriented_gradients(crop: np.ndarray) -> np.ndarray:
    """Histograms of oriented gradients: 6 x 6 cells of 8 orientations, each cell of length one."""
    grey = crop.mean(axis=2)
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    strength = np.hypot(dx, dy)
    orientation = np.floor((np.arctan2(dy, dx) % np.pi) / np.pi * ORIENTATIONS).astype(int) % ORIENTATIONS
    place = np.arange(CROP) * CELLS // CROP
    index = (place[:, None] * CELLS + place[None, :]) * ORIENTATIONS + orientation
    histogram = np.bincount(index.ravel(), weights=strength.ravel(), minlength=CELLS * CELLS * ORIENTATIONS)
    cells = histogram.reshape(-1, ORIENTATIONS)
    return (cells / (np.linalg.norm(cells, axis=1, keepdims=True) + 10.0)).ravel()
