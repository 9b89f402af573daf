"""RegNets: the textbook's and torchvision's on Fashion-MNIST.

    python scripts/train.py --config=configs/regnet.py
    python scripts/train.py --config=configs/regnet.py:regnet_x_3_2gf --config.data.source=folder:DIR

None of these configs was run to its end yet (see docs/results.md). configs/compact.py trains a network of this
family at a size for two CPU cores.

`regnetx32_d2l` has the textbook's settings (Dive into Deep Learning, English edition, section 8.8): images enlarged to
96x96, batch 128, plain SGD at 0.05, 10 epochs. `regnet_x_3_2gf` has those of the authors' code: SGD with Nesterov
momentum 0.9 and weight decay 5e-5, 100 epochs, a rate of 0.4 at batch 512 that falls to 0 by a cosine after 5 epochs of
warm-up; random crops and flips, and a tenth of the images held out. The batch here is 256, and the rate half as large.
It uses Fashion-MNIST at 64x64 unless another source is set.
"""
from configs import base

VARIANTS = ("regnetx32_d2l", "regnet_x_3_2gf")


def get_config(variant: str = "regnetx32_d2l") -> base.ConfigDict:
    config = base.of_family(variant, VARIANTS, stage_sizes=tuple, stage_features=tuple,
                            group_width=int, stem=str, zero_init_residual=bool, remat=bool, scan=bool)
    config.log_every_steps = 20
    if variant == "regnetx32_d2l":
        config.test_every_epoch = True
        config.data.update(image_size=96, batch_size=128)
        config.optimizer.learning_rate = 0.05
        return config
    config.epochs = 100
    config.data.update(image_size=64, batch_size=256, normalize="standard", validation=0.1)
    config.augment.update(crop=4, flip=True)
    config.optimizer.update(learning_rate=0.2, momentum=0.9, nesterov=True, weight_decay=5e-5)
    config.schedule.update(name="cosine", warmup_epochs=5.0)
    return config
