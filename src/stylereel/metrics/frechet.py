"""Distances between two sets of features: Frechet distance of Gaussians and the polynomial kernel distance.

Everything is float64. Sets are taken in batch by batch, in constant memory, by accumulators that can be merged, so the
numbers depend neither on the batch size nor on how many processes share the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

KEPT = 5000  # features of a set that the kernel distance looks at


@dataclass
class Moments:
    """Count, mean [D] and sum of outer products around the mean [D, D] of the features taken in so far."""

    count: int
    mean: np.ndarray
    outer: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Moments:
        """Of features [N, D], N of 0 or more."""
        features = np.asarray(features, np.float64)
        mean = features.mean(0) if len(features) else np.zeros(features.shape[1])
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def __add__(self, other: Moments) -> Moments:
        """Of both together (Chan, Golub and LeVeque 1979), without the cancellation of sums of squares."""
        count = self.count + other.count
        if not self.count or not other.count:
            return self if self.count else other
        difference = other.mean - self.mean
        mean = self.mean + difference * (other.count / count)
        outer = self.outer + other.outer + np.outer(difference, difference) * (self.count * other.count / count)
        return Moments(count, mean, outer)

    def covariance(self, ddof: int = 1) -> np.ndarray:
        """[D, D], divided by count - ddof; the published FID divides by count - 1."""
        return self.outer / (self.count - ddof)


def frechet_distance(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """Squared Frechet distance of two Gaussians (Dowson and Landau 1982, equation 4; FID of Heusel et al. 2017).

    Means [D], symmetric covariances [D, D], which may be singular: the trace of the root of their product is the sum of
    the singular values of root1^T root2, where root root^T is a covariance. That needs no root of an unsymmetric
    matrix, the step that goes wrong for singular ones.
    """
    return frechet_of_roots(mean1, root(cov1), mean2, root(cov2))


def root(covariance: np.ndarray) -> np.ndarray:
    """R [D, r] with R R^T = covariance [D, D]; negative eigenvalues are errors of rounding and count as zero."""
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    kept = values > 0
    return vectors[:, kept] * np.sqrt(values[kept])


def frechet_of_roots(mean1: np.ndarray, root1: np.ndarray, mean2: np.ndarray, root2: np.ndarray) -> float:
    """`frechet_distance` of covariances given by their roots [D, r]."""
    shared = float(np.linalg.svd(root1.T @ root2, compute_uv=False).sum()) if root1.size and root2.size else 0.0
    difference = float(np.square(np.subtract(mean1, mean2)).sum())
    return max(0.0, difference + float(np.square(root1).sum() + np.square(root2).sum()) - 2 * shared)


def cubic_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(x.y / D + 1)^3 [N, M] of features [N, D] and [M, D] (Binkowski et al. 2018)."""
    return (np.asarray(x, np.float64) @ np.asarray(y, np.float64).T / x.shape[1] + 1) ** 3


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared maximum mean discrepancy of features [N, D] and [M, D], unbiased (KID, Binkowski et al. 2018).

    torchmetrics has KID too, but draws its subsets from torch's global generator, in float32, and offers no way to
    give them, so its numbers can neither be repeated here nor be held against known ones.
    """
    return distance_of_sums(kernel_sums([x], [x]), kernel_sums([y], [y]), kernel_sums([x], [y]), [len(x)], [len(y)])


def kernel_sums(x: Sequence[np.ndarray], y: Sequence[np.ndarray]) -> np.ndarray:
    """Sum of the kernel over all pairs of a group of x and a group of y [groups, groups]; x with itself leaves out
    each feature's pair with itself."""
    sums = np.array([[cubic_kernel(a, b).sum() for b in y] for a in x])
    if all(a is b for a, b in zip(x, y)):
        sums -= np.diag([((np.square(np.float64(a)).sum(1) / a.shape[1] + 1) ** 3).sum() for a in x])
    return sums


def distance_of_sums(
    xx: np.ndarray, yy: np.ndarray, xy: np.ndarray, counts_x: Sequence[int], counts_y: Sequence[int]
) -> float:
    """`kernel_distance` from `kernel_sums`; nan for fewer than two features."""
    n, m = sum(counts_x), sum(counts_y)
    if n < 2 or m < 2:
        return float("nan")
    return float(xx.sum() / (n * (n - 1)) + yy.sum() / (m * (m - 1)) - 2 * xy.sum() / (n * m))


