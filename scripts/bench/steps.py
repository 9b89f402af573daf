"""Training steps of a network, ours and its peers'.

The peers are the same network in PyTorch (the twin that the tests hold equal to ours; it needs a checkout and
requirements-dev.txt), eager or compiled, both with images channels-last as is fastest there; and 'library', ours with
XLA's own operation for every layer, which is what stock Flax computes.
"""
import dataclasses
import time
from collections.abc import Callable, Sequence
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import optax

from modern_cnn import models
from modern_cnn.errors import UserError, lookup
from modern_cnn.functional import formulations
from modern_cnn.training import steps
from modern_cnn.training.state import TrainState
from scripts.bench.timing import Step, in_turn, summarize

# name -> (images in a batch, image shape, options): sizes that a machine without an accelerator does in a second.
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
    """A network and the batch it is timed on."""
    name: str
    batch_size: int
    image_shape: tuple[int, int, int]
    options: dict
    dtype: str

    @classmethod
    def of(cls, name: str, batch_size: int = 0, dtype: str = "float32") -> "Case":
        """The case of SIZES, or of the size that the network was published for, batch 64."""
        lookup(models.MODELS, name, "network")
        size, shape, options = SIZES.get(name, (64, models.INPUTS[name][0], {}))
        return cls(name, batch_size or size, shape, options, dtype)

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Images float32 NHWC and labels, the same for everybody."""
        random = np.random.default_rng(0)
        return (random.standard_normal((self.batch_size, *self.image_shape)).astype(np.float32),
                random.integers(0, 10, self.batch_size))


def ours(case: Case) -> tuple[Step, float]:
    """(step, seconds it took to trace and compile)."""
    step, seconds, _ = compile_step(case)
    return step, seconds


def compile_step(case: Case) -> tuple[Step, float, jax.stages.Compiled]:
    """As `ours`, with the compiled program."""
    images, labels = map(jnp.asarray, case.batch())
    module = models.build(case.name, 10, **case.options, **({} if case.dtype == "float32" else {"dtype": case.dtype}))
    key, optimizer = jax.random.key(0), optax.sgd(RATE, MOMENTUM)
    # Everything goes in as an argument: XLA folds what is closed over, and the clock lies.
    state = jax.jit(lambda: TrainState.create(key, module, optimizer, case.image_shape))()
    batch = {"image": images, "label": labels}
    start = time.perf_counter()
    compiled = jax.jit(steps.train_step, donate_argnums=0).lower(state, batch, key).compile()
    seconds = time.perf_counter() - start

    def step():
        nonlocal state
        state, metrics = compiled(state, batch, key)
        jax.block_until_ready(state)
        return float(metrics.loss) / case.batch_size

    return step, seconds, compiled


def library(case: Case) -> tuple[Step, float]:
    """As `ours`, every layer by XLA's own operation."""
    with formulations.platform("gpu"):
        return ours(case)


def torch_packages() -> tuple[ModuleType, Callable]:
    """(PyTorch, the function of the tests that builds a network's twin in it).

    Raises:
      UserError: one of them is not there.
    """
    try:
        import torch

        from tests.models.torch_nets import torch_net
    except ImportError as e:
        raise UserError(f"the peer needs PyTorch (requirements-dev.txt) and a checkout with tests/: {e}") from e
    return torch, torch_net


def torch_eager(case: Case, compiled: bool = False) -> tuple[Step, float]:
    """PyTorch's step, on a GPU if it finds one; under bfloat16 with autocast, whose parameters stay float32 too."""
    torch, torch_net = torch_packages()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = case.batch()
    net = torch_net(case.name, 10, case.image_shape[2], **case.options)
    net = net.to(device, memory_format=torch.channels_last).train()
    forward = torch.compile(net) if compiled else net
    optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM)
    x = torch.tensor(images.transpose(0, 3, 1, 2)).to(device, memory_format=torch.channels_last)
    y = torch.tensor(labels, device=device)

    def step():
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=case.dtype == "bfloat16"):
            outputs = forward(x)
            first, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
            cross_entropy = torch.nn.functional.cross_entropy
            loss = cross_entropy(first, y) + steps.AUX_WEIGHT * sum(cross_entropy(each, y) for each in auxiliary)
        loss.backward()
        optimizer.step()
        return loss.item()  # waits for a GPU

    start = time.perf_counter()
    step()
    return step, time.perf_counter() - start


def torch_compiled(case: Case) -> tuple[Step, float]:
    """As `torch_eager`, through torch.compile; the seconds are of the first step."""
    return torch_eager(case, compiled=True)


PEERS = {"torch": torch_eager, "torch_compile": torch_compiled, "library": library}


def compare(case: Case, peers: Sequence[str], rounds: int) -> list[dict]:
    """One record for ours and each peer: the step's median, minimum and maximum in milliseconds, and what it means.

    Args:
      peers: keys of PEERS.
      rounds: turns of each, after two that do not count; in each `turns.TURN_SECONDS` of steps, and at least one.
    Raises:
      UserError: an unknown peer, or one whose packages are not there.
    """
    runners = {"ours": ours(case)} | {peer: lookup(PEERS, peer, "peer")(case) for peer in peers}
    times = in_turn({who: step for who, (step, _) in runners.items()}, rounds, 2)
    return [{"phase": "step", "model": case.name, "batch_size": case.batch_size,
             "image_shape": list(case.image_shape), "dtype": case.dtype, **numbers,
             "images_per_second": case.batch_size / numbers["median_ms"] * 1e3, "ready_s": runners[numbers["who"]][1]}
            for numbers in summarize(times)]
