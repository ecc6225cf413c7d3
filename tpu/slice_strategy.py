"""Strategies for a TPU slice that is not there: one for tracing a step, one for lowering it to a compiler's input."""

import contextlib

import numpy as np
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops
from tensorflow.python.distribute import distribute_lib, one_device_strategy
from tensorflow.python.tpu import tpu_system_metadata
from tensorflow.python.tpu.topology import Topology

CORES_OF_HOST = 8


@contextlib.contextmanager
def traced(cores):
    """The real `tf.distribute.TPUStrategy` of a slice, in a graph of its own: it traces steps and runs none.

    Variables, optimizers and steps are to be made within the context. What is traced is what a TPU would be given.

    Args:
        cores: How many, a multiple of 8 such as 8 or 2,048; a host has 8, in chips of 2, as TPU v3.

    Yields:
        The strategy, which has a replica on every core.

    Raises:
        ValueError: There are no such slices.
    """
    if cores < CORES_OF_HOST or cores % CORES_OF_HOST:
        raise ValueError(f"A slice has whole hosts. Received: cores={cores}. Expected a multiple of {CORES_OF_HOST}.")
    hosts = cores // CORES_OF_HOST
    # A column of hosts, each of 2 x 2 chips: [host, core of the host] -> x, y, z and core of the chip.
    numbers = np.arange(cores).reshape(hosts, CORES_OF_HOST)
    chips, host = numbers // 2 % 4, numbers // CORES_OF_HOST
    coordinates = np.stack([chips % 2, 2 * host + chips // 2, 0 * host, numbers % 2], axis=-1)
    topology = Topology(mesh_shape=[2, 2 * hosts, 1, 2], device_coordinates=coordinates.astype(np.int32))
    with tf.Graph().as_default():
        yield tf.distribute.TPUStrategy(
            _Slice(topology),
            experimental_device_assignment=tf.tpu.experimental.DeviceAssignment.build(topology, num_replicas=cores),
        )


class _Slice(tf.distribute.cluster_resolver.ClusterResolver):
    """What `TPUStrategy` asks of a cluster, for a topology of hosts that do not exist."""

    environment, tpu_hardware_feature = "", None
    task_type, task_id = "worker", 0

    def __init__(self, topology):
        self._topology = topology

    def get_tpu_system_metadata(self):
        """The devices of all hosts."""
        topology = self._topology
        kinds = [("CPU", 1), ("TPU_SYSTEM", 1), ("TPU", topology.num_tpus_per_task)]
        devices = [
            tf.config.LogicalDevice(f"/job:worker/replica:0/task:{task}/device:{kind}:{number}", kind)
            for task in range(topology.num_tasks)
            for kind, count in kinds
            for number in range(count)
        ]
        cores = topology.num_tasks * topology.num_tpus_per_task
        return tpu_system_metadata.TPUSystemMetadata(
            cores, topology.num_tasks, topology.num_tpus_per_task, topology, devices
        )

    def cluster_spec(self):
        """The hosts."""
        hosts = [f"worker{task}:8470" for task in range(self._topology.num_tasks)]
        return tf.train.ClusterSpec({"worker": hosts})

    def master(self, task_type=None, task_id=None, rpc_layer=None):
        """The first host."""
        return "grpc://worker0:8470"

    def num_accelerators(self, task_type=None, task_id=None, config_proto=None):
        """The cores of a host."""
        return {"TPU": self._topology.num_tpus_per_task}


class LoweringStrategy(tf.distribute.Strategy):
    """A strategy of many replicas of which one is traced; its sums over replicas become XLA's all-reduces.

    A step under it, compiled by XLA for so many replicas, is the step of each of them. Its variables are here, once, so
    it can be lowered on any machine; only a compiler for the slice can take the result.

    Args:
        replicas: How many there are.
    """

    def __init__(self, replicas):
        super().__init__(_LoweringExtended(self, replicas))


class _LoweringExtended(one_device_strategy.OneDeviceExtended):
    def __init__(self, container_strategy, replicas):
        super().__init__(container_strategy, "CPU:0")
        self._replicas = replicas

    @property
    def _num_replicas_in_sync(self):
        return self._replicas

    def _use_merge_call(self):
        return False

    @property
    def worker_devices(self):
        return tuple(f"/device:TPU:{replica}" for replica in range(self._replicas))

    def _call_for_each_replica(self, fn, args, kwargs):
        strategy = self._container_strategy()
        with tf.device(self._device), distribute_lib.ReplicaContext(strategy, gen_xla_ops.xla_replica_id()):
            return fn(*args, **kwargs)

    def _replica_ctx_all_reduce(self, reduce_op, value, options=None):
        del options
        return tf.nest.map_structure(lambda tensor: self._all_reduce(reduce_op, tensor), value)

    def _all_reduce(self, reduce_op, tensor):
        tensor = tf.convert_to_tensor(tensor)
        total = gen_xla_ops.xla_all_reduce(
            tensor, group_assignment=[list(range(self._replicas))], reduce_op="Add", mode="CrossReplica"
        )
        total.set_shape(tensor.shape)
        return total if reduce_op == tf.distribute.ReduceOp.SUM else total / tf.cast(self._replicas, total.dtype)
