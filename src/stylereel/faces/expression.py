"""Head pose and expression from a dense mesh, in the coordinates of the world's motion.

Pose comes from the rigid points alone, which are laid onto a fixed head in three dimensions. Turned back to the front,
a mesh gives twelve measures; they become the factors of expression by what the world draws for each factor, times
how much of it the mesh's network shows. A person's rest is estimated from the whole clip next to a population prior, so
that a smile is a smile from the first frame on. Nothing is cut off near zero. What the mesh does not show stays
neutral: corners of the mouth at different heights, which its network makes level, and the cheeks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stylereel.faces.mesh import CONTOUR, IRIS
from stylereel.faces.pose import PIVOT

# Rigid points of one side (the image's left) and of the middle line, thousandths of the distance between the outer
# corners of the eyes: the network's own mean over 300 portraits of the world, made symmetric. Axes as in `pose`.
_SIDE = {
    33: (-500, 0, 0), 133: (-192, 23, 64), 98: (-189, 490, 177), 129: (-229, 412, 143), 127: (-761, 2, -536),
    234: (-749, 155, -597), 54: (-656, -397, -130), 21: (-723, -280, -268), 103: (-549, -486, 14),
    67: (-386, -543, 143), 109: (-209, -570, 217),
}  # fmt: skip
_MIDDLE = {
    10: (0, -575, 235), 151: (0, -399, 261), 9: (0, -225, 272), 8: (0, -128, 251), 168: (0, -37, 243), 6: (0, 61, 285),
    197: (0, 145, 335), 195: (0, 220, 387), 5: (0, 300, 442), 4: (0, 395, 462), 1: (0, 464, 435), 2: (0, 523, 262),
}  # fmt: skip
_MIRROR = {33: 263, 133: 362, 98: 327, 129: 358, 127: 356, 234: 454, 54: 284, 21: 251, 103: 332, 67: 297, 109: 338}

MEASURES = (
    "opening", "lift", "width", "lips", "brow_right", "brow_left", "lids_right", "lids_left", "iris_right", "iris_left",
    "iris_y", "chin",
)  # fmt: skip

# Of each measure the population's rest, how far a person's own is from it, and how far the mean of a clip may be from
# that person's rest because they smile, frown or look down all the time (standard deviations). Head units; lids and
# irises in widths of the eye.
_REST = np.array([0.012, 0.005, 0.560, 0.175, 0.265, 0.265, 0.28, 0.28, -0.04, 0.04, -0.045, 0.0])
_PERSON = np.array([0.012, 0.008, 0.030, 0.012, 0.040, 0.040, 0.06, 0.06, 0.04, 0.04, 0.03, 0.015])
_CLIP = np.array([0.0, 0.018, 0.040, 0.006, 0.020, 0.020, 0.0, 0.0, 0.03, 0.03, 0.025, 0.006])
# The percentile of a clip at which each is at rest. Who speaks raises the brows far more often than they are lowered.
_RESTS_AT = np.array([50, 50, 50, 50, 30, 30, 50, 50, 50, 50, 50, 50])
_OPEN = 70.0  # percentile at which an eye is as open as in a photograph: the widest in a clip are wider than that
_FEW = 20.0  # frames after which what a clip shows least or most counts as much as the prior

# What the mesh shows of the mouth when a factor goes from 0 to 1. Rows: opening between the lips, lift of the corners
# above the upper lip, width, thickness of both lips; columns: `_MOUTH_FACTORS`. The world draws .28 of opening, .084 of
# lift and .087 of width for jaw and smile, -.184 of width for pucker; on real clips the network shows .8, .5 and .7
# of what MediaPipe's larger network with attention to the lips shows, and mixes lift into every change of width.
_MOUTH_FACTORS = ("jaw", "smile", "pucker", "press")
_MOUTH = np.array(
    [
        [0.22, 0.0, 0.0, 0.0],
        [-0.07, 0.030, -0.05, 0.0],
        [0.01, 0.055, -0.11, 0.0],
        [0.02, -0.01, 0.02, -0.042],
    ]
)
_NOISE = np.array([0.010, 0.008, 0.007, 0.012])
_SPREAD = np.array([0.5, 0.7, 0.6, 0.15])

# Travel of a brow for which the network with attention sees the same in a drawn face, head units.
_BROW_UP, _BROW_DOWN = 0.045, 0.028
_CHIN = 0.057  # travel of the chin sideways
# The mouth's opening from which rounded lips are a funnel and not a pucker, and is wholly; how much of the jaw's own
# opening a funnel has.
_FUNNEL, _FUNNEL_OPENS = (0.015, 0.07), 0.22
# Lips that have just parted are lost in a drawn face of 256 px: MediaPipe's network with attention to the lips sees the
# opening that the jaw's value means (first row) where another is drawn (second row). Medians over ten people of the
# built-in StyleMask (`benchmarks/faces.py --openings`), and the first row times .85, since on real clips that network
# sees mouths opened 1.2 times as far as this one. The first step, which no reader sees, is less steep, so that noise at
# rest stays small.
JAW = np.array(
    [
        [0, 0.02, 0.035, 0.07, 0.10, 0.17, 0.24, 0.31, 0.42, 0.51, 0.68, 0.85, 1.0],
        [0, 0.05, 0.10, 0.14, 0.16, 0.19, 0.24, 0.29, 0.42, 0.55, 0.74, 0.9, 1.00],
    ]
)
# Travel of the iris, eye widths: sideways, that for which the network with attention sees the same in a drawn face.
_GAZE_X, _GAZE_Y = 0.160, 0.115
_LID_BY_GAZE = 0.14  # share of an open eye by which the lids close when it looks down at gaze_y 1, in the world
_SHUT = 0.23  # what a shut eye shows, as a share of the same person's open eye
# Difference between the lids of which half is believed: both eyes close together but for a wink, and what the network
# sees of one depends on where that eye looks and on glasses (`benchmarks/faces.py --readers`).
_WINK = 0.25
_LIDS = np.array([0.18, 0.45])  # openings of an open eye that are believed


class Pose(NamedTuple):
    """Angles and place of a head as in `pose.pose_from_landmarks`, and its points turned to the front [T, 620, 3], in
    head coordinates."""

    pose: dict[str, np.ndarray]
    frontal: np.ndarray


def _template() -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rigid points [N] and their places [N, 3] in head coordinates."""
    places = dict(_MIDDLE)
    for point, (x, y, z) in _SIDE.items():
        places[point], places[_MIRROR[point]] = (x, y, z), (-x, y, z)
    return np.array(list(places)), np.array(list(places.values())) / 1000


