"""How fast the generators are, as ratios to a plain reference measured in the same run.

    python benchmarks/generator.py [--model stylegan2-1024 stylegan3-r-256 ...] [--batch 1 4] [--rounds 3]
        [--device cpu|cuda] [--variant reference ours ...] [--training] [--out results.json]

Every measurement has a process of its own (a fresh allocator), and the variants take turns: A B C A B C. A ratio is
the median over the rounds of the ratio inside a round; milliseconds are per frame, of synthesis alone, with random
weights from a seed. Errors are against the reference in float32: largest and mean difference as a share of the largest
value, root mean square as a share of the image's spread, PSNR over the image's range. The floor is what the dense
convolutions of one frame would take at the rate of one ideal convolution measured on the same machine in the same
precision; the share is floor / best time, so more than 100 % means fewer operations than the direct method needs.

`reference-kept` is the reference with glibc set to keep freed memory: without that, large tensors cost page faults
on a CPU, so it is the sterner yardstick. --training compares forward with backward, and for StyleGAN2 the double
backward of the path-length and R1 penalties too. Where the reference takes minutes a frame, time one frame of it:
--rounds 1 --seconds 0 --warmup 0. Peak memory is the whole process's on a CPU. Prints Markdown tables and writes
everything to the JSON file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import reference
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from stylereel.core.files import replacing
from stylereel.generator import (
    Discriminator,
    DiscriminatorConfig,
    StyleGAN2,
    StyleGAN2Config,
    StyleGAN3,
    StyleGAN3Config,
)
from stylereel.generator.cpu import fast

KEPT = {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184"}


@dataclass(frozen=True)
class Model:
    """Sizes of a network: the published ones, or tiny ones for tests."""

    resolution: int
    channel_base: int
    channel_max: int = 512
    kind: Literal["stylegan2", "stylegan3-t", "stylegan3-r"] = "stylegan2"
    tiny: bool = False


MODELS = {
    "stylegan2-1024": Model(1024, 32768),
    "stylegan2-256": Model(256, 32768),
    "stylegan3-t-256": Model(256, 16384, kind="stylegan3-t"),
    "stylegan3-r-256": Model(256, 32768, 1024, kind="stylegan3-r"),
    "stylegan3-t-1024": Model(1024, 32768, kind="stylegan3-t"),
    "stylegan3-r-1024": Model(1024, 65536, 1024, kind="stylegan3-r"),
    "stylegan2-32": Model(32, 512, 16, tiny=True),
    "stylegan3-t-32": Model(32, 256, 16, kind="stylegan3-t", tiny=True),
    "stylegan3-r-32": Model(32, 512, 16, kind="stylegan3-r", tiny=True),
}


@dataclass(frozen=True)
class Variant:
    """How to compute: the reference or ours, in which precision, compiled or recorded as a CUDA graph or not, with the
    CPU's faster twins of layers or in plain PyTorch alone."""

    ours: bool = True
    dtype: str = "float32"
    compiled: bool = False
    graph: bool = False
    kept: bool = False
    twins: bool = True
    per_sample: bool = True


VARIANTS = {
    "cpu": {
        "reference": Variant(ours=False),
        "reference-kept": Variant(ours=False, kept=True),
        "ours": Variant(),
        "ours-bf16": Variant(dtype="bfloat16"),
        "ours-plain": Variant(twins=False),
        "ours-compiled": Variant(compiled=True),
        "ours-bf16-compiled": Variant(dtype="bfloat16", compiled=True),
    },
    "cuda": {
        "reference": Variant(ours=False),
        "ours": Variant(),
        "ours-bf16": Variant(dtype="bfloat16"),
        "ours-fp16": Variant(dtype="float16"),
        "ours-compiled": Variant(compiled=True),
        "ours-bf16-compiled": Variant(dtype="bfloat16", compiled=True),
        "ours-bf16-graph": Variant(dtype="bfloat16", graph=True),
    },
}
# Official training scales activations; giving each sample weights of its own is what other programs do there.
TRAINING_VARIANTS = {
    "reference": Variant(ours=False, per_sample=False),
    "reference-per-sample": Variant(ours=False),
    "ours": Variant(),
    "ours-plain": Variant(twins=False),
    "ours-bf16": Variant(dtype="bfloat16"),
}
# What a variant would measure twice: a discriminator has no styles, and StyleGAN2 no twin that has slopes.
ALIKE = {"stylegan2": {"ours-plain"}, "stylegan3": {"reference-per-sample"}, "discriminator": {"reference-per-sample"}}
TASKS = ("generator", "path length", "discriminator", "R1")
TRAINED = {"stylegan2": TASKS, "stylegan3": TASKS[:1]}  # StyleGAN3 has no path length, and the same discriminator


