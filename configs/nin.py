"""Network in network: the textbook's on Fashion-MNIST, the authors' networks for CIFAR-10 and ImageNet.

    python scripts/train.py --config=configs/nin.py
    python scripts/train.py --config=configs/nin.py:nin_cifar

None of these configs was run to its end yet (see docs/results.md). configs/compact.py trains a network of this
family at a size for two CPU cores.

`nin_d2l` has the textbook's settings (Dive into Deep Learning, Chinese second edition, section 7.3): images enlarged to
224x224, batch 128, plain SGD at 0.1, 10 epochs. `nin_cifar` and `nin_imagenet` follow the authors' Caffe models: SGD
with momentum 0.9; for CIFAR-10 batch 128, weight decay 1e-4 and the rate divided by ten once, late; for ImageNet batch
64, weight decay 5e-4 and a rate of 0.01. The authors' rate for CIFAR-10 is 0.1, which needs Caffe's smaller initial
weights; it is 0.01 here. The numbers of epochs, and the two divisions of the rate for ImageNet, are our choice.
`nin_imagenet` uses Fashion-MNIST at 224x224 unless another source is set.
"""
from configs import base

VARIANTS = ("nin_d2l", "nin_cifar", "nin_imagenet")


def get_config(variant: str = "nin_d2l") -> base.ConfigDict:
    config = base.of_family(variant, VARIANTS, hidden=tuple)
    config.log_every_steps = 20
    config.data.image_size = 224
    if variant == "nin_d2l":
        config.test_every_epoch = True
        return config
    config.optimizer.learning_rate = 0.01
    if variant == "nin_cifar":
        config.data.update(source="cifar10", image_size=32)
        base.as_in_papers(config, epochs=300, milestones=(250.0,), weight_decay=1e-4, crop=0)
    else:
        config.data.batch_size = 64
        base.as_in_papers(config, epochs=90, milestones=(40.0, 80.0), weight_decay=5e-4, crop=0)
    return config
