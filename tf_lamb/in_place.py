"""LAMB on CPUs by TensorFlow's own kernels, which write in place.

On a CPU, XLA's loops move about twice the bytes that an update needs, and take long to compile. Here a variable takes a
few kernels and one scratch array q, in the equations of `tf_lamb.core`:

    q = -weight_decay * w
    m, v, q = the kernel of Adam, which subtracts r of (4) from q: it is -update of (5) then
    w = w + learning_rate * trust_ratio * q

The kernel knows 1 - beta only of a beta rounded to float32. The bias corrections are taken of the same beta, so that
weights agree with the other paths to rounding; `v` is off by as much as 1 - beta_2, 1.3e-5 for 0.999.
"""

import functools

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from tf_lamb import core

# As many variables are updated at the same time.
CHAINS = 4


def choose(optimizer, variables, states):
    """The update in place, where an optimizer's options and variables allow it and XLA was not asked for.

    All variables and moments have to be float32 and on CPUs, without masters, averages and constraints, and layers
    whole variables.

    Args:
        optimizer: A `tf_lamb.update.LayerwiseUpdate` that has its plan.
        variables: Its variables.
        states: Their `state.VariableState`s.

    Returns:
        A function like `LayerwiseUpdate._update_variables`, or None.
    """
    strategy = tf.distribute.get_strategy()

    def is_on_cpu(variable):
        devices = {local.device for local in strategy.experimental_local_results(variable)}
        return all(tf.DeviceSpec.from_string(device).device_type == "CPU" for device in devices)

    options = optimizer._options
    suits = options.jit_compile == "auto" and options.norm == "l2" and optimizer.takes_adam_steps
    suits = suits and max(map(in_float32, (optimizer.beta_1, optimizer.beta_2))) < 1.0
    suits = suits and all(
        all(each.dtype == tf.float32 and is_on_cpu(each) for each in (state.value, *state.slots))
        and state.master is None
        and state.average is None
        and getattr(variable, "constraint", None) is None
        and rule.layer_axis is None
        and not rule.overwritten
        for variable, state, rule in zip(variables, states, optimizer.plan(), strict=True)
    )
    if not suits:
        return None
    return functools.partial(
        optimizer._update_variables, update_all=InPlaceUpdate(optimizer), sum_of_squares=sum_of_squares
    )


