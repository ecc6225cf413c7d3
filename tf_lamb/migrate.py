"""The state of other LAMBs, loaded into ours: the next step is the one that the old optimizer would have taken.

Each function takes an optimizer of ours that is built, on either face, and writes the moments and the count of updates
into it, and no option. So give it the old options first, in the dialect that the function names.

>>> import keras
>>> from tf_lamb import dialects, migrate
>>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
>>> old = keras.optimizers.Lamb(0.01)
>>> old.apply([keras.ops.ones(variable.shape) for variable in model.trainable_variables], model.trainable_variables)
>>> optimizer = dialects.keras(0.01)
>>> optimizer.build(model.trainable_variables)
>>> migrate.from_keras(optimizer, old)
>>> int(optimizer.iterations)
1

Which saved variable is which of ours is decided by the first of these rules that settles it for all of them:

1. `mapping`, where it is given: {path of our variable: key of the saved variable}.
2. The objects: a live optimizer has our variables, or `model` has them at their places in the checkpoint.
3. The order, where what was saved is in the order of the model's trainable variables (an HDF5 or .keras file, a live
   optimizer, `keras.optimizers.Lamb`), unless the value of one of ours is that of other saved variables only.
4. The values: each of ours equals exactly one saved variable, so load the model's weights first.
5. The shapes: each of ours has the shape of exactly one saved variable.

With `load_weights=True` the values of ours say nothing and are not compared. Where no rule settles it, or the numbers
of variables differ and there is no `mapping`, it is an error. Everything is checked before anything is written.
"""

import collections
import os
import zipfile

from keras import ops

from tf_lamb import old_states
from tf_lamb.lamb import LambUpdate
from tf_lamb.old_states import as_array, variables_of
from tf_lamb.state import storage_dtype, variable_path


def from_tensorflow_addons(optimizer, path, *, model=None, mapping=None, load_weights=False):
    """Loads the state of `tensorflow_addons.optimizers.LAMB`; the dialect is `tf_lamb.dialects.tensorflow_addons`.

    A checkpoint does not tell the optimizer's class: the AdamW of Addons is known by its name only.

    Args:
        optimizer: A `tf_lamb.LAMB` or `tf_lamb.tf_keras.LAMB` that is built.
        path: A `tf.train.Checkpoint`, by its prefix or its folder, or a whole model in an HDF5 file.
        model: For a checkpoint: the model whose variables ours are, if it was saved as
            `tf.train.Checkpoint(model=...)` or by `save_weights`; or a `tf.train.Checkpoint` of objects under the
            names that they were saved under.
        mapping: None, or a dictionary of the paths of all our variables to keys of saved variables.
        load_weights: Whether to assign the saved values to the variables that the optimizer updates, too. Others, such
            as the averages of batch normalisation, are left alone.

    Raises:
        ValueError: The file is of another kind, or what it holds does not fit. Nothing has been written.
        TypeError: `optimizer` is not a LAMB of ours.
    """
    _check_ours(optimizer)
    _load(optimizer, old_states.read_legacy_file(path, optimizer, model), mapping, load_weights)


def from_model_garden(optimizer, source, *, model=None, mapping=None, load_weights=False):
    """Loads the state of `official.modeling.optimization.lamb.LAMB`; the dialect is `tf_lamb.dialects.model_garden`.

    Args:
        optimizer: As in `from_tensorflow_addons`.
        source: The old optimizer itself, which does not hold the weights; or a path as in `from_tensorflow_addons`.
        model: As there.
        mapping: As there.
        load_weights: As there.

    Raises:
        ValueError: As there.
        TypeError: As there, or `source` is another optimizer.
    """
    _check_ours(optimizer)
    if isinstance(source, (str, os.PathLike)):
        state = old_states.read_legacy_file(source, optimizer, model)
    else:
        state = old_states.read_live_legacy(source, optimizer)
    _load(optimizer, state, mapping, load_weights)


def from_keras(optimizer, source, *, mapping=None, load_weights=False, gradient_accumulation_steps=None):
    """Loads the state of `keras.optimizers.Lamb` of Keras 3; the dialect is `tf_lamb.dialects.keras`.

    Keras counts calls, and ours updates: after accumulation over K calls ours goes on at `iterations // K`, and reads
    a schedule there. The gradients of an unfinished cycle are carried over if ours accumulates over K calls, too.
    Moving averages are carried over; where there are none, those of ours begin at the weights.

    Args:
        optimizer: As in `from_tensorflow_addons`.
        source: The old optimizer itself; a .keras file, of any backend; or a `tf.train.Checkpoint`.
        mapping: As there. The keys of a .keras file are the positions of the variables: "0", "1", ...
        load_weights: As there, but not from a .keras file: `keras.models.load_model` loads the weights of that.
        gradient_accumulation_steps: For a checkpoint: that of the old optimizer, which it does not tell.

    Raises:
        ValueError: As there.
        TypeError: As there, or `source` is another optimizer.
    """
    _check_ours(optimizer)
    steps = gradient_accumulation_steps
    if not isinstance(source, (str, os.PathLike)):
        state = old_states.read_live_keras(source, optimizer)
    elif zipfile.is_zipfile(source):
        state = old_states.read_keras_file(source)
    else:
        state = old_states.read_keras_checkpoint(source, steps)
    if steps is not None and steps != state.accumulation_steps:
        raise ValueError(
            f"The old optimizer accumulates otherwise. Received: gradient_accumulation_steps={steps}. "
            f"Expected: {state.accumulation_steps}."
        )
    _load(optimizer, state, mapping, load_weights)


