"""LAMB for tf_keras, the Keras of tf-models-official: the same update as for Keras 3, in tf_keras's optimizer class."""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "tf_lamb.tf_keras updates TensorFlow variables, and Keras 3 runs on another backend here. "
        f"Received: KERAS_BACKEND={keras.backend.backend()}. Expected: KERAS_BACKEND=tensorflow, set before the import."
    )
try:
    import tf_keras
except ModuleNotFoundError as error:
    if error.name != "tf_keras":
        raise
    raise ImportError("tf_lamb.tf_keras needs the package tf_keras. Install it with `pip install tf-keras`.") from None

import tensorflow as tf

from tf_lamb import core, options, replicas
from tf_lamb.lamb import LambUpdate
from tf_lamb.layerwise import LayerwiseUpdate, variable_path


class LayerwiseOptimizer(LayerwiseUpdate, tf_keras.optimizers.Optimizer):
    """Base of the optimizers for tf_keras, which sums gradients over replicas before it clips them."""

    def build(self, var_list):
        """Makes the plan and the state, once.

        Args:
            var_list: The trainable variables.
        """
        if getattr(self, "_built", False):
            return
        super().build(var_list)
        self._make_plan(var_list)
        self._slots = [[self._add_slot(variable, name) for name in self.slot_names] for variable in var_list]
        self._replica_update = replicas.ReplicaUpdate(self._update_variables, self.jit_compile)
        self._built = True

    def _add_slot(self, variable, name):
        # tf_keras's add_variable_from_reference would take the dtype of the variable, which may be too narrow.
        with tf.distribute.get_strategy().extended.colocate_vars_with(variable):
            slot = tf.Variable(
                tf.zeros(variable.shape, _compute_dtype(variable)),
                name=f"{variable_path(variable)}/{name}",
                trainable=False,
            )
        self._variables.append(slot)
        return slot

    def _update(self, gradients, variables):
        for variable in variables:
            if self._var_key(variable) not in self._index_dict:
                raise ValueError(
                    f"The optimizer was built without the variable {variable_path(variable)!r}. "
                    "Call `optimizer.build(model.trainable_variables)` once the whole model is built."
                )
        indices = tuple(self._index_dict[self._var_key(variable)] for variable in variables)
        groups = [[_without_autocast(v), *self._slots[index]] for index, v in zip(indices, variables, strict=True)]
        gradients = [_prepared(gradient, variable) for gradient, variable in zip(gradients, variables, strict=True)]
        self._replica_update(indices, gradients, groups, self.learning_rate, self.iterations + 1)

    def aggregate_gradients(self, grads_and_vars):
        """Sums gradients over replicas, in the dtype of the update.

        Args:
            grads_and_vars: A list of (gradient, variable); a gradient may be None or `tf.IndexedSlices`.

        Returns:
            The list with the sums in the place of the gradients.
        """
        grads_and_vars = list(grads_and_vars)
        present = [_prepared(gradient, variable) for gradient, variable in grads_and_vars if gradient is not None]
        sums = iter(replicas.sum_over_replicas(present) if present else [])
        return [(None if gradient is None else next(sums), variable) for gradient, variable in grads_and_vars]

    def _internal_apply_gradients(self, grads_and_vars):
        gradients, variables = zip(*grads_and_vars, strict=True)
        self._update(gradients, variables)
        return tf.__internal__.distribute.interim.maybe_merge_call(
            self._finish_step, self._distribution_strategy, variables
        )

    def _finish_step(self, distribution, variables):
        if self.use_ema:
            self._update_model_variables_moving_average(variables)
            if self.ema_overwrite_frequency:
                tf.cond(
                    tf.equal((self.iterations + 1) % self.ema_overwrite_frequency, 0),
                    lambda: self._overwrite_model_variables_with_average_value(variables),
                    lambda: None,
                )
        return self.iterations.assign_add(1)

    def _clip_gradients(self, grads):
        # The update clips, inside its compiled computation.
        return grads

    def _apply_weight_decay(self, variables):
        # tf_keras would decay here, outside the update. The update holds the decay.
        pass

    def get_config(self):
        """Returns all options, from which `from_config` makes an equal optimizer."""
        learning_rate = self._serialize_hyperparameter(self._learning_rate)
        return {**super().get_config(), **self._layerwise_config(), "learning_rate": learning_rate}


