"""Measures of sets: how far the frames, or the windows of video, of results are from those of a reference."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from stylereel.metrics import features
from stylereel.metrics.clips import Clip
from stylereel.metrics.frechet import Pool, frechet_between, kernel_between
from stylereel.metrics.intervals import GROUPS
from stylereel.metrics.registry import Run, SetValue, Unfit, measure

# Frames [N, H, W, 3] or windows [N, T, H, W, 3], and a device, to [N, D].
Features = Callable[[np.ndarray, str], np.ndarray]
Item = tuple[int, int, np.ndarray]  # clip, first frame, pixels


class VideoProtocol(NamedTuple):
    """Which windows a Frechet video distance looks at, and how frames get the network's size.

    windows: how many, sampled at random without repetition, in turn from all clips; 0 takes every window, one after
    the other. frames: of one window. stride: every which frame of the clip. resize: "antialias" (bilinear, 224 px) or
    "network" (left to I3D itself: bilinear without antialiasing). rounded: to whole levels after resizing. runs: draws
    whose distances are averaged.
    """

    windows: int
    frames: int
    source: str
    stride: int = 1
    resize: Literal["antialias", "network"] = "network"
    rounded: bool = False
    runs: int = 1

    def __str__(self) -> str:
        count = f"{self.windows} random windows" if self.windows else "all successive windows"
        runs = f", mean of {self.runs} draws" if self.runs > 1 else ""
        resize = "224 px bilinear with antialias" if self.resize == "antialias" else "I3D's own resizing"
        rounded = "rounded" if self.rounded else "not rounded"
        return f"{count} of {self.frames} frames, stride {self.stride}{runs}; {resize}, {rounded}"


# The papers' settings of which the numbers depend more than on the method; see docs/measures.md.
VIDEO_PROTOCOLS = {
    "windows": VideoProtocol(0, 16, "our own, for any number of clips", resize="antialias"),
    "stylefacev": VideoProtocol(2048, 60, "Qiu et al. 2022"),
    "stylegan-v-16": VideoProtocol(2048, 16, "Skorokhodov et al. 2022, fvd2048_16f"),
    "stylegan-v-128": VideoProtocol(2048, 128, "Skorokhodov et al. 2022, fvd2048_128f"),
    "digan": VideoProtocol(512, 16, "Yu et al. 2022", runs=5),
    "stylevideogan-25": VideoProtocol(2048, 25, "Fox et al. 2021"),
    "stylevideogan-16": VideoProtocol(2048, 16, "Fox et al. 2021"),
}


def frames_of(clips: Sequence[Clip], shrink: Callable[[np.ndarray], np.ndarray]) -> Iterator[Callable[[], Item]]:
    """Every frame of all clips, made small only when called for."""
    for index, clip in enumerate(clips):
        for number, frame in enumerate(clip):
            yield lambda i=index, n=number, f=frame: (i, n, shrink(f))


def starts_of(clips: Sequence[Clip], protocol: VideoProtocol, seed: int) -> list[list[int]]:
    """First frames of the windows of each clip. Raises Unfit when there are fewer windows than the protocol wants."""
    span = (protocol.frames - 1) * protocol.stride + 1
    if not protocol.windows:
        starts = [list(range(0, clip.num_frames - span + 1, span)) for clip in clips]
        if not any(starts):
            raise Unfit(f"Video features need clips of {span} frames or more; give longer ones.")
        return starts
    possible = [max(0, clip.num_frames - span + 1) for clip in clips]
    if sum(possible) < protocol.windows:
        raise Unfit(
            f"This video protocol draws {protocol.windows} windows of {span} frames and the clips have "
            f"{sum(possible)}; give more or longer clips, or use --video-protocol windows."
        )
    waiting = [list(np.random.default_rng([seed, i]).permutation(n)) for i, n in enumerate(possible)]
    order = np.random.default_rng(seed).permutation(len(clips))
    starts = [[] for _ in clips]
    left = protocol.windows
    while left:
        for index in order:
            if waiting[index] and left:
                starts[index].append(int(waiting[index].pop()))
                left -= 1
    return [sorted(chosen) for chosen in starts]


def windows_of(
    clips: Sequence[Clip], starts: list[list[int]], protocol: VideoProtocol, shrink: Callable[[np.ndarray], np.ndarray]
) -> Iterator[Callable[[], Item]]:
    """The windows that begin at `starts`; no more frames than one window spans are in memory."""
    span = (protocol.frames - 1) * protocol.stride + 1
    for index, clip in enumerate(clips):
        chosen_starts = set(starts[index])
        recent: deque[np.ndarray] = deque(maxlen=span)
        for number, frame in enumerate(clip):
            if not chosen_starts:
                break
            recent.append(shrink(frame))
            start = number - span + 1
            if start in chosen_starts:
                chosen_starts.remove(start)
                window = list(recent)[:: protocol.stride]
                yield lambda i=index, s=start, w=window: (i, s, np.stack(w))


def pooled(
    items: Iterator[Callable[[], Item]], look: Features, clips: Sequence[Clip], starts: list[list[int]] | None, run: Run
) -> Pool:
    """Features of all items: this process takes every `world`-th item, in batches; then all pools are merged.

    Groups for the interval are the clips in turn, or successive stretches of a single one.
    """
    total = len(starts[0]) if starts else clips[0].num_frames
    groups = min(GROUPS, len(clips) if len(clips) > 1 else total)
    # A batch of windows is as many frames as a batch of frames would be of 16: long windows come alone.
    batch_size = max(1, run.batch * 16 // VIDEO_PROTOCOLS[run.video_protocol].frames) if starts else run.batch
    first = {start: place for place, start in enumerate(starts[0])} if starts else {}

    def group_of(clip: int, frame: int) -> int:
        return clip % groups if len(clips) > 1 else min(first.get(frame, frame) * groups // total, groups - 1)

    def mine() -> Pool:
        pool, batch = Pool(groups, run.seed), []

        def flush() -> None:
            if batch:
                places = np.array([(clip, frame) for clip, frame, _ in batch])
                labels = np.array([group_of(clip, frame) for clip, frame, _ in batch])
                pool.add(look(np.stack([pixels for *_, pixels in batch]), run.device), labels, places)
                batch.clear()

        for number, item in enumerate(items):
            if number % run.world == run.rank:
                batch.append(item())
                if len(batch) == batch_size:
                    flush()
        flush()
        return pool

    first_pool, *others = run.share(mine)
    for other in others:
        first_pool.merge(other)
    return first_pool


def _frame_pools(
    result: Sequence[Clip],
    reference: Sequence[Clip],
    run: Run,
    shrink: Callable[[np.ndarray], np.ndarray],
    look: Features,
) -> tuple[Pool, Pool]:
    def pool(clips: Sequence[Clip]) -> Pool:
        return run.keep(clips, look.__name__, lambda: pooled(frames_of(clips, shrink), look, clips, None, run))

    return pool(result), pool(reference)


def _counts(pools: tuple[Pool, Pool], what: str) -> dict[str, int]:
    return {what: pools[0].count, f"reference {what}": pools[1].count}


def _frechet(pools: tuple[Pool, Pool], label: str = "", what: str = "frames") -> SetValue:
    if min(pool.count for pool in pools) < 2:
        raise Unfit(f"A Frechet distance needs two {what} or more on both sides; give more.")
    value, without = frechet_between(*pools)
    difference = float(np.square(pools[0].total().mean - pools[1].total().mean).sum())
    parts = {"of the means": difference, "of the covariances": value - difference}
    return SetValue(value, parts, label, without, _counts(pools, what))


def _kernel(pools: tuple[Pool, Pool]) -> SetValue:
    if min(pool.count for pool in pools) < 2:
        raise Unfit("A kernel distance needs two frames or more on both sides; give more.")
    value, without = kernel_between(*pools)
    kept = {"kept": len(pools[0].features), "reference kept": len(pools[1].features)}
    return SetValue(value, {}, "", without, _counts(pools, "frames") | kept)


@measure(
    "fid",
    compares="sets",
    better="lower",
    unit="",
    net=features.inception_net,
    protocol="Squared Frechet distance of the 2048 features of all frames; frames at 299 px by Pillow's bicubic filter "
    "without rounding, (x - 128) / 128, covariances divided by N - 1, float64.",
    source="Heusel et al. 2017; resizing of Parmar et al. 2022 (clean-fid)",
)
def fid(result: Sequence[Clip], reference: Sequence[Clip], run: Run) -> SetValue:
    return _frechet(_frame_pools(result, reference, run, features.shrink_for_inception, features.inception_features))


@measure(
    "kid",
    compares="sets",
    better="lower",
    unit="",
    net=features.inception_net,
    protocol="Unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1)^3 over at most 5000 frames a "
    "set; the usual mean over random subsets has the same expectation; features as for fid.",
    source="Binkowski et al. 2018",
)
def kid(result: Sequence[Clip], reference: Sequence[Clip], run: Run) -> SetValue:
    return _kernel(_frame_pools(result, reference, run, features.shrink_for_inception, features.inception_features))


@measure(
    "frechet",
    compares="sets",
    better="lower",
    unit="",
    net=features.face_net,
    protocol="As fid, on the 512 pooled features of the built-in face net; frames at 128 px, bilinear with antialias; "
    "not comparable with fid.",
    source="the formula of Heusel et al. 2017 on our own features",
)
def frechet(result: Sequence[Clip], reference: Sequence[Clip], run: Run) -> SetValue:
    return _frechet(_frame_pools(result, reference, run, features.shrink_for_face, features.face_features))


@measure(
    "kernel-distance",
    compares="sets",
    better="lower",
    unit="",
    net=features.face_net,
    protocol="As kid, on the features of frechet; not comparable with kid.",
    source="the formula of Binkowski et al. 2018 on our own features",
)
def kernel(result: Sequence[Clip], reference: Sequence[Clip], run: Run) -> SetValue:
    return _kernel(_frame_pools(result, reference, run, features.shrink_for_face, features.face_features))


def _video(
    result: Sequence[Clip],
    reference: Sequence[Clip],
    run: Run,
    shrink: Callable[[np.ndarray], np.ndarray],
    look: Features,
) -> SetValue:
    protocol = VIDEO_PROTOCOLS[run.video_protocol]

    def once(draw: int) -> SetValue:
        def pool(clips: Sequence[Clip]) -> Pool:
            starts = starts_of(clips, protocol, run.seed + draw)
            windows = windows_of(clips, starts, protocol, shrink)
            return run.keep(clips, f"{look.__name__} {draw}", lambda: pooled(windows, look, clips, starts, run))

        return _frechet((pool(result), pool(reference)), run.video_protocol, "windows")

    values = [once(draw) for draw in range(protocol.runs)]
    if len(values) == 1:
        return values[0]
    distances = [one.value for one in values]
    # The interval is that of the first draw, laid around the mean of all.
    shift = float(np.mean(distances)) - distances[0]
    without = [[value + shift for value in side] for side in values[0].without]
    parts = {f"draw {number}": value for number, value in enumerate(distances, start=1)}
    return dataclasses.replace(values[0], value=float(np.mean(distances)), parts=parts, without=without)


@measure(
    "fvd",
    compares="sets",
    better="lower",
    unit="",
    net=features.i3d_net,
    protocol="Squared Frechet distance of I3D's 400 numbers before the softmax over windows of frames; which windows "
    "and how they are resized says the video protocol in its name.",
    source="Unterthiner et al. 2018; network file of StyleGAN-V",
)
def fvd(result: Sequence[Clip], reference: Sequence[Clip], run: Run) -> SetValue:
    protocol = VIDEO_PROTOCOLS[run.video_protocol]

    def shrink(frame: np.ndarray) -> np.ndarray:
        return frame if protocol.resize == "network" else features.shrink_for_i3d(frame, protocol.rounded)

    return _video(result, reference, run, shrink, features.i3d_features)


@measure(
    "frechet-video",
    compares="sets",
    better="lower",
    unit="",
    net=features.face_motion_net,
    protocol="As fvd, on the mean of the built-in face net's features over a window and the root mean square of their "
    "changes from frame to frame (1024 numbers), frames at 128 px; not comparable with fvd.",
    source="the formula of Unterthiner et al. 2018 on our own features",
)
def frechet_video(result: Sequence[Clip], reference: Sequence[Clip], run: Run) -> SetValue:
    return _video(result, reference, run, features.shrink_for_face, features.face_motion_features)
