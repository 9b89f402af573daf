"""A given test accuracy in the least time, counted from the command to the result.

    python scripts/train.py --config=configs/speedrun.py
    python scripts/benchmark.py --config=configs/speedrun.py --seeds=5

`fashion_mnist`: 90 % on two CPU cores. The second command repeats the first with five seeds and empty caches, so that
start-up, decoding and compilation are included.
Cost: 55.7 s (median of seeds 0 to 4; 50.4 to 59.2) on two cores of an AMD EPYC without AVX-512, jax 0.10.2.
Result: test accuracy 90.31 ± 0.11 % (n = 5, the same seeds).
The network is the TensorFlow text's LeNet with batch normalisation. Network, batch and rate were chosen among five
recipes on a tenth of the training images (--config.data.validation=0.1), with one more epoch as a margin.

`cifar10`: airbench94's recipe with Muon (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", and its later
code, which has 94.01 % as mean of 200 runs): whitening, a narrow network of six convolutions, alternating flips, six
views of each test image. Its rates belong to the sum of the loss over a batch, which base_batch_size=1 says. It differs
in that the bias of the whitening layer learns in all epochs.
Result: test accuracy 90.83 % (n = 1, seed 0) on CIFAR-10 as JPEG files of quality 75 with halved colour planes, in
training and test; on the original images *not measured*.
Cost: 51 minutes on the same two cores, from the 131 images/s of epoch 7; the rest of the run shared them.

    python scripts/train.py --config=configs/speedrun.py:cifar10
"""
from configs import base

VARIANTS = ("fashion_mnist", "cifar10")


def get_config(variant: str = "fashion_mnist") -> base.ConfigDict:
    config = base.get_config()
    base.add_options(config)
    config.log_every_steps = 0
    config.data.update(source=base.check_variant(variant, VARIANTS), normalize="standard")
    config.optimizer.nesterov = True
    if variant == "fashion_mnist":
        config.model.name = "lenet_relu_bn"
        config.epochs = config.eval_every_epochs = 6
        config.data.batch_size = 256
        config.optimizer.update(learning_rate=0.2, momentum=0.9, weight_decay=5e-4)
        config.schedule.update(name="cosine", warmup_epochs=1.0)
    else:
        config.model.name = "airbench94"
        config.epochs = config.eval_every_epochs = 8
        config.data.batch_size = 2000
        config.augment.update(crop=2, reflect=True, flip=True, alternate_flip=True, test_flip=True, test_shift=1)
        config.loss.label_smoothing = 0.2
        config.optimizer.update(name="muon", learning_rate=0.67, base_batch_size=1, bias_multiplier=0.053 / 0.67,
                                momentum=0.85, weight_decay=2e-6, decoupled=True, muon_rate=0.24, muon_momentum=0.6)
        config.schedule.name = "linear"
    return config
