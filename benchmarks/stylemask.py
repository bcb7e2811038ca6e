"""What of a driver comes into StyleMask's picture beside the motion: how much backdrop and clothes move.

    python benchmarks/stylemask.py [CLIP...] [--people 20] [--frames 16] [--sheet sheet.png]
    python benchmarks/stylemask.py --exact 24 [--seed 77]
    python benchmarks/stylemask.py --masks measured.safetensors --measure measured.safetensors

For seeds of people and every clip (six motions of the world, where none is given), with every channel mixed, as
published, and, where the masks have a table of effects, with look kept at the source's: the standard deviation over
frames of pixels that are backdrop in the source and in all frames, 6 pixels or more from the head's silhouette, by the
world's exact regions; and how far they are from the source's. With --exact instead: the error of these against the
world's exact images, on so many pairs of people; and of the slow way to a motion's codes, a head that is drawn and
inverted for every frame, where the generator's mapping network now gives them. With --measure first: the built-in masks
are written with a table of the channels' effects, as the training for other generators makes it. --masks takes other
masks than the built-in ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import binary_dilation

from stylereel import world
from stylereel.core.builtin import builtin
from stylereel.core.render import pictures, portrait
from stylereel.core.weights import load_module, read_card, save_module
from stylereel.family.nets import IdentityNet, load_face
from stylereel.generator import StyleGAN2
from stylereel.media.pictures import save_picture
from stylereel.media.sheet import contact_sheet
from stylereel.metrics.exact import exact
from stylereel.systems import stylemask
from stylereel.systems.stylemask import StyleMask
from stylereel.systems.stylemask.networks import EFFECTS, KIND
from stylereel.world.shading import REGIONS

MOTION = world.MOTION_COLUMNS
HALF = 128  # pixels of the region maps
MARGIN = 3  # of them


def measure(out: str) -> None:
    """Write the built-in masks with their channels' effects."""
    generator = StyleGAN2.load(builtin("generator")).eval().requires_grad_(False)
    identity = load_module(builtin("identity"), "identity", lambda config: IdentityNet())
    faces = stylemask.WorldFaces(load_face(builtin("face")), identity).eval().requires_grad_(False)
    nets = stylemask.measured(stylemask.load_masks(builtin(KIND), generator), generator, faces)
    save_module(out, KIND, nets, read_card(builtin(KIND)))


def person(seed: int) -> np.ndarray:
    """Factors [K] of the invented person of a seed."""
    return world.person(seed)


def still(values: np.ndarray, motion: np.ndarray, region: str) -> np.ndarray:
    """Which pixels [256, 256] show a region in the source and in every frame, well inside."""
    frames = np.tile(values, (1 + len(motion), 1))
    frames[1:, MOTION] = np.clip(motion, world.LOW[MOTION], world.HIGH[MOTION])
    shown = np.stack([world.draw(v, HALF).regions for v in world.align(frames)]) == REGIONS.index(region)
    inside = np.logical_not(binary_dilation(~shown.all(0), iterations=MARGIN))
    return inside.repeat(2, 0).repeat(2, 1)


