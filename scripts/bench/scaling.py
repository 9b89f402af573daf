"""An estimate of training on many devices, from what one step sends between them according to its compiled program.

It needs only the host's CPU: the step is compiled for virtual devices (`jax_num_cpu_devices`), from shapes alone. The
bytes depend neither on the batch, nor on the number of devices, nor on their kind.
"""
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from modern_cnn import models
from modern_cnn.errors import UserError, lookup
from modern_cnn.functional import formulations
from modern_cnn.inspection import summary
from modern_cnn.training import steps
from modern_cnn.training.devices import Devices
from modern_cnn.training.state import TrainState

SMALL = 1 << 16  # bytes: up to this size an all-reduce takes as long as its messages are under way
OTHERS = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter")
HOST = 8  # devices of a machine
RESULT = re.compile(r"= (\(.*?\)|\S+) ([a-z-]+?)(?:-start)?\(")
ARRAY = re.compile(r"\b[a-z]+(\d*)\[([\d,]*)\]")  # f32[64,3]; pred[64] has no number of bits


class Cluster(NamedTuple):
    """The assumptions, in bytes and seconds. The defaults are A100s with NVLink, eight a host, 200 Gbit/s for each."""
    inside: float = 230e9  # bytes/s of an all-reduce's ring through a host
    between: float = 200e9  # bytes/s into and out of a host, over all its adapters
    hop_inside: float = 4e-6  # s from one device to another of its host
    hop_between: float = 6e-6  # s from one host to another
    overlapped: float = 2 / 3  # the share of the computation (the backward pass) in which gradients can travel


def traffic(name: str, batch_norm: str = "global", dtype: str = "float32",
            devices: int = HOST) -> tuple[list[int], list[int]]:
    """Return what a network's step sends, according to its optimised HLO for so many virtual devices of this process.

    These are the bytes on a device from each small all-reduce (batch norm's statistics and their gradients, biases,
    metrics) and from each larger than SMALL (gradients). The step is `train_step` with SGD and momentum on two images a
    device, of the size that the network was published for. `batch_norm` and `dtype` are those of configs/base.py. Raise
    UserError if there are fewer devices, or collectives that are not all-reduces.
    """
    mesh = Devices(devices, batch_norm=batch_norm)
    image_shape, classes = models.INPUTS[name]
    module = models.build(name, classes, dtype=None if dtype == "float32" else dtype)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: TrainState.create(key, module, optax.sgd(0.1, 0.9), image_shape), key)
    batch = {"image": jax.ShapeDtypeStruct((2 * devices, *image_shape), jnp.float32),
             "label": jax.ShapeDtypeStruct((2 * devices,), jnp.int32)}
    step = jax.jit(mesh.parallelize(steps.train_step), donate_argnums=0,
                   in_shardings=(mesh.everywhere, mesh.divided, mesh.everywhere))
    with formulations.platform("gpu"):
        program = step.lower(state, batch, key).compile().as_text() or ""
    small, large = [], []
    for found in filter(None, map(RESULT.search, program.splitlines())):
        if found[2] in OTHERS:
            raise UserError(f"the step of {name} has a collective that cannot be counted yet: {found[2]}")
        if found[2] == "all-reduce":
            size = sum(math.prod(map(int, re.findall(r"\d+", shape))) * int(bits or 8) // 8
                       for bits, shape in ARRAY.findall(found[1]))
            (small if size <= SMALL else large).append(size)
    return small, large


def all_reduce_seconds(size: float, count: int, devices: int, cluster: Cluster) -> float:
    """Return the time of `count` all-reduces that have `size` bytes together.

    The bytes go through rings, first inside each host and then between the hosts; a ring of n carries 2 (n - 1) / n of
    them. Each all-reduce also takes the hops of a tree, there and back.
    """
    inside, hosts = min(devices, HOST), math.ceil(devices / HOST)
    sent = 2 * size * ((inside - 1) / inside / cluster.inside + (hosts - 1) / hosts / cluster.between)
    return sent + 2 * count * (math.log2(inside) * cluster.hop_inside + math.log2(hosts) * cluster.hop_between)


def predict(sent: tuple[list[int], list[int]], compute: float, devices: int,
            cluster: Cluster) -> tuple[float, float, float, float]:
    """Return (small, large, worst, best) of a step that computes for `compute` seconds and has the traffic `sent`.

    These are the seconds of its all-reduces, and the share of the step that is computation, which small all-reduces
    interrupt. Gradients can travel while the backward pass goes on: in `worst` they never do, in `best` always.
    """
    small, large = (all_reduce_seconds(sum(sizes), len(sizes), devices, cluster) for sizes in sent)
    left = max(0.0, large - cluster.overlapped * compute)
    return small, large, compute / (compute + small + large), compute / (compute + small + left)


def estimate(name: str, counts: Sequence[int], batch_size: int, dtype: str, tflops: float,
             decoded: float) -> tuple[str, list[list[str]]]:
    """Return a line about a network on one device, and the rows of a table about many, with the heading as the first.

    `counts` are numbers of devices. Each takes `batch_size` images a step and sustains `tflops` 10^12 operations a
    second; a core of its host decodes `decoded` images a second. Raise UserError for no such network, or as `traffic`.
    """
    image_shape, classes = lookup(models.INPUTS, name, "network")
    macs = summary.summarize(models.build(name, classes), image_shape).macs
    rate = tflops * 1e12 / (3 * 2 * macs)  # forward, and twice that backward; a MAC is two operations
    compute, image_bytes = batch_size / rate, math.prod(image_shape)  # an image is sent to its device as uint8
    rows = [["batch norm over", "devices", "small all-reduces", "ms", "large, MB", "ms", "efficiency", "images/s",
             "GB/s a host", "cores a host"]]
    for norm in ("global", "device"):
        sent = traffic(name, norm, dtype)
        for count in counts:
            small, large, worst, best = predict(sent, compute, count, Cluster())
            host = rate * best * min(count, HOST)  # images/s
            rows.append([norm, f"{count}", f"{len(sent[0])}", f"{small * 1e3:.1f}", f"{sum(sent[1]) / 1e6:.1f}",
                         f"{large * 1e3:.1f}", f"{100 * worst:.1f} to {100 * best:.1f} %",
                         f"{rate * count * worst:,.0f} to {rate * count * best:,.0f}",
                         f"{host * image_bytes / 1e9:.1f}", f"{host / decoded:.0f}"])
    return (f"{name}, {batch_size} images a device: {macs / 1e9:.2f} GMAC an image, {rate:,.0f} images/s a device, "
            f"{compute * 1e3:.1f} ms a step"), rows
