"""Figures by class and calibration against scikit-learn and SciPy."""
import numpy as np
import pytest
from scipy.special import log_softmax
from scipy.stats import binomtest
from sklearn import calibration, metrics

from modern_cnn.reuse import scores


@pytest.mark.parametrize(("correct", "count"), [(0, 1), (1, 1), (0, 30), (30, 30), (7, 16), (188, 201), (3, 100_000)])
def test_intervals_are_those_of_scipy(correct, count):
    found = scores.wilson(correct, count)
    wanted = binomtest(correct, count).proportion_ci(0.95, "wilson")
    np.testing.assert_allclose(found, [wanted.low, wanted.high], rtol=1e-12, atol=1e-15)


def test_intervals_of_nothing():
    assert np.isnan(scores.wilson(0, 0)).all()


@pytest.mark.parametrize("classes", [2, 5, 100])
def test_figures_by_class_are_those_of_scikit_learn(classes):
    """Class 1 has a single image, the last class none, and class 0 is never predicted."""
    random = np.random.RandomState(classes)
    labels = np.append(random.choice([i for i in range(classes - 1) if i != 1] or [0], 300), 1).astype(np.int32)
    right = random.rand(301) < 0.6
    predicted = np.maximum(np.where(right, labels, random.randint(0, classes, 301)), 1)
    matrix = scores.confusion_matrix(labels, predicted, classes)
    np.testing.assert_array_equal(matrix, metrics.confusion_matrix(labels, predicted, labels=range(classes)))
    wanted = metrics.precision_recall_fscore_support(labels, predicted, labels=range(classes), zero_division=np.nan)
    assert np.isnan(wanted[0][0])
    assert np.isnan(wanted[1][-1]) == (classes > 2)
    for found, theirs in zip(scores.by_class(matrix), wanted, strict=False):
        np.testing.assert_allclose(found, theirs, rtol=1e-12)


def test_calibration_is_that_of_scikit_learn():
    random = np.random.RandomState(0)
    confidence = np.concatenate([random.uniform(0.2, 1, 500), np.arange(4, 16) / 15])  # on the limits of bins too
    correct = random.rand(512) < confidence**2
    error, means, accuracies, count = scores.calibrate(confidence, correct)
    wanted = calibration.calibration_curve(correct, confidence, n_bins=15)
    np.testing.assert_allclose([accuracies, means], wanted, rtol=1e-12)
    assert count.sum() == 512
    assert error == pytest.approx(np.average(np.abs(wanted[0] - wanted[1]), weights=count))
    assert error > 0.05


def test_of_one_bin_the_error_is_by_hand():
    error, means, accuracies, count = scores.calibrate(np.array([0.9, 0.92, 1.0]), np.array([True, False, True]))
    np.testing.assert_allclose(means, [0.91, 1])
    np.testing.assert_array_equal(accuracies, [0.5, 1])
    np.testing.assert_array_equal(count, [2, 1])
    assert error == pytest.approx(2 * 0.41 / 3)


def test_logarithms_of_probabilities():
    logits = np.random.RandomState(0).normal(0, 200, (5, 7)).astype(np.float32)
    np.testing.assert_allclose(scores.log_softmax(logits), log_softmax(logits.astype(float), 1), rtol=1e-12)
