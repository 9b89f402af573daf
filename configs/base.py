"""Every field that all configs share, with its default. A family's config holds only what differs.

`0` and `''` stand for "not set": any field can be overridden on the command line, e.g. --config.optimizer.momentum=0.9.
"""
import difflib

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.seed = 0  # of initialisation, order of the images, augmentation and dropout
    config.epochs = 10
    config.max_steps = 0  # end after this many steps, with evaluation and checkpoint; 0: after the epochs
    config.eval_every_epochs = 1  # evaluate and save after every so many epochs
    config.test_every_epoch = False  # also score the test split then, as textbooks plot it; it never chooses anything
    config.log_every_steps = 100  # a training record after so many steps, and at the end of an epoch; 0: only there
    config.accumulate = 1  # go through each batch in so many parts, one after the other, to save memory
    config.checkpoint_every_steps = 0  # also save within an epoch; 0: only where evaluation is

    config.parallel = ml_collections.ConfigDict()
    config.parallel.count = 0  # use so many devices; 0: all there are
    config.parallel.compile = "jit"  # the step for all of them: jit over a mesh, or pmap
    config.parallel.batch_norm = "global"  # statistics over the whole batch; 'device': over each device's share

    config.model = ml_collections.ConfigDict()
    config.model.name = "lenet"  # a key of modern_cnn.models.MODELS; the network's options are its siblings

    config.data = ml_collections.ConfigDict()
    config.data.source = "fashion_mnist"  # digits, tfds:NAME, idx:DIR, cifar:DIR, folder:DIR, or a bare name
    config.data.batch_size = 128  # over all devices; the last, smaller batch of an epoch is left out
    config.data.image_size = 0  # resize to this many pixels, square; 0: as they are
    # 'unit' [0, 1], 'symmetric' [-1, 1]; by mean and deviation: 'standard' the set's own, 'imagenet' ImageNet's
    config.data.normalize = "unit"
    config.data.train_size = 0  # train on so many of the training images, stratified and fixed; 0: all
    config.data.validation = 0.0  # fraction of train held out, stratified and fixed, to choose the best checkpoint
    config.data.stream = False  # decode as training goes: for folder: and tfds: sets that do not fit into memory
    config.data.num_classes = 0  # 0: as the data say
    config.data.manual_dir = ""  # for tfds: take the files from this folder instead of downloading them

    config.augment = ml_collections.ConfigDict()  # of training images, inside the compiled step, in this order
    config.augment.resized_crop = 0.0  # cut out a box of at least this share of the area (0.08), and resize it
    config.augment.crop = 0  # pad by so many pixels of black and cut the image's size out at random
    config.augment.flip = False  # left and right, half of the images
    config.augment.rotate = 0.0  # degrees to either side
    config.augment.zoom = 0.0  # scale by 1 - zoom to 1 + zoom, height and width apart
    config.augment.shift = 0.0  # pixels in each direction
    config.augment.brightness = 0.0  # times 1 - brightness to 1 + brightness (0.4); also the next two
    config.augment.contrast = 0.0  # the distance from the image's mean grey (0.4)
    config.augment.saturation = 0.0  # the distance from each pixel's own grey (0.4); of images in colour
    config.augment.hue = 0.0  # turn the colours by so much of their circle, at most 0.5, to either side; in colour
    config.augment.lighting = 0.0  # deviation of AlexNet's shifts along ImageNet's colours (0.1); of images in colour
    config.augment.cutout = 0  # black out a square of so many pixels a side, around a random place
    config.augment.mixup = 0.0  # blend pairs of images and their labels: alpha of Beta(alpha, alpha) (0.2)
    config.augment.cutmix = 0.0  # paste a box of one into the other: alpha (1); with mixup, half of the images each
    config.augment.test_flip = False  # score the mean of the logits of an image and its mirror image

    config.loss = ml_collections.ConfigDict()
    config.loss.label_smoothing = 0.0  # the share of the wanted distribution that goes to all classes alike (0.1)

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "sgd"  # sgd, adam, adamw, lars
    config.optimizer.learning_rate = 0.1  # after warm-up
    config.optimizer.base_batch_size = 0  # scale the learning rate by batch_size / this (Goyal et al. 2017); 0: never
    config.optimizer.momentum = 0.0  # of sgd and lars
    config.optimizer.nesterov = False
    config.optimizer.weight_decay = 0.0  # L2 on kernels alone, never on biases or normalisation; of adamw: decoupled
    config.optimizer.clip_norm = 0.0  # scale gradients down to this norm, taken over all of them; 0: never
    config.optimizer.ema_decay = 0.0  # score and keep averages of weights and batch statistics (0.999); 0: themselves

    config.schedule = ml_collections.ConfigDict()
    config.schedule.name = "constant"  # constant, step, cosine (to 0)
    config.schedule.warmup_epochs = 0.0  # linear from 0
    config.schedule.milestones = (30.0, 60.0, 80.0)  # of 'step': the epochs at which the rate is multiplied by factor
    config.schedule.factor = 0.1

    config.lock()  # a misspelt field in a family's config is an error; only the network's options are its own
    config.model.unlock()
    return config


# The options that most networks have; an unset one is the network's own.
OPTIONS = {
    "width": float,  # multiplies the numbers of channels
    "norm": str,  # batch, layer, group, instance, none
    "unbiased": bool,  # the running variance of batch norm as PyTorch stores it
    "initializer": str,  # xavier_uniform, keras, torch, normal, vgg, googlenet, resnet, densenet, identity
    "dtype": str,  # of the computation: bfloat16; parameters stay float32
}


def add_options(config: ml_collections.ConfigDict, **options: type) -> None:
    """Lets the command line set these options of the network, and OPTIONS: --config.model.width=0.5."""
    for name, kind in (OPTIONS | options).items():
        config.model[name] = config_dict.placeholder(kind)


def check_variant(variant: str, variants) -> str:
    """The variant after the colon of --config=FILE:variant. Raises ValueError with the closest that exists."""
    if variant not in variants:
        close = difflib.get_close_matches(variant, variants, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"this config has no variant {variant!r}.{hint} Its variants are: {', '.join(variants)}")
    return variant
