"""Everybody loads the same number of batches from a folder."""
import os
from functools import partial

import numpy as np

from configs import quickstart
from modern_cnn import settings
from modern_cnn.data import sources
from scripts.bench import epochs
from tests.data import files


def test_loading_is_of_the_same_images(tmp_path):
    files.write_images(tmp_path / "train", count=10, size=(40, 30), ending=".jpg")
    files.write_images(tmp_path / "test", count=2, ending=".jpg")
    config = quickstart.get_config()
    config.update(data={"source": f"folder:{tmp_path}", "stream": True, "image_size": 16, "batch_size": 8},
                  augment={"resized_crop": 0.3})
    config = settings.read(config)
    records = epochs.compare_epochs(config, ["torch", "tf.data"], 1, loading=True)
    assert [record["who"] for record in records] == [
        "ours", "torch, 0 workers", f"torch, {os.cpu_count()} workers", "tf.data"]
    assert np.isclose(records[0]["images_per_second"], 16 / records[0]["median_ms"] * 1e3)
    dataset = sources.load(config.data)
    for load in (partial(epochs.torch_loading, workers=0), epochs.tf_loading):
        assert len(load(config, dataset.splits["train"]).run()) == 2
