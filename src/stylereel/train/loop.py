"""The training loop: resumable, logged, stopped by a non-finite loss.

A recipe gives modules, optimisers and a `step(index) -> {loss name: value}`; `fit` does the rest. Random numbers of a
step come from its index alone, so an interrupted run continues with the data it would have seen.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn


class Average:
    """Exponential moving average of a module's parameters and buffers (`model`), with a short memory at the start."""

    def __init__(self, model: nn.Module, copy: nn.Module, decay: float = 0.998) -> None:
        self.source, self.model, self.decay = model, copy.requires_grad_(False).eval(), decay
        copy.load_state_dict(model.state_dict())

    @torch.no_grad()
    def update(self, index: int) -> None:
        """Move towards the source after step `index`."""
        decay = min(self.decay, (1 + index) / (10 + index))
        for mine, theirs in zip(self.model.parameters(), self.source.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)
        for mine, theirs in zip(self.model.buffers(), self.source.buffers(), strict=True):
            mine.copy_(theirs)


def cosine(index: int, steps: int, warm: int = 50, floor: float = 0.02) -> float:
    """Learning-rate factor at step `index` of `steps`: linear warm-up, then half a cosine down to `floor`."""
    if index < warm:
        return (index + 1) / warm
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, (index - warm) / max(1, steps - warm))))


def _write(state: dict, path: Path) -> None:
    temporary = path.with_suffix(".part")
    torch.save(state, temporary)
    os.replace(temporary, path)


def fit(
    folder: Path,
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    step: Callable[[int], dict[str, float]],
    steps: int,
    schedule: Callable[[int], float] = lambda index: 1.0,
    every: int = 100,
    checkpoint_seconds: float = 120.0,
    sample: Callable[[Path], None] | None = None,
) -> None:
    """Run `step` for indices up to `steps`, continuing from `folder`/checkpoint.pt if it is there.

    Writes one JSON line to log.jsonl every `every` steps, a checkpoint every `checkpoint_seconds` and at the end, and
    calls `sample(path)` to draw samples.png with every checkpoint. The learning rate of each parameter group is its
    own base rate times `schedule(index)`. Raises FloatingPointError, naming the loss, when one is not finite; the last
    checkpoint stays as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "checkpoint.pt"
    start = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        start = state["step"]
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
    rates = {
        name: [group.setdefault("base", group["lr"]) for group in o.param_groups] for name, o in optimizers.items()
    }

    def save(done: int) -> None:
        state = {
            "step": done,
            "modules": {name: module.state_dict() for name, module in modules.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
        }
        _write(state, path)
        if sample is not None:
            sample(folder / "samples.png")

    totals: dict[str, float] = {}
    since, saved = time.monotonic(), time.monotonic()
    for index in range(start, steps):
        for name, optimizer in optimizers.items():
            for group, base in zip(optimizer.param_groups, rates[name], strict=True):
                group["lr"] = base * schedule(index)
        for name, value in step(index).items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"The loss {name!r} is {value} at step {index}; {path} holds the last good state."
                )
            totals[name] = totals.get(name, 0.0) + value
        done = index + 1
        if done % every == 0 or done == steps:
            count = (index - start) % every + 1 if done % every else min(every, done - start)
            now = time.monotonic()
            line = {"step": done, "seconds_per_step": round((now - since) / count, 4)}
            line |= {name: round(total / count, 5) for name, total in totals.items()}
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
            totals, since = {}, now
        if time.monotonic() - saved > checkpoint_seconds or done == steps:
            save(done)
            saved = time.monotonic()
