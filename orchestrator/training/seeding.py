"""Randomness by position: every draw depends on (seed, what it is for) and on nothing before it.

A run that was killed therefore continues bit-equal without any generator state in its checkpoint,
and the noise of step t does not depend on whether an evaluation happened in between.
"""

import hashlib
from collections.abc import Callable

import torch

SEED_BITS = 63  # a seed fits a signed 64-bit integer


def derive_seed(seed: int, *purpose: int | str) -> int:
    """Mix a seed with what it is used for into a new seed of 63 bits (BLAKE2b)."""
    text = "/".join(str(part) for part in (seed, *purpose))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - SEED_BITS)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make dropout of one optimizer step depend on (seed, step, rank) alone."""
    torch.manual_seed(derive_seed(seed, "step", step, rank))


def keep_noise(device: torch.device) -> Callable[[], None]:
    """Remember where the generators of a device stand.

    Returns:
        A function that sets them back: what follows draws the same noise again.
    """
    state = torch.get_rng_state()
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore() -> None:
        torch.set_rng_state(state)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, device)

    return restore
