"""The networks of one inversion: the built-in ones, or a generator and an encoder from files of any known tool."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from stylereel.core.builtin import builtin
from stylereel.core.files import require_file
from stylereel.core.weights import load_module, own_kind
from stylereel.encoders import pyramid
from stylereel.encoders.hfgi import HFGI
from stylereel.family.encoder import Encoder
from stylereel.family.encoder import load_encoder as read_encoder
from stylereel.family.nets import IdentityNet
from stylereel.generator import StyleGAN2, StyleGAN3
from stylereel.invert.perceptual import Vectors
from stylereel.metrics.features import official
from stylereel.metrics.likeness import ARCFACE
from stylereel.metrics.registry import Unfit
from stylereel.zoo.encoders import has_hfgi, load_arcface_file, load_encoder_file, load_hfgi_file
from stylereel.zoo.formats import load_generator_file

OWN = "encoder"  # kind of the files of the built-in encoder and of those that are trained like it
RESTYLE_STEPS = {StyleGAN2: 5, StyleGAN3: 3}  # as published


class Networks(NamedTuple):
    """generator; encode: images [B, 3, H, W] of at least 256 px in [-1, 1] to codes [B, L, D]; embed: images to
    embeddings of length 1, of the face; hfgi: corrects a feature map, if there is one."""

    generator: StyleGAN2 | StyleGAN3
    encode: nn.Module
    embed: Vectors
    hfgi: HFGI | None = None

    def to(self, device: torch.device) -> Networks:
        """All of them on a device."""
        owner = getattr(self.embed, "__self__", self.embed)  # a network, or a method of one
        for network in (self.generator, self.encode, self.hfgi, owner):
            if isinstance(network, nn.Module):
                network.to(device)
        return self


class MeanCode(nn.Module):
    """Replaces an encoder where there is none: every image gets the generator's mean code."""

    def __init__(self, generator: StyleGAN2 | StyleGAN3) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, images: Tensor) -> Tensor:
        return self.generator.mean_w.expand(len(images), self.generator.num_ws, -1)


class Refined(nn.Module):
    """A published encoder with its loop through the generator (ReStyle's; one step for the others)."""

    def __init__(self, encoder: pyramid.StyleEncoder, generator: StyleGAN2 | StyleGAN3) -> None:
        super().__init__()
        self.encoder, self.generator = encoder, generator

    def forward(self, images: Tensor) -> Tensor:
        steps = RESTYLE_STEPS[type(self.generator)]
        return pyramid.invert(self.encoder, images, self.generator, steps=steps).codes.clone()


def load_encoder(path: str | Path | None = None) -> Encoder:
    """The built-in encoder, or one that was trained like it, for use."""
    return read_encoder(path or builtin("encoder")).eval()


def identity_net() -> IdentityNet:
    """The built-in identity net, for use."""
    net = load_module(builtin("identity"), "identity", lambda config: IdentityNet())
    return net.eval().requires_grad_(False)


def is_canonical(files: dict[str, Path]) -> bool:
    """Whether these networks know faces in the built-in framing; all others know FFHQ's."""
    return "encoder" in files and own_kind(files["encoder"]) == OWN


def choose(encoder: str | Path | None, generator: str | Path | None) -> dict[str, Path]:
    """The files by what is in them: generator, encoder (unless a generator is given alone), identity.

    The file of a pSp-family encoder includes its generator; the built-in kind belongs to the built-in generator. For
    faces in FFHQ's framing, identity is ArcFace if its official file is in the cache, else the built-in net.
    """
    files: dict[str, Path] = {}
    if encoder is not None or generator is None:
        files["encoder"] = require_file(encoder or builtin("encoder"))
    if generator is not None:
        files["generator"] = require_file(generator)
    else:
        files["generator"] = builtin("generator") if is_canonical(files) else files["encoder"]
    files["identity"] = builtin("identity")
    if not is_canonical(files):
        try:
            files["identity"] = official(ARCFACE)
        except Unfit:
            pass
    return files


def load(files: dict[str, Path]) -> Networks:
    """The networks in files that `choose` gave; without an encoder all codes start at the generator's mean.

    Raises:
        ValueError: a file holds no such network, or the encoder's codes are not the generator's.
    """
    source, path = files["generator"], files.get("encoder")
    try:
        generator = load_generator_file(source).eval().requires_grad_(False)
    except ValueError as error:
        if path != source:
            raise
        raise ValueError(f"{path} includes no generator; give one with --generator.") from error
    embed: Vectors = load_arcface_file(files["identity"]).embed if files["identity"].name == ARCFACE else identity_net()
    if path is None:
        return Networks(generator, MeanCode(generator), embed)
    if is_canonical(files):
        own = load_encoder(path)
        _check(generator, own.config.rows, own.config.w_dim)
        return Networks(generator, own.requires_grad_(False), embed)
    encoder = load_encoder_file(path, average=generator.mean_w)
    _check(generator, encoder.config.rows, encoder.config.w_dim)
    encode = Refined(encoder, generator)
    if not has_hfgi(path):
        return Networks(generator, encode, embed)
    hfgi = load_hfgi_file(path)
    fits = isinstance(generator, StyleGAN2) and generator.resolution >= 64
    if not fits or generator.config.channels(64) != hfgi.config.channels:
        raise ValueError(f"HFGI corrects {hfgi.config.channels} maps of 64 px, which the generator does not have.")
    return Networks(generator, encode, embed, hfgi)


def encoded(encode: nn.Module | None, crops: np.ndarray) -> Tensor:
    """Codes [B, L, D] of crops uint8 [B, H, W, 3], on the encoder's device. Raises ValueError without an encoder."""
    if encode is None:
        raise ValueError("Images and clips need an encoder of this generator; give one with --encoder.")
    device = next(itertools.chain(encode.parameters(), encode.buffers())).device
    with torch.inference_mode():
        return encode(torch.tensor(crops, device=device).permute(0, 3, 1, 2).float() / 127.5 - 1)


def _check(generator: StyleGAN2 | StyleGAN3, rows: int, width: int) -> None:
    taken = generator.num_ws, generator.config.w_dim
    if (rows, width) != taken:
        codes = f"{rows} rows of {width}, but the generator takes {taken[0]} of {taken[1]}"
        raise ValueError(f"The encoder's codes have {codes}; give an encoder and a generator that belong together.")
