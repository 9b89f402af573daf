"""The kernel of a whitening convolution, from images: outputs on these images are uncorrelated, of equal power."""
from typing import Any

import flax.linen as nn
import numpy as np

from modern_cnn.data import augment
from modern_cnn.data.sources import Dataset

EPSILON = 5e-4  # Jordan 2024
PART = 500  # images whose patches are in memory at a time


def whitening_kernel(images: np.ndarray, size: int, epsilon: float = EPSILON) -> np.ndarray:
    """Return float32 [size, size, C, 2 * size**2 * C]: the eigenvectors of the patches of images, and their negatives.

    The patches are all squares of `size` pixels of the images [N, H, W, C], normalised. The eigenvectors, of the matrix
    of their second moments (the mean is not subtracted), are divided by sqrt(eigenvalue + epsilon), so that each
    output has a mean square of eigenvalue / (eigenvalue + epsilon), and two have a mean product of 0 (Jordan 2024,
    "94% on CIFAR-10 in 3.29 seconds on a single GPU", section 3.2).
    """
    side, moments, count = size * size * images.shape[3], 0.0, 0
    for start in range(0, len(images), PART):
        part = np.asarray(images[start:start + PART], np.float64)
        windows = np.lib.stride_tricks.sliding_window_view(part, (size, size), axis=(1, 2))  # [n, y, x, C, size, size]
        patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, side)
        moments, count = moments + patches.T @ patches, count + len(patches)
    values, vectors = np.linalg.eigh(moments / count)
    kernel = (vectors / np.sqrt(values + epsilon)).reshape(size, size, -1, side)
    return np.concatenate([kernel, -kernel], axis=3).astype(np.float32)


def start_from(dataset: Dataset, module: nn.Module, start: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the variables to `start` from, with the data's whitening kernel if the network has one and they do not.

    A network has one if it has a field `whiten_size`; it is that of its layer `whiten`.
    """
    size, stats = getattr(module, "whiten_size", 0), (start or {}).get("batch_stats", {})
    if not size or "whiten" in stats:
        return start
    images = np.asarray(augment.normalize(dataset.sample(), dataset.spec.mean, dataset.spec.std))
    return (start or {}) | {"batch_stats": stats | {"whiten": {"kernel": whitening_kernel(images, size)}}}
