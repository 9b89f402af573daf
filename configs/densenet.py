"""DenseNets: the textbook's and torchvision's on Fashion-MNIST, the paper's for CIFAR-10.

    python scripts/train.py --config=configs/densenet.py
    python scripts/train.py --config=configs/densenet.py:densenet_bc_100_12

`densenet_d2l` reaches 91.45 % test accuracy (seed 0) in 2 h 05 min of one core of an AMD EPYC with AVX-512; the
textbook has 88.5 %. The other configs were not run to their ends yet (see docs/results.md). configs/compact.py trains
a network of this family at a size for two CPU cores.

`densenet_d2l` has the textbook's settings (Dive into Deep Learning, Chinese second edition, section 7.7): images
enlarged to 96x96, batch 256, plain SGD at 0.1, 10 epochs. The others have the paper's (Huang et al. 2016, section 4.2):
SGD at 0.1 with Nesterov momentum 0.9 and weight decay 1e-4, the rate divided by ten twice, pad-and-crop by 4 pixels and
flips, a tenth of the images held out. `densenet_bc_100_12`: batch 64, 300 epochs, divided after a half and three
quarters of them. Torchvision's networks: batch 256, 90 epochs, divided after 30 and 60, on Fashion-MNIST at 64x64
unless another source is set.
"""
from configs import base

VARIANTS = ("densenet_d2l", "densenet_bc_100_12", "densenet121", "densenet161", "densenet169", "densenet201")


def get_config(variant: str = "densenet_d2l") -> base.ConfigDict:
    config = base.of_family(variant, VARIANTS, growth=int, bottleneck=int, compression=float,
                            block_sizes=tuple, remat=bool)
    config.log_every_steps = 20
    config.data.update(image_size=64, batch_size=256)
    if variant == "densenet_d2l":
        config.test_every_epoch = True
        config.data.image_size = 96
        return config
    base.as_in_papers(config, epochs=90, milestones=(30.0, 60.0), weight_decay=1e-4, crop=4)
    config.optimizer.nesterov = True
    if variant == "densenet_bc_100_12":
        config.epochs = 300
        config.data.update(source="cifar10", image_size=32, batch_size=64)
        config.schedule.milestones = (150.0, 225.0)
    return config
