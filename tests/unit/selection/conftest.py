"""Synthetic histories and the published data, when it lies beside the checkout."""

from pathlib import Path

import numpy as np
import pytest

from orchestrator.selection.matrix.files import read_matrix
from orchestrator.selection.matrix.history import History
from orchestrator.selection.matrix.importing import ImportOptions, import_table

SHARED = Path(__file__).parents[4] / "shared" / "data" / "two_phase_selection"


def synthetic_history(models=8, datasets=6, stages=4, seed=0):
    """Curves drawn from the predictor's own model: level + model effect + match + noise."""
    rng = np.random.default_rng(seed)
    level = 0.5 + 0.05 * np.arange(stages + 1)[None, None, :] + rng.normal(0, 0.1, (1, datasets, 1))
    effect = rng.normal(0, 0.04, (models, 1, 1))
    match = rng.normal(0, 0.03, (models, datasets, 1))  # how well this model suits this set
    curves = level + effect + match + rng.normal(0, 0.01, (models, datasets, stages + 1))
    names = tuple(f"m{i}" for i in range(models))
    sets = tuple(f"d{i}" for i in range(datasets))
    return History(names, sets, curves, np.zeros((models, datasets), dtype=bool))


def matrix_of(table, folder, **options):
    """A matrix from a data frame, through a file as a user has it."""
    file = Path(folder) / "table.csv"
    table.to_csv(file, index=False)
    return import_table(file, ImportOptions(**options)).matrix


@pytest.fixture
def history():
    return synthetic_history()


@pytest.fixture(scope="session")
def shared():
    if not SHARED.is_dir():
        pytest.skip(f"the published curves are not beside the checkout ({SHARED})")
    return SHARED


@pytest.fixture(scope="session")
def curves(shared):
    return read_matrix(shared / "olml_demo" / "nlp_convergence_curves.csv")
