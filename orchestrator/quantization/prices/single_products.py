"""Models of single products: what a unit computes in a kind, without the model around it."""

from typing import Final

from onnx import TensorProto, helper

from orchestrator.quantization.emission.gemms import Product
from orchestrator.quantization.emission.graph import GraphBuilder
from orchestrator.quantization.kinds import KindName
from orchestrator.quantization.plans import Plan

INPUT: Final = "x"
OUTPUT: Final = "product"


def product_model(product: Product, kind: KindName) -> bytes:
    """Return a model file with the input ``x`` [B, S, K] and the output ``product`` [B, S, N]."""
    unit, (inputs, outputs) = product.unit, product.weight.shape
    ranges = {} if product.range is None else {unit: product.range}
    graph = GraphBuilder(Plan({unit: kind}), ranges)
    x = graph.input(INPUT, ["batch", "length", inputs], TensorProto.FLOAT)
    found = graph.gemm(unit, x, product.weight, low=product.low)
    graph.output(OUTPUT, found, ["batch", "length", outputs])
    model = graph.model()
    helper.set_model_props(model, graph.metadata)
    return bytes(model.SerializeToString())
