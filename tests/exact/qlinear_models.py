"""ONNX models of one QLinear op, built and run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from qir.types import Array

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

MICROSOFT = "com.microsoft"


def run(op: str, x: Array, rest: Mapping[str, Array], domain: str = "", **attributes: Any) -> Array:
    """Runs an op of one input and one result whose other operands are constants; see `results`."""
    (found,) = results(op, x, rest, {"y": None}, domain, **attributes)
    return found


def results(
    op: str,
    x: Array,
    rest: Mapping[str, Array],
    outputs: Mapping[str, type[np.generic] | None],
    domain: str = "",
    **attributes: Any,
) -> list[Array]:
    """Runs an op of one input whose other operands are constants.

    Args:
        op: The op.
        x: Its first operand.
        rest: The others by name, in their order.
        outputs: The numpy type of each result by name; None for that of x.
        domain: Whose op it is; empty for ONNX.
        attributes: Its attributes.
    """
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    node = helper.make_node(op, ["x", *rest], list(outputs), domain=domain, **attributes)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [
            helper.make_tensor_value_info(
                name,
                kind if dtype is None else helper.np_dtype_to_tensor_dtype(np.dtype(dtype)),
                None,
            )
            for name, dtype in outputs.items()
        ],
        [numpy_helper.from_array(array, name) for name, array in rest.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    content = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    # Kernels for CPUs without VNNI saturate pairs of 16 bits unless they are told not to.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = runtime.InferenceSession(
        content.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})  # type: ignore[no-any-return]
