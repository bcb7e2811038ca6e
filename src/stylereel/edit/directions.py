"""Semantic directions: what to add to a code so that one thing about a portrait changes.

A direction lives in W+ (rows) or in S (channels of the flat style vector, see `generator.style_space`). The built-in
ones were found from the world's labels by `stylereel train directions`: strength 1 moves a factor by one standard
normal number, as from the median person to the 84th percentile, and `leak` says what else moves with it. `read`
takes the published files of such directions.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from torch import Tensor

from stylereel.core.arrays import read_arrays
from stylereel.core.builtin import builtin
from stylereel.core.files import require_file
from stylereel.core.weights import HOSTILE, check_finite, parse_card, read_header, read_tensors, write_tensors
from stylereel.generator.style_space import LayerKey, StyleSpace
from stylereel.zoo.unpickle import unpickle

Space = Literal["w+", "s"]
KIND = "directions"


@dataclass(frozen=True, eq=False)
class Direction:
    """One direction.

    places: rows of W+ or flat channels of S that it changes, int64 [M], or None for all rows; change: what strength 1
    adds there, [M, D] or [1, D] in W+ and [M] in S; unit: what strength 1 means; leak: how far other factors move at
    strength 1, in standard deviations, each by two instruments: {factor: (by the codes, by the face net)}; effect: the
    factor's own change by the face net, as a share of the exact one; NaN where the net cannot see even that.
    """

    name: str
    space: Space
    places: Tensor | None
    change: Tensor
    unit: str = ""
    effect: float = float("nan")
    leak: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @overload
    def apply(self, codes: Tensor, strength: float | Tensor = 1.0) -> Tensor: ...
    @overload
    def apply(self, codes: Sequence[Tensor], strength: float | Tensor = 1.0) -> list[Tensor]: ...
    def apply(self, codes: Tensor | Sequence[Tensor], strength: float | Tensor = 1.0) -> Tensor | list[Tensor]:
        """W+ codes [B, L, D] or style vectors [B, C_l] of all layers, moved by `strength`, a number or [B].

        Raises ValueError for codes of the other space, or of another generator.
        """
        if isinstance(codes, Tensor) != (self.space == "w+"):
            raise ValueError(f"The direction {self.name} is one of {self.space.upper()}; give it codes of that space.")
        flat = codes if isinstance(codes, Tensor) else torch.cat(list(codes), dim=1)
        fits = self.change.shape[-1] == flat.shape[-1] if self.space == "w+" else True
        if not fits or (self.places is not None and int(self.places.max()) >= flat.shape[1]):
            raise ValueError(f"The direction {self.name} is for another generator, not for codes {list(flat.shape)}.")
        amount = torch.as_tensor(strength, dtype=flat.dtype, device=flat.device)
        amount = amount.view(-1, *[1] * (flat.ndim - 1))
        flat = flat.expand(max(len(flat), len(amount)), *flat.shape[1:]).clone()
        places = slice(None) if self.places is None else self.places.to(flat.device)
        flat[:, places] += amount * self.change.to(flat)
        return flat if isinstance(codes, Tensor) else list(flat.split([style.shape[1] for style in codes], dim=1))

    @property
    def strongest_leak(self) -> tuple[str, float]:
        """The other factor that moves most by the face net, and how far in standard deviations."""
        return max(((name, seen) for name, (_, seen) in self.leak.items()), key=lambda item: abs(item[1]))


class Directions(Mapping[str, Direction]):
    """Directions of one generator by name: "age" for that of W+, "s:age" for that of S."""

    def __init__(self, directions: Iterable[Direction], card: Mapping[str, Any] | None = None) -> None:
        self._directions = {(f"s:{d.name}" if d.space == "s" else d.name): d for d in directions}
        self.card = dict(card or {})

    def __getitem__(self, name: str) -> Direction:
        if name not in self._directions:
            raise ValueError(f"There is no direction {name!r}; choose one of {', '.join(self._directions)}.")
        return self._directions[name]

    def __iter__(self):
        return iter(self._directions)

    def __len__(self) -> int:
        return len(self._directions)

    def without(self, name: str, others: Sequence[str]) -> Direction:
        """The direction `name` of W+ less its part along `others` (Shen et al. 2020, conditional manipulation)."""
        direction = self[name]
        assert direction.places is not None
        shared = [other for other in map(self.__getitem__, others) if _same_places(other, direction)]
        if not shared:
            return direction
        basis = torch.linalg.qr(torch.stack([other.change.flatten() for other in shared]).double().T)[0]
        flat = direction.change.flatten().double()
        change = (flat - basis @ (basis.T @ flat)).to(direction.change).view_as(direction.change)
        return replace(direction, change=change, leak={}, effect=float("nan"))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file whose header names places, units, effects and leaks."""
        tensors, rows = {}, []
        for key, direction in self._directions.items():
            tensors[f"{key}.change"] = direction.change.half()
            if direction.places is not None:
                tensors[f"{key}.places"] = direction.places.to(torch.int16)
            leak = {name: [round(number, 3) for number in pair] for name, pair in direction.leak.items()}
            rows.append([direction.name, direction.space, direction.unit, round(direction.effect, 3), leak])
        header = {"kind": KIND, "config": json.dumps({}), "card": json.dumps(self.card)}
        write_tensors(path, tensors, header | {"directions": json.dumps(rows)})

    @classmethod
    def load(cls, path: str | Path) -> Directions:
        """Read a file that `save` wrote. Raises ValueError when it is something else."""
        header = read_header(path)
        if header.get("kind") != KIND:
            raise ValueError(f"{path} holds {header.get('kind')!r}; give a file of directions.")
        found = []
        tensors, header = read_tensors(path)
        try:
            for name, space, unit, effect, leak in json.loads(header["directions"]):
                key = f"s:{name}" if space == "s" else name
                change, places = tensors[f"{key}.change"], tensors.get(f"{key}.places")
                _check_direction(key, space, change, places)
                leaks = {other: (float(code), float(seen)) for other, (code, seen) in leak.items()}
                places = None if places is None else places.long()
                found.append(Direction(str(name), space, places, change.float(), str(unit), float(effect), leaks))
        except HOSTILE as error:
            raise ValueError(f"{path} is not a whole file of directions: {str(error)[:200]}.") from error
        return cls(found, parse_card(path, header))

    def table(self) -> str:
        """A Markdown table: what strength 1 means, what it reaches, and the largest leak."""
        lines = [
            "| direction | space | strength 1 | effect | largest leak (standard deviations) |",
            "|---|---|---|---|---|",
        ]
        for direction in self.values():
            other, size = direction.strongest_leak if direction.leak else ("", float("nan"))
            lines.append(
                f"| {direction.name} | {direction.space.upper()} | {direction.unit} "
                f"| {'not seen' if math.isnan(direction.effect) else format(direction.effect, '.2f')} "
                f"| {other} {size:+.2f} |"
            )
        return "\n".join(lines) + "\n"


