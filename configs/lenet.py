"""LeNet on Fashion-MNIST, with the textbook's settings (10 epochs, plain SGD, batch 256)."""
import ml_collections

from configs import base

VARIANTS = ("lenet", "lenet_bn", "lenet_relu", "lenet_relu_bn")


def get_config(variant: str = "lenet") -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model.name = base.check_variant(variant, VARIANTS)
    config.epochs = 10
    config.test_every_epoch = True
    config.data.source = "fashion_mnist"
    config.data.batch_size = 256
    config.optimizer.learning_rate = 0.9
    if variant == "lenet_bn":
        config.optimizer.learning_rate = 1.0
    return config
