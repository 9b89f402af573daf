"""Comparison of our functions with PyTorch's: values and gradients, in float64."""
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from hypothesis import given, settings

TOLERANCE = 1e-10
WORKED = json.loads((Path(__file__).parents[1] / "golden" / "worked_examples.json").read_text())
# Each example of Hypothesis has a new shape and is compiled anew, so XLA need not make the code fast.
FAST_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def drawn(*strategies, few, many):
    """Make a test of examples, of which each is compiled: `few` of them, and `many` in a slow test of its own."""
    def decorate(test):
        thorough = settings(max_examples=many)(given(*strategies)(test))
        test.__globals__[f"{test.__name__}_thoroughly"] = pytest.mark.slow(thorough)
        return settings(max_examples=few)(given(*strategies)(test))
    return decorate


def normal(*shape, seed=0):
    """Return N(0, 1) numbers, float64, the same for the same shape and seed."""
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


def close(got, want, tolerance=TOLERANCE):
    """Assert the same shape, and a difference of at most `tolerance` times the largest number."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(1, np.abs(want).max(initial=0)))


def agree(ours, theirs, *arrays):
    """Assert that `ours` (JAX) and `theirs` (torch) have the same value and, for a random cotangent, equal gradients.

    Both take and return our layouts (NHWC, HWIO). `theirs` permutes inside, so its gradients have these layouts too.
    """
    arrays = [np.asarray(a, np.float64) for a in arrays]
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    want = theirs(*leaves)
    cotangent = normal(*want.shape, seed=99)
    want_gradients = torch.autograd.grad(want, leaves, torch.tensor(cotangent))
    assert jax.eval_shape(ours, *arrays).shape == tuple(want.shape)

    def value_and_gradients(arrays, cotangent):
        y, pullback = jax.vjp(ours, *arrays)
        return y, pullback(cotangent)

    y, gradients = jax.jit(value_and_gradients, compiler_options=FAST_COMPILE)(arrays, cotangent)
    close(y, want.detach())
    for gradient, wanted in zip(gradients, want_gradients, strict=True):
        close(gradient, wanted)


def nchw(x):
    return x.permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1)


def pad(x, pads, value=0.0):
    """Return NCHW images padded by ((top, bottom), (left, right)), by torch."""
    return torch.nn.functional.pad(x, (*pads[1], *pads[0]), value=value)


def same_padding(size, extent, strides):
    """Return XLA's own 'SAME' padding as pairs."""
    return tuple(map(tuple, jax.lax.padtype_to_pads(size, extent, strides, "SAME")))
