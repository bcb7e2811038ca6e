"""Integers to bytes and back: an adaptive binary range coder, and how it codes tracks.

Everything is integer arithmetic on at most 62 bits, so that every machine gets the same bytes and the same integers.
docs/codec.md states the whole procedure for those who write another decoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit

from stylereel.core import compiled  # noqa: F401 (before any kernel)

SCALES, ACTIVITY = 15, 3  # contexts: how much a track moves lately, and how much the frame so far moves
UNARY = 14  # a longer magnitude is escaped
CONTEXT_SIZE = 1 + UNARY  # of one scale and activity: whether 0, and the steps of the magnitude
NUM_MODELS = SCALES * ACTIVITY * CONTEXT_SIZE + 3 + 2  # and three for signs, two for frames without a face
SIGNS, MISSING = SCALES * ACTIVITY * CONTEXT_SIZE, SCALES * ACTIVITY * CONTEXT_SIZE + 3
ONE = 1 << 16  # probabilities are of 65536
LOW, HIGH = 512, ONE - 512  # no probability leaves these, so that no decision costs less than 0.011 bit
START, SLOWEST = 12, 60  # how many decisions a starting probability counts for, and the most that any history does
LIMIT = 1 << 30  # magnitudes stay below
PREDICTORS = 3  # as before; half of the last change more; all of it more
MEAN, KEY_MEAN = 256, 4096  # running mean of magnitudes at the start, and for the first row; in units of 1/256


class DamagedError(ValueError):
    """Bytes that are no coded tracks."""


# The state of a coder: [0] low or code, [1] range, [2] bytes read or written, [3] the byte that waits for a carry (-1:
# none), [4] how many bytes 255 wait behind it.


@njit(cache=True)
def _shift(state, out):
    """Move the top byte of `low` out, once no carry can change it."""
    low = state[0]
    if low < 0xFF000000 or low >= 1 << 32:
        carry = low >> 32
        if state[3] >= 0:
            out[state[2]] = (state[3] + carry) & 255
            state[2] += 1
        for _ in range(state[4]):
            out[state[2]] = (255 + carry) & 255
            state[2] += 1
        state[4] = 0
        state[3] = (low >> 24) & 255
    else:
        state[4] += 1
    state[0] = (low & 0x00FFFFFF) << 8
    state[1] = (state[1] << 8) & 0xFFFFFFFF


@njit(cache=True)
def _update(models, counts, index, bit):
    count = counts[index]
    rate = ONE // (count + 2)
    p = models[index]
    p = p + (((ONE - p) * rate) >> 16) if bit else p - ((p * rate) >> 16)
    models[index] = min(max(p, LOW), HIGH)
    if count < SLOWEST:
        counts[index] = count + 1


@njit(cache=True)
def _put(bit, index, state, models, counts, out):
    """Write one decision by the model `index`, whose number is the probability of a 1; -1 is an even chance."""
    p = ONE // 2 if index < 0 else models[index]
    bound = (state[1] >> 16) * p
    if bit:
        state[1] = bound
    else:
        state[0] += bound
        state[1] -= bound
    while state[1] < 1 << 24:
        _shift(state, out)
    if index >= 0:
        _update(models, counts, index, bit)


@njit(cache=True)
def _get(index, state, models, counts, data):
    p = ONE // 2 if index < 0 else models[index]
    bound = (state[1] >> 16) * p
    if state[0] < bound:
        bit = 1
        state[1] = bound
    else:
        bit = 0
        state[0] -= bound
        state[1] -= bound
    while state[1] < 1 << 24:
        byte = data[state[2]] if state[2] < len(data) else 0
        state[2] += 1
        state[0] = ((state[0] << 8) | byte) & 0xFFFFFFFF
        state[1] = (state[1] << 8) & 0xFFFFFFFF
    if index >= 0:
        _update(models, counts, index, bit)
    return bit


@njit(cache=True)
def _bucket(mean):
    """Number of a context for a running mean of magnitudes: two for each doubling, from 1/16 on."""
    bucket = 0
    edge = 16
    while bucket < SCALES - 1 and mean >= edge:
        bucket += 1
        edge = edge + (edge >> 1) if bucket & 1 else (edge // 3) << 2
    return bucket


@njit(cache=True)
def _plain_bits(mean):
    """How many low bits of a magnitude are written as they are: so many that the rest stays small."""
    bits = 0
    while mean >= 1536 << bits and bits < 30:
        bits += 1
    return bits


@njit(cache=True)
def _activity(seen, expected):
    return 0 if 2 * seen < expected else (2 if seen > 2 * expected else 1)


@njit(cache=True)
def _predict(one, two, scores):
    """The next value after `two`, `one` by the predictor with the least errors lately."""
    best = 0
    for index in range(1, PREDICTORS):
        if scores[index] < scores[best]:
            best = index
    change = one - two
    return one + (0 if best == 0 else ((change >> 1) if best == 1 else change))


@njit(cache=True)
def _learn(value, one, two, scores):
    change = one - two
    scores[0] += (abs(value - one) << 4) - (scores[0] >> 3)
    scores[1] += (abs(value - one - (change >> 1)) << 4) - (scores[1] >> 3)
    scores[2] += (abs(value - one - change) << 4) - (scores[2] >> 3)


@njit(cache=True)
def _run(encode, values, missing, means, state, models, counts, buffer):
    """Code the rows of `values` [N, K] and the flags `missing` [N], or fill both; False if bytes end too soon."""
    rows, tracks = values.shape
    scores = np.zeros((tracks, PREDICTORS), np.int64)
    signs = np.zeros(tracks, np.int64)
    scores[:, 1] = 1  # at equal errors the simplest
    scores[:, 2] = 2
    before = 0
    for row in range(len(missing)):
        if encode:
            _put(missing[row], MISSING + before, state, models, counts, buffer)
        else:
            missing[row] = _get(MISSING + before, state, models, counts, buffer)
        before = missing[row]
    for row in range(rows):
        seen = 0
        expected = 0
        for track in range(tracks):
            one = values[row - 1, track] if row > 0 else 0
            two = values[row - 2, track] if row > 1 else one
            guess = _predict(one, two, scores[track]) if row > 0 else 0
            mean = means[track] if row > 0 else KEY_MEAN
            context = (_bucket(mean) * ACTIVITY + _activity(seen, expected)) * CONTEXT_SIZE
            plain = _plain_bits(mean)
            if encode:
                rest = values[row, track] - guess
                _put(1 if rest == 0 else 0, context, state, models, counts, buffer)
                if rest != 0:
                    _put(1 if rest < 0 else 0, SIGNS + signs[track], state, models, counts, buffer)
                    size = abs(rest) - 1
                    high = size >> plain
                    for step in range(min(high, UNARY)):
                        _put(1, context + 1 + min(step, UNARY - 1), state, models, counts, buffer)
                    if high < UNARY:
                        _put(0, context + 1 + high, state, models, counts, buffer)
                    else:
                        extra = high - UNARY + 1
                        length = 0
                        while extra >> (length + 1):
                            length += 1
                        for _ in range(length):
                            _put(1, -1, state, models, counts, buffer)
                        _put(0, -1, state, models, counts, buffer)
                        for bit in range(length - 1, -1, -1):
                            _put((extra >> bit) & 1, -1, state, models, counts, buffer)
                    for bit in range(plain - 1, -1, -1):
                        _put((size >> bit) & 1, -1, state, models, counts, buffer)
            else:
                rest = 0
                if not _get(context, state, models, counts, buffer):
                    negative = _get(SIGNS + signs[track], state, models, counts, buffer)
                    high = 0
                    while high < UNARY and _get(context + 1 + high, state, models, counts, buffer):
                        high += 1
                    if high == UNARY:
                        length = 0
                        while _get(-1, state, models, counts, buffer):
                            length += 1
                            if length > 30:
                                return False
                        extra = 1
                        for _ in range(length):
                            extra = 2 * extra + _get(-1, state, models, counts, buffer)
                        high = extra - 1 + UNARY
                    size = high
                    for _ in range(plain):
                        size = 2 * size + _get(-1, state, models, counts, buffer)
                    if size >= LIMIT:
                        return False
                    rest = -1 - size if negative else size + 1
                if state[2] > len(buffer) + 8:
                    return False
                values[row, track] = guess + rest
                if abs(values[row, track]) > LIMIT:
                    return False
            magnitude = abs(rest)
            signs[track] = 0 if rest == 0 else (1 if rest > 0 else 2)
            if row > 0:
                seen += magnitude << 8
                expected += means[track]
                means[track] += ((magnitude << 8) - means[track]) >> 2
                _learn(values[row, track], one, two, scores[track])
    return True


def _start(models: Sequence[int] | np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    probabilities = np.array(PRIOR if models is None else models, np.int64)
    return probabilities, np.full(len(probabilities), START, np.int64)


def encode_tracks(
    values: np.ndarray, missing: np.ndarray | Sequence[bool] = (), models: Sequence[int] | np.ndarray | None = None
) -> bytes:
    """Bytes of integer tracks [N, K] and of flags, as many as are given.

    models: starting probabilities [NUM_MODELS] of 65536, those of the format by default. Raises ValueError for numbers
    that are not within +-2^30 (and differences of two so).
    """
    values = np.ascontiguousarray(values, np.int64)
    if values.size and max(abs(int(values.max())), abs(int(values.min()))) >= LIMIT // 4:
        raise ValueError("Tracks to code must stay within 2^28; take larger steps.")
    flags = np.array(missing, np.int64)
    probabilities, counts = _start(models)
    out = np.zeros(64 + 24 * (values.size + len(flags)), np.uint8)
    state = np.array([0, 0xFFFFFFFF, 0, -1, 0], np.int64)
    _run(True, values, flags, np.full(values.shape[1], MEAN, np.int64), state, probabilities, counts, out)
    # The fewest bytes that name a number in [low, low + range): those after them read as 0.
    low, high = int(state[0]), int(state[0] + state[1] - 1)
    for bits in (32, 24, 16, 8, 0):
        end = (high >> bits) << bits
        if end >= low:
            break
    state[0] = end
    for _ in range(5):
        _shift(state, out)
    data = out[: state[2]].tobytes()
    return data[:-4] + data[-4:].rstrip(b"\0")


def decode_tracks(
    data: bytes, rows: int, tracks: int, flags: int = 0, models: Sequence[int] | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The tracks int64 [rows, tracks] and flags bool [flags] that `encode_tracks` wrote.

    Raises DamagedError if the bytes cannot be those; bytes that are damaged may also give other numbers, which a
    checksum has to tell.
    """
    buffer = np.frombuffer(data, np.uint8).copy()
    values, missing = np.zeros((rows, tracks), np.int64), np.zeros(flags, np.int64)
    probabilities, counts = _start(models)
    code = int.from_bytes(data[:4].ljust(4, b"\0"), "big")
    state = np.array([code, 0xFFFFFFFF, 4, -1, 0], np.int64)
    if not _run(False, values, missing, np.full(tracks, MEAN, np.int64), state, probabilities, counts, buffer):
        raise DamagedError("The bytes are no coded tracks.")
    return values, missing.astype(bool)


