"""Figures of a classifier by class, and how far its probabilities can be trusted, from labels and predictions."""
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

BINS = 15  # of confidence, as in Guo et al. 2017


class ByClass(NamedTuple):
    """Figures of each class, float64 [K]; NaN where a class has no images, or is never predicted."""
    precision: np.ndarray  # of the images predicted as the class, the share that are of it
    recall: np.ndarray  # of the images of the class, the share predicted as it: the accuracy on this class
    f1: np.ndarray  # the harmonic mean of both


class Calibration(NamedTuple):
    """Confidence against accuracy in bins of equal width that have images, [B]."""
    error: float  # expected calibration error
    confidence: np.ndarray  # mean over the images of a bin
    accuracy: np.ndarray
    count: np.ndarray


def wilson(correct: np.ndarray | int, count: np.ndarray | int, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return (lower, upper) limit of the confidence interval for `correct` of `count`, shares; NaN where count is 0.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference". It holds for few images too,
    and for 0 or all correct.
    """
    correct, n, z = np.asarray(correct, float), np.asarray(count, float), NormalDist().inv_cdf(0.5 + level / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = correct / n
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2) / (1 + z**2 / n)
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return int64 [K, K]: how many examples of the class of a row are predicted as the class of a column."""
    return np.bincount(labels.astype(np.int64) * classes + predicted, minlength=classes**2).reshape(classes, classes)


def by_class(matrix: np.ndarray) -> ByClass:
    """Return the figures of each class of a confusion matrix [K, K]."""
    right, images, predicted = np.diag(matrix).astype(float), matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid="ignore"):
        return ByClass(right / predicted, right / images, 2 * right / (predicted + images))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the logarithms of the probabilities of logits [N, K], in float64."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def calibrate(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Calibration:
    """Return the calibration of predictions that are right or not, bool [N], by the probability of their class [N].

    The expected calibration error is the mean distance of accuracy and confidence over all examples (Guo et al. 2017,
    "On calibration of modern neural networks", equation 3). A bin holds its upper limit.
    """
    number = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], confidence)
    count = np.bincount(number, minlength=bins)
    used = count > 0
    count = count[used]
    confidences, accuracies = (np.bincount(number, values, bins)[used] / count for values in (confidence, correct))
    error = np.sum(count * np.abs(confidences - accuracies)) / len(confidence)
    return Calibration(float(error), confidences, accuracies, count)
