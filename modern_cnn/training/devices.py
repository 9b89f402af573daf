"""The devices of a run: where its arrays lie, and how the pure training step is compiled for all of them."""
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from modern_cnn.errors import UserError

AXIS = "batch"  # the only axis of the mesh


def leads() -> bool:
    """Return whether this process writes the files of the run: the first of several does."""
    return jax.process_index() == 0


def wait_for_all(place: str) -> None:
    """Wait until every process has reached the named place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


class Devices:
    """All devices of a run, of every process, as a mesh with one axis; the arguments are `settings.Parallel`.

    The axis divides the examples of a batch; parameters are on every device. With `whole_batches` it divides trials
    instead (see `stacked`): then all of a trial's step is on one device. With batch_norm='device' running statistics
    are the mean over the devices. Raise UserError for too many devices, or a choice that several processes do not have.
    """

    def __init__(self, count: int = 0, compile: str = "jit", batch_norm: str = "global", *,
                 whole_batches: bool = False):
        devices = jax.devices()
        if count > len(devices):
            raise UserError(f"config.parallel.count={count}, but there are only {len(devices)} devices")
        if jax.process_count() > 1 and (compile == "pmap" or count):
            raise UserError("several processes need config.parallel.compile='jit' and config.parallel.count=0")
        self.devices = devices[:count or None]
        self._whole_batches = whole_batches
        self.batch_shares = 1 if whole_batches else len(self.devices)  # parts that a batch is divided into
        self.pmapped = compile == "pmap" and self.batch_shares > 1
        self._global_norm = batch_norm == "global"
        # Auto: the compiler finds out how the step is divided, from where its inputs lie.
        # Not of jax.make_mesh, which refuses the devices of several hosts, and three of four TPUs.
        self.mesh = Mesh(np.asarray(self.devices), (AXIS,), axis_types=(AxisType.Auto,))
        self.everywhere = NamedSharding(self.mesh, PartitionSpec())
        self.divided = NamedSharding(self.mesh, PartitionSpec(AXIS))

    def replicate(self, tree: Any) -> Any:
        """Return arrays, equal in every process, with a whole copy on every device."""
        if jax.process_count() == 1:
            return jax.device_put(tree, self.everywhere)
        whole = jax.tree.map(np.asarray, tree)
        return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, self.everywhere, x.__getitem__), whole)

    def local_rows(self, batch_size: int) -> np.ndarray:
        """Return which rows of a batch lie on the devices of this process, ascending."""
        own = self.divided.addressable_devices_indices_map((batch_size,)).values()
        return np.unique(np.concatenate([np.arange(batch_size)[index] for index in own]))

    def place_batch(self, tree: Any, batch_size: int) -> Any:
        """Return a batch on all devices, from the arrays [local rows, ...] of this process."""
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(
            self.divided, x, (batch_size, *x.shape[1:])), tree)

    def shard_batch(self, tree: Any) -> Any:
        """Divide the first axis of arrays among the devices of a batch; for use inside a compiled function."""
        return tree if self._whole_batches else jax.lax.with_sharding_constraint(tree, self.divided)

    def adapt_norm(self, module: nn.Module) -> nn.Module:
        """Return the network for `parallelize`: under pmap global batch norm has to know the axis."""
        told = self.pmapped and self._global_norm and hasattr(module, "axis_name")
        return module.clone(axis_name=AXIS) if told else module

    def parallelize(self, step: Callable) -> Callable:
        """Return a pure `step(state, batch, key, *, axis_name)` as `step(state, batch, key)` over all devices.

        Under jit with global batch norm that is the step itself: a divided array is one array. Otherwise every device
        runs the step on its share, and `axis_name` tells it to average over the devices.
        """
        if self.batch_shares == 1 or (not self.pmapped and self._global_norm):
            return partial(step, axis_name=None)
        share = partial(step, axis_name=AXIS)
        if not self.pmapped:
            # check_vma would sum the gradients of replicated parameters; the step's own mean would come on top of that.
            whole, divided = PartitionSpec(), PartitionSpec(AXIS)
            return jax.shard_map(share, mesh=self.mesh, in_specs=(whole, divided, whole), out_specs=whole,
                                 check_vma=False)
        each = jax.pmap(share, AXIS, in_axes=(None, 0, None), out_axes=None, devices=self.devices)

        def over_devices(state, batch, key):
            shares = jax.tree.map(lambda leaf: leaf.reshape(self.batch_shares, -1, *leaf.shape[1:]), batch)
            return each(state, shares, key)

        return over_devices
