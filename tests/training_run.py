"""A small training run in a process of its own, for the tests that kill it, starve it or start several of it.

python training_run.py FOLDER STEPS [--devices N] [--disk BYTES] [--kills N]
"""

import argparse
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.train.loop import Average, Trainer, cosine
from stylereel.train.optimizers import muon_and_adam

BATCH = 8


def train(folder: Path, steps: int, devices: int = 1, slow: float = 0.0) -> nn.Module:
    """Fit a small network with Muon, Adam and an average; rank 0 leaves the result in weights.pt."""
    trainer = Trainer(folder, devices=devices, device="cpu", precision="32", checkpoint_seconds=0.0)
    rank, ranks = trainer.share
    torch.manual_seed(0)

    def network() -> nn.Sequential:
        return nn.Sequential(nn.Linear(6, 32), nn.LayerNorm(32), nn.SiLU(), nn.Linear(32, 2))

    model, copy = network(), network()
    optimizers = muon_and_adam(model, 1e-2)
    follow = Average(model, copy, 0.9)

    def step(index: int) -> dict[str, Tensor]:
        time.sleep(slow)
        x = torch.randn(BATCH, 6, generator=torch.Generator().manual_seed(index))[rank::ranks]
        noise = 0.01 * torch.randn(2)  # from torch's own random numbers, whose state a checkpoint must hold
        loss = F.mse_loss(model(x), x[:, :2] * x[:, 2:4] + noise)
        trainer.descend(loss, optimizers.values(), 1.0, model)
        follow.update(index)
        return {"loss": loss}

    modules = {"model": model, "average": copy}
    trainer.fit("line", modules, optimizers, step, steps, batch=BATCH, every=10, schedule=lambda i: cosine(i, steps))
    if rank == 0:
        torch.save({**model.state_dict(prefix="model."), **copy.state_dict(prefix="average.")}, folder / "weights.pt")
    return model


def train_with_kills(folder: Path, steps: int, kills: int) -> None:
    """Start the run again and again, each time in a fork that SIGKILL ends at a random moment; then let it end."""
    moments = random.Random(0)
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            train(folder, steps, slow=0.02)  # so slow that all kills find it at work
            os._exit(0)
        before, patience = _newest(folder), time.monotonic() + 120
        while _newest(folder) == before and time.monotonic() < patience:  # let it get somewhere
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.15))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else "ended", _newest(folder), flush=True)
    train(folder, steps)


def _newest(folder: Path) -> str:
    return max((path.name for path in (folder / "line").glob("checkpoint-*.pt")), default="none")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("steps", type=int)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--disk", type=int)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--slow", type=float, default=0.0)
    given = parser.parse_args()
    if given.disk:
        resource.setrlimit(resource.RLIMIT_FSIZE, (given.disk, given.disk))
    try:
        if given.kills:
            train_with_kills(given.folder, given.steps, given.kills)
        else:
            train(given.folder, given.steps, given.devices, given.slow)
    except ValueError as error:
        sys.exit(str(error))
