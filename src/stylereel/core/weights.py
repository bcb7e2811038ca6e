"""Our files: safetensors whose header holds format, kind and a checksum. Nothing in one is run.

`write_tensors` and `read_tensors` are the way in and out for all of them. Files of networks (`save_module`,
`load_module`) also have a config and a card in the header.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from stylereel.core.files import replacing, require_file
from stylereel.core.record import sha256

Network = TypeVar("Network", bound=nn.Module)
Config = TypeVar("Config")

MOST_SHARED = 2**26  # bytes that names for the same numbers may add
CHECKSUM = "sha256"  # its name in the header

# What building something of a hostile file's contents can raise.
HOSTILE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError)


_FILLING = (
    torch.Tensor.normal_,
    torch.Tensor.div_,
    nn.init.normal_,
    nn.init.kaiming_normal_,
    nn.init.xavier_normal_,
    nn.init.trunc_normal_,
)


class _NothingDrawn(TorchFunctionMode):
    """Leaves out the drawing of numbers on the meta device, for which PyTorch would spend a second on imports."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.randn, torch.eye) and "device" not in kwargs:
            sizes = args * 2 if func is torch.eye and len(args) == 1 else args
            return torch.empty(*sizes, **{name: value for name, value in kwargs.items() if name != "generator"})
        if func in _FILLING:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


@contextmanager
def without_memory() -> Iterator[None]:
    """Networks that are built within have tensors with shapes and no numbers, which take no memory."""
    with torch.device("meta"), _NothingDrawn():
        yield


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a safetensors file (replaced only when complete) with a header of ours and a checksum of it all."""
    values = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    whole = {"format": "stylereel", **header}
    with replacing(path) as partial:
        save_file(values, partial, {**whole, CHECKSUM: _checksum(values, whole)})


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file, ours or another's.

    Raises ValueError if it is none, or is damaged: a checksum in the header, which older files of ours lack, must fit.
    """
    require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, *HOSTILE) as error:
        raise ValueError(f"{path} is a damaged safetensors file, or none; get a complete copy.") from error
    checksum = header.pop(CHECKSUM, None)
    if header.get("format") == "stylereel" and checksum is not None and checksum != _checksum(tensors, header):
        raise ValueError(f"{path} is damaged: its contents do not fit its checksum; get a complete copy.")
    return tensors, header


