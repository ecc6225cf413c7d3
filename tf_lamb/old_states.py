"""What other LAMBs left behind, read into one form: `tf_lamb.migrate` loads it into ours."""

import collections
import io
import json
import os
import zipfile
from typing import NamedTuple

import h5py
import keras
from keras import ops

from tf_lamb.state import variable_path


class SavedVariable(NamedTuple):
    """What was saved for one variable: its key and arrays; all but the moments are None where they are not known.

    Attributes:
        key: Its name in the file.
        m: The first moment.
        v: The second moment.
        weight: The variable's value.
        accumulator: The sum of the gradients of this cycle.
        average: The moving average of its values.
    """

    key: str
    m: object
    v: object
    weight: object = None
    accumulator: object = None
    average: object = None


class SavedState(NamedTuple):
    """What was saved of an optimizer.

    Attributes:
        variables: A list of `SavedVariable`.
        calls: How often the optimizer was called.
        accumulation_steps: How many calls make an update; None for one.
        ordered: Whether `variables` are in the order of the model's trainable variables.
        positions: For each variable of ours its position in `variables`, or None where the objects do not tell.
    """

    variables: list
    calls: int
    accumulation_steps: int | None = None
    ordered: bool = True
    positions: list | None = None


# TensorFlow Addons and Model Garden: slots m and v, and iter.


def read_legacy_file(path, optimizer, model):
    """Reads a checkpoint or an HDF5 file; the `optimizer` is ours, and `model` is None or what a checkpoint held."""
    if zipfile.is_zipfile(path):
        raise _wrong_file(path, "a .keras file, which leaves the state of this optimizer out", "a checkpoint or HDF5")
    if os.path.isfile(path) and h5py.is_hdf5(path):
        return _read_legacy_h5(path)
    checkpoint = _Checkpoint(path)
    owner = checkpoint.owner(
        lambda node: {"m", "v"} & {slot.slot_name for slot in node.slot_variables}, "slots m and v"
    )
    children = checkpoint.children(owner)
    if not {"weight_decay", "weight_decay_rate"} & children.keys():
        raise _wrong_file(path, "an optimizer with slots m and v but no weight decay, as Adam", "the state of a LAMB")
    slots = collections.defaultdict(dict)
    for slot in checkpoint.nodes[owner].slot_variables:
        slots[slot.original_variable_node_id][slot.slot_name] = checkpoint.value(slot.slot_variable_node_id)
    saved = {
        node: SavedVariable(checkpoint.key(node), own.get("m"), own.get("v"), checkpoint.value(node))
        for node, own in slots.items()
    }
    without, positions = [each.key for each in saved.values() if each.m is None or each.v is None], None
    if model is not None:
        nodes = checkpoint.nodes_of(model, optimizer)
        without += [checkpoint.key(node) for node in nodes if node is not None and node not in saved]
        positions = None if without or None in nodes else [list(saved).index(node) for node in nodes]
    if without:
        raise _missing_slots(without)
    calls = int(checkpoint.value(children["iter"]))
    return SavedState(list(saved.values()), calls, ordered=False, positions=positions)


def _read_legacy_h5(path):
    with h5py.File(path) as file:
        config = json.loads(file.attrs.get("training_config", "{}"))
        class_name = _without_loss_scale(config.get("optimizer_config"))["class_name"]
        if class_name not in ("Addons>LAMB", "LAMB") or "optimizer_weights" not in file:
            raise _wrong_file(path, f"a model with {class_name}", "a model with a LAMB that has trained")
        group = file["optimizer_weights"]
        names, layers = _weight_names(group), file["model_weights"].values()
        weights = {_stem(name): layer[name][()] for layer in layers for name in _weight_names(layer)}
        return _legacy_state(names, [group[name][()] for name in names], weights)


def _without_loss_scale(entry):
    """What a file says of its optimizer, inside of Keras's LossScaleOptimizer if there is one."""
    entry = entry if isinstance(entry, dict) else {"class_name": entry or "no optimizer"}
    return entry["config"]["inner_optimizer"] if entry["class_name"].endswith("LossScaleOptimizer") else entry


def _weight_names(group):
    # A long list is split into weight_names0, weight_names1, ...
    chunks = sorted((key for key in group.attrs if key.startswith("weight_names")), key=lambda key: (len(key), key))
    names = [name for key in chunks for name in group.attrs[key]]
    return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def read_live_legacy(old, optimizer):
    """Reads a LAMB of Model Garden; the `optimizer` is ours."""
    old = getattr(old, "inner_optimizer", old)
    if not hasattr(old, "get_slot") or "weight_decay_rate" not in old.get_config():
        raise _wrong_source(old, "a LAMB of official.modeling.optimization.lamb, or a path")
    state = _legacy_state([weight.name for weight in old.weights], [weight.numpy() for weight in old.weights], {})
    first_moments = [id(weight) for weight in old.weights if _stem(weight.name).endswith("/m")]
    try:
        own = [v.value if isinstance(v, keras.Variable) else v for v in variables_of(optimizer)]
        slots = [old.get_slot(variable, "m") for variable in own]
    except (AttributeError, KeyError):
        return state  # It has no slots for our variables, so they are others.
    return state._replace(positions=[first_moments.index(id(slot)) for slot in slots])


