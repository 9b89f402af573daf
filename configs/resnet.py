"""ResNets: the textbook's and torchvision's on Fashion-MNIST, the paper's and the TensorFlow text's on CIFAR-10.

    python scripts/train.py --config=configs/resnet.py
    python scripts/train.py --config=configs/resnet.py:resnet20
    python scripts/train.py --config=configs/resnet.py:resnet50 --config.data.source=folder:DIR
    python scripts/train.py --config=configs/resnet.py:resnext50_32x4d

None of these configs was run to its end yet (see docs/results.md). configs/compact.py trains a network of this
family at a size for two CPU cores. `resnet1202` takes 12 seconds a step at batch 16; a quick test of it is
--config.data.source=digits --config.data.batch_size=2.

- `resnet18_d2l` has the textbook's settings (Dive into Deep Learning, Chinese second edition, section 7.6): images
  enlarged to 96x96, batch 256, plain SGD at 0.05, 10 epochs.
- `resnet20` to `resnet1202` have the paper's (He et al. 2015, section 4.2): batch 128, SGD at 0.1 with momentum 0.9 and
  weight decay 1e-4, 64,000 steps, the rate divided by ten after 32,000 and 48,000, pad-and-crop by 4 pixels and flips,
  a tenth of the images held out. From depth 110 on there are 400 steps of warm-up (linear here, a constant rate of 0.01
  in the paper).
- `resnet18_cifar` and `resnet34_cifar` are not trained in the TensorFlow text (section 10.14). They have its settings
  for VGG-13: pixels in [-1, 1], batch 128, Adam at 1e-4, 50 epochs.
- The others (torchvision's, pre-activation, and the plain networks without shortcuts) have the paper's settings for
  ImageNet (section 3.4): batch 256, SGD at 0.1 with momentum 0.9 and weight decay 1e-4, random crops and flips. They
  train for 90 epochs and divide the rate by ten after 30 and 60, as has become usual; the paper divides it at plateaus.
  They use Fashion-MNIST at 64x64 unless another source is set. ResNeXt's paper has the same settings (Xie et al. 2016,
  section 4).
"""
from configs import base

CIFAR = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet1202")
VARIANTS = ("resnet18_d2l", *CIFAR, "resnet18_cifar", "resnet34_cifar", "resnet18", "resnet34", "resnet50", "resnet101",
            "resnet152", "preact_resnet18", "preact_resnet34", "preact_resnet50", "preact_resnet101",
            "preact_resnet152", "plain18", "plain34", "resnext50_32x4d")


def get_config(variant: str = "resnet18_d2l") -> base.ConfigDict:
    config = base.of_family(variant, VARIANTS, stage_sizes=tuple, stage_features=tuple,
                            preactivation=bool, shortcut=str, stride_in_1x1=bool, groups=int, base_width=int,
                            zero_init_residual=bool, remat=bool, scan=bool)
    config.log_every_steps = 20
    if variant == "resnet18_d2l":
        config.test_every_epoch = True
        config.data.update(image_size=96, batch_size=256)
        config.optimizer.learning_rate = 0.05
    elif variant in ("resnet18_cifar", "resnet34_cifar"):
        base.as_in_tensorflow_text(config)
    elif variant in CIFAR:
        config.data.update(source="cifar10", image_size=32)  # an epoch of 45,000 images has 351 steps
        base.as_in_papers(config, epochs=182, milestones=(91.0, 137.0), weight_decay=1e-4, crop=4)
    else:
        config.data.update(image_size=64, batch_size=256)
        base.as_in_papers(config, epochs=90, milestones=(30.0, 60.0), weight_decay=1e-4, crop=4)
    if variant in ("resnet110", "resnet1202"):
        config.schedule.warmup_epochs = 1.14
    if variant == "resnet1202":  # otherwise it needs gigabytes, and minutes to compile
        config.model.update(remat=True, scan=True)
    return config
