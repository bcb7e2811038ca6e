"""Generators of images from latent codes, and the discriminator that trains them."""

from pathlib import Path

from stylereel.generator.discriminator import Discriminator, DiscriminatorConfig
from stylereel.generator.stylegan2 import StyleGAN2, StyleGAN2Config, StyleLayer

__all__ = [
    "Discriminator",
    "DiscriminatorConfig",
    "StyleGAN2",
    "StyleGAN2Config",
    "StyleLayer",
    "load_generator",
]


def load_generator(path: str | Path) -> StyleGAN2:
    """Read a generator from a stylereel weight file. Raises ValueError if the file is not one."""
    return StyleGAN2.load(path)
