"""Fine-tune a trained network on about 200 photographs of your own.

    python scripts/train.py --config=configs/finetune.py --config.data.source=folder:DIR --workdir=runs/photos
    python scripts/evaluate.py --workdir=runs/photos --report=runs/photos/report

DIR holds a folder of images for each class. A fifth of them is the test split, and a fifth of the others validates:
the best of 20 epochs is chosen on it. Batches of 16, Adam with a rate that falls to 0 by a cosine after one epoch of
warm-up, ten times as high for the new head; boxes of half of the area and more, flips, brightness and contrast by 20 %.
Where left and right differ, as in letters, add --config.augment.flip=false. The recipe was not tuned.
Cost: 49 s of training on one CPU core, beside other work. Result: *not measured* on photographs. As a check: of 200
synthetic images of three shapes (tests/data/files.py), all 40 test images are right (seed 0, jax 0.10.2).

- `airbench94` starts from the network of CIFAR-10 that comes with the package: images of 32x32 pixels, no download.
- `resnet18` and `resnet50` start from the weights that scripts/import_weights.py imported into runs/imported: images of
  224x224 pixels. This is the better choice for photographs, and needs more time.
"""
from configs import base

VARIANTS = ("airbench94", "resnet18", "resnet50")


def get_config(variant: str = "airbench94") -> base.ConfigDict:
    config = base.of_family(variant, VARIANTS)
    config.epochs = 20
    config.log_every_steps = 0
    config.data.update(source="folder:photos", batch_size=16, validation=0.2)
    config.augment.update(resized_crop=0.5, flip=True, brightness=0.2, contrast=0.2)
    config.optimizer.name = "adam"
    config.schedule.update(name="cosine", warmup_epochs=1.0)
    config.finetune.head_multiplier = 10.0
    if variant == "airbench94":
        config.data.update(image_size=32, normalize="standard")
        config.optimizer.learning_rate = 1e-3
        config.finetune.workdir = "zoo:airbench94_cifar10"
    else:
        config.data.update(image_size=224, normalize="imagenet")
        config.optimizer.learning_rate = 1e-4
        config.finetune.workdir = "runs/imported"
    return config
