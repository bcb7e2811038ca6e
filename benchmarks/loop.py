"""A step of the training loop against the same step in a bare PyTorch loop.

python benchmarks/loop.py

Both train the same small convolutional network with Adam and an average of the weights; the bare loop also reads its
loss at each step. Blocks of bare steps run between blocks of ours, and the medians over all blocks are compared, in
wall time and in CPU time (which other work on the machine disturbs less).
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.train.loop import Average, Trainer

BLOCK, BLOCKS = 20, 60


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, 2, 1), nn.SiLU(), nn.Conv2d(24, 48, 3, 2, 1), nn.SiLU(), nn.Flatten(), nn.Linear(12288, 8)
    )


class Job:
    """A network, its average and its optimiser."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model, self.copy = network(), network()
        self.average = Average(self.model, self.copy)
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-3)
        self.target = torch.randn(16, 8)

    def loss(self) -> Tensor:
        return F.mse_loss(self.model(torch.randn(16, 3, 64, 64)), self.target)

    def bare_step(self, index: int) -> float:
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.average.update(index)
        return loss.item()


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def main() -> None:
    bare, ours = Job(), Job()
    seconds: dict[str, list[tuple[float, ...]]] = {"bare": [], "ours": []}
    began = clocks()

    def block_ends(name: str) -> None:
        nonlocal began
        now = clocks()
        seconds[name].append(tuple((b - a) / BLOCK for a, b in zip(began, now)))
        began = now

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(folder, device="cpu", precision="32")

        def step(index: int) -> dict[str, Tensor]:
            nonlocal began
            if index % BLOCK == 0:  # what passed since the last bare block is the loop's
                if index:
                    block_ends("ours")
                began = clocks()
                for each in range(BLOCK):
                    bare.bare_step(index + each)
                block_ends("bare")
            loss = ours.loss()
            trainer.descend(loss, [ours.optimizer])
            ours.average.update(index)
            return {"loss": loss}

        modules = {"model": ours.model, "average": ours.copy}
        trainer.fit("loop", modules, {"model": ours.optimizer}, step, BLOCK * (BLOCKS + 1), every=BLOCK)
    result: dict[str, float | int] = {"blocks": len(seconds["ours"]), "steps a block": BLOCK}
    for place, clock in enumerate(("wall", "CPU")):
        medians = {name: statistics.median(block[place] for block in blocks) for name, blocks in seconds.items()}
        result |= {f"{name}, {clock} ms a step": round(1000 * value, 3) for name, value in medians.items()}
        result[f"overhead, {clock} %"] = round(100 * (medians["ours"] / medians["bare"] - 1), 1)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
