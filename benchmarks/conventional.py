"""Our file against H.264, H.265 and AV1: what `benchmarks/codec.py --compare` runs.

World clips of held-out people are the originals themselves; of a real clip, whose motion file is given, the original is
what the built-in family shows of it. All codecs compress the same frames of 256 px at 25 frames a second; the others
also at half size and half the rate (results enlarged, frames repeated). Ours are whole files without sound: header,
person, motion, crops, index, checks. Each is measured against the original.
"""

from __future__ import annotations

import io
import os
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.video.stream import VideoStream
from PIL import Image
from scipy.interpolate import PchipInterpolator

from stylereel import codec, systems, world
from stylereel.core.latents import FACE, Identity, Motion
from stylereel.core.render import render
from stylereel.faces.pose import smooth
from stylereel.invert.perceptual import Perceptual, distance
from stylereel.media.writer import usual_priority
from stylereel.metrics.exact import HELD_OUT, by_face_net
from stylereel.metrics.features import to_unit
from stylereel.metrics.likeness import builtin_embeddings, cosine
from stylereel.world.factors import HIGH, LOW, MOTION, MOTION_COLUMNS

os.environ.setdefault("SVT_LOG", "1")  # errors alone
CODECS = {"H.264": ("libx264", "slow", (51, 47, 43, 39)), "H.265": ("libx265", "medium", (51, 47, 43, 39)),
          "AV1": ("libsvtav1", "6", (63, 58, 53, 48))}  # fmt: skip
RATES = (0.5, 1.0, 2.0, 5.0)
SIDE = 256
MEASURES = ("kbit/s", "identity", "key points, % of eyes", "mouth", "gaze", "features", "PSNR, dB")


@dataclass(frozen=True)
class Original:
    """Frames uint8 [T, 256, 256, 3], and what ours makes of them: person and numbers."""

    name: str
    frames: np.ndarray
    identity: Identity
    motion: Motion


def originals(clips: int, frames: int, motions: list[Path]) -> list[Original]:
    """World clips of held-out people, and real clips as a built-in person shows them."""
    system, found = systems.load("expressive"), []
    for number in range(clips):
        seed = HELD_OUT + 100_000 + number
        values = np.repeat(world.from_latent(np.random.default_rng((seed, 1)).standard_normal((1, 80))), frames, 0)
        moved = world.natural_motion(seed, frames, Fraction(25), ("talking", "expressions")[number % 2])  # type: ignore[arg-type]
        values[:, MOTION_COLUMNS] = np.clip(moved, LOW[MOTION_COLUMNS], HIGH[MOTION_COLUMNS])
        images = np.stack([world.draw(one, SIDE).image for one in world.align(values)])
        read = np.concatenate([system.read_images(to_unit(part)) for part in np.split(images, range(8, frames, 8))])  # type: ignore[attr-defined]
        motion = motion_of(smooth(read, Fraction(25), 0.03))
        found.append(Original(f"world {number}", images, system.identify(images[0]), motion))
    for path in motions:
        motion = Motion.load(path)
        motion = motion.at_rate(Fraction(25)).part(0, frames)
        identity = system.identify(1)
        images = np.stack(list(render(system, identity, motion)))
        found.append(Original(path.stem, images, identity, motion))
    return found


def motion_of(values: np.ndarray) -> Motion:
    return Motion(
        values, FACE, MOTION, Fraction(25), np.tile(np.array([128, 128, 200, 0], np.float32), (len(values), 1))
    )


def ours(original: Original, rate: float, kind: str, folder: Path) -> tuple[float, np.ndarray]:
    """kbit/s of the whole file, and the frames; kind: which coordinates are coded."""
    system, path = systems.load("expressive"), folder / "a.talk"
    motion = original.motion if kind == "face" else system.encode_face(original.motion)  # type: ignore[attr-defined]
    sizes = codec.write(path, motion, original.identity, "expressive", "00" * 32, rate=rate)
    talk = codec.read(path)
    assert isinstance(talk.identity, Identity)
    seconds = len(motion) / 25
    return sizes.kilobits(seconds), np.stack(list(render(system, talk.identity, talk.motion)))


