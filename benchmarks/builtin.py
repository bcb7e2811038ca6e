"""The numbers of the built-in weights' cards, on people that training never drew.

    python benchmarks/builtin.py [--folder RUNS] [--clips FOLDER] [--sheets docs] [--out results.json]

Without --folder the installed weights are measured. Every part that has its weights is measured; --clips are real
clips, on which the face net is compared with dlib.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stylereel import world
from stylereel.core.builtin import BUILTIN
from stylereel.core.render import pictures
from stylereel.core.weights import load_module
from stylereel.faces.backend import DlibBackend, track
from stylereel.faces.placement import cut, place
from stylereel.faces.pose import pose_from_landmarks
from stylereel.family.encoder import Encoder, load_encoder
from stylereel.family.nets import FaceNet, IdentityNet, load_face, region_classes, unit_values
from stylereel.family.people import draw_batch, draw_portraits, grouped_w, mixed_values, num_factors
from stylereel.generator import StyleGAN2
from stylereel.media.pictures import save_picture
from stylereel.media.sheet import contact_sheet
from stylereel.media.video import VideoReader
from stylereel.metrics import exact
from stylereel.metrics.exact import HELD_OUT
from stylereel.metrics.likeness import shows_one_face
from stylereel.recipes.perception import CHANGING
from stylereel.systems.stylemask import MaskConfig, MaskNets, StyleMask
from stylereel.world.factors import INDEX, LATENT_DIM, MOTION_COLUMNS


def psnr(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Decibels of each image [B, 3, H, W] in [-1, 1]."""
    return 10 * torch.log10(4 / (images.clamp(-1, 1) - truth).square().mean((1, 2, 3)))


def of_generator(generator: StyleGAN2, sheets: Path | None) -> dict[str, Any]:
    size = generator.resolution
    out: dict[str, Any] = {}
    with torch.inference_mode():
        for name, mix in (("psnr", 0.0), ("psnr with mixed styles", 1.0)):
            values = []
            for i in range(16):
                batch = draw_batch((HELD_OUT, int(mix), i), 8, size, mix=mix, known=num_factors(generator))
                values.append(psnr(generator.synthesize(grouped_w(generator, batch.z)), batch.images))
            out[name] = round(float(torch.cat(values).mean()), 2)
        backend = DlibBackend()
        found = tried = 0
        truth_found = 0
        index = 0
        while tried < 200:
            z = np.random.default_rng(HELD_OUT + 1000 + index).standard_normal((1, LATENT_DIM))
            index += 1
            values = world.align(world.from_latent(z))[0]
            if abs(values[INDEX["yaw"]]) > 30:
                continue
            tried += 1
            image = pictures(generator(torch.from_numpy(z).float()))[0]
            found += shows_one_face(image, backend)
            truth_found += shows_one_face(world.draw(values, size).image, backend)
        out["detector rate on samples"] = found / tried
        out["detector rate on the world's pictures of the same people"] = truth_found / tried
        if sheets:
            z = torch.from_numpy(np.random.default_rng(HELD_OUT).standard_normal((8, LATENT_DIM))).float()
            rows = [pictures(generator(z, psi=psi)) for psi in (0.0, 0.35, 0.7, 1.0)]
            labels = [f"psi {psi}" for psi in (0.0, 0.35, 0.7, 1.0) for _ in range(8)]
            save_picture(
                sheets / "truncation.png", contact_sheet([p[::2, ::2] for row in rows for p in row], 8, labels)
            )
            batch = draw_batch((HELD_OUT, 5), 8, size, mix=0.0)
            made = pictures(generator.synthesize(grouped_w(generator, batch.z)))
            save_picture(sheets / "generator.png", contact_sheet([*pictures(batch.images), *made], 8))
    return out


