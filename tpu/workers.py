"""The processes of a run: who of them writes, and what all of them have to decide alike."""

import tensorflow as tf


class Workers:
    """The processes of a strategy.

    Args:
        strategy: A `tf.distribute.Strategy`.
    """

    def __init__(self, strategy):
        resolver = getattr(strategy, "cluster_resolver", None)
        several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and resolver is not None
        cluster = resolver.cluster_spec().as_dict() if several else {}
        self.count = sum(len(cluster.get(job, [])) for job in ("chief", "worker")) or 1
        self.index = resolver.task_id if self.count > 1 else 0
        self.is_chief = self.count == 1 or resolver.task_type == "chief" or ("chief" not in cluster and self.index == 0)
        self._strategy = strategy

    def agree(self, exit_code, number):
        """What the processes agree on: an exit code that one of them was asked for, or 0, and the chief's `number`."""
        if self.count == 1:
            return exit_code, number
        codes, numbers = self._gather(tf.constant([exit_code]), tf.constant([number]))
        return int(tf.reduce_max(codes)), int(numbers[0])

    @tf.function
    def _gather(self, *values):
        def on_replica():
            # A copy on the replica's device, which a captured tensor may not have.
            context, copies = tf.distribute.get_replica_context(), [tf.identity(value) for value in values]
            return [context.all_gather(copy, axis=0) for copy in copies]

        return [self._strategy.experimental_local_results(value)[0] for value in self._strategy.run(on_replica)]
