"""Formulas of other projects whose optimizers do not run beside these tests, in NumPy float64.

Each function was written from the file that its docstring names, in that file's order of operations and with its
default options. It imports nothing of ours, and none is built from another: a slip in one stays in that one.

All take the same arguments and return the list of weights after every step:
    weights: A list of arrays.
    gradients: For each step, a list of arrays.
    learning_rates: For each step, a float.
    weight_decay: A float.
    decays: For each variable, whether it is outside the peer's list of those without decay.
    adapts: The same for layer adaptation, where the peer has a list for it. None: what the peer does without one.
"""

import numpy as np


def albert(weights, gradients, learning_rates, weight_decay, decays, adapts=None):
    """google-research/albert: `LAMBOptimizer` in lamb_optimizer.py, and the clipping in optimization.py.

    `create_optimizer` clips the global norm to 1.0. Without a list for adaptation the optimizer takes that for decay.
    """
    adapts = decays if adapts is None else adapts
    w = [np.float64(x) for x in weights]
    m, v = [0.0 * x for x in w], [0.0 * x for x in w]
    trajectory = []
    for step, rate in zip(gradients, learning_rates, strict=True):
        norm = np.sqrt(sum(np.sum(np.float64(g) ** 2) for g in step))
        for i, g in enumerate(step):
            g = np.float64(g) * 1.0 / max(norm, 1.0)
            m[i] = 0.9 * m[i] + (1.0 - 0.9) * g
            v[i] = 0.999 * v[i] + (1.0 - 0.999) * g**2
            update = m[i] / (np.sqrt(v[i]) + 1e-6)
            if decays[i]:
                update = update + weight_decay * w[i]
            ratio = 1.0
            if adapts[i]:
                w_norm, g_norm = np.linalg.norm(w[i]), np.linalg.norm(update)
                ratio = w_norm / g_norm if w_norm > 0 and g_norm > 0 else 1.0
            w[i] = w[i] - ratio * rate * update
        trajectory.append(list(w))
    return trajectory


def apex_fused_lamb(weights, gradients, learning_rates, weight_decay, decays, use_nvlamb=False):
    """NVIDIA/apex: `FusedLAMB` in apex/optimizers/fused_lamb.py, kernels in csrc/multi_tensor_lamb.cu.

    Variables without decay are a group with `weight_decay=0`. The second kernel scales a tensor by the ratio of norms
    where `use_nvlamb || decay != 0`.
    """
    w = [np.array(x, np.float64) for x in weights]
    m, v = [np.zeros_like(x) for x in w], [np.zeros_like(x) for x in w]
    beta1, beta2, eps, max_grad_norm = 0.9, 0.999, 1e-6, 1.0
    trajectory = []
    for t, (step, rate) in enumerate(zip(gradients, learning_rates, strict=True), start=1):
        global_grad_norm = np.linalg.norm(np.concatenate([np.ravel(np.float64(g)) for g in step]))
        divisor = global_grad_norm / max_grad_norm if global_grad_norm > max_grad_norm else 1.0
        for i, g in enumerate(step):
            decay = weight_decay if decays[i] else 0.0
            scaled = np.float64(g) / divisor
            m[i] = m[i] * beta1 + (1 - beta1) * scaled
            v[i] = v[i] * beta2 + (1 - beta2) * scaled * scaled
            update = m[i] / (1 - beta1**t) / (np.sqrt(v[i] / (1 - beta2**t)) + eps) + decay * w[i]
            step_size = rate
            if use_nvlamb or decay != 0:
                param_norm, update_norm = np.sqrt(np.sum(w[i] * w[i])), np.sqrt(np.sum(update * update))
                if param_norm != 0 and update_norm != 0:
                    step_size = rate * (param_norm / update_norm)
            w[i] = w[i] - step_size * update
        trajectory.append(list(w))
    return trajectory


def apex_nvlamb(weights, gradients, learning_rates, weight_decay, decays):
    """NVIDIA/apex: `FusedLAMB(use_nvlamb=True)`, NVIDIA's own LAMB."""
    return apex_fused_lamb(weights, gradients, learning_rates, weight_decay, decays, use_nvlamb=True)


def deepspeed_fused_lamb(weights, gradients, learning_rates, weight_decay, decays, correct_the_moments=False):
    """DeepSpeed 0.19.8: `FusedLamb` in deepspeed/ops/lamb/fused_lamb.py, csrc/lamb/fused_lamb_cuda_kernel.cu.

    The moments stay as they are; `fused_lamb_cuda` multiplies the step by sqrt(1 - b2^t) / (1 - b1^t). With
    `correct_the_moments` as in the sources after 0.19.8, which divide the moments instead.
    """
    p = [np.array(x, np.float64) for x in weights]
    m, v = [np.zeros_like(x) for x in p], [np.zeros_like(x) for x in p]
    b1, b2, eps, min_coeff, max_coeff = 0.9, 0.999, 1e-8, 0.01, 10.0
    trajectory = []
    for count, (step, lr) in enumerate(zip(gradients, learning_rates, strict=True)):
        bias_correction1, bias_correction2 = 1 - b1 ** (count + 1), 1 - b2 ** (count + 1)
        step_size = lr * np.sqrt(bias_correction2) / bias_correction1
        if correct_the_moments:
            step_size = lr
        else:
            bias_correction1 = bias_correction2 = 1.0
        for i in range(len(p)):
            grad, decay = np.float64(step[i]), float(decays[i]) * weight_decay
            m[i] = b1 * m[i] + (1 - b1) * grad
            v[i] = b2 * v[i] + (1 - b2) * grad * grad
            update = m[i] / bias_correction1 / (np.sqrt(v[i] / bias_correction2) + eps) + decay * p[i]
            w_l2, u_l2 = np.sqrt(np.sum(p[i] ** 2)), np.sqrt(np.sum(update**2))
            lamb_coeff = 1.0
            if w_l2 != 0 and u_l2 != 0:
                lamb_coeff = min(max(w_l2 / u_l2, min_coeff), max_coeff)
            p[i] = p[i] - step_size * lamb_coeff * update
        trajectory.append(list(p))
    return trajectory


