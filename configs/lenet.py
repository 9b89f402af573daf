"""LeNet on Fashion-MNIST: the textbook's and the TensorFlow text's networks, with and without batch normalisation.

    python scripts/train.py --config=configs/lenet.py
    python scripts/train.py --config=configs/lenet.py:lenet_bn

Cost and result: mean time of training on one core of an AMD EPYC of family 25 with AVX-512, and test accuracy after
the last of 10 epochs (seeds from 0 on; commit ecc564e71bf2). jax 0.10.2.

    variant        time   test accuracy
    lenet          51 s   82.34 ± 0.75 % (n = 3)
    lenet_bn       60 s   87.24 ± 1.22 % (n = 3)
    lenet_relu     50 s   86.62 ± 0.39 % (n = 4)
    lenet_relu_bn  57 s   88.22 ± 0.93 % (n = 3)

`lenet` and `lenet_bn` have the textbook's settings (Dive into Deep Learning, Chinese second edition, sections 6.6 and
7.5): batch 256, plain SGD at 0.9 and 1.0, pixels in [0, 1]. At such rates the test accuracy changes a lot from epoch to
epoch. `lenet_relu` and `lenet_relu_bn` have the TensorFlow text's settings (sections 10.4 and 10.8.3): batch 32, plain
SGD at 0.01. That text trains on MNIST: --config.data.source=mnist. The test split is scored after every epoch, as in
the textbook's plots; this score chooses nothing.
"""
from configs import base

VARIANTS = ("lenet", "lenet_bn", "lenet_relu", "lenet_relu_bn")


def get_config(variant: str = "lenet") -> base.ConfigDict:
    config = base.of_family(variant, VARIANTS, activation=str)
    config.test_every_epoch = True
    if variant.startswith("lenet_relu"):
        config.log_every_steps = 500
        config.data.batch_size = 32
        config.optimizer.learning_rate = 0.01
    else:
        config.data.batch_size = 256
        config.optimizer.learning_rate = 1.0 if variant == "lenet_bn" else 0.9
    return config