def of_perception(face: FaceNet, identity: IdentityNet) -> dict[str, Any]:
    """Errors of the face net on 400 held-out people, and how well the identity net distinguishes them."""
    names = face.config.values.split()
    known = [INDEX[name] for name in names]
    with torch.inference_mode():
        batches = [draw_batch((HELD_OUT, 2, i), 50, 256, mix=0.0, aligned=False) for i in range(8)]
        outputs = [face(batch.images, parse=True) for batch in batches]
        points = torch.cat([(s.landmarks - b.landmarks).norm(dim=2) for s, b in zip(outputs, batches)])
        eyes = torch.cat([(b.landmarks[:, 36] - b.landmarks[:, 45]).norm(dim=1) for b in batches])
        truth = torch.cat([unit_values(b.values) for b in batches])[:, known]
        guess = torch.cat([s.values for s in outputs])[:, known]
        # 200 people, two images each, that differ in motion, clothes, backdrop and light.
        random = np.random.default_rng(HELD_OUT + 3)
        first = mixed_values(np.repeat(random.standard_normal((200, 1, LATENT_DIM)), 4, axis=1))
        second = first.copy()
        changed = mixed_values(np.repeat(random.standard_normal((200, 1, LATENT_DIM)), 4, axis=1))
        second[:, CHANGING] = changed[:, CHANGING]
        zeros = np.zeros((200, 4, LATENT_DIM))
        one, two = (identity(draw_portraits(zeros, v, 128).images) for v in (first, second))
        likeness = one @ two.T
    half_ranges = (world.HIGH - world.LOW)[known] / 2
    errors = (truth - guess).abs().mean(0).numpy() * half_ranges
    correlation = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(truth.T.numpy(), guess.T.numpy())]
    out = {
        "landmark error in eye distances": round(float((points.mean(1) / eyes).mean()), 4),
        "error in the factor's own unit, correlation": {
            name: [round(float(e), 3), round(r, 3)] for name, e, r in zip(names, errors, correlation)
        },
        "identity: right one of 200 first": round(float((likeness.argmax(1) == torch.arange(200)).float().mean()), 3),
        "identity: cosine same, others": [
            round(float(likeness.diagonal().mean()), 3),
            round(float(likeness.mean()), 3),
        ],
    }
    if face.parser:
        predicted = torch.cat([s.regions.argmax(1) for s in outputs if s.regions is not None])
        target = torch.cat([region_classes(b.regions) for b in batches])
        out["region intersection over union"] = {
            name: round(float(((predicted == i) & (target == i)).sum() / ((predicted == i) | (target == i)).sum()), 3)
            for i, name in enumerate(face.config.regions.split())
        }
    return out


def mouth_opening(landmarks: np.ndarray) -> np.ndarray:
    """Mean gap between the inner lips [T] of landmarks [T, 68, 2], in distances of the outer eye corners."""
    gap = np.linalg.norm(landmarks[:, [61, 62, 63]] - landmarks[:, [67, 66, 65]], axis=2).mean(1)
    return gap / np.linalg.norm(landmarks[:, 45] - landmarks[:, 36], axis=1)


def of_calibration(face: FaceNet, folder: Path) -> dict[str, Any]:
    """The face net against dlib on every clip of a folder: difference of yaw in degrees, correlations of the mouth.

    dlib's yaw and pitch are those of a mean head laid over its landmarks. On the world's exact landmarks this
    solution is off by 1.2 degrees of yaw, and its pitch is 5.8 too low, which is the same in all images.
    """
    out: dict[str, Any] = {}
    for path in sorted(folder.glob("*.mp4")):
        reader = VideoReader(path)
        frames = list(reader)
        followed = track(frames, reader.rate)
        rows = place(followed.landmarks, reader.rate, followed.found)
        crops = torch.from_numpy(np.stack([cut(frame, row, 256) for frame, row in zip(frames, rows)]))
        with torch.inference_mode():
            outputs = [face(part.permute(0, 3, 1, 2).float() / 127.5 - 1) for part in crops.split(32)]
        unit = torch.cat([s.motion for s in outputs]).numpy()
        low, high = world.LOW[MOTION_COLUMNS], world.HIGH[MOTION_COLUMNS]
        motion = (low + high) / 2 + (high - low) / 2 * unit
        points = torch.cat([s.landmarks for s in outputs]).numpy()
        solved, opening = pose_from_landmarks(followed.landmarks), mouth_opening(followed.landmarks)
        out[path.stem] = {
            "yaw difference": round(float(np.abs(motion[:, INDEX["yaw"]] - solved["yaw"]).mean()), 2),
            "pitch correlation": round(float(np.corrcoef(motion[:, INDEX["pitch"]], solved["pitch"])[0, 1]), 3),
            "mouth opening, correlation of landmarks": round(
                float(np.corrcoef(mouth_opening(points), opening)[0, 1]), 3
            ),
            "mouth opening, correlation of jaw": round(float(np.corrcoef(motion[:, INDEX["jaw"]], opening)[0, 1]), 3),
        }
    if out:
        out["mean"] = {
            name: round(float(np.mean([row[name] for row in out.values()])), 3) for name in next(iter(out.values()))
        }
    return out


