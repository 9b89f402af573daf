"""The rule behind the golden arrays: every weight follows from its PyTorch name and shape, so no weights are stored.

A tensor is uniform noise from MT19937 seeded by the CRC-32 of its name, scaled by what the tensor is for: kernels by
He's bound, so that activations neither vanish nor explode; batch normalisation far from its initial 1, 0, 0, 1, so
that mixing two of them up shows. The last normalisation of a residual branch is damped, or the sums of a deep network
would grow. The arrays beside this file were computed by PyTorch with these weights.
"""
import zlib

import numpy as np


def noise(name, shape, seed=0):
    """U(-1, 1) float64, the same on every platform and for ever (numpy freezes RandomState)."""
    generator = np.random.RandomState((zlib.crc32(name.encode()) + 0x9E3779B1 * seed) % 2 ** 32)
    return 2 * generator.random_sample(tuple(shape)) - 1


def ends_a_residual_branch(layer, names):
    """Whether a batch norm's sum is next: bn3 of a bottleneck, or bn2 of a block that has conv2 and no bn3."""
    block, _, last = layer.rpartition(".")
    if last == "bn2":
        return f"{block}.conv2.weight" in names and f"{block}.bn3.running_mean" not in names
    return last == "bn3"


def golden_state(shapes, seed=0):
    """{PyTorch name: float32 array in PyTorch's layout} from {name: shape}."""
    state = {}
    for name, shape in shapes.items():
        layer, _, leaf = name.rpartition(".")
        normalises = f"{layer}.running_mean" in shapes
        if leaf == "num_batches_tracked":
            state[name] = np.array(7)
            continue
        u = noise(name, shape, seed)
        if normalises and leaf == "weight":
            value = (1 + 0.5 * u) * (0.35 if ends_a_residual_branch(layer, shapes) else 1)
        elif normalises:
            value = {"bias": 0.3 * u, "running_mean": 0.3 * u, "running_var": 1.15 + 0.85 * u}[leaf]
        else:
            value = {"weight": np.sqrt(6 / np.prod(shape[1:])) * u, "bias": 0.1 * u}[leaf]
        state[name] = value.astype(np.float32)
    return state


def golden_images(shape, seed=0):
    """NCHW float32: fine noise plus the same amount of it in blocks of 8x8 pixels, so that images differ as a whole."""
    count, channels, height, width = shape
    fine = noise("input", shape, seed) * np.sqrt(3) * 0.7
    coarse = noise("input.lo", (count, channels, -(-height // 8), -(-width // 8)), seed) * np.sqrt(3) * 0.7
    return (fine + np.kron(coarse, np.ones((8, 8)))[:, :, :height, :width]).astype(np.float32)


def golden_labels(count, classes, seed=0):
    return (37 * np.arange(count) + 11 * (seed + 1)) % classes
