"""The multilayer perceptron 784-256-256-256-10 on Fashion-MNIST, for comparison with LeNet.

    python scripts/train.py --config=configs/mlp.py

Cost: 12 s of training on one CPU core for 10 epochs.
Result: test accuracy after the last epoch 87.02 ± 0.29 % (n = 4, seeds 0 to 3). jax 0.10.2.

The network is from the TensorFlow text (section 10.1), which does not train it. Batch, learning rate and epochs are
those of the textbook's multilayer perceptron (Dive into Deep Learning, section 4.3).
"""
from configs import base


def get_config() -> base.ConfigDict:
    config = base.get_config()
    config.model.update(name="mlp", hidden_sizes=(256, 256, 256), dropout_rate=0.0)
    config.model.initializer = base.placeholder(str)  # a key of initializers.INITIALIZERS; unset: the network's own
    config.test_every_epoch = True
    config.data.batch_size = 256
    return config