COSTED = 16  # sizes of a rest whose bits are tabled; each beyond takes as much more as the last
SWEEPS = 3  # over the tracks, when rounding


@njit(cache=True)
def _survey(values, means, models, counts, guesses, costs):
    """For integers [N, K] in the order they are coded in, what the coder would do: which predictor [N, K], and the
    bits [N, K, COSTED] of a rest by its size."""
    rows, tracks = values.shape
    scores = np.zeros((tracks, PREDICTORS), np.int64)
    scores[:, 1] = 1
    scores[:, 2] = 2
    for row in range(rows):
        seen = 0
        expected = 0
        for track in range(tracks):
            one = values[row - 1, track] if row > 0 else 0
            two = values[row - 2, track] if row > 1 else one
            guess = _predict(one, two, scores[track]) if row > 0 else 0
            best = 0
            for index in range(1, PREDICTORS):
                if scores[track, index] < scores[track, best]:
                    best = index
            guesses[row, track] = best
            mean = means[track] if row > 0 else KEY_MEAN
            context = (_bucket(mean) * ACTIVITY + _activity(seen, expected)) * CONTEXT_SIZE
            plain = _plain_bits(mean)
            zero = models[context] / ONE
            costs[row, track, 0] = -np.log2(zero)
            steps = -np.log2(1 - zero) + 1 + plain
            before = 0
            for size in range(1, COSTED):
                high = (size - 1) >> plain
                while before < high:
                    steps -= np.log2(models[context + 1 + min(before, UNARY - 1)] / ONE)
                    before += 1
                last = np.log2(1 - models[context + 1 + high] / ONE) if high < UNARY else 0.0
                costs[row, track, size] = steps - last
            rest = values[row, track] - guess
            _update(models, counts, context, 1 if rest == 0 else 0)
            if rest != 0:
                high = (abs(rest) - 1) >> plain
                for step in range(min(high, UNARY)):
                    _update(models, counts, context + 1 + step, 1)
                if high < UNARY:
                    _update(models, counts, context + 1 + high, 0)
            if row > 0:
                seen += abs(rest) << 8
                expected += means[track]
                means[track] += ((abs(rest) << 8) - means[track]) >> 2
                _learn(values[row, track], one, two, scores[track])


