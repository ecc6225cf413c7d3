"""The base class of the optimizers for Keras 3."""

import contextlib

import keras
from keras import ops

from tf_lamb.state import compute_dtype, variable_path
from tf_lamb.update import LayerwiseUpdate

BACKEND = keras.backend.backend()
if BACKEND == "tensorflow":
    from tf_lamb import in_place, replicas
elif BACKEND == "torch":
    import torch


class LayerwiseOptimizer(LayerwiseUpdate, keras.optimizers.Optimizer):
    """Base of the optimizers for Keras 3: a base update times a trust ratio, for each layer.

    Gradients are summed over the replicas of a tf.distribute strategy first and clipped after that, so N replicas do
    what one does on the same global batch. Subclasses name their state in `slot_names` and compute in `step_scalars`
    and `new_values`.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`, or a callable without arguments.
        weight_decay: A float >= 0.
        exclude_from_weight_decay: A list of regular expressions, layers or variables, or None.
        exclude_from_layer_adaptation: The same for the trust ratio. None means the list for decay, `()` means none.
        layer_axes: A dictionary of regular expressions to axes: the slices of a matching variable along the axis are
            layers with norms of their own, for example the heads of a fused kernel. None: a variable is one layer.
        norm: `"l2"`, `"l1"` or `"linf"`, the norm of weights and updates in the trust ratio.
        weight_norm_bounds: A pair (lower, upper) that bounds the weight norm, phi of the paper; either may be None.
        trust_ratio_bounds: A pair (lower, upper) that bounds the trust ratio; either may be None.
        master_weights: Whether bfloat16 and float16 variables have a float32 master, whose rounding errors do not
            accumulate. Where a variable is written by somebody else, it wins over its master.
        moment_dtype: `"bfloat16"` stores moments in half the memory, `("bfloat16", "float32")` only the first of two.
            The second moment of LAMB is rounded stochastically. None: float32. Moments of float64 variables are
            float64 in any case.
        skip_nonfinite: Whether a step is skipped, and not counted, when a summed gradient is infinite or NaN, or so
            large that its square is infinite. With accumulation one bad gradient drops its whole cycle.
            `skipped_steps` counts them.
        dynamic_loss_scale: Whether the loss is scaled for float16: halved after a skipped step, doubled after
            `dynamic_growth_steps` others. It implies `skip_nonfinite`, and is safe under a strategy. In a loop of
            your own, give the loss to `scale_loss` before taking gradients. Compile a `mixed_float16` model with
            `auto_scale_loss=False`, or Keras would scale the loss, too, which is an error.
        initial_scale: A float > 0, the first loss scale.
        dynamic_growth_steps: An integer >= 1.
        gradient_accumulation_steps: An integer >= 2: the mean gradient of so many calls makes one update. Schedules,
            averages and `iterations` count updates. None: every call is an update.
        telemetry: Whether the update writes `statistics()`.
        telemetry_every_steps: An integer >= 1: how often the global gradient norm is taken if clipping does not.
        jit_compile: `"auto"` or True: on the TensorFlow backend the update of all variables is one XLA computation per
            replica, part of the training step where that is compiled itself. With `"auto"` LAMB takes in-place kernels
            instead where all variables are float32 on CPUs; see `tf_lamb.in_place` for which options it can. False:
            plain TensorFlow operations.
        plan: Only for `from_config`: the resolved lists of the optimizer that was saved.
        **kwargs: The other options of `keras.optimizers.Optimizer`: `name`, `clipnorm`, `global_clipnorm` and
            `clipvalue`, which clip the gradients after they are summed over replicas; `use_ema`, `ema_momentum`,
            `ema_overwrite_frequency`, `loss_scale_factor`.

    Raises:
        ValueError: An option is out of its range.
        TypeError: A list or dictionary of patterns holds something else.
    """

    def build(self, variables):
        """Makes the plan and the state, once.

        Args:
            variables: The trainable variables, `keras.Variable` or `tf.Variable`.
        """
        if self.built:
            return
        # Keras would make averages and accumulators here: before the moments, and in the dtype of the variables.
        use_ema, accumulation_steps = self.use_ema, self.gradient_accumulation_steps
        self.use_ema, self.gradient_accumulation_steps = False, None
        super().build(list(variables))
        self.use_ema, self.gradient_accumulation_steps = use_ema, accumulation_steps
        self._build_state(self._trainable_variables)
        if BACKEND == "tensorflow":
            states = self._variable_states(self._trainable_variables, native)
            better = in_place.choose(self, self._trainable_variables, states)
            self._replica_update = replicas.ReplicaUpdate(
                self._update_variables, states, self._shared_state(native), self._options.jit_compile, better
            )

    def _add_variable(self, shape, dtype, name, initial_value):
        initializer = keras.initializers.Constant(initial_value)
        return self.add_variable(
            shape, initializer=initializer, dtype=dtype, name=name, aggregation="only_first_replica"
        )

    def _add_variable_like(self, variable, dtype, name):
        place = contextlib.nullcontext()
        if BACKEND == "tensorflow":
            place = self._distribution_strategy.extended.colocate_vars_with(native(variable))
        with place:
            return self.add_variable(
                shape=variable.shape,
                dtype=dtype,
                layout=getattr(variable, "_layout", None),
                name=f"{variable_path(variable).replace('/', '_')}_{name}",
            )

    def apply(self, grads, trainable_variables=None):
        """Updates the variables.

        Args:
            grads: A list of gradients, dense or sparse: `tf.IndexedSlices`, or JAX's `BCOO`; the rows of repeated ids
                are summed. A variable whose gradient is None stays as it is.
            trainable_variables: The variables, in the order of `grads`; by default those the optimizer was built on.

        Raises:
            ValueError: There is no gradient at all, or the gradients are not of the variables the optimizer was built
                on.
            RuntimeError: Keras's LossScaleOptimizer calls under a strategy with several replicas, or beside
                `dynamic_loss_scale`.
        """
        grads = list(grads)
        if not grads:
            return
        variables = self._resolve_variables(grads, trainable_variables)
        gradients = self._gradients_by_position(grads, variables, self._trainable_variables_indices)
        if BACKEND == "tensorflow":
            replicas.refuse_keras_loss_scale_optimizer(self._options.dynamic_loss_scale)
            overwritten = [rule.overwritten for rule in self._plan]
            gradients = replicas.sum_over_replicas(gradients, overwritten)
            self._replica_update(gradients, self.learning_rate)
            return
        with torch.no_grad() if BACKEND == "torch" else contextlib.nullcontext():
            states = self._variable_states(self._trainable_variables, _same)
            self._update_variables(gradients, states, self._shared_state(_same), self.learning_rate)

    def _resolve_variables(self, grads, variables):
        if variables is None and not self.built:
            raise ValueError(
                "The optimizer does not know its variables. "
                "Call `optimizer.build(model.trainable_variables)` first, or pass the variables."
            )
        if variables is None:
            variables = self._trainable_variables
        variables = list(variables)
        if len(grads) != len(variables):
            raise ValueError(
                "The gradients must match the variables one to one. "
                f"Received: {len(grads)} gradients for {len(variables)} variables."
            )
        if not self.built:
            # Outside of a function that is being traced: there, a strategy's variables could not be made.
            with replicas.outside_of_tracing() if BACKEND == "tensorflow" else contextlib.nullcontext():
                self.build(variables)
        return variables

    def _prepared(self, gradient, variable):
        """A dense gradient in the dtype of the update, not scaled; None stays."""
        if gradient is None:
            return None
        dtype = compute_dtype(variable)
        if BACKEND == "tensorflow":
            gradient = replicas.densify(gradient, dtype)
        else:
            gradient = ops.convert_to_tensor(ops.cast(gradient, dtype), sparse=False)
        overwritten = getattr(variable, "overwrite_with_gradient", False)
        return gradient if self.loss_scale_factor is None or overwritten else gradient / self.loss_scale_factor

    def _overwrite_model_variables_with_average_value(self, trainable_variables):
        # Keras would assign the averages as they are, which may be wider than the variables. On JAX both would share
        # one buffer then, which a compiled step cannot be given twice.
        for variable, average in zip(trainable_variables, self._model_variables_moving_average, strict=True):
            if average is not None:
                variable.assign(ops.copy(self._final_value(variable, average)))

    @property
    def iterations(self):
        """The count of updates made: skipped steps and the steps of an unfinished accumulation do not count."""
        return self._iterations


def native(variable):
    """The backend's own variable behind a Keras 3 variable; any other variable, or None, as it is."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def _same(variable):
    return variable
