"""How fast faces are found, followed, placed, encoded and pasted back, how steady they are then, and how well read.

    python benchmarks/faces.py CLIP... [--frames 0]
    python benchmarks/faces.py --truth [--portraits 300] [--clips-of 30]
    python benchmarks/faces.py --sweeps SHEET [--people 12] [--steps 9] [--mediapipe PYTHON]
    python benchmarks/faces.py CLIP... --readers [--mediapipe PYTHON]
    python benchmarks/faces.py CLIP --result RESULT [--mediapipe PYTHON]
    python benchmarks/faces.py --openings --mediapipe PYTHON
    python benchmarks/faces.py --likeness FOLDER... [--sheets FOLDER]

Frames a processor second of all threads, which other programs on the machine hardly change, beside PyAV alone, which
decodes and converts the colours; and the same as shares of PyAV alone. Encoding is the built-in encoder, 16 crops at a
time. Jitter is what a cubic through five frames leaves (see stylereel.metrics.motion), of
landmarks in distances between the outer eye corners, of crops in their sides; raw is dlib's detector and predictor,
frame by frame, and the FFHQ crop of these landmarks.

With --truth: error, correlation and slope of every factor of motion, read by dlib and by the mesh, on portraits and
natural clips of the world with held-out people, against the exact values. Portraits are read like the
frames of one person each, one picture at a time.

With --sweeps: how the world draws, before anything is trained on it. Each factor of expression goes from one limit to
the other on held-out people who look straight ahead, all else at rest, and the readers measure the picture. The first
row of numbers of a reader is slope and r over the whole way, the second the slope over the first third from rest, where
small movement must not be lost; a slope of 1 is the distance that the exact landmarks (for gaze, brows and lids the
factor) move by, after one scale for a reader and measure. The sheet shows the people by the values.

With --openings: how far open a mouth looks that the built-in StyleMask draws, by that network, for values of the jaw,
beside what the world's lips are apart by; `faces.expression` gives the jaw by it.

With --readers: what dlib and the mesh read on real clips, against readers that did neither: MediaPipe's larger network
with attention to lips and eyes if --mediapipe names a Python that has mediapipe 0.10.21, and each other. Openings and
widths are in eye distances of the world's head, so that a slope of 1 means that the drawn face does as much. With
--result: the same of a driven result against its clip, both read by that network, or by dlib without it.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TypeVar, cast

import av
import numpy as np
import torch
from av.video.reformatter import Interpolation, VideoReformatter
from likeness import likeness

from stylereel import systems, world
from stylereel.core.latents import FACE, Motion
from stylereel.core.render import render
from stylereel.faces import appearance, coefficients, expression, mesh
from stylereel.faces import backend as faces
from stylereel.faces.backend import DlibBackend, FaceBackend, Track, track
from stylereel.faces.live import REST
from stylereel.faces.paste import paste
from stylereel.faces.placement import cut, place, place_by_eyes, place_ffhq, place_window
from stylereel.faces.registration import place_registered
from stylereel.invert.networks import load_encoder
from stylereel.media.clip import EXACT
from stylereel.media.pictures import save_picture
from stylereel.media.video import VideoReader
from stylereel.metrics.motion import crop_jitter, head_jitter, landmark_jitter
from stylereel.systems.sources import Encodes
from stylereel.world.factors import INDEX, LATENT_DIM, MOTION, MOTION_COLUMNS

Result = TypeVar("Result")
HELD_OUT = 7_000_000  # seeds of people from here on are not used in training
# The outlines of the lids in the 478 points of MediaPipe's larger network, in the order of `mesh.CONTOUR`.
LIDS = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173),
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398),
)
WITH_ATTENTION = """
import sys, numpy, mediapipe
stills = sys.argv[1].endswith(".npy")
net = mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=stills, refine_landmarks=True)
rows = []
def frames():
    if stills:
        yield from numpy.load(sys.argv[1])
    else:
        import av
        yield from (frame.to_ndarray(format="rgb24") for frame in av.open(sys.argv[1]).decode(video=0))
for image in frames():
    found = net.process(image).multi_face_landmarks
    size = image.shape[1], image.shape[0], image.shape[1]
    rows.append([numpy.multiply((p.x, p.y, p.z), size) for p in found[0].landmark] if found else [[0, 0, 0]] * 478)
