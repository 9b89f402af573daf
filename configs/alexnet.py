"""AlexNet: the textbook's network on Fashion-MNIST; torchvision's and the paper's with the paper's settings.

    python scripts/train.py --config=configs/alexnet.py
    python scripts/train.py --config=configs/alexnet.py:alexnet_2012 --config.data.source=folder:DIR

None of these configs was run to its end yet (see docs/results.md). configs/compact.py trains a network of this
family at a size for two CPU cores.

`alexnet_d2l` has the textbook's settings (Dive into Deep Learning, Chinese second edition, section 7.1): images
enlarged to 224x224, batch 128, plain SGD at 0.01, 10 epochs. `alexnet` (torchvision's) and `alexnet_2012` have the
paper's settings (Krizhevsky et al. 2012, sections 4 and 5): batch 128, SGD at 0.01 with momentum 0.9 and weight decay
5e-4, 90 epochs, the rate divided by ten three times, random crops, flips and colour shifts. The paper trains on
ImageNet. These configs use Fashion-MNIST, whose images stay grey; set --config.data.source for other images.
"""
from configs import base

VARIANTS = ("alexnet_d2l", "alexnet", "alexnet_2012")


def get_config(variant: str = "alexnet_d2l") -> base.ConfigDict:
    config = base.of_family(variant, VARIANTS, groups=int, response_norm=bool, hidden=tuple)
    config.log_every_steps = 20
    config.data.image_size = 227 if variant == "alexnet_2012" else 224
    config.optimizer.learning_rate = 0.01
    if variant == "alexnet_d2l":
        config.test_every_epoch = True
    else:
        base.as_in_papers(config, epochs=90, milestones=(30.0, 60.0, 80.0), weight_decay=5e-4, crop=16)
        config.augment.lighting = 0.1
    return config
