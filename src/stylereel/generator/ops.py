"""Operations that the generators and the discriminator share: resampling, modulated convolution, activation.

Everything is plain differentiable PyTorch (double backward included). Resampling filters are products of one row of
taps with itself, by default the binomial [1, 3, 3, 1] of StyleGAN2 (Karras et al., "Analyzing and Improving the Image
Quality of StyleGAN", 2020); they are true convolutions, and their taps are scaled to the sum 1.
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAKY_SLOPE = 0.2
ACTIVATION_GAIN = math.sqrt(2)  # keeps the second moment of a unit normal through the leaky ReLU
DEMODULATION_EPSILON = 1e-8


FilterTaps = tuple[float, ...]
BINOMIAL: FilterTaps = (1.0, 3.0, 3.0, 1.0)


@cache
def _kernel(taps: FilterTaps, channels: int, total: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Depthwise kernel [C, 1, N, N] of the filter of N taps on both axes, with the sum `total`."""
    with torch.inference_mode(False):  # a tensor made in inference mode could not be used in training later
        row = torch.tensor(taps, dtype=torch.float64)
        kernel = torch.outer(row, row) * (total / row.sum().square())
        return kernel.to(device, dtype).expand(channels, 1, -1, -1).contiguous()


def blur(x: Tensor, padding: int | tuple[int, int], gain: float = 1.0, taps: FilterTaps = BINOMIAL) -> Tensor:
    """Filter x [B, C, H, W] with the taps times sqrt(gain) on both axes, after zero padding.

    padding: zeros at both ends of each axis, or (before, after); negative ones crop.
    """
    before, after = (padding, padding) if isinstance(padding, int) else padding
    if before != after or before < 0:
        x, before = F.pad(x, (before, after, before, after)), 0
    channels = x.shape[1]
    return F.conv2d(x, _kernel(taps[::-1], channels, gain, x.dtype, x.device), padding=before, groups=channels)


def upsample(x: Tensor, taps: FilterTaps = BINOMIAL) -> Tensor:
    """Double the height and width of x [B, C, H, W] by zero insertion and a filter; amplitudes are kept."""
    channels = x.shape[1]
    kernel = _kernel(taps, channels, 4.0, x.dtype, x.device)
    if len(taps) == 4:
        return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=channels)
    # The transposed convolution begins at the filter's last tap; the result is to begin near its middle.
    lead = (len(taps) + 1) // 2
    before, after = lead - len(taps) + 1, 1 - lead
    return F.pad(F.conv_transpose2d(x, kernel, stride=2, groups=channels), (before, after, before, after))


def downsample(x: Tensor, taps: FilterTaps = BINOMIAL) -> Tensor:
    """Halve the height and width of x [B, C, H, W] by a filter and every second sample."""
    channels = x.shape[1]
    kernel = _kernel(taps[::-1], channels, 1.0, x.dtype, x.device)
    before, after = (len(taps) - 1) // 2, (len(taps) - 2) // 2
    if before != after:
        x, before = F.pad(x, (before, after, before, after)), 0
    return F.conv2d(x, kernel, stride=2, padding=before, groups=channels)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """1x1 convolution of x [B, I, H, W] by weight [O, I], or by one weight a sample [B, O, I], plus bias [O].

    As a matrix product a sample, which keeps the channels last in both directions; PyTorch's own 1x1
    convolution does not on one CPU thread, and one product for the whole batch has a slow gradient.
    """
    batch, channels, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    y = pixels @ weight.expand(batch, -1, -1).transpose(1, 2)
    if bias is not None:
        y = y + bias
    return y.reshape(batch, height, width, -1).permute(0, 3, 1, 2)


def normalize_second_moment(x: Tensor) -> Tensor:
    """Scale each row of x [B, N] to a mean square of 1."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def activate(x: Tensor, gain: float = 1.0, clamp: float | None = None) -> Tensor:
    """Leaky ReLU (slope 0.2) times sqrt(2) times gain, then a clamp to [-clamp * gain, clamp * gain]."""
    x = F.leaky_relu(x, LEAKY_SLOPE) * (ACTIVATION_GAIN * gain)
    return x if clamp is None else x.clamp(-clamp * gain, clamp * gain)


def modulated_conv(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    bias: Tensor,
    noise: Tensor | None,
    strength: Tensor,
    up: bool = False,
    gain: float = 1.0,
    clamp: float | None = None,
    taps: FilterTaps = BINOMIAL,
) -> Tensor:
    """One StyleGAN2 layer: modulate, convolve 3x3, demodulate, add noise and bias, activate (section 2.2).

    x [B, I, H, W] may have a lower precision than the rest; weight [O, I, 3, 3]; style [B, I]; bias [O];
    noise has one map for all or one a sample, and is scaled by strength []; up doubles height and width, filtered with
    taps.
    Returns [B, O, H, W] or [B, O, 2H, 2W] in the precision of x.
    """
    dtype = x.dtype
    gain_total = ACTIVATION_GAIN * gain
    energy = weight.square().sum(dim=(2, 3))
    demodulation = gain_total * (style.square() @ energy.T + DEMODULATION_EPSILON).rsqrt()
    if dtype == torch.float16:
        # Demodulation undoes any factor of the style; this one keeps sums in the range of half precision.
        peak = style.abs().amax(dim=1, keepdim=True).clamp_min(1e-6) * math.sqrt(weight[0].numel())
        style, demodulation = style / peak, demodulation * peak
    # Scaling the activations instead of the weight lets a batch share one convolution.
    x = x * style.to(dtype)[:, :, None, None]
    weight = weight.to(dtype)
    if up:
        # The transposed convolution gives one pixel too many, which the filter removes.
        padding = (len(taps) + 1) // 2 - 1, (len(taps) - 2) // 2
        x = blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), padding, 4.0, taps)
    else:
        x = F.conv2d(x, weight, padding=1)
    # The rest works on pixels [B, H W, O]: else the gradient of the shift, a sum over the batch, is slow.
    batch, channels, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    # A leaky ReLU commutes with a positive factor: the gain goes into scale and shift, which saves a pass.
    shift = (gain_total * bias).expand(1, height * width, channels)
    if noise is not None:
        shift = shift + (gain_total * strength) * noise.reshape(-1, height * width, 1)
    pixels = (pixels * demodulation.to(dtype)[:, None]).add_(shift.contiguous().to(dtype))
    pixels = F.leaky_relu(pixels, LEAKY_SLOPE, inplace=True)
    x = pixels.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
    return x if clamp is None else x.clamp(-clamp * gain, clamp * gain)


class FullyConnected(nn.Module):
    """Linear layer with the learning rate equalised at run time: weights are stored at unit scale.

    weight [O, I] is used times multiplier / sqrt(I), bias [O] times multiplier.
    """

    def __init__(
        self, inputs: int, outputs: int, multiplier: float = 1.0, bias: float = 0.0, activation: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs).div_(multiplier))
        self.bias = nn.Parameter(torch.full((outputs,), float(bias)))
        self.multiplier = multiplier
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """x [B, I] to [B, O]."""
        # Scaling the input costs less than scaling the weight.
        gain = self.multiplier / math.sqrt(self.weight.shape[1])
        x = F.linear(x * gain, self.weight, self.bias * self.multiplier)
        return activate(x) if self.activation else x