def _check_direction(key: str, space: Any, change: Tensor, places: Tensor | None) -> None:
    """Raise ValueError for tensors that are no direction of that space."""
    if space not in get_args(Space) or change.ndim != (2 if space == "w+" else 1) or not change.numel():
        raise ValueError(f"{key} has the shape {list(change.shape)}, which is none of a direction of {space!r:.40}")
    if not change.is_floating_point():
        raise ValueError(f"{key} is of no fractions")
    check_finite(key, {"change": change})
    if places is None:
        if space == "s" or len(change) != 1:
            raise ValueError(f"{key} lacks its places")
    elif places.is_floating_point() or places.ndim != 1 or not len(places) or int(places.min()) < 0:
        raise ValueError(f"{key} has places that are no list of numbers from 0")
    elif len(change) not in (1, len(places)) or (space == "s" and len(change) != len(places)):
        raise ValueError(f"{key} has {len(places)} places for {len(change)} changes")


def _same_places(one: Direction, other: Direction) -> bool:
    return one.space == other.space and one.places is not None and torch.equal(one.places, other.places)  # type: ignore[arg-type]


@cache
def built_in() -> Directions:
    """Those of the built-in generator. Raises ValueError when the installation lacks them."""
    return Directions.load(builtin(KIND))


def list_directions() -> list[str]:
    """The names of the built-in generator's directions."""
    return list(built_in())


def apply(codes: Any, name: str, strength: float | Tensor = 1.0) -> Any:
    """Move W+ codes [B, L, D], or style vectors of all layers, of the built-in generator along a direction.

    Style vectors take the direction of S of that name, codes that of W+. Raises ValueError if there is none.
    """
    key = name if isinstance(codes, Tensor) or name.startswith("s:") else f"s:{name}"
    return built_in()[key].apply(codes, strength)


def of_channels(name: str, space: StyleSpace, channels: Mapping[tuple[LayerKey, int], float]) -> Direction:
    """A direction of S from a list of channels as the StyleSpace and StyleCLIP papers print them.

    channels: {(layer, channel): change}, the layer by its index or name.

    Raises ValueError for a layer or channel that the generator has not.
    """
    places = torch.tensor([space.flat_index(layer, channel) for layer, channel in channels])
    return Direction(name, "s", places, torch.tensor(list(channels.values()), dtype=torch.float32))


