"""The optimizers for tf_keras, the Keras of tf-models-official: the same updates, in tf_keras's optimizer class."""

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

from tf_lamb import in_place, replicas
from tf_lamb.lamb import LambUpdate
from tf_lamb.lars import LarsUpdate
from tf_lamb.normalized_sgd import NormalizedSgdUpdate
from tf_lamb.state import compute_dtype, variable_path
from tf_lamb.update import LayerwiseUpdate


class _RatedOptimizer(tf_keras.optimizers.Optimizer):
    """tf_keras's optimizer class with the learning rate among its arguments, as Keras 3 has it."""

    def __init__(self, learning_rate, name, **kwargs):
        super().__init__(name=name, **kwargs)
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

    def get_config(self):
        """Returns the options of tf_keras."""
        return {**super().get_config(), "learning_rate": self._serialize_hyperparameter(self._learning_rate)}


class LayerwiseOptimizer(LayerwiseUpdate, _RatedOptimizer):
    """Base of the optimizers for tf_keras, which sums gradients over replicas before it clips them.

    It has the options of `tf_lamb.layerwise.LayerwiseOptimizer` but `loss_scale_factor`.
    """

    def build(self, var_list):
        """Makes the plan and the state, once.

        Args:
            var_list: The trainable variables.
        """
        if getattr(self, "_built", False):
            return
        self._build_index_dict(var_list)
        self._model_variables = self._no_dependency(list(var_list))
        self._build_state(var_list)
        states, shared = self._variable_states(var_list, _without_autocast), self._shared_state(_without_autocast)
        better = in_place.choose(self, var_list, states)
        self._replica_update = replicas.ReplicaUpdate(
            self._update_variables, states, shared, self._options.jit_compile, better
        )
        self._built = True

    def _add_variable(self, shape, dtype, name, initial_value):
        variable = tf.Variable(
            tf.fill(shape, tf.cast(initial_value, dtype)),
            name=name,
            trainable=False,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self._variables.append(variable)
        return variable

    def _add_variable_like(self, variable, dtype, name):
        # tf_keras's add_variable_from_reference would take the dtype of the variable, which may be too narrow.
        with tf.distribute.get_strategy().extended.colocate_vars_with(variable):
            like = tf.Variable(
                tf.zeros(variable.shape, dtype), name=f"{variable_path(variable)}/{name}", trainable=False
            )
        self._variables.append(like)
        return like

    def aggregate_gradients(self, grads_and_vars):
        """Sums gradients over replicas, in the dtype of the update.

        Args:
            grads_and_vars: A list of (gradient, variable); a gradient may be None or `tf.IndexedSlices`.

        Returns:
            The list with the sums in the place of the gradients.
        """
        grads_and_vars = list(grads_and_vars)
        gradients = [self._prepared(gradient, variable) for gradient, variable in grads_and_vars]
        return list(zip(replicas.sum_over_replicas(gradients), (v for _, v in grads_and_vars), strict=True))

    def apply_gradients(self, grads_and_vars, name=None, skip_gradients_aggregation=False, **kwargs):
        """Updates the variables.

        Args:
            grads_and_vars: A list of (gradient, variable). A gradient may be `tf.IndexedSlices`, whose repeated ids
                are summed; a variable whose gradient is None stays as it is.
            name: Not used.
            skip_gradients_aggregation: Whether the gradients are already summed over replicas.
            **kwargs: `experimental_aggregate_gradients`, the reverse of that.

        Returns:
            The count of updates made, a variable.

        Raises:
            ValueError: There is no gradient at all, or the optimizer was built without one of the variables.
            RuntimeError: tf_keras's LossScaleOptimizer is around an optimizer with `dynamic_loss_scale`.
        """
        if self._options.dynamic_loss_scale and getattr(self, "_is_wrapped_by_loss_scale_optimizer", False):
            raise RuntimeError(
                "tf_keras's LossScaleOptimizer and `dynamic_loss_scale=True` would both scale the loss. Expected one "
                "of them. tf_keras wraps the optimizer of every `mixed_float16` model; leave out `dynamic_loss_scale` "
                "there."
            )
        grads_and_vars = list(grads_and_vars)
        if not grads_and_vars:
            return self.iterations
        if not skip_gradients_aggregation and kwargs.pop("experimental_aggregate_gradients", True):
            grads_and_vars = self.aggregate_gradients(grads_and_vars)
        self._compute_current_learning_rate()
        gradients, variables = zip(*grads_and_vars, strict=True)
        with tf.init_scope():
            self.build(variables)
        by_position = self._gradients_by_position(gradients, variables, self._index_dict)
        self._replica_update(by_position, self.learning_rate)
        return self.iterations

    def compute_gradients(self, loss, var_list, tape=None):
        """Takes the gradients of the loss, scaled if the optimizer has a dynamic loss scale.

        Args:
            loss: A tensor, or a function without arguments that returns one.
            var_list: The variables, or a function without arguments that returns them.
            tape: The `tf.GradientTape` that recorded the loss, if that is a tensor.

        Returns:
            A list of (gradient, variable).
        """
        if not self._options.dynamic_loss_scale:
            return super().compute_gradients(loss, var_list, tape)
        if callable(loss):
            with tf.GradientTape() as tape:
                loss = loss()
        variables = var_list() if callable(var_list) else var_list
        seed = self.scale_loss(tf.ones_like(loss))
        return list(zip(tape.gradient(loss, variables, output_gradients=seed), variables, strict=True))

    def _prepared(self, gradient, variable):
        return None if gradient is None else replicas.densify(gradient, compute_dtype(variable))

    def _overwrite_model_variables_with_average_value(self, var_list):
        # tf_keras would assign the averages as they are, which may be wider than the variables.
        for variable in var_list:
            average = self._model_variables_moving_average[self._index_dict[self._var_key(variable)]]
            variable.assign(self._final_value(_without_autocast(variable), average))


@tf_keras.saving.register_keras_serializable(package="tf_lamb")
class LAMB(LambUpdate, LayerwiseOptimizer):
    """LAMB for tf_keras models: `tf_lamb.LAMB` with the same arguments, in tf_keras's optimizer class.

    Exclusion lists are searched in tf_keras's variable names without the `:0`, for example
    `transformer/layer_0/self_attention_layer_norm/gamma`. The learning rate may be a schedule of tf_keras or of Keras
    3, as in `tf_lamb.schedules`, but no other callable.

    Raises:
        ValueError: An option is out of its range.
        TypeError: An exclusion list is not a list, or holds something else than strings, layers and variables.
    """


@tf_keras.saving.register_keras_serializable(package="tf_lamb")
class LARS(LarsUpdate, LayerwiseOptimizer):
    """LARS for tf_keras models: `tf_lamb.LARS` with the same arguments; see `LAMB` of this module."""


@tf_keras.saving.register_keras_serializable(package="tf_lamb")
class NormalizedSGD(NormalizedSgdUpdate, LayerwiseOptimizer):
    """Normalised SGD for tf_keras models: `tf_lamb.NormalizedSGD` with the same arguments; see `LAMB`."""


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


def _without_autocast(variable):
    """The variable itself behind the wrapper that mixed precision puts around it."""
    return getattr(variable, "_variable", variable) if hasattr(variable, "true_dtype") else variable
