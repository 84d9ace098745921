"""A training state as engines that cut parameters would have written it."""

from safetensors.torch import load_file

from orchestrator.training.engines.state import TENSORS, snapshot_fragments
from orchestrator.training.engines.state_index import write_index


def recut(whole, folder, ranks):
    """Write the state that one process left in ``whole`` as so many ranks would have.

    The rest of the state's description is that of a sharded engine; ``whole`` stays as it is.
    """
    stored = load_file(whole / TENSORS)
    parts = [snapshot_fragments(r, _parts(stored, r, ranks))(folder) for r in range(ranks)]
    write_index(folder, parts)


def _parts(stored, rank, ranks):
    for key, value in stored.items():
        flat = value.reshape(-1)
        size = -(-len(flat) // ranks)
        part = flat[rank * size : (rank + 1) * size]
        if not value.dim():
            yield key, 0, value
        elif part.numel():
            yield key, rank * size, part
