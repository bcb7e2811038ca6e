"""The SyncNet that judges lips in training: whether five frames of a lower face and 0.2 s of sound belong together.

Chung and Zisserman, "Out of time" (2016), in the form of Prajwal et al., "A Lip Sync Expert Is All You Need for Speech
to Lip Generation in the Wild" (Wav2Lip, 2020): colour, residual blocks, and a binary cross-entropy of the cosine of two
embeddings. Parameter names are those of lipsync_expert.pth. The SyncNet of the measures is in `metrics.syncnet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FRAMES = 5  # that are seen at once
HEIGHT, WIDTH = 48, 96  # pixels of the lower half of the face
COLUMNS = 16  # mel columns that are heard, 80 a second
Pair = int | tuple[int, int]


@dataclass(frozen=True)
class ExpertConfig:
    """width: channels of the first layers; 32 in the published network, whose embeddings have 16 times as many."""

    width: int = 32


class Block(nn.Module):
    """Convolution and batch normalisation, with the input added where `residual`, and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: Pair, padding: int, residual: bool) -> None:
        super().__init__()
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding)
        self.conv_block = nn.Sequential(conv, nn.BatchNorm2d(outputs))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_block(x)
        return F.relu(y + x if self.residual else y)


def _tower(inputs: int, rows: Sequence[tuple[int, int, Pair, int, int]]) -> nn.Sequential:
    """Rows of channels, kernel, stride, padding, and how many residual blocks follow."""
    blocks: list[nn.Module] = []
    for outputs, kernel, stride, padding, residuals in rows:
        blocks.append(Block(inputs, outputs, kernel, stride, padding, False))
        blocks += [Block(outputs, outputs, 3, 1, 1, True) for _ in range(residuals)]
        inputs = outputs
    return nn.Sequential(*blocks)


class Expert(nn.Module):
    """Embeddings of length 1 of what is seen and of what is heard."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.config = ExpertConfig(width)
        w = width
        self.face_encoder = _tower(
            3 * FRAMES,
            [(w, 7, 1, 3, 0), (2 * w, 5, (1, 2), 1, 2), (4 * w, 3, 2, 1, 3), (8 * w, 3, 2, 1, 2), (16 * w, 3, 2, 1, 2)]
            + [(16 * w, 3, 2, 1, 0), (16 * w, 3, 1, 0, 0), (16 * w, 1, 1, 0, 0)],
        )
        self.audio_encoder = _tower(
            1,
            [(w, 3, 1, 1, 2), (2 * w, 3, (3, 1), 1, 2), (4 * w, 3, 3, 1, 2), (8 * w, 3, (3, 2), 1, 2)]
            + [(16 * w, 3, 1, 0, 0), (16 * w, 1, 1, 0, 0)],
        )

    def see(self, faces: Tensor) -> Tensor:
        """Lower halves [B, 15, 48, 96] of five faces in a row, colours of the first frame first, in 0..1, to [B, D]."""
        return F.normalize(self.face_encoder(faces).flatten(1))

    def hear(self, mel: Tensor) -> Tensor:
        """Mel windows [B, 80, 16] to embeddings [B, D]."""
        return F.normalize(self.audio_encoder(mel[:, None]).flatten(1))


def agreement(seen: Tensor, heard: Tensor) -> Tensor:
    """How probable it is [B] that what is seen and what is heard belong together: the cosine of their embeddings.

    Both come from a ReLU, so that it lies in 0..1.
    """
    return (seen * heard).sum(1).clamp(1e-7, 1 - 1e-7)


def sync_loss(seen: Tensor, heard: Tensor, together: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of the agreement, a mean over the batch.

    together: [B], 1 where they belong together and 0 where not; all do by default, which is the loss that moves lips.
    """
    probability = agreement(seen, heard)
    together = torch.ones_like(probability) if together is None else together.to(probability)
    return F.binary_cross_entropy(probability, together)
