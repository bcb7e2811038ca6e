"""Our file against H.264, H.265 and AV1: what `benchmarks/codec.py --compare` runs.

World clips of held-out people are the originals themselves; of a real clip, given as video or motion file, the original
is what the built-in family shows of it. All codecs compress the same frames of 256 px at 25 frames a second; the others
also at half size and half the rate (results enlarged, frames repeated). Ours are whole files without sound: header,
person, motion, crops, index, checks. Every fifth frame is measured against the original's.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
EVERY = 5  # of the frames, those that are measured: odd, so that half the rate is seen with and without repetition
MEASURES = ("kbit/s", "identity", "key points, % of eyes", "mouth", "gaze", "features", "PSNR, dB")


@dataclass(frozen=True)
class Original:
    """Frames uint8 [T, 256, 256, 3], and what ours makes of them: person and numbers."""

    name: str
    frames: np.ndarray
    identity: Identity
    motion: Motion


def original_of(clip: int | Path, frames: int) -> Original:
    """A clip of a held-out person of the world, by number, or a real one as a built-in person shows it."""
    system = systems.load("expressive")
    if isinstance(clip, Path):
        saved = clip.suffix == ".safetensors"
        motion = Motion.load(clip) if saved else systems.load("stylemask").extract(clip)  # type: ignore[attr-defined]
        motion = motion.at_rate(Fraction(25)).part(0, frames)
        identity = system.identify(1)
        return Original(clip.stem, np.stack(list(render(system, identity, motion))), identity, motion)
    seed = HELD_OUT + 100_000 + clip
    values = np.repeat(world.from_latent(np.random.default_rng((seed, 1)).standard_normal((1, 80))), frames, 0)
    moved = world.natural_motion(seed, frames, Fraction(25), ("talking", "expressions")[clip % 2])  # type: ignore[arg-type]
    values[:, MOTION_COLUMNS] = np.clip(moved, LOW[MOTION_COLUMNS], HIGH[MOTION_COLUMNS])
    images = np.stack([world.draw(one, SIDE).image for one in world.align(values)])
    read = np.concatenate([system.read_images(to_unit(part)) for part in np.split(images, range(8, frames, 8))])  # type: ignore[attr-defined]
    motion = motion_of(smooth(read, Fraction(25), 0.03))
    return Original(f"world {clip}", images, system.identify(images[0]), motion)


def motion_of(values: np.ndarray) -> Motion:
    return Motion(
        values, FACE, MOTION, Fraction(25), np.tile(np.array([128, 128, 200, 0], np.float32), (len(values), 1))
    )


def ours(original: Original, rate: float, kind: str, folder: Path) -> tuple[float, np.ndarray]:
    """kbit/s of the whole file, and the frames that are measured; kind: which coordinates are coded."""
    system, path = systems.load("expressive"), folder / "a.talk"
    motion = original.motion if kind == "face" else system.encode_face(original.motion)  # type: ignore[attr-defined]
    sizes = codec.write(path, motion, original.identity, "expressive", "00" * 32, rate=rate)
    talk = codec.read(path)
    assert isinstance(talk.identity, Identity)
    part = replace(
        talk.motion, values=talk.motion.values[::EVERY], placement=talk.motion.placement[::EVERY], missing=()
    )
    return sizes.kilobits(len(motion) / 25), np.stack(list(render(system, talk.identity, part)))


def theirs(frames: np.ndarray, name: str, quality: int, half: bool, slow: bool) -> tuple[float, np.ndarray]:
    """kbit/s of a conventional codec's packets, and the frames that are measured."""
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
    return 8 * size / (len(frames) / 25) / 1000, back[::EVERY]


class Judge:
    """Measures of frames against an original, by networks."""

    def __init__(self, original: Original) -> None:
        self.frames, self.perceptual = original.frames[::EVERY], Perceptual.best()
        self.points, self.motion = by_face_net(self.frames)
        self.embeddings, self.vectors = builtin_embeddings(self.frames), self._vectors(self.frames)
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


