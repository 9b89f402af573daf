"""MobileNet on Fashion-MNIST.

    python scripts/train.py --config=configs/mobilenet.py
    python scripts/train.py --config=configs/mobilenet.py --config.model.width=0.5 --config.data.source=folder:DIR

This config was not run to its end yet. configs/compact.py trains a network of this family at a size for two CPU cores.

The paper (Howard et al. 2017, section 3.2) trained with RMSprop and gives no rates. These settings are those of the
ResNets for ImageNet with a smaller weight decay, because the paper found that the depthwise convolutions need very
little: batch 256, SGD at 0.1 with momentum 0.9 and weight decay 4e-5, 90 epochs, the rate divided by ten after 30 and
60, random crops and flips, a tenth of the images held out. The images are Fashion-MNIST's at 64x64 unless another
source is set.
"""
from configs import base


def get_config() -> base.ConfigDict:
    config = base.get_config()
    config.model.name = "mobilenet_v1"
    base.add_options(config, stage_sizes=tuple, stage_features=tuple, stem=str, activation=str,
                     remat=bool)
    config.log_every_steps = 20
    config.data.update(image_size=64, batch_size=256)
    base.as_in_papers(config, epochs=90, milestones=(30.0, 60.0), weight_decay=4e-5, crop=4)
    return config
