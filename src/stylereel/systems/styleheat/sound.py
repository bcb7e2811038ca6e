"""How sound moves what the video warper has moved: the audio warper's flow, in the lower half, on top of its own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stylereel.generator import StyleGAN2
from stylereel.systems.styleheat.flow import compose
from stylereel.systems.styleheat.networks import Moved, Warper, lower_half
from stylereel.systems.styleheat.state import look, split


class Heard(NamedTuple):
    """What sound makes of states that the video warper has moved.

    images: [B, 3, 64, 64], what the audio warper saw; flow: [B, 2, 64, 64] of the sound alone; warped: the states
    [B, C + 3, 64, 64], moved by both; descriptor: [B, D] of the sound.
    """

    images: Tensor
    flow: Tensor
    warped: Tensor
    descriptor: Tensor


def move_by_sound(
    generator: StyleGAN2,
    audio: Warper,
    joined: Tensor,
    w: Tensor,
    moved: Moved,
    mel: Tensor,
    dtype: torch.dtype | None = None,
) -> Heard:
    """States [B, C + 3, 64, 64] of codes w [B, L, D] moved by the video warper's flow and then by sound [B, 80, 32]."""
    with torch.no_grad():
        proxy = audio.warp(joined, moved.flow.float())
        images = look(generator, split(proxy), w, audio.config.size, dtype=dtype).float()
    found = audio(images, mel)
    flow = lower_half(found.flow.float())
    return Heard(images, flow, audio.warp(joined, compose(moved.flow.float(), flow)), found.descriptor.float())
