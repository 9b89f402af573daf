"""Settings shared by all tests."""
import os

import hypothesis
import pytest

from configs import base
from modern_cnn import runtime

runtime.set_xla_flags()  # the programs that the scripts run are those that are tested

# CI draws the same examples every time, so a red run can be repeated; at home every run draws new ones.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.register_profile("home", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "home")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Decoded data and compiled programs of the tests go to a folder of their own, and start empty."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODERN_CNN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("MODERN_CNN_DATA", raising=False)
        yield


@pytest.fixture
def config():
    """The config of a run that takes a second: an MLP with dropout on the 8x8 digits."""
    config = base.get_config()
    config.epochs = 3
    config.log_every_steps = 0
    config.model.name = "mlp"
    config.model.hidden_sizes = (16,)
    config.model.dropout_rate = 0.1
    config.data.source = "digits"
    config.data.batch_size = 128
    config.optimizer.momentum = 0.9
    return config