@dataclass(frozen=True)
class Job:
    """One measurement in a process of its own. task: "frames", one of TASKS, or "ceiling"; out: file for the result."""

    task: str
    model: str
    variant: Variant
    batch: int
    device: str
    threads: int
    seconds: float
    out: str
    warmup: int = 2


# --- in the process that measures


def build(model: Model) -> StyleGAN2 | StyleGAN3:
    """A generator with random weights, biases and noise strengths."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "resolution": model.resolution,
        "channel_base": model.channel_base,
        "channel_max": model.channel_max,
        **({"z_dim": 32, "w_dim": 32, "mapping_layers": 2} if model.tiny else {}),
    }
    if model.kind == "stylegan2":
        generator = StyleGAN2(StyleGAN2Config(**sizes))
    elif model.kind == "stylegan3-t":
        generator = StyleGAN3(StyleGAN3Config(**sizes))
    else:
        generator = StyleGAN3(StyleGAN3Config(**sizes, conv_kernel=1, use_radial_filters=True))
    for name, parameter in generator.named_parameters():
        if name.startswith("synthesis") and (name.endswith("noise_strength") or name.endswith(".bias")):
            with torch.no_grad():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return generator


def build_discriminator(model: Model) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(DiscriminatorConfig(model.resolution, 0, 3, model.channel_base, model.channel_max))


def codes(generator: Any, batch: int) -> Tensor:
    """W+ codes [B, L, D] that the mapping network makes of seeded latents."""
    z = torch.randn(batch, generator.config.z_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return generator.map(z).contiguous()


def gigaflop(model: Model) -> float:
    """Of the dense convolutions of one frame by the direct method, counted by torch on tensors without contents."""

    def dense(x: Any, weight: Any, *rest: Any, out_shape: Any, **_: Any) -> int:
        _, _, _, _, transposed, _, groups = rest
        if groups > 1:
            return 0  # a filter; each way of filtering needs another number of operations
        places = x[2:] if transposed else out_shape[2:]
        return 2 * x[0] * math.prod(places) * math.prod(weight)

    with torch.device("meta"):
        generator = build(model)
        w = torch.empty(1, generator.num_ws, generator.config.w_dim)
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution: dense}) as counter:
        reference.synthesize(reference.tensors_of(generator), w)
    counts = counter.get_flop_counts()["Global"].items()
    return sum(count for operation, count in counts if "convolution" in str(operation)) / 1e9


def frames(job: Job) -> Callable[[], Tensor]:
    """What makes one batch of images."""
    generator = build(MODELS[job.model]).requires_grad_(False)
    w = codes(generator, job.batch).to(job.device)
    generator.to(job.device)
    if not job.variant.ours:
        tensors = reference.tensors_of(generator)
        return lambda: reference.synthesize(tensors, w)
    dtype = getattr(torch, job.variant.dtype)
    if job.variant.compiled and job.device == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
        raise ValueError("torch.compile needs a C++ compiler, and there is none")
    if not job.variant.twins:
        fast.takes = lambda *anything: False
    synthesize = torch.compile(generator.synthesize) if job.variant.compiled else generator.synthesize
    run = lambda: synthesize(w, dtype=dtype)  # noqa: E731
    return recorded(run) if job.variant.graph else run


def recorded(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The same work, recorded once as a CUDA graph and replayed without Python."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


def training(job: Job) -> Callable[[], Tensor]:
    """What makes one training step's gradients; it returns those of one parameter, for comparison."""
    model, variant = MODELS[job.model], job.variant
    dtype = getattr(torch, variant.dtype)
    if job.task in ("generator", "path length"):
        generator = build(model)
        w = codes(generator, job.batch).to(job.device)
        network: nn.Module = generator.to(job.device)
        watched = generator.synthesis.get_parameter("b4.const" if model.kind == "stylegan2" else "input.weight")
        if not variant.twins:
            fast.takes_filters = lambda *anything: False
        if variant.ours:
            make: Callable[[Tensor], Tensor] = lambda w: generator.synthesize(w, dtype=dtype)  # noqa: E731
        else:
            tensors = reference.tensors_of(generator)
            make = lambda w: reference.synthesize(tensors, w, per_sample=variant.per_sample)  # noqa: E731

        def loss() -> Tensor:
            if job.task == "generator":
                return make(w).square().mean()
            leaf = w.detach().requires_grad_()
            images = make(leaf)
            noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(2)).to(images)
            gradient = torch.autograd.grad((images * noise).sum(), leaf, create_graph=True)[0]
            return gradient.square().sum(dim=2).mean() / images[0].numel()
    else:
        discriminator = build_discriminator(model).to(job.device)
        network, watched = discriminator, discriminator.get_parameter(f"b{model.resolution}.conv0.weight")
        shape = (job.batch, 3, model.resolution, model.resolution)
        images = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(job.device)
        if variant.ours:
            score: Callable[[Tensor], Tensor] = lambda x: discriminator(x, dtype=dtype)  # noqa: E731
        else:
            tensors = reference.tensors_of(discriminator)
            score = lambda x: reference.discriminator(tensors, x)  # noqa: E731

        def loss() -> Tensor:
            if job.task == "discriminator":
                return F.softplus(score(images)).mean()
            leaf = images.detach().requires_grad_()
            gradient = torch.autograd.grad(score(leaf).sum(), leaf, create_graph=True)[0]
            return gradient.square().sum(dim=(1, 2, 3)).mean()

    def step() -> Tensor:
        network.zero_grad(set_to_none=True)
        loss().backward()
        assert watched.grad is not None
        return watched.grad

    return step