_RIGID, _HEAD = _template()


def head_pose(points: np.ndarray) -> Pose:
    """Pose of meshes [T, 620, 3], by the similarity that lays the fixed head onto the rigid points (Umeyama 1991)."""
    points = np.asarray(points, np.float64) * (1, 1, -1)  # z towards the viewer
    rigid, head = points[:, _RIGID], _HEAD - _HEAD.mean(0)
    centre = rigid.mean(1)
    u, size, v = np.linalg.svd(np.einsum("ni,tnj->tij", head, rigid - centre[:, None]))
    flip = np.ones((len(points), 3))
    flip[:, 2] = np.sign(np.linalg.det(u @ v))
    turn = np.einsum("tji,tj,tkj->tik", v, flip, u)
    scale = (size * flip).sum(1) / (head**2).sum()
    frontal = np.einsum("tji,tnj->tni", turn, points - centre[:, None]) / scale[:, None, None] + _HEAD.mean(0)
    at = centre + scale[:, None] * np.einsum("tij,j->ti", turn, PIVOT - _HEAD.mean(0))
    miss = frontal[:, _RIGID] - _HEAD
    pose = {
        "yaw": np.rad2deg(np.arcsin(np.clip(-turn[:, 2, 0], -1, 1))),
        "pitch": np.rad2deg(np.arctan2(turn[:, 2, 1], turn[:, 2, 2])),
        "roll": np.unwrap(np.rad2deg(np.arctan2(turn[:, 1, 0], turn[:, 0, 0])), period=360),
        "scale": scale,
        "x": at[:, 0],
        "y": at[:, 1],
        "residual": np.sqrt((miss**2).sum(-1).mean(1)),
    }
    return Pose(pose, frontal)


def measures(frontal: np.ndarray) -> np.ndarray:
    """`MEASURES` [T, 12] of points turned to the front [T, 620, 3]."""
    y = frontal[..., 1]
    opening = (y[:, [87, 14, 317]] - y[:, [82, 13, 312]]).mean(1)
    columns = [
        opening,
        y[:, 13] - y[:, [61, 291]].mean(1),
        np.linalg.norm(frontal[:, 61] - frontal[:, 291], axis=1),
        (y[:, [84, 17, 314]] - y[:, [37, 0, 267]]).mean(1) - opening,
        y[:, [33, 133]].mean(1) - y[:, [70, 63, 105, 66, 107]].mean(1),
        y[:, [263, 362]].mean(1) - y[:, [300, 293, 334, 296, 336]].mean(1),
    ]
    # Across a head that the nose's bridge and the eyes hold.
    chin = frontal[:, [148, 152, 377], 0].mean(1) - frontal[:, [168, 6, 33, 263], 0].mean(1)
    irises = []
    for contour, iris in zip(CONTOUR, IRIS):
        around = frontal[:, contour, :2]  # points 0 to 8 are the lower lid from the outer corner in, 9 to 15 the upper
        outer, inner = around[:, 0], around[:, 8]
        width = np.linalg.norm(inner - outer, axis=1)
        columns.append((around[:, 2:7, 1] - around[:, 10:15, 1]).mean(1) / width)
        across = (inner - outer) * np.sign(inner[:, :1] - outer[:, :1])  # to the image's right
        off = frontal[:, iris.start, :2] - (outer + inner) / 2
        irises.append((off * across).sum(1) / width**2)
        irises.append((off[:, 1] * across[:, 0] - off[:, 0] * across[:, 1]) / width**2)
    return np.stack([*columns, irises[0], irises[2], (irises[1] + irises[3]) / 2, chin], axis=1)