def _check_ours(optimizer):
    if not isinstance(optimizer, LambUpdate):
        raise TypeError(
            "State of a LAMB is loaded into a tf_lamb.LAMB or a tf_lamb.tf_keras.LAMB. "
            f"Received: optimizer={type(optimizer).__name__}."
        )
    optimizer.plan()


def _load(optimizer, state, mapping, load_weights):
    """Checks that a state fits, and writes it into the optimizer."""
    variables, calls = variables_of(optimizer), state.accumulation_steps or 1
    saved = [state.variables[i] for i in _positions(variables, state, mapping, load_weights)]
    t, micro_step = divmod(state.calls, calls)
    if micro_step and optimizer.gradient_accumulation_steps != calls:
        raise ValueError(
            f"The old optimizer has accumulated {micro_step} of {calls} gradients, which ours cannot go on with. "
            f"Received: gradient_accumulation_steps={optimizer.gradient_accumulation_steps}. "
            f"Expected: {calls}, or a state after a whole cycle."
        )
    if load_weights and any(each.weight is None for each in saved):
        raise ValueError("The weights were not saved with this state. Received: load_weights=True. Expected: False.")

    counters = [(optimizer._iterations, t), (optimizer._micro_step, micro_step), (optimizer._bad_micro_steps, 0)]
    writes = [(counter, value) for counter, value in counters if counter is not None]
    columns = (optimizer._slots, optimizer._accumulated_gradients, optimizer._averages)
    for variable, old, (m, v), accumulator, average in zip(variables, saved, *columns, strict=True):
        weight = old.weight if load_weights else as_array(variable)
        sums = old.accumulator if micro_step else ops.zeros(variable.shape)
        own = [(m, old.m), (v, old.v), (accumulator, sums), (average, weight if old.average is None else old.average)]
        own += [(variable, weight)] if load_weights else []
        for target, value in own:
            if target is not None and tuple(value.shape) != tuple(variable.shape):
                raise ValueError(
                    f"The saved state of {old.key!r} does not fit {variable_path(variable)!r}. "
                    f"Received: shape {tuple(value.shape)}. Expected: {tuple(variable.shape)}."
                )
        writes += [(target, value) for target, value in own if target is not None]
    # All casts are made before the first assignment.
    for target, value in [(target, ops.cast(value, storage_dtype(target))) for target, value in writes]:
        target.assign(value)


def _positions(variables, state, mapping, load_weights):
    """For each of our variables the position of the saved one, by the first rule that settles it."""
    saved, paths = state.variables, [variable_path(variable) for variable in variables]
    if mapping is not None:
        return _mapped(paths, [each.key for each in saved], mapping)
    if len(saved) != len(variables):
        keys = ", ".join(each.key for each in saved)
        raise ValueError(
            "The optimizers have different numbers of variables, and there is no `mapping`. "
            f"Received: {len(saved)} saved ({keys}). Expected: {len(variables)} ({', '.join(paths)})."
        )
    if state.positions is not None and len(set(state.positions)) == len(variables):
        return state.positions
    equal = [[]] * len(variables) if load_weights else _equal_values(variables, saved)
    if state.ordered and all(i in found for i, found in enumerate(equal) if found):
        return range(len(variables))
    by_shape = collections.defaultdict(list)
    for i, each in enumerate(saved):
        by_shape[tuple(each.m.shape)].append(i)
    shaped = [by_shape[tuple(variable.shape)] for variable in variables]
    for found in (equal, shaped):
        if all(len(each) == 1 for each in found) and len({each[0] for each in found}) == len(found):
            return [each[0] for each in found]
    rows = zip(paths, variables, shaped, strict=True)
    path, variable, found = next(row for row in rows if len(row[2]) != 1 or shaped.count(row[2]) > 1)
    raise ValueError(
        f"It is not clear which saved variable is {path!r} of shape {tuple(variable.shape)}. "
        f"Received: {len(found)} of that shape ({', '.join(saved[i].key for i in found)}). Expected: the saved weights "
        "in our variables, or a `model` with our variables at their places in the checkpoint, or a `mapping`."
    )


def _mapped(paths, keys, mapping):
    mapping = {path: str(key).removesuffix("/.ATTRIBUTES/VARIABLE_VALUE") for path, key in mapping.items()}
    if sorted(mapping) != sorted(paths):
        raise ValueError(f"`mapping` must name all our variables. Received: {sorted(mapping)}. Expected: {paths}.")
    if len(set(mapping.values())) < len(paths) or not set(mapping.values()) <= set(keys):
        raise ValueError(
            f"`mapping` must lead to a saved variable for each of ours. Received: {list(mapping.values())}. "
            f"Expected some of {keys}."
        )
    return [keys.index(mapping[path]) for path in paths]


def _equal_values(variables, saved):
    """For each of our variables the positions of the saved ones that it equals, bit for bit in its own dtype."""

    def digest(value, dtype):
        return tuple(value.shape), hash(as_array(value, dtype).tobytes())

    found = []
    known = {}  # For each dtype of ours: {digest: positions}.
    for variable in variables:
        dtype = storage_dtype(variable)
        if dtype not in known:
            known[dtype] = collections.defaultdict(list)
            for i, each in enumerate(saved):
                if each.weight is not None:
                    known[dtype][digest(each.weight, dtype)].append(i)
        found.append(known[dtype][digest(as_array(variable), dtype)])
    return found
