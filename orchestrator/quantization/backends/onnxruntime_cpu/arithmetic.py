"""Checks of the runtime's integer arithmetic on this host, once per process.

A model file names the rules that it relies on in its metadata. Each rule is verified with one tiny
model before a session answers, because a runtime that breaks a rule does not fail: it returns wrong
numbers. Needs NumPy and ONNX Runtime only.

Legend: B batch, S length, K inputs and N outputs of a GEMM.
"""

import base64
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as states

from orchestrator.arrays import Float32Array
from orchestrator.errors import InputError

METADATA_RULES: Final = "integer_rules"
"""Key of a model's metadata: names of the rules that it relies on, with commas between them."""
ROW_SCALES: Final = "row_scales"
"""``MatMulIntegerToFloat`` reads ``a_scale`` [B, S, 1] as one scale per row. Releases before 1.32
refuse it; a runtime that read it as one scale per column would be wrong where S = N."""
FULL_RANGE: Final = "full_range"
"""Products of u8 and full-range s8 are summed exactly. ``vpmaddubsw`` of AVX2 adds two of them in
16 bits and saturates (2 * 255 * 127 > 32767); VNNI, AMX and ARM's dot products use 32 bits."""

TOLERANCE: Final = 1e-5
"""Relative; the scales are applied in float32, the sums before them are exact."""
ZERO_POINT: Final = 128
SHAPES: Final = ((1, 16), (2, 8), (2, 16), (1, 3), (1, 1))
"""Batches and lengths of the check; B S or S equals N in the first three."""
COLUMNS: Final = {ROW_SCALES: slice(0, 8), FULL_RANGE: slice(8, 16)}
"""Columns of the model's weight: 7-bit values, then 127 and -127."""

MODEL: Final = zlib.decompress(
    base64.b85decode(
        "c-p1Z$xjnu7{~E>+N!UwwoJzY)?Mma6<HLdE;Ms6p-FF^ycL4Pq;(QngK)9jN&K7KKtM%Ykh<>*N^xI6(W(4?CK7"
        "Kx$vep>&*giVJW5+e?2OhiEvK|}X-R3xYRPEnv81~yluYH4C(|t_a_t@MokyI*X(yG7`P-aKb>?_mr;~M#<t*ul_"
        "9+!trs=h%E0I@cFW-JL_0=0V?M|;dFW!A$Vy)d)PcN(3xU=#6)dF3!f8hH4S0Co+vBz(|c>F6P^z7o`nyqyQ2k8w"
        "v8qQrAe_EvbNAJCS|3j^yUw@Y6l~ud;(dOzcwFfTUctGz(Abl5sw1Gf+GXm*h1k!I2NS7m!jv<hKgg|-`0_i9M>1"
        "zn2KOvA_g+RI)f%J0((i(yEZUoY|5J=A;kY0~K`XU19Nd(em2&DHQkiLUJ`X>VEO$eli5J*oWkPab`ZbBga5P`H0"
        "f%J9+(jy3@KO&G0Bal9XK>8U1>7@vys}V@wL?HbQf%G~A(iad&Pau#EAds#{AYDKpJ%>O#f<Sr@fpigpfBxSV_ZE"
        "mP*+kqh^3DJAqRRBxl1WHD8lFEeJqgoTFh|4g^|C_RQXVUyy_U3=K56Yy@zN^wdnF52((10d|G6@4pEk^LJE;G@b"
        "f)|QdCM`X"
    )
)
"""One node ``MatMulIntegerToFloat`` with a constant weight [64, 16] (``weight()``), stored because
serving does not import onnx; ``tests/unit/quantization/test_arithmetic.py`` writes it."""


def weight() -> npt.NDArray[np.int8]:
    """Return the weight [64, 16] of the model."""
    inputs, outputs = np.indices((64, 16))
    values = ((inputs * 37 + outputs * 11) % 127 - 63).astype(np.int8)
    values[:, 8:12], values[:, 12:] = 127, -127
    return np.asarray(values)


def check_rules(metadata: Mapping[str, str], model: str) -> None:
    """Require that the runtime keeps the rules that a model relies on.

    Args:
        metadata: Metadata of the model file.
        model: Name of the model, for messages.

    Raises:
        InputError: If this runtime breaks a rule on this host, or a rule is unknown.
    """
    for rule in filter(None, metadata.get(METADATA_RULES, "").split(",")):
        if rule not in COLUMNS:
            raise InputError(
                f"{model} relies on the rule {rule!r}; this release knows {', '.join(COLUMNS)}: "
                "install the release that made the package, or quantize the source package again"
            )
        if not keeps(rule):
            raise InputError(
                f"{model} cannot be answered by ONNX Runtime {ort.__version__} here: "
                f"{_REASONS[rule]}"
            )


@cache
def keeps(rule: str) -> bool:
    """Return whether the installed runtime keeps a rule on this host; checked once per process.

    Every activation is 255 or 1 in this check, the values that saturate first.
    """
    return follows(_session().run, rule)


def follows(
    run: Callable[[None, dict[str, npt.NDArray[np.generic]]], list[Float32Array]], rule: str
) -> bool:
    """Return whether answers of ``run`` to the model's inputs follow a rule."""
    columns = weight().astype(np.int32)[:, COLUMNS[rule]]
    for shape in SHAPES:
        rows = np.full((*shape, 64), 255, np.uint8)
        rows[:, ::2] = 1
        scale = np.geomspace(1e-2, 1e2, shape[0] * shape[1], dtype=np.float32).reshape(*shape, 1)
        exact = ((rows.astype(np.int32) - ZERO_POINT) @ columns) * scale.astype(np.float64)
        try:
            (found,) = run(None, {"x": rows, "a": scale})
        except _REFUSALS:
            return False
        if not np.allclose(found[..., COLUMNS[rule]], exact, rtol=TOLERANCE, atol=0):
            return False
    return True


@cache
def _session() -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])


_REFUSALS: Final = (states.Fail, states.InvalidArgument, states.RuntimeException)
"""Answers of releases that do not accept the shape of the scales."""
_REASONS: Final = {
    ROW_SCALES: "it does not read one activation scale per row. Install onnxruntime 1.32 or later",
    FULL_RANGE: (
        "this CPU saturates products with full-range signed weights (kinds row_s8 and static_s8). "
        "Serve the package on a CPU with VNNI, AMX or ARM dot products, or quantize the source "
        "package on this one"
    ),
}
