"""Where the work on videos runs: in processes of this machine, or on a Ray cluster.

Both take tasks one by one, when somebody is free for them, and give what became of them in any order. Neither knows the
ledger: only the process that started them writes there.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Protocol

from stylereel.corpora.steps import Done, Task, work_on

TRIES = 3  # of a task whose process dies each time
_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


class Engine(Protocol):
    """Runs `work_on` for tasks. What cannot be done because its process died TRIES times has `failed`."""

    def run(self, tasks: Iterator[Task]) -> Iterator[Done]: ...


class Here:
    """One task after another in this process."""

    def run(self, tasks: Iterator[Task]) -> Iterator[Done]:
        return map(work_on, tasks)


class _Worker(NamedTuple):
    process: Any
    pipe: Connection


class Processes:
    """Processes of this machine. One that dies is replaced, and its task tried again; they end when this one does.

    The standard library's pool ends as a whole when one process dies, without saying whose task it was.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        # Not a fork of this process, whose threads are in the middle of things, but of one that has only imported.
        self._context: Any = multiprocessing.get_context(_METHOD)
        if _METHOD == "forkserver":
            self._context.set_forkserver_preload([work_on.__module__])

    def run(self, tasks: Iterator[Task]) -> Iterator[Done]:
        free: list[_Worker] = []
        busy: dict[_Worker, Task] = {}
        again: list[Task] = []
        deaths: dict[str, int] = {}
        finished: list[Done] = []
        more = True
        try:
            while True:
                while len(busy) < self.count and (again or more):
                    task = again.pop() if again else next(tasks, None)
                    if task is None:
                        more = False
                        break
                    worker = free.pop() if free else self._start()
                    try:
                        worker.pipe.send(task)
                    except OSError:  # it died while it was free
                        self._end(worker)
                        again.append(task)
                        continue
                    busy[worker] = task
                # Only now: whoever writes down what is finished keeps no process waiting, nor does taking the next.
                yield from finished
                finished.clear()
                if not busy:
                    return
                if more and not again and (ahead := next(tasks, None)):
                    again.append(ahead)
                ready = wait([worker.pipe for worker in busy])
                for worker in [worker for worker in busy if worker.pipe in ready]:
                    task = busy.pop(worker)
                    try:
                        done = worker.pipe.recv()
                    except (EOFError, OSError):
                        self._end(worker)
                        name = task.video.name
                        deaths[name] = deaths.get(name, 0) + 1
                        if deaths[name] < TRIES:
                            again.append(task)
                        else:
                            reason = f"{name} ended its process {TRIES} times (memory, or a fault)."
                            finished.append(Done(task, (), 0, reason))
                        continue
                    if isinstance(done, BaseException):
                        raise done
                    free.append(worker)
                    finished.append(done)
        finally:
            for worker in [*free, *busy]:
                self._end(worker)

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _end(self, worker: _Worker) -> None:
        worker.pipe.close()
        worker.process.kill()
        worker.process.join()


def _serve(pipe: Connection) -> None:
    """What a process does: a task, its result, the next task, until the pipe or the parent is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        try:
            pipe.send(work_on(task))
        except KeyboardInterrupt:
            return
        except Exception as error:
            pipe.send(error)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class Ray:
    """A Ray cluster: its scheduler places the tasks, its object store brings the rows back.

    All nodes must see the videos and the data set's folder under the same names.

    Args:
        address: of the cluster (`auto`, host:port, ray://host:port); None starts one on this machine.
        count: tasks at once; None takes as many as the cluster has cores.

    Raises:
        ValueError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, address: str | None = None, count: int | None = None) -> None:
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise ValueError("Ray is not installed: pip install 'stylereel[ray]'.") from error
        self._ray = ray
        if not ray.is_initialized():
            cores = {} if address else {"num_cpus": count or os.cpu_count(), "include_dashboard": False}
            try:
                ray.init(address=address, log_to_driver=False, logging_level="error", **cores)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise ValueError(f"No Ray cluster answers at {address}: {str(error).splitlines()[0]}") from error
        self._count = count

    def run(self, tasks: Iterator[Task]) -> Iterator[Done]:
        ray = self._ray
        # A task whose worker or node dies is placed again by Ray itself.
        remote = ray.remote(work_on).options(num_cpus=1, max_retries=TRIES)
        waiting: dict[Any, Task] = {}
        more = True
        while True:
            count = self._count or max(1, int(ray.cluster_resources().get("CPU", 1)))
            while more and len(waiting) <= count:  # one more than cores, which begins as soon as one is free
                task = next(tasks, None)
                if task is None:
                    more = False
                    break
                waiting[remote.remote(task)] = task
            if not waiting:
                return
            ready, _ = ray.wait(list(waiting), num_returns=1)
            for reference in ready:
                task = waiting.pop(reference)
                try:
                    yield ray.get(reference)
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
                    reason = str(error).splitlines()[0]
                    yield Done(task, (), 0, f"{task.video.name} ended its process {TRIES} times ({reason}).")
