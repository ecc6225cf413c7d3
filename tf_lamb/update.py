"""What one call of a layer-wise optimizer does to all variables, the same for Keras 3 and tf_keras.

    gradients -> gate (unscale, accumulate, skip) -> clip -> base update x trust ratio -> constraint -> average

On TensorFlow all of this is one function per replica, compiled by XLA or with the kernels of `tf_lamb.in_place`; see
`tf_lamb.replicas`.
"""

import warnings

from keras import ops

from tf_lamb import core, gate, options, rounding, rules, telemetry
from tf_lamb.state import SharedState, VariableState, compute_dtype, storage_dtype, variable_path
from tf_lamb.step import Step


class LayerwiseUpdate:
    """A mixin: the options, the plan, and the update of a list of variables.

    A concrete optimizer also inherits from the optimizer class of its Keras, which has to offer `_add_variable(shape,
    dtype, name, initial_value)` and `_add_variable_like(variable, dtype, name)`, and from a class of base updates,
    which names its state in `slot_names` and computes in `step_scalars` and `new_values`.
    """

    slot_names = ()
    # The slots whose rounding to bfloat16 is stochastic.
    stochastic_slots = ()
    # Whether the base update is Adam's step plus the decayed weight.
    takes_adam_steps = False

    def __init__(
        self,
        learning_rate,
        *,
        weight_decay=0.0,
        exclude_from_weight_decay=None,
        exclude_from_layer_adaptation=None,
        layer_axes=None,
        gradient_accumulation_steps=None,
        plan=None,
        **kwargs,
    ):
        names = options.LayerwiseOptions.__dataclass_fields__.keys() & kwargs.keys()
        layerwise_options = options.LayerwiseOptions(**{name: kwargs.pop(name) for name in names})
        layerwise_options.moment_dtypes(len(self.slot_names))
        weight_decay = options.check_non_negative("weight_decay", weight_decay)
        if gradient_accumulation_steps is not None:
            options.check_count("gradient_accumulation_steps", gradient_accumulation_steps, low=2)
        if layerwise_options.dynamic_loss_scale and kwargs.get("loss_scale_factor") is not None:
            raise ValueError(
                "`dynamic_loss_scale` and `loss_scale_factor` would both scale the loss. Expected one of them. "
                f"Received: loss_scale_factor={kwargs['loss_scale_factor']!r}."
            )
        # Kept away from Keras's trackers, which would take over the variables and layers of the lists.
        decay_list = rules.ExclusionList("exclude_from_weight_decay", exclude_from_weight_decay)
        adaptation_list = rules.ExclusionList("exclude_from_layer_adaptation", exclude_from_layer_adaptation)
        axes = rules.LayerAxes(layer_axes)
        options.warn_of_empty_list(exclude_from_weight_decay, exclude_from_layer_adaptation)

        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, **kwargs)
        options.check_limits({name: getattr(self, name) for name in ("clipnorm", "global_clipnorm", "clipvalue")})
        self._options = layerwise_options
        # Not named like Keras's method `exclude_from_weight_decay`, which the attribute would hide.
        self._decay_list, self._adaptation_list, self._layer_axes = decay_list, adaptation_list, axes
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self._saved_plan = plan
        self._plan = None
        self._missing_warned = False

    @property
    def skips(self):
        """Whether a step whose gradients are not finite is skipped."""
        return self._options.skip_nonfinite or self._options.dynamic_loss_scale

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
            var_list: Variables to exclude.
            var_names: Regular expressions to exclude by; they are searched in the variables' full paths.

        Raises:
            ValueError: The optimizer is built already, so its plan is fixed.
        """
        known = {entry if isinstance(entry, str) else id(entry) for entry in self._decay_list.entries}
        added = (*(var_list or ()), *(var_names or ()))
        added = [entry for entry in added if (entry if isinstance(entry, str) else id(entry)) not in known]
        # Replicas may all call it in their step, of which the first builds the optimizer.
        if self._plan is not None and added:
            raise ValueError(
                "`exclude_from_weight_decay()` was called after the optimizer was built, when its plan is fixed. "
                "Call it before the first step, or pass the list to the constructor."
            )
        if added:
            entries = (*self._decay_list.entries, *added)
            self._decay_list = rules.ExclusionList("exclude_from_weight_decay", entries)

    def _build_state(self, variables):
        """Makes the plan and all variables: those that every optimizer has first, optional ones last."""
        self._make_plan(variables)
        options_ = self._options
        kept = [not rule.overwritten for rule in self._plan]
        dtypes = [compute_dtype(variable) for variable in variables]
        # A method of a tuple, which Keras's and TensorFlow's trackers leave alone.
        self._constraint_of = tuple(getattr(variable, "constraint", None) for variable in variables).__getitem__
        moment_dtypes = options_.moment_dtypes(len(self.slot_names))

        def for_each(chosen, name):
            return [
                self._add_variable_like(variable, dtype, name) if choice else None
                for variable, choice, dtype in zip(variables, chosen, dtypes, strict=True)
            ]

        def scalar(wanted, name, dtype="int32", initial_value=0):
            return self._add_variable((), dtype, name, initial_value) if wanted else None

        self._slots = [
            [
                self._add_variable_like(variable, moment_dtype if dtype == "float32" else dtype, name)
                for name, moment_dtype in zip(self.slot_names, moment_dtypes, strict=True)
            ]
            if keep
            else []
            for variable, keep, dtype in zip(variables, kept, dtypes, strict=True)
        ]
        narrow = [keep and storage_dtype(v) in ("bfloat16", "float16") for keep, v in zip(kept, variables, strict=True)]
        # Zeros are no master of a nonzero variable, so the first step takes the variable's own value.
        self._masters = for_each([options_.master_weights and each for each in narrow], "master")
        accumulates = bool(self.gradient_accumulation_steps)
        self._accumulated_gradients = for_each([accumulates] * len(variables), "gradient_accumulator")
        # Keras tells by the attribute whether an optimizer has averages.
        if self.use_ema:
            self._model_variables_moving_average = for_each(kept, "average")
        self._micro_step = scalar(accumulates, "micro_step")
        self._bad_micro_steps = scalar(accumulates and self.skips, "bad_micro_steps")
        self._skipped_steps = scalar(self.skips, "skipped_steps")
        scales = options_.dynamic_loss_scale
        self._loss_scale = scalar(scales, "loss_scale", "float32", options_.initial_scale)
        self._good_steps = scalar(scales, "good_steps")
        self._statistics = telemetry.make_variables(self._plan, self._add_variable) if options_.telemetry else None

    def _make_plan(self, variables):
        paths = [variable_path(variable) for variable in variables]
        saved = self._saved_plan
        if saved is not None and ([row[0] for row in saved] != paths or len(set(paths)) < len(paths)):
            self._plan = rules.restore_plan(saved, paths, [tuple(variable.shape) for variable in variables])
        else:
            lists = (self._decay_list, self._adaptation_list, self._layer_axes)
            self._plan = rules.make_plan(variables, paths, *lists, self._var_key)

    def _gradients_by_position(self, gradients, variables, positions):
        """The prepared gradients in the order of the plan, None where there is none; warns of that once.

        Args:
            gradients: A list of gradients and None.
            variables: Their variables.
            positions: A dictionary of `_var_key(variable)` to its position in the plan.

        Raises:
            ValueError: There is no gradient at all, or the optimizer was built without one of the variables.
        """
        by_position, missing = [None] * len(self._plan), []
        for gradient, variable in zip(gradients, variables, strict=True):
            if self._var_key(variable) not in positions:
                raise ValueError(
                    f"The optimizer was built without the variable {variable_path(variable)!r}. "
                    "Build it on all trainable variables, or make a new optimizer."
                )
            by_position[positions[self._var_key(variable)]] = self._prepared(gradient, variable)
            if gradient is None:
                missing.append(variable_path(variable))
        if len(missing) == len(variables):
            raise ValueError(f"No gradients provided for any variable. Received: None for each of {missing}.")
        if missing and not self._missing_warned:
            self._missing_warned = True
            warnings.warn(f"Gradients do not exist for variables {missing}, which stay as they are.", stacklevel=4)
        return by_position

    def _variable_states(self, variables, native):
        """The variables and their state, in the order of the plan; `native` unwraps each."""
        columns = (self._masters, self._accumulated_gradients, self._averages)
        return [
            VariableState(native(value), [native(slot) for slot in slots], *(native(each) for each in others))
            for value, slots, *others in zip(variables, self._slots, *columns, strict=True)
        ]

    @property
    def _averages(self):
        return self._model_variables_moving_average if self.use_ema else [None] * len(self._plan)

    def _shared_state(self, native):
        counters = (self._micro_step, self._bad_micro_steps, self._skipped_steps, self._loss_scale, self._good_steps)
        statistics = self._statistics and {name: native(each) for name, each in self._statistics.items()}
        return SharedState(native(self._iterations), *(native(each) for each in counters), statistics)

    def _update_variables(
        self, gradients, states, shared, learning_rate, update_all=None, sum_of_squares=core.sum_of_squares
    ):
        """Assigns new values to variables and their state.

        Args:
            gradients: For each variable of the plan its gradient in its compute dtype, summed over replicas; or None.
            states: For each variable a `VariableState` of anything with `assign`.
            shared: A `SharedState` of the same.
            learning_rate: A scalar.
            update_all: What updates all variables at once, an `in_place.InPlaceUpdate`; None: one after the other.
            sum_of_squares: What computes that of a gradient.
        """
        overwriting = [g if rule.overwritten else None for rule, g in zip(self._plan, gradients, strict=True)]
        gradients = [None if rule.overwritten else g for rule, g in zip(self._plan, gradients, strict=True)]
        if shared.loss_scale is not None:
            gradients = gate.unscale(gradients, shared.loss_scale)
        finite = gate.all_finite(gradients) if self.skips else None
        ends, applied = gate.decide(shared, finite, self.gradient_accumulation_steps)
        gate.overwrite(overwriting, states, ends, applied)
        in_cycle = [None] * len(states)
        if self.gradient_accumulation_steps:
            accumulators = [
                None if rule.overwritten else state.accumulator for rule, state in zip(self._plan, states, strict=True)
            ]
            gradients, in_cycle = gate.accumulate(gradients, accumulators, ends, self.gradient_accumulation_steps)

        t = shared.iterations + 1
        present = [g for g in gradients if g is not None]
        clipped, gradient_norm, any_clipped = self._clip(present, sum_of_squares)
        remaining = iter(clipped)
        scalars, tasks = {}, []
        for position, (rule, gradient, state) in enumerate(zip(self._plan, gradients, states, strict=True)):
            if rule.overwritten:
                continue
            dtype = compute_dtype(state.value)
            if dtype not in scalars:
                scalars[dtype] = ops.cast(learning_rate, dtype), self.step_scalars(ops.cast(t, dtype))
            slot_dtypes = {name: slot.dtype for name, slot in zip(self.slot_names, state.slots, strict=True)}
            step = Step(rule, position, t, dtype, self._options, slot_dtypes, self.stochastic_slots)
            gradient = None if gradient is None else next(remaining)
            tasks.append((step, state, gradient, scalars[dtype], in_cycle[position]))
        if update_all is None:
            trusts = [self._update_one(*task, applied) for task in tasks]
        else:
            trusts = update_all(tasks, applied)

        if shared.loss_scale is not None:
            gate.adjust_loss_scale(shared, ends, applied, self._options.dynamic_growth_steps)
        if shared.statistics is not None:
            every = self._options.telemetry_every_steps
            trusts = [(step.rule, trust) for (step, *_), trust in zip(tasks, trusts, strict=True)]
            known = gradient_norm, any_clipped
            telemetry.record(shared.statistics, trusts, present, *known, t, every, applied, sum_of_squares)
        shared.iterations.assign(gate.masked(applied, t, shared.iterations))

    def _update_one(self, step, state, gradient, scalars, in_cycle, applied):
        """Updates one variable and its state; returns its `core.Trust`, or None.

        Without a gradient, or where `in_cycle` says that its cycle had none, only the average goes on.
        """
        if gradient is None and state.average is None:
            return None
        value = ops.convert_to_tensor(state.value)
        w = ops.cast(value, step.dtype)
        if state.master is not None:
            w = rounding.reconcile(ops.convert_to_tensor(state.master), value)
        new_w, trust = w, None
        if gradient is not None:
            slots = [ops.cast(slot, step.dtype) for slot in state.slots]
            new_w, *new_slots, trust = self.new_values(step, w, gradient, slots, *scalars)
            constraint = self._constraint_of(step.position)
            if constraint is not None:
                new_w = constraint(new_w)
            changes = applied if in_cycle is None else ops.logical_and(applied, in_cycle)
            for slot, new, old in zip(state.slots, new_slots, slots, strict=True):
                slot.assign(ops.cast(gate.masked(changes, new, old), slot.dtype))
            new_w = gate.masked(in_cycle, new_w, w)
        new_w = gate.masked(applied, self._average(state, new_w, step.t, applied), w)
        if state.master is not None:
            state.master.assign(new_w)
        state.value.assign(ops.cast(new_w, value.dtype))
        return trust if in_cycle is None else None

    def _average(self, state, w, t, applied):
        """Moves the average towards the new value `w`; returns the value to go on with."""
        if state.average is None:
            return w
        old = ops.cast(state.average, w.dtype)
        average = ops.where(ops.equal(t, 1), w, self.ema_momentum * old + (1.0 - self.ema_momentum) * w)
        state.average.assign(gate.masked(applied, average, old))
        if not self.ema_overwrite_frequency:
            return w
        return ops.where(ops.equal(t % self.ema_overwrite_frequency, 0), average, w)

    def _final_value(self, variable, average):
        """What a variable gets in the end: its average, in its own dtype, or itself where no update was made yet."""
        value = ops.convert_to_tensor(variable)
        return ops.where(ops.equal(self._iterations, 0), value, ops.cast(average, value.dtype))

    def _clip(self, gradients, sum_of_squares):
        """The clipped gradients, their norm before if it is known, and whether any was clipped; None if unknown."""
        if self.clipnorm:
            norms = [ops.sqrt(sum_of_squares(g)) for g in gradients]
            clipped = [core.clip_by_norm(g, self.clipnorm, norm) for g, norm in zip(gradients, norms, strict=True)]
            return clipped, None, ops.any(ops.stack([norm > self.clipnorm for norm in norms]))
        if self.global_clipnorm:
            norm = core.global_norm(gradients, sum_of_squares)
            return core.clip_by_global_norm(gradients, self.global_clipnorm, norm), norm, norm > self.global_clipnorm
        if self.clipvalue:
            limit = self.clipvalue
            beyond = None
            if self._options.telemetry:
                beyond = ops.any(ops.stack([ops.any(ops.abs(g) > limit) for g in gradients]))
            return [ops.clip(g, -limit, limit) for g in gradients], None, beyond
        return gradients, None, None

    def step_scalars(self, t):
        """What depends on the update count `t` alone, computed once for all variables."""
        raise NotImplementedError

    def new_values(self, step, w, g, slots, learning_rate, scalars):
        """The new value of a variable `w` with gradient `g`, those of its `slots`, and its `core.Trust`."""
        raise NotImplementedError

    def scale_loss(self, loss):
        """The loss, times the dynamic loss scale or `loss_scale_factor`; the gradients are to be taken of that."""
        if not self._options.dynamic_loss_scale:
            return super().scale_loss(loss) if hasattr(super(), "scale_loss") else loss
        scale = self._options.initial_scale if self._plan is None else self._loss_scale
        return loss * ops.cast(scale, loss.dtype)

    @property
    def skipped_steps(self):
        """How many steps were skipped because a gradient was not finite, an int32 scalar; None without skipping."""
        return self._skipped_steps if self._plan else None

    @property
    def loss_scale(self):
        """The dynamic loss scale, a float32 scalar; None without one."""
        return self._loss_scale if self._plan else None

    def layer_names(self):
        """The names of the entries of `statistics()`: the paths of the variables, with the slice where they stack."""
        return telemetry.layer_names(self.plan())

    def statistics(self):
        """What the last update did; may be called inside a traced function, and by every replica.

        Returns:
            A dictionary of tensors: `trust_ratio`, `weight_norm` and `update_norm`, float32 vectors of an entry for
            each of `layer_names()`; `gradient_norm`, the global norm before clipping; `clip_rate`, the share of
            updates so far that clipped; `bound_hits`, in how many layers a bound acted; and `skipped_steps`.

        Raises:
            ValueError: The optimizer was made without `telemetry=True`, or has not been built.
        """
        if not self._options.telemetry:
            raise ValueError("The optimizer keeps no statistics. Make it with `telemetry=True`.")
        self.plan()
        return telemetry.read(self._statistics, self._iterations, self._skipped_steps)

    def get_config(self):
        """Returns all options, from which `from_config` makes an equal optimizer."""
        return {
            **super().get_config(),
            **self._options.config(),
            "exclude_from_weight_decay": self._decay_list.config(variable_path),
            "exclude_from_layer_adaptation": self._adaptation_list.config(variable_path),
            "layer_axes": self._layer_axes.axes or None,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "plan": self._saved_plan if self._plan is None else rules.plan_config(self._plan),
        }

    @classmethod
    def from_config(cls, config, *args, **kwargs):
        """An optimizer with the options that `get_config` gave."""
        config = dict(config)
        if config.get("exclude_from_layer_adaptation") == []:
            config["exclude_from_layer_adaptation"] = ()  # A list would be asked whether it means Addons' `[]`.
        return super().from_config(config, *args, **kwargs)
