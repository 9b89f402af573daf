"""What a training step sends between devices, read from the compiled program, and what that lets one expect of many.

No device but the host's CPU is needed: the step is compiled for virtual devices (`jax_num_cpu_devices`), from shapes
alone. What is sent depends neither on the batch nor on the number of devices nor on what they are.
"""
import math
import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from modern_cnn import models
from modern_cnn.errors import UserError
from modern_cnn.functional import formulations
from modern_cnn.training import steps
from modern_cnn.training.devices import AXIS, Devices
from modern_cnn.training.state import TrainState

SMALL = 1 << 16  # bytes: below, an all-reduce takes as long as its messages are under way
OTHERS = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter")
HOST = 8  # devices of a machine
RESULT = re.compile(r"= (\(.*?\)|\S+) ([a-z-]+?)(?:-start)?\(")
ARRAY = re.compile(r"\b([a-z]+)(\d+)?\[([\d,]*)\]")


@dataclass(frozen=True)
class Traffic:
    """All-reduces of one training step: how many, and the bytes of their results, as on each device."""
    small: int  # of at most SMALL bytes: batch norm's statistics and their gradients, biases, metrics
    small_bytes: int
    large: int  # the gradients
    large_bytes: int


@dataclass(frozen=True)
class Cluster:
    """What a prediction takes for granted. Bytes and seconds; the defaults are A100s with NVLink, eight a host, each
    with a 200 Gbit/s adapter of its own."""
    inside: float = 230e9  # bytes/s of an all-reduce's ring through a host
    between: float = 200e9  # bytes/s into and out of a host, all its adapters together
    hop_inside: float = 4e-6  # s from a device to another of its host
    hop_between: float = 6e-6  # s from a host to another
    overlapped: float = 2 / 3  # share of the computation, the backward pass, behind which gradients can travel


@dataclass(frozen=True)
class Prediction:
    """Seconds of a step on `devices`, and the share of them that is computation, in which nothing is overlapped with it
    (`worst`), or as much as can be (`best`)."""
    devices: int
    compute: float
    small: float
    large: float
    worst: float
    best: float


def traffic(name: str, batch_norm: str = "global", dtype: str = "float32", devices: int = HOST) -> Traffic:
    """Of a network at the size it was published for, compiled for as many virtual devices of this process.

    Raises:
      UserError: the process has fewer devices, or the program sends anything but all-reduces.
    """
    text = compiled_step(name, batch_norm, dtype, devices)
    sizes = []
    for line in text.splitlines():
        if found := RESULT.search(line):
            if found[2] in OTHERS:
                raise UserError(f"{name}'s step has a collective that this count does not know: {found[2]}")
            if found[2] == "all-reduce":
                sizes.append(sum(_bytes(*array) for array in ARRAY.findall(found[1])))
    small = [size for size in sizes if size <= SMALL]
    large = [size for size in sizes if size > SMALL]
    return Traffic(len(small), sum(small), len(large), sum(large))


def compiled_step(name: str, batch_norm: str, dtype: str, devices: int) -> str:
    """The optimised HLO of `train_step` with SGD and momentum, two images a device, every layer one operation."""
    spread = Devices(devices, batch_norm=batch_norm)
    image_shape, classes = models.INPUTS[name]
    module = models.build(name, classes, **({} if dtype == "float32" else {"dtype": dtype}))

    def placed(tree, spec):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(spread.mesh, spec)),
                            tree)

    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: TrainState.create(key, module, optax.sgd(0.1, 0.9), image_shape), key)
    batch = {"image": jax.ShapeDtypeStruct((2 * devices, *image_shape), jnp.float32),
             "label": jax.ShapeDtypeStruct((2 * devices,), jnp.int32)}
    whole = PartitionSpec()
    with formulations.platform("gpu"):
        lowered = jax.jit(spread.spread(steps.train_step), donate_argnums=0).lower(
            placed(state, whole), placed(batch, PartitionSpec(AXIS)), placed(key, whole))
    return lowered.compile().as_text()


def _bytes(kind: str, bits: str, shape: str) -> int:
    return math.prod(map(int, filter(None, shape.split(",")))) * (1 if kind == "pred" else int(bits) // 8)


def all_reduce_seconds(size: float, count: int, devices: int, cluster: Cluster) -> float:
    """Of `count` all-reduces of `size` bytes together: rings inside each host and between the hosts, one after the
    other (each carries 2 (n - 1) / n of the bytes), and for each a tree's hops there and back."""
    inside, hosts = min(devices, HOST), math.ceil(devices / HOST)
    sent = 2 * size * ((inside - 1) / inside / cluster.inside + (hosts - 1) / hosts / cluster.between)
    return sent + 2 * count * (math.log2(inside) * cluster.hop_inside + math.log2(hosts) * cluster.hop_between)


def predict(sent: Traffic, compute: float, devices: int, cluster: Cluster) -> Prediction:
    """The step of a device that computes for `compute` seconds, on as many of them.

    What is small waits in the middle of the computation, so it always adds; the gradients can travel while the rest of
    the backward pass goes on.
    """
    small = all_reduce_seconds(sent.small_bytes, sent.small, devices, cluster)
    large = all_reduce_seconds(sent.large_bytes, sent.large, devices, cluster)
    left = max(0.0, large - cluster.overlapped * compute)
    return Prediction(devices, compute, small, large, compute / (compute + small + large),
                      compute / (compute + small + left))


def image_bytes(name: str) -> int:
    """Of an image of the network's size as it goes to the device: uint8."""
    return int(np.prod(models.INPUTS[name][0]))
