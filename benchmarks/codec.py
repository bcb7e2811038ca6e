"""What a talk file costs and what coding adds, on clips that no table of the format has seen.

    python benchmarks/codec.py CLIP... [--rates 0.5,1,2,5] [--out results.json]
    python benchmarks/codec.py --fuzz 2000 CLIP
    python benchmarks/codec.py --loss [--people 6]
    python benchmarks/codec.py --compare [CLIP...] [--people 2] [--frames 100] [--out curves.json] [--sheet FILE.png]
    python benchmarks/codec.py --steps
    python benchmarks/codec.py --prior [--people 40]

A CLIP is a video, whose motion StyleMask extracts, or a saved motion. The first prints Markdown tables: for each clip
and rate the bits of motion, index and checks, of crops, and of the same integers written otherwise; the error that
coding adds to the 68 landmarks of the built-in mean head under that motion, as a share of the distance between its
eyes; and what an identity's code costs and loses. --loss does so for people of the world whom no table has seen, 2
minutes each, and then loses 1, 5 and 10 % of the groups at 1 kbit/s. --fuzz damages a file in five ways and reads it.
--compare sets whole files against conventional codecs (`conventional.py`); clips that are in its --out are not
measured again. --steps prints step sizes by the world's geometry, --prior the starting probabilities counted over the
motion of the world's people: both belong to the format and are not to be fitted to a clip.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import tempfile
import time
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from stylereel import codec, systems, world
from stylereel.codec import entropy, packets, tracks, vsei
from stylereel.codec import talk as talk_files
from stylereel.core.latents import FACE, Identity, Motion
from stylereel.core.render import portrait
from stylereel.media.video import VideoReader
from stylereel.world.factors import HIGH, LOW, MOTION, MOTION_COLUMNS

COUNT = len(MOTION)
_LOW, _HIGH = LOW[MOTION_COLUMNS], HIGH[MOTION_COLUMNS]
MANNERS = ("talking", "listening", "expressions")
HELD_OUT = 9000  # the first person that no table has seen
PRIOR_SCALES, PRIOR_FIRST = (0.25, 0.5, 1, 1.5, 2, 3), 5000  # levers, and the first of the people


def landmarks(values: np.ndarray) -> np.ndarray:
    """Landmarks [T, 68, 2] of the mean head with motion [T, M]."""
    whole = np.tile(world.neutral(), (len(values), 1))
    whole[:, MOTION_COLUMNS] = np.clip(values, _LOW, _HIGH)
    return np.stack([world.project_landmarks(row)[0] for row in whole])


def eyes_apart(points: np.ndarray) -> float:
    return float(np.linalg.norm(points[:, 36:42].mean(1) - points[:, 42:48].mean(1), axis=1).mean())


def load_motion(clip: Path, system: object) -> Motion:
    return Motion.load(clip) if clip.suffix == ".safetensors" else system.extract(clip)  # type: ignore[attr-defined]


def rows_of(clip: Path, motion: Motion, rates: list[float], folder: Path) -> list[dict[str, object]]:
    seconds, points = len(motion) / float(motion.rate), landmarks(motion.values)
    rows = []
    for rate in rates:
        path = folder / f"{clip.stem}.talk"
        started = time.process_time()
        sizes = codec.write(path, motion, rate=rate)
        encoded = time.process_time()
        found = codec.read(path)
        decoded = time.process_time() - encoded
        header = found.header
        integers = np.concatenate(
            [
                talk_files.integers_of(header, motion.values[at : at + header.group])
                for at in range(0, len(motion), header.group)
            ]
        )
        messages = vsei.to_bits(vsei.messages(integers))
        error = np.linalg.norm(landmarks(found.motion.values) - points, axis=2).mean() / eyes_apart(points)
        apart = np.abs(found.motion.values - motion.values).mean(0)
        rows.append(
            {
                "clip": clip.stem,
                "asked": rate,
                "kbit/s": round(sizes.kilobits(seconds, "motion", "index", "checks"), 3),
                "error, % of eyes": round(100 * float(error), 3),
                "lever": round(header.lever, 3),
                "every": header.every,
                "crops": round(sizes.kilobits(seconds, "placement"), 3),
                "header, bytes": sizes.header,
                "SEI bits": round(8 * sum(map(len, messages)) / seconds / 1000, 3),
                "zlib": round(8 * len(zlib.compress(integers.astype("<i2").tobytes(), 9)) / seconds / 1000, 3),
                "16 bit": round(16 * COUNT * float(motion.rate) / 1000, 1),
                **{f"{name}": round(float(apart[MOTION.index(name)]), 3) for name in ("yaw", "jaw", "blink_left")},
                "encode, ms a frame": round(1000 * (encoded - started) / len(motion), 2),
                "decode, ms a frame": round(1000 * decoded / len(motion), 3),
            }
        )
    return rows


def identity_rows(clips: list[Path], system: object) -> list[dict[str, object]]:
    """Bytes of a clip's person, and the picture's PSNR against that of the code before coding."""
    rows = []
    for clip in (clip for clip in clips if clip.suffix != ".safetensors"):
        identity: Identity = system.identify(next(iter(VideoReader(clip))))  # type: ignore[attr-defined]
        body = packets.pack_identity(Identity(identity.w, "stylemask"))
        coded = packets.unpack_identity(body)
        assert isinstance(coded, Identity)
        first, second = (portrait(system, one).astype(float) for one in (identity, coded))  # type: ignore[arg-type]
        psnr = 10 * np.log10(255**2 / max(np.square(first - second).mean(), 1e-9))
        raw = 2 * identity.w.numel()
        rows.append({"clip": clip.stem, "bytes": len(body), "16 bit, bytes": raw, "PSNR, dB": round(float(psnr), 1)})
    return rows


def loss_rows(people: int, folder: Path) -> list[dict[str, object]]:
    """What lost groups do, over all frames and over those that were lost."""
    found: dict[float, list[tuple[float, float, float]]] = {0.0: [], 0.01: [], 0.05: [], 0.1: []}
    for seed in range(HELD_OUT, HELD_OUT + people):
        motion = held_out(seed)
        points, path = landmarks(motion.values), folder / "loss.talk"
        sizes = codec.write(path, motion, rate=1)
        whole, source = path.read_bytes(), random.Random(seed)
        groups = [place for kind, _, *place in packets.Scanner().feed(whole, last=True) if kind == packets.GROUP]
        for share, results in found.items():
            data = bytearray(whole)
            for at, size in source.sample(groups, round(share * len(groups))):
                data[at + size // 2] ^= 255
            path.write_bytes(data)
            talk = codec.read(path)
            error = np.linalg.norm(landmarks(talk.motion.values) - points, axis=2).mean(1) / eyes_apart(points)
            lost = np.zeros(len(error), bool)
            for first, count in talk.lost:
                lost[first : first + count] = True
            kilobits = sizes.kilobits(len(motion) / float(motion.rate), "motion", "index", "checks")
            results.append((kilobits, float(error.mean()), float(error[lost].mean()) if lost.any() else 0.0))
    rows: list[dict[str, object]] = []
    for share, results in found.items():
        rate, over_all, over_lost = np.mean(results, axis=0)
        rows.append(
            {
                "lost groups": f"{100 * share:g} %",
                "kbit/s": round(float(rate), 3),
                "error, % of eyes": round(100 * float(over_all), 3),
                "in lost frames": round(100 * float(over_lost), 2) if over_lost else "",
            }
        )
    return rows


def held_out(seed: int) -> Motion:
    """Two minutes of a person of the world whom the format's tables have not seen."""
    values = world.natural_motion(seed, 3000, Fraction(25), MANNERS[seed % 3])  # type: ignore[arg-type]
    return Motion(values, FACE, MOTION, Fraction(25), np.tile(np.array([128, 128, 200, 0], np.float32), (3000, 1)))


