"""Sections of the benchmark's page, and its test of non-inferiority."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[3] / "benchmarks" / "selection.py"


def module():
    spec = importlib.util.spec_from_file_location("benchmark_selection", FILE)
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # its dataclasses look themselves up
    spec.loader.exec_module(found)
    return found


def test_a_section_is_replaced_and_the_others_stay():
    put = module().with_section
    page = put(put("# Selection\n\nText.\n", "One", "first"), "Two", "second")
    assert page == "# Selection\n\nText.\n\n## One\n\nfirst\n\n## Two\n\nsecond\n"
    again = put(page, "One", "changed\n")
    assert again == page.replace("first", "changed")


def test_the_bound_is_that_of_the_mean_of_paired_differences():
    bound = module().upper_bound
    assert bound(np.full(20, 0.02)) == pytest.approx(0.02)
    values = np.random.default_rng(1).normal(0, 0.1, 400)
    expected = values.mean() + 1.645 * values.std() / np.sqrt(400)
    assert abs(bound(values) - expected) < 1e-3