numpy.save(sys.argv[2], numpy.array(rows, numpy.float32))
"""


def pyav_alone(path: str, most: int) -> None:
    count, reformatter = 0, VideoReformatter()
    with av.open(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            reformatter.reformat(
                frame, format="rgb24", interpolation=EXACT | Interpolation.BILINEAR, threads=1
            ).to_ndarray()
            count += 1
            if count == most:
                return


def raw_landmarks(frames: list[np.ndarray], backend: DlibBackend) -> np.ndarray:
    """dlib as it comes: the detector's largest box, one prediction, whole pixels; a missed frame repeats the last."""
    dlib, predictor = backend._dlib, backend._predictor  # under the averaging that is to be measured
    rows: list[np.ndarray] = []
    for frame in frames:
        boxes = backend.detect(frame)
        if boxes:
            box = max(boxes, key=lambda box: box.side)
            half = box.side / 2
            edges = (round(edge) for edge in (box.x - half, box.y - half, box.x + half, box.y + half))
            shape = predictor(frame, dlib.rectangle(*edges))
            rows.append(np.array([(point.x + 0.5, point.y + 0.5) for point in shape.parts()]))
        elif rows:
            rows.append(rows[-1])
    return np.stack(rows)


def measure(path: str, most: int) -> None:
    """Print speeds and jitters of one clip, of its first `most` frames if that is not 0."""
    reader, backend, encoder = VideoReader(path), DlibBackend(), load_encoder()
    count = min(reader.num_frames, most or reader.num_frames)
    speed: dict[str, float] = {}

    def timed(name: str, task: Callable[[], Result]) -> Result:
        start = time.process_time()
        result = task()
        speed[name] = count / (time.process_time() - start)
        return result

    @torch.inference_mode()
    def encode(crops: list[np.ndarray]) -> None:
        for first in range(0, count, 16):
            part = torch.from_numpy(np.stack(crops[first : first + 16]))
            encoder(part.permute(0, 3, 1, 2).float().div(127.5).sub(1))

    timed("PyAV alone", lambda: pyav_alone(path, count))
    frames = timed("decode", lambda: list(reader.frames(0, count)))
    raw = timed("dlib, frame by frame", lambda: raw_landmarks(frames, backend))
    found = timed("detect and follow", lambda: track(frames, reader.rate, backend=backend))
    marks, rate, seen = found.landmarks, found.rate, found.found
    rows = {
        "raw, FFHQ": place_ffhq(raw),
        "place": timed("place", lambda: place(marks, rate, seen)),
        "place_ffhq, 0.1 s": place_ffhq(marks, rate, seen, 0.1),
        "place_by_eyes": place_by_eyes(marks, rate, seen),
        "place_registered": timed("register", lambda: place_registered(frames, marks, rate, seen)),
        "place_window": place_window(marks, rate, seen),
    }
    crops = timed("cut, 256 px", lambda: [cut(frame, row, 256) for frame, row in zip(frames, rows["place"])])
    timed("encode", lambda: encode(crops))
    pasted = timed("paste back", lambda: [paste(*each) for each in zip(frames, crops, rows["place"])])
    print(f"{Path(path).name}: {len(frames)} frames of {reader.width} x {reader.height}")
    print(f"  without a face: {len(found.missing)}; faces: {found.num_faces}")
    print("  frames a processor second: " + ", ".join(f"{name} {value:.0f}" for name, value in speed.items()))
    share = {name: value / speed["PyAV alone"] for name, value in speed.items()}
    print("  of PyAV alone: " + ", ".join(f"{name} {value:.3f}" for name, value in share.items()))
    for name, jitter in {"landmarks within the face": landmark_jitter, "the head": head_jitter}.items():
        print(f"  jitter of {name}: raw {jitter(raw):.5f}, followed {jitter(marks):.5f}, "
              f"steady {jitter(found.steady()):.5f}")  # fmt: skip
    print("  jitter of the crop: " + ", ".join(f"{name} {crop_jitter(row):.6f}" for name, row in rows.items()))
    print(f"  seam of its own crop pasted back: {np.mean([each.seam for each in pasted]):.2f} (2 is just seen)")


def compared(read: np.ndarray, true: np.ndarray) -> str:
    """Mean absolute error, correlation and slope of readings over true values."""
    if min(np.std(true), np.std(read)) < 1e-6:
        return f"{np.abs(read - true).mean():.2f}, n/a"
    return f"{np.abs(read - true).mean():.2f}, {np.corrcoef(read, true)[0, 1]:.2f}, {np.polyfit(true, read, 1)[0]:.2f}"