def print_steps() -> None:
    """Steps, and what steps of two tracks do to the landmarks together, as the format's writer has it."""
    motions = np.concatenate([world.natural_motion(seed, 250)[::25] for seed in range(1000, 1020)])
    points, moves = landmarks(motions), []
    for index, name in enumerate(MOTION):
        small = 0.01 * (_HIGH[index] - _LOW[index])
        moved, change = motions.copy(), np.where(motions[:, index] + small > _HIGH[index], -small, small)
        moved[:, index] += change
        apart = (landmarks(moved) - points) / eyes_apart(points) / change[:, None, None]
        moves.append(100 * tracks.FACE.steps[index] * apart.ravel())
        effect = np.linalg.norm(apart, axis=2).mean()
        limit = (_HIGH[index] - _LOW[index]) / 16
        step = min(0.01 / effect, limit) if effect else limit
        print(f"{name:12} a unit moves {100 * effect:8.3f} % of the eyes; step {step:.4f} (in the format: ", end="")
        print(f"{tracks.FACE.steps[index]:g})")
    together = 2 * np.stack(moves) @ np.stack(moves).T / len(moves[0])
    table = np.rint(64 * together[np.tril_indices(COUNT)]).astype(np.int8).tobytes().hex()
    print("\n".join(table[at : at + 110] for at in range(0, len(table), 110)))