@torch.inference_mode()
def made(system: StyleMask, source: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
    """Frames float [T, 256, 256, 3] of a source [L, D] as targets [T, L, D] move it."""
    parts = [pictures(system.generator.synthesize(s=system.mix(source[None], part))) for part in targets.split(8)]
    return np.concatenate(parts).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--frames", type=int, default=16, help="of each clip, evenly")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--exact", type=int, metavar="PAIRS")
    parser.add_argument("--seed", type=int, default=77, help="random seed of the pairs")
    parser.add_argument("--measure", metavar="FILE")
    parser.add_argument("--masks", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
    kept = StyleMask.builtin()
    if arguments.masks:
        kept.mask_nets = stylemask.load_masks(arguments.masks, kept.generator).eval()
    has_table = kept.mask_nets.config.measured
    plain = StyleMask.builtin()
    plain.mask_nets = kept.mask_nets.with_effects(None)
    systems = {"every channel mixed": plain} | ({"look the source's": kept} if has_table else {})
    if arguments.exact:
        systems["codes of inverted drawings"] = StyleMask(
            kept.generator, kept.encode, kept.mask_nets, kept.weight_files
        )
        for name, system in systems.items():
            print(f"\n{name}:")
            for score in exact(system, arguments.exact, arguments.seed):
                low, high = score.interval or (float("nan"), float("nan"))
                print(f"{score.name} {score.value:.4g} ({low:.4g} to {high:.4g})")
        return
    motions = [kept.extract(clip).values for clip in arguments.clips]
    motions = motions or [world.natural_motion(seed, 250) for seed in range(6)]
    picked = [m[np.linspace(0, len(m) - 1, arguments.frames).round().astype(int)] for m in motions]
    targets = [kept.target_codes(motion) for motion in picked]
    seeds = [*range(arguments.people - 1), 29]
    rows: dict[tuple[str, str], list[tuple[float, float]]] = {}
    cells: list[np.ndarray] = []
    for seed in seeds:
        identity = kept.identify(seed)
        own = portrait(kept, identity).astype(np.float32)
        for index, (motion, codes) in enumerate(zip(picked, targets)):
            areas = {region: still(person(seed), motion, region) for region in ("background", "clothes")}
            frames = {name: made(system, identity.w, codes) for name, system in systems.items()}
            for region, area in areas.items():
                for name, shown in frames.items():
                    if area.sum() > 200:
                        pixels = shown[:, area]
                        found = float(pixels.std(0).mean()), float(np.abs(pixels - own[area]).mean())
                        rows.setdefault((name, region), []).append(found)
            if index == 0 and seed in seeds[-8:]:
                moments = len(motion) // 4, -1
                cells += [
                    own.astype(np.uint8),
                    *(shown[f].astype(np.uint8) for shown in frames.values() for f in moments),
                ]
    counts = f"{len(seeds)} people, {len(picked)} drivers"
    print(f"| {counts} | std over frames, mean | worst pair | pairs under 1 | from the source |\n|---|---|---|---|---|")
    for (name, region), found in rows.items():
        std, shift = np.array(found).T
        print(
            f"| {region}, {name} | {std.mean():.2f} | {std.max():.2f} | {(std < 1).mean():.0%} | {shift.mean():.2f} |"
        )
    if has_table:
        print_table(kept)
    if arguments.sheet:
        names = ("source", *[name for name in systems for _ in range(2)])
        save_picture(arguments.sheet, contact_sheet(cells, len(names), list(names) * (len(cells) // len(names))))


def print_table(kept: StyleMask) -> None:
    """What share of all effects the channels have that stay the source's, and where they are."""
    moving = kept.mask_nets.moving().split(kept.mask_nets.config.channels)
    table = kept.mask_nets.get_buffer("effects").square()
    away = ~kept.mask_nets.moving()
    shares = ", ".join(f"{float(row[away].sum() / row.sum()):.2%} of {name}" for name, row in zip(EFFECTS, table))
    print(f"\nkept: {int(away.sum())} of {len(away)} channels, with the energy of {shares}")
    effects = kept.mask_nets.get_buffer("effects").split(kept.mask_nets.config.channels, dim=1)
    layers = [layer.name for layer in kept.generator.style_layers if layer.kind == "conv"]
    print("\n| layer | channels kept | outside | of these kept | head | of these kept |\n|---|---|---|---|---|---|")
    for layer, own_channels, table in zip(layers, moving, effects):
        numbers = [rms for row in table[:2] for rms in (row.norm(), row[~own_channels].norm())]
        cells_text = " | ".join(f"{float(number):.1f}" for number in numbers)
        print(f"| {layer} | {int((~own_channels).sum())} of {len(own_channels)} | {cells_text} |")


if __name__ == "__main__":
    main()
