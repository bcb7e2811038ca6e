"""The ledger: an SQLite file with one row a clip and step, and who works on which video.

It has a rollback journal and not a write-ahead log: a log needs memory that all processes share, so it fails as soon as
two machines open the file, and the few writes a second of this work gain nothing by it. The disk of several machines
must lock files (NFS from version 4 does).

A worker is a process that takes videos. It writes a beat every few seconds. On the same machine, one whose process is
gone is dead; on another, one whose beat has not changed for LEASE seconds by the clock of the one who looks: the clocks
of two machines are never compared. What a dead worker had taken is free again.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from stylereel.core.files import MediaError, is_running

LEASE = 60.0  # seconds without a beat after which a worker of another machine is taken for dead
BEAT = 5.0  # seconds between beats
PATIENCE = 120.0  # seconds that a lock of the file is waited for

TABLES = """
create table if not exists files (
    path text, offset integer, size integer, changed integer, sha256 text not null, primary key (path, offset)
);
create table if not exists rows (
    clip text, step text, key text, video text not null, input text not null, version integer not null,
    parameters text not null, state text not null, seconds real not null, bytes integer not null,
    reason text not null, facts text not null, licence text not null, worker text not null,
    primary key (clip, step, key)
);
create index if not exists rows_of_video on rows (video);
create table if not exists workers (worker text primary key, host text not null, process integer not null, beat text);
create table if not exists leases (video text primary key, worker text not null);
"""


class Row(NamedTuple):
    """One clip and step.

    clip: name of the video, with #NUMBER for a clip of it; input: SHA-256 of the video; parameters: hash of the step's
    table; key: of the result in the store; state: done or rejected; seconds: that the step took; bytes: of the result;
    reason: of the rejection; worker: who did it.
    """

    clip: str
    step: str
    key: str
    video: str
    input: str
    version: int
    parameters: str
    state: str
    seconds: float
    bytes: int
    reason: str
    facts: Mapping[str, Any]
    licence: str
    worker: str


def host() -> str:
    """This machine, or container with processes of its own, as a hash."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:12]


class Ledger:
    """The ledger of a data set's folder, for one thread.

    Raises:
        MediaError: the file is no ledger, or cannot be written or locked.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.worker = f"{host()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._seen: dict[str, tuple[str, float]] = {}  # worker -> its beat, and when it was first seen
        with self._sentences():
            self._base = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
            self._base.execute("pragma journal_mode = delete")
            self._base.executescript(TABLES)

    def close(self) -> None:
        self._base.close()

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise MediaError(
                f"The ledger {self.path} cannot be used ({error}); check the disk, or remove the file: what is done "
                "is kept next to it."
            ) from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._sentences():
            self._base.execute("begin immediate")
            try:
                yield
            except BaseException:
                self._base.execute("rollback")
                raise
            self._base.execute("commit")

    def _all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._sentences():
            return self._base.execute(query, values).fetchall()

    # --- files

    def known_hash(self, path: str, offset: int, size: int, changed: int) -> str | None:
        """The SHA-256 of a file that has not changed since `keep_hash`."""
        query = "select sha256 from files where path = ? and offset = ? and size = ? and changed = ?"
        found = self._all(query, path, offset, size, changed)
        return found[0][0] if found else None

    def keep_hash(self, path: str, offset: int, size: int, changed: int, sha256: str) -> None:
        with self._writing():
            self._base.execute(
                "insert or replace into files values (?, ?, ?, ?, ?)", (path, offset, size, changed, sha256)
            )

    # --- rows

    def add(self, rows: Iterable[Row]) -> None:
        """Write rows; those that are there already stay as they are."""
        values = [(*row[:11], json.dumps(dict(row.facts), sort_keys=True), *row[12:]) for row in rows]
        with self._writing():
            self._base.executemany(f"insert or ignore into rows values ({', '.join('?' * 14)})", values)

    def rows(self, video: str | None = None) -> Iterator[Row]:
        """The rows of a video, or all, in the order of clip, step and key."""
        where = "" if video is None else " where video = ?"
        query = f"select * from rows{where} order by clip, step, key"
        for values in self._all(query, *([] if video is None else [video])):
            yield Row._make((*values[:11], json.loads(values[11]), *values[12:]))

    # --- leases

    def beat(self) -> None:
        """Say that this worker lives."""
        with self._writing():
            values = (self.worker, host(), os.getpid(), secrets.token_hex(8))
            self._base.execute("insert or replace into workers values (?, ?, ?, ?)", values)

    def take(self, video: str) -> bool:
        """Take a video, unless another worker has it who lives."""
        with self._writing():
            found = self._base.execute("select worker from leases where video = ?", (video,)).fetchone()
            if found is not None and found[0] != self.worker:
                return False
            self._base.execute("insert or replace into leases values (?, ?)", (video, self.worker))
            return True

    def give_back(self, *videos: str) -> None:
        """Free videos, whether they are done or not."""
        with self._writing():
            pairs = [(video, self.worker) for video in videos]
            self._base.executemany("delete from leases where video = ? and worker = ?", pairs)

    def leave(self) -> None:
        """Free everything that this worker has, and strike it off."""
        with self._writing():
            self._base.execute("delete from leases where worker = ?", (self.worker,))
            self._base.execute("delete from workers where worker = ?", (self.worker,))

    def bury(self) -> None:
        """Free what dead workers had taken."""
        here, now = host(), time.monotonic()
        for worker, machine, process, beat in self._all("select worker, host, process, beat from workers"):
            seen = self._seen.get(worker)
            if seen is None or seen[0] != beat:
                seen = self._seen[worker] = (beat, now)
            gone = machine == here and os.name == "posix" and not is_running(process)
            if worker == self.worker or not (gone or now - seen[1] > LEASE):
                continue
            with self._writing():
                same = self._base.execute("delete from workers where worker = ? and beat = ?", (worker, beat))
                if same.rowcount:
                    self._base.execute("delete from leases where worker = ?", (worker,))
        with self._writing():  # of a worker that was buried while it slept
            self._base.execute("delete from leases where worker not in (select worker from workers)")


class Heart(threading.Thread):
    """Beats for a ledger's worker in a thread of its own, from entering a block to its end."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(daemon=True)
        self._ledger, self._over = ledger, threading.Event()

    def __enter__(self) -> Heart:
        self._ledger.beat()
        self.start()
        return self

    def run(self) -> None:
        own = Ledger(self._ledger.path)
        own.worker = self._ledger.worker
        while not self._over.wait(BEAT):
            try:
                own.beat()
            except MediaError:  # a lock that lasted too long; the next beat may come through
                continue
        own.close()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        self._ledger.leave()
