"""Finding and following one face: boxes, 68 landmarks in iBUG order, and an embedding that tells who.

`DlibBackend` needs the packages dlib-bin and face_recognition_models (extra `faces`). Its 68-point model
was trained on iBUG 300-W, whose pictures are for research use. `landmarker.MediaPipeBackend` is the other
one. Pixels are continuous: pixel i covers i..i+1.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
from PIL import Image

from stylereel.faces.appearance import read
from stylereel.faces.placement import cut, to_crop, to_picture
from stylereel.faces.pose import mean_head, smooth
from stylereel.media.ahead import Ahead
from stylereel.media.pictures import read_picture

_LANDMARK_MODEL = "shape_predictor_68_face_landmarks.dat"
_EMBEDDING_MODEL = "dlib_face_recognition_resnet_model_v1.dat"

Missing = Literal["hold", "interpolate", "skip-edit", "stop"]  # what to do with a frame without a face
Detector = Literal["dlib", "mediapipe"]

BOX_SIDE = 1.66  # side of a face box in distances between the outer eye corners
BOX_CENTRE = 0.345  # its centre below the eye line, same unit: about the tip of the nose
START_SCORE = 0.0  # a detection that begins a track
# One that continues it. Measured in the upright crop of the tracker: faces over 0.8, other things under -0.7.
KEEP_SCORE = -0.3
SAME_PERSON = 0.6  # embeddings of one person are usually closer than this (Euclidean), by the network's authors


class Box(NamedTuple):
    """A square around a face: centre and side in pixels, clockwise roll in degrees, score (high is sure)."""

    x: float
    y: float
    side: float
    roll: float = 0.0
    score: float = 0.0

    @property
    def placement(self) -> np.ndarray:
        return np.array([self.x, self.y, self.side, self.roll])


class FaceBackend(Protocol):
    """What the tracker asks of a face library."""

    def detect(self, frame: np.ndarray) -> list[Box]:
        """Faces of a frame uint8 [H, W, 3], also unsure ones; the score's zero is the usual threshold."""
        ...

    def landmarks(self, frame: np.ndarray, box: Box) -> np.ndarray:
        """float32 [68, 2] pixels of the face in the box."""
        ...

    def embedding(self, frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """float32 [128]; two pictures of one person lie close."""
        ...


def box_around(landmarks: np.ndarray, score: float = 0.0) -> Box:
    """The box in which a detector would have put these landmarks [68, 2].

    The mean head is laid over them by the similarity with the least squared error.
    """
    template = (mean_head()[:, :2] - (0.0, BOX_CENTRE)) / BOX_SIDE
    source = (template - template.mean(0)) @ (1, 1j)
    centred = (landmarks - landmarks.mean(0)) @ (1, 1j)
    turn = np.vdot(source, centred) / np.vdot(source, source)  # complex number: side times rotation
    centre = landmarks.mean(0) @ (1, 1j) - turn * (template.mean(0) @ (1, 1j))
    return Box(centre.real, centre.imag, abs(turn), float(np.rad2deg(np.angle(turn))), score)


class DlibBackend:
    """dlib's HOG face detector, 68-point regression trees (Kazemi and Sullivan 2014) and embedding."""

    # dlib answers in whole pixels and depends a little on its box. Both errors shrink when the predictor
    # runs on an upright enlarged crop and the answers for several slightly moved boxes are averaged: rows
    # (dx, dy, size). More boxes take time and steady nothing: what is left of the tremble they share.
    MOVES = (
        (0.0, 0.0, 1.0), (-0.06, -0.06, 1.1), (0.06, -0.06, 0.9), (-0.06, 0.06, 0.9), (0.06, 0.06, 1.1),
    )  # fmt: skip
    CROP = 400  # side of the enlarged crop, pixels
    MARGIN = 1.5  # its side in sides of the box

    def __init__(self) -> None:
        self._dlib = _import_dlib()
        self._models = _model_folder()
        self._detector = self._dlib.get_frontal_face_detector()
        self._predictor = self._dlib.shape_predictor(str(self._models / _LANDMARK_MODEL))

    @cached_property
    def _embedder(self) -> Any:
        return self._dlib.face_recognition_model_v1(str(embedding_file()))

    def detect(self, frame: np.ndarray) -> list[Box]:
        """See `FaceBackend`. A small copy shows faces over a quarter of the frame; a larger one is next."""
        picture = Image.fromarray(frame)
        longest = max(picture.size)
        for limit in (320, 1280):
            factor = min(1.0, limit / longest)
            size = [max(1, round(side * factor)) for side in picture.size]
            small = picture.resize(size, Image.Resampling.BOX)
            found, scores, _ = self._detector.run(np.asarray(small), 0, KEEP_SCORE)
            boxes = [
                Box((r.left() + r.right() + 1) / 2 / factor, (r.top() + r.bottom() + 1) / 2 / factor,
                    r.width() / factor, 0.0, score)
                for r, score in zip(found, scores, strict=True)
            ]  # fmt: skip
            if factor == 1.0 or any(box.score > START_SCORE for box in boxes):
                return boxes
        return boxes

    def landmarks(self, frame: np.ndarray, box: Box) -> np.ndarray:
        """See `FaceBackend`. Sub-pixel; the box's roll is taken out before and put back after."""
        square = box.placement * (1, 1, self.MARGIN, 1)
        grey = cut(np.asarray(Image.fromarray(frame).convert("L")), square, self.CROP)
        side, middle = self.CROP / self.MARGIN, self.CROP / 2
        total = np.zeros((68, 2))
        for dx, dy, size in self.MOVES:
            x, y, half = middle + dx * side, middle + dy * side, side * size / 2
            edges = (round(edge) for edge in (x - half, y - half, x + half, y + half))
            shape = self._predictor(grey, self._dlib.rectangle(*edges))
            total += [(point.x, point.y) for point in shape.parts()]
        points = (total / len(self.MOVES) + 0.5) / self.CROP
        return to_picture(points, square).astype(np.float32)

    def embedding(self, frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """See `FaceBackend`. Two pictures of one person are usually closer than 0.6 (Euclidean)."""
        dlib = self._dlib
        box = box_around(landmarks).placement * (1, 1, 2, 1)
        chip = cut(frame, box, 300)
        points = [dlib.point(round(x), round(y)) for x, y in to_crop(landmarks, box) * 300]
        shape = dlib.full_object_detection(dlib.rectangle(75, 75, 225, 225), dlib.points(points))
        return np.array(self._embedder.compute_face_descriptor(chip, shape), np.float32)


def open_backend(detector: Detector = "dlib") -> FaceBackend:
    """The face library of that name. Raises ValueError, with what to install, when it or its model is missing."""
    if detector == "mediapipe":
        from stylereel.faces.landmarker import MediaPipeBackend

        return MediaPipeBackend()
    return DlibBackend()


def embedding_file() -> Path:
    """The file of dlib's embedding network. Raises ValueError, with what to install, when it is missing."""
    return _model_folder() / _EMBEDDING_MODEL


def _import_dlib() -> Any:
    try:
        return importlib.import_module("dlib")
    except ImportError:
        raise ValueError("Faces cannot be found without dlib: run `pip install dlib-bin`.") from None


def _model_folder() -> Path:
    """Found but never imported: its code needs pkg_resources, which current setuptools lacks."""
    spec = importlib.util.find_spec("face_recognition_models")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / "models"
        if (folder / _LANDMARK_MODEL).is_file():
            return folder
    raise ValueError("The face models are missing: run `pip install face_recognition_models`.")


def is_picture(face: str) -> bool:
    """Whether a choice of face, see `Tracker`, names the file of a picture."""
    return not (face in ("largest", "left") or face.isdecimal())


class Tracker:
    """Follows one face of a stream, one frame at a time, from its landmarks in the frame before.

    The whole frame is searched only where there is nobody to follow. Which face is meant decides then:

    face: "largest", "left", a number (0 is the left-most), or the file of a picture: the face most like the largest
    one in it, and none that is another person's. Where a clip has shown several faces, one that was lost is known again
    by its embedding.

    Attributes:
        num_faces: the most faces that one search of a whole frame has shown.

    Raises ValueError when the picture shows no face, or a frame has no face of that number.
    """

    CHECK = 112  # side of the upright crop in which the detector confirms the face, pixels

    def __init__(self, backend: FaceBackend | None = None, face: str = "largest") -> None:
        self.backend = backend or DlibBackend()
        self.face = face
        self.num_faces = 0
        self._box: Box | None = None
        self._seen: tuple[np.ndarray, np.ndarray] | None = None  # the last frame with the face, its landmarks
        self._wanted: np.ndarray | None = None  # embedding of the person in the picture that was given
        self._lost: np.ndarray | None = None  # embedding of the face in `_seen`, while it is lost
        if is_picture(face):
            picture = read_picture(face)
            self._wanted = self.backend.embedding(picture, find_face(picture, self.backend))

    def step(self, frame: np.ndarray) -> np.ndarray | None:
        """Landmarks [68, 2] float32 in pixels of a frame uint8 [H, W, 3], or None where no face is seen."""
        landmarks = self._follow(frame, self._box) if self._box else None
        if landmarks is None:
            boxes = self.search(frame)
            if boxes:
                landmarks = self._choose(frame, boxes)
        self._box = None if landmarks is None else box_around(landmarks)
        if landmarks is not None:
            self._seen, self._lost = (frame, landmarks), None
        return landmarks

    def search(self, frame: np.ndarray) -> list[Box]:
        """All faces of a frame, from left to right; `num_faces` takes note."""
        boxes = sorted(box for box in self.backend.detect(frame) if box.score > START_SCORE)
        self.num_faces = max(self.num_faces, len(boxes))
        return boxes

    def _choose(self, frame: np.ndarray, boxes: list[Box]) -> np.ndarray | None:
        known = self._wanted
        if known is None and self._seen is not None and self.num_faces > 1:
            if self._lost is None:
                self._lost = self.backend.embedding(*self._seen)
            known = self._lost
        if known is not None:
            found = [points for box in boxes if (points := self._centred(frame, box)) is not None]
            far = [float(np.linalg.norm(self.backend.embedding(frame, points) - known)) for points in found]
            return found[int(np.argmin(far))] if found and min(far) < SAME_PERSON else None
        if self.face == "largest" or self._seen is not None:
            return self._centred(frame, max(boxes, key=lambda box: box.side))
        number = 0 if self.face == "left" else int(self.face)
        if number >= len(boxes):
            count = f"{len(boxes)} face{'s' * (len(boxes) > 1)}"
            raise ValueError(f"The clip shows {count}, so none has the number {number}; the left one is 0.")
        return self._centred(frame, boxes[number])

    def _centred(self, frame: np.ndarray, rough: Box) -> np.ndarray | None:
        """Landmarks in a box of the detector, whose grid is coarse: it is centred on the face first."""
        return self._follow(frame, box_around(self.backend.landmarks(frame, rough)))

    def _follow(self, frame: np.ndarray, box: Box) -> np.ndarray | None:
        try:
            landmarks = self.backend.landmarks(frame, box)
            view = cut(frame, box_around(landmarks).placement * (1, 1, 1.4, 1), self.CHECK)
        except ValueError:  # it has left the picture
            return None
        return landmarks if self.backend.detect(view) else None


@dataclass(frozen=True)
class Track:
    """One face through a clip.

    landmarks: [T, 68, 2] float32 pixels; readings: [T, 2, 4] float32, see `appearance.read`; found: [T] bool, False
    where both are filled in; rate: frames a second; size: (width, height) of the frames in pixels; bridged: whether
    what is filled in lies between its neighbours and counts, or is merely held; num_faces: the most faces seen in one
    frame, among those looked at as a whole (the first, about one a second, and wherever the face was lost).
    """

    landmarks: np.ndarray
    readings: np.ndarray
    found: np.ndarray
    rate: Fraction
    size: tuple[int, int]
    bridged: bool = False
    num_faces: int = 1

    @property
    def missing(self) -> list[int]:
        """Frames in which no face was seen."""
        return np.flatnonzero(~self.found).tolist()

    @property
    def counted(self) -> np.ndarray:
        """[T] bool, frames whose values say something: those with a face, and bridged ones."""
        return self.found | self.bridged

    def steady(self, seconds: float = 0.035) -> np.ndarray:
        """The landmarks [T, 68, 2] without their tremble: low-passed by a Gaussian of this width, without lag."""
        flat = self.landmarks.reshape(len(self.landmarks), -1)
        return smooth(flat, self.rate, seconds, self.counted).reshape(self.landmarks.shape).astype(np.float32)


def find_face(picture: np.ndarray, backend: FaceBackend | None = None, face: str = "largest") -> np.ndarray:
    """Landmarks [68, 2] float32 of a face in a picture uint8 [H, W, 3]; which one, see `Tracker`.

    Raises ValueError when there is none.
    """
    landmarks = Tracker(backend, face).step(picture)
    if landmarks is None:
        raise ValueError("No face was found in the picture; use one in which a face is clear.")
    return landmarks


def track(
    frames: Iterable[np.ndarray],
    rate: Fraction,
    missing: Missing = "hold",
    backend: FaceBackend | None = None,
    face: str = "largest",
) -> Track:
    """Follows a face through frames uint8 [H, W, 3], which are taken one by one, the next while one is looked at.

    missing: what to do with a frame without a face. `hold` keeps the last landmarks (before the first face:
    the first), `interpolate` goes straight from the last to the next, `stop` raises; `skip-edit` holds too and
    is for the caller, who leaves these frames as they are. face: which one, see `Tracker`. Raises ValueError
    when no frame shows a face, and as `Tracker`.
    """
    if missing not in get_args(Missing):
        raise ValueError(f"Missing faces can be handled by {', '.join(get_args(Missing))}, not by {missing!r}.")
    tracker = Tracker(backend, face)
    rows: list[tuple[np.ndarray, np.ndarray] | None] = []
    size = (0, 0)
    for index, frame in enumerate(Ahead(frames)):
        size = (frame.shape[1], frame.shape[0])
        points = tracker.step(frame)
        if missing == "stop" and points is None:
            raise ValueError(f"Frame {index} shows no face; cut it out or use missing='hold'.")
        if index and index % max(1, round(rate)) == 0:
            tracker.search(frame)
        rows.append(None if points is None else (points, read(frame, points)))
    known = [index for index, row in enumerate(rows) if row is not None]
    if not known:
        raise ValueError("No frame shows a face; use a clip in which one face looks roughly at the camera.")
    landmarks, readings = (np.stack(column) for column in zip(*(row for row in rows if row is not None)))
    found = np.array([row is not None for row in rows])
    fill = _bridge if missing == "interpolate" else _hold
    return Track(
        fill(landmarks, found), fill(readings, found), found, Fraction(rate), size, missing == "interpolate",
        tracker.num_faces,
    )  # fmt: skip


def _hold(values: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Values [N, ...] of the N found frames for all frames [T, ...]: the last one, or at the start the first."""
    return values[np.maximum(np.cumsum(found) - 1, 0)]


def _bridge(values: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Values [N, ...] of the N found frames for all frames [T, ...]: on a straight line between them."""
    place = np.interp(np.arange(len(found)), np.flatnonzero(found), np.arange(len(values)))
    low = place.astype(int)
    part = (place - low).reshape(-1, *[1] * (values.ndim - 1))
    high = np.minimum(low + 1, len(values) - 1)
    return ((1 - part) * values[low] + part * values[high]).astype(values.dtype)
