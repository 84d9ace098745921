"""The probe of a package: steady texts, and the tolerance they need.

Another CPU sums floats in another order. In float that moves the last bits of an answer; in INT8 it
may also move an activation over a rounding border, to the next step. The size of that is measured:
the embedding's parameters are perturbed in the last bit, and the texts that move least are stored
with a tolerance of a few times their largest movement. So the last bit of another host does not
keep a package from serving, while the file of another plan still differs by more.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from orchestrator.arrays import AnyArray, FloatArray
from orchestrator.quantization.backends.backend import Predictor
from orchestrator.quantization.results import Probe
from orchestrator.quantization.source import Source

PROBE_SCHEMA: Final = 1
FLOOR: Final = 1e-3
"""Smallest tolerance; that of float packages (``serving.model.probe``)."""
MARGIN: Final = 4.0
"""Tolerance over the largest movement that was measured: a few draws do not see the largest."""
RELATIVE_STEP: Final = 1e-7
"""Size of the perturbation: the last bit of float32."""
DRAWS: Final = 4
"""Perturbed models that are measured."""
TEXTS_PER_CHOICE: Final = 4
"""Texts that are measured for each one that is stored."""
PERTURBED: Final = "embedding."
"""Prefix of the parameters that are perturbed; every value after them changes with them."""


def perturbed_sources(source: Source, seed: int, draws: int = DRAWS) -> Iterator[Source]:
    """Yield copies of a float model whose embedding differs in the last bit."""
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        moved = {
            name: _perturbed(values, rng)
            for name, values in source.state.items()
            if name.startswith(PERTURBED) and np.issubdtype(values.dtype, np.floating)
        }
        yield replace(source, state={**source.state, **moved})


def make_probe(
    model: Predictor,
    perturbed: Iterable[Predictor],
    texts: Sequence[str],
    arrays: Mapping[str, AnyArray],
    count: int,
) -> Probe:
    """Store the steadiest texts with their answers and the tolerance that they need.

    Args:
        model: The package's model.
        perturbed: The same plan with perturbed parameters.
        texts: N texts to choose from.
        arrays: Their batch.
        count: Texts to store.
    """
    expected = model.predict(arrays)
    moved = np.zeros(len(texts))
    for other in perturbed:
        moved = np.maximum(moved, _movement(other.predict(arrays), expected))
    steadiest = np.sort(np.argsort(moved, kind="stable")[:count])
    return Probe(
        schema_version=PROBE_SCHEMA,
        texts=tuple(texts[index] for index in steadiest),
        outputs={
            name: [_answer(values[index], arrays, index) for index in steadiest]
            for name, values in expected.items()
        },
        tolerance=max(FLOOR, MARGIN * float(moved[steadiest].max())),
    )


def _answer(values: AnyArray, arrays: Mapping[str, AnyArray], row: int) -> Any:
    """Return an answer [K] as it is, and one for tokens [S, K] without those of padding."""
    if values.ndim > 1 and "attention_mask" in arrays:
        values = values[np.asarray(arrays["attention_mask"])[row] != 0]
    return values.astype(float).tolist()


def _movement(answers: Mapping[str, AnyArray], expected: Mapping[str, AnyArray]) -> FloatArray:
    """Return the largest difference of each text [N], relative to 1 + the answer's magnitude."""
    parts = [
        (np.abs(answers[name] - values) / (1 + np.abs(values))).reshape(len(values), -1).max(axis=1)
        for name, values in expected.items()
    ]
    return np.asarray(np.max(parts, axis=0), dtype=np.float64)


def _perturbed(values: AnyArray, rng: np.random.Generator) -> AnyArray:
    step = rng.uniform(-RELATIVE_STEP, RELATIVE_STEP, values.shape)
    return np.asarray(values * (1 + step), dtype=values.dtype)