def readers() -> dict[str, FaceBackend]:
    found: dict[str, FaceBackend] = {"dlib": DlibBackend()}
    return found | ({"mesh": mesh.MeshBackend()} if mesh.available() else {})


def read_picture(image: np.ndarray, backend: FaceBackend) -> np.ndarray:
    """Motion values [16] of a single picture; NaN without a face."""
    try:
        return coefficients.motion_of(track([image], Fraction(25), backend=backend)).values[0]
    except ValueError:
        return np.full(len(coefficients.NAMES), np.nan)


def truth(portraits: int, clips: int, frames: int = 50) -> None:
    """Print what is read of the world against its exact values."""
    of = readers()
    values = []
    read: dict[str, list[np.ndarray]] = {name: [] for name in of}
    for seed in range(portraits):
        values.append(world.from_latent(np.random.default_rng(HELD_OUT + seed).standard_normal(LATENT_DIM)))
        image = world.draw(values[-1], 256).image
        for name, backend in of.items():
            read[name].append(read_picture(image, backend))
    table(
        f"{portraits} portraits, each alone",
        np.stack(values)[:, MOTION_COLUMNS],
        {k: np.stack(v) for k, v in read.items()},
    )
    spent = dict.fromkeys(of, 0.0)
    values, read = [], {name: [] for name in of}
    for seed in range(clips):
        person = world.from_latent(np.random.default_rng(HELD_OUT + 100_000 + seed).standard_normal(LATENT_DIM))
        rows = np.tile(person, (frames, 1))
        manner = "expressions" if seed % 2 else "talking"
        rows[:, MOTION_COLUMNS] = world.natural_motion(HELD_OUT + seed, frames, manner=manner)
        images = [world.draw(row, 256).image for row in rows]
        for name, backend in of.items():
            start = time.process_time()
            try:
                read[name].append(coefficients.motion_of(track(images, Fraction(25), backend=backend)).values)
            except ValueError:
                read[name].append(np.full((frames, len(MOTION_COLUMNS)), np.nan))
            spent[name] += time.process_time() - start
        values.append(rows[:, MOTION_COLUMNS])
    table(f"{clips} clips of {frames} frames", np.concatenate(values), {k: np.concatenate(v) for k, v in read.items()})
    print(", ".join(f"{name}: {1000 * each / clips / frames:.1f} ms a frame" for name, each in spent.items()))


def table(title: str, true: np.ndarray, read: dict[str, np.ndarray]) -> None:
    """Print a row for every factor: error, correlation, slope by each reader, over the frames that all have read."""
    seen = np.all([np.isfinite(each[:, 0]) for each in read.values()], axis=0)
    lost = ", ".join(f"{name} {int(np.isnan(each[:, 0]).sum())}" for name, each in read.items())
    print(f"\n{title}; without a face: {lost}\n\n| factor | {' | '.join(read)} |\n|{'---|' * (1 + len(read))}")
    for index, name in enumerate(coefficients.NAMES):
        if name in ("shift_x", "shift_y", "scale"):  # against the clip's own framing
            continue
        cells = [compared(each[seen, index], true[seen, index]) for each in read.values()]
        print(f"| {name} | {' | '.join(cells)} |")


# What of a face's points moves with each factor that is swept.
SWEPT = {
    "jaw": "opening", "smile": "lift", "pucker": "width", "funnel": "width", "press": "lips", "smile_side": "slant",
    "jaw_side": "chin", "brow_right": "brow right", "brow_left": "brow left", "blink_right": "lid right",
    "blink_left": "lid left", "gaze_x": "gaze x", "gaze_y": "gaze y",
}  # fmt: skip


