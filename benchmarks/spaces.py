"""The picture of docs/generators.md: one face of the built-in generator, changed in every space.

    python benchmarks/spaces.py --out docs/spaces.png

A row for each: z, w (truncation), W+ (rows of a second person), S (one channel), features (a map of the second person).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from stylereel.core.builtin import builtin
from stylereel.core.render import pictures
from stylereel.family.people import FIRST_ROW
from stylereel.generator import StyleGAN2
from stylereel.media.pictures import save_picture
from stylereel.media.sheet import contact_sheet

FIRST, SECOND = 3, 12  # seeds of the two people
STEPS = 7


def seed(number: int, width: int) -> Tensor:
    return torch.randn(1, width, generator=torch.Generator().manual_seed(number))


def strongest_channel(generator: StyleGAN2, s: list[Tensor]) -> tuple[int, Tensor]:
    """The style layer of an expression row, and its channel, whose push changes the middle of the image most.

    A push is the channel's deviation among people.
    """

    def middle(images: Tensor) -> Tensor:
        size = images.shape[-1]
        return images[..., size // 4 : -size // 4, size // 3 : -size // 3]

    plain = middle(generator.synthesize(s=s))
    people = torch.randn(500, generator.config.z_dim, generator=torch.Generator().manual_seed(0))
    deviations = [style.std(0) for style in generator.styles(generator.map(people))]
    best, found = 0.0, (0, torch.zeros(1))
    for layer in generator.style_layers:
        if layer.kind != "conv" or not FIRST_ROW["expression"] <= layer.row < FIRST_ROW["look"]:
            continue
        for channel in range(layer.channels):
            push = torch.zeros(1, layer.channels)
            push[0, channel] = deviations[layer.index][channel]
            changed = [style + push if i == layer.index else style for i, style in enumerate(s)]
            size = float((middle(generator.synthesize(s=changed)) - plain).abs().mean())
            if size > best:
                best, found = size, (layer.index, push)
    return found


@torch.inference_mode()
def rows(generator: StyleGAN2) -> list[tuple[str, Tensor]]:
    """Labels and images [1, 3, H, W], STEPS in each row."""
    z = seed(FIRST, generator.config.z_dim), seed(SECOND, generator.config.z_dim)
    w = generator.map(z[0]), generator.map(z[1])
    out = []
    for i in range(STEPS):
        share = i / (STEPS - 1)
        out.append((f"z, {share:.2f} to the second", generator(torch.lerp(*z, share))))
    for i in range(STEPS):
        psi = 1 - i / (STEPS - 1)
        out.append((f"w, psi {psi:.2f}", generator(z[0], psi=psi)))
    first, last = list(FIRST_ROW.values()), [*FIRST_ROW.values()][1:] + [generator.num_ws]
    groups = dict(zip(FIRST_ROW, zip(first, last, strict=True), strict=True))
    taken = [(), *((name,) for name in groups), ("shape", "look"), tuple(groups)]
    for names in taken:
        mixed = w[0].clone()
        for name in names:
            begin, end = groups[name]
            mixed[:, begin:end] = w[1][:, begin:end]
        label = "W+, everything" if len(names) == len(groups) else f"W+, {' and '.join(names) or 'nothing'}"
        out.append((label, generator.synthesize(mixed)))
    s = generator.styles(w[0])
    layer, push = strongest_channel(generator, s)
    name = generator.style_layers[layer].name
    for i in range(STEPS):
        amount = 2 * i / (STEPS - 1) - 1
        pushed = [style + 3 * amount * push if k == layer else style for k, style in enumerate(s)]
        out.append((f"S, {name} {int(push.argmax())} {3 * amount:+.0f}", generator.synthesize(s=pushed)))
    for resolution in (4, 8, 16, 32, 64, 128, 256):
        key = f"b{resolution}.conv1"
        feature = generator.synthesize(w[1], stop=key)
        out.append((f"features, {resolution} px", generator.synthesize(w[0], taps={key: lambda x, f=feature: f})))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    labels, images = zip(*rows(StyleGAN2.load(builtin("generator"))), strict=True)
    cells = [pictures(image)[0] for image in images]
    save_picture(arguments.out, contact_sheet([cell[::2, ::2] for cell in cells], STEPS, list(labels)))
    print(arguments.out)


if __name__ == "__main__":
    main()
