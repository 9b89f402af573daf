"""Features made by hand, as before 2012: histograms of oriented gradients and a linear classifier on them.

Dalal and Triggs 2005, "Histograms of oriented gradients for human detection".
"""
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modern_cnn import settings
from modern_cnn.data import sources
from modern_cnn.errors import UserError
from scripts.ablations.trials import write_trials


def hog(images: np.ndarray, cell: int = 4) -> np.ndarray:
    """Return the histograms of uint8 images [N, H, W, C] as float32 [N, F], computed by scikit-image.

    The histograms have 9 orientations in cells of `cell` pixels and are normalised in blocks of 2x2 cells (L2 with
    clipping); the pixels' square roots are taken first (the paper's sections 6.1 to 6.4). The paper's cells of 8 pixels
    are for people 96 pixels tall. Raise UserError if scikit-image is not installed.
    """
    try:
        from skimage import feature
    except ImportError as e:
        raise UserError("histograms of oriented gradients need scikit-image: pip install scikit-image") from e
    return np.stack([feature.hog(image, orientations=9, pixels_per_cell=(cell, cell), cells_per_block=(2, 2),
                                 block_norm="L2-Hys", transform_sqrt=True, channel_axis=-1)
                     for image in images]).astype(np.float32)


def linear_accuracy(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """Return the (train, test) accuracy of a linear support vector machine, one class against the others.

    `train` and `test` are (features [N, F], labels [N]). The problem is convex: there is one solution, and no seed.
    """
    from sklearn.svm import LinearSVC

    machine = LinearSVC(C=0.1, dual=False).fit(*train)  # type: ignore[arg-type] - scikit-learn declares a str
    return machine.score(*train), machine.score(*test)


def _features(data: settings.Data, split: str) -> tuple[np.ndarray, np.ndarray]:
    arrays: Any = sources.load(data).splits[split]
    return hog(arrays[0]), arrays[1]


def handmade_experiment(directory: Path, data: settings.Data, sizes: Sequence[int]) -> None:
    """Train the linear classifier on the histograms of each number of training images, and write its accuracies."""
    test, trials = _features(data, "test"), []
    for size in sizes:
        train = _features(dataclasses.replace(data, train_size=size), "train")
        train_accuracy, test_accuracy = linear_accuracy(train, test)
        trials.append(({"data.train_size": size}, {"train_accuracy": train_accuracy, "test_accuracy": test_accuracy}))
        write_trials(directory, trials)
