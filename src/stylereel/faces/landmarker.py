"""MediaPipe's FaceLandmarker as a face backend: faster than dlib, with a model file that is fetched once.

Needs the package mediapipe, which no extra of this one installs, and its model: `stylereel weights get
face_landmarker.task`. Its 478 points are reduced to iBUG's 68; it cannot identify people, so dlib does.
"""

from __future__ import annotations

import importlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from stylereel.faces.backend import Box, DlibBackend, Face, FaceBackend, box_around
from stylereel.faces.mesh import IBUG
from stylereel.faces.placement import cut, to_picture
from stylereel.zoo.registry import cache_folder

MODEL = "face_landmarker.task"

# Which of the 478 points is each of the 68: jaw, brows, nose, eyes, outer and inner lips.
POINTS = IBUG.copy()
POINTS[36:48] = [33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380]  # the mesh has contours of the eyes instead


class MediaPipeBackend:
    """See `FaceBackend`. Raises ValueError, with what to do, when the package or the model file is missing."""

    FACES = 8  # at most in one frame
    CROP = 256  # side of the upright crop in which one face is looked at, pixels
    MARGIN = 2.0  # its side in sides of the box

    def __init__(self, model: str | Path | None = None) -> None:
        model = Path(model) if model else cache_folder() / MODEL
        if not model.is_file():
            raise ValueError(f"MediaPipe's model is missing: run `stylereel weights get {MODEL}`.")
        try:
            self._mediapipe = importlib.import_module("mediapipe")
            self._tasks = importlib.import_module("mediapipe.tasks.python")
        except ImportError:
            raise ValueError("The detector mediapipe needs its package: run `pip install mediapipe`.") from None
        options = self._tasks.vision.FaceLandmarkerOptions(
            base_options=self._tasks.BaseOptions(model_asset_path=str(model)), num_faces=self.FACES
        )
        self._landmarker = self._tasks.vision.FaceLandmarker.create_from_options(options)

    @cached_property
    def _dlib(self) -> FaceBackend:
        return DlibBackend()

    def _faces(self, picture: np.ndarray) -> list[np.ndarray]:
        """Landmarks [68, 2] of every face, as fractions of the image's width and height."""
        mediapipe: Any = self._mediapipe
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(picture))
        faces = self._landmarker.detect(image).face_landmarks
        return [np.array([(face[point].x, face[point].y) for point in POINTS]) for face in faces]

    def detect(self, frame: np.ndarray) -> list[Box]:
        """See `FaceBackend`. MediaPipe passes on what it takes for a face without a score, so each has 1."""
        return [box_around(points * frame.shape[1::-1], 1.0) for points in self._faces(frame)]

    def look(self, frame: np.ndarray, box: Box, last: Face | None = None) -> Face | None:  # noqa: ARG002
        """See `FaceBackend`."""
        square = box.placement * (1, 1, self.MARGIN, 1)
        faces = self._faces(cut(frame, square, self.CROP))
        if not faces:
            return None
        middle = min(faces, key=lambda points: np.linalg.norm(points.mean(0) - 0.5))
        landmarks = to_picture(middle, square).astype(np.float32)
        return Face(landmarks, box_around(landmarks, 1.0))

    def embedding(self, frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """See `FaceBackend`; dlib's, so it needs the extra `faces`."""
        return self._dlib.embedding(frame, landmarks)
