"""A finished run on data that it was not trained on."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from modern_cnn import models, settings
from modern_cnn.data import sources
from modern_cnn.runs import imported, load


def test_other_images_are_normalised_as_those_of_the_training(config, tmp_path):
    """By the mean and deviation that run.json has, not by the images' own; scored by numpy."""
    config.data.normalize = "standard"
    module = models.build("mlp", 10, hidden_sizes=(16,))
    variables = module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    imported.write_run(tmp_path / "run", settings.read(config), module, variables, (8, 8, 1), (), {})
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    run["data"].update(mean=[0.75], std=[0.125])
    del run["crc"]  # of the file as it was written
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))
    scored = load.evaluate_workdir(tmp_path / "run", data={"source": "digits"})
    images, labels = sources.load(config.data).splits["test"]
    logits = module.apply(variables, ((images / 255 - 0.75) / 0.125).astype(np.float32), train=False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels))
    assert scored["count"] == len(labels)
    np.testing.assert_allclose(scored["loss"], losses.mean(), rtol=1e-4)
    assert scored["accuracy"] == (np.argmax(logits, 1) == labels).mean()


def test_modules_that_moved_are_found_under_their_earlier_names():
    with pytest.warns(DeprecationWarning, match=r"modern_cnn\.training\.evaluation is modern_cnn\.runs\.load now"):
        from modern_cnn.training import evaluation
    assert evaluation is load
    with pytest.raises(ImportError, match="evaluations"):
        from modern_cnn.training import evaluations  # noqa: F401
