"""Our weight files: safetensors whose header holds kind, config and card. Nothing in one is run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from stylereel.core.files import replacing, require_file

Network = TypeVar("Network", bound=nn.Module)

MOST_SHARED = 2**26  # bytes that names for the same numbers may add


def save_module(path: str | Path, kind: str, module: nn.Module, card: Mapping[str, Any] | None = None) -> None:
    """Write a network's parameters in half precision and its buffers as they are.

    The module's `config` dataclass (if any) and `card` go into the header.
    """
    config = asdict(module.config) if hasattr(module, "config") else {}  # type: ignore[arg-type]
    header = {"format": "stylereel", "kind": kind, "config": json.dumps(config), "card": json.dumps(dict(card or {}))}
    halves = {}
    parameters = dict(module.named_parameters())
    for key, value in module.state_dict().items():
        half = value.detach().cpu().half() if key in parameters else value.detach().cpu()
        # A value beyond the range of half precision would become infinite.
        halves[key] = (half if half.isfinite().all() else value.detach().cpu().float()).contiguous()
    with replacing(path) as partial:
        save_file(halves, partial, metadata=header)


def read_header(path: str | Path) -> dict[str, str]:
    """The header of one of our weight files. Raises ValueError if the file is not one."""
    require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a safetensors file; give weights that stylereel wrote.") from error
    if header.get("format") != "stylereel":
        raise ValueError(f"{path} was not written by stylereel; give weights that stylereel wrote.")
    return header


def own_kind(path: str | Path) -> str | None:
    """The kind of network in one of our weight files, or None for any other file."""
    try:
        return read_header(path).get("kind")
    except ValueError:
        return None


def read_card(path: str | Path) -> dict[str, Any]:
    """What a weight file says about itself: data, command, machine, licence."""
    return json.loads(read_header(path).get("card", "{}"))


def load_module(path: str | Path, kind: str, build: Callable[[dict[str, Any]], Network]) -> Network:
    """The network that `build` makes of the file's config, with the file's weights, as float32.

    Raises ValueError if the file is of another kind or does not fit the network, naming the tensors that do not.
    """
    header = read_header(path)
    if header.get("kind") != kind:
        raise ValueError(f"{path} holds {header.get('kind')!r} weights; give a file of kind {kind!r}.")
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    tensors = {key: value.float() if value.dtype == torch.float16 else value for key, value in tensors.items()}
    try:
        settings = json.loads(header["config"])
        _check_settings(settings)
        module = build(settings)
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"The config in {path} is not one of kind {kind!r}: {error}.") from error
    problems = misfits(module, tensors)
    if problems:
        raise ValueError(f"The weights in {path} do not fit their config: {'; '.join(problems)}.")
    module.load_state_dict(tensors)
    return module


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Raise TypeError for numbers that no network has, before one is built of them."""
    for name, value in settings.items():
        limit = 64 if name.endswith("layers") else 2**18
        numbers = value if isinstance(value, list) else [value]
        if len(numbers) > 64 or any(isinstance(number, (int, float)) and abs(number) > limit for number in numbers):
            raise TypeError(f"{name} is beyond what any network has")


def check_sharing(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError if so many names stand for the same numbers that a network made of them would be far larger than
    the file, which no network needs."""
    sizes = {id(value): value.numel() * value.element_size() for value in tensors.values()}
    if sum(sizes[id(value)] for value in tensors.values()) > 4 * sum(sizes.values()) + MOST_SHARED:
        raise ValueError(f"{path} has the same numbers under more names than any network needs.")


def misfits(module: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """What keeps a state dict from fitting a module, one phrase a tensor; empty if it fits."""
    expected = {key: list(value.shape) for key, value in module.state_dict().items()}
    found = {key: list(value.shape) for key, value in tensors.items()}
    missing = [f"{key} is missing" for key in expected if key not in found]
    unknown = [f"{key} is not known" for key in found if key not in expected]
    both = [key for key in expected if key in found]
    return missing + unknown + [f"{k} is {found[k]}, not {expected[k]}" for k in both if found[k] != expected[k]]
