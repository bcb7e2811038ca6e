"""What StyleGAN2 and StyleGAN3 have in common: z -> w -> W+ -> S, layers by name, taps, and weight files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.core.weights import changed, config_of, load_module, read_card, save_module
from stylereel.generator.ops import FullyConnected, normalize_second_moment
from stylereel.generator.style_space import LayerKey, StyleLayer, StyleSpace

Tap = Callable[[Tensor], Tensor | None]
Taps = Mapping[int, Tap] | Mapping[str, Tap]


class MappingNetwork(nn.Module):
    """Latent z [B, Z], a label c [B, K], or both, to w [B, D]; without layers it only normalises.

    embed_features: length of the label's embedding; layer_features: width between the layers (both D by default).
    averaged: whether there is a buffer for the mean of w.
    """

    def __init__(
        self,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        layers: int,
        multiplier: float,
        embed_features: int | None = None,
        layer_features: int | None = None,
        averaged: bool = True,
    ) -> None:
        super().__init__()
        embedding = (w_dim if embed_features is None else embed_features) if c_dim else 0
        if c_dim:
            self.embed = FullyConnected(c_dim, embedding)
        hidden = w_dim if layer_features is None else layer_features
        widths = [z_dim + embedding, *[hidden] * (layers - 1), w_dim]
        if not layers and widths[0] != w_dim:
            raise ValueError(f"A mapping network without layers gives {widths[0]} numbers, not {w_dim}.")
        self.layers = layers
        for i in range(layers):
            fc = FullyConnected(widths[i], widths[i + 1], multiplier, activation=True)
            self.add_module(f"fc{i}", fc)
        self.z_dim, self.c_dim = z_dim, c_dim
        if averaged:
            self.register_buffer("w_avg", torch.zeros(w_dim))
        self.w_avg: Tensor

    def forward(self, z: Tensor | None, c: Tensor | None = None) -> Tensor:
        parts = []
        if self.z_dim:
            assert z is not None
            parts.append(normalize_second_moment(z))
        if self.c_dim:
            if c is None:
                raise ValueError(f"This network is conditional: give c as a tensor [B, {self.c_dim}].")
            parts.append(normalize_second_moment(self.embed(c)))
        x = torch.cat(parts, dim=1)
        for i in range(self.layers):
            x = self.get_submodule(f"fc{i}")(x)
        return x


class Generator(nn.Module):
    """The common half of both generators; they add `synthesis` and `synthesize`.

    Attributes: config; resolution [pixels]; num_ws, the rows L of W+; style_layers, the layers in StyleSpace
    order; card, the description in the weight file.
    """

    kind: ClassVar[str]  # in the header of weight files
    config_type: ClassVar[type]
    style_layers: tuple[StyleLayer, ...]
    synthesize: Any  # of codes w or style vectors s; each generator documents its own

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.card: dict[str, Any] = {}
        self.resolution: int = config.resolution
        self.num_ws: int = config.num_ws
        self.mapping = MappingNetwork(
            config.z_dim,
            config.c_dim,
            config.w_dim,
            config.mapping_layers,
            config.mapping_learning_rate_multiplier,
            config.embed_features,
            config.layer_features,
        )
        self.synthesis = nn.Module()

    @property
    def style_space(self) -> StyleSpace:
        """The channels of all style layers under one numbering."""
        return StyleSpace(self.style_layers)

    @property
    def mean_w(self) -> Tensor:
        """The mean [D] of w over z, tracked in training."""
        return self.mapping.w_avg

    def track_mean_w(self, w: Tensor, decay: float = 0.995) -> None:
        """Training: move mean_w towards the mean of a batch w [B, L, D] (official decay 0.998 for StyleGAN3)."""
        self.mapping.w_avg.lerp_(w.detach()[:, 0].mean(dim=0), 1 - decay)

    def map(self, z: Tensor, c: Tensor | None = None, psi: float = 1.0, cutoff: int | None = None) -> Tensor:
        """Latents z [B, Z] (and labels c [B, K]) to W+ codes [B, L, D].

        psi moves the first `cutoff` rows (all by default) towards the mean: mean + psi (w - mean).
        """
        w = self.mapping(z, c)[:, None].expand(-1, self.num_ws, -1)
        if psi == 1:
            return w
        cutoff = self.num_ws if cutoff is None else cutoff
        return torch.cat([torch.lerp(self.mean_w, w[:, :cutoff], psi), w[:, cutoff:]], dim=1)

    def styles(self, w: Tensor) -> list[Tensor]:
        """W+ codes [B, L, D] to the style vectors [B, C_l], in the order of style_layers.

        These are the affine outputs as they are (NVIDIA's convention); the 1/sqrt(C) of a toRGB layer is
        applied in synthesis. Raises ValueError if w has another shape.
        """
        if w.ndim != 3 or w.shape[1:] != (self.num_ws, self.config.w_dim):
            raise ValueError(f"Give w as [B, {self.num_ws}, {self.config.w_dim}]; this one is {list(w.shape)}.")
        return [self._module(layer).affine(w[:, layer.row]) for layer in self.style_layers]

    def _module(self, layer: StyleLayer) -> Any:
        return self.synthesis.get_submodule(layer.name)

    def _layer(self, key: LayerKey) -> StyleLayer:
        return self.style_space.layer(key)

    def _given_styles(self, w: Tensor | None, s: Sequence[Tensor] | None) -> Sequence[Tensor]:
        """The style vectors of `synthesize`, which takes either w or s."""
        if (w is None) == (s is None):
            raise ValueError("Give synthesize either w or s, not both.")
        if s is None:
            assert w is not None
            return self.styles(w)
        self.style_space.check(s)
        return s

    def _stations(self, taps: Taps | None, stop: LayerKey | None, first: int) -> tuple[dict[int, Tap], int | None]:
        """Taps by layer index, and the index to stop at; none may be before the first layer to run."""
        tap_at: dict[int, Tap] = {self._layer(key).index: tap for key, tap in (taps or {}).items()}
        last = None if stop is None else self._layer(stop).index
        for index in [*tap_at, *([] if last is None else [last])]:
            if index < first:
                name = self.style_layers[index].name
                raise ValueError(f"Taps and stop must come after the start layer, unlike {name}.")
        return tap_at, last

    def _check_resize(self, resize: int | None, stop: LayerKey | None) -> None:
        if resize is None:
            return
        if not 0 < resize <= self.resolution:
            raise ValueError(f"Images can be resized to 1 to {self.resolution} pixels, not to {resize}.")
        if stop is not None:
            raise ValueError("Give synthesize either a stop layer or resize; only the final image is resized.")

    def forward(self, z: Tensor, c: Tensor | None = None, psi: float = 1.0) -> Tensor:
        """Latents z [B, Z] to images [B, 3, H, W]."""
        return self.synthesize(self.map(z, c, psi))

    def tuned(self, delta: Mapping[str, Tensor]) -> Self:
        """A copy whose parameters have `delta` {name: difference} added; this one stays as it is.

        Raises ValueError if a difference fits no parameter.
        """
        return changed(self, delta)

    def save(self, path: str | Path, card: Mapping[str, Any] | None = None) -> None:
        """Write the weights in half precision, with the config and `card` (JSON) in the header."""
        save_module(path, self.kind, self, card)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that save() wrote, as float32. Raises ValueError if the file is not one or does not fit."""
        generator = load_module(path, cls.kind, lambda config: cls(config_of(cls.config_type, config)))
        generator.card = read_card(path)
        return generator


def apply_tap(tap: Tap, output: Tensor) -> Tensor:
    """The output of a layer, or the one that its tap returns for it."""
    other = tap(output)
    return output if other is None else other.to(output.dtype, memory_format=torch.channels_last)


def resize_area(images: Tensor, size: int | None) -> Tensor:
    """Images [B, 3, H, H] averaged over areas to [B, 3, size, size]."""
    return images if size is None else F.adaptive_avg_pool2d(images, size)
