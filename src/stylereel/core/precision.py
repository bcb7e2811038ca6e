"""Which precision is fast on a device: half precision helps where the hardware multiplies in it, else it is emulated.

On a processor without bf16 arithmetic (AVX2 alone) a frame in bf16 takes up to 15 times as long as in float32.
"""

from __future__ import annotations

import warnings
from typing import Literal

import torch

Precision = Literal["auto", "32", "bf16"]


def has_fast_bf16(device: torch.device | str = "cpu") -> bool:
    """Whether a device multiplies in bf16, by the flags of its hardware (a timing could differ from run to run)."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(present is True for name, present in known.items() if name.endswith("bf16"))


def choose_precision(requested: str, device: torch.device | str = "cpu") -> str:
    """`requested`, or for auto what is faster on the device: bf16 or 32. A slow choice is made with a warning."""
    fast = has_fast_bf16(device)
    if requested == "auto":
        return "bf16" if fast else "32"
    if requested == "bf16" and not fast:
        warnings.warn(f"This {torch.device(device).type} has no bf16 arithmetic: 32 is faster here.", stacklevel=3)
    return requested
