"""Does a result move as its driving clip, and does it stay one person? Measured with dlib on the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stylereel.faces.backend import START_SCORE, FaceBackend, track
from stylereel.faces.pose import pose_from_landmarks
from stylereel.media.video import VideoReader


def shows_one_face(picture: np.ndarray, backend: FaceBackend) -> bool:
    """Whether the detector, at its usual threshold, finds exactly one face in a picture uint8 [H, W, 3]."""
    return sum(box.score > START_SCORE for box in backend.detect(picture)) == 1


def yaw_and_mouth(clip: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Yaw [T] in degrees and opening between the lips [T] in distances between the eye centres, frame by frame.

    Raises ValueError when no frame shows a face.
    """
    reader = VideoReader(clip)
    points = track(reader, reader.rate).landmarks
    opening = np.linalg.norm(points[:, [61, 62, 63]] - points[:, [67, 66, 65]], axis=2).mean(1)
    eyes = np.linalg.norm(points[:, 36:42].mean(1) - points[:, 42:48].mean(1), axis=1)
    return pose_from_landmarks(points)["yaw"], opening / eyes


def motion_correlation(driving: str | Path, result: str | Path) -> dict[str, float]:
    """Pearson correlation between two clips of equal length, of `yaw` and of `mouth` opening."""
    ours, theirs = yaw_and_mouth(result), yaw_and_mouth(driving)
    return {name: float(np.corrcoef(a, b)[0, 1]) for name, a, b in zip(("yaw", "mouth"), ours, theirs, strict=True)}


def same_person_closer(embeddings: Sequence[np.ndarray]) -> float:
    """Share of comparisons in which two frames of one person are closer than the first is to another person's frame.

    embeddings: for each person the embeddings [N, D] of some frames, N of 2 or more. 1 means that identity never gets
    lost, 0.5 that it plays no part.
    """
    wins = total = 0
    for i, mine in enumerate(embeddings):
        same = np.linalg.norm(mine[:, None] - mine[None], axis=2)
        for j, other in enumerate(embeddings):
            if i == j:
                continue
            cross = np.linalg.norm(mine[:, None] - other[None], axis=2)
            for a in range(len(mine)):
                own = np.delete(same[a], a)
                wins += int((own[:, None] < cross[a][None]).sum())
                total += own.size * cross.shape[1]
    return wins / total
