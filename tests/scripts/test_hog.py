"""Histograms of oriented gradients, and the linear classifier on them."""
import sys

import numpy as np
import pytest

from configs import quickstart
from modern_cnn import settings
from modern_cnn.errors import UserError
from scripts.ablations import computed
from scripts.publish import ablations


def test_an_edge_is_in_the_bin_of_its_direction():
    """Of 28x28 pixels: 6x6 blocks of 2x2 cells of 9 directions. An upright edge has its gradient at 0 degrees."""
    edge = np.zeros((1, 28, 28, 1), np.uint8)
    edge[:, :, 14:] = 200
    for image, direction in ((edge, 0), (edge.transpose(0, 2, 1, 3), 4)):
        features = computed.hog(image)
        assert features.shape == (1, 6 * 6 * 2 * 2 * 9)
        assert features.dtype == np.float32
        histograms = features.reshape(-1, 9)
        assert set(histograms.argmax(1)[histograms.any(1)]) == {direction}
    assert not computed.hog(np.full((1, 28, 28, 1), 7, np.uint8)).any()


def test_the_classifier_is_linear():
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(60, 2)), np.repeat([0, 1, 2], 20)
    features += np.array([[0, 6], [6, 0], [-6, -6]])[labels]
    assert computed.linear_accuracy((features, labels), (features[::2], labels[::2])) == (1, 1)
    circles = np.hypot(*features.T) > 6
    assert computed.linear_accuracy((features, circles), (features, circles))[0] < 0.95


def test_without_scikit_image_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(UserError, match="pip install scikit-image"):
        computed.hog(np.zeros((1, 28, 28, 1), np.uint8))


def test_accuracy_grows_with_the_data(tmp_path):
    pytest.importorskip("skimage")
    computed.handmade_experiment(tmp_path, settings.read(quickstart.get_config()).data, [100, 400])
    found, _ = ablations.read(tmp_path)
    assert [group.fields for group in found] == [{"data.train_size": 100}, {"data.train_size": 400}]
    (few,), (many,) = (group.values("test_accuracy") for group in found)
    assert 0.5 < few < many < 1
