"""A run in a workdir without training: a network with random weights and running statistics."""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from modern_cnn import models, settings
from modern_cnn.runs import imported
from tests.models.conftest import short_googlenet

__all__ = ["short_googlenet"]

CLASSES = ("cat", "dog", "emu")
GAIN = 1.25  # of the kernels: logits of two images differ by much more than the tolerance, and are below 20


def draw(random, path, leaf):
    """Return random values for a leaf; with biases above 0 and kernels of this size no network is dead."""
    fan_in = np.prod(leaf.shape[:-1])
    return {"kernel": lambda: random.normal(0, GAIN / fan_in ** 0.5, leaf.shape),
            "bias": lambda: random.uniform(0, 0.2, leaf.shape), "scale": lambda: random.uniform(0.5, 1.5, leaf.shape),
            "mean": lambda: random.normal(0, 0.1, leaf.shape), "var": lambda: random.uniform(0.5, 2, leaf.shape),
            }[path[-1].key]().astype(np.float32)


@pytest.fixture
def make_run(tmp_path):
    """Return make_run: make_run('lenet_bn', (28, 28, 1), width=0.5) -> (workdir, module, variables)."""
    def make(name, image_shape, normalize="symmetric", test_flip=False, test_shift=0, classes=CLASSES, **options):
        config = base.get_config()
        config.augment.update(test_flip=test_flip, test_shift=test_shift)
        config.model.update(options, name=name)
        config.data.update(source="", image_size=image_shape[0], normalize=normalize, batch_size=4)
        module = models.build(name, len(classes), **options)
        shapes = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), jnp.zeros((1, *image_shape)))
        variables = jax.tree_util.tree_map_with_path(partial(draw, np.random.RandomState(0)), shapes)
        directory = tmp_path / name
        imported.write_run(directory, settings.read(config), module, variables, image_shape, classes,
                           {"file": "drawn"})
        return directory, module, variables

    return make