@tf_keras.saving.register_keras_serializable(package="tf_lamb")
class LAMB(LambUpdate, LayerwiseOptimizer):
    """LAMB for tf_keras models: `tf_lamb.LAMB` with the same arguments, in tf_keras's optimizer class.

    Exclusion lists are searched in tf_keras's variable names without the `:0`, for example
    `transformer/layer_0/self_attention_layer_norm/gamma`.

    Args:
        learning_rate: A float, a tf_keras `LearningRateSchedule`, or one of Keras 3, as in `tf_lamb.schedules`.
        beta_1: A float in [0, 1), the decay of the first moment.
        beta_2: A float in [0, 1), the decay of the second moment.
        epsilon: A float >= 0, added to the root of the second moment.
        weight_decay: A float >= 0, the weight of the variable within its update.
        exclude_from_weight_decay: A list of regular expressions; see `tf_lamb.LAMB`.
        exclude_from_layer_adaptation: The same for the trust ratio. None means the list for decay, `[]` means none.
        name: The name of the optimizer.
        plan: Only for `from_config`: the resolved lists of the optimizer that was saved.
        jit_compile: `"auto"` or True: one XLA computation per replica. False: plain TensorFlow operations.
        **kwargs: The other options of `tf_keras.optimizers.Optimizer`.

    Raises:
        ValueError: An option is out of its range.
        TypeError: An exclusion list is not a list of strings.
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-6,
        weight_decay=0.0,
        exclude_from_weight_decay=None,
        exclude_from_layer_adaptation=None,
        name="LAMB",
        jit_compile="auto",
        plan=None,
        **kwargs,
    ):
        super().__init__(name=name, weight_decay=options.check_non_negative("weight_decay", weight_decay), **kwargs)
        if isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            learning_rate = KerasSchedule(learning_rate)
        elif callable(learning_rate) and not isinstance(
            learning_rate, tf_keras.optimizers.schedules.LearningRateSchedule
        ):
            raise ValueError(
                "`learning_rate` must be a number or a schedule: tf_keras would read another callable only once. "
                f"Received: learning_rate={learning_rate!r}."
            )
        self._learning_rate = self._build_learning_rate(learning_rate)
        self._set_lamb_options(beta_1, beta_2, epsilon)
        self._set_layerwise_options(exclude_from_weight_decay, exclude_from_layer_adaptation, jit_compile, plan)

    def get_config(self):
        """Returns all options, from which `from_config` makes an equal optimizer."""
        return {**super().get_config(), **self._lamb_config()}


@tf_keras.saving.register_keras_serializable(package="tf_lamb")
class KerasSchedule(tf_keras.optimizers.schedules.LearningRateSchedule):
    """A Keras 3 schedule as a tf_keras one.

    Args:
        schedule: A `keras.optimizers.schedules.LearningRateSchedule`, or the dict that serializes it.
    """

    def __init__(self, schedule):
        if isinstance(schedule, dict):
            schedule = keras.optimizers.schedules.deserialize(schedule)
        self.schedule = schedule

    def __call__(self, step):
        """The rate at `step`, an integer scalar."""
        return self.schedule(step)

    def get_config(self):
        """Returns the serialized schedule."""
        return {"schedule": keras.optimizers.schedules.serialize(self.schedule)}


def _prepared(gradient, variable):
    return replicas.densify(gradient, _compute_dtype(variable))


def _without_autocast(variable):
    """The variable itself behind the wrapper that mixed precision puts around it."""
    return getattr(variable, "_variable", variable) if hasattr(variable, "true_dtype") else variable


def _compute_dtype(variable):
    return core.compute_dtype(_without_autocast(variable).dtype.name)