def read(path: str | Path, component: int | None = None, rows: Sequence[int] | None = None) -> Direction:
    """A direction of W+ from a published file; nothing in it is run.

    Takes `.npy` and `.pt` of one vector, (D), (1, D), (L, D) or (1, L, D), as InterFaceGAN and its followers give, and
    GANSpace's components, `.npz` with X_comp and X_stdev or `.pt` with comp and std, of which `component` names one;
    its strength 1 is a standard deviation.

    Args:
        path: the file; its name becomes the direction's.
        component: number of the component, from 0.
        rows: rows of W+ that it is for; all if None.

    Raises:
        ValueError: the file is none of these, or holds no such component.
    """
    path = require_file(path)
    try:
        content: Any = unpickle(path) if path.suffix in (".pt", ".pth") else read_arrays(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a direction: {error}") from error
    name = path.stem
    if isinstance(content, dict) and list(content) != [""]:
        parts = content
        components, deviations = (
            parts.get(f"X_{long}", parts.get(short)) for long, short in (("comp", "comp"), ("stdev", "std"))
        )
        if components is None or deviations is None:
            raise ValueError(f"{path} holds no components; give a file with X_comp and X_stdev.")
        table, deviation = _array(path, components), _array(path, deviations).ravel()
        if not table.ndim or not table.size or len(deviation) != table.size // table.shape[-1]:
            raise ValueError(f"{path} has {len(deviation)} deviations for components {list(table.shape)}.")
        table = table.reshape(-1, table.shape[-1])
        if component is None or not 0 <= component < len(table):
            raise ValueError(f"Name a component of {path} from 0 to {len(table) - 1}.")
        vector, name = table[component] * deviation[component], f"{name} {component}"
    else:
        vector = _array(path, content[""] if isinstance(content, dict) and "" in content else content)
    if not 1 <= vector.ndim <= 3 or vector.size == 0 or (vector.ndim == 3 and len(vector) != 1):
        raise ValueError(f"{path} holds numbers {list(vector.shape)}; a direction has the shape (D) or (L, D).")
    change = torch.from_numpy(np.ascontiguousarray(vector.reshape(-1, vector.shape[-1]), np.float32))
    places = None if rows is None else torch.tensor(rows)
    if places is not None and len(change) > 1:
        if int(places.max()) >= len(change):
            raise ValueError(f"{path} has {len(change)} rows; choose among them.")
        change = change[places]
    return Direction(name, "w+", places, change)


_NAMED = re.compile(r"(?P<file>.+?)(?::(?P<part>[\w-]+))?(?:@(?P<first>\d{1,3})(?:-(?P<last>\d{1,3}))?)?")


def find(text: str) -> Direction:
    """The direction of W+ that a text names: one of the built-in generator, or FILE, FILE:PART, FILE:PART@FIRST-LAST.

    PART is the number of a component of GANSpace, or a name in a file of directions that `stylereel train directions`
    wrote; FIRST-LAST are the rows of W+ that it is for, all if not given. Raises ValueError as `read`, and for unknown
    names.
    """
    match = _NAMED.fullmatch(text)
    if match is None or text in list(built_in()) or not any(mark in text for mark in "./\\:@"):
        known = [name for name, each in built_in().items() if each.space == "w+"]
        if text not in list(built_in()):
            near = difflib.get_close_matches(text, known, n=1)
            instead = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(known)}, or give a file."
            raise ValueError(f"There is no direction {text[:40]!r}; {instead}")
        direction = built_in()[text]
    else:
        path, part = require_file(match["file"]), match["part"]
        rows = None if match["first"] is None else range(int(match["first"]), int(match["last"] or match["first"]) + 1)
        if rows is not None and not rows:
            raise ValueError(f"{text} names rows from {rows.start} to {rows.stop - 1}; give the lower one first.")
        if path.suffix == ".safetensors":
            table = Directions.load(path)
            direction = table[part or next(iter(table))]
        else:
            if part is not None and not part.isdecimal():
                raise ValueError(f"{path} has numbered components; give {path}:NUMBER instead of {part[:40]}.")
            direction = read(path, None if part is None else int(part), rows)
    if direction.space != "w+":
        raise ValueError(f"{text} is a direction of S; a moving portrait is edited in W+: {text.removeprefix('s:')}.")
    return direction


def _array(path: Path, value: Any) -> np.ndarray:
    try:
        array = value.detach().cpu().float().numpy() if isinstance(value, Tensor) else np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        array = np.empty(0, object)
    if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise ValueError(f"{path} holds something else than finite numbers; give a file of a direction.")
    return array.astype(np.float64)