def timm_lambc(weights, gradients, learning_rates, weight_decay, decays):
    """timm 1.0.31: `_single_tensor_lamb` in timm/optim/lamb.py.

    With `trust_clip=True, always_adapt=True, max_grad_norm=None`: LAMBC, without the clipping that timm adds.
    """
    params = [np.array(x, np.float64) for x in weights]
    state = [(np.zeros_like(x), np.zeros_like(x)) for x in params]
    trajectory = []
    for t, step in enumerate(gradients, start=1):
        for i, (p, (exp_avg, exp_avg_sq)) in enumerate(zip(params, state, strict=True)):
            grad = np.float64(step[i])
            exp_avg = exp_avg + (grad - exp_avg) * (1 - 0.9)
            exp_avg_sq = 0.999 * exp_avg_sq + (1 - 0.999) * grad**2
            state[i] = (exp_avg, exp_avg_sq)
            denom = np.sqrt(exp_avg_sq) / (1 - 0.999**t) ** 0.5 + 1e-6
            update = exp_avg / (1 - 0.9**t) / denom
            if decays[i]:
                update = update + weight_decay * p
            w_norm, g_norm = np.linalg.norm(p), np.linalg.norm(update)
            trust_ratio = min(w_norm / g_norm, 1.0) if w_norm > 0 and g_norm > 0 else 1.0
            params[i] = p - learning_rates[t - 1] * (update * trust_ratio)
        trajectory.append(list(params))
    return trajectory


def lars_paper(weights, gradients, learning_rates, weight_decay, decays, eta=0.001, momentum=0.9):
    """You, Gitman, Ginsburg, arXiv 1708.03888: equation 6 and algorithm 1.

    Variables without decay take plain momentum SGD, as do norms of 0, of which the paper does not speak.
    """
    w = [np.array(x, np.float64) for x in weights]
    v = [np.zeros_like(x) for x in w]
    trajectory = []
    for step, rate in zip(gradients, learning_rates, strict=True):
        for i, g in enumerate(np.float64(x) for x in step):
            beta = weight_decay if decays[i] else 0.0
            w_norm, g_norm = np.linalg.norm(w[i]), np.linalg.norm(g)
            local = eta * w_norm / (g_norm + beta * w_norm) if decays[i] and w_norm > 0 and g_norm > 0 else 1.0
            v[i] = momentum * v[i] + rate * local * (g + beta * w[i])
            w[i] = w[i] - v[i]
        trajectory.append(list(w))
    return trajectory


def lars_of_the_lamb_paper(weights, gradients, learning_rates, weight_decay, decays, beta1=0.9):
    """You et al., arXiv 1904.00962v5: algorithm 1 (LARS), with the identity for phi.

    Variables without decay take the same momentum without the two norms, as do norms of 0.
    """
    x = [np.array(w, np.float64) for w in weights]
    m = [np.zeros_like(w) for w in x]
    trajectory = []
    for step, rate in zip(gradients, learning_rates, strict=True):
        for i in range(len(x)):
            regularised = np.float64(step[i]) + (weight_decay * x[i] if decays[i] else 0.0)
            m[i] = beta1 * m[i] + (1 - beta1) * regularised
            phi, m_norm = np.linalg.norm(x[i]), np.linalg.norm(m[i])
            if decays[i] and phi > 0 and m_norm > 0:
                x[i] = x[i] - rate * phi / m_norm * m[i]
            else:
                x[i] = x[i] - rate * m[i]
        trajectory.append(list(x))
    return trajectory


def mlperf_lars(weights, gradients, learning_rates, weight_decay, decays, nesterov=False):
    """mlcommons/training: `LARSOptimizer` in image_classification/tensorflow2/lars_optimizer.py.

    Its `skip_list` excludes from both decay and scaling. Its `epsilon=0.0` becomes Keras's 1e-7 (`epsilon or ...`).
    """
    var = [np.array(x, np.float64) for x in weights]
    mom = [np.zeros_like(x) for x in var]
    trajectory = []
    for step, rate in zip(gradients, learning_rates, strict=True):
        for i, grad in enumerate(step):
            grad, scaled_lr = np.float64(grad), rate
            if decays[i]:
                w_norm, g_norm = np.linalg.norm(var[i]), np.linalg.norm(grad)
                if w_norm > 0 and g_norm > 0:
                    scaled_lr = rate * (0.001 * w_norm / (g_norm + weight_decay * w_norm + 1e-7))
                grad = grad + weight_decay * var[i]
            mom[i] = 0.9 * mom[i] - grad * scaled_lr
            var[i] = var[i] + (0.9 * mom[i] - grad * scaled_lr if nesterov else mom[i])
        trajectory.append(list(var))
    return trajectory
