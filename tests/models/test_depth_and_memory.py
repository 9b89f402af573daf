"""What `remat` and `scan` are for: fewer bytes between forward and backward, and compiling that ignores the depth.

    python -m pytest -s -m slow tests/models/test_depth_and_memory.py

prints the two measurements that the README quotes.
"""
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from modern_cnn.models import build
from modern_cnn.training.metrics import cross_entropy
from modern_cnn.training.state import TrainState
from modern_cnn.training.steps import train_step
from tests.functional.oracle import FAST_COMPILE
from tests.models.cases import slow

KEY = jax.random.key(0)


def kept(name, batch, size, **options):
    """Return (bytes stored between forward and backward, loss, gradients) of a step, plain and with remat."""
    module = build(name, **options)
    images = np.random.default_rng(0).standard_normal((batch, size, size, 3), np.float32)
    variables = jax.jit(module.init, compiler_options=FAST_COMPILE)(KEY, images[:1])
    return [one_step(build(name, remat=remat, **options), variables, images) for remat in (False, True)]


def one_step(module, variables, images):
    labels = np.arange(len(images)) % 10

    def loss(params):
        logits, _ = module.apply({**variables, "params": params}, images, train=True, mutable=["batch_stats"])
        return cross_entropy(logits, labels).mean()

    forward = jax.jit(lambda params: jax.vjp(loss, params), compiler_options=FAST_COMPILE)
    value, pullback = forward(variables["params"])
    gradients = jax.jit(lambda f, one: f(one), compiler_options=FAST_COMPILE)(pullback, np.float32(1))[0]
    return sum(leaf.nbytes for leaf in jax.tree.leaves(pullback)), value, jax.tree.map(np.asarray, gradients)


def agree(one, other):
    np.testing.assert_allclose(one[1], other[1], rtol=1e-6)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(one[2]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest), one[2], other[2])


@pytest.mark.parametrize(("name", "options"), [
    ("resnet20", {"stage_sizes": (3,), "stage_features": (16,)}), slow("resnet20", {"stage_sizes": (3, 2, 2)}),
    slow("densenet121", {"block_sizes": (4, 4), "width": 0.25}),
    slow("vgg11_bn", {"width": 0.125, "hidden": (8,), "dropout_rate": 0.0})], ids=str)
def test_remat_keeps_fewer_bytes_and_computes_the_same(name, options):
    plain, saving = kept(name, 4, 32, **options)
    agree(plain, saving)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(plain[2]))  # kept either way
    assert saving[0] - weights < 0.6 * (plain[0] - weights)


def lowered(name, **options):
    """Return the lowered program of a training step on two 32x32 images."""
    module, optimizer = build(name, **options), optax.sgd(0.1)
    state = jax.eval_shape(lambda: TrainState.create(KEY, module, optimizer, (32, 32, 3)))
    batch = {"image": jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32), "label": jax.ShapeDtypeStruct((2,), jnp.int32)}
    return jax.jit(train_step).lower(state, batch, KEY)


def test_a_scanned_program_does_not_grow_with_depth():
    shallow, deep = (len(lowered(name, scan=True).as_text().splitlines()) for name in ("resnet20", "resnet1202"))
    assert shallow == deep < len(lowered("resnet20").as_text().splitlines())


@pytest.mark.slow
def test_remat_of_densenet121_keeps_a_third():
    plain, saving = kept("densenet121", 32, 96)
    agree(plain, saving)
    print(f"\ndensenet121, batch 32, 96x96: {plain[0] / 2**20:.0f} MiB kept, {saving[0] / 2**20:.0f} MiB with remat")
    assert saving[0] <= plain[0] / 3


@pytest.mark.slow
def test_resnet1202_compiles_in_three_times_resnet20():
    assert not jax.config.jax_compilation_cache_dir  # or it would measure the reading of a file
    seconds = {"resnet20": [], "resnet1202": []}
    for _ in range(3):
        for name, times in seconds.items():
            start = time.perf_counter()
            lowered(name, scan=name == "resnet1202").compile()
            times.append(time.perf_counter() - start)
    shallow, deep = (float(np.median(times)) for times in seconds.values())
    print(f"\ntrace and compile a training step: resnet20 {shallow:.1f} s, resnet1202 with scan {deep:.1f} s")
    assert deep <= 3 * shallow


@pytest.mark.slow
def test_resnet1202_trains():
    module, optimizer = build("resnet1202", scan=True, remat=True), optax.sgd(0.02, 0.9)
    state = jax.jit(lambda: TrainState.create(KEY, module, optimizer, (32, 32, 3)))()
    batch = {"image": jax.random.normal(KEY, (4, 32, 32, 3)), "label": jnp.arange(4)}
    step, losses = jax.jit(train_step, donate_argnums=0), []
    for _ in range(6):
        state, metrics = step(state, batch, KEY)
        losses.append(float(metrics.loss) / 4)
    print("\nloss of resnet1202 on four images, step by step:", *(f"{loss:.3f}" for loss in losses))
    assert losses[-1] < losses[0]
