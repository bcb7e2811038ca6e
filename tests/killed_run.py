"""Run a stylereel command that is killed again and again at random moments, then let it end.

python killed_run.py KILLS SECONDS WORDS...: each run is a fork that SIGKILL ends up to SECONDS after it began to render
(after the folder OUT.unfinished appeared, where OUT is what follows --out). Prints what each found and left.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from stylereel.cli import main


def segments(folder: Path) -> int:
    return len(list(folder.glob("*.segment")))


def run(words: list[str]) -> None:
    code = main(words)
    sys.stdout.flush()
    os._exit(code)


def run_with_kills(kills: int, seconds: float, words: list[str]) -> int:
    out = Path(words[words.index("--out") + 1])
    folder, moments = out.with_name(f"{out.name}.unfinished"), random.Random(0)
    for number in range(kills):
        before = segments(folder)
        child = os.fork()
        if child == 0:
            run(words)
        patience = time.monotonic() + 120
        while not folder.exists() and not out.exists() and time.monotonic() < patience:
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        how = "killed" if os.WIFSIGNALED(status) else "ended"
        print(f"{how} {number}: {before} segments before, {segments(folder)} after", flush=True)
    child = os.fork()
    if child == 0:
        run(words)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(run_with_kills(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
