"""Both our network and PyTorch's learn in the epochs that are timed."""
import numpy as np
import pytest

from configs import quickstart
from modern_cnn import settings
from modern_cnn.errors import UserError
from scripts.bench import epochs, timing


def test_the_peer_has_the_network_as_it_is():
    config = quickstart.get_config()
    config.model.width = 0.5
    with pytest.raises(UserError, match="the peer torch has no option 'width'"):
        epochs.torch_epoch(settings.read(config), 0)


@pytest.mark.parametrize("spawned", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_epoch_is_what_training_does(spawned, monkeypatch):
    monkeypatch.setattr(timing, "TURN_SECONDS", 0)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    if not spawned:  # a worker is a process that imports everything
        load = epochs.torch_loader
        monkeypatch.setattr(epochs, "torch_loader", lambda pictures, size, _, **train: load(pictures, size, 0, **train))
    config = quickstart.get_config()
    config.data.update(train_size=200, batch_size=50)
    config = settings.read(config)
    records = epochs.compare_epochs(config, ["torch"], 1)
    assert [record["who"] for record in records] == ["ours", "torch, 0 workers", "torch, 1 workers",
                                                     "torch, channels-last"]
    assert np.isclose(records[0]["images_per_second"], 200 / records[0]["median_ms"] * 1e3)
    ours = epochs.our_epoch(config)
    theirs = epochs.torch_epoch(config, 0)
    for each in (ours, theirs):
        losses = [each.run() for _ in range(4)]
        assert losses[-1] < losses[0]