def ceiling(job: Job) -> float:
    """GFLOP a second of one ideal convolution, 3x3 with 512 channels, channels last."""
    batch, channels, size = (32, 512, 64) if job.device == "cuda" else (4, 512, 32)
    dtype = getattr(torch, job.variant.dtype)
    x = torch.randn(batch, channels, size, size, device=job.device).to(dtype, memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=job.device).to(dtype, memory_format=torch.channels_last)
    with torch.inference_mode():
        best = min(timed(lambda: F.conv2d(x, weight, padding=1), job)[0])
    return 2 * batch * size**2 * channels**2 * 9 / best / 1e9


def timed(run: Callable[[], Tensor], job: Job) -> tuple[list[float], Tensor]:
    """Seconds of each call, and the last result: once, and until job.seconds have passed (200 calls at most)."""

    def wait() -> None:
        if job.device == "cuda":
            torch.cuda.synchronize()

    for _ in range(job.warmup):
        run()
    wait()
    out: list[float] = []
    while True:
        start = time.perf_counter()
        result = run()
        wait()
        out.append(time.perf_counter() - start)
        if sum(out) >= job.seconds or len(out) == 200:
            return out, result


def peak_mib(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def measure(job: Job) -> dict[str, Any]:
    """Times in ms a frame, peak memory in MiB; the result goes to job.out. {"skipped": reason} if it cannot run."""
    torch.set_num_threads(job.threads)
    # Where a GPU has a reduced float32, neither side may use it.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if job.task == "ceiling":
        return {"gigaflop per second": ceiling(job)}
    try:
        if job.task == "frames":
            run = frames(job)  # outside of inference mode, as users load weights
            with torch.inference_mode():
                seconds, result = timed(run, job)
        else:
            seconds, result = timed(training(job), job)
    except Exception as error:  # compilers and GPUs fail in many ways; the others go on
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        return {"skipped": f"{type(error).__name__}: {reason}"[:160]}
    np.save(job.out, result.detach().float().cpu().numpy())
    return {"ms": [1000 * each / job.batch for each in seconds], "peak MiB": peak_mib(job.device)}


# --- in the process that compares


def in_process_of_its_own(job: Job) -> dict[str, Any]:
    if job.variant.kept and platform.libc_ver()[0] != "glibc":
        return {"skipped": "only glibc has this switch"}
    environment = {**os.environ, **(KEPT if job.variant.kept else {}), "OMP_NUM_THREADS": str(job.threads)}
    environment["NUMBA_NUM_THREADS"] = str(job.threads)
    command = [sys.executable, __file__, "--child", json.dumps(asdict(job))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode < 0:
        return {"skipped": f"stopped by signal {-done.returncode}; too little memory?"}
    if done.returncode:
        raise ValueError(f"The measurement failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(
    task: str, model: str, batch: int, variants: dict[str, Variant], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row a variant: all rounds of one model and batch size."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as folder:

        def job(name: str) -> Job:
            out = str(Path(folder) / f"{name}.npy")
            measured = (arguments.device, arguments.threads, arguments.seconds, out)
            # Our kernels are compiled in the first call; the reference has nothing to warm but its memory.
            warmup = 2 if variants[name].ours else arguments.warmup
            return Job(task, model, variants[name], batch, *measured, warmup)

        for _ in range(arguments.rounds):
            for name, runs in found.items():
                if not any("skipped" in run for run in runs):
                    runs.append(in_process_of_its_own(job(name)))
        results = {name: np.load(job(name).out) for name in variants if Path(job(name).out).exists()}
    return [row(name, runs, found, results) for name, runs in found.items()]


def row(
    name: str, runs: list[dict[str, Any]], found: dict[str, list[dict[str, Any]]], results: dict[str, np.ndarray]
) -> dict[str, Any]:
    skipped = next((run["skipped"] for run in runs if "skipped" in run), None)
    if skipped is not None:
        return {"variant": name, "skipped": skipped}
    every = [ms for run in runs for ms in run["ms"]]
    out: dict[str, Any] = {
        "variant": name,
        "min ms": min(every),
        "median ms": statistics.median(every),
        "peak MiB": max(run["peak MiB"] for run in runs),
        "rounds": runs,
    }
    for base in ("reference", "reference-kept"):
        if (rounds := found.get(base)) and not any("skipped" in run for run in rounds):
            ratios = [
                statistics.median(a["ms"]) / statistics.median(b["ms"]) for a, b in zip(rounds, runs, strict=True)
            ]
            out[f"times {base}"] = statistics.median(ratios)
    if "reference" in results and name != "reference":
        exact, mine = results["reference"].astype(np.float64), results[name].astype(np.float64)
        out["max error"] = float(np.abs(mine - exact).max() / np.abs(exact).max())
        rms = float(np.sqrt(np.square(mine - exact).mean()))
        out["mean error"] = float(np.abs(mine - exact).mean() / np.abs(exact).max())
        out["rms error"] = rms / float(exact.std())
        out["PSNR dB"] = 20 * math.log10(float(np.ptp(exact)) / rms) if rms > 0 else math.inf
    return out


def add_floor(rows: list[dict[str, Any]], variants: dict[str, Variant], work: float, rates: dict[str, float]) -> None:
    """Into each row: the time in ms that `work` GFLOP need at the ceiling's rate, and its share of the best time."""
    for entry in rows:
        if "skipped" not in entry:
            entry["floor ms"] = 1000 * work / rates[variants[entry["variant"]].dtype]
            entry["share of ceiling"] = entry["floor ms"] / entry["min ms"]


COLUMNS: dict[str, Callable[[float], str]] = {
    "min ms": "{:.1f}".format,
    "median ms": "{:.1f}".format,
    "times reference": "{:.2f}".format,
    "times reference-kept": "{:.2f}".format,
    "share of ceiling": "{:.0%}".format,
    "max error": "{:.0e}".format,
    "mean error": "{:.0e}".format,
    "rms error": "{:.0e}".format,
    "PSNR dB": "{:.0f}".format,
    "peak MiB": "{:.0f}".format,
}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, with the columns that some row has."""
    columns = [name for name in COLUMNS if any(name in entry for entry in rows)]
    lines = [f"| variant | {' | '.join(columns)} | frames/s |", f"|{' --- |' * (len(columns) + 2)}"]
    for entry in rows:
        if "skipped" in entry:
            lines.append(f"| {entry['variant']} | skipped: {entry['skipped']} |{' |' * len(columns)}")
            continue
        cells = [COLUMNS[name](entry[name]) if name in entry else "" for name in columns]
        lines.append(f"| {entry['variant']} | {' | '.join(cells)} | {1000 / entry['median ms']:.2f} |")
    return "\n".join(lines)


def machine(arguments: argparse.Namespace) -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    out: dict[str, Any] = {
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": arguments.threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": arguments.device,
    }
    if arguments.device == "cuda":
        out["gpu"] = torch.cuda.get_device_name()
    return out


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    shown = [name for name, model in MODELS.items() if not model.tiny]
    parser.add_argument("--model", nargs="+", choices=MODELS, metavar="MODEL", help=", ".join(shown))
    parser.add_argument("--batch", nargs="+", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--variant", nargs="+", metavar="VARIANT", help="only these, by the names in the table")
    parser.add_argument("--training", action="store_true", help="gradients instead of frames, at 256 px, batch 4")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=3.0, help="spent on a measurement, at least")
    parser.add_argument("--warmup", type=int, default=2, help="calls of the reference before those that count")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    if arguments.child:
        job = json.loads(arguments.child)
        print(json.dumps(measure(Job(**{**job, "variant": Variant(**job["variant"])}))))
        return
    known = TRAINING_VARIANTS if arguments.training else VARIANTS[arguments.device]
    if wrong := set(arguments.variant or ()) - set(known):
        parser.error(f"there is no variant {', '.join(sorted(wrong))}; there are {', '.join(known)}")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU here; leave --device out")
    variants = {name: variant for name, variant in known.items() if name in (arguments.variant or known)}
    models = arguments.model or (["stylegan2-256"] if arguments.training else ["stylegan2-1024", "stylegan2-256"])
    batches = arguments.batch or ([4] if arguments.training else [1])
    result: dict[str, Any] = {"machine": machine(arguments), "tables": []}
    print(" ".join(f"{name}: {value};" for name, value in result["machine"].items()))
    rates = {}
    if not arguments.training:
        for dtype in sorted({variant.dtype for variant in variants.values()}):
            job = Job(
                "ceiling", "", Variant(dtype=dtype), 1, arguments.device, arguments.threads, arguments.seconds, ""
            )
            rates[dtype] = in_process_of_its_own(job)["gigaflop per second"]
        print("ceiling: " + ", ".join(f"{rate:.0f} GFLOP/s in {dtype}" for dtype, rate in rates.items()))
        result["ceiling GFLOP/s"] = rates
    for model in models:
        for batch in batches:
            family = MODELS[model].kind.partition("-")[0]
            for task in TRAINED[family] if arguments.training else ("frames",):
                alike = ALIKE[family] if arguments.training else set()
                if task in ("discriminator", "R1"):
                    alike = alike | ALIKE["discriminator"]
                fitting = {name: variant for name, variant in variants.items() if name not in alike}
                rows = compare(task, model, batch, fitting, arguments)
                entry: dict[str, Any] = {"model": model, "batch": batch, "task": task, "rows": rows}
                if task == "frames":
                    entry["GFLOP a frame"] = gigaflop(MODELS[model])
                    add_floor(rows, variants, entry["GFLOP a frame"], rates)
                result["tables"].append(entry)
                print(f"\n{model}, batch {batch}, {task}\n\n{table(rows)}", flush=True)
    if arguments.out:
        with replacing(arguments.out) as partial:
            partial.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