def theirs(frames: np.ndarray, name: str, quality: int, half: bool, slow: bool) -> tuple[float, np.ndarray]:
    """kbit/s of a conventional codec's packets, and the frames."""
    library, preset, _ = CODECS[name]
    shown = frames[::2] if slow else frames
    side = SIDE // 2 if half else SIDE
    shown = [Image.fromarray(frame).resize((side, side), Image.Resampling.LANCZOS) for frame in shown]
    file = io.BytesIO()
    with usual_priority(), av.open(file, "w", format="mp4") as box:
        stream = box.add_stream(library, rate=Fraction(25, 2) if slow else 25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        stream.options = {"crf": str(quality), "preset": preset, "x265-params": "log-level=none"}
        stream.codec_context.gop_size = 10_000
        size = 0
        for frame in [*(av.VideoFrame.from_image(one) for one in shown), None]:
            for packet in stream.encode(frame):
                size += packet.size
                box.mux(packet)
    file.seek(0)
    with av.open(file, "r") as made:
        decoded = [frame.to_image() for frame in made.decode(video=0)]
    whole = [np.asarray(one.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for one in decoded]
    back = np.stack(whole)
    back = np.repeat(back, 2, 0)[: len(frames)] if slow else back
    return 8 * size / (len(frames) / 25) / 1000, back


class Judge:
    """Measures of frames against an original, by networks."""

    def __init__(self, original: Original) -> None:
        self.frames, self.perceptual = original.frames, Perceptual.best()
        self.points, self.motion = by_face_net(original.frames)
        self.embeddings, self.vectors = builtin_embeddings(original.frames), self._vectors(original.frames)
        eyes = np.linalg.norm(self.points[:, 36:42].mean(1) - self.points[:, 42:48].mean(1), axis=1)
        self.apart = float(eyes.mean())

    @torch.inference_mode()
    def _vectors(self, frames: np.ndarray) -> torch.Tensor:
        return torch.cat([self.perceptual(to_unit(part)).half() for part in np.split(frames, range(8, len(frames), 8))])

    def __call__(self, kilobits: float, frames: np.ndarray) -> dict[str, float]:
        points, motion = by_face_net(frames)
        moved = np.abs(motion - self.motion).mean(0)
        features = distance(self._vectors(frames).float(), self.vectors.float()).mean()
        error = np.square(frames.astype(float) - self.frames).mean((1, 2, 3))
        return {
            "kbit/s": kilobits,
            "identity": float(cosine(builtin_embeddings(frames), self.embeddings).mean()),
            "key points, % of eyes": 100 * float(np.linalg.norm(points - self.points, axis=2).mean()) / self.apart,
            "mouth": float(moved[MOTION.index("jaw")]),
            "gaze": float(moved[[MOTION.index("gaze_x"), MOTION.index("gaze_y")]].mean()),
            "features": float(features),
            "PSNR, dB": float((10 * np.log10(255**2 / np.maximum(error, 1e-9))).mean()),
        }


def compare(clips: int, frames: int, motions: list[Path]) -> dict[str, list[dict[str, float]]]:
    """Of each codec and setting the measures, mean over the originals."""
    sums: dict[str, list[list[dict[str, float]]]] = {}
    for original in originals(clips, frames, motions):
        judge = Judge(original)
        with tempfile.TemporaryDirectory() as folder:
            for kind, title in {"face": "ours, 20 factors", "numbers": "ours, 35 numbers"}.items():
                curve = [judge(*ours(original, rate, kind, Path(folder))) for rate in RATES]
                sums.setdefault(title, []).append(curve)
        for name, (_, _, qualities) in CODECS.items():
            for suffix, half, slow in (("", False, False), (", half size", True, False), (", half rate", False, True)):
                curve = [judge(*theirs(original.frames, name, quality, half, slow)) for quality in qualities]
                sums.setdefault(name + suffix, []).append(curve)
        print(f"{original.name} done", flush=True)
    return {title: [{key: float(np.mean([curve[place][key] for curve in curves])) for key in MEASURES}
                    for place in range(len(curves[0]))] for title, curves in sums.items()}  # fmt: skip


def bd_rate(curve: list[dict[str, float]], anchor: list[dict[str, float]], measure: str) -> str:
    """Percent of bits more at the same quality (Bjontegaard 2001, monotone cubics), or why there is none."""
    sides = []
    for points in (curve, anchor):
        points = sorted(points, key=lambda one: one[measure])
        quality, bits = [one[measure] for one in points], [np.log(one["kbit/s"]) for one in points]
        if min(np.diff(quality)) <= 0 or len({*quality}) < 4:
            return "not monotone"
        sides.append((quality, PchipInterpolator(quality, bits)))
    low, high = max(side[0][0] for side in sides), min(side[0][-1] for side in sides)
    if high <= low:
        return "no common quality"
    means = [float(fit.integrate(low, high)) / (high - low) for _, fit in sides]
    return f"{100 * (np.exp(means[0] - means[1]) - 1):+.0f} %"


def show(found: dict[str, list[dict[str, float]]]) -> str:
    """The tables in Markdown."""
    head = ["codec", *MEASURES]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for title, curve in found.items():
        lines += ["| " + " | ".join([title, *(f"{point[key]:.3g}" for key in MEASURES)]) + " |" for point in curve]
    lines += ["", "BD-rate against H.265:", ""]
    for title, curve in found.items():
        if title != "H.265":
            keys = ("features", "key points, % of eyes", "PSNR, dB")
            rates = [f"{key} {bd_rate(curve, found['H.265'], key)}" for key in keys]
            lines.append(f"- {title}: " + "; ".join(rates))
    return "\n".join(lines)


def draw(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Curves of key points and of features over the rate, as a picture."""
    from PIL import ImageDraw

    panels = ("key points, % of eyes", "features", "identity")
    wide, high, edge = 420, 360, 56
    canvas = Image.new("RGB", (wide * len(panels), high + 40), "white")
    pen = ImageDraw.Draw(canvas)
    shown = {"ours, 35 numbers": "#c0392b", "ours, 20 factors": "#e67e22"}
    shown |= {"H.264": "#7f8c8d", "H.265": "#2980b9", "AV1": "#27ae60"}
    bits = [point["kbit/s"] for title in shown for point in found[title]]
    left, right = np.log(min(bits)) - 0.1, np.log(max(bits)) + 0.1
    for number, measure in enumerate(panels):
        values = [point[measure] for title in shown for point in found[title]]
        low, top = (min(values), 1.0) if measure == "identity" else (0.0, max(values))
        at = lambda x, y: (number * wide + edge + (np.log(x) - left) / (right - left) * (wide - edge - 12),  # noqa: E731, B023
                           high - 30 - (y - low) / (top - low) * (high - 70))  # noqa: B023  # fmt: skip
        pen.text((number * wide + edge, 8), measure + (" (lower is better)" if number < 2 else ""), fill="black")
        pen.line([at(np.exp(left), low), at(np.exp(right), low)], fill="black")
        pen.line([at(np.exp(left), low), at(np.exp(left), top)], fill="black")
        for tick in (1, 2, 5, 10, 20, 50):
            if left < np.log(tick) < right:
                x, y = at(tick, low)
                pen.text((x - 4, y + 4), f"{tick}", fill="black")
        for tick in (low, (low + top) / 2, top):
            pen.text((number * wide + 8, at(1, tick)[1] - 6), f"{tick:.2g}", fill="black")
        pen.text((number * wide + wide - 70, high - 14), "kbit/s", fill="black")
        for title, colour in shown.items():
            places = [at(point["kbit/s"], point[measure]) for point in found[title]]
            pen.line(places, fill=colour, width=3)
            for x, y in places:
                pen.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour)
    for number, (title, colour) in enumerate(shown.items()):
        pen.rectangle([20 + 180 * number, high + 14, 32 + 180 * number, high + 26], fill=colour)
        pen.text((38 + 180 * number, high + 14), title, fill="black")
    canvas.save(path)
