"""Two training steps of every network, by the function that training compiles."""
import jax
import numpy as np
import optax
import pytest

from modern_cnn.models import MODELS, build
from modern_cnn.training.state import TrainState
from modern_cnn.training.steps import train_step
from tests.functional.oracle import FAST_COMPILE
from tests.models.cases import SHALLOW, Case, case, slow

KEY = jax.random.key(0)
LOOP = {"width": 0.125, "scan": True}
QUICK = [*map(case, ("mlp", "lenet_bn")), Case("resnet110", (8, 8, 3), LOOP)]
MORE = [*map(case, ("alexnet_2012", "nin_cifar")), Case("resnet1202", (8, 8, 3), LOOP),
        *(case(name, **SHALLOW) for name in ("vgg11_bn", "preact_resnet50", "resnet18_cifar", "plain18")),
        *(case("densenet121", block_sizes=sizes, dropout_rate=0.2) for sizes in ((2,), (2, 2)))]
# Blocks in a loop compile in a time that does not grow with their number; unrolled ones are test_twins'.
ALL = [case(name, **({"scan": True} if hasattr(build(name), "scan") else {})) for name in MODELS]


def train(case):
    images, labels = case.images().astype(np.float32), case.labels()
    create = jax.jit(lambda: TrainState.create(KEY, case.ours(), optax.adam(1e-3), case.image),
                     compiler_options=FAST_COMPILE)
    first = state = create()
    step = jax.jit(train_step, compiler_options=FAST_COMPILE)
    for _ in range(2):
        state, metrics = step(state, {"image": images, "label": labels}, KEY)
        assert np.isfinite(metrics.loss)
    assert int(state.step) == 2
    assert set(state.collections) == set(first.collections)
    first, last = (jax.tree.map(np.asarray, each.variables) for each in (first, state))
    for (path, old), new in zip(jax.tree_util.tree_flatten_with_path(first)[0], jax.tree.leaves(last), strict=True):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(new).all(), name
        # the bias of a layer that a batch norm follows has no gradient but rounding
        silent = path[-1].key == "bias" and "norm" not in path[-2].key and "batch_stats" in state.collections
        assert silent or (old != new).any(), f"{name} does not move"


@pytest.mark.parametrize("case", [*QUICK, *map(slow, MORE)], ids=str)
def test_two_steps_move_every_parameter(case):
    train(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL, ids=str)
def test_two_steps_of_every_network_move_every_parameter(case):
    train(case)
