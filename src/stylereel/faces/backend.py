"""Detecting and tracking one face: boxes, 68 landmarks in iBUG order, and an identity embedding.

`mesh.MeshBackend` is taken where it is installed. `DlibBackend` needs the packages dlib-bin and
face_recognition_models; its 68-point model was trained on iBUG 300-W, whose images are for research use.
`landmarker.MediaPipeBackend` is MediaPipe's own package. Pixels are continuous: pixel i covers i..i+1.
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
from stylereel.faces.sampling import sample
from stylereel.media.ahead import Ahead
from stylereel.media.pictures import read_picture

_LANDMARK_MODEL = "shape_predictor_68_face_landmarks.dat"
_EMBEDDING_MODEL = "dlib_face_recognition_resnet_model_v1.dat"
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601

Missing = Literal["hold", "interpolate", "skip-edit", "stop"]  # what to do with a frame without a face
Detector = Literal["auto", "mesh", "dlib", "mediapipe"]

NO_FACE = "No face was found in the image; use one in which a face is clear."
PARTS = ("pose", "mouth", "right eye", "left eye")
DOUBT = 0.5  # a part that is less sure is doubtful

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


class Face(NamedTuple):
    """One face of a frame: 68 landmarks float32 [68, 2] in iBUG order, in pixels; the box in which to look for it next,
    whose score says how sure it is (zero is the usual threshold); the mesh float32 [620, 3], see `mesh`, if any; and
    how sure its `PARTS` are, float32 [4] in 0..1, with what that is by.
    """

    landmarks: np.ndarray
    box: Box
    points: np.ndarray | None = None
    sure: np.ndarray = np.ones(4, np.float32)
    differ: np.ndarray | None = None


class FaceBackend(Protocol):
    """What the tracker asks of a face library."""

    def detect(self, frame: np.ndarray) -> list[Box]:
        """Faces of a frame uint8 [H, W, 3], also unsure ones; the score's zero is the usual threshold."""
        ...

    def look(self, frame: np.ndarray, box: Box, last: Face | None = None) -> Face | None:
        """The face in the box, None where no face is in it; `last` is the same one in the frame before, if it is
        followed. Raises ValueError when the box is outside the frame."""
        ...

    def embedding(self, frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """float32 [128]; two images of one person are close."""
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
    CHECK, CHECK_MARGIN = 112, 1.4  # pixels of the upright view in which the detector confirms a face; its side
    AWAY, LARGER = 0.3, 1.5  # how far off the detection may be, in sides of the box, and how much larger or smaller

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

    def look(self, frame: np.ndarray, box: Box, last: Face | None = None) -> Face | None:  # noqa: ARG002
        """See `FaceBackend`. The detector must find a face where the landmarks are, not just anywhere near them."""
        landmarks = self.landmarks(frame, box)
        here = box_around(landmarks)
        found = self.detect(cut(frame, here.placement * (1, 1, self.CHECK_MARGIN, 1), self.CHECK))
        unit = self.CHECK / self.CHECK_MARGIN  # pixels of the view that one side of the box has
        scores = [
            each.score
            for each in found
            if np.hypot(each.x - self.CHECK / 2, each.y - self.CHECK / 2) < self.AWAY * unit
            and 1 / self.LARGER < each.side / unit < self.LARGER
        ]
        return Face(landmarks, here._replace(score=max(scores))) if scores else None

    def landmarks(self, frame: np.ndarray, box: Box, quick: bool = False) -> np.ndarray:
        """float32 [68, 2] pixels of the face in the box, which is believed to hold one. Sub-pixel; the box's roll is
        taken out before and put back after. quick: by one box, on a crop of half the side, in a third of the time."""
        moves, crop = (self.MOVES[:1], self.CROP // 2) if quick else (self.MOVES, self.CROP)
        square = box.placement * (1, 1, self.MARGIN, 1)
        if quick:
            grey = (255 * sample(frame, square, crop) @ _LUMA).astype(np.uint8)
        else:
            grey = cut(np.asarray(Image.fromarray(frame).convert("L")), square, crop)
        side, middle = crop / self.MARGIN, crop / 2
        total = np.zeros((68, 2))
        for dx, dy, size in moves:
            x, y, half = middle + dx * side, middle + dy * side, side * size / 2
            edges = (round(edge) for edge in (x - half, y - half, x + half, y + half))
            shape = self._predictor(grey, self._dlib.rectangle(*edges))
            total += [(point.x, point.y) for point in shape.parts()]
        points = (total / len(moves) + 0.5) / crop
        return to_picture(points, square).astype(np.float32)

    def embedding(self, frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """See `FaceBackend`. Two images of one person are usually closer than 0.6 (Euclidean)."""
        dlib = self._dlib
        box = box_around(landmarks).placement * (1, 1, 2, 1)
        chip = cut(frame, box, 300)
        points = [dlib.point(round(x), round(y)) for x, y in to_crop(landmarks, box) * 300]
        shape = dlib.full_object_detection(dlib.rectangle(75, 75, 225, 225), dlib.points(points))
        return np.array(self._embedder.compute_face_descriptor(chip, shape), np.float32)


def open_backend(detector: Detector = "auto") -> FaceBackend:
    """The face library of that name; `auto` is the mesh where it is installed, else dlib.

    Raises ValueError, with what to install, when it or its model is missing.
    """
    from stylereel.faces import landmarker, mesh

    if detector == "mesh" or (detector == "auto" and mesh.available()):
        return mesh.MeshBackend()
    return landmarker.MediaPipeBackend() if detector == "mediapipe" else DlibBackend()


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
    """Whether a choice of face, see `Tracker`, names the file of an image."""
    return not (face in ("largest", "left") or face.isdecimal())


class Tracker:
    """Follows one face of a stream, one frame at a time, from where it was in the frame before.

    The whole frame is searched only where there is nobody to follow, and in `check`. Which face is meant decides then:

    face: "largest", "left", a number (0 is the left-most), or the file of an image: the face most like the largest
    one in it, and none that is another person's. Where a clip has shown several faces, they are distinguished by the
    embedding of the one that was chosen first.

    Attributes:
        num_faces: the most faces that one search of a whole frame has shown.

    Raises ValueError when there is no such image, it shows no face, or a frame has no face of that number.
    """

    JUMP, GROW = 0.6, 1.5  # what moves or grows more from a frame to the next is another face: box sides, ratio
    LOOKS = 5  # at most, until a face that was detected is in the middle of its box
    TURNS = 8  # of the searches for a lost face, every which looks for faces on their side or upside down, too

    def __init__(self, backend: FaceBackend | None = None, face: str = "largest") -> None:
        self.backend = backend or open_backend()
        self.face = face
        self.num_faces = 0
        self._followed: Face | None = None
        self._lost = 0  # searches since a face was found
        self._first: tuple[np.ndarray, Face] | None = None  # the first frame with the face that was chosen
        self._known: np.ndarray | None = None  # embedding of the person who is meant
        if is_picture(face):
            if not Path(face).exists():
                raise ValueError(f"Which face is meant? largest, left, a number or a picture; there is no file {face}.")
            picture = read_picture(face)
            self._known = self.backend.embedding(picture, find_face(picture, self.backend))

    def step(self, frame: np.ndarray) -> Face | None:
        """The face in a frame uint8 [H, W, 3], or None where it is not found."""
        face = self._follow(frame, self._followed) if self._followed else None
        if face is None:
            boxes = self.search(frame, turns=self._lost % self.TURNS == 0)
            face = self._choose(frame, boxes) if boxes else None
        return self._take(frame, face)

    def check(self, frame: np.ndarray, face: Face | None) -> Face | None:
        """The answer of `step` for this frame, compared with a search of the whole of it.

        Where the search shows faces, but none there, or several, of whom another one is the person who is meant, that
        is corrected.
        """
        boxes = self.search(frame)
        if face is None or not boxes:
            return face
        if not any(_moved(face.box, box) < self.JUMP for box in boxes) or len(boxes) > 1:
            found = self._choose(frame, boxes)
            if found is None or _moved(found.box, face.box) > self.JUMP / 2:
                return self._take(frame, found)
        return face

    def search(self, frame: np.ndarray, turns: bool = False) -> list[Box]:
        """All faces of a frame, from left to right; `num_faces` takes note.

        turns: whether to look for faces on their side and upside down, too; those are taken whose largest face is
            the surest.
        """
        best, boxes = START_SCORE, []
        for quarters in (0, 2, 1, 3) if turns else (0,):
            found = self.backend.detect(np.ascontiguousarray(np.rot90(frame, quarters)))
            turned = sorted(_turned_back(box, quarters, frame) for box in found if box.score > START_SCORE)
            face = self._look(frame, max(turned, key=lambda box: box.side)) if turned and turns else None
            if turned and (not turns or (face is not None and face.box.score > best)):
                best, boxes = face.box.score if face else best, turned
        self.num_faces = max(self.num_faces, len(boxes))
        return boxes

    def _take(self, frame: np.ndarray, face: Face | None) -> Face | None:
        self._followed, self._lost = face, 0 if face else self._lost + 1
        if face is not None and self._first is None:
            self._first = frame, face
        return face

    def _choose(self, frame: np.ndarray, boxes: list[Box]) -> Face | None:
        if self._known is None and self._first is not None and self.num_faces > 1:
            first, known = self._first
            self._known = self.backend.embedding(first, known.landmarks)
        if self._known is not None:
            found = [face for box in boxes if (face := self._look(frame, box)) is not None]
            far = [float(np.linalg.norm(self.backend.embedding(frame, face.landmarks) - self._known)) for face in found]
            return found[int(np.argmin(far))] if found and min(far) < SAME_PERSON else None
        if self.face == "largest" or self._first is not None:
            return self._look(frame, max(boxes, key=lambda box: box.side))
        number = 0 if self.face == "left" else int(self.face)
        if number >= len(boxes):
            count = f"{len(boxes)} face{'s' * (len(boxes) > 1)}"
            raise ValueError(f"The clip shows {count}, so none has the number {number}; the left one is 0.")
        return self._look(frame, boxes[number])

    def _look(self, frame: np.ndarray, rough: Box) -> Face | None:
        """The face in a box of the detector, whose grid is coarse: it is looked at until it is in the middle."""
        try:
            face = self.backend.look(frame, rough)
            for _ in range(self.LOOKS):
                if face is None:
                    return None
                before, face = face.box, self.backend.look(frame, face.box)
                if face and _moved(face.box, before) < 0.01 and abs(face.box.side / before.side - 1) < 0.01:
                    break
            return face
        except ValueError:
            return None

    def _follow(self, frame: np.ndarray, last: Face) -> Face | None:
        try:
            face = self.backend.look(frame, last.box, last)
        except ValueError:  # it has left the image
            return None
        if face is None or _moved(face.box, last.box) > self.JUMP:
            return None
        return face if 1 / self.GROW < face.box.side / last.box.side < self.GROW else None


def _moved(box: Box, other: Box) -> float:
    """The distance between two boxes, in sides of the second."""
    return float(np.hypot(box.x - other.x, box.y - other.y)) / other.side


def _turned_back(box: Box, quarters: int, frame: np.ndarray) -> Box:
    """A box found in `np.rot90(frame, quarters)` in the frame itself."""
    height, width = frame.shape[:2]
    x, y = ((box.x, box.y), (width - box.y, box.x), (width - box.x, height - box.y), (box.y, height - box.x))[quarters]
    return box._replace(x=x, y=y, roll=(box.roll + 90 * quarters + 180) % 360 - 180)


@dataclass(frozen=True)
class Track:
    """One face through a clip.

    landmarks: [T, 68, 2] float32 pixels; readings: [T, 2, 4] float32, see `appearance.read`, or None where there are
    points; found: [T] bool, False where they are filled in; rate: frames a second; size: (width, height) of the frames
    in pixels; bridged: whether filled-in frames are interpolated and used, or only held; num_faces:
    the most faces seen in one frame, among those looked at as a whole (the first, about one a second, and wherever the
    face was lost); points: the mesh [T, 620, 3] float32, see `mesh`, if the backend has one; sure: [T, 4] float32 in
    0..1, how sure the `PARTS` are, 0 in frames without a face, by default 1 in all others.
    """

    landmarks: np.ndarray
    readings: np.ndarray | None
    found: np.ndarray
    rate: Fraction
    size: tuple[int, int]
    bridged: bool = False
    num_faces: int = 1
    points: np.ndarray | None = None
    sure: np.ndarray | None = None

    @property
    def missing(self) -> list[int]:
        """Frames in which no face was found."""
        return np.flatnonzero(~self.found).tolist()

    @property
    def doubtful(self) -> dict[str, list[int]]:
        """Frames with a face of which a part is doubtful, for each of `PARTS` that has some."""
        if self.sure is None:
            return {}
        rows = {part: self.found & (sure < DOUBT) for part, sure in zip(PARTS, self.sure.T)}
        return {part: np.flatnonzero(row).tolist() for part, row in rows.items() if row.any()}

    @property
    def counted(self) -> np.ndarray:
        """[T] bool, frames whose values say something: those with a face, and bridged ones."""
        return self.found | self.bridged

    def steady(self, seconds: float = 0.035) -> np.ndarray:
        """The landmarks [T, 68, 2] without their tremble: low-passed by a Gaussian of this width, without lag."""
        flat = self.landmarks.reshape(len(self.landmarks), -1)
        return smooth(flat, self.rate, seconds, self.counted).reshape(self.landmarks.shape).astype(np.float32)


def find_face(picture: np.ndarray, backend: FaceBackend | None = None, face: str = "largest") -> np.ndarray:
    """Landmarks [68, 2] float32 of a face in an image uint8 [H, W, 3]; which one, see `Tracker`.

    Raises ValueError when there is none.
    """
    found = Tracker(backend, face).step(picture)
    if found is None:
        raise ValueError(NO_FACE)
    return found.landmarks


def track_picture(picture: np.ndarray, backend: FaceBackend | None = None, face: str = "largest") -> Track:
    """The track of one frame: a face in an image uint8 [H, W, 3]; which one, see `Tracker`.

    Raises ValueError when there is none.
    """
    found = Tracker(backend, face).step(picture)
    if found is None:
        raise ValueError(NO_FACE)
    size, seen = (picture.shape[1], picture.shape[0]), np.ones(1, bool)
    if found.points is None:
        readings = read(picture, found.landmarks)[None]
        return Track(found.landmarks[None], readings, seen, Fraction(1), size, False, 1)
    return Track(found.landmarks[None], None, seen, Fraction(1), size, False, 1, found.points[None], found.sure[None])


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
    is for the caller, who leaves these frames as they are. backend: by default `open_backend()`. face: which one, see
    `Tracker`. Raises ValueError when no frame shows a face, and as `Tracker`.
    """
    if missing not in get_args(Missing):
        raise ValueError(f"Missing faces can be handled by {', '.join(get_args(Missing))}, not by {missing!r}.")
    tracker = Tracker(backend, face)
    rows: list[tuple[np.ndarray, ...] | None] = []
    size = (0, 0)
    for index, frame in enumerate(Ahead(frames)):
        size = (frame.shape[1], frame.shape[0])
        seen = tracker.step(frame)
        if missing == "stop" and seen is None:
            raise ValueError(f"Frame {index} shows no face; cut it out or use missing='hold'.")
        if index and index % max(1, round(rate)) == 0:
            seen = tracker.check(frame, seen)
        if seen is None:
            rows.append(None)
        else:
            more = read(frame, seen.landmarks) if seen.points is None else seen.points
            rows.append((seen.landmarks, more, seen.sure))
    known = [row for row in rows if row is not None]
    if not known:
        raise ValueError("No frame shows a face; use a clip in which one face looks roughly at the camera.")
    found = np.array([row is not None for row in rows])
    fill = _bridge if missing == "interpolate" else _hold
    landmarks, more, sure = (fill(np.stack(column), found) for column in zip(*known))
    dense = more.shape[1] > 2
    return Track(
        landmarks, None if dense else more, found, Fraction(rate), size, missing == "interpolate", tracker.num_faces,
        more if dense else None, against_usual(sure, sure[found]) * found[:, None] if dense else None,
    )  # fmt: skip


def against_usual(sure: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """How sure parts [..., 4] are next to what is usual for this face and clip [T, 4]: what is as sure as the better
    quarter is quite sure. Drawn faces, blurred or small ones are never as sure as sharp photographs."""
    return np.clip(sure + 1 - np.percentile(seen, 75, axis=0), 0, 1).astype(np.float32)


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
