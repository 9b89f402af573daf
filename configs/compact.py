"""One network of each family at a size for two CPU cores, with one modern recipe, on all of Fashion-MNIST.

    python scripts/train.py --config=configs/compact.py
    python scripts/train.py --config=configs/compact.py:vgg11_bn

The large networks are narrower, and images are small: 28x28 pixels, 32x32 and 64x64 where a network needs them. The
recipe is the same for all and was not tuned: 10 epochs, batch 128, Adam at 1e-3 that falls to 0 by a cosine after one
epoch of warm-up, pad-and-crop by 2 pixels and flips.
Cost and result: test accuracy after the last epoch, and minutes of training of seeds 0, 1 and 2, on one core beside
other work (seed 0 of the first six on two), jax 0.10.2. docs/results.md has the machines and commits.

    resnet20         92.59 ± 0.09 % (n = 3)  65, 44 and 54 min
    densenet_d2l     91.56 ± 0.03 % (n = 3)  29, 26 and 32 min
    googlenet        90.65 ± 0.40 % (n = 3)  16, 7 and 14 min
    vgg11_bn         91.76 ± 0.08 % (n = 3)  42, 23 and 21 min
    nin_cifar        86.68 ± 0.18 % (n = 3)  34, 30 and 32 min
    alexnet          90.35 ± 0.06 % (n = 3)  28, 6 and 5 min
    mobilenet_v1     87.11 ± 0.19 % (n = 3)  21, 36 and 40 min
    regnetx32_d2l    91.94 ± 0.13 % (n = 3)  64, 27 and 91 min
    resnext50_32x4d  91.84 ± 0.04 % (n = 2)  29 and 77 min
"""
from configs import base

# Options of the network, and the images where they are not as the data has them.
COMPACT = {
    "resnet20": ({}, 0),
    "densenet_d2l": ({}, 32),
    "googlenet": ({"width": 0.25, "aux_logits": False}, 32),
    "vgg11_bn": ({"width": 0.25, "hidden": (512, 512)}, 32),
    "nin_cifar": ({"width": 0.25}, 32),
    "alexnet": ({"width": 0.25, "hidden": (512, 512)}, 64),
    "resnext50_32x4d": ({"width": 0.25, "stem": "cifar", "stage_sizes": (2, 2, 2), "stage_features": (64, 128, 256)},
                        0),
    "mobilenet_v1": ({"width": 0.5, "stem": "cifar"}, 0),
    "regnetx32_d2l": ({"stem": "cifar"}, 0),
}
VARIANTS = tuple(COMPACT)


def get_config(variant: str = "resnet20") -> base.ConfigDict:
    config = base.of_family(variant, VARIANTS)
    options, size = COMPACT[variant]
    config.model.update(options)
    config.log_every_steps = 100
    config.data.update(image_size=size, batch_size=128, normalize="standard")
    config.augment.update(crop=2, flip=True)
    config.optimizer.update(name="adam", learning_rate=1e-3)
    config.schedule.update(name="cosine", warmup_epochs=1.0)
    return config
