"""Two devices against each other: the same images within a tolerance, and the time of each verb.

python benchmarks/devices.py --device cuda [--out results.json]
python benchmarks/devices.py --device cpu --tiny

Every registered system with its built-in weights is moved to the device; its portrait, its motion and half precision
are compared with the CPU's, and frames a second are measured on both in turn. The values of measures with built-in
networks are compared too. StyleGAN2 and StyleGAN3 of official sizes with random weights follow (`--tiny` leaves them
out). Exits with 1 if an image or a value differs by more than the tolerance.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stylereel import systems
from stylereel.core.latents import Codes, Motion
from stylereel.core.render import portrait, render
from stylereel.core.system import Samples, System
from stylereel.generator import StyleGAN2, StyleGAN2Config, StyleGAN3, StyleGAN3Config
from stylereel.metrics.exact import draw_all
from stylereel.metrics.registry import Clip, Run, find
from stylereel.world import align, from_latent
from stylereel.world.factors import LATENT_DIM

TOLERANCE = {"32": 3.0, "bf16": 12.0}  # levels of 255, mean of the 1 % worst values
MEASURE_TOLERANCE = 1e-3  # of a value, or of 0.1 if it is smaller
OFFICIAL: dict[str, tuple[type[Any], Any]] = {
    "stylegan2-256": (StyleGAN2, StyleGAN2Config(256)),
    "stylegan2-1024": (StyleGAN2, StyleGAN2Config(1024)),
    "stylegan3-t-256": (StyleGAN3, StyleGAN3Config(256, channel_base=16384)),
}


def motion_of(system: System, frames: int) -> Motion:
    """Motion of a system's kind: sampled, or codes of invented people in turn."""
    if isinstance(system, Samples):
        return system.sample(1, frames)[1]
    w = torch.stack([system.identify(seed % 7).w for seed in range(frames)])
    codes: Any = Codes(w, "", Fraction(25), torch.ones(frames, 4))
    found: Motion = system.extract(codes)  # type: ignore[attr-defined]
    return found


def worst(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Mean of the largest hundredth of the differences of uint8 images, in levels."""
    apart = np.sort(np.abs(ours.astype(np.float32) - theirs).ravel())
    return float(apart[-max(1, apart.size // 100) :].mean())


def seconds(work: Callable[[], Any], device: str) -> float:
    """Of one call, the device's work included."""
    began = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def compare(name: str, device: str, frames: int) -> dict[str, Any]:
    """One system on the CPU and on the device."""
    here, there = systems.load(name), systems.load(name).to(device)
    motion = motion_of(here, frames)
    person, away = here.identify(5), there.identify(5)
    result: dict[str, Any] = {
        "identity": float((person.w - away.w).abs().max()),
        "portrait": worst(portrait(here, person), portrait(there, person)),
    }
    for precision in ("32", "bf16"):
        plain = np.stack(list(render(here, person, motion)))
        runs: dict[str, list[float]] = {"cpu": [], device: []}
        for _ in range(3):
            for place, system in (("cpu", here), (device, there)):
                made = render(system, person, motion, precision=precision)
                runs[place].append(seconds(lambda made=made: list(made), place))
        shown = np.stack(list(render(there, person, motion, precision=precision)))
        result[precision] = {
            "difference": worst(plain, shown),
            "frames a second": {place: round(frames / min(times), 2) for place, times in runs.items()},
        }
    return result


def official(name: str, device: str) -> dict[str, Any]:
    """A generator of an official size with random weights: one image on both, and its time."""
    kind, config = OFFICIAL[name]
    torch.manual_seed(0)
    model = kind(config).eval().requires_grad_(False)
    w = model.map(torch.randn(1, config.z_dim))
    with torch.inference_mode():
        plain = model.synthesize(w)
        times = {"cpu": seconds(lambda: model.synthesize(w), "cpu")}
        model.to(device)
        moved = w.to(device)
        shown = model.synthesize(moved).cpu()
        times[device] = min(seconds(lambda: model.synthesize(moved), device) for _ in range(5))
    scale = float(plain.abs().mean())
    return {
        "relative difference": float((plain - shown).abs().max()) / scale,
        "milliseconds": {place: round(1000 * spent, 2) for place, spent in times.items()},
    }


MEASURES = ("face-feature-distance", "frechet", "frechet-video", "identity-cosine")


def measured(device: str) -> dict[str, Any]:
    """Measures with built-in networks on the CPU and on the device: the relative difference of their values."""
    latents = np.random.default_rng(1).standard_normal((2, 32, LATENT_DIM))
    frames = [draw_all(align(from_latent(z)), 192) for z in latents]
    found = {}
    for name in MEASURES:
        ours, theirs = ([Clip(each)] for each in frames)
        here, there = (find(name)(ours, theirs, Run(device=place)).value for place in ("cpu", device))
        found[name] = {"cpu": here, device: there, "relative difference": abs(there - here) / max(abs(here), 0.1)}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--tiny", action="store_true", help="few frames, and no generators of official sizes")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    name = torch.cuda.get_device_name() if given.device == "cuda" else platform.processor() or platform.machine()
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    failed = []
    for system in systems.list_systems():
        results[system] = compare(system, given.device, 3 if given.tiny else given.frames)
        print(system, json.dumps(results[system]), flush=True)
        wrong = [p for p in TOLERANCE if results[system][p]["difference"] > TOLERANCE[p]]
        failed += [f"{system} at {precision}" for precision in wrong]
    results["measures"] = measured(given.device)
    print("measures", json.dumps(results["measures"]), flush=True)
    failed += [name for name, each in results["measures"].items() if each["relative difference"] > MEASURE_TOLERANCE]
    for model in () if given.tiny else OFFICIAL:
        results[model] = official(model, given.device)
        print(model, json.dumps(results[model]), flush=True)
    if given.out:
        given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if failed:
        print(f"beyond the tolerance: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
