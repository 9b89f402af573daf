"""GoogLeNet: the textbook's network on Fashion-MNIST; torchvision's and the paper's with the paper's settings.

    python scripts/train.py --config=configs/googlenet.py
    python scripts/train.py --config=configs/googlenet.py:googlenet --config.data.source=folder:DIR

None of these configs was run to its end yet (see docs/results.md). configs/compact.py trains a network of this
family at a size for two CPU cores.

`googlenet_d2l` has the textbook's settings (Dive into Deep Learning, Chinese second edition, section 7.4): images
enlarged to 96x96, batch 128, plain SGD at 0.1, 10 epochs. `googlenet` (torchvision's, with batch normalisation) and
`googlenet_2014` have the paper's settings (Szegedy et al. 2014, section 6): SGD with momentum 0.9, the rate 4 % lower
every 8 epochs, auxiliary heads with weight 0.3. The paper does not give the rest; batch 128, a rate of 0.01, weight
decay 2e-4 and 90 epochs are our choice. The paper trains on ImageNet at 224x224, these configs on Fashion-MNIST at
96x96 unless another source is set.
"""
from configs import base

VARIANTS = ("googlenet_d2l", "googlenet", "googlenet_2014")


def get_config(variant: str = "googlenet_d2l") -> base.ConfigDict:
    config = base.of_family(variant, VARIANTS, aux_logits=bool, branches=tuple, remat=bool)
    config.log_every_steps = 20
    config.data.image_size = 96
    if variant == "googlenet_d2l":
        config.test_every_epoch = True
    else:
        milestones = tuple(float(epoch) for epoch in range(8, 90, 8))
        base.as_in_papers(config, epochs=90, milestones=milestones, weight_decay=2e-4, crop=8)
        config.optimizer.learning_rate = 0.01
        config.schedule.factor = 0.96
    return config
