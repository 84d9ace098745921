"""Hosts: flags of real CPUs, and the kinds that are offered on them."""

import numpy as np
import pytest

from orchestrator.errors import InputError
from orchestrator.quantization.backends.hosts import (
    exact_kinds,
    parse_host,
    this_host,
)
from orchestrator.quantization.emission import graph as graphs
from orchestrator.quantization.emission.graph import GraphBuilder
from orchestrator.quantization.plans import Plan, PlanFile

X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 7763 64-Core Processor
flags\t\t: fpu sse4_2 fma avx avx2 {flags}
bugs\t\t: sysret_ss_attrs
"""
ARM = """processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd {flags}
CPU part\t: 0xd0c
"""


@pytest.mark.parametrize(
    ("text", "architecture", "flags", "exact"),
    [
        (X86, "x86_64", "", False),
        (X86, "x86_64", "avx512f avx512bw", False),
        (X86, "x86_64", "avx512f avx512_vnni", True),
        (X86, "x86_64", "avx_vnni", True),
        (X86, "x86_64", "avx512f amx_int8", True),
        (ARM, "aarch64", "asimdhp", False),
        (ARM, "aarch64", "asimddp", True),
        (ARM, "aarch64", "i8mm", True),
    ],
)
def test_full_range_weights_need_sums_in_32_bits(text, architecture, flags, exact):
    host = parse_host(text.format(flags=flags), architecture, "onnxruntime 1.32.0")
    assert host.sums_bytes_exactly is exact
    assert ("row_s8" in exact_kinds(host)) is ("static_s8" in exact_kinds(host)) is exact
    assert PlanFile.of(Plan({}).to_file(host=host).model_dump(mode="json")).host == host


def test_names_of_the_fingerprint():
    host = parse_host(X86.format(flags="avx512f"), "x86_64", "onnxruntime 1.32.0")
    assert (host.cpu, host.isa) == ("AMD EPYC 7763 64-Core Processor", ("avx2", "avx512f"))
    assert parse_host(ARM.format(flags=""), "aarch64", "").cpu == "0xd0c"
    assert parse_host("", "arm64", "").cpu == "unknown"
    assert this_host().runtime.startswith("onnxruntime 1.")


def test_a_plan_with_kinds_that_this_host_saturates_is_refused(monkeypatch):
    old = parse_host(X86.format(flags=""), "x86_64", "onnxruntime 1.32.0")
    monkeypatch.setattr(graphs, "this_host", lambda: old)
    graph = GraphBuilder(Plan({"unit": "row_s8"}))
    rows = graph.input("rows", ["m"])
    table = graph.constant("table", np.zeros((1, 8), np.float32))
    graph.gemm("unit", graph.op("Gather", [table, rows]), np.ones((8, 8), np.float32))
    with pytest.raises(InputError, match=r"'unit' in row_s8; this model offers .*row_u8"):
        graph.model()
