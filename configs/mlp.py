"""The multilayer perceptron on Fashion-MNIST: what LeNet is compared with."""
import ml_collections
from ml_collections import config_dict

from configs import base


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model.name = "mlp"
    config.model.hidden_sizes = (256, 256, 256)
    config.model.dropout_rate = 0.0
    config.model.initializer = config_dict.placeholder(str)  # xavier_uniform, keras, torch; unset: the network's own
    config.epochs = 10
    config.test_every_epoch = True
    config.data.batch_size = 256
    config.optimizer.learning_rate = 0.1
    return config