def of_encoder(encoder: Encoder, generator: StyleGAN2, identity: IdentityNet, sheets: Path | None) -> dict[str, Any]:
    with torch.inference_mode():
        batches = [draw_batch((HELD_OUT, 4, i), 20, 256, mix=0.0) for i in range(10)]
        reconstructions = [generator.synthesize(encoder(b.images)) for b in batches]
        likeness = torch.cat([(identity(a) * identity(b.images)).sum(1) for a, b in zip(reconstructions, batches)])
        start = time.perf_counter()
        encoder(batches[0].images)
        seconds = (time.perf_counter() - start) / 20
    if sheets:
        save_picture(
            sheets / "encoder.png",
            contact_sheet([*pictures(batches[0].images[:8]), *pictures(reconstructions[0][:8])], 8),
        )
    values = torch.cat([psnr(a, b.images) for a, b in zip(reconstructions, batches)])
    return {
        "psnr": round(float(values.mean()), 2),
        "identity cosine": round(float(likeness.mean()), 3),
        "milliseconds an image": round(1000 * seconds, 1),
    }


def of_stylemask(system: StyleMask, sheets: Path | None) -> dict[str, Any]:
    """Generated pairs: codes of one, motion of the other, against the world's exact image; then the same people as
    images, through the encoder."""
    z = np.random.default_rng(HELD_OUT + 9).standard_normal((2, 64, LATENT_DIM))
    source, driver = world.align(world.from_latent(z))
    with torch.inference_mode():
        first, second = (system.generator.map(torch.from_numpy(part).float()) for part in z)
        parts = []
        for begin in range(0, 64, 8):
            codes = (w[begin : begin + 8] for w in (first, second))
            parts.append(pictures(system.generator.synthesize(s=system.mix(*codes))))
        moved = np.concatenate(parts)
        if sheets:
            rows = [pictures(system.generator.synthesize(w=w[:6])) for w in (first, second)]
            grid = [*rows[0], *rows[1], *moved[:6], *exact.draw_all(exact.cross(source, driver)[:6], 256)]
            labels = [name for name in ("source", "target", "result", "exact") for _ in range(6)]
            save_picture(sheets / "stylemask.png", contact_sheet(grid, 6, labels))
    measured = exact.errors(moved, source, driver)
    return {
        "codes": {name: round(float(np.nanmean(ours)), 4) for name, (ours, _) in measured.items()},
        "floor": {name: round(float(np.nanmean(floor)), 4) for name, (_, floor) in measured.items() if name != "psnr"},
        "pictures": {score.name: round(score.value, 4) for score in exact.exact(system, 64)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=BUILTIN)
    parser.add_argument("--clips", type=Path, help="folder of real clips (.mp4)")
    parser.add_argument("--sheets", type=Path, help="folder for pictures")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    def stored(name: str) -> Path:
        return arguments.folder / f"{name}.safetensors"

    result: dict[str, Any] = {
        "date": str(date.today()),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    generator = StyleGAN2.load(stored("generator")).eval()
    result["generator"] = of_generator(generator, arguments.sheets)
    if stored("identity").exists():
        face = load_face(stored("face")).eval()
        identity = load_module(stored("identity"), "identity", lambda config: IdentityNet()).eval()
        result["perception"] = of_perception(face, identity)
        if arguments.clips:
            result["calibration"] = of_calibration(face, arguments.clips)
        if stored("encoder").exists():
            encoder = load_encoder(stored("encoder")).eval()
            result["encoder"] = of_encoder(encoder, generator, identity, arguments.sheets)
            if stored("stylemask").exists():
                nets = load_module(stored("stylemask"), "stylemask", lambda config: MaskNets(MaskConfig(**config)))
                system = StyleMask(generator, encoder, nets)
                result["stylemask"] = of_stylemask(system, arguments.sheets)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
