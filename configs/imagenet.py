"""ImageNet, streamed from a folder, on eight GPUs: torchvision's networks as torchvision evaluates them.

    python scripts/train.py --config=configs/imagenet.py --config.data.source=folder:DIR --workdir=runs/imagenet
    python scripts/evaluate.py --workdir=runs/imagenet

DIR holds train/CLASS/FILE and val/CLASS/FILE; val is the test split. `:resnet18`, `:vgg16` and the other VARIANTS train
another network, and --config.model.name=resnet34 any that is not among them.
Cost and result: *not measured*.

All networks have one recipe: batch 1024 (128 a GPU) in bfloat16, SGD with momentum 0.9 and weight decay 1e-4 on
kernels, 90 epochs, warm-up over 5 of them and then a cosine to 0 (Goyal et al. 2017, section 2.2; He et al. 2018, "Bag
of tricks", sections 3 and 5), label smoothing 0.1 (Szegedy et al. 2015, section 7), boxes of 8 % to 100 % of the area
resized to the network's size, flips. The rate at batch 256 is 0.1, and 0.01 for the networks without batch
normalisation; it grows with the batch: --config.data.batch_size=256 suits two GPUs. For evaluation the shorter side is
scaled to 256 pixels and the central 224 are cut out, as torchvision does. Nothing of train is held out, and the last
checkpoint is the result.
"""
from configs import base

WITHOUT_NORM = ("alexnet", "vgg16")
VARIANTS = ("resnet50", "resnet18", "resnet101", "vgg16_bn", "googlenet", "densenet121", *WITHOUT_NORM)


def get_config(variant: str = "resnet50") -> base.ConfigDict:
    config = base.of_family(variant, VARIANTS, remat=bool)
    config.model.dtype = "bfloat16"
    config.epochs = 90
    config.data.update(source="folder:imagenet", stream=True, image_size=224, resize=256, normalize="imagenet",
                       batch_size=1024)
    config.augment.update(resized_crop=0.08, flip=True)
    config.loss.label_smoothing = 0.1
    rate = 0.01 if variant in WITHOUT_NORM else 0.1
    config.optimizer.update(learning_rate=rate, base_batch_size=256, momentum=0.9, weight_decay=1e-4)
    config.schedule.update(name="cosine", warmup_epochs=5.0)
    return config
