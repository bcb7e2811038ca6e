"""StyleGAN3 generator: images whose texture moves with the content, behind the interface of StyleGAN2.

Karras et al., "Alias-Free Generative Adversarial Networks" (2021), configurations T (equivariant to translation) and
R (and to rotation). Parameter names are those of NVIDIA's PyTorch files; the `up_filter` and `down_filter` in them
are computed here, and ignored when loading.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.generator.base import Generator, Taps, apply_tap, resize_area
from stylereel.generator.cpu import fast
from stylereel.generator.ops import DEMODULATION_EPSILON, FullyConnected, pointwise
from stylereel.generator.resample import filtered_lrelu, lowpass_filter
from stylereel.generator.style_space import LayerKey, StyleLayer


@dataclass(frozen=True)
class AliasFreeLayer:
    """Geometry of one layer. Sizes in pixels, margins included; cutoffs and half widths (of the transition bands) in
    cycles per image width; sampling rates in samples per image width; filter padding as left, right, top, bottom.
    """

    name: str
    in_channels: int
    out_channels: int
    in_size: int
    out_size: int
    in_sampling_rate: int
    out_sampling_rate: int
    tmp_sampling_rate: int
    in_cutoff: float
    out_cutoff: float
    in_half_width: float
    out_half_width: float
    up: int
    down: int
    up_taps: int
    down_taps: int
    padding: tuple[int, int, int, int]
    conv_kernel: int
    down_radial: bool
    critical: bool
    torgb: bool

    def up_filter(self) -> Tensor | None:
        """The low-pass filter before the activation, at tmp_sampling_rate; None for the identity."""
        return lowpass_filter(self.up_taps, self.in_cutoff, 2 * self.in_half_width, self.tmp_sampling_rate)

    def down_filter(self) -> Tensor | None:
        """The low-pass filter after the activation."""
        width = 2 * self.out_half_width
        return lowpass_filter(self.down_taps, self.out_cutoff, width, self.tmp_sampling_rate, self.down_radial)


@dataclass(frozen=True)
class StyleGAN3Config:
    """Architecture of a StyleGAN3 generator; the defaults are those of configuration T at 1024 px.

    Configuration R has conv_kernel 1, use_radial_filters and twice the channels (channel_base 65536, channel_max
    1024 at 1024 px; the 256 px networks halve the bases). The rest are the constants of section 3.2 and appendix D.
    """

    resolution: int
    z_dim: int = 512
    w_dim: int = 512
    c_dim: int = 0
    img_channels: int = 3
    channel_base: int = 32768
    channel_max: int = 512
    conv_kernel: Literal[1, 3] = 3
    use_radial_filters: bool = False
    mapping_layers: int = 2
    mapping_learning_rate_multiplier: float = 0.01
    num_layers: int = 14
    num_critical: int = 2
    first_cutoff: float = 2.0
    first_stopband: float = 2**2.1
    last_stopband_rel: float = 2**0.3
    margin_size: int = 10
    output_scale: float = 0.25
    filter_size: int = 6
    lrelu_upsampling: int = 2
    conv_clamp: float | None = 256.0
    embed_features: int | None = None
    layer_features: int | None = None

    def __post_init__(self) -> None:
        if self.resolution < 16 or self.resolution & (self.resolution - 1):
            raise ValueError(f"The resolution must be a power of two of at least 16, not {self.resolution}.")
        if self.conv_kernel not in (1, 3):
            raise ValueError(f"The convolution kernel must be 1 or 3 pixels wide, not {self.conv_kernel}.")
        if not 0 <= self.num_critical < self.num_layers:
            raise ValueError(
                f"Of {self.num_layers} layers, 0 to {self.num_layers - 1} can be critically sampled, "
                f"not {self.num_critical}."
            )

    @property
    def num_ws(self) -> int:
        """Rows of W+: the input, the layers and toRGB."""
        return self.num_layers + 2

    def layers(self) -> tuple[AliasFreeLayer, ...]:
        """All layers, toRGB last (section 3.2: cutoff and stopband grow geometrically, layer by layer)."""
        last_cutoff = self.resolution / 2
        last_stopband = last_cutoff * self.last_stopband_rel
        count = self.num_layers + 1
        progress = [min(i / (self.num_layers - self.num_critical), 1.0) for i in range(count)]
        cutoffs = [self.first_cutoff * (last_cutoff / self.first_cutoff) ** p for p in progress]
        stopbands = [self.first_stopband * (last_stopband / self.first_stopband) ** p for p in progress]
        rates = [2 ** math.ceil(math.log2(min(2 * stopband, self.resolution))) for stopband in stopbands]
        half_widths = [max(stopbands[i], rates[i] / 2) - cutoffs[i] for i in range(count)]
        sizes = [rate + 2 * self.margin_size for rate in rates[:-2]] + [self.resolution] * 2
        channels = [round(min(self.channel_base / 2 / cutoff, self.channel_max)) for cutoff in cutoffs]
        channels[-1] = self.img_channels

        layers = []
        for i in range(count):
            before = max(i - 1, 0)
            torgb = i == count - 1
            critical = i >= self.num_layers - self.num_critical
            kernel = 1 if torgb else self.conv_kernel
            inner_rate = max(rates[before], rates[i]) * (1 if torgb else self.lrelu_upsampling)
            up, down = inner_rate // rates[before], inner_rate // rates[i]
            up_taps = self.filter_size * up if up > 1 and not torgb else 1
            down_taps = self.filter_size * down if down > 1 and not torgb else 1
            # The padding that gives the layer's size; an odd value more goes where it keeps the centre in place.
            pad = (sizes[i] - 1) * down + 1 - (sizes[before] + kernel - 1) * up + up_taps + down_taps - 2
            low = (pad + up) // 2
            layers.append(
                AliasFreeLayer(
                    name=f"L{i}_{sizes[i]}_{channels[i]}",
                    in_channels=channels[before],
                    out_channels=channels[i],
                    in_size=sizes[before],
                    out_size=sizes[i],
                    in_sampling_rate=rates[before],
                    out_sampling_rate=rates[i],
                    tmp_sampling_rate=inner_rate,
                    in_cutoff=cutoffs[before],
                    out_cutoff=cutoffs[i],
                    in_half_width=half_widths[before],
                    out_half_width=half_widths[i],
                    up=up,
                    down=down,
                    up_taps=up_taps,
                    down_taps=down_taps,
                    padding=(low, pad - low, low, pad - low),
                    conv_kernel=kernel,
                    down_radial=self.use_radial_filters and not critical,
                    critical=critical,
                    torgb=torgb,
                )
            )
        return tuple(layers)


def normalize(weight: Tensor, style: Tensor, demodulate: bool = True) -> tuple[Tensor, Tensor]:
    """Style [B, I] normalised for weight [O, I, K, K], and the demodulation [B, O] ([] without; appendix D.1).

    Weight and style are normalised before they meet, which only the epsilon of the demodulation feels.
    """
    if not demodulate:
        return style, torch.ones([], dtype=weight.dtype, device=weight.device)
    style = style * style.square().mean(dim=1, keepdim=True).clamp_min(1e-20).rsqrt()
    energy = weight.square().sum(dim=(2, 3))
    norm = (energy.sum(dim=1) / weight[0].numel()).rsqrt()
    return style, norm * (style.square() @ (energy * norm.square()[:, None]).T + DEMODULATION_EPSILON).rsqrt()


def normalized_modulated_conv(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    padding: int | tuple[int, int] = 0,
    demodulate: bool = True,
    input_gain: Tensor | float = 1.0,
    role: str | None = None,
) -> Tensor:
    """Modulated convolution of x [B, I, H, W] by weight [O, I, K, K] and style [B, I] (appendix D.1).

    input_gain [], [I] or [B, I] scales x and is not demodulated. Returns [B, O, H', W'] in the precision of x; `role`
    allows it to be overwritten by the next call with that role.
    """
    dtype = x.dtype
    style, demodulation = normalize(weight, style, demodulate)
    style = style * input_gain
    if isinstance(padding, int) and dtype != torch.float16 and fast.free(x, weight, style):
        styled = weight * style[:, None, :, None, None] * demodulation[..., None, None, None]
        return fast.convolve_each(x, styled.to(dtype), padding, role)
    if weight.shape[2:] == (1, 1) and padding in (0, (0, 0)):
        # Such a weight is small: scaling it for each sample saves two passes over the features.
        weight = weight.flatten(1) * style[:, None] * demodulation[..., None]
        return pointwise(x, weight.to(dtype))
    if dtype == torch.float16:
        # Demodulation undoes any factor of style and weight; these keep sums in the range of half precision.
        peak = style.abs().amax(dim=1, keepdim=True).clamp_min(1e-6)
        scale = (weight.square().sum(dim=(1, 2, 3)) * weight[0].numel()).rsqrt()
        style, weight = style / peak, weight * scale[:, None, None, None]
        demodulation = demodulation * peak / scale
    # Scaling the activations instead of the weight lets a batch share one convolution.
    x = F.conv2d(x * style.to(dtype)[:, :, None, None], weight.to(dtype), padding=padding)
    demodulation = demodulation.to(dtype)[..., None, None]
    return x * demodulation if x.requires_grad else x.mul_(demodulation)


class FourierInput(nn.Module):
    """Fourier features on a plane that the style turns and shifts, mixed by a matrix (section 3.2, appendix D.1)."""

    def __init__(self, layer: AliasFreeLayer, w_dim: int) -> None:
        super().__init__()
        channels = layer.in_channels
        self.size, self.sampling_rate, self.bandwidth = layer.in_size, layer.in_sampling_rate, layer.in_cutoff
        # Uniform over a disk of frequencies; computed on the CPU even where a network is only planned.
        freqs = torch.randn(channels, 2, device="cpu")
        radii = freqs.square().sum(dim=1, keepdim=True).sqrt()
        freqs = freqs / (radii * radii.square().exp().pow(0.25)) * self.bandwidth
        self.weight = nn.Parameter(torch.randn(channels, channels))
        self.affine = FullyConnected(w_dim, 4)
        nn.init.zeros_(self.affine.weight)
        with torch.no_grad():
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        self.register_buffer("transform", torch.eye(3))
        self.register_buffer("freqs", freqs)
        self.register_buffer("phases", torch.rand(channels, device="cpu") - 0.5)
        self.transform: Tensor
        self.freqs: Tensor
        self.phases: Tensor

    def forward(self, style: Tensor, transform: Tensor | None, dtype: torch.dtype) -> Tensor:
        """style [B, 4] (cosine, sine, shift) and the inverse of the image's motion [B, 3, 3] to [B, C, H, W].

        The waves are computed in the precision of the style, and mixed in `dtype`.
        """
        if transform is None:
            transform = self.transform
        style = style / style[:, :2].norm(dim=1, keepdim=True)
        cosine, sine, shift_x, shift_y = style.unbind(dim=1)
        turn = torch.stack([torch.stack([cosine, -sine], dim=1), torch.stack([sine, cosine], dim=1)], dim=1)
        # turn @ shift @ transform, as a 2x2 matrix and an offset.
        offset = transform[..., :2, 2] - torch.stack([shift_x, shift_y], dim=1)
        offset = (turn @ offset[:, :, None]).squeeze(2)
        turn = turn @ transform[..., :2, :2]
        phases = self.phases + offset @ self.freqs.T  # [B, C]
        freqs = self.freqs @ turn  # [B, C, 2]
        # Frequencies that a transform pushes beyond the bandwidth fade out.
        slack = self.sampling_rate / 2 - self.bandwidth
        amplitudes = (1 - (freqs.norm(dim=2) - self.bandwidth) / slack).clamp(0, 1)

        position = torch.arange(self.size, dtype=freqs.dtype, device=freqs.device)
        position = (position + 0.5 - self.size / 2) / self.sampling_rate  # the image covers -0.5 to 0.5
        waves_x = position[:, None] * freqs[:, None, :, 0]  # [B, W, C]
        waves_y = position[:, None] * freqs[:, None, :, 1]
        x = waves_y[:, :, None] + waves_x[:, None] + phases[:, None, None]
        x = torch.sin(2 * math.pi * x) * amplitudes[:, None, None]
        x = x.to(dtype) @ (self.weight / math.sqrt(self.weight.shape[1])).T.to(dtype)
        return x.permute(0, 3, 1, 2)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # Editing tools store a batch of transforms; it belongs to the images that they generated, so it is dropped.
        if state_dict.get(f"{prefix}transform", self.transform).ndim == 3:
            state_dict[f"{prefix}transform"] = torch.eye(3)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class SynthesisLayer(nn.Module):
    """Modulated convolution, then bias and leaky ReLU between up- and down-sampling (figure 4b); toRGB is linear."""

    def __init__(self, layer: AliasFreeLayer, config: StyleGAN3Config) -> None:
        super().__init__()
        self.layer = layer
        self.clamp = config.conv_clamp
        self.affine = FullyConnected(config.w_dim, layer.in_channels, bias=1.0)
        kernel = layer.conv_kernel
        self.weight = nn.Parameter(torch.randn(layer.out_channels, layer.in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(layer.out_channels))
        self.register_buffer("magnitude_ema", torch.ones([]))
        self.magnitude_ema: Tensor
        self.register_buffer("up_filter", layer.up_filter(), persistent=False)
        self.register_buffer("down_filter", layer.down_filter(), persistent=False)
        self.up_filter: Tensor | None
        self.down_filter: Tensor | None

    def forward(self, x: Tensor, style: Tensor, magnitude_decay: float | None, role: str | None = None) -> Tensor:
        """x [B, I, H, W], style [B, I] to [B, O, H', W'] in the precision of x; toRGB gives that of the weights.

        `role` allows the result to be overwritten by the next layer of that role; None makes it the caller's.
        """
        layer = self.layer
        if magnitude_decay is not None:
            with torch.no_grad():
                magnitude = x.to(self.magnitude_ema.dtype).square().mean()
                self.magnitude_ema.lerp_(magnitude, 1 - magnitude_decay)
        input_gain = self.magnitude_ema.rsqrt()
        if layer.torgb:
            style = style / math.sqrt(self.weight[0].numel())
            x = normalized_modulated_conv(x, self.weight, style, demodulate=False, input_gain=input_gain)
            x = x.to(self.weight.dtype) + self.bias[:, None, None]
            return x if self.clamp is None else x.clamp(-self.clamp, self.clamp)
        up, down = self.up_filter, self.down_filter
        work = 9 * layer.in_channels * layer.out_channels * layer.in_size**2
        fits = fast.knows_filters(layer.up, layer.down, layer.up_taps, layer.down_taps)
        fits = fits and fast.takes(work, x, self.weight, style, self.bias)
        if fits and up is not None and down is not None:
            style, demodulation = normalize(self.weight, style)
            return fast.filtered_layer(
                x,
                self.weight,
                style * input_gain,
                demodulation,
                self.bias,
                up,
                down,
                layer.up,
                layer.padding,
                layer.out_size,
                self.clamp,
                role,
            )
        padding = layer.conv_kernel - 1
        x = normalized_modulated_conv(x, self.weight, style, padding, input_gain=input_gain, role="convolved")
        return filtered_lrelu(
            x,
            self.up_filter,
            self.down_filter,
            self.bias,
            layer.up,
            layer.down,
            layer.padding,
            clamp=self.clamp,
            role=role,
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("up_filter", "down_filter"):
            state_dict.pop(prefix + name, None)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class StyleGAN3(Generator):
    """StyleGAN3 generator; see `Generator` for its attributes and for mapping, styles and files."""

    kind = "stylegan3"
    config_type = StyleGAN3Config

    def __init__(self, config: StyleGAN3Config) -> None:
        super().__init__(config)
        layers = config.layers()
        self.synthesis.add_module("input", FourierInput(layers[0], config.w_dim))
        style_layers = [StyleLayer(0, "input", "input", 0, layers[0].in_size, 4)]
        for row, layer in enumerate(layers, start=1):
            self.synthesis.add_module(layer.name, SynthesisLayer(layer, config))
            kind = "rgb" if layer.torgb else "conv"
            style_layers.append(StyleLayer(row, layer.name, kind, row, layer.out_size, layer.in_channels))
        self.style_layers = tuple(style_layers)

    def synthesize(
        self,
        w: Tensor | None = None,
        s: Sequence[Tensor] | None = None,
        noise: Literal["const", "none"] = "const",
        taps: Taps | None = None,
        start: tuple[LayerKey, Tensor] | tuple[LayerKey, Tensor, None] | None = None,
        stop: LayerKey | None = None,
        dtype: torch.dtype | None = None,
        resize: int | None = None,
        transform: Tensor | None = None,
        magnitude_decay: float | None = None,
    ) -> Tensor:
        """W+ codes w [B, L, D], or style vectors s as styles() gives them, to images [B, 3, H, W].

        Images are in about [-1, 1]. Layers are named by StyleSpace index or by name. The output of the "input" layer
        and of a "conv" layer is a feature map, margins included; that of the "rgb" layer is the image.

        noise: without meaning here, since this network has none; "const" and "none" are the same.
        taps: functions of the output of a layer, which may return another one to go on with.
        start: (layer, output of that layer) skips everything up to that layer.
        stop: return the output of this layer instead of the final image.
        dtype: precision of the features, by default that of the weights; images keep that of the weights.
        resize: average the final image over areas to this height and width in pixels.
        transform: where the content of the image goes, a matrix [3, 3], or [B, 3, 3] with one a sample, as
            `image_transform` makes them. Without it the buffer `synthesis.input.transform` is used, which holds the
            *inverse* of such a matrix.
        magnitude_decay: training: first move the stored magnitude of each layer's input towards that of this batch
            with this decay (officially 0.999).

        Raises ValueError for a layer that does not exist, shapes that do not fit, a start that cannot work, taps or
        a stop that do not come after the start, noise that would have no effect, and a transform without inverse.
        """
        s = self._given_styles(w, s)
        self._check_resize(resize, stop)
        if noise not in ("const", "none"):
            raise ValueError("StyleGAN3 has no noise: leave the noise at 'const' or 'none'.")
        first, x = (0, None) if start is None else self._start(start)
        tap_at, last = self._stations(taps, stop, first)
        inverse = None if transform is None else self._inverse(transform, batch=s[0].shape[0], started=x is not None)

        for layer, style in zip(self.style_layers[first:], s[first:], strict=True):
            module = self._module(layer)
            if x is None:
                x = module(style, inverse, dtype or style.dtype)
            else:
                # What a caller may keep gets memory of its own.
                kept = layer.index in tap_at or layer.index == last
                role = None if kept else f"layer {layer.index % 2}"
                x = module(x.to(dtype or style.dtype), style, magnitude_decay, role)
            if layer.kind == "rgb":
                x = x * self.config.output_scale
            else:
                x = x.to(dtype or style.dtype, memory_format=torch.channels_last)
            if layer.index in tap_at:
                x = apply_tap(tap_at[layer.index], x)
            if layer.index == last:
                return x
        assert x is not None
        return resize_area(x, resize)

    def _start(self, start: tuple[Any, ...]) -> tuple[int, Tensor]:
        """Index of the first layer to run, and the feature to begin with."""
        layer, x = self._layer(start[0]), start[1]
        if layer.kind == "rgb":
            raise ValueError(f"Start from another layer than {layer.name}, which gives the image.")
        if len(start) > 2 and start[2] is not None:
            raise ValueError("Start without an image; StyleGAN3 makes it in its last layer.")
        channels = self.style_layers[layer.index + 1].channels
        if list(x.shape[1:]) != [channels, layer.resolution, layer.resolution]:
            shape = f"[B, {channels}, {layer.resolution}, {layer.resolution}]"
            raise ValueError(f"To start from {layer.name}, give a feature {shape}, not {list(x.shape)}.")
        return layer.index + 1, x

    def _inverse(self, transform: Tensor, batch: int, started: bool) -> Tensor:
        if started:
            raise ValueError("Give synthesize either a start or a transform, which acts on the input layer.")
        if transform.shape not in ((3, 3), (batch, 3, 3)):
            raise ValueError(f"Give the transform as [3, 3] or [{batch}, 3, 3]; this one is {list(transform.shape)}.")
        inverse, failed = torch.linalg.inv_ex(transform.to(self.mean_w.dtype))
        if failed.any():
            raise ValueError("The transform has no inverse; give one that image_transform makes.")
        return inverse.to(self.mean_w.device)


def image_transform(roll_degrees: float = 0.0, shift_x: float = 0.0, shift_y: float = 0.0) -> Tensor:
    """The matrix [3, 3] float64 for `StyleGAN3.synthesize` that turns the image around its centre, then shifts it.

    roll_degrees: clockwise. shift_x, shift_y: to the right and down, in image widths.
    """
    angle = math.radians(roll_degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    rows = [[cosine, -sine, shift_x], [sine, cosine, shift_y], [0.0, 0.0, 1.0]]
    return torch.tensor(rows, dtype=torch.float64)
