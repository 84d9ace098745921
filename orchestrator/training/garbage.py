"""Python's cyclic garbage collector, run between steps, at the same steps on every rank.

Left alone it runs whenever enough objects were made, at another moment on each rank: all ranks
then wait in the next collective for the one that collects, and of a thousand ranks one always does
(torchtitan's ``GarbageCollection`` does the same for this reason).
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

EVERY_STEPS = 50
"""Steps between two collections, as in torchtitan: what a few steps leave is soon collected."""
YOUNG = 1
"""Oldest generation that is collected between steps; what is older seldom becomes garbage."""


@contextmanager
def collected_between_steps() -> Iterator[None]:
    """Switch the collector off within the block; :func:`collect_after` runs it there.

    What exists already (modules, the model, its engine) is not looked at again until the block
    ends: it lives as long as the block, and looking at it is what makes a collection slow.
    """
    enabled = gc.isenabled()
    gc.collect(YOUNG)
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        # A worker may train another model afterwards: this one must not stay in memory.
        gc.unfreeze()
        if enabled:
            gc.enable()


def collect_after(done: int) -> None:
    """Collect what recent steps left, if it is time.

    Args:
        done: Steps done since step 0 of the run, the same on every rank.
    """
    if done % EVERY_STEPS == 0:
        gc.collect(YOUNG)