def print_prior(people: int) -> None:
    steps, groups = np.array(tracks.FACE.steps), []
    for seed in range(PRIOR_FIRST, PRIOR_FIRST + people):
        source = np.random.default_rng(seed)
        motion = world.natural_motion(seed, 250, Fraction(25), MANNERS[seed % 3])  # type: ignore[arg-type]
        motion = motion + source.normal(size=motion.shape) * steps * source.choice([0, 0.1, 0.25])  # as landmarks do
        for scale in PRIOR_SCALES:
            whole = np.rint((motion - motion[0]) / (steps * scale)).astype(np.int64)
            groups += [whole[at : at + 50] for at in range(0, len(whole), 50)]
    print("\n".join(entropy.count_prior(groups)[at : at + 110] for at in range(0, 2 * entropy.NUM_MODELS, 110)))


def fuzz(clip: Path, count: int) -> None:
    motion, source = load_motion(clip, systems.load("stylemask")), random.Random(0)
    outcomes, worst = {"whole": 0, "gaps": 0, "sentence": 0}, 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.talk"
        sound = clip if clip.suffix != ".safetensors" else None
        codec.write(
            path, motion, Identity(torch.randn(10, 128), "stylemask"), "stylemask", "00" * 32, rate=1, sound=sound
        )
        data = path.read_bytes()
        for number in range(count):
            out, at = bytearray(data), source.randrange(len(data))
            if number % 5 == 0:
                out[at] ^= 1 << source.randrange(8)
            elif number % 5 == 1:
                del out[at:]
            elif number % 5 == 2:
                for _ in range(source.randrange(1, 60)):
                    out[source.randrange(len(out))] = source.randrange(256)
            elif number % 5 == 3:
                del out[at : at + source.randrange(1, 400)]
            else:
                out[at:at] = out[: source.randrange(200)]
            path.write_bytes(out)
            started = time.process_time()
            try:
                found = codec.read(path)
                assert np.isfinite(found.motion.values).all()
                outcomes["gaps" if found.lost else "whole"] += 1
            except ValueError:
                outcomes["sentence"] += 1
            worst = max(worst, time.process_time() - started)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count} damaged files: {outcomes}; slowest {worst:.2f} s of processor time, {memory:.0f} MB at most")


def table(rows: list[dict[str, object]]) -> str:
    if not rows:
        return ""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(str(row[name]) for name in head) + " |" for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--rates", default="0.5,1,2,5")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--fuzz", type=int, default=0)
    parser.add_argument("--steps", action="store_true")
    parser.add_argument("--prior", action="store_true")
    parser.add_argument("--loss", action="store_true")
    parser.add_argument("--people", type=int)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--sheet", type=Path)
    given = parser.parse_args()
    if given.compare:
        import conventional

        people = 2 if given.people is None else given.people
        curves = conventional.compare(people, given.frames, given.clips, given.out)
        if given.sheet:
            conventional.draw(conventional.mean(curves), given.sheet)
        return print(conventional.show(curves))
    if given.steps:
        return print_steps()
    if given.prior:
        return print_prior(given.people or 40)
    if given.loss:
        with tempfile.TemporaryDirectory() as folder:
            seeds = range(HELD_OUT, HELD_OUT + (given.people or 6))
            rates = [float(rate) for rate in given.rates.split(",")]
            rows = [
                row for seed in seeds for row in rows_of(Path(f"world {seed}"), held_out(seed), rates, Path(folder))
            ]
            return print(table(rows), table(loss_rows(len(seeds), Path(folder))), sep="\n\n")
    if given.fuzz:
        return fuzz(given.clips[0], given.fuzz)
    system = systems.load("stylemask")
    with tempfile.TemporaryDirectory() as folder:
        rates = [float(rate) for rate in given.rates.split(",")]
        rows = [row for clip in given.clips for row in rows_of(clip, load_motion(clip, system), rates, Path(folder))]
    people = identity_rows(given.clips, system)
    print(table(rows), table(people), sep="\n\n")
    if given.out:
        given.out.write_text(json.dumps({"rates": rows, "identities": people}, indent=1))


if __name__ == "__main__":
    main()