def rest_of(shown: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """A person's rest [12] from the measures [T, 12] of a clip and how far each is to be trusted [T, 12]."""
    few = sure.sum(0) / (sure.sum(0) + _FEW)
    rest = _REST.copy()
    mean = np.array([np.percentile(column[trust > 0.5], share) if (trust > 0.5).any() else usual
                     for column, trust, usual, share in zip(shown.T, sure.T, _REST, _RESTS_AT)])  # fmt: skip

    def level(column: int, percent: float, noise: float, low: float, high: float) -> float:
        """What the clip shows least or most, if it is believable, next to the prior; within the noise, the median."""
        kept = shown[sure[:, column] > 0.5, column]
        if not len(kept):
            return _REST[column]
        end = np.percentile(kept, percent)
        end = np.median(kept[kept <= end + noise]) if noise else end
        return _REST[column] + few[column] * (np.clip(end, low, high) - _REST[column])

    rest[0] = level(0, 5, _NOISE[0], _REST[0] - 2 * _PERSON[0], _REST[0] + 2 * _PERSON[0])
    # What the jaw does to the others is no rest, and it is never negative.
    mean[1:4] -= _MOUTH[1:, 0] * np.median(np.clip(shown[:, 0] - rest[0], 0, None)) / _MOUTH[0, 0]
    rest[1:] += _PERSON[1:] ** 2 / (_PERSON[1:] ** 2 + _CLIP[1:] ** 2) * (mean - _REST)[1:]
    for column in (6, 7):
        rest[column] = level(column, _OPEN, 0, *_LIDS)
    return rest


def factors(shown: np.ndarray, rest: np.ndarray) -> dict[str, np.ndarray]:
    """The factors of expression, arrays [T], from measures [T, 12] and the person's rest [12]; not yet limited."""
    away = shown - rest
    out: dict[str, np.ndarray] = dict(zip(_MOUTH_FACTORS, _mouth(away[:, :4]).T))
    for side, column in (("right", 4), ("left", 5)):
        raised = away[:, column]
        out[f"brow_{side}"] = raised / np.where(raised > 0, _BROW_UP, _BROW_DOWN)
    rounded = np.clip(out["pucker"], 0, 1)
    share = np.clip((away[:, 0] - _FUNNEL[0]) / (_FUNNEL[1] - _FUNNEL[0]), 0, 1)
    out["funnel"], out["pucker"] = share * rounded, out["pucker"] - share * rounded
    out["jaw"] = np.interp(out["jaw"], *JAW) + np.minimum(out["jaw"], 0) - _FUNNEL_OPENS * out["funnel"]
    out["jaw_side"] = away[:, 11] / _CHIN
    out |= dict.fromkeys(("smile_side", "cheek"), np.zeros(len(away)))
    out["gaze_y"] = away[:, 10] / _GAZE_Y
    looks = 1 - _LID_BY_GAZE * np.clip(out["gaze_y"], -1, 1)
    for side, column in (("right", 6), ("left", 7)):
        out[f"blink_{side}"] = 1 - (shown[:, column] / rest[column] - _SHUT) / (1 - _SHUT) / looks
    wink = out["blink_right"] - out["blink_left"]
    doubted = wink / 2 / (1 + (wink / _WINK) ** 4)
    out["blink_right"], out["blink_left"] = out["blink_right"] - doubted, out["blink_left"] + doubted
    both = 1e-3 + np.clip(1 - np.stack([out["blink_right"], out["blink_left"]]), 0, 1)
    # Of both eyes, as far as they are open: what is odd about one side cancels.
    odd = (rest[8] - rest[9]) / 2
    out["gaze_x"] = (both[0] * (shown[:, 8] - odd) + both[1] * (shown[:, 9] + odd)) / both.sum(0) / _GAZE_X
    return out


def _mouth(away: np.ndarray) -> np.ndarray:
    """The most probable `_MOUTH_FACTORS` [T, 4] for measures of the mouth from rest [T, 4]; lips never pucker less than
    at rest, so that wide lips are a smile."""

    def solve(columns: list[int]) -> np.ndarray:
        mixed = _MOUTH[:, columns]
        precise = mixed.T / _NOISE**2
        return away @ np.linalg.solve(precise @ mixed + np.diag(_SPREAD[columns] ** -2.0), precise).T

    every = solve([0, 1, 2, 3])
    wide = every[:, 2] < 0
    every[wide, 2] = 0
    every[np.ix_(np.flatnonzero(wide), np.array([0, 1, 3]))] = solve([0, 1, 3])[wide]
    return every
