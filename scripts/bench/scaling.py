"""An estimate of training on many devices, from what one step sends between them according to its compiled program.

It needs only the host's CPU: the step is compiled for virtual devices (`jax_num_cpu_devices`), from shapes alone. The
bytes depend neither on the batch, nor on the number of devices, nor on their kind.
"""
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from modern_cnn import models
from modern_cnn.errors import UserError, lookup
from modern_cnn.functional import formulations
from modern_cnn.inspection import summary
from modern_cnn.training import steps
from modern_cnn.training.devices import AXIS, Devices
from modern_cnn.training.state import TrainState

SMALL = 1 << 16  # bytes: up to this size an all-reduce takes as long as its messages are under way
OTHERS = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter")
HOST = 8  # devices of a machine
RESULT = re.compile(r"= (\(.*?\)|\S+) ([a-z-]+?)(?:-start)?\(")
ARRAY = re.compile(r"\b([a-z]+)(\d+)?\[([\d,]*)\]")
COLUMNS = ["batch norm over", "devices", "small all-reduces", "ms", "large, MB", "ms", "efficiency", "images/s",
           "GB/s a host", "cores a host"]


@dataclass(frozen=True)
class Traffic:
    """The all-reduces of one training step: their number, and the bytes of their results on each device."""
    small: int  # of at most SMALL bytes: batch norm's statistics and their gradients, biases, metrics
    small_bytes: int
    large: int  # the gradients
    large_bytes: int


@dataclass(frozen=True)
class Cluster:
    """The assumptions of an estimate, in bytes and seconds.

    The defaults are A100s with NVLink, eight a host, each with a 200 Gbit/s adapter of its own.
    """
    inside: float = 230e9  # bytes/s of an all-reduce's ring through a host
    between: float = 200e9  # bytes/s into and out of a host, over all its adapters
    hop_inside: float = 4e-6  # s from one device to another of its host
    hop_between: float = 6e-6  # s from one host to another
    overlapped: float = 2 / 3  # the share of the computation (the backward pass) in which gradients can travel


@dataclass(frozen=True)
class Prediction:
    """The seconds of a step on `devices`, and the share of them that is computation.

    In `worst` no communication overlaps with the computation, in `best` as much as possible.
    """
    devices: int
    compute: float
    small: float
    large: float
    worst: float
    best: float


def traffic(name: str, batch_norm: str = "global", dtype: str = "float32", devices: int = HOST) -> Traffic:
    """Return what a network's step sends, at the size the network was published for.

    Args:
      name: of the network.
      batch_norm, dtype: see configs/base.py.
      devices: virtual devices of this process to compile for.
    Raises:
      UserError: the process has fewer devices, or the program sends anything but all-reduces.
    """
    sizes = []
    for line in compiled_step(name, batch_norm, dtype, devices).splitlines():
        if found := RESULT.search(line):
            if found[2] in OTHERS:
                raise UserError(f"the step of {name} has a collective that cannot be counted yet: {found[2]}")
            if found[2] == "all-reduce":
                sizes.append(sum(_bytes(*array) for array in ARRAY.findall(found[1])))
    small = [size for size in sizes if size <= SMALL]
    large = [size for size in sizes if size > SMALL]
    return Traffic(len(small), sum(small), len(large), sum(large))


def compiled_step(name: str, batch_norm: str, dtype: str, devices: int) -> str:
    """Return the optimised HLO of `train_step` with SGD and momentum, two images a device, each layer one operation."""
    mesh = Devices(devices, batch_norm=batch_norm)
    image_shape, classes = models.INPUTS[name]
    module = models.build(name, classes, **({} if dtype == "float32" else {"dtype": dtype}))

    def place(tree, spec):
        sharding = NamedSharding(mesh.mesh, spec)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: TrainState.create(key, module, optax.sgd(0.1, 0.9), image_shape), key)
    batch = {"image": jax.ShapeDtypeStruct((2 * devices, *image_shape), jnp.float32),
             "label": jax.ShapeDtypeStruct((2 * devices,), jnp.int32)}
    whole = PartitionSpec()
    with formulations.platform("gpu"):
        lowered = jax.jit(mesh.parallelize(steps.train_step), donate_argnums=0).lower(
            place(state, whole), place(batch, PartitionSpec(AXIS)), place(key, whole))
    return lowered.compile().as_text() or ""


