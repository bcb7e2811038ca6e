"""The training loop: kills, full disks, broken files and signals lose and change nothing; N processes equal one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stylereel.train import checkpoints
from stylereel.train.loop import Average, Diverged, Trainer
from stylereel.train.losses import PathLength, d_loss, g_loss, r1_penalty
from stylereel.train.report import read_log

RUN = Path(__file__).with_name("training_run.py")
STEPS = 60


def weights(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "weights.pt", weights_only=True)


def run(*arguments: object, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, str(RUN), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(RUN.parents[1] / "src")}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    done = run(folder, STEPS)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_killed_at_random_moments_gives_the_same_bits(whole: Path, tmp_path: Path) -> None:
    done = run(tmp_path, STEPS, "--kills", 4)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("killed checkpoint-") == 4
    ours, theirs = weights(tmp_path), weights(whole)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    steps = [line["step"] for line in read_log(tmp_path / "line" / "log.jsonl")]
    assert steps == list(range(10, STEPS + 1, 10))  # no interval twice, none missing


@pytest.mark.parametrize("launcher", [(), ("-m", "torch.distributed.run", "--nproc-per-node=2")])
def test_two_processes_equal_one(launcher: tuple[str, ...], whole: Path, tmp_path: Path) -> None:
    """The means of gradients over halves differ from those over the whole by rounding, which 60 steps of Muon keep
    under 2e-3 of weights of about 1."""
    done = run(tmp_path, STEPS, *([] if launcher else ["--devices", 2]), launcher=launcher)
    assert done.returncode == 0, done.stderr
    ours, theirs = weights(tmp_path), weights(whole)
    worst = max(float((ours[key] - theirs[key]).abs().max()) for key in ours)
    assert 0 < worst < 2e-3
    state = checkpoints.read_newest(tmp_path / "line")
    assert state is not None and len(state["random"]) == 2 and state["settings"]["devices"] == 2
    log, other = (read_log(folder / "line" / "log.jsonl") for folder in (tmp_path, whole))
    assert [line["step"] for line in log] == [line["step"] for line in other]
    np.testing.assert_allclose([line["loss"] for line in log], [line["loss"] for line in other], rtol=1e-2)


def test_a_full_disk_is_one_sentence_and_keeps_the_checkpoints(whole: Path, tmp_path: Path) -> None:
    """A limit on the size of files simulates a full disk: it lets the small files pass and stops the checkpoint."""
    shutil.copytree(whole / "line", tmp_path / "line")
    before = {path.name: path.read_bytes() for path in (tmp_path / "line").glob("checkpoint-*")}
    done = run(tmp_path, STEPS + 9, "--disk", 6000)
    assert done.returncode == 1
    assert f"checkpoint-{STEPS + 1:08d}.pt cannot be written (File too large); make room" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "line").glob("checkpoint-*")} == before
    assert not list((tmp_path / "line").glob(".*.part"))


def fit(
    folder: Path,
    steps: int,
    during: Callable[[int], None] = lambda index: None,
    seconds: float = 0.0,
    **settings: object,
) -> nn.Linear:
    """A linear layer learns to add, in this process; `during` is called at each step."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    trainer = Trainer(folder, device="cpu", precision="32", checkpoint_seconds=seconds, settings=settings)

    def step(index: int) -> dict[str, Tensor]:
        during(index)
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(index))
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        trainer.descend(loss, [optimizer])
        return {"loss": loss}

    sample = lambda: np.full((8, 8, 3), 99, np.uint8)  # noqa: E731
    trainer.fit("sum", {"model": model}, {"model": optimizer}, step, steps, every=5, sample=sample)
    return model


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def send(index: int) -> None:
        if index == 6:
            os.kill(os.getpid(), number)

    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, 12, send, seconds=1e9)
    assert "stopped and saved after step 7 of 12" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "sum").glob("checkpoint-*")] == ["checkpoint-00000007.pt"]
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert torch.equal(fit(tmp_path, 12).weight, fit(tmp_path / "other", 12).weight)


