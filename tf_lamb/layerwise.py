"""What every layer-wise optimizer shares: options, plan, clipping and the loop over variables."""

import contextlib

import keras
from keras import ops

from tf_lamb import core, options, rules

if keras.backend.backend() == "tensorflow":
    from tf_lamb import replicas


class LayerwiseUpdate:
    """The update of a list of variables, the same for Keras 3 and tf_keras.

    A mixin: a concrete optimizer also inherits from the optimizer class of its Keras, and from a class that names
    the state in `slot_names` and computes in `step_scalars` and `new_values`.
    """

    slot_names = ()

    def _set_layerwise_options(self, decay_patterns, adaptation_patterns, jit_compile, saved_plan):
        # Not named like Keras's method `exclude_from_weight_decay`, which the attribute would hide.
        self._decay_patterns = rules.check_patterns("exclude_from_weight_decay", decay_patterns)
        self._adaptation_patterns = rules.check_patterns("exclude_from_layer_adaptation", adaptation_patterns)
        self.jit_compile = options.check_jit_compile(jit_compile)
        for name in ("clipnorm", "global_clipnorm", "clipvalue"):
            options.check_limit(name, getattr(self, name))
        self._saved_plan = saved_plan
        self._plan = None

    def plan(self):
        """What happens to each variable: its path, shape, whether it decays and adapts, and the deciding pattern.

        Returns:
            A `tf_lamb.rules.Plan`, a tuple of rules that prints as a table.

        Raises:
            ValueError: The optimizer has not been built on variables.
        """
        if self._plan is None:
            raise ValueError(
                "The optimizer has no plan before it knows its variables. "
                "Call `optimizer.build(model.trainable_variables)` first."
            )
        return self._plan

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Adds to the list `exclude_from_weight_decay`, before the optimizer is built.

        Where `exclude_from_layer_adaptation` is None, the variables do not adapt either.

        Args:
            var_list: Variables to exclude, by their full paths.
            var_names: Regular expressions to exclude by; they are searched in the variables' full paths.

        Raises:
            ValueError: The optimizer is built already, so its plan is fixed.
        """
        if self._plan is not None:
            raise ValueError(
                "`exclude_from_weight_decay()` was called after the optimizer was built, when its plan is fixed. "
                "Call it before the first step, or pass the list to the constructor."
            )
        patterns = (*(rules.exactly(variable_path(v)) for v in var_list or ()), *(var_names or ()))
        self._decay_patterns = (*(self._decay_patterns or ()), *rules.check_patterns("var_names", patterns))

    def _make_plan(self, variables):
        paths = [variable_path(variable) for variable in variables]
        shapes = [tuple(variable.shape) for variable in variables]
        if self._saved_plan is not None and [row[0] for row in self._saved_plan] != paths:
            self._plan = rules.restore_plan(self._saved_plan, paths, shapes)
        else:
            self._plan = rules.make_plan(paths, shapes, self._decay_patterns, self._adaptation_patterns)

    def _update_variables(self, indices, gradients, variables, learning_rate, t):
        """Assigns new values to variables and their state.

        Args:
            indices: The position of each updated variable in the plan.
            gradients: For each, its gradient in its compute dtype, summed over replicas.
            variables: For each, a list of the variable and its slots; anything with `assign`.
            learning_rate: A scalar.
            t: The count of updates from 1, an integer scalar.
        """
        gradients = self._clip(gradients)
        scalars = {}
        for index, gradient, (variable, *slots) in zip(indices, gradients, variables, strict=True):
            dtype = keras.backend.standardize_dtype(gradient.dtype)
            if dtype not in scalars:
                scalars[dtype] = ops.cast(learning_rate, dtype), self.step_scalars(ops.cast(t, dtype))
            new_values = self.new_values(
                self._plan[index],
                ops.cast(variable, dtype),
                gradient,
                [ops.cast(s, dtype) for s in slots],
                *scalars[dtype],
            )
            for target, value in zip([variable, *slots], new_values, strict=True):
                target.assign(ops.cast(value, target.dtype))

    def _clip(self, gradients):
        if self.clipnorm:
            return [core.clip_by_norm(gradient, self.clipnorm) for gradient in gradients]
        if self.global_clipnorm:
            return core.clip_by_global_norm(gradients, self.global_clipnorm)
        if self.clipvalue:
            return [ops.clip(gradient, -self.clipvalue, self.clipvalue) for gradient in gradients]
        return gradients

    def _layerwise_config(self):
        return {
            "exclude_from_weight_decay": _as_list(self._decay_patterns),
            "exclude_from_layer_adaptation": _as_list(self._adaptation_patterns),
            "jit_compile": self.jit_compile,
            "plan": self._saved_plan if self._plan is None else rules.plan_config(self._plan),
        }

    def step_scalars(self, t):
        """What depends on the update count `t` alone, computed once for all variables."""
        raise NotImplementedError

    def new_values(self, rule, w, g, slots, learning_rate, scalars):
        """The new value of a variable `w` with gradient `g`, followed by those of its `slots`."""
        raise NotImplementedError


class LayerwiseOptimizer(LayerwiseUpdate, keras.optimizers.Optimizer):
    """Base of the optimizers for Keras 3.

    Gradients are summed over the replicas of a tf.distribute strategy first and clipped after that, so N replicas do
    what one does on the same global batch.
    """

    def build(self, variables):
        """Makes the plan and the state, once.

        Args:
            variables: The trainable variables, `keras.Variable` or `tf.Variable`.
        """
        if self.built:
            return
        super().build(variables)
        self._make_plan(variables)
        self._slots = [
            [self.add_variable_from_reference(variable, name) for name in self.slot_names] for variable in variables
        ]
        if keras.backend.backend() == "tensorflow":
            self._replica_update = replicas.ReplicaUpdate(self._update_variables, self.jit_compile)

    def add_variable_from_reference(self, reference_variable, name=None, initializer="zeros"):
        """Adds a variable of the shape of another, placed where that is, in the dtype of its update.

        Keras gives it the dtype of the other, which may be too narrow for moments and accumulated gradients.

        Args:
            reference_variable: The model's variable.
            name: What the variable holds.
            initializer: A Keras initializer.
        """
        if name == "average":  # Keras assigns the moving average to the model's variable as it is.
            return super().add_variable_from_reference(reference_variable, name, initializer)
        place = contextlib.nullcontext()
        if keras.backend.backend() == "tensorflow":
            place = self._distribution_strategy.extended.colocate_vars_with(native(reference_variable))
        with place:
            return self.add_variable(
                shape=reference_variable.shape,
                initializer=initializer,
                dtype=_compute_dtype(reference_variable),
                layout=getattr(reference_variable, "_layout", None),
                name=f"{variable_path(reference_variable).replace('/', '_')}_{name}",
            )

    def apply(self, grads, trainable_variables=None):
        """Updates the variables.

        Args:
            grads: A list of gradients, tensors or `tf.IndexedSlices`; those of repeated ids are summed.
            trainable_variables: The variables, in the order of `grads`; by default those the optimizer was built on.
        """
        if keras.backend.backend() == "tensorflow":
            # Keras's own steps before the update, such as accumulation, do not take sparse gradients.
            grads = [g if g is None else replicas.densify(g, _compute_dtype(g)) for g in grads]
        super().apply(grads, trainable_variables)

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        indices = tuple(self._get_variable_index(variable) for variable in trainable_variables)
        grads = [
            ops.cast(gradient, _compute_dtype(variable))
            for gradient, variable in zip(grads, trainable_variables, strict=True)
        ]
        variables = [
            [variable, *self._slots[index]] for index, variable in zip(indices, trainable_variables, strict=True)
        ]
        t = self.iterations + 1
        if keras.backend.backend() == "tensorflow":
            variables = [[native(variable) for variable in group] for group in variables]
            self._replica_update(indices, replicas.sum_over_replicas(grads), variables, learning_rate, t)
        else:
            self._update_variables(indices, grads, variables, learning_rate, t)

    def _clip_gradients(self, grads):
        # Keras clips here, before replicas are summed. The update clips after the sum.
        return grads

    def _apply_weight_decay(self, variables):
        # Keras would decay here, outside the update. The update holds the decay.
        pass

    def get_config(self):
        """Returns all options, from which `from_config` makes an equal optimizer."""
        return {**super().get_config(), **self._layerwise_config()}


def variable_path(variable):
    """The full path of a Keras 3, tf_keras or TensorFlow variable, without TensorFlow's `:0`."""
    return getattr(variable, "path", None) or variable.name.split(":")[0]


def native(variable):
    """The backend's own variable behind a Keras 3 variable; any other variable as it is."""
    return variable.value if isinstance(variable, keras.Variable) else variable


def _compute_dtype(variable):
    return core.compute_dtype(keras.backend.standardize_dtype(variable.dtype))


def _as_list(patterns):
    return None if patterns is None else list(patterns)
