"""The views of a test image whose logits are averaged."""
import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from modern_cnn.training.steps import evaluation_logits


class Squares(nn.Module):
    """A network that is not linear, and to which each pixel is another."""

    def __call__(self, x, *, train):
        weights = np.random.default_rng(1).normal(size=(x[0].size, 3)).astype(np.float32)
        return jnp.square(x.reshape(len(x), -1) @ weights)


@pytest.mark.parametrize("flip", [False, True])
def test_shifted_views_have_half_of_the_weight(flip):
    """By hand: the image, and its moves to the upper left and lower right, each with its mirror image."""
    images = np.random.default_rng(0).normal(size=(4, 5, 6, 2)).astype(np.float32)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), "reflect")
    views = [images, padded[:, :-4, :-4], padded[:, 4:, 4:]]
    logits = [np.asarray(Squares()(view, train=False)) for view in views]
    if flip:
        logits = [(one + Squares()(view[:, :, ::-1], train=False)) / 2 for one, view in zip(logits, views, strict=True)]
    got = evaluation_logits(Squares(), {}, jnp.asarray(images), flip, 2)
    np.testing.assert_allclose(got, logits[0] / 2 + logits[1] / 4 + logits[2] / 4, rtol=1e-4)
    assert np.abs(got - logits[0]).max() > 1