def test_a_truncated_checkpoint_is_said_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, 8)
    old, newest = sorted((tmp_path / "sum").glob("checkpoint-*"))
    newest.write_bytes(newest.read_bytes()[:-500])
    steps: list[int] = []
    resumed = fit(tmp_path, 10, steps.append)
    assert f"{newest} is broken" in capsys.readouterr().err
    assert steps == [7, 8, 9]
    assert torch.equal(resumed.weight, fit(tmp_path / "other", 10).weight)
    for path in (tmp_path / "sum").glob("checkpoint-*"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="No checkpoint in .* can be read"):
        fit(tmp_path, 12)


def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path / "run", 8)
    (old, newest), whole = sorted((tmp_path / "run" / "sum").glob("checkpoint-*")), fit(tmp_path / "whole", 10).weight
    before, named = {path: path.read_bytes() for path in (old, newest)}, 0
    for place in np.random.default_rng(0).integers(0, len(before[newest]), 12):
        shutil.rmtree(tmp_path / "run" / "sum")
        (tmp_path / "run" / "sum").mkdir()
        for path, content in before.items():
            path.write_bytes(content)
        damaged = bytearray(before[newest])
        damaged[place] ^= 4
        newest.write_bytes(damaged)
        assert torch.equal(fit(tmp_path / "run", 10).weight, whole), place
        named += f"{newest} is broken" in capsys.readouterr().err
    assert named >= 2  # most of so small a file is padding, which is nobody's


@pytest.mark.parametrize("content", [[1, 2], 5, {}, {"step": 8}, "shapes", "optimiser", "step"])
def test_anything_else_in_the_newest_checkpoint_falls_back(
    tmp_path: Path, content: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, 8)
    newest = sorted((tmp_path / "sum").glob("checkpoint-*"))[-1]
    state = torch.load(newest, weights_only=True)
    if content == "shapes":
        state["modules"]["model"]["weight"] = torch.zeros(1, 4)
    elif content == "optimiser":
        state["optimizers"]["model"]["state"][0]["exp_avg"] = torch.zeros(4)
    elif content == "step":
        state["step"] = "8"
    torch.save(state if isinstance(content, str) else content, newest)
    assert torch.equal(fit(tmp_path, 10).weight, fit(tmp_path / "other", 10).weight)
    assert f"{newest} is broken" in capsys.readouterr().err


def test_a_second_training_in_one_folder_is_refused(tmp_path: Path) -> None:
    def second(index: int) -> None:
        if index == 2:
            with pytest.raises(ValueError, match="Another run is training in .*sum; wait"):
                fit(tmp_path, 4)

    whole = fit(tmp_path, 4, second).weight
    assert torch.equal(fit(tmp_path, 4).weight, whole)  # once the first has ended


def test_a_checkpoint_holds_settings_and_git_state(tmp_path: Path) -> None:
    fit(tmp_path, 2, start="builtin")
    state = checkpoints.read_newest(tmp_path / "sum")
    assert state is not None and state["settings"]["start"] == "builtin" and state["settings"]["precision"] == "32"
    assert state["git"] is None or len(state["git"]["commit"]) == 40
    assert json.loads((tmp_path / "sum" / "settings.json").read_text())["settings"] == state["settings"]
    with pytest.raises(ValueError, match="holds a run with start builtin, not scratch"):
        fit(tmp_path, 2, start="scratch")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named_and_keeps_the_state(bad: float, tmp_path: Path) -> None:
    fit(tmp_path, 4)
    before = {path.name: path.read_bytes() for path in (tmp_path / "sum").glob("checkpoint-*")}
    trainer, model = Trainer(tmp_path, device="cpu"), nn.Linear(3, 1)
    optimizers = {"model": torch.optim.Adam(model.parameters())}
    with pytest.raises(Diverged, match=f"sum: the loss 'shape' is {bad} at step 4, on the batch of index 4"):
        trainer.fit("sum", {"model": model}, optimizers, lambda index: {"shape": bad}, 9)

    def spoil(index: int) -> dict[str, float]:
        model.weight.data.fill_(bad)
        return {"shape": 1.0}

    with pytest.raises(Diverged, match="the weights of 'model' are not finite"):
        trainer.fit("sum", {"model": model}, optimizers, spoil, 5)
    assert {path.name: path.read_bytes() for path in (tmp_path / "sum").glob("checkpoint-*")} == before


