"""The mask networks of StyleMask, what they mix, and their files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from stylereel.core.weights import config_of, load_module, own_kind
from stylereel.generator import StyleGAN2
from stylereel.generator.style_space import StyleLayer
from stylereel.zoo.encoders import load_part

KIND = "stylemask"  # in the header of our files
LAYERS = 12  # masked convolutions, counted from the first
EFFECTS = ("outside", "head", "landmarks", "values")  # rows of the table of effects; see `MaskNets`
LOOK = 3.0  # at 2 ten times as much of the movement is lost (1.2 % of the landmarks' energy), at 4 little is gained


@dataclass(frozen=True)
class MaskConfig:
    """What is mixed.

    channels: lengths of the masked vectors, one for each of the first convolutions of the generator; space: "s" mixes
    style vectors, "w" the rows of W+ that drive these convolutions (a comparison of the paper); one_net: a single
    network for all vectors together instead of one for each (another comparison); measured: the effects of the
    channels are known, and those that move nothing stay the source's (ours; not in published files).
    """

    channels: tuple[int, ...]
    space: Literal["s", "w"] = "s"
    one_net: bool = False
    measured: bool = False

    @classmethod
    def of(
        cls, generator: StyleGAN2, layers: int = LAYERS, space: Literal["s", "w"] = "s", one_net: bool = False
    ) -> MaskConfig:
        """The config for the first `layers` convolutions of a generator."""
        lengths = [layer.channels for layer in generator.style_layers if layer.kind == "conv"][:layers]
        if space == "w":
            lengths = [generator.config.w_dim] * len(lengths)
        return cls(tuple(lengths), space, one_net)


class MaskNet(nn.Module):
    """Difference of style vectors [B, C] to a mask [B, C] in 0..1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.masknet = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))
        for linear in (self.masknet[0], self.masknet[2]):
            assert isinstance(linear, nn.Linear)
            nn.init.normal_(linear.weight, 0.0, 0.01)

    def forward(self, difference: Tensor) -> Tensor:
        return torch.sigmoid(self.masknet(difference))


class MaskNets(nn.Module):
    """One `MaskNet` for each masked layer, named as in the authors' weight file (network_00.masknet.0.weight ...).

    Measured ones hold a table `effects` [4, C] of what each masked channel changes on its way from source to target,
    root mean squares over many pairs of people: pixels outside the head and on it (levels of 8 bits), landmarks
    (percent of the image's side) and values of motion that the perception reads.
    """

    def __init__(self, config: MaskConfig) -> None:
        super().__init__()
        self.config = config
        sizes = (sum(config.channels),) if config.one_net else config.channels
        for index, channels in enumerate(sizes):
            self.add_module(f"network_{index:02d}", MaskNet(channels))
        if config.measured:
            self.register_buffer("effects", torch.zeros(len(EFFECTS), sum(config.channels)))

    def with_effects(self, effects: Tensor | None) -> MaskNets:
        """A copy with another table of effects [4, C], or with none: then every channel is mixed, as published."""
        state = {key: value for key, value in self.state_dict().items() if key != "effects"}
        other = MaskNets(replace(self.config, measured=effects is not None))
        other.load_state_dict(state if effects is None else state | {"effects": effects})
        return other.to(next(self.parameters()).device)

    def moving(self) -> Tensor:
        """Which masked channels [C] may come from the target: those that move the head, by their effects.

        A channel whose share of all that changes is more than `LOOK` times its share of all movement carries backdrop,
        clothes or light. Shares are of the root of the sum of squares over channels; of landmarks and values the larger
        one counts.
        """
        if not self.config.measured:
            return torch.ones(sum(self.config.channels), dtype=torch.bool, device=next(self.parameters()).device)
        outside, head, landmarks, values = self.get_buffer("effects")
        moved = torch.maximum(_shares(landmarks), _shares(values))
        return _shares(torch.hypot(outside, head)) <= LOOK * moved

    def masks(self, source: Sequence[Tensor], target: Sequence[Tensor]) -> list[Tensor]:
        """Masks [B, C_l] of the masked layers for style vectors of convolutions."""
        nets = list(self.children())
        differences = [a - b for a, b in zip(source, target)][: len(self.config.channels)]
        if self.config.one_net:
            masks = nets[0](torch.cat(differences, 1)).split(self.config.channels, dim=1)
        else:
            masks = [net(difference) for net, difference in zip(nets, differences, strict=True)]
        if not self.config.measured:
            return list(masks)
        moving = self.moving().split(self.config.channels)
        return [mask * own for mask, own in zip(masks, moving, strict=True)]

    def forward(self, source: Sequence[Tensor], target: Sequence[Tensor]) -> list[Tensor]:
        """Mixed style vectors [B, C_l] of all given convolutions; those after the masked ones are the source's."""
        masks = self.masks(source, target)
        mixed = [m * b + (1 - m) * a for m, a, b in zip(masks, source, target)]
        return mixed + [a.expand(len(mixed[0]), -1) for a in source[len(mixed) :]]

    def vectors(self, generator: StyleGAN2, w: Tensor) -> list[Tensor]:
        """What is mixed of W+ codes [B, L, D]: a vector for each convolution of the generator."""
        if self.config.space == "w":
            return [w[:, layer.row] for layer in generator.style_layers if layer.kind == "conv"]
        styles = generator.styles(w)
        return [styles[layer.index] for layer in generator.style_layers if layer.kind == "conv"]

    def _style(self, generator: StyleGAN2, layer: StyleLayer, vector: Tensor) -> Tensor:
        if self.config.space == "s":
            return vector
        return generator.synthesis.get_submodule(f"{layer.name}.affine")(vector)

    def styles(self, generator: StyleGAN2, vectors: Sequence[Tensor], w: Tensor) -> list[Tensor]:
        """Style vectors of all layers: convolutions from (mixed) vectors, toRGB layers from the source's W+ w."""
        styles = [style.expand(len(vectors[0]), -1) for style in generator.styles(w)]
        convolutions = [layer for layer in generator.style_layers if layer.kind == "conv"]
        for layer, vector in zip(convolutions, vectors, strict=True):
            styles[layer.index] = self._style(generator, layer, vector)
        return styles


def _shares(effects: Tensor) -> Tensor:
    """Effects [C] as parts of the root of their squares' sum."""
    return effects / effects.norm().clamp(min=1e-12)


def load_masks(path: str | Path, generator: StyleGAN2 | None = None) -> MaskNets:
    """The mask networks in one of our files, in mask_network_1024.pt or in a training checkpoint of the authors.

    generator: whose channels they must fit. Nothing in the file is run. Raises ValueError, saying what does not fit.
    """
    if own_kind(path) is not None:
        nets = load_module(path, KIND, lambda config: MaskNets(config_of(MaskConfig, config)))
    else:

        def build(state: dict[str, Tensor]) -> MaskNets:
            found = sorted(key for key in state if re.fullmatch(r"network_\d\d\.masknet\.0\.weight", key))
            return MaskNets(MaskConfig(tuple(len(state[key]) for key in found)))

        nets = load_part(path, "network_00.masknet.0.weight", "mask network", build)
    if generator is not None:
        config = nets.config
        fitting = MaskConfig.of(generator, len(config.channels), config.space)
        if tuple(config.channels) != fitting.channels:
            raise ValueError(
                f"{path} masks {list(config.channels)} channels, the generator has {list(fitting.channels)}; "
                "give the masks that were trained on this generator."
            )
    return nets
