"""The built-in directions: what each reaches, what leaks, whether the person stays, and how it looks.

    python benchmarks/directions.py [--folder RUNS] [--sheet docs/directions.png] [--out results.json]

Directions, generator and nets are those of --folder, else the installed ones. Identity is the built-in net's cosine of
the edited picture at strength 1 with the person's own, of held-out people.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from stylereel.core.builtin import BUILTIN
from stylereel.core.render import pictures
from stylereel.core.weights import load_module
from stylereel.edit.directions import KIND, Direction, Directions
from stylereel.family.nets import SIZE, IdentityNet
from stylereel.generator import StyleGAN2
from stylereel.media.pictures import save_picture
from stylereel.media.sheet import contact_sheet

PEOPLE, SEED = 24, 7_100_000
SHOWN = (
    "yaw", "jaw", "smile", "blink", "age", "beard", "glasses", "hat", "hair_light", "hair_gray", "skin_tone",
    "light_side",
)  # fmt: skip
STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)


@torch.inference_mode()
def identities(generator: StyleGAN2, net: IdentityNet, directions: Directions) -> dict[str, float]:
    """Mean cosine of people before and after each direction at strength 1."""
    z = torch.randn(PEOPLE, generator.config.z_dim, generator=torch.Generator().manual_seed(SEED))
    w = generator.map(z)
    styles = generator.styles(w)

    def embedded(direction: Direction | None) -> torch.Tensor:
        codes = w if direction is None or direction.space == "w+" else styles
        codes = codes if direction is None else direction.apply(codes)
        given: dict[str, Any] = {"w": codes} if isinstance(codes, torch.Tensor) else {"s": codes}
        return net(generator.synthesize(**given, stop=f"b{SIZE}.torgb" if generator.resolution > SIZE else None))

    plain = embedded(None)
    return {key: float((embedded(direction) * plain).sum(1).mean()) for key, direction in directions.items()}


@torch.inference_mode()
def sheet(generator: StyleGAN2, directions: Directions, path: Path) -> None:
    """Two people in every row, moved along a direction of W+ by STRENGTHS."""
    z = torch.randn(2, generator.config.z_dim, generator=torch.Generator().manual_seed(SEED + 5))
    w = generator.map(z, psi=0.8)
    cells, labels = [], []
    for name in [name for name in SHOWN if name in directions]:
        for person in w:
            codes = directions[name].apply(person[None], torch.tensor(STRENGTHS))
            cells += list(pictures(generator.synthesize(codes, resize=min(SIZE, generator.resolution))))
            labels += [f"{name} {strength:+g}" for strength in STRENGTHS]
    save_picture(path, contact_sheet(cells, 2 * len(STRENGTHS), labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=BUILTIN)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    def stored(name: str) -> Path:
        here = arguments.folder / f"{name}.safetensors"
        return here if here.exists() else BUILTIN / here.name

    generator = StyleGAN2.load(stored("generator")).eval()
    directions = Directions.load(stored(KIND))
    net = load_module(stored("identity"), "identity", lambda config: IdentityNet()).eval()
    likeness = identities(generator, net, directions)
    first, *rest = directions.table().splitlines()
    lines = [f"{first} identity |", f"{rest[0]}---|"]
    lines += [f"{row} {likeness[key]:.2f} |" for row, key in zip(rest[1:], directions, strict=True)]
    print("\n".join(lines))
    if arguments.sheet:
        sheet(generator, directions, arguments.sheet)
    if arguments.out:
        rows = {
            key: {"unit": d.unit, "effect": d.effect, "leak": dict(d.leak), "identity": likeness[key]}
            for key, d in directions.items()
        }
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