Curves = dict[str, list[dict[str, float]]]  # of each codec the measures at each setting


def compare(clips: int, frames: int, real: list[Path], kept: Path | None = None) -> dict[str, Curves]:
    """The curves of each clip. In `kept`, a file, are those of clips measured before, and of new ones."""
    found: dict[str, Curves] = json.loads(kept.read_text()) if kept and kept.exists() else {}
    names: dict[str, int | Path] = {f"world {number}": number for number in range(clips)}
    names |= {path.stem: path for path in real}
    for name, clip in names.items():
        if name not in found:
            found[name] = dict(curves_of(original_of(clip, frames)))
            print(f"{name} done", flush=True)
            if kept:
                kept.write_text(json.dumps(found, indent=1))
    return found


def curves_of(original: Original) -> Iterator[tuple[str, list[dict[str, float]]]]:
    judge = Judge(original)
    with tempfile.TemporaryDirectory() as folder:
        for kind, title in {"face": "ours, 20 factors", "numbers": "ours, 35 numbers"}.items():
            yield title, [judge(*ours(original, rate, kind, Path(folder))) for rate in RATES]
    for name, (_, _, qualities) in CODECS.items():
        for suffix, half, slow in (("", False, False), (", half size", True, False), (", half rate", False, True)):
            yield name + suffix, [judge(*theirs(original.frames, name, one, half, slow)) for one in qualities]


def mean(found: dict[str, Curves]) -> Curves:
    """The mean over clips."""
    first = next(iter(found.values()))
    return {title: [{key: float(np.mean([curves[title][place][key] for curves in found.values()])) for key in MEASURES}
                    for place in range(len(curve))] for title, curve in first.items()}  # fmt: skip


def bd_rate(curve: list[dict[str, float]], anchor: list[dict[str, float]], measure: str) -> float:
    """Percent of bits more at the same quality (Bjontegaard 2001, monotone cubics); NaN where a curve is not monotone
    or no quality is common."""
    sides = []
    for points in (curve, anchor):
        points = sorted(points, key=lambda one: one[measure])
        quality, bits = [one[measure] for one in points], [np.log(one["kbit/s"]) for one in points]
        if min(np.diff(quality)) <= 0 or (np.diff(bits) > 0).all() == (np.diff(bits) < 0).all():
            return float("nan")
        sides.append((quality, PchipInterpolator(quality, bits)))
    low, high = max(side[0][0] for side in sides), min(side[0][-1] for side in sides)
    if high <= low:
        return float("nan")
    means = [float(fit.integrate(low, high)) / (high - low) for _, fit in sides]
    return 100 * (np.exp(means[0] - means[1]) - 1)


def show(found: dict[str, Curves]) -> str:
    """The tables in Markdown: the mean over all clips, and BD-rates within clips."""
    head = ["codec", *MEASURES]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for title, curve in mean(found).items():
        lines += ["| " + " | ".join([title, *(f"{point[key]:.3g}" for key in MEASURES)]) + " |" for point in curve]
    keys = ("features", "key points, % of eyes", "identity", "PSNR, dB")
    lines += ["", f"BD-rate against H.265 within clips: median (least to most), of how many of {len(found)}", ""]
    lines += ["| codec | " + " | ".join(keys) + " |", "|" + "---|" * (1 + len(keys))]
    for title in next(iter(found.values())):
        cells = []
        for key in keys:
            rates = np.array([bd_rate(curves[title], curves["H.265"], key) for curves in found.values()])
            rates = rates[~np.isnan(rates)]
            spread = f"{np.median(rates):+.0f} % ({rates.min():+.0f} to {rates.max():+.0f}), " if len(rates) else ""
            cells.append(f"{spread}{len(rates)}")
        if title != "H.265":
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(found: Curves, path: Path) -> None:
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