def _bytes(kind: str, bits: str, shape: str) -> int:
    """Return the size of an array 'f', '32', '64,3,3'."""
    return math.prod(map(int, filter(None, shape.split(",")))) * (1 if kind == "pred" else int(bits) // 8)


def all_reduce_seconds(size: float, count: int, devices: int, cluster: Cluster) -> float:
    """Return the time of `count` all-reduces that have `size` bytes together.

    The bytes go through rings, first inside each host and then between the hosts; a ring of n carries 2 (n - 1) / n of
    them. Each all-reduce also takes the hops of a tree, there and back.
    """
    inside, hosts = min(devices, HOST), math.ceil(devices / HOST)
    sent = 2 * size * ((inside - 1) / inside / cluster.inside + (hosts - 1) / hosts / cluster.between)
    return sent + 2 * count * (math.log2(inside) * cluster.hop_inside + math.log2(hosts) * cluster.hop_between)


def predict(sent: Traffic, compute: float, devices: int, cluster: Cluster) -> Prediction:
    """Return the estimate of a step whose computation takes `compute` seconds on each device.

    Small all-reduces interrupt the computation, so their time is always added. The gradients can travel while the rest
    of the backward pass goes on.
    """
    small = all_reduce_seconds(sent.small_bytes, sent.small, devices, cluster)
    large = all_reduce_seconds(sent.large_bytes, sent.large, devices, cluster)
    left = max(0.0, large - cluster.overlapped * compute)
    return Prediction(devices, compute, small, large, compute / (compute + small + large),
                      compute / (compute + small + left))


def estimate(name: str, counts: Sequence[int], batch_size: int, dtype: str, tflops: float,
             decoded: float) -> tuple[str, list[list[str]]]:
    """Return a line about a network on one device, and the rows of a table about many, with COLUMNS as the first.

    Args:
      name: of the network.
      counts: numbers of devices.
      batch_size: images a device and step.
      dtype: of the computation.
      tflops: 10^12 operations a second that a device sustains.
      decoded: images that a core decodes in a second.
    Raises:
      UserError: there is no such network, or `traffic` cannot count what its step sends.
    """
    image_shape, classes = lookup(models.INPUTS, name, "network")
    macs = summary.summarize(models.build(name, classes), image_shape).macs
    rate = tflops * 1e12 / (3 * 2 * macs)  # forward, and twice that backward; a MAC is two operations
    compute, image_bytes = batch_size / rate, int(np.prod(image_shape))  # an image is sent to its device as uint8
    rows = [COLUMNS]
    for norm in ("global", "device"):
        sent = traffic(name, norm, dtype)
        for count in counts:
            step = predict(sent, compute, count, Cluster())
            host = rate * step.best * min(count, HOST)  # images/s
            rows.append([norm, f"{count}", f"{sent.small}", f"{step.small * 1e3:.1f}", f"{sent.large_bytes / 1e6:.1f}",
                         f"{step.large * 1e3:.1f}", f"{step.worst:.1%} to {step.best:.1%}",
                         f"{rate * count * step.worst:,.0f} to {rate * count * step.best:,.0f}",
                         f"{host * image_bytes / 1e9:.1f}", f"{host / decoded:.0f}"])
    return (f"{name}, {batch_size} images a device: {macs / 1e9:.2f} GMAC an image, {rate:,.0f} images/s a device, "
            f"{compute * 1e3:.1f} ms a step"), rows
