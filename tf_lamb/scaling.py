"""How a rate and its warmup follow the batch size: the rules of large-batch training, as plain numbers.

Each takes the setting that is known, at `base_batch_size`, and gives the one for `global_batch_size`.
"""

import math

from tf_lamb import options


def square_root_scaling(base_learning_rate, base_batch_size, global_batch_size):
    """The square-root rule of LAMB: the rate grows with the root of the batch.

        base_learning_rate * sqrt(global_batch_size / base_batch_size)

    Reference: You et al., arXiv 1904.00962v3, section 4 and tables 5 (BERT-Large) and 6 (ResNet-50).

    Args:
        base_learning_rate: A float >= 0, the rate at `base_batch_size`.
        base_batch_size: An integer >= 1, examples.
        global_batch_size: An integer >= 1, examples of an update over all replicas.

    Returns:
        A float, the rate at `global_batch_size`.

    Raises:
        ValueError: An argument is out of its range.

    Example: the rates of LAMB for BERT-Large and for ResNet-50, from those at a batch of 32,768.

    >>> from tf_lamb.schedules import square_root_scaling
    >>> for batch in (512, 1024, 2048, 4096, 8192, 16384, 32768):
    ...     bert, resnet = (square_root_scaling(rate, 32768, batch) for rate in (5e-3, 0.04))
    ...     print(f"{batch:6,} {bert:.6g} {resnet:.6g}")
       512 0.000625 0.005
     1,024 0.000883883 0.00707107
     2,048 0.00125 0.01
     4,096 0.00176777 0.0141421
     8,192 0.0025 0.02
    16,384 0.00353553 0.0282843
    32,768 0.005 0.04
    """
    return options.check_non_negative("base_learning_rate", base_learning_rate) * math.sqrt(
        _growth(base_batch_size, global_batch_size)
    )


def linear_scaling(base_learning_rate, base_batch_size, global_batch_size):
    """The linear rule of SGD: the rate grows with the batch.

        base_learning_rate * global_batch_size / base_batch_size

    References: Goyal et al., arXiv 1706.02677, section 2.1; You et al., arXiv 1708.03888 (LARS), which starts from it.

    Args:
        base_learning_rate: A float >= 0, the rate at `base_batch_size`.
        base_batch_size: An integer >= 1, examples.
        global_batch_size: An integer >= 1, examples of an update over all replicas.

    Returns:
        A float, the rate at `global_batch_size`.

    Raises:
        ValueError: An argument is out of its range.

    Example: Goyal's rate for ResNet-50 at a batch of 8,192.

    >>> from tf_lamb.schedules import linear_scaling
    >>> print(f"{linear_scaling(0.1, 256, 8192):.6g}")
    3.2
    """
    return options.check_non_negative("base_learning_rate", base_learning_rate) * _growth(
        base_batch_size, global_batch_size
    )


def linear_epoch_warmup(base_warmup, base_batch_size, global_batch_size):
    """The linear-epoch rule: the warmup, as a share of the training or in epochs, grows with the batch.

        base_warmup * global_batch_size / base_batch_size

    The number of updates in an epoch shrinks as the batch grows, so the number of warmup steps stays the same.

    Reference: You et al., arXiv 1904.00962v3, section 4 and tables 5 (BERT-Large) and 6 (ResNet-50).

    Args:
        base_warmup: A float >= 0, the warmup at `base_batch_size`: a ratio of the steps, or a number of epochs.
        base_batch_size: An integer >= 1, examples.
        global_batch_size: An integer >= 1, examples of an update over all replicas.

    Returns:
        A float, the warmup at `global_batch_size`, as the same kind of number.

    Raises:
        ValueError: An argument is out of its range.

    Example: the warmup of BERT-Large as a ratio and in steps, and that of ResNet-50 in epochs.

    >>> from tf_lamb.schedules import linear_epoch_warmup
    >>> for batch in (512, 1024, 2048, 4096, 8192, 16384, 32768):
    ...     total_steps = 1_000_000 * 512 // batch
    ...     ratio = linear_epoch_warmup(1 / 320, 512, batch)
    ...     epochs = linear_epoch_warmup(0.3125, 512, batch)
    ...     print(f"{batch:6,} 1/{1 / ratio:.0f} of {total_steps:,} = {ratio * total_steps:,.0f}; {epochs:g} epochs")
       512 1/320 of 1,000,000 = 3,125; 0.3125 epochs
     1,024 1/160 of 500,000 = 3,125; 0.625 epochs
     2,048 1/80 of 250,000 = 3,125; 1.25 epochs
     4,096 1/40 of 125,000 = 3,125; 2.5 epochs
     8,192 1/20 of 62,500 = 3,125; 5 epochs
    16,384 1/10 of 31,250 = 3,125; 10 epochs
    32,768 1/5 of 15,625 = 3,125; 20 epochs
    """
    return options.check_non_negative("base_warmup", base_warmup) * _growth(base_batch_size, global_batch_size)


def _growth(base_batch_size, global_batch_size):
    base = options.check_count("base_batch_size", base_batch_size)
    return options.check_count("global_batch_size", global_batch_size) / base
