"""TFLite models of one op, built and run by LiteRT's resolvers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
import pytest

from qir.types import Array

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
interpreter = pytest.importorskip("ai_edge_litert.interpreter")

RESOLVERS = {
    "reference": interpreter.OpResolverType.BUILTIN_REF,
    "optimized": interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "xnnpack": interpreter.OpResolverType.AUTO,
}
TYPES = {
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.float32): schema.TensorType.FLOAT32,
}


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of a model.

    Attributes:
        shape: Its shape.
        dtype: Type of what it stores.
        scale: Its scale, or one for each channel; none for plain numbers.
        zero_point: Its zero point.
        axis: The axis of its channels.
        array: Its numbers, where it is a constant.
    """

    shape: Sequence[int]
    dtype: type[np.generic] = np.int8
    scale: float | Sequence[float] | None = None
    zero_point: int = 0
    axis: int = 0
    array: Array | None = None


def constant(
    array: Array, scale: float | Sequence[float] | None = None, zero_point: int = 0, axis: int = 0
) -> Tensor:
    """Returns a tensor of given numbers."""
    return Tensor(array.shape, array.dtype.type, scale, zero_point, axis, array)


def model(
    op: str, operands: Sequence[Tensor], result: Tensor, version: int = 2, **options: Any
) -> bytes:
    """Builds a model of one op.

    Args:
        op: The op's name in the schema, such as CONV_2D.
        operands: Its operands; what is no constant is an input of the model.
        result: Its result.
        version: The op's version, by which LiteRT knows what types it takes.
        options: Fields of the op's options, among them `table`, the name of their table.
    """
    built, tensors = schema.ModelT(), [*operands, result]
    built.version, built.buffers = 3, [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors = [_tensor(built, tensor) for tensor in tensors]
    graph.inputs = [place for place, tensor in enumerate(operands) if tensor.array is None]
    graph.outputs = [len(operands)]
    node = schema.OperatorT()
    node.opcodeIndex, node.inputs, node.outputs = 0, list(range(len(operands))), [len(operands)]
    table = options.pop("table", None)
    if table is not None:
        node.builtinOptionsType = getattr(schema.BuiltinOptions, table)
        node.builtinOptions = getattr(schema, f"{table}T")()
        for name, value in options.items():
            assert hasattr(node.builtinOptions, name), name
            setattr(node.builtinOptions, name, value)
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, op)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
    graph.operators, built.operatorCodes, built.subgraphs = [node], [code], [graph]
    builder = flatbuffers.Builder()
    builder.Finish(built.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(built: Any, tensor: Tensor) -> Any:
    made = schema.TensorT()
    made.shape, made.type = list(tensor.shape), TYPES[np.dtype(tensor.dtype)]
    made.name, made.buffer = f"t{len(built.buffers)}", len(built.buffers)
    buffer = schema.BufferT()
    if tensor.array is not None:
        buffer.data = np.frombuffer(tensor.array.tobytes(), np.uint8)
    built.buffers.append(buffer)
    if tensor.scale is not None:
        code = schema.QuantizationParametersT()
        scales = np.atleast_1d(np.asarray(tensor.scale, np.float32))
        code.scale, code.quantizedDimension = scales, tensor.axis
        code.zeroPoint = np.full(len(scales), tensor.zero_point, np.int64)
        made.quantization = code
    return made


def run(content: bytes, *inputs: Array) -> Mapping[str, Array]:
    """Runs a model by each resolver.

    Args:
        content: The model.
        inputs: Its inputs.

    Returns:
        The result of each, by the names in `RESOLVERS`.
    """
    found = {}
    for name, resolver in RESOLVERS.items():
        runtime = interpreter.Interpreter(
            model_content=content, experimental_op_resolver_type=resolver, num_threads=1
        )
        runtime.allocate_tensors()
        for details, array in zip(runtime.get_input_details(), inputs, strict=True):
            runtime.set_tensor(details["index"], array)
        runtime.invoke()
        found[name] = runtime.get_tensor(runtime.get_output_details()[0]["index"])
    return found
