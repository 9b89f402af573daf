"""The devices of a run: where its arrays lie, and how the one pure step is compiled for all of them."""
import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from modern_cnn.errors import UserError, did_you_mean

AXIS = "batch"  # the mesh's one axis: examples are split along it, parameters are on every device
CHOICES = {"compile": ("jit", "pmap"), "batch_norm": ("global", "device")}


def leads() -> bool:
    """Whether this process is the one that writes what there is once: of several, the first."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Until every process is here; `what` names the place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[int], int]]:
    """A function of the step: the signal that all processes are to stop for before it, or 0.

    SIGTERM and SIGINT are noted instead of killing; a second SIGINT interrupts at once. Of several processes SIGTERM
    to any one stops all, after the same step; SIGINT kills.
    """
    received: list[int] = []
    if jax.process_count() > 1:  # JAX's coordination service has a handler of its own, and finds a step for all
        yield lambda step: signal.SIGTERM if multihost_utils.reached_preemption_sync_point(step) else 0
        return

    def note(number, _):
        if number == signal.SIGINT and signal.SIGINT in received:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread: signals are somebody else's
        before = {}
    try:
        yield lambda step: received[0] if received else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Devices:
    """All devices of a run, of every process, as one mesh along which a batch is split.

    Args:
      count: use so many; 0: all there are.
      compile: 'jit', over the mesh, or 'pmap'.
      batch_norm: 'global', statistics over the whole batch, or 'device', over each device's share of it; the running
        ones are then the mean over the devices.
    Raises:
      UserError: an unknown word, more devices than there are, or a choice that several processes do not have.
    """

    def __init__(self, count: int = 0, compile: str = "jit", batch_norm: str = "global"):
        check({"compile": compile, "batch_norm": batch_norm})
        devices = jax.devices()
        if count > len(devices):
            raise UserError(f"config.parallel.count={count}, but there are only {len(devices)} devices")
        if jax.process_count() > 1 and (compile == "pmap" or count):
            raise UserError("several processes need config.parallel.compile='jit' and config.parallel.count=0")
        self.devices = devices[:count or None]
        self.pmapped = compile == "pmap" and len(self.devices) > 1
        self._shared_norm = batch_norm == "global"
        # Auto: the compiler finds out how the step is split, from where its inputs lie.
        self.mesh = jax.make_mesh((len(self.devices),), (AXIS,), (AxisType.Auto,), devices=self.devices)

    def __len__(self) -> int:
        return len(self.devices)

    def replicate(self, tree: Any) -> Any:
        """Arrays, the same in every process, as a whole on every device."""
        sharding = NamedSharding(self.mesh, PartitionSpec())
        if jax.process_count() == 1:
            return jax.device_put(tree, sharding)
        whole = jax.tree.map(np.asarray, tree)
        return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__), whole)

    def rows(self, batch_size: int) -> np.ndarray:
        """Which rows of a batch lie on the devices of this process, ascending."""
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
        own = sharding.addressable_devices_indices_map((batch_size,)).values()
        return np.unique(np.concatenate([np.arange(batch_size)[index] for index in own]))

    def place(self, tree: Any, batch_size: int) -> Any:
        """Arrays whose first axis is this process's `rows` of a batch, as the batch, divided among all devices."""
        sharding = NamedSharding(self.mesh, PartitionSpec(AXIS))
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x, (batch_size, *x.shape[1:])),
                            tree)

    def split(self, tree: Any) -> Any:
        """Inside a compiled function: the first axis of arrays is divided among the devices."""
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self.mesh, PartitionSpec(AXIS)))

    def on_every(self, function: Callable) -> Callable:
        """jit of a function whose results are to lie, as a whole, on every device."""
        return jax.jit(function, out_shardings=NamedSharding(self.mesh, PartitionSpec()))

    def module(self, module: nn.Module) -> nn.Module:
        """The network for `spread`: where it runs on each device's share, batch norm must be told the axis."""
        return module.clone(axis_name=AXIS) if self.pmapped and self._shared_norm and hasattr(module, "axis_name") \
            else module

    def spread(self, step: Callable) -> Callable:
        """A pure `step(state, batch, key, *, axis_name)` as one over all devices: `step(state, batch, key)`.

        Under jit with whole-batch statistics that is the step itself: a sharded array is one array. Otherwise every
        device runs it on its share and `axis_name` tells it to average.
        """
        if len(self) == 1 or (not self.pmapped and self._shared_norm):
            return lambda state, batch, key: step(state, batch, key, axis_name=None)
        if self.pmapped:
            return self._pmap(step)
        whole, share = PartitionSpec(), PartitionSpec(AXIS)
        # check_vma would sum the gradients of replicated parameters by itself; the step's own mean would come on top.
        return jax.shard_map(lambda *args: step(*args, axis_name=AXIS), mesh=self.mesh, in_specs=(whole, share, whole),
                             out_specs=whole, check_vma=False)

    def _pmap(self, step: Callable) -> Callable:
        own = jax.pmap(lambda *args: step(*args, axis_name=AXIS), AXIS, in_axes=(None, 0, None), out_axes=None,
                       devices=self.devices)

        def spread(state, batch, key):
            return own(state, jax.tree.map(lambda leaf: leaf.reshape(len(self), -1, *leaf.shape[1:]), batch), key)

        return spread


class Apart(Devices):
    """All devices, each of which trains whole trials of its own: inside of a trial's step there is but one."""

    def __len__(self) -> int:
        return 1

    def split(self, tree: Any) -> Any:
        """A trial's batch stays where it is."""
        return tree

    def divide(self, tree: Any) -> Any:
        """Arrays whose first axis is of as many trials as `padded` says, divided among the devices."""
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec(AXIS)))

    def padded(self, count: int) -> int:
        """`count`, or the next number that the devices can share equally."""
        return -(-count // self.mesh.size) * self.mesh.size

    def each(self, function: Callable) -> Callable:
        """`function(own, shared)` of several trials, for all of them: those of a device on that device."""
        if self.mesh.size == 1:
            return function
        own, shared = PartitionSpec(AXIS), PartitionSpec()
        return jax.shard_map(function, mesh=self.mesh, in_specs=(own, shared), out_specs=own, check_vma=False)


def check(parallel: Mapping[str, str]) -> None:
    """Raises UserError for a word in a config's `parallel` section that is not one of CHOICES."""
    for field, words in CHOICES.items():
        if parallel[field] not in words:
            raise UserError(f"config.parallel.{field}={parallel[field]!r} is unknown"
                            f"{did_you_mean(parallel[field], words)}")
