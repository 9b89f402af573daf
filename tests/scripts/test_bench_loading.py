"""Everybody loads the same number of batches from a folder."""
from functools import partial

import numpy as np
import pytest

from configs import quickstart
from modern_cnn import settings
from modern_cnn.data import sources
from scripts.bench import epochs, timing
from tests.data import files


@pytest.mark.parametrize("spawned", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_loading_is_of_the_same_images(spawned, tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "TURN_SECONDS", 0)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    if not spawned:  # a worker is a process that imports everything
        load = epochs.torch_loader
        monkeypatch.setattr(epochs, "torch_loader", lambda pictures, size, _, **train: load(pictures, size, 0, **train))
    files.write_images(tmp_path / "train", count=10, size=(40, 30), ending=".jpg")
    files.write_images(tmp_path / "test", count=2, ending=".jpg")
    config = quickstart.get_config()
    config.update(data={"source": f"folder:{tmp_path}", "stream": True, "image_size": 16, "batch_size": 8},
                  augment={"resized_crop": 0.3})
    config = settings.read(config)
    tensorflow = ["tf.data"] * spawned  # takes seconds to import
    records = epochs.compare_epochs(config, ["torch", *tensorflow], 1, loading=True)
    assert [record["who"] for record in records] == ["ours", "torch, 0 workers", "torch, 1 workers", *tensorflow]
    assert np.isclose(records[0]["images_per_second"], 16 / records[0]["median_ms"] * 1e3)
    dataset = sources.load(config.data)
    for load_all in (partial(epochs.torch_loading, workers=0), *[epochs.tf_loading] * spawned):
        assert len(load_all(config, dataset.splits["train"]).run()) == 2