def _stem(name):
    return name.split(":")[0]


def _legacy_state(names, values, weights):
    """The state of weights that are called LAMB/iter, LAMB/hidden/kernel/m and LAMB/hidden/kernel/v, with a `:0`."""
    slots = {"iter": [], "m": [], "v": []}
    for name, value in zip(names, values, strict=True):
        owner, _, slot = _stem(name).rpartition("/")
        if slot in slots:
            slots[slot].append((owner, value))
    owners = {slot: [owner for owner, _ in entries] for slot, entries in slots.items()}
    if len(owners["iter"]) != 1 or not owners["m"]:
        raise ValueError("The old optimizer holds no state. Expected one that has made a step.")
    if owners["m"] != owners["v"]:
        raise _missing_slots(sorted(set(owners["m"]) ^ set(owners["v"])))
    ((prefix, calls),) = slots["iter"]
    keys = [owner.removeprefix(f"{prefix}/") for owner in owners["m"]]
    moments = [[value for _, value in slots[slot]] for slot in ("m", "v")]
    return SavedState(_rows(keys, *moments, [weights.get(key) for key in keys]), int(calls))


# keras.optimizers.Lamb: momentum, velocity, and iterations.


def read_live_keras(old, optimizer):
    """Reads a `keras.optimizers.Lamb`; the `optimizer` is ours."""
    old = getattr(old, "inner_optimizer", old)
    if not isinstance(old, keras.optimizers.Lamb) or not old.built:
        raise _wrong_source(old, "a keras.optimizers.Lamb that is built, or a path")
    columns = [old._momentums, old._velocities, old._trainable_variables]
    columns.append(old._accumulated_gradients if old.gradient_accumulation_steps else [])
    columns.append(old._model_variables_moving_average if old.use_ema else [])
    keys = [variable_path(variable) for variable in old._trainable_variables]
    saved = _rows(keys, *([as_array(variable) for variable in column] for column in columns))
    theirs = {old._var_key(variable): i for i, variable in enumerate(old._trainable_variables)}
    positions = [theirs.get(optimizer._var_key(variable)) for variable in variables_of(optimizer)]
    positions = None if None in positions else positions
    return SavedState(saved, int(old._iterations), old.gradient_accumulation_steps, positions=positions)


def read_keras_file(path):
    """Reads a .keras file of Keras 3, where the variables of the optimizer are numbered."""
    with zipfile.ZipFile(path) as file:
        if not {"config.json", "model.weights.h5"} <= set(file.namelist()):
            raise _wrong_file(path, "another archive", "a .keras file")
        compiled = json.loads(file.read("config.json")).get("compile_config") or {}
        entry = _without_loss_scale(compiled.get("optimizer"))
        if entry["class_name"] != "Lamb" or entry.get("registered_name"):
            raise _wrong_file(path, f"a model with {entry['class_name']}", "a model with a keras.optimizers.Lamb")
        with h5py.File(io.BytesIO(file.read("model.weights.h5"))) as weights:
            group = weights.get("optimizer/inner_optimizer/vars", weights.get("optimizer/vars", ()))
            values = [group[str(i)][()] for i in range(len(group))]
    config = entry["config"]
    accumulation_steps, use_ema = config.get("gradient_accumulation_steps"), config.get("use_ema")
    # The count of calls, a rate that is a number, averages, accumulators, and a momentum and a velocity in turn.
    first = 1 if isinstance(config.get("learning_rate"), dict) else 2
    blocks = bool(use_ema) + bool(accumulation_steps)
    count, rest = divmod(len(values) - first, blocks + 2)
    if count < 1 or rest:
        raise _wrong_file(path, f"a Lamb of {len(values)} variables", "one that is built")
    averages, accumulators = (
        [values.pop(first) for _ in range(count)] if kept else [] for kept in (use_ema, accumulation_steps)
    )
    moments = values[first::2], values[first + 1 :: 2]
    saved = _rows([str(i) for i in range(count)], *moments, [], accumulators, averages)
    return SavedState(saved, int(values[0]), accumulation_steps)


