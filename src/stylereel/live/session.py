"""The pipeline: a camera is read, a portrait is drawn and shown, each in threads of its own, and nothing queues.

    camera --> newest --> follow --> newest --> draw, draw ... --> newest --> outputs
    (thread)            (thread)             (a thread a core)             (the caller's thread)

PyTorch, LiteRT, FFmpeg and the kernels release Python's lock while they work, so threads do run side by side, and
share one copy of the networks. Each drawing thread draws whole frames with one thread of its own: two frames at once on
two cores wait for each other less than two halves of a frame, and a core that reads a face meanwhile holds up neither.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from stylereel.core.latents import FACE, Identity, Motion
from stylereel.core.precision import Precision
from stylereel.core.render import Render, render
from stylereel.core.system import Shot, Streams, device_of
from stylereel.live.meter import Mark, Meter
from stylereel.live.newest import Newest
from stylereel.live.sound import Lips

WORKERS = 4  # drawing threads at most: faces are read one after the other, so more find nothing to do
EVERY = 5.0  # seconds between two lines
_TICK = 0.05  # seconds after which outputs are called without a new picture
_STILL = 1e-3  # degrees, or parts of a factor: what moves less is not drawn again
_PATIENCE = 2.0  # seconds that a stopped thread has for what it is doing


class Camera(Protocol):
    """Where shots come from."""

    rate: Fraction  # about how many a second

    def shots(self, stop: threading.Event) -> Iterator[Shot]:
        """Shots as they come, by `time.monotonic`, until there are no more or `stop` is set."""
        ...


class Picture(NamedTuple):
    """A drawn frame: when its shot was taken, the image uint8 [H, W, 3], and the motion of one frame that it shows."""

    time: float
    image: np.ndarray
    motion: Motion


class Output(Protocol):
    """Where pictures go; called in the thread that runs the session."""

    def show(self, picture: Picture | None) -> None:
        """Take a picture, or None a few times a second while there is no new one. Raises Closed when nobody watches."""
        ...


class Closed(Exception):
    """Why an output takes no more pictures: ends a session without being an error."""


class Session:
    """One person in front of one camera, one portrait, and where it is shown.

    Args:
        system: it must follow.
        identity: who is shown.
        camera: where shots come from.
        follow, apply: options of these verbs of the system.
        precision: see `render`.
        mirror: whether shots are mirrored first.
        lips: a sound that the lips follow instead, or that is recorded.
        workers: drawing threads; by default one for each thread that PyTorch has (OMP_NUM_THREADS), up to WORKERS, and
            one on a GPU.

    Attributes:
        meter: counts and times so far.
        present: whether the last shot that was read shows a face.
    """

    def __init__(
        self,
        system: Streams,
        identity: Identity,
        camera: Camera,
        *,
        follow: Mapping[str, Any] | None = None,
        apply: Mapping[str, Any] | None = None,
        precision: Precision = "auto",
        mirror: bool = False,
        lips: Lips | None = None,
        workers: int | None = None,
    ) -> None:
        self._system, self._identity, self._camera, self._mirror = system, identity, camera, mirror
        if lips is not None and lips.follow and FACE not in system.motion_kinds:
            raise ValueError(f"{system.name} is not moved by a face's factors here, so its lips cannot follow a sound.")
        self._lips = lips
        self._apply = dict(apply or {})
        self._precision: Precision = precision
        one = device_of(system).type != "cpu"
        self.workers = workers or (1 if one else min(torch.get_num_threads(), WORKERS))
        self.meter, self.present = Meter(), False
        self._shots, self._motions, self._pictures = Newest[Shot](), Newest[tuple[float, Motion]](), Newest[Picture]()
        self._stop, self._errors = threading.Event(), list[BaseException]()
        self._drawn, self._drawing, self._order = -1.0, self.workers, threading.Lock()
        self._last: tuple[np.ndarray, np.ndarray] | None = None  # the values that were drawn last, and their image
        # What cannot be followed is said here, not in a thread.
        self._taken: deque[tuple[float, Mark]] = deque()
        self._following = system.follow(self._taking(), camera.rate, **(follow or {}))

    def stop(self) -> None:
        """End the session, from any thread."""
        self._stop.set()

    @property
    def dropped(self) -> dict[str, int]:
        """Frames that were too late, by the stage that they waited for."""
        late = {"before reading": self._shots.dropped, "before drawing": self._motions.dropped}
        return late | {"before showing": self._pictures.dropped + self.meter.counts.get("overtaken", 0)}

    def run(
        self, outputs: Sequence[Output], seconds: float | None = None, say: Callable[[str], None] | None = None
    ) -> dict[str, Any]:
        """Run, once, until the camera ends, an output is closed, `stop`, Ctrl-C, or so many seconds have passed.

        Args:
            outputs: where pictures go.
            seconds: how long at most.
            say: gets a line every `EVERY` seconds, and what happens.

        Returns:
            Counts and times for the record, and why it ended.

        Raises:
            ValueError, OSError: what a stage raised.
        """
        self.meter = Meter()
        threads = [threading.Thread(target=self._guarded, args=(work,), daemon=True) for work in self._work()]
        said, present, reason = time.monotonic(), True, "the camera ended"
        with _one_thread_each(device_of(self._system).type == "cpu"):
            try:
                for thread in threads:
                    thread.start()
                while not (self._pictures.ended or self._errors):
                    self._show(self._pictures.take(_TICK), outputs)
                    if self._stop.is_set():
                        reason = "it was stopped"
                        break
                    if seconds is not None and self.meter.seconds >= seconds:
                        reason = "the time was over"
                        break
                    if say and present != self.present and self.meter.whole.count:
                        present = self.present
                        say("a face: it moves" if present else "no face: it waits")
                    if say and time.monotonic() - said >= EVERY:
                        said = time.monotonic()
                        say(self.meter.line(sum(self.dropped.values())))
            except KeyboardInterrupt:
                reason = "it was stopped"
            except Closed as closed:
                reason = str(closed)
            finally:
                self._stop.set()
                for slot in (self._shots, self._motions, self._pictures):
                    slot.end()
                for thread in threads:
                    if thread.is_alive():
                        thread.join(_PATIENCE)  # one that waits for a camera is left to itself
        if self._errors:
            raise self._errors[0]
        return self.meter.facts() | {"dropped": self.dropped, "workers": self.workers, "ended": reason}

    def _work(self) -> list[Callable[[], None]]:
        lips = self._lips
        hearing = [] if lips is None else [partial(lips.capture, self._stop), partial(lips.listen, self.meter)]
        return [self._capture, *hearing, self._follow, *[self._draw] * self.workers]

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # `run` raises it again
            self._errors.append(error)
            self._stop.set()

    def _capture(self) -> None:
        for shot in self._camera.shots(self._stop):
            self.meter.count("in")
            if self._mirror and shot.image is not None:
                shot = shot._replace(image=np.ascontiguousarray(shot.image[:, ::-1]))
            self._shots.put(shot)
        self._shots.end()

    def _taking(self) -> Iterator[Shot]:
        """The newest shots, one by one, as `follow` asks for them."""
        while not self._shots.ended:
            shot = self._shots.take()
            if shot is not None:
                self._taken.append((shot.time, Mark()))
                yield shot

    def _follow(self) -> None:
        context = self._system.context
        recent: deque[Motion] = deque(maxlen=context + 1)
        for motion in self._following:
            begun, mark = self._taken.popleft()
            self.meter.stage("read", mark)
            if self._lips is not None:
                motion = self._lips.put_on(motion, begun)
            self.present = not motion.missing
            recent.append(motion)
            self._motions.put((begun, _with_context(recent, context)))
        self._motions.end()

    def _draw(self) -> None:
        drawing: Render | None = None
        while not self._motions.ended:
            taken = self._motions.take()
            if taken is None:
                continue
            begun, motion = taken
            drawing = drawing or render(self._system, self._identity, motion, 1, self._precision, **self._apply)
            before, middle = self._last, len(motion) // 2
            if before is not None and np.abs(before[0] - motion.values).max() < _STILL:
                image = before[1]
            else:
                mark = Mark()
                image = drawing.draw(motion)[0]
                self.meter.stage("draw", mark)
                self._last = motion.values, image
            with self._order:
                if begun < self._drawn:  # a later frame was faster
                    self.meter.count("overtaken")
                    continue
                self._drawn = begun
                self._pictures.put(Picture(begun, image, motion.part(middle, middle + 1)))
        with self._order:
            self._drawing -= 1
            if not self._drawing:
                self._pictures.end()

    def _show(self, picture: Picture | None, outputs: Sequence[Output]) -> None:
        if picture is None:
            for output in outputs:
                output.show(None)
            return
        mark = Mark()
        for output in outputs:
            output.show(picture)
        self.meter.stage("show", mark)
        self.meter.out(time.monotonic() - picture.time)


def _with_context(recent: deque[Motion], context: int) -> Motion:
    """The newest of some motions of one frame, between `context` frames before it and itself for those to come."""
    if not context:
        return recent[-1]
    past = replace(
        recent[-1],
        values=np.concatenate([motion.values for motion in recent]),
        placement=np.concatenate([motion.placement for motion in recent]),
        missing=tuple(index for index, motion in enumerate(recent) if motion.missing),
    )
    return past.part(len(past) - 1 - context, len(past) + context)


@contextmanager
def _one_thread_each(on_processor: bool) -> Iterator[None]:
    """Meanwhile PyTorch works with one thread in each of ours."""
    before = torch.get_num_threads()
    if on_processor:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
