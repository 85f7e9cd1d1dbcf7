"""Keyed randomness: every draw is a pure function of (seed, purpose, item, epoch).

No stream is shared, so results do not depend on the order of work, the number of
workers, the world size or the point where a run was resumed.
"""

import hashlib

import numpy as np


def digest(*key: object) -> bytes:
    """16 bytes that identify ``key``; equal keys give equal bytes on every machine."""
    return hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=16).digest()


def generator(*key: object) -> np.random.Generator:
    """A counter-based (Philox) generator for ``key``, e.g. ``("fim", seed, sample)``."""
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest(*key), np.uint64)))


def uniform(*key: object) -> float:
    """One number in [0, 1) for ``key``."""
    return int.from_bytes(digest(*key)[:7], "little") / 2**56