def read_keras_checkpoint(path, accumulation_steps):
    """Reads a `tf.train.Checkpoint` of a `keras.optimizers.Lamb` that accumulated over so many calls, or None."""
    checkpoint = _Checkpoint(path)
    lists = ("_momentums", "_velocities")
    owner = checkpoint.owner(lambda node: {*lists} <= {c.local_name for c in node.children}, "momentums and velocities")
    children = checkpoint.children(owner)
    if "_accumulated_gradients" in children and accumulation_steps is None:
        raise ValueError(
            "The checkpoint holds accumulated gradients, but not of how many calls. "
            "Expected: the old optimizer's `gradient_accumulation_steps`."
        )

    def entries(name):
        numbered = checkpoint.children(children[name]).items() if name in children else ()
        return [node for _, node in sorted((int(number), node) for number, node in numbered)]

    lists += ("_trainable_variables", "_accumulated_gradients", "_model_variables_moving_average")
    columns = [[checkpoint.value(node) for node in entries(name)] for name in lists]
    saved = _rows([checkpoint.key(node) for node in entries("_trainable_variables")], *columns)
    calls = int(checkpoint.value(children["_iterations"]))
    return SavedState(saved, calls, accumulation_steps if "_accumulated_gradients" in children else None)


class _Checkpoint:
    """A `tf.train.Checkpoint` on disk: the nodes of its object graph, and their values."""

    def __init__(self, path):
        import tensorflow as tf
        from tensorflow.core.protobuf import trackable_object_graph_pb2

        expected = "a tf.train.Checkpoint: its prefix, or its folder"
        self.path = path
        try:
            self._reader = tf.train.load_checkpoint(os.fspath(path))
        except (ValueError, tf.errors.OpError):
            raise _wrong_file(path, "no checkpoint of TensorFlow", expected) from None
        if not self._reader.has_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"):
            raise _wrong_file(path, "a checkpoint of names, without objects", expected)
        graph = trackable_object_graph_pb2.TrackableObjectGraph()
        graph.ParseFromString(self._reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
        self.nodes = graph.nodes

    def children(self, node):
        """The children of a node: {name: node}."""
        return {child.local_name: child.node_id for child in self.nodes[node].children}

    def _attribute(self, node):
        return next((each for each in self.nodes[node].attributes if each.name == "VARIABLE_VALUE"), None)

    def key(self, node):
        """The key of a variable, without the ending that all have."""
        return self._attribute(node).checkpoint_key.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE")

    def value(self, node):
        """The value of a variable."""
        return self._reader.get_tensor(self._attribute(node).checkpoint_key)

    def owner(self, is_owner, what):
        """The one optimizer of the kind that is looked for."""
        owners = [i for i, node in enumerate(self.nodes) if is_owner(node)]
        if len(owners) != 1:
            raise _wrong_file(self.path, f"{len(owners)} optimizers with {what}", "exactly one")
        children = self.children(owners[0])
        counter = children.get("iter", children.get("_iterations"))
        name = "an optimizer of TensorFlow 1" if counter is None else self._attribute(counter).full_name.split("/")[0]
        if counter is None or name.lower().startswith(("adam", "nadam")):
            raise _wrong_file(self.path, f"the state of {name}", "the state of a LAMB")
        return owners[0]

    def nodes_of(self, model, optimizer):
        """The nodes of our variables: those with the same place under `model`; None where there is none."""
        import tensorflow as tf

        root = model if isinstance(model, tf.train.Checkpoint) else tf.train.Checkpoint(model=model)
        nodes, seen, queue = {}, set(), [(root, 0), (model, 0)]  # The model itself may be the root.
        while queue:
            object_, node = queue.pop()
            if isinstance(object_, (tf.Variable, keras.Variable)):
                nodes[optimizer._var_key(object_)] = node
            elif (id(object_), node) not in seen:
                seen.add((id(object_), node))
                children = self.children(node)
                view = tf.train.TrackableView.children(object_)
                queue += [(child, children[name]) for name, child in view.items() if name in children]
        return [nodes.get(optimizer._var_key(variable)) for variable in variables_of(optimizer)]


def variables_of(optimizer):
    """The variables that an optimizer of ours was built on."""
    on_keras = isinstance(optimizer, keras.optimizers.Optimizer)
    return list(optimizer._trainable_variables if on_keras else optimizer._model_variables)


def as_array(variable, dtype=None):
    """The value of a variable of Keras or TensorFlow, or of an array, in NumPy; cast to `dtype`."""
    value = ops.convert_to_tensor(variable)
    return ops.convert_to_numpy(value if dtype is None else ops.cast(value, dtype))


def _rows(keys, *columns):
    """`SavedVariable`s of columns of arrays; an empty column is unknown."""
    return [
        SavedVariable(*row) for row in zip(keys, *(column or [None] * len(keys) for column in columns), strict=True)
    ]


def _wrong_file(path, received, expected):
    return ValueError(f"{os.fspath(path)!r} holds no state to load. Received: {received}. Expected: {expected}.")


def _wrong_source(source, expected):
    return TypeError(f"There is no state to load. Received: {type(source).__name__}. Expected: {expected}.")


def _missing_slots(names):
    return ValueError(f"Moments are missing: of these variables only m, only v or neither was saved: {names}.")
