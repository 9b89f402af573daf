"""Both our network and PyTorch's learn in the epochs that are timed."""
import os

import numpy as np

from configs import quickstart
from modern_cnn import settings
from scripts.bench import epochs


def test_an_epoch_is_what_training_does(tmp_path):
    config = quickstart.get_config()
    config.data.batch_size = 256
    config = settings.read(config)
    records = epochs.compare_epochs(config, ["torch"], 1)
    assert [record["who"] for record in records] == ["ours", "torch, 0 workers", f"torch, {os.cpu_count()} workers",
                                                     "torch, channels-last"]
    assert np.isclose(records[0]["images_per_second"], 1437 / records[0]["median_ms"] * 1e3)
    ours = epochs.our_epoch(config)
    theirs = epochs.torch_epoch(config, 0)
    for each in (ours, theirs):
        losses = [each.run() for _ in range(4)]
        assert losses[-1] < losses[0]