def _checksum(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """SHA-256 of a header and of tensors with their names, types and shapes."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        if value.numel():
            flat = value.reshape(-1)
            if flat.stride(0) != 1:  # numpy gives a single number any stride
                flat = flat.clone(memory_format=torch.contiguous_format)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_header(path: str | Path) -> dict[str, str]:
    """The header of one of our files; the rest is not looked at. Raises ValueError if the file is not one."""
    require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError, *HOSTILE) as error:
        raise ValueError(f"{path} is not a safetensors file; give one that stylereel wrote.") from error
    if header.get("format") != "stylereel":
        raise ValueError(f"{path} was not written by stylereel; give one that stylereel wrote.")
    return header


def own_kind(path: str | Path) -> str | None:
    """What is in one of our files, or None for any other file."""
    try:
        return read_header(path).get("kind")
    except ValueError:
        return None


def check_finite(what: str, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError that names the first tensor with a number that is not finite.

    what: in a few words, what the tensors are of.
    """
    for name, value in tensors.items():
        if value.is_floating_point() and value.numel():
            # The extremes of a tensor with a NaN are NaN; this needs no memory, however large it is.
            low, high = torch.aminmax(value.detach() if value.element_size() > 1 else value.detach().float())
            if not (low.isfinite() and high.isfinite()):
                raise ValueError(f"{what} has numbers in {name!r} that are not finite.")


def save_module(path: str | Path, kind: str, module: nn.Module, card: Mapping[str, Any] | None = None) -> None:
    """Write a network's parameters in half precision and its buffers as they are.

    The module's `config` dataclass (if any) and `card` go into the header.
    """
    config = asdict(module.config) if hasattr(module, "config") else {}  # type: ignore[arg-type]
    header = {"kind": kind, "config": json.dumps(config), "card": json.dumps(dict(card or {}))}
    halves = {}
    parameters = dict(module.named_parameters())
    for key, value in module.state_dict().items():
        half = value.detach().cpu().half() if key in parameters else value.detach().cpu()
        # A value beyond the range of half precision would become infinite.
        halves[key] = half if half.isfinite().all() else value.detach().cpu().float()
    write_tensors(path, halves, header)


def changed(network: Network, delta: Mapping[str, Tensor]) -> Network:
    """A copy of a network whose parameters have `delta` {name: difference} added; the network stays as it is.

    Raises ValueError if a difference fits no parameter.
    """
    other = copy.deepcopy(network)
    parameters = dict(other.named_parameters())
    for name, difference in delta.items():
        if name not in parameters or parameters[name].shape != difference.shape:
            raise ValueError(f"The tuning of {name} {list(difference.shape)} is for another network.")
        parameters[name].data.add_(difference.to(parameters[name]))
    return other


def fingerprint(path: str | Path) -> str:
    """The SHA-256 of a weight file's tensors, which the header holds; of the whole file where it does not."""
    return read_header(path).get(CHECKSUM) or sha256(path)


def read_card(path: str | Path) -> dict[str, Any]:
    """What a weight file says about itself: data, command, machine, licence."""
    return parse_card(path, read_header(path))


def parse_card(path: str | Path, header: Mapping[str, str]) -> dict[str, Any]:
    """The card in a header. Raises ValueError if it is none."""
    try:
        card = json.loads(header.get("card", "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The card in {path} is damaged; get a complete copy.") from error
    if not isinstance(card, dict):
        raise ValueError(f"The card in {path} is damaged; get a complete copy.")
    return card


def load_module(path: str | Path, kind: str, build: Callable[[dict[str, Any]], Network]) -> Network:
    """The network that `build` makes of the file's config, with the file's weights, as float32.

    `build` is first called without memory for tensors, so that a config that does not fit the file costs none.

    Raises ValueError if the file is of another kind, is damaged, or does not fit the network, naming the tensors that
    do not.
    """
    header = read_header(path)
    if header.get("kind") != kind:
        raise ValueError(f"{path} holds {header.get('kind')!r} weights; give a file of kind {kind!r}.")
    tensors, header = read_tensors(path)
    halves = {key for key, value in tensors.items() if value.is_floating_point() and value.element_size() <= 2}
    tensors = {key: value.float() if key in halves else value for key, value in tensors.items()}
    try:
        settings = json.loads(header["config"])
        _check_settings(settings)
        with without_memory():
            skeleton = build(settings)
    except HOSTILE as error:
        raise ValueError(f"The config in {path} is not one of kind {kind!r}: {_short(error)}.") from error
    problems = misfits(skeleton, tensors)
    if problems:
        more = f"; and {len(problems) - MOST_LISTED} more" if len(problems) > MOST_LISTED else ""
        raise ValueError(f"The weights in {path} do not fit their config: {'; '.join(problems[:MOST_LISTED])}{more}.")
    check_finite(str(path), {name: tensors[name] for name, _ in skeleton.named_parameters()})
    module = build(settings)
    module.load_state_dict(tensors)
    return module


MOST_LISTED = 12  # tensors in a message


def config_of(kind: type[Config], settings: Mapping[str, Any]) -> Config:
    """The config dataclass of a header's settings. Raises TypeError for a value of another type than the field's."""
    hints = get_type_hints(kind)
    for name, value in settings.items():
        if name in hints and not _is(value, hints[name]):
            raise TypeError(f"{name} is {value!r:.40}")
    return kind(**settings)


def _is(value: object, hint: object) -> bool:
    """Whether a value from JSON is of a type; lists count as tuples, and integers as floats."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_is(value, argument) for argument in arguments)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in arguments)
    if origin is tuple:
        return isinstance(value, (list, tuple)) and all(_is(part, arguments[0]) for part in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is hint if hint in (int, str, bool, type(None)) else True


def _short(error: BaseException) -> str:
    text = " ".join(ascii(str(error))[1:-1].split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 160 else text[:160] + "..."


def _check_settings(settings: Mapping[str, Any], depth: int = 0) -> None:
    """Raise TypeError for numbers that no network has, before one is built of them."""
    for name, value in settings.items():
        limit = 64 if str(name).endswith(("layers", "blocks", "depth")) else 2**18
        numbers = value if isinstance(value, list) else [value]
        for number in numbers:
            if isinstance(number, Mapping) and depth < 4:
                _check_settings(number, depth + 1)
            elif isinstance(number, (int, float)) and not abs(number) <= limit:
                raise TypeError(f"{name} is beyond what any network has")
        if len(numbers) > 64:
            raise TypeError(f"{name} is beyond what any network has")


def check_sharing(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError if so many names share the same numbers that a network made of them would be far larger than
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
    shapes = [f"{k} is {found[k]}, not {expected[k]}" for k in both if found[k] != expected[k]]
    return missing + unknown + shapes + [f"{key} is of complex numbers" for key in both if tensors[key].is_complex()]