def points_measures(points: np.ndarray, iris: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Lengths on iBUG points [T, 68, 2] of upright faces, in distances between the outer corners of the eyes; lids and
    iris [T, 2] (offset from the middle of the eyes, in eye widths) as they are."""
    eyes = points[:, [36, 45]]
    right = (eyes[:, 1] - eyes[:, 0]) @ (1, 1j)
    turned = ((points - eyes.mean(1, keepdims=True)) @ (1, 1j)) / right[:, None]
    x, y = turned.real, turned.imag
    found = {
        "opening": (y[:, [65, 66, 67]] - y[:, [63, 62, 61]]).mean(1),
        "lift": y[:, 33] - y[:, [48, 54]].mean(1),
        "width": x[:, 54] - x[:, 48],
        "lips": (y[:, 57] - y[:, 51]) - (y[:, 66] - y[:, 62]),
        "slant": y[:, 48] - y[:, 54],
        "chin": x[:, [7, 8, 9]].mean(1) - x[:, 27:31].mean(1),
        "brow right": y[:, [36, 39]].mean(1) - y[:, 18:21].mean(1),
        "brow left": y[:, [42, 45]].mean(1) - y[:, 23:26].mean(1),
        "lid right": (y[:, [37, 38]] - y[:, [41, 40]]).mean(1) / (x[:, 39] - x[:, 36]),
        "lid left": (y[:, [43, 44]] - y[:, [47, 46]]).mean(1) / (x[:, 45] - x[:, 42]),
    }
    return found | ({"gaze x": iris[:, 0], "gaze y": iris[:, 1]} if iris is not None else {})


def mesh_measures(points: np.ndarray) -> dict[str, np.ndarray]:
    """The same of meshes [T, 620, 3]."""
    offsets = []
    for contour, iris in zip(mesh.CONTOUR, mesh.IRIS):
        corners = points[:, [contour.start, contour.start + 8], :2] @ (1, 1j)
        across = corners[:, 1] - corners[:, 0]
        across *= np.sign(across.real)
        off = (points[:, iris.start, :2] @ (1, 1j) - corners.mean(1)) / across
        offsets.append(np.stack([off.real, off.imag], 1))
    return points_measures(points[:, mesh.IBUG, :2], np.mean(offsets, 0))


def dlib_measures(images: list[np.ndarray], marks: np.ndarray) -> dict[str, np.ndarray]:
    """The same by dlib, started from the exact landmarks [T, 68, 2] in pixels."""
    backend = DlibBackend()
    points = np.stack([backend.landmarks(image, faces.box_around(row)) for image, row in zip(images, marks)])
    iris = np.stack([appearance.read(image, row)[:, :2].mean(0) for image, row in zip(images, points)])
    return points_measures(points, iris)


def mesh_of(images: list[np.ndarray], marks: np.ndarray) -> np.ndarray:
    """Meshes [T, 620, 3] of pictures by our own mesh, started from the exact landmarks; NaN where it sees no face."""
    backend, rows = mesh.MeshBackend(), []
    for image, row in zip(images, marks):
        box = faces.box_around(row)
        for _ in range(2):
            found = backend.look(image, box)
            box = found.box if found is not None else box
        rows.append(np.full((mesh.POINTS, 3), np.nan) if found is None else found.points)
    return np.stack(rows)


def sweeps(sheet: str, people: int, steps: int, python: str | None) -> None:
    """Print what each factor moves in the readers' eyes, and write the sheet; see the top."""
    values, images, marks = [], [], []
    for seed in range(people):
        person = world.from_latent(np.random.default_rng(HELD_OUT + 200_000 + seed).standard_normal(LATENT_DIM))
        for name in MOTION:
            person[INDEX[name]] = world.neutral()[INDEX[name]]
        for name in (each for each in SWEPT if each in INDEX):
            rows = np.tile(person, (steps, 1))
            rows[:, INDEX[name]] = np.linspace(world.LOW[INDEX[name]], world.HIGH[INDEX[name]], steps)
            values.append(rows)
    drawn_by = [world.draw(row, 256) for rows in values for row in rows]
    images = [each.image for each in drawn_by]
    marks = np.stack([each.landmarks for each in drawn_by]) * 256
    factors = [name for name in SWEPT if name in INDEX]
    shape = people, len(factors), steps
    all_values = np.concatenate(values)
    true = points_measures(marks, all_values[:, [INDEX["gaze_x"], INDEX["gaze_y"]]] * (0.208, 0.135))
    read = {"dlib": dlib_measures(images, marks)}
    if mesh.available():
        read["mesh"] = mesh_measures(mesh_of(images, marks))
    if python is not None:
        read["attention"] = mesh_measures(with_attention(images, python))
    head = " | ".join(f"{name}: slope, r, first third" for name in read)
    print(f"{people} people, {steps} values of each factor\n\n| factor | measure | moves by | {head} |")
    print(f"|{'---|' * (3 + len(read))}")
    for index, name in enumerate(factors):
        kind = SWEPT[name]

        def from_rest(found: np.ndarray, index: int = index, name: str = name) -> np.ndarray:
            """[people, steps] of one factor, as differences from the value nearest to rest."""
            rows = found.reshape(shape)[:, index]
            place = np.linspace(world.LOW[INDEX[name]], world.HIGH[INDEX[name]], steps)
            return rows - rows[:, [np.abs(place - world.neutral()[INDEX[name]]).argmin()]]

        moved = from_rest(true[kind])
        cells = []
        for found in read.values():
            seen = from_rest(found[kind])
            fine = np.isfinite(seen)
            small = fine & (np.abs(moved) <= np.abs(moved).max() / 3)
            slope = np.polyfit(moved[fine], seen[fine], 1)[0]
            first = (moved[small] * seen[small]).sum() / (moved[small] ** 2).sum()
            cells.append(f"{slope:.2f}, {np.corrcoef(moved[fine], seen[fine])[0, 1]:.2f}, {first:.2f}")
        print(f"| {name} | {kind} | {np.ptp(moved):.3f} | {' | '.join(cells)} |", flush=True)
    crops = np.stack(images).reshape(*shape, 256, 256, 3)[:, :, :, 84:240, 52:204]
    for number, name in enumerate(factors):
        if name in SHEETS:
            place = Path(sheet).with_stem(f"{Path(sheet).stem}-{name}")
            save_picture(place, np.concatenate([np.concatenate(list(row), 1) for row in crops[:6, number]]))


HALF_CLOSED = 10  # frames of a clip from which their gaze is compared
SHEETS = ("jaw", "smile", "funnel", "smile_side", "jaw_side", "blink_left")


def shown(points: np.ndarray) -> dict[str, np.ndarray]:
    """What a mesh [T, 620, 3] shows, of what is compared on real clips."""
    head = expression.head_pose(points)
    seen: dict[str, np.ndarray] = dict(zip(expression.MEASURES, expression.measures(head.frontal).T))
    lids = {
        f"lid {side}": 1 - seen[f"lids_{side}"] / np.percentile(seen[f"lids_{side}"], 90) for side in ("right", "left")
    }
    brows = {f"brow {side}": seen[f"brow_{side}"] / 0.084 for side in ("right", "left")}
    gaze = (seen["iris_right"] + seen["iris_left"]) / 2 / 0.208
    pose = {name: head.pose[name] for name in ("yaw", "pitch", "roll")}
    opening, width = seen["opening"] - np.percentile(seen["opening"], 5), seen["width"]
    return (
        pose | {"opening": opening, "width": width} | lids | brows | {"gaze x": gaze, "gaze y": seen["iris_y"] / 0.135}
    )


def drawn(values: np.ndarray) -> dict[str, np.ndarray]:
    """The same of motion values [T, 20], as the world draws it."""
    value: dict[str, np.ndarray] = dict(zip(coefficients.NAMES, values.T))
    pose = {name: value[name] for name in ("yaw", "pitch", "roll")}
    lids = {f"lid {side}": value[f"blink_{side}"] for side in ("right", "left")}
    brows = {f"brow {side}": value[f"brow_{side}"] for side in ("right", "left")}
    funnel = value["funnel"] * (1 - 0.6 * value["pucker"])  # as `people.without_funnel` has it
    width = 0.087 * value["smile"] - 0.184 * np.clip(value["pucker"] + 1.1 * funnel, 0, 1) - 0.051 * value["jaw"]
    mouth = {"opening": 0.282 * value["jaw"] + 0.075 * funnel, "width": width}
    return pose | mouth | lids | brows | {"gaze x": value["gaze_x"], "gaze y": value["gaze_y"]}


def tracks_compared(
    truth: dict[str, np.ndarray], read: list[dict[str, np.ndarray]]
) -> Iterator[tuple[str, float, list[str]]]:
    """Name and spread of each track and how each reading compares with it; gaze where both eyes are open, and where the
    more open one is half closed."""
    closed = np.stack([truth["lid right"], truth["lid left"]])
    looks, half = closed.max(0) < 0.4, (closed.min(0) >= 0.35) & (closed.min(0) < 0.7)
    for name in truth:
        gaze = name.startswith("gaze")
        usual = looks if gaze and looks.any() else np.ones_like(looks)
        rows = [(name, usual)]
        if gaze and half.sum() >= HALF_CLOSED:
            rows.append((f"{name}, half-closed", half))
        for title, seen in rows:
            away = [each[name][seen] - np.median(each[name][usual]) for each in (truth, *read)]
            yield title, float(np.std(away[0])), [compared(each, away[0]) for each in away[1:]]


def with_attention(path: str | list[np.ndarray], python: str) -> np.ndarray:
    """MediaPipe's larger network on a clip or on pictures, each alone, as meshes [T, 620, 3] of which lids and irises
    are filled in; without a face all is 0 in a clip and NaN for pictures."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "points.npy"
        if not isinstance(path, str):
            np.save(Path(folder) / "images.npy", np.stack(path))
            points = with_attention(str(Path(folder) / "images.npy"), python)
            points[(points == 0).all((1, 2))] = np.nan
            return points
        subprocess.run([python, "-c", WITH_ATTENTION, path, str(out)], check=True, stderr=subprocess.DEVNULL)
        found = np.load(out)
    points = np.zeros((len(found), mesh.POINTS, 3), np.float32)
    points[:, :468], points[:, 610:] = found[:, :468], found[:, 468:]
    for contour, lids in zip(mesh.CONTOUR, LIDS):
        points[:, contour.start : contour.start + 16] = found[:, list(lids)]
    for row in points:
        for side, corners in enumerate(mesh.CORNERS):
            for part in (mesh.CONTOUR[side], mesh.IRIS[side]):
                mesh.put_on_ball(row[part], row[corners])
    return points


def by_readers(path: str, python: str | None) -> None:
    """Print what dlib and the mesh read on a real clip, against another reader."""
    reader = VideoReader(path)
    frames = list(reader)
    tracks: dict[str, Track] = {}
    line = []
    for name, backend in readers().items():
        faces.track(frames[:5], reader.rate, backend=backend)  # warm
        start = time.process_time()
        tracks[name] = faces.track(frames, reader.rate, backend=backend)
        spent = 1000 * (time.process_time() - start) / len(frames)
        line.append(f"{name} {spent:.1f} ms a frame, {len(tracks[name].missing)} without a face")
    doubtful = {part: len(rows) for part, rows in tracks["mesh"].doubtful.items()}
    print(f"\n{Path(path).name}: {len(frames)} frames; {'; '.join(line)}; doubtful for the mesh: {doubtful or 'none'}")
    read = {name: drawn(coefficients.motion_of(each).values) for name, each in tracks.items()}
    # The same points by both: where they part by a quarter of the eye distance, one has left the face.
    eyes = np.linalg.norm(tracks["mesh"].landmarks[:, 36] - tracks["mesh"].landmarks[:, 45], axis=1)
    steady = [27, 28, 29, 30, 33, 36, 39, 42, 45, 48, 54]
    apart = np.linalg.norm(tracks["mesh"].landmarks - tracks["dlib"].landmarks, axis=2)[:, steady].mean(1) / eyes
    print(f"dlib and the mesh part by over .25 eye distances in {(apart > 0.25).sum()} frames")
    if python is None:
        other, named = read["dlib"], "dlib"
    else:
        points = with_attention(path, python)
        other, named = shown(points), "the network with attention"
        away = np.linalg.norm(points[:, mesh.IBUG[steady[:5]], :2] - tracks["mesh"].landmarks[:, steady[:5]], axis=2)
        off = away.mean(1) / eyes > 0.25
        sure = set().union(*tracks["mesh"].doubtful.values(), tracks["mesh"].missing)
        unnoticed = sum(index not in sure for index in np.flatnonzero(off))
        print(f"the mesh is off by over .25 in {off.sum()} frames, unnoticed in {unnoticed}")
        opened = other["opening"] > 0.07
        for name, each in read.items():
            still = (each["opening"][opened] < 0.02).mean()
            closed = np.stack([(each[side] > 0.7) & (other[side] < 0.35) for side in ("lid right", "lid left")])
            shut = f"{still:.1%} of {opened.sum()} open mouths read as shut"
            print(f"{name}: {shut}; {closed.any(0).sum()} frames with a shut lid over an open eye")
    print(f"\n| error, r, slope against {named} | moves by | {' | '.join(read)} |\n|{'---|' * (2 + len(read))}")
    for name, spread, cells in tracks_compared(other, list(read.values())):
        print(f"| {name} | {spread:.3f} | {' | '.join(cells)} |")


def openings(python: str) -> None:
    """Print how far open drawn mouths look, over ten people, for values of the jaw."""
    system = cast(Encodes, systems.load("stylemask"))
    jaws = [0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1]
    values = np.tile(REST, (len(jaws), 1))
    values[:, coefficients.NAMES.index("jaw")] = jaws
    motion = Motion(
        values, FACE, coefficients.NAMES, Fraction(25), np.tile(np.array([0.5, 0.5, 1, 0], np.float32), (len(jaws), 1))
    )
    people = [1, 29, *range(3, 18, 2)]
    pictures = [frame for seed in people for frame in render(system, system.identify(seed), motion)]
    seen = expression.measures(expression.head_pose(with_attention(pictures, python)).frontal)[:, 0]
    seen = seen.reshape(len(people), -1)
    print("| jaw | lips apart | seen, median of ten people | least | most |\n|---|---|---|---|---|")
    for column, jaw in enumerate(jaws):
        each = seen[:, column] - seen[:, 0]
        print(f"| {jaw} | {0.282 * jaw:.3f} | {np.median(each):.3f} | {each.min():.3f} | {each.max():.3f} |")


def by_result(path: str, result: str, python: str | None) -> None:
    """Print how a driven result follows its clip, as one reader sees both."""

    def read(clip: str) -> dict[str, np.ndarray]:
        if python is not None:
            return shown(with_attention(clip, python))
        reader = VideoReader(clip)
        return drawn(coefficients.motion_of(track(reader, reader.rate, backend=DlibBackend())).values)

    clip, made = read(path), read(result)
    rows = min(len(clip["yaw"]), len(made["yaw"]))
    clip, made = ({name: each[:rows] for name, each in of.items()} for of in (clip, made))
    opened = clip["opening"] > 0.07
    closed = np.stack([(made[side] > 0.7) & (clip[side] < 0.35) for side in ("lid right", "lid left")])
    shut = (made["opening"][opened] < 0.02).mean()
    print(f"\n{Path(result).name}: {shut:.1%} of {opened.sum()} open mouths are shut; a shut lid for an open one in "
          f"{closed.any(0).sum()} of {rows} frames")  # fmt: skip
    print("\n| | moves by | error, r, slope |\n|---|---|---|")
    for name, spread, (cell,) in tracks_compared(clip, [made]):
        print(f"| {name} | {spread:.3f} | {cell} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="*")
    parser.add_argument("--truth", action="store_true")
    parser.add_argument("--portraits", type=int, default=300)
    parser.add_argument("--clips-of", type=int, default=30, help="clips of the world for --truth")
    parser.add_argument("--sweeps", metavar="SHEET", help="a PNG: sweep each factor, and write sheets by this name")
    parser.add_argument("--people", type=int, default=12, help="people of --sweeps")
    parser.add_argument("--steps", type=int, default=9, help="values of each factor in --sweeps")
    parser.add_argument("--openings", action="store_true", help="how open drawn mouths look; needs --mediapipe")
    parser.add_argument("--readers", action="store_true")
    parser.add_argument("--mediapipe", help="a Python with mediapipe 0.10.21, for --readers")
    parser.add_argument("--frames", type=int, default=0, help="frames of each clip at most; 0 takes all")
    parser.add_argument("--result", help="a clip that the first clip has driven")
    parser.add_argument("--likeness", nargs="+", metavar="FOLDER", help="folders of photographs and clips with labels")
    parser.add_argument("--sheets", default="likeness", help="where --likeness writes its sheets")
    arguments = parser.parse_args()
    if arguments.likeness:
        likeness(arguments.likeness, arguments.sheets)
    elif arguments.truth:
        truth(arguments.portraits, arguments.clips_of)
    elif arguments.sweeps:
        sweeps(arguments.sweeps, arguments.people, arguments.steps, arguments.mediapipe)
    elif arguments.openings:
        if not arguments.mediapipe:
            parser.error("--openings needs --mediapipe.")
        openings(arguments.mediapipe)
    elif not arguments.clips:
        parser.error("Give one clip or more, --truth, --sweeps, --openings or --likeness.")
    for path in arguments.clips:
        if arguments.result:
            by_result(path, arguments.result, arguments.mediapipe)
        elif arguments.readers:
            by_readers(path, arguments.mediapipe)
        else:
            measure(path, arguments.frames)


if __name__ == "__main__":
    main()
