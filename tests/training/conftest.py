"""A run small enough to be made again in a second: an MLP with dropout on the 8x8 digits."""
import pytest

from configs import base


@pytest.fixture
def config():
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