@njit(cache=True)
def _round_track(track, scaled, near, values, guesses, costs, metric, price):
    """Choose the integers of one track anew, those of the others being as they are: the path of least error plus
    price times bits, among the nearest whole numbers and their neighbours (Viterbi 1967)."""
    rows, tracks = scaled.shape
    total = np.full((3, 3), np.inf)  # by the choice of the row before and the one before that
    total[0, 0] = 0.0
    back = np.zeros((rows, 3, 3), np.int64)
    slope = 0.0
    for row in range(rows):
        others = 0.0
        for other in range(tracks):
            if other != track:
                others += metric[track, other] * (values[row, other] - scaled[row, other])
        slope = costs[row, track, COSTED - 1] - costs[row, track, COSTED - 2]
        which = guesses[row, track]
        now = np.full((3, 3), np.inf)
        for first in range(3):
            one = near[row - 1, track] + first - 1 if row > 0 else 0
            for second in range(3):
                if total[first, second] == np.inf:
                    continue
                two = near[row - 2, track] + second - 1 if row > 1 else one
                change = one - two
                guess = one + (0 if which == 0 else ((change >> 1) if which == 1 else change))
                if row == 0:
                    guess = 0
                for choice in range(3):
                    value = near[row, track] + choice - 1
                    error = value - scaled[row, track]
                    rest = abs(value - guess)
                    bits = costs[row, track, min(rest, COSTED - 1)] + slope * max(0, rest - COSTED + 1)
                    cost = total[first, second] + error * (metric[track, track] * error + 2 * others) + price * bits
                    if cost < now[choice, first]:
                        now[choice, first] = cost
                        back[row, choice, first] = second
        total = now
    choice = 0
    first = 0
    for one in range(3):
        for two in range(3):
            if total[one, two] < total[choice, first]:
                choice = one
                first = two
    for row in range(rows - 1, -1, -1):
        values[row, track] = near[row, track] + choice - 1
        second = back[row, choice, first]
        choice = first
        first = second


