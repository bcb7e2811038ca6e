"""The stage: one portrait, drawn as fast as it is asked for. It answers the sliders of Edit and shows people at once.

The drawing is in a process of its own. Every visitor's newest wish replaces his older one that still waits, and
visitors take turns, so no slider lags behind the hand and nobody waits for all the wishes of another.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from stylereel.core.builtin import BUILTIN

EXAMPLE = BUILTIN / "speaker.mp4"  # the clip that moves people before a visitor gives one
QUALITY = 88  # of the JPEG
IDLE = 0.3  # seconds without a wish, which are used to get ready for the next


@dataclass(frozen=True)
class Wish:
    """A picture of a person.

    seed or file: who: a seed, or an identity's file. factors: what is changed, by the world's names. moment: the frame
    of the example clip whose motion is shown; None for the person at rest. keep: a file to write the person to.
    """

    seed: int | None = None
    file: Path | None = None
    factors: Mapping[str, float] = field(default_factory=dict)
    moment: int | None = None
    keep: Path | None = None


def draw(pipe: Connection) -> None:
    """Answer wishes until the page closes the pipe: ("picture", JPEG, values of the factors) or ("error", sentence)."""
    if hasattr(os, "setsid"):
        os.setsid()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    painter = _Painter()
    pipe.send(("ready",))
    while True:
        try:
            if not pipe.poll(IDLE):
                painter.prepare()
            wish = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer: tuple[Any, ...] = ("picture", *painter(wish))
        except (ValueError, OSError) as error:
            answer = ("error", " ".join(str(error).split()))
        try:
            pipe.send(answer)
        except OSError:
            return


class _Painter:
    def __init__(self) -> None:
        import torch

        from stylereel import systems
        from stylereel.core.precision import choose_precision
        from stylereel.core.system import device_of

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
        self.system: Any = systems.load("stylemask")
        half = choose_precision("auto", device_of(self.system)) != "32"
        self.dtype = torch.bfloat16 if half else None
        self.motion: Any = None
        self.person = lru_cache(64)(self._person)

    def prepare(self) -> None:
        """Read the motion of the example clip."""
        if self.motion is None:
            self.motion = self.system.extract(EXAMPLE)

    def _person(self, seed: int | None, file: str | None, _: float) -> tuple[Any, Any]:
        """Identity, and the values of its factors (None of a person whose factors are not known)."""
        import numpy as np

        from stylereel import world
        from stylereel.core.latents import Identity

        if file is not None:
            identity = Identity.load(file)
            values = identity.tensors.get("factors")
            return identity, None if values is None else values.numpy().astype(np.float32)
        assert seed is not None
        z = np.random.default_rng(seed).standard_normal((1, self.system.generator.config.z_dim))
        return self.system.identify(seed), world.from_latent(z[0])

    def __call__(self, wish: Wish) -> tuple[bytes, dict[str, float]]:
        import torch
        from PIL import Image

        from stylereel.core.latents import Identity
        from stylereel.core.render import pictures
        from stylereel.invert.person import compose
        from stylereel.invert.words import correct
        from stylereel.world.factors import NAMES

        file = None if wish.file is None else str(wish.file)
        identity, values = self.person(wish.seed, file, os.path.getmtime(file) if file else 0.0)
        if wish.factors:
            if values is None:
                raise ValueError("This person was not made of factors, so the sliders cannot change it.")
            values = correct(values, [f"{name}={value:g}" for name, value in wish.factors.items()])
            tensors = dict(identity.tensors) | {"factors": torch.from_numpy(values)}
            identity = Identity(compose(self.system.generator, values), self.system.name, tensors)
        with torch.inference_mode():
            if wish.moment is None:
                frames = self.system.portrait(identity)
            else:
                self.prepare()
                moment = wish.moment % len(self.motion)
                frames = self.system.apply(identity, self.motion.part(moment, moment + 1))
            shown = pictures(frames.synthesize(self.system.generator, self.dtype))[0]
        if wish.keep is not None:
            identity.save(wish.keep)
            Image.fromarray(shown).save(wish.keep.with_suffix(".png"))
        out = io.BytesIO()
        Image.fromarray(shown).save(out, "JPEG", quality=QUALITY)
        return out.getvalue(), {} if values is None else dict(zip(NAMES, map(float, values)))


class Stage:
    """The process that draws, and whose turn it is."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, tuple[Wish, Future[Any]]] = OrderedDict()
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._process: Any = None
        self._pipe: Any = None
        self._open = True

    def start(self) -> None:
        """Begin the process; it draws after a few seconds."""
        self._begin()
        self._thread.start()

    def close(self) -> None:
        """End the process."""
        with self._wake:
            self._open = False
            lost = list(self._waiting.values())
            self._waiting.clear()
            self._wake.notify_all()
        for _, asked in lost:
            asked.set_exception(ValueError("The page is closing."))
        if self._process is not None:
            self._process.kill()

    def ask(self, whose: str, wish: Wish) -> Future[tuple[bytes, dict[str, float]] | None]:
        """A picture, later: (JPEG, factors). None when the same one asked for a newer picture in the meantime.

        The future raises ValueError with a sentence for a wish that cannot be met.
        """
        asked: Future[Any] = Future()
        with self._wake:
            old = self._waiting.get(whose)
            self._waiting[whose] = wish, asked  # at the older one's place
            self._wake.notify_all()
        if old is not None:
            old[1].set_result(None)
        return asked

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=draw, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._fresh = True

    def _run(self) -> None:
        while True:
            asked = None
            try:
                if self._fresh:
                    self._pipe.recv()
                    self._fresh = False
                with self._wake:
                    while self._open and not self._waiting:
                        self._wake.wait()
                    if not self._open:
                        return
                    _, (wish, asked) = self._waiting.popitem(last=False)
                self._pipe.send(wish)
                word, *rest = self._pipe.recv()
                if word == "picture":
                    asked.set_result(tuple(rest))
                else:
                    asked.set_exception(ValueError(rest[0]))
            except (EOFError, OSError):  # the process has died
                if asked is not None:
                    asked.set_exception(ValueError("The picture could not be drawn; try again."))
                if not self._open:
                    return
                self._begin()
