"""The one training loop, on Lightning Fabric: a CPU, a GPU, several processes or several machines.

A recipe makes modules, optimisers and a `step(index) -> {loss name: scalar}` and calls `Trainer.fit` with them, stage
after stage. The loop gives learning rates, checkpoints, logs and samples; it resumes, stops cleanly, and refuses to
go on from a loss that is not finite.

Several processes hold the same weights. A step's *global* batch follows from its index alone and every process takes
its share of it, `[rank::ranks]`; `Trainer.descend` averages the gradients. Modules stay unwrapped, because a wrapper
for distributed training sees neither `synthesize` nor several passes and double backward. So:
- Losses that are means over samples are right when averaged over equal shares. Ratios and contrasts are taken within
  each share, and batch normalisation and minibatch deviation see the share alone.
- Buffers (running statistics, mean w) are those of process 0.
- Logged losses are means over the processes.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from stylereel.core.files import replacing
from stylereel.core.precision import choose_precision
from stylereel.core.system import Device, choose_device
from stylereel.core.weights import misfits
from stylereel.train import checkpoints
from stylereel.train.report import Report

Item = TypeVar("Item")
Precision = Literal["auto", "32", "bf16", "16"]
_PLUGIN = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
_DTYPE = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}
_MUST_AGREE = {"start": None, "scale": None, "seed": 0}  # settings that a resumed run cannot change, and defaults


class Diverged(ValueError):
    """A loss or a weight is not finite; the message names it, the step and what is left."""


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


class Trainer:
    """Where a run trains, on what, and with which settings.

    Attributes: folder; device; share, this process's (rank, ranks); dtype, the precision of features and of
    `autocast`; settings, as they go into every checkpoint.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        scale: float = 1.0,
        device: Device = "auto",
        devices: int = 1,
        nodes: int = 1,
        precision: Precision = "auto",
        checkpoint_seconds: float = 120.0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Start the processes, unless torchrun did; then its numbers of devices and nodes hold.

        Args:
            folder: each stage gets a folder in it.
            scale: share of a recipe's steps, over 0 and up to 1.
            device: auto takes a GPU if there is one.
            devices: processes a machine, each with its GPU or its share of the cores; one on mps.
            nodes: machines.
            precision: of features and convolutions; weights and optimisers stay in float32. auto takes bf16 where the
                hardware multiplies in it, else 32.
            checkpoint_seconds: time between checkpoints.
            settings: further facts for the checkpoints; plain values.

        Raises:
            ValueError: a setting that cannot be honoured, or the extra `train` is not installed.
        """
        try:
            from lightning_fabric import Fabric
        except ImportError as error:
            raise ValueError("Training needs the extra train: pip install 'stylereel[train]'.") from error
        logging.getLogger("lightning_fabric").setLevel(
            logging.WARNING
        )  # it announces every setting; importing resets it
        if not 0 < scale <= 1:
            raise ValueError(f"The scale is a share of the steps between 0 and 1, not {scale}.")
        if min(devices, nodes) < 1:
            raise ValueError("Training needs 1 or more devices and nodes.")
        accelerator = choose_device(device).type
        chosen = choose_precision(precision, accelerator)
        if accelerator != "cuda" and chosen == "16":
            raise ValueError("Half precision trains on CUDA only; use --precision bf16 or 32 elsewhere.")
        if "TORCHELASTIC_RUN_ID" in os.environ:
            devices = int(os.environ["LOCAL_WORLD_SIZE"])
            nodes = int(os.environ["WORLD_SIZE"]) // devices
        here = {"cuda": torch.cuda.device_count(), "mps": 1}.get(accelerator, devices)
        if devices > here:
            raise ValueError(f"The {accelerator} devices here are {here}; give no more as --devices.")
        self._fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=nodes,
            precision=_PLUGIN[chosen],  # type: ignore[arg-type]
        )
        self._fabric.launch()
        self.folder, self.scale = Path(folder), scale
        self.device: torch.device = self._fabric.device
        self.share: tuple[int, int] = (self._fabric.global_rank, self._fabric.world_size)
        self.dtype = _DTYPE[chosen]
        self._scaler: Any = getattr(self._fabric.strategy.precision, "scaler", None)
        self._checkpoint_seconds = checkpoint_seconds
        machine = {"device": accelerator, "devices": devices, "nodes": nodes, "precision": chosen}
        self.settings = {**(settings or {}), "scale": scale, **machine}
        self._git = checkpoints.git_state() if self.share[0] == 0 else None

    # What a recipe uses

    def steps(self, whole: int) -> int:
        """The recipe's number of steps times the scale, at least 2."""
        return max(2, int(whole * self.scale))

    def autocast(self) -> AbstractContextManager:
        """Run what it encloses in the run's precision, where PyTorch finds that safe."""
        return self._fabric.autocast()

    def to_device(self, batch: Item) -> Item:
        """A batch (a tensor, or a named tuple or dict of tensors) on the device."""
        return self._fabric.to_device(batch)

    def freeze(self, *modules: nn.Module) -> None:
        """Put networks that are only used on the device, in evaluation mode and without gradients."""
        for module in modules:
            module.to(self.device).eval().requires_grad_(False)

    def descend(
        self,
        losses: Tensor | Iterable[Tensor],
        optimizers: Iterable[torch.optim.Optimizer],
        clip: float | None = None,
        model: nn.Module | None = None,
    ) -> None:
        """One step of the optimisers down the sum of the losses, averaged over the processes.

        Losses of an iterable are made and differentiated one after the other, so that the graph of a penalty, which
        is large, is not in memory together with that of the loss. The gradient of `model` is clipped to norm `clip`.
        """
        optimizers = list(optimizers)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        for loss in [losses] if isinstance(losses, Tensor) else losses:
            (loss if self._scaler is None else self._scaler.scale(loss)).backward()
        if self.share[1] > 1:
            groups = [group for optimizer in optimizers for group in optimizer.param_groups]
            self._average([p.grad for group in groups for p in group["params"] if p.grad is not None])
        if self._scaler is not None:
            for optimizer in optimizers:
                self._scaler.unscale_(optimizer)
        if clip is not None and model is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        for optimizer in optimizers:
            optimizer.step() if self._scaler is None else self._scaler.step(optimizer)
        if self._scaler is not None:
            self._scaler.update()

    def fit(
        self,
        name: str,
        modules: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Optimizer],
        step: Callable[[int], Mapping[str, Tensor | float]],
        steps: int,
        *,
        batch: int = 0,
        schedule: Callable[[int], float] = lambda index: 1.0,
        every: int = 100,
        sample: Callable[[], np.ndarray] | None = None,
    ) -> None:
        """Run one stage: `step` for indices up to `steps`, from the newest checkpoint in `folder`/`name` on.

        Args:
            name: of the stage and its folder.
            modules: all whose state is to be kept, averages included; they are moved to the device.
            optimizers: all of them; a group's learning rate is its own base rate times `schedule(index)`.
            step: does one step and gives its losses. Its data and random numbers must follow from the index.
            steps: number of steps.
            batch: global batch size, which the processes must be able to share; 0 if the recipe shares otherwise.
            every: steps between two lines of the log.
            sample: gives an image uint8 [H, W, 3] of what the networks generate, for every checkpoint.

        Raises:
            Diverged: a loss or a weight is not finite; the last checkpoint stays.
            ValueError: the checkpoint is of a run with other settings, none can be read or written, or the batch
                cannot be shared.
            KeyboardInterrupt: after SIGINT or SIGTERM, once the state is saved.
        """
        folder = self.folder / name
        for module in modules.values():
            module.to(self.device)
        groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
        for group in groups:
            group.setdefault("base", group["lr"])
        with self._alone(folder, batch):
            start = self._resume(folder, modules, optimizers)
            if start < steps:
                self._run(name, modules, optimizers, step, start, steps, schedule, every, sample)

    def _run(
        self,
        name: str,
        modules: Mapping[str, nn.Module],
        optimizers: Mapping[str, torch.optim.Optimizer],
        step: Callable[[int], Mapping[str, Tensor | float]],
        start: int,
        steps: int,
        schedule: Callable[[int], float],
        every: int,
        sample: Callable[[], np.ndarray] | None,
    ) -> None:
        rank, ranks = self.share
        folder = self.folder / name
        groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]  # loading renews them
        buffers = [b for module in modules.values() for b in module.buffers() if b.is_floating_point()]
        report = None
        if rank == 0:
            self._describe(folder)
            report = Report(folder, name, start, steps, every)
        saved = time.monotonic()
        try:
            with _stop_requests() as requests:
                for index in range(start, steps):
                    factor = schedule(index)
                    for group in groups:
                        group["lr"] = group["base"] * factor
                    losses = step(index)
                    late = rank == 0 and time.monotonic() - saved > self._checkpoint_seconds
                    (stop, due), values = self._agree([bool(requests), late], losses)
                    if ranks > 1 and buffers:
                        self._together(buffers, torch.distributed.broadcast, 0)
                    for loss, value in values.items():
                        if not math.isfinite(value):
                            raise Diverged(
                                f"{name}: the loss {loss!r} is {value} at step {index}, on the batch of index {index}; "
                                f"the checkpoints in {folder} hold the last good state."
                            )
                    if report:
                        report.add(index + 1, values)
                    if due or stop or index + 1 == steps:
                        self._save(folder, index + 1, modules, optimizers)
                        if report and sample:
                            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                                report.show(index + 1, sample())
                        saved = time.monotonic()
                    if stop and index + 1 < steps:
                        if report:
                            print(f"{name}: stopped and saved after step {index + 1} of {steps}.", file=sys.stderr)
                        raise KeyboardInterrupt
        except (Diverged, KeyboardInterrupt):
            # One process speaks for all; a launcher would kill it if another ended with an error before it.
            if rank:
                raise SystemExit(0) from None
            raise
        finally:
            if report:
                report.close()

    # Parts of the loop

    @contextmanager
    def _alone(self, folder: Path, batch: int) -> Iterator[None]:
        """Lock a stage's folder, which a second run may not use at the same time."""
        (rank, ranks), lock = self.share, FileLock(folder / ".lock")

        def take() -> list[Path]:
            if batch % ranks:
                raise ValueError(f"{ranks} processes cannot share {folder.name}'s batch of {batch}; choose a divisor.")
            lacking = [each for each in (folder, *folder.parents) if not each.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise ValueError(f"Another run is training in {folder}; wait for it or give another folder.") from error
            return lacking

        made = self.on_first(take)
        try:
            yield
        except Exception as error:
            lock.release()
            if rank == 0 and folder in made and not isinstance(error, Diverged) and not any(folder.glob("*.pt")):
                shutil.rmtree(folder, ignore_errors=True)  # a run that cannot begin leaves nothing
                for parent in made[1:]:
                    if not any(parent.iterdir()):
                        parent.rmdir()
            raise
        finally:
            lock.release()  # the system does it for a process that is killed

    def _resume(self, folder: Path, modules: Mapping, optimizers: Mapping) -> int:
        """Restore the newest checkpoint, the same on all processes; gives the number of steps done."""
        rank, ranks = self.share

        def read() -> dict[str, Any] | None:
            state = checkpoints.read_newest(folder, lambda state: _check(state, modules, optimizers))
            if state is None:
                return None
            for key, default in _MUST_AGREE.items():
                old, new = state["settings"].get(key, default), self.settings.get(key, default)
                if old != new:
                    raise ValueError(
                        f"{folder} holds a run with {key} {old}, not {new}; give {key} {old} again or another folder."
                    )
            return state

        state = self.on_first(read)
        if state is None:
            if ranks > 1:  # begin from the same weights, whatever each process drew
                for module in modules.values():
                    for tensor in module.state_dict().values():
                        self._together([tensor], torch.distributed.broadcast, 0)
            return 0
        for name, module in modules.items():
            module.load_state_dict(state["modules"][name])
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if self._scaler is not None and state["scaler"]:
            self._scaler.load_state_dict(state["scaler"])
        if rank < len(state["random"]):
            checkpoints.restore_random_state(state["random"][rank])
        return state["step"]

    def _save(self, folder: Path, done: int, modules: Mapping, optimizers: Mapping) -> None:
        for name, module in modules.items():
            if not all(p.isfinite().all() for p in module.parameters()):
                raise Diverged(f"{folder}: the weights of {name!r} are not finite after step {done}; nothing is saved.")
        rank, ranks = self.share
        randoms: list[Any] = [checkpoints.random_state()]
        if ranks > 1:
            randoms = [None] * ranks
            torch.distributed.all_gather_object(randoms, checkpoints.random_state())
        state = {
            "step": done,
            "modules": {name: module.state_dict() for name, module in modules.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
            "scaler": self._scaler.state_dict() if self._scaler is not None else {},
            "random": randoms,
            "settings": self.settings,
            "git": self._git,
        }
        self.on_first(lambda: checkpoints.write(folder, state))

    def _describe(self, folder: Path) -> None:
        """settings.json: with what the stage runs."""
        facts = {"settings": self.settings, "git": self._git, "torch": torch.__version__, "device": str(self.device)}
        with replacing(folder / "settings.json") as partial:
            partial.write_text(json.dumps(facts, indent=2) + "\n")

    # Several processes

    def _agree(
        self, flags: Sequence[bool], losses: Mapping[str, Tensor | float]
    ) -> tuple[list[bool], dict[str, float]]:
        """Flags that any process raised, and the mean losses: one exchange and one wait for the device a step."""
        parts = [
            torch.as_tensor(value, dtype=torch.float32, device=self.device) for value in (*flags, *losses.values())
        ]
        numbers = torch.stack([part.detach() for part in parts])
        if self.share[1] > 1:
            self._average([numbers])
        first, rest = numbers.tolist()[: len(flags)], numbers.tolist()[len(flags) :]
        return [flag > 0 for flag in first], dict(zip(losses, rest))

    def _average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over the processes."""

        def mean(flat: Tensor) -> None:
            torch.distributed.all_reduce(flat)
            flat /= self.share[1]

        self._together(tensors, mean)

    @torch.no_grad()
    def _together(self, tensors: Sequence[Tensor], exchange: Callable[..., Any], *arguments: Any) -> None:
        """Let `exchange` change tensors of one type as one vector."""
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        exchange(flat, *arguments)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
            tensor.copy_(part.view(tensor.shape))

    def on_first(self, work: Callable[[], Any]) -> Any:
        """The result of `work` on process 0, on all processes; its ValueError ends all of them."""
        rank, ranks = self.share
        if ranks == 1:
            return work()
        outcome: list[Any] = [None]
        if rank == 0:
            try:
                outcome = [work()]
            except ValueError as error:
                outcome = [error]
        torch.distributed.broadcast_object_list(outcome, 0)
        if isinstance(outcome[0], ValueError):
            if rank:
                raise SystemExit(0)
            raise outcome[0]
        return outcome[0]


def _check(state: Any, modules: Mapping, optimizers: Mapping) -> None:
    """Raise an error unless what a checkpoint holds is the state of these modules and optimisers."""
    if type(state["step"]) is not int or state["step"] < 0:
        raise ValueError("its step is no number")
    dict(state["settings"])
    if not all(isinstance(each, dict) for each in state["random"]):
        raise ValueError("its random numbers have no state")
    for name, module in modules.items():
        if problems := misfits(module, state["modules"][name]):
            raise ValueError(f"{name}: {problems[0]}")
    for name, optimizer in optimizers.items():
        stored = state["optimizers"][name]
        numbers = [number for group in stored["param_groups"] for number in group["params"]]
        params = [param for group in optimizer.param_groups for param in group["params"]]
        if [len(g["params"]) for g in stored["param_groups"]] != [len(g["params"]) for g in optimizer.param_groups]:
            raise ValueError(f"the optimiser {name} has other parameters")
        shapes = dict(zip(numbers, (param.shape for param in params)))
        for number, values in stored["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor) and value.dim() and value.shape != shapes[number]:
                    raise ValueError(f"{key} of the optimiser {name} is {list(value.shape)}")


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that is filled by SIGINT and SIGTERM; a second signal acts at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def take(number: int, _: Any) -> None:
        received.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, take)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
