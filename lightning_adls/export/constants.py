"""Constants of an ONNX graph in few bytes, without a change of any value.

What a constant is made of is put together by nodes that ONNX Runtime evaluates once, when it loads
the graph; integers that are multiplied with stay integers.
"""

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import DeduplicateInitializersPass

from lightning_adls.export.steps import NIBBLES

# Below that, names and nodes take more than is saved.
_SMALLEST = 256
_SAMPLE = 1 << 16
# What holds the values of a float32 exactly, if anything does, in half of the bytes.
_HALVES = ((ir.DataType.FLOAT16, np.float16), (ir.DataType.BFLOAT16, ml_dtypes.bfloat16))
_NIBBLES = {
    ir.DataType.INT8: (ir.DataType.INT4, ml_dtypes.int4),
    ir.DataType.UINT8: (ir.DataType.UINT4, ml_dtypes.uint4),
}


def shrink(model: ir.Model) -> None:
    """Store the constants of a graph in fewer bytes, in place.

    Integers that are scaled lie as they are multiplied, those of 4 bits packed. A table that rows
    are taken from is taken from before it is scaled. Of float32 with at most 256 different values,
    these are stored and which of them each is; with more, those that 16 bits hold.
    """
    graph = model.graph
    DeduplicateInitializersPass(size_limit=1 << 62)(model)
    scaled = [
        node
        for node in graph
        if node.op_type == "DequantizeLinear" and _constant(node.inputs[0]) is not None
    ]
    for node in scaled:
        _transpose(graph, node)
        _take_rows(graph, node)
    for value in tuple(graph.initializers.values()):
        if NIBBLES in str(value.name) and value.uses():
            _pack(graph, value)
        elif value.dtype == ir.DataType.FLOAT and value.uses():
            _shrink_float(graph, value)
    for name, value in tuple(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _constant(value: ir.Value | None) -> np.ndarray | None:
    if value is None or not value.is_initializer() or value.const_value is None:
        return None
    return value.const_value.numpy()


def _add(graph: ir.Graph, name: str, array: np.ndarray, dtype: ir.DataType) -> ir.Value:
    tensor = ir.tensor(array, dtype=dtype, name=name)
    value = ir.Value(
        name=name, const_value=tensor, type=ir.TensorType(dtype), shape=ir.Shape(array.shape)
    )
    graph.register_initializer(value)
    return value


def _put_before(
    graph: ir.Graph,
    place: ir.Node,
    name: str,
    op: str,
    inputs: Sequence[ir.Value],
    **attributes: int,
) -> ir.Value:
    """A new node, named by what it gives."""
    node = ir.node(op, inputs, attributes, name=name)
    node.outputs[0].name = name
    graph.insert_before(place, node)
    return node.outputs[0]


def _first_use(value: ir.Value, graph: ir.Graph) -> ir.Node:
    users = {use.node for use in value.uses()}
    return next(node for node in graph if node in users)


def _transpose(graph: ir.Graph, node: ir.Node) -> None:
    """Of integers that are scaled and then transposed, store them transposed."""
    users = [use.node for use in node.outputs[0].uses()]
    codes = node.inputs[0]
    assert codes is not None
    if len(users) != 1 or users[0].op_type != "Transpose" or len(codes.uses()) != 1:
        return
    (user,), array = users, _constant(codes)
    assert array is not None
    assert codes.dtype is not None
    array = np.ascontiguousarray(array.transpose(user.attributes["perm"].as_ints()))
    node.replace_input_with(0, _add(graph, f"{codes.name}.transposed", array, codes.dtype))
    node.outputs[0].shape = user.outputs[0].shape
    user.outputs[0].replace_all_uses_with(node.outputs[0], replace_graph_outputs=True)
    graph.remove(user, safe=True)


def _take_rows(graph: ir.Graph, node: ir.Node) -> None:
    """Of a table that rows are taken from, scale these alone."""
    users = [use.node for use in node.outputs[0].uses()]
    (codes, step), is_table = node.inputs, len(users) == 1 and users[0].op_type == "Gather"
    if not is_table or users[0].inputs[0] is not node.outputs[0]:
        return
    (user,), indices = users, users[0].inputs[1]
    assert codes is not None
    assert step is not None
    assert indices is not None
    output = user.outputs[0]
    rows = _put_before(graph, user, f"{output.name}.rows", "Gather", (codes, indices), axis=0)
    rows.type, rows.shape = codes.type, output.shape
    scaled = _put_before(graph, user, f"{output.name}.scaled", "DequantizeLinear", (rows, step))
    scaled.type, scaled.shape = output.type, output.shape
    output.replace_all_uses_with(scaled, replace_graph_outputs=True)
    graph.remove([user, node], safe=True)


def _pack(graph: ir.Graph, value: ir.Value) -> None:
    """Store integers of 4 bits in 4 bits."""
    array, dtype = _constant(value), value.dtype
    assert array is not None
    assert dtype is not None
    nibbles, kind = _NIBBLES[dtype]
    packed = _add(graph, f"{value.name}.packed", array.astype(kind), nibbles)
    if any(use.node.op_type == "Gather" for use in value.uses()):
        # ONNX Runtime takes no rows of 4 bits; it unpacks them once.
        place, name = _first_use(value, graph), f"{value.name}.unpacked"
        packed = _put_before(graph, place, name, "Cast", (packed,), to=dtype)
        packed.type, packed.shape = value.type, value.shape
    value.replace_all_uses_with(packed)


def _shrink_float(graph: ir.Graph, value: ir.Value) -> None:
    array = _constant(value)
    if array is None or array.size < _SMALLEST or value.is_graph_output():
        return
    if (stored := _table(graph, value, array)) is None:
        stored = _half(graph, value, array)
    if stored is not None:
        stored.type, stored.shape = value.type, value.shape
        value.replace_all_uses_with(stored)


def _table(graph: ir.Graph, value: ir.Value, array: np.ndarray) -> ir.Value | None:
    """The different values, and which of them each element is."""
    bits = array.view(np.int32)  # zeros of either sign and NaN are told apart
    if len(np.unique(bits.ravel()[:_SAMPLE])) > 256:
        return None
    found, which = np.unique(bits, return_inverse=True)
    if len(found) > 256:
        return None
    few = len(found) <= 16
    dtype, kind = (ir.DataType.UINT4, ml_dtypes.uint4) if few else (ir.DataType.UINT8, np.uint8)
    place, name = _first_use(value, graph), value.name
    which = which.reshape(array.shape).astype(np.uint8)
    codes = _add(graph, f"{name}.codes", which.astype(kind), dtype)
    values = _add(graph, f"{name}.values", found.view(np.float32), ir.DataType.FLOAT)
    indices = _put_before(graph, place, f"{name}.indices", "Cast", (codes,), to=ir.DataType.INT32)
    indices.dtype, indices.shape = ir.DataType.INT32, value.shape
    return _put_before(graph, place, f"{name}.found", "Gather", (values, indices), axis=0)


def _half(graph: ir.Graph, value: ir.Value, array: np.ndarray) -> ir.Value | None:
    """The values in 16 bits, if they have no more."""
    for dtype, kind in _HALVES:
        with np.errstate(over="ignore"):
            half = array.astype(kind)
        if np.array_equal(half.astype(np.float32).view(np.int32), array.view(np.int32)):
            place = _first_use(value, graph)
            stored = _add(graph, f"{value.name}.half", half, dtype)
            return _put_before(
                graph, place, f"{value.name}.whole", "Cast", (stored,), to=ir.DataType.FLOAT
            )
    return None
