"""Training steps of a network: ours and those of its peers.

The peers are the same network in PyTorch, eager or compiled, and 'library': ours with XLA's own operation for every
layer, which is what stock Flax computes. The PyTorch network is the twin that the tests hold equal to ours; it needs a
checkout and requirements-dev.txt. Its images are channels-last, which is fastest there.
"""
import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from modern_cnn import models
from modern_cnn.errors import UserError, lookup
from modern_cnn.functional import formulations
from modern_cnn.training.state import TrainState
from modern_cnn.training.steps import AUX_WEIGHT, train_step
from scripts.bench.timing import Runner, compare

# name -> (images in a batch, image shape, options): a CPU takes at most about a second for a step of this size.
SIZES = {
    "lenet": (256, (28, 28, 1), {}),
    "alexnet_d2l": (32, (224, 224, 1), {}),
    "vgg13_cifar": (64, (32, 32, 3), {}),
    "nin_d2l": (32, (224, 224, 1), {}),
    "googlenet_d2l": (64, (96, 96, 1), {}),
    "resnet18_cifar": (64, (32, 32, 3), {}),
    "densenet_d2l": (64, (96, 96, 1), {}),
}
RATE, MOMENTUM = 0.01, 0.9


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and the batch that its step is timed on."""
    name: str
    batch_size: int
    image_shape: tuple[int, int, int]
    options: dict[str, Any]
    dtype: str

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Return float32 images [N, H, W, C] and labels [N], the same for every peer."""
        random = np.random.default_rng(0)
        return (random.standard_normal((self.batch_size, *self.image_shape)).astype(np.float32),
                random.integers(0, 10, self.batch_size))


def make_case(name: str, batch_size: int = 0, dtype: str = "float32") -> Case:
    """Return the case of a network: its size in SIZES, or the size it was published for and 64 images.

    `batch_size`, unless 0, is another number of images. Raises UserError if there is no such network.
    """
    lookup(models.MODELS, name, "network")
    size, shape, options = SIZES.get(name, (64, models.INPUTS[name][0], {}))
    return Case(name, batch_size or size, shape, options, dtype)


def compile_step(case: Case) -> tuple[Runner, jax.stages.Compiled]:
    """Return our step, and its compiled program."""
    images, labels = map(jnp.asarray, case.batch())
    module = models.build(case.name, 10, **case.options, **({} if case.dtype == "float32" else {"dtype": case.dtype}))
    key, optimizer = jax.random.key(0), optax.sgd(RATE, MOMENTUM)
    # Everything is an argument: XLA would compute with constants while it compiles, and the step would seem too fast.
    state = jax.jit(lambda: TrainState.create(key, module, optimizer, case.image_shape))()
    batch = {"image": images, "label": labels}
    start = time.perf_counter()
    compiled = jax.jit(train_step, donate_argnums=0).lower(state, batch, key).compile()
    seconds = time.perf_counter() - start

    def step() -> float:
        nonlocal state
        state, metrics = compiled(state, batch, key)
        jax.block_until_ready(state)
        return float(metrics.loss) / case.batch_size

    return Runner(step, seconds), compiled


def our_step(case: Case) -> Runner:
    """Return our step; it is ready when it is traced and compiled."""
    return compile_step(case)[0]


def library_step(case: Case) -> Runner:
    """Return our step with every layer computed by XLA's own operation."""
    with formulations.platform("gpu"):
        return our_step(case)


def torch_packages() -> tuple[ModuleType, Callable]:
    """Return PyTorch, and the function of the tests that builds the twin of a network in it.

    Raises:
      UserError: one of them is missing.
    """
    try:
        import torch

        from tests.models.torch_nets import torch_net
    except ImportError as e:
        raise UserError(f"the peer needs PyTorch (requirements-dev.txt) and a checkout with tests/: {e}") from e
    return torch, torch_net


def torch_step(case: Case, compiled: bool = False) -> Runner:
    """Return PyTorch's step, on a GPU if there is one; it is ready after its first run.

    Under bfloat16 it uses autocast, which keeps the parameters float32, as ours are.

    Args:
      compiled: by torch.compile.
    Raises:
      UserError: PyTorch or the twins are missing.
    """
    torch, torch_net = torch_packages()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = case.batch()
    net = torch_net(case.name, 10, case.image_shape[2], **case.options)
    net = net.to(device, memory_format=torch.channels_last).train()
    forward = torch.compile(net) if compiled else net
    optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM)
    x = torch.tensor(images.transpose(0, 3, 1, 2)).to(device, memory_format=torch.channels_last)
    y = torch.tensor(labels, device=device)

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=case.dtype == "bfloat16"):
            outputs = forward(x)
            first, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
            cross_entropy = torch.nn.functional.cross_entropy
            loss = cross_entropy(first, y) + AUX_WEIGHT * sum(cross_entropy(each, y) for each in auxiliary)
        loss.backward()
        optimizer.step()
        return loss.item()  # waits for a GPU

    start = time.perf_counter()
    step()
    return Runner(step, time.perf_counter() - start)


PEERS: dict[str, Callable[[Case], Runner]] = {
    "torch": torch_step, "torch_compile": partial(torch_step, compiled=True), "library": library_step}


def compare_steps(case: Case, peers: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Return a record of our step and of each peer's, as `timing.compare` has them.

    Args:
      peers: keys of PEERS.
      rounds: turns of each, after two that do not count.
    Raises:
      UserError: an unknown peer, or one whose packages are missing.
    """
    runners = {"ours": our_step(case)} | {peer: lookup(PEERS, peer, "peer")(case) for peer in peers}
    return compare(runners, rounds, 2, case.batch_size, phase="step", model=case.name, batch_size=case.batch_size,
                   image_shape=list(case.image_shape), dtype=case.dtype)
