"""Network in network: the textbook's on Fashion-MNIST, the authors' networks for CIFAR-10 and ImageNet.

    python scripts/train.py --config=configs/nin.py
    python scripts/train.py --config=configs/nin.py:nin_cifar

Cost and result on two CPU cores (seed 0, jax 0.10.2; other work ran at the same time, so the time is too long):
`--config.data.image_size=96 --config.epochs=2`, 936 steps in 36 minutes: test accuracy 40.7 % (18.9 % after one epoch:
without normalisation the loss does not change for about 300 steps).

`nin_d2l` has the textbook's settings (Dive into Deep Learning, Chinese second edition, section 7.3): images enlarged to
224x224, batch 128, plain SGD at 0.1, 10 epochs. `nin_cifar` and `nin_imagenet` follow the authors' Caffe models: SGD
with momentum 0.9; for CIFAR-10 batch 128, weight decay 1e-4 and the rate divided by ten once, late; for ImageNet batch
64, weight decay 5e-4 and a rate of 0.01. The authors' rate for CIFAR-10 is 0.1, which needs Caffe's smaller initial
weights; it is 0.01 here. The numbers of epochs, and the two divisions of the rate for ImageNet, are our choice.
`nin_imagenet` uses Fashion-MNIST at 224x224 unless another source is set.
"""
import ml_collections

from configs import base

VARIANTS = ("nin_d2l", "nin_cifar", "nin_imagenet")


def get_config(variant: str = "nin_d2l") -> ml_collections.ConfigDict:
    config = base.get_config()
    config.model.name = base.check_variant(variant, VARIANTS)
    base.add_options(config, dropout_rate=float, hidden=tuple)
    config.log_every_steps = 20
    config.data.source = "cifar10" if variant == "nin_cifar" else "fashion_mnist"
    config.data.image_size = 32 if variant == "nin_cifar" else 224
    config.data.batch_size = 64 if variant == "nin_imagenet" else 128
    if variant == "nin_d2l":
        config.epochs = 10
        config.test_every_epoch = True
        config.optimizer.learning_rate = 0.1
        return config
    config.epochs = 300 if variant == "nin_cifar" else 90
    config.data.normalize = "standard"
    config.data.validation = 0.1
    config.augment.flip = True
    config.optimizer.learning_rate = 0.01
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4 if variant == "nin_cifar" else 5e-4
    config.schedule.name = "step"
    config.schedule.milestones = (250.0,) if variant == "nin_cifar" else (40.0, 80.0)
    return config
