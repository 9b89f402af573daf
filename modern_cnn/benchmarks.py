"""Training steps against the clock: ours and others' in turn, in one process, on the same numbers.

A network's peers are the same network in PyTorch (the twin that the tests hold equal to ours; it needs a checkout and
requirements-dev.txt), eager or compiled, both with images channels-last as is fastest there; and 'library', ours with
XLA's own operation for every layer, which is what stock Flax computes.
"""
import dataclasses
import importlib.metadata
import logging
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from modern_cnn import models
from modern_cnn.errors import UserError, lookup
from modern_cnn.functional import formulations
from modern_cnn.training import steps, workdir
from modern_cnn.training.state import TrainState

log = logging.getLogger(__name__)

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
Step = Callable[[], float]  # takes one training step to its end and returns the loss


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

    return step, seconds


def library(case: Case) -> tuple[Step, float]:
    """As `ours`, every layer by XLA's own operation."""
    with formulations.platform("gpu"):
        return ours(case)


def torch_eager(case: Case, compiled: bool = False) -> tuple[Step, float]:
    """PyTorch's step, on a GPU if it finds one; under bfloat16 with autocast, whose parameters stay float32 too."""
    try:
        import torch

        from tests.models.torch_nets import torch_net
    except ImportError as e:
        raise UserError(f"the peer needs PyTorch (requirements-dev.txt) and a checkout with tests/: {e}") from e
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
      rounds: steps of each, taken in turn after two that do not count.
    Raises:
      UserError: an unknown peer, or one whose packages are not there.
    """
    runners = {"ours": ours(case)}
    for peer in peers:
        runners[peer] = lookup(PEERS, peer, "peer")(case)
    times: dict[str, list[float]] = {who: [] for who in runners}
    for turn in range(rounds + 2):
        for who, (step, _) in runners.items():
            start = time.perf_counter()
            step()
            if turn >= 2:
                times[who].append((time.perf_counter() - start) * 1e3)
    records = []
    for who, taken in times.items():
        # How many times as fast as this one ours is: the median over the turns, in each of which both ran.
        faster = statistics.median(other / own for other, own in zip(taken, times["ours"], strict=True))
        median = statistics.median(taken)
        records.append({"model": case.name, "batch_size": case.batch_size, "image_shape": list(case.image_shape),
                        "dtype": case.dtype, "who": who, "step_ms": median, "min_ms": min(taken), "max_ms": max(taken),
                        "images_per_second": case.batch_size / median * 1e3, "compile_s": runners[who][1],
                        "ours_is_faster": faster, "rounds": rounds})
    return records


def report(names: Sequence[str], peers: Sequence[str], batch_size: int, dtype: str, rounds: int, out: str) -> None:
    """Compares networks one after the other, each as a line of a table as soon as it is measured; `out` gets JSON.

    Raises:
      UserError: an unknown network or peer, or an `out` that cannot be written.
    """
    cases = [Case.of(name, batch_size, dtype) for name in names or SIZES]
    for peer in peers:
        lookup(PEERS, peer, "peer")
    if out and not Path(out).absolute().parent.is_dir():
        raise UserError(f"--out={out}: there is no folder {Path(out).parent}")
    log.info("%s", workdir.describe_machine()["machine"] + f", {jax.devices()[0].device_kind}; {dtype}; "
             f"{rounds} steps of each, in turn; ms: median (fastest to slowest)")
    log.info(ROW, "network", "batch, image", "who", "ms a step", "images/s", "compile", "ours is")
    records = []
    for case in cases:
        for record in compare(case, peers, rounds):
            records.append(record)
            size = f"{record['batch_size']}, {'x'.join(map(str, record['image_shape']))}"
            spread = f"{record['step_ms']:,.1f} ({record['min_ms']:,.1f} to {record['max_ms']:,.1f})"
            log.info(ROW, record["model"], size, record["who"], spread, f"{record['images_per_second']:,.0f}",
                     f"{record['compile_s']:.1f} s", f"{record['ours_is_faster']:.2f}x")
        if out:
            machine = workdir.describe_machine()
            if "torch" in sys.modules:
                machine["versions"]["torch"] = importlib.metadata.version("torch")
            with workdir.disk_errors(Path(out)):
                workdir.write_json(Path(out), {**machine, "results": records})


ROW = "%-16s %-16s %-14s %28s %10s %9s %8s"