class Pool:
    """What is kept of a set of features: moments of each group, and at most `KEPT` features drawn at random.

    A feature is kept when the hash of its place is among the smallest, so the draw is the same in any order and
    however many pools the set was spread over.
    """

    def __init__(self, groups: int, seed: int) -> None:
        self.seed = seed
        self.moments: list[Moments | None] = [None] * groups
        self.features = np.zeros((0, 0))
        self.labels = np.zeros((0, 2), np.uint64)  # hash, group

    def add(self, features: np.ndarray, groups: np.ndarray, places: np.ndarray) -> None:
        """Take in features [N, D] of the given groups [N] at places [N, 2] (clip, frame)."""
        for group in np.unique(groups):
            self._add_moments(group, Moments.of(features[groups == group]))
        labels = np.stack([_hash(places, self.seed), groups.astype(np.uint64)], axis=1)
        self._add_kept(np.asarray(features, np.float64), labels)

    def _add_moments(self, group: int, new: Moments) -> None:
        old = self.moments[group]
        self.moments[group] = new if old is None else old + new

    def _add_kept(self, features: np.ndarray, labels: np.ndarray) -> None:
        if len(self.features):
            features, labels = np.concatenate([self.features, features]), np.concatenate([self.labels, labels])
        order = np.argsort(labels[:, 0], kind="stable")[:KEPT]
        self.features, self.labels = features[order], labels[order]

    def merge(self, other: Pool) -> Pool:
        """Take in another pool of the same set."""
        for group, moments in enumerate(other.moments):
            if moments is not None:
                self._add_moments(group, moments)
        if len(other.features):
            self._add_kept(other.features, other.labels)
        return self

    @property
    def count(self) -> int:
        return sum(m.count for m in self.moments if m is not None)

    def total(self, without: int = -1) -> Moments:
        """Moments of the whole set, or without one group."""
        kept = [m for group, m in enumerate(self.moments) if m is not None and group != without]
        whole = kept[0]
        for moments in kept[1:]:
            whole = whole + moments
        return whole

    def kept_groups(self) -> list[np.ndarray]:
        """The kept features of each group."""
        groups = [self.features[self.labels[:, 1] == group] for group in range(len(self.moments))]
        return [group for group in groups if len(group)]


def _hash(places: np.ndarray, seed: int) -> np.ndarray:
    """64 well mixed bits of each place [N, 2] (splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        state = np.full(len(places), seed, np.uint64)
        for column in np.asarray(places, np.uint64).T:
            state = (state ^ column) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def frechet_between(x: Pool, y: Pool) -> tuple[float, list[list[float]]]:
    """Frechet distance of two pools, and for each of the two the distances without each of its groups."""
    whole = [(moments.mean, root(moments.covariance())) for moments in (x.total(), y.total())]
    value = frechet_of_roots(*whole[0], *whole[1])
    without: list[list[float]] = []
    for pool, (mean, other_root) in ((x, whole[1]), (y, whole[0])):
        filled = [group for group, moments in enumerate(pool.moments) if moments is not None]
        rests = [pool.total(without=group) for group in filled] if len(filled) > 1 else []
        without.append([_frechet_to(rest, mean, other_root) for rest in rests if rest.count > 1])
    return value, without


def _frechet_to(moments: Moments, mean: np.ndarray, other_root: np.ndarray) -> float:
    """`frechet_distance`, quicker by far and with errors of about 1e-6 of the variance: enough for an interval."""
    covariance = moments.covariance()
    squares = np.linalg.eigvalsh(other_root.T @ covariance @ other_root)
    shared = np.sqrt(squares.clip(min=0)).sum()
    difference = np.square(moments.mean - mean).sum()
    return float(difference + np.trace(covariance) + np.square(other_root).sum() - 2 * shared)


def kernel_between(x: Pool, y: Pool) -> tuple[float, list[list[float]]]:
    """Kernel distance of two pools' kept features, and for each of the two the distances without each group."""
    groups_x, groups_y = x.kept_groups(), y.kept_groups()
    n, m = [len(g) for g in groups_x], [len(g) for g in groups_y]
    xx, yy, xy = kernel_sums(groups_x, groups_x), kernel_sums(groups_y, groups_y), kernel_sums(groups_x, groups_y)

    def distance(rows: np.ndarray, columns: np.ndarray) -> float:
        return distance_of_sums(
            xx[np.ix_(rows, rows)],
            yy[np.ix_(columns, columns)],
            xy[np.ix_(rows, columns)],
            [n[i] for i in rows],
            [m[i] for i in columns],
        )

    rows, columns = np.arange(len(n)), np.arange(len(m))
    without_x = [distance(np.delete(rows, i), columns) for i in rows] if len(n) > 1 else []
    without_y = [distance(rows, np.delete(columns, i)) for i in columns] if len(m) > 1 else []
    return distance(rows, columns), [without_x, without_y]