def test_log_board_curves_and_samples(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    began = time.perf_counter()
    fit(tmp_path, 12, lambda index: time.sleep(0.02), seconds=1e9)
    passed = time.perf_counter() - began
    folder = tmp_path / "sum"
    log = read_log(folder / "log.jsonl")
    assert [line["step"] for line in log] == [5, 10, 12] and log[-1]["loss"] < log[0]["loss"]
    logged = sum(line["seconds_per_step"] * count for line, count in zip(log, (5, 5, 2)))
    assert 12 * 0.02 < logged < passed
    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == [5, 10, 12] and board.Images("samples")
    assert (folder / "curves.png").stat().st_size > 1000 and (folder / "samples.png").exists()


def test_random_numbers_go_on_where_they_were() -> None:
    import random

    def draw() -> list[float]:
        return [random.random(), float(np.random.normal()), float(torch.rand(()))]

    draw()
    state = checkpoints.random_state()
    first = draw()
    checkpoints.restore_random_state(state)
    assert draw() == first


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "16"}, "trains on CUDA only"),
        ({"devices": 0}, "1 or more devices"),
        ({"scale": 2.0}, "between 0 and 1"),
        pytest.param(
            {"device": "cuda"},
            "no cuda device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_settings_that_cannot_be_honoured(settings: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        Trainer(tmp_path, **{"device": "cpu", **settings})


def test_the_average_follows_its_source() -> None:
    source, copy = nn.Linear(2, 2), nn.Linear(2, 2)
    average = Average(source, copy, 0.9)
    assert torch.equal(copy.weight, source.weight)
    with torch.no_grad():
        source.weight += 1
    for index in range(200):
        average.update(index)
    torch.testing.assert_close(copy.weight, source.weight)


def test_adversarial_losses_and_penalties_have_their_closed_forms() -> None:
    zero = torch.zeros(4, 1)
    torch.testing.assert_close(d_loss(zero, zero), torch.tensor(2 * np.log(2), dtype=torch.float32))
    torch.testing.assert_close(g_loss(zero), torch.tensor(np.log(2), dtype=torch.float32))
    gradient = torch.randn(3 * 16)
    penalty = r1_penalty(lambda images: (images.flatten(1) * gradient).sum(1), torch.randn(5, 3, 4, 4))
    torch.testing.assert_close(penalty, gradient.square().sum())
    # Images that are a multiple of the first row of w: their path length is that of the multiplied noise.
    w = torch.randn(2, 2, 48, requires_grad=True)
    noise, lengths = torch.randn(2, 3, 4, 4), PathLength()
    factor = torch.tensor(3.0, requires_grad=True)
    loss = lengths((factor * w[:, 0]).view(2, 3, 4, 4), w, noise)
    expected = (9 * noise.flatten(1).square().sum(1) / 16 / 2).sqrt()
    torch.testing.assert_close(lengths.mean, expected.mean())  # the first one is the mean
    torch.testing.assert_close(loss, (expected - lengths.mean).square().mean())
    (actual,) = torch.autograd.grad(loss, factor)
    torch.testing.assert_close(actual, (2 * (expected - lengths.mean) * expected / 3).mean())


def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (RUN.parents[1] / "docs" / "training.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "training.md", "exec"), {})  # our own page
    log = read_log(tmp_path / "runs" / "mean" / "log.jsonl")
    assert log[-1]["step"] == 200 and log[-1]["mean"] < 0.2 * log[0]["mean"]
