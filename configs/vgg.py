"""VGG: the textbook's on Fashion-MNIST, the TensorFlow text's on CIFAR-10, torchvision's with the paper's settings.

    python scripts/train.py --config=configs/vgg.py
    python scripts/train.py --config=configs/vgg.py:vgg13_cifar
    python scripts/train.py --config=configs/vgg.py:vgg16_bn --config.data.source=folder:DIR

None of these configs was run to its end yet (see docs/results.md). configs/compact.py trains a network of this
family at a size for two CPU cores.

`vgg11_d2l` has the textbook's settings (Dive into Deep Learning, Chinese second edition, section 7.2): a quarter of the
channels, images enlarged to 224x224, batch 128, plain SGD at 0.05, 10 epochs. `vgg13_cifar` has the TensorFlow text's
(section 10.10): pixels in [-1, 1], batch 128, Adam at 1e-4, 50 epochs; --config.model.skip=true adds the shortcut of
section 10.12. The others are torchvision's networks with the paper's settings (Simonyan and Zisserman 2014, section
3.1): batch 256, SGD at 0.01 with momentum 0.9 and weight decay 5e-4, 74 epochs, the rate divided by ten three times,
random crops and flips. The paper trains on ImageNet at 224x224; these use Fashion-MNIST at 64x64 unless another source
is set.
"""
from configs import base

VARIANTS = ("vgg11_d2l", "vgg13_cifar", "vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn",
            "vgg19_bn")


def get_config(variant: str = "vgg11_d2l") -> base.ConfigDict:
    config = base.of_family(variant, VARIANTS, remat=bool, skip=bool, kernel_size=int,
                            stage_sizes=tuple, stage_features=tuple, hidden=tuple)
    config.log_every_steps = 20
    if variant == "vgg11_d2l":
        config.model.width = 0.25
        config.test_every_epoch = True
        config.data.image_size = 224
        config.optimizer.learning_rate = 0.05
    elif variant == "vgg13_cifar":
        base.as_in_tensorflow_text(config)
    else:
        config.data.update(image_size=64, batch_size=256)
        config.optimizer.learning_rate = 0.01
        base.as_in_papers(config, epochs=74, milestones=(30.0, 50.0, 65.0), weight_decay=5e-4, crop=4)
    return config