def round_tracks(scaled: np.ndarray, metric: np.ndarray, price: float) -> np.ndarray:
    """Integers [N, K] near `scaled` [N, K] that take few bits.

    Of the error e of a row e M e counts, M being `metric` [K, K], and `price` of that for each bit. What is decoded is
    the same format: only the rounding is chosen, by what the coder's models would take (Ramchandran and Vetterli 1994),
    one track after the other, `SWEEPS` times.
    """
    scaled = np.ascontiguousarray(scaled, np.float64)
    near = np.rint(scaled).astype(np.int64)
    values = near.copy()
    if not price or not values.size:
        return values
    guesses, costs = np.zeros(values.shape, np.int64), np.zeros((*values.shape, COSTED))
    for _ in range(SWEEPS):
        models, counts = _start(None)
        _survey(values, np.full(values.shape[1], MEAN, np.int64), models, counts, guesses, costs)
        for track in range(values.shape[1]):
            _round_track(track, scaled, near, values, guesses, costs, metric, price)
    return values


def count_prior(groups: Sequence[np.ndarray]) -> str:
    """A table of starting probabilities, as `TABLE`, from groups of integer tracks [N, K] in any order.

    The mean of each model over all groups in which it was used, one after the other without a new start. A model that
    hardly ever was takes the same decision's of the nearest scale, or the step's before it.
    """
    models, counts = np.full(NUM_MODELS, ONE // 2, np.int64), np.full(NUM_MODELS, START, np.int64)
    total, visits = np.zeros(NUM_MODELS), np.zeros(NUM_MODELS)
    order = np.random.default_rng(0).permutation(len(groups))
    for group in (np.ascontiguousarray(groups[index], np.int64) for index in order):
        out, state = np.zeros(64 + 24 * group.size, np.uint8), np.array([0, 0xFFFFFFFF, 0, -1, 0], np.int64)
        before, means = models.copy(), np.full(group.shape[1], MEAN, np.int64)
        _run(True, group, np.zeros(0, np.int64), means, state, models, counts, out)
        used = models != before
        total[used] += models[used]
        visits[used] += 1
    mean = np.where(visits > 0, total / np.maximum(visits, 1), ONE / 2)
    size = SCALES * ACTIVITY * CONTEXT_SIZE
    chances, seen = (part[:size].reshape(SCALES, ACTIVITY, CONTEXT_SIZE).copy() for part in (mean, visits))
    for scale, activity, step in np.argwhere(seen < 8):
        near = [other for other in range(SCALES) if seen[other, activity, step] >= 8]
        nearest = min(near, key=lambda other: abs(other - scale), default=None)
        fallback = chances[scale, activity, step - 1] if step else ONE / 2
        chances[scale, activity, step] = fallback if nearest is None else chances[nearest, activity, step]
    bounded = np.concatenate([chances.ravel(), mean[size:]]) / 256
    return bounded.astype(int).clip(LOW // 256, HIGH // 256 - 1).astype(np.uint8).tobytes().hex()


# Starting probabilities, a byte for each model: b stands for 256 b + 128. They were counted over motion of the world's
# people (`benchmarks/codec.py --prior`), never over a clip that a rate is stated for.
TABLE = (
    "f3099c9e8fa7929699878f9f90908fef109da0adadaeb5adb6aea6b59fa2f226b5ab9cb1a5a0afb6aaa7ad9da6ea0c776c8fa792969987"
    "8f9f90908fe0097881948eaeb5adb6aea6b59fa2df159da3a7a684a0afb6aaa7ad9da6e90a718b939d968b99878f9f90908fda0a688399"
    "9e9a87a28eaea6b59fa2de1884a689a6848a91b6aaa7ad9da6e6096c8a939d968b899f8f9f90908fd60c5f79a98b8ba8a28ea2b09fa7a1"
    "d71295a6adada08a91aaaea0a49e96de0955828c9d968b899f8f9f90908fc70b4f88a37bab989e8ea2b09fa7a1cc1167a69982a08a91aa"
    "aea0a49e96c70a5c99909f9e91899f8f9f90908fb01051a7b5b0bcadb8ada2b09fa7a1b41fadbda2b8b5aba6aaaea0a49e96c20d366e79"
    "8e9e91899f8f9f90908fa314377a9eafb4c6b3a8b3b8a19b90a9165977a0a89ca69eaaa09ca1a49cb2172f649a9598a9948f989f90908f"
    "8f22366997b6c1c5cec0c5cdccc1b18c2574b2d1c6b2bdc4b3c8b1bcb9aebb2c3f67957bb28ca09d989f90908f7c3a405981a6adc2c8c3"
    "c9c4c7aab76f46679cb1b1c9bccec5bbbea6c0b0b63f56666f9b95ab9993a69c98908f6b575a64759dafc1c4c7cbc6cdcdcf596c859193"
    "bbb3cfcac0c6b3c7caca5f7c7882877c859d8b88a69c98908f4983757a868da2a3b1a2c1c5c4bbc3419a9aa4a5acbbc7c7bac4c6cbc9ca"
    "558c92a19cae9caa9ca28ea8a39f8f409e959bada9aba9acb2c1cfd0c5b73faeb2b4c6c3c8c2afc5bdc1bcc2c74ea5a6acb6acbfab9c9e"
    "ad8f96728f3ab8b8b4bcc2c4c7b8b7bdc6b9c8b13ac0c6c9c6c6d1bfd1aebaa7b9bebc48afabb4a5aaa0beb4a99ea3a48d9136c1c5c7bf"
    "c4c4cbd2d0cfc1ceb9c93ac8cfc4c4cac4c0bfcac8c6b9c8b43485a4a9ad9d95afa3a9a48ea59e917d62a8b0b3b7c1cfcecdc7c9c6c5a9"
    "21cbd4d3cfdbd8ddcbbabcaca39db57aaa568080"
)
PRIOR: tuple[int, ...] = tuple(256 * byte + 128 for byte in bytes.fromhex(TABLE))
