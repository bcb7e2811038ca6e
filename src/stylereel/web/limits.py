"""What the page takes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """A wish beyond these is refused in one sentence.

    upload: megabytes of a file; longest: seconds of a clip, a sound, a recording or a result; jobs: how many run at
    once; live: how many visitors are live at once; disk: gigabytes of all that is kept.
    """

    upload: float = 200
    longest: float = 600
    jobs: int = 1
    live: int = 2
    disk: float = 10
