"""95 % intervals of measured numbers: bootstrap for means, delete-one-group jackknife for measures of sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
GROUPS = 10  # of clips, or of frames of one clip, that the jackknife leaves out in turn

Interval = tuple[float, float]


def bootstrap(values: Sequence[np.ndarray], seed: int, resamples: int = RESAMPLES) -> tuple[Interval | None, str]:
    """95 % percentile interval of the mean over all numbers of all clips, and how it was found.

    values: the numbers [T] of each clip, NaN where undefined. Several clips are resampled whole, because
    frames of one clip are alike. Of a single clip moving blocks of frames are (Kuensch 1989), of T^(1/3) frames times
    two or more, so that neighbours stay together. None when a single number is all there is.
    """
    random = np.random.default_rng(seed)
    sums = np.array([np.nansum(v) for v in values])
    counts = np.array([np.count_nonzero(~np.isnan(v)) for v in values])
    if np.count_nonzero(counts) > 1:
        picks = random.integers(len(sums), size=(resamples, len(sums)))
        how = f"bootstrap of {len(sums)} clips"
    else:
        series = max(values, key=lambda v: np.count_nonzero(~np.isnan(v)))
        if np.count_nonzero(~np.isnan(series)) < 2:
            return None, "none: one number only"
        length = min(len(series), max(2, round(2 * len(series) ** (1 / 3))))
        defined = ~np.isnan(series)
        window = np.ones(length)
        sums = np.convolve(np.where(defined, series, 0.0), window, "valid")
        counts = np.convolve(defined, window, "valid")
        picks = random.integers(len(sums), size=(resamples, -(-len(series) // length)))
        how = f"bootstrap of moving blocks of {length} frames"
    with np.errstate(invalid="ignore", divide="ignore"):
        means = sums[picks].sum(1) / counts[picks].sum(1)
    means = means[~np.isnan(means)]
    if not means.size:
        return None, "none: all values are undefined"
    low, high = np.quantile(means, (0.025, 0.975), method="nearest")
    return (float(low), float(high)), how


def jackknife(value: float, without: Sequence[Sequence[float]]) -> tuple[Interval | None, str]:
    """95 % interval of a measure of sets from its values without each group, and how it was found.

    without: for each independently drawn set, the value without each of its groups. Resampling with replacement would
    repeat images, which makes every set look less varied and biases Frechet distances upwards; leaving groups out
    does not. Variances of the sets add up (Efron and Stein 1981); Student's t has one degree of freedom fewer than the
    smallest number of groups.
    """
    from scipy.stats import t

    sizes = [len(values) for values in without]
    if not sizes or min(sizes) < 2:
        return None, "none: too few clips or frames"
    variance = sum(
        (n - 1) / n * np.square(np.subtract(values, np.mean(values))).sum() for n, values in zip(sizes, without)
    )
    half = float(t.ppf(0.975, min(sizes) - 1) * np.sqrt(variance))
    return (value - half, value + half), f"jackknife of {' and '.join(map(str, sizes))} groups"
