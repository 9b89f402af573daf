"""A run in a workdir without training: a network with drawn weights and running statistics."""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from modern_cnn import models
from modern_cnn.training import imported


@pytest.fixture
def make_run(tmp_path):
    """make_run('lenet_bn', (28, 28, 1), width=0.5) -> (workdir, module, variables): three classes, seed 0."""
    def make(name, image_shape, **options):
        config = base.get_config()
        config.model.update(options, name=name)
        config.data.update(source="", image_size=image_shape[0], normalize="symmetric", batch_size=4)
        module = models.build(name, 3, **options)
        variables = jax.jit(partial(module.init, train=False))(jax.random.key(0), jnp.zeros((1, *image_shape)))
        random = np.random.RandomState(0)
        statistics = jax.tree_util.tree_map_with_path(
            lambda path, leaf: (random.uniform(0.5, 2, leaf.shape) if path[-1].key == "var"
                                else random.normal(0, 0.1, leaf.shape)).astype(np.float32),
            variables.get("batch_stats", {}))
        variables = {"params": variables["params"]} | ({"batch_stats": statistics} if statistics else {})
        directory = tmp_path / name
        imported.write_run(directory, config, module, variables, image_shape, ("cat", "dog", "emu"), {"file": "drawn"})
        return directory, module, variables

    return make
