"""Random numbers that are a pure function of (seed, epoch, sample, position): Philox-4x32-10.

A generator that is *advanced* gives different numbers when the batch is composed differently. A
counter-based one does not: the words for token ``position`` of sample ``sample`` in epoch ``epoch``
are the encryption of exactly that counter, so they do not depend on how many workers there are, on
the batch, or on what was drawn before.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), section
3.3; constants and test vectors as in its Random123 library. NumPy's own ``Philox`` (4x64) is not
vectorized over counters and its ``Generator`` streams may change between releases; data order must
not.
"""

import hashlib
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from orchestrator.arrays import IntArray

Words = npt.NDArray[np.uint32]

ROUNDS = 10  # of Philox; 7 pass all statistical tests, the library's default leaves a margin
FEISTEL_ROUNDS = 4  # the fewest that give a strong pseudorandom permutation (Luby, Rackoff 1988)
DRAWN_AT_ONCE = 1 << 16  # temporary memory is twenty times that of the result
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
SEED_BITS = 63  # a seed fits a signed 64-bit integer


class Purpose(IntEnum):
    """Purpose of a draw; part of the counter, so that two purposes never share numbers."""

    ORDER = 1
    MASK = 2
    PAIR = 4  # 3 and 5 are retired: a number that is used again would repeat old draws
    SPAN = 6
    SHUFFLE = 7
    GAP = 8
    PREFIX = 9
    REPLACE = 10
    MIXTURE = 11
    SPECTROGRAM = 12
    IMAGE = 13
    PATCHES = 14
    MISMATCH = 15
    SCENE = 16
    MORSE = 17
    NOISE = 18
    PLACE = 19


def philox4x32(counter: tuple[npt.ArrayLike, ...], key: tuple[int, int]) -> tuple[Words, ...]:
    """Encrypt counters with a key.

    Args:
        counter: Four arrays of 32-bit words that broadcast against each other.
        key: Two 32-bit words.

    Returns:
        Four arrays of 32-bit words of the broadcast shape.
    """
    arrays = np.broadcast_arrays(*(np.asarray(word, dtype=np.uint64) for word in counter))
    c0, c1, c2, c3 = arrays
    k0, k1 = key
    for _ in range(ROUNDS):
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> HALF) ^ c1 ^ np.uint64(k0),
            product1 & LOW,
            (product0 >> HALF) ^ c3 ^ np.uint64(k1),
            product0 & LOW,
        )
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return tuple(word.astype(np.uint32) for word in (c0, c1, c2, c3))


def seed_key(seed: int) -> tuple[int, int]:
    """Split a seed into the two key words (its lowest 64 bits)."""
    return seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF


def draw(
    seed: int, purpose: Purpose, epoch: int | IntArray, sample: IntArray, positions: int
) -> tuple[Words, ...]:
    """Draw four independent words for every position of every sample.

    Args:
        seed: seed of the job.
        purpose: What the numbers are for.
        epoch: Epoch of all samples, or one per sample [B].
        sample: Indices of the samples in the data set [B].
        positions: S, number of positions a sample has.

    Returns:
        Four arrays of 32-bit words, each [B, S].
    """
    index = np.asarray(sample, dtype=np.uint64)[:, None]
    age = np.broadcast_to(np.asarray(epoch, dtype=np.uint64), index[:, 0].shape)[:, None]
    # Samples beyond 2^32 take their high bits into the purpose word, which has room for them.
    tag = (index >> HALF << np.uint64(8)) | np.uint64(int(purpose))
    place = np.arange(positions, dtype=np.uint64)[None, :]
    return philox4x32((index & LOW, place, age & LOW, tag & LOW), seed_key(seed))


def permutation(seed: int, epoch: int, size: int) -> IntArray:
    """Return a permutation of ``range(size)`` that depends on (seed, epoch) alone: int64 [size]."""
    ranks = np.empty(size, dtype=np.uint64)
    for start in range(0, size, DRAWN_AT_ONCE):
        index = np.arange(start, min(start + DRAWN_AT_ONCE, size), dtype=np.int64)
        high, low, _, _ = draw(seed, Purpose.ORDER, epoch, index, 1)
        ranks[index] = (high[:, 0].astype(np.uint64) << HALF) | low[:, 0]
    return np.argsort(ranks, kind="stable").astype(np.int64, copy=False)


def permuted(seed: int, epoch: int, size: int, places: IntArray) -> IntArray:
    """Return where a permutation of ``range(size)`` takes some places, without making all of it.

    A Feistel network permutes the numbers below a power of four, which is at most four times too
    large; what falls beyond ``size`` goes through it again until it does not (Black, Rogaway,
    "Ciphers with arbitrary finite domains", CT-RSA 2002, section 4). Its rounds are Philox; four
    suffice (Luby, Rackoff, "How to construct pseudorandom permutations", SIAM J. Comput. 1988). It
    is another permutation than that of `permutation`.

    Args:
        seed: seed of the job.
        epoch: Each has its own permutation.
        size: Number of places, up to 2^62.
        places: Below ``size`` [N].

    Returns:
        int64 [N], below ``size``; different where the places are.
    """
    half = max(1, -(-(size - 1).bit_length() // 2))
    found = np.asarray(places, dtype=np.uint64).copy()
    outside = np.ones(found.shape, dtype=np.bool_)
    while outside.any():
        found[outside] = _feistel(seed, epoch, half, found[outside])
        outside = found >= np.uint64(size)
    return found.astype(np.int64)


def _feistel(
    seed: int, epoch: int, half: int, numbers: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Permute numbers of twice ``half`` bits, at most 32 each."""
    width, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = numbers >> width, numbers & mask
    for number in range(FEISTEL_ROUNDS):
        counter = (right, number, epoch & 0xFFFFFFFF, int(Purpose.PLACE))
        word = philox4x32(counter, seed_key(seed))[0].astype(np.uint64)
        left, right = right, left ^ (word & mask)
    return left << width | right


def uniform(words: Words) -> npt.NDArray[np.float64]:
    """Map words to [0, 1)."""
    return words.astype(np.float64) * 2.0**-32


def derive_seed(seed: int, *purpose: int | str) -> int:
    """Mix a seed with what it is used for into a new seed of 63 bits (BLAKE2b)."""
    text = "/".join(str(part) for part in (seed, *purpose))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - SEED_BITS)
