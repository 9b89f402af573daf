"""One network of each family at a size for two CPU cores, with one modern recipe, on all of Fashion-MNIST.

    python scripts/train.py --config=configs/compact.py
    python scripts/train.py --config=configs/compact.py:vgg11_bn

Narrow networks and small images: 28x28 pixels, 32x32 and 64x64 where a network needs them. The recipe is the same for
all and was not tuned: 10 epochs, batch 128, Adam at 1e-3 that falls to 0 by a cosine after one epoch of warm-up,
pad-and-crop by 2 pixels and flips.
Cost and result (seed 0, commit fa5b47ff3a05, jax 0.10.2): minutes of training on one core of an AMD EPYC without
AVX-512, beside other work, and test accuracy after the last epoch.

    resnet20       64 min   92.50 %
    densenet_d2l   29 min   91.56 %
    googlenet      16 min   90.23 %
    vgg11_bn       42 min   91.73 %
    nin_cifar      34 min   86.53 %
    alexnet        28 min   90.39 %

resnext50_32x4d, mobilenet_v1 and regnetx32_d2l have not been trained yet.
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
    config = base.of_family(variant, VARIANTS, dropout_rate=float)
    options, size = COMPACT[variant]
    config.model.update(options)
    config.log_every_steps = 100
    config.data.update(image_size=size, batch_size=128, normalize="standard")
    config.augment.update(crop=2, flip=True)
    config.optimizer.update(name="adam", learning_rate=1e-3)
    config.schedule.update(name="cosine", warmup_epochs=1.0)
    return config