class InPlaceUpdate:
    """Updates the variables of an optimizer that `choose` finds fit for it.

    Args:
        optimizer: A LAMB, of either Keras. It updates, by itself, variables without a gradient or with a part of
            their cycle's.
    """

    def __init__(self, optimizer):
        self._optimizer = optimizer

    def __call__(self, tasks, applied):
        """Updates all variables.

        Args:
            tasks: For each variable the arguments of `LayerwiseUpdate._update_one`: its `Step`, its `VariableState`,
                its gradient, the pair of its rate and scalars, and whether its cycle had a gradient.
            applied: Whether the update counts, a boolean scalar, or None: always.

        Returns:
            For each variable its `core.Trust`, or None.
        """
        own, trusts, shown = [], [None] * len(tasks), []
        for i, (_, _, gradient, _, in_cycle) in enumerate(tasks):
            if gradient is not None and in_cycle is None:
                own.append(i)
            else:
                trusts[i] = self._optimizer._update_one(*tasks[i], applied)

        def update():
            found = self._update_in_chains([tasks[i] for i in own])
            shown.extend([tf.convert_to_tensor(field) for field in trust if field is not None] for trust in found)
            return list(shown)

        def stay():
            return [[tf.zeros(x.shape, x.dtype) for x in fields] for fields in shown]

        # Gradients are summed over replicas before, so a conditional is safe.
        found = update() if applied is None else tf.cond(applied, update, stay)
        for i, fields in zip(own, found, strict=True):
            trusts[i] = core.Trust(*fields, *[None] * (3 - len(fields)))
        return trusts

    def _update_in_chains(self, tasks):
        """Updates variables, the largest first, each in the chain with the least to do; returns the trust of each."""
        sizes = [state.value.shape.num_elements() for _, state, *_ in tasks]
        chains = [_Chain() for _ in range(min(CHAINS, len(tasks)))]
        trusts = [None] * len(tasks)
        step, _, _, (learning_rate, _), _ = tasks[0]
        numbers = self._numbers(tf.cast(step.t, tf.float32), learning_rate)
        for i in sorted(range(len(tasks)), key=lambda i: -sizes[i]):
            chain = min(chains, key=lambda chain: chain.size)
            chain.size += sizes[i]
            trusts[i] = chain.update(*tasks[i][:3], *numbers, self._optimizer.weight_decay)
        return trusts

    def _numbers(self, t, learning_rate):
        """What the kernels take: Adam's rate and betas and epsilon, and the rate of the step."""
        optimizer = self._optimizer
        betas = (optimizer.beta_1, optimizer.beta_2)
        rounded = [in_float32(beta) for beta in betas]
        exact = [core.bias_correction(beta, t) for beta in betas]
        # What the moments are multiples of; where they are not corrected, the rounding alone is.
        m_scale, v_scale = (core.bias_correction(beta, t) for beta in rounded)
        if optimizer.bias_correction is not True:
            m_scale, v_scale = m_scale / exact[0], v_scale / exact[1]
        if optimizer.bias_correction == "step_size":
            learning_rate = learning_rate * tf.sqrt(exact[1]) / exact[0]
        # Numerator and denominator of (4), both times the root of what v is a multiple of.
        root = tf.sqrt(v_scale)
        adam = {"beta1": rounded[0], "beta2": rounded[1], "lr": root / m_scale, "epsilon": root * optimizer.epsilon}
        # Powers of beta of 0 turn the kernel's own bias correction off.
        adam |= {"beta1_power": 0.0, "beta2_power": 0.0}
        # Tensors, or every variable would make its own.
        return {name: tf.convert_to_tensor(value, tf.float32) for name, value in adam.items()}, learning_rate


class _Chain:
    """Updates one variable after the other.

    Attributes:
        size: The count of parameters so far.
    """

    def __init__(self):
        self.size = 0
        self._last = []

    def update(self, step, state, gradient, adam, learning_rate, weight_decay):
        """Updates a variable; returns its `core.Trust`."""
        weight_decay = weight_decay if step.rule.decayed else 0.0
        handle, (m, v) = state.value.handle, (slot.handle for slot in state.slots)
        with tf.control_dependencies(self._last):
            # Each run makes it anew, and its memory goes with the last use. Of one variable of any shape for all,
            # TensorFlow would infer wrong shapes elsewhere in the graph.
            scratch = tf.raw_ops.VarHandleOp(
                dtype=tf.float32, shape=state.value.shape, shared_name=context.anonymous_name()
            )
            w = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)
            # Times a zero, too: a constant would not wait for its turn.
            decay = tf.raw_ops.AssignVariableOp(resource=scratch, value=w * -weight_decay)
        with tf.control_dependencies([decay]):
            moved = tf.raw_ops.ResourceApplyAdam(var=scratch, m=m, v=v, grad=gradient, **adam)
        with tf.control_dependencies([moved]):
            negative = tf.raw_ops.ReadVariableOp(resource=scratch, dtype=tf.float32)
        trust = step.trust(w, negative, norm=lambda x: tf.sqrt(sum_of_squares(x)))
        rate = -learning_rate * trust.ratio
        self._last = [tf.raw_ops.ResourceApplyGradientDescent(var=handle, alpha=rate, delta=negative)]
        return trust


def in_float32(x):
    """The Python float `x` as float32 holds it."""
    return float(np.float32(x))


def sum_of_squares(x):
    """`core.sum_of_squares` by one kernel, which writes no squares to memory."""
    return 2.0 * tf.nn.l2_loss(x)
