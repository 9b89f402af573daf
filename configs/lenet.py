"""LeNet on Fashion-MNIST, with the textbook's settings (10 epochs, plain SGD, batch 256)."""
import ml_collections
from ml_collections import config_dict

from configs import base

VARIANTS = ("lenet", "lenet_bn", "lenet_relu", "lenet_relu_bn")


def get_config(variant: str = "lenet") -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model.name = base.check_variant(variant, VARIANTS)
    config.model.norm = config_dict.placeholder(str)  # batch, none; unset: the network's own
    config.model.initializer = config_dict.placeholder(str)  # xavier_uniform, keras, torch; unset: the network's own
    config.epochs = 10
    config.test_every_epoch = True
    config.data.source = "fashion_mnist"
    config.data.batch_size = 256
    config.optimizer.learning_rate = 0.9
    if variant == "lenet_bn":
        config.optimizer.learning_rate = 1.0
    if variant.startswith("lenet_relu"):
        config.data.batch_size = 32
        config.optimizer.learning_rate = 0.01
        config.log_every_steps = 500
    return config
