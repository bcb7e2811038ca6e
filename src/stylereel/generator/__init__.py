"""Generators of images from latent codes, and the discriminator that trains them."""

from pathlib import Path

from stylereel.core.weights import read_header
from stylereel.generator.cpu.fast import keep_memory
from stylereel.generator.discriminator import Discriminator, DiscriminatorConfig
from stylereel.generator.style_space import StyleLayer, StyleSpace
from stylereel.generator.stylegan2 import StyleGAN2, StyleGAN2Config
from stylereel.generator.stylegan3 import StyleGAN3, StyleGAN3Config, image_transform

__all__ = [
    "Discriminator",
    "DiscriminatorConfig",
    "StyleGAN2",
    "StyleGAN2Config",
    "StyleGAN3",
    "StyleGAN3Config",
    "StyleLayer",
    "StyleSpace",
    "image_transform",
    "keep_memory",
    "load_generator",
]


def load_generator(path: str | Path) -> StyleGAN2 | StyleGAN3:
    """Read a generator from a stylereel weight file. Raises ValueError if the file is not one of a generator."""
    kinds = {cls.kind: cls for cls in (StyleGAN2, StyleGAN3)}
    kind = read_header(path).get("kind", "")
    if kind not in kinds:
        raise ValueError(f"{path} holds {kind!r} weights; give a file of kind {' or '.join(kinds)}.")
    return kinds[kind].load(path)
