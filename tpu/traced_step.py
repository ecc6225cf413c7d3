"""What a traced training step would ask of a TPU, and what of it no TPU can do."""

import math
import os
from dataclasses import dataclass

import tensorflow as tf
from tensorflow.python.util import pywrap_xla_ops

COLLECTIVES = ("CrossReplicaSum", "XlaAllReduce", "AllToAll", "CollectivePermute")
CONDITIONALS = ("If", "StatelessIf", "Case", "StatelessCase")
PRINTING = ("Print", "PrintV2", "StringFormat")
HOST_CALLS = ("PyFunc", "PyFuncStateless", "EagerPyFunc", "Timestamp", "XlaHostCompute", *PRINTING)
# On a TPU only, or of the graph around a step; the list of operations that XLA has on a CPU leaves them out.
OF_TPU = {
    *("CrossReplicaSum", "AllToAll", "CollectivePermute", "XlaReplicaId", "Placeholder", "VarHandleOp"),
    *("TPUReplicatedInput", "TPUReplicatedOutput", "TPUReplicateMetadata", "TPUCompilationResult"),
}
# These do not run: they compute with shapes, which are known before.
OF_SHAPES = ("BroadcastGradientArgs", "BroadcastArgs")
LIBRARIES = tuple(f"{os.sep}{name}{os.sep}" for name in ("tensorflow", "tf_keras", "keras"))


@dataclass(frozen=True)
class Fault:
    """Something in a step that keeps it from running on a TPU.

    Attributes:
        what: What is wrong with the operation.
        operation: Its type.
        name: Its name in the graph.
        place: The file and the line that made it.
        fix: What would be right.
    """

    what: str
    operation: str
    name: str
    place: str
    fix: str

    def __str__(self):
        return f"The step {self.what}. Received: {self.operation} ({self.name}), made at {self.place}. {self.fix}"


def operations(graph):
    """All operations of a `tf.Graph` and of the functions that they call, each with the functions' owners.

    Args:
        graph: The graph of a step.

    Yields:
        Pairs of an operation and the tuple of operations within whose functions it lies, the outermost first.
    """
    seen = set()

    def walk(graph, owners):
        for operation in graph.get_operations():
            yield operation, owners
            for name in _functions_of(operation):
                function = graph._get_function(name)
                if function is not None and name not in seen:
                    seen.add(name)
                    yield from walk(function.graph, (*owners, operation))

    yield from walk(graph, ())


def collectives(graph):
    """The operations of a step that exchange values between replicas, a list."""
    return [operation for operation, _ in operations(graph) if operation.type in COLLECTIVES]


def bytes_of(operation):
    """The bytes of an operation's first result."""
    tensor = operation.outputs[0]
    return math.prod(tensor.shape) * tensor.dtype.size


def faults(graph):
    """What keeps a step from running on a TPU, a list of `Fault`, in the order in which the step was traced."""
    compilable = {*pywrap_xla_ops.get_cpu_kernel_names(), *OF_TPU}
    found = []
    for operation, owners in operations(graph):
        conditional = next((owner for owner in owners if owner.type in CONDITIONALS), None)
        if operation.type in HOST_CALLS:
            reason = ("calls the host, which a TPU cannot do within a step", "Expected TensorFlow operations alone.")
        elif operation.type not in compilable:
            reason = ("has an operation that XLA cannot compile", "Expected another operation in its place.")
        elif _makes_dynamic(operation) and not (owners and operation.type == "Placeholder"):
            reason = ("has a shape that depends on values", "Expected a static one, such as with a mask in its place.")
        elif conditional is not None and operation.type in COLLECTIVES:
            reason = (
                f"exchanges values between replicas within a conditional ({conditional.name}), where they may wait for "
                "each other forever",
                "Expected the exchange outside, and the choice made of its result.",
            )
        else:
            continue
        found.append(Fault(reason[0], operation.type, operation.name, place_of(operation), reason[1]))
    return found


def place_of(operation):
    """The file and line that made an operation: the innermost one outside of TensorFlow and Keras, `file.py:12`."""
    frames = list(operation.traceback)
    outside = [frame for frame in frames if not any(library in frame.filename for library in LIBRARIES)]
    frame = (outside or frames)[-1]
    return f"{os.path.relpath(frame.filename)}:{frame.lineno}"


def _functions_of(operation):
    for value in operation.node_def.attr.values():
        yield from (function.name for function in (value.func, *value.list.func) if function.name)


def _makes_dynamic(operation):
    """Whether a shape is known before the operation and not after it."""
    if operation.type in OF_SHAPES or not operation.outputs:
        return False
    # Further results may be for CPUs and GPUs only, as what batch norm reserves for its gradient.
    return not _is_static(operation.outputs[0]) and all(map(_is_static, operation.inputs))


def _is_static(tensor):
    return tensor.dtype in (tf.resource, tf.variant) or tensor.shape.is_fully_defined()
