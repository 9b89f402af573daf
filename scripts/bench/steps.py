"""Training steps of a network, or its forward passes in evaluation: ours and those of its peers.

The peers are the same network in PyTorch, eager or compiled, and 'library': ours with XLA's own operation for every
layer, which is what stock Flax computes. The PyTorch network is the twin that the tests hold equal to ours; it needs a
checkout and requirements-dev.txt. Its images are channels-last, which is fastest there.
"""
import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from modern_cnn import models
from modern_cnn.errors import UserError, lookup
from modern_cnn.functional import formulations
from modern_cnn.inspection.summary import allocated, summarize
from modern_cnn.training.state import TrainState
from modern_cnn.training.steps import AUX_WEIGHT, train_step
from scripts.bench.apart import apart
from scripts.bench.timing import Case, Records, Runner, along, compare

# Images in a batch: a CPU takes at most about a second for a step of this size.
SIZES = {"lenet": 256, "alexnet_d2l": 32, "vgg13_cifar": 64, "nin_d2l": 32, "googlenet_d2l": 64, "resnet18_cifar": 64,
         "resnet18_d2l": 64, "densenet_d2l": 64}
RATE, MOMENTUM = 0.01, 0.9


def make_batch(case: Case) -> dict[str, np.ndarray]:
    """Return 'image' float32 [N, H, W, C] and 'label' [N], the same for every peer."""
    random = np.random.default_rng(0)
    return {"image": random.standard_normal((case.batch_size, *case.image_shape)).astype(np.float32),
            "label": random.integers(0, 10, case.batch_size)}


def make_cases(names: Sequence[str], batch_size: int = 0, dtype: str = "float32") -> list[Case]:
    """Return a case for each network, by default those of SIZES, at the image size that it was published for.

    `batch_size` 0 means the number in SIZES, or 64. Raise UserError if there is no such network.
    """
    return [Case(name, batch_size or SIZES.get(name, 64), lookup(models.INPUTS, name, "network")[0], dtype)
            for name in names or SIZES]


def our_step(case: Case, platform: str | None = None) -> Runner:
    """Return our step, in the formulations for a platform, by default its own; it is ready when it is compiled."""
    module = models.build(case.model, 10, dtype=None if case.dtype == "float32" else case.dtype)
    key, optimizer = jax.random.key(0), optax.sgd(RATE, MOMENTUM)
    # Everything is an argument: XLA would compute with constants while it compiles, and the step would seem too fast.
    state = jax.jit(lambda: TrainState.create(key, module, optimizer, case.image_shape))()
    batch = jax.tree.map(jnp.asarray, make_batch(case))
    start = time.perf_counter()
    with formulations.platform(platform):
        compiled = jax.jit(train_step, donate_argnums=0).lower(state, batch, key).compile()
    seconds = time.perf_counter() - start

    def step() -> float:
        nonlocal state
        state, metrics = compiled(state, batch, key)
        jax.block_until_ready(state)
        return float(metrics.loss) / case.batch_size

    return Runner(step, seconds, compiled, sum(allocated(compiled)))


def our_evaluation(case: Case, platform: str | None = None) -> Runner:
    """Return our forward pass in evaluation, as `our_step` returns the step."""
    module = models.build(case.model, 10, dtype=None if case.dtype == "float32" else case.dtype)
    images = jnp.asarray(make_batch(case)["image"])
    variables = jax.jit(module.init)(jax.random.key(0), images[:1])
    start = time.perf_counter()
    with formulations.platform(platform):
        compiled = jax.jit(lambda variables, images: module.apply(variables, images, train=False)).lower(
            variables, images).compile()
    seconds = time.perf_counter() - start
    return Runner(lambda: np.asarray(compiled(variables, images)), seconds, compiled, sum(allocated(compiled)))


def torch_packages() -> tuple[ModuleType, Callable]:
    """Return PyTorch, and the function of the tests that builds a network's twin in it; UserError if one is missing."""
    try:
        import torch

        from tests.models.torch_nets import torch_net
    except ImportError as e:
        raise UserError(f"the peer needs PyTorch (requirements-dev.txt) and a checkout with tests/: {e}") from e
    return torch, torch_net


def _torch_device() -> tuple[str, Callable[[], int | None]]:
    """Return PyTorch's device, a GPU if there is one, and what says the most bytes in use, beyond those now."""
    torch, _ = torch_packages()
    if not torch.cuda.is_available():
        return "cpu", lambda: None
    torch.backends.cudnn.benchmark = True  # it tries the algorithms of a convolution, as XLA does when it compiles
    before = torch.cuda.memory_allocated()

    def held() -> int:
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    return "cuda", held


def _ready(run: Callable[[], Any], held: Callable[[], int | None]) -> Runner:
    """Return PyTorch's program after its first run, with the memory of a second one: the first step has no momentum."""
    torch, _ = torch_packages()
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        run()
    return Runner(run, seconds, memory=held())


def torch_step(case: Case, compiled: bool = False) -> Runner:
    """Return PyTorch's step, compiled or not, on a GPU if there is one; it is ready after its first run."""
    torch, torch_net = torch_packages()
    device, held = _torch_device()
    batch = make_batch(case)
    net = torch_net(case.model, 10, case.image_shape[2]).to(device, memory_format=torch.channels_last).train()
    forward = torch.compile(net) if compiled else net
    optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM)
    x = torch.tensor(batch["image"].transpose(0, 3, 1, 2)).to(device, memory_format=torch.channels_last)
    y = torch.tensor(batch["label"], device=device)

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=case.dtype == "bfloat16"):  # parameters stay float32
            outputs = forward(x)
            first, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
            cross_entropy = torch.nn.functional.cross_entropy
            loss = cross_entropy(first, y) + AUX_WEIGHT * sum(cross_entropy(each, y) for each in auxiliary)
        loss.backward()
        optimizer.step()
        return loss.item()  # waits for a GPU

    return _ready(step, held)


def torch_evaluation(case: Case, compiled: bool = False) -> Runner:
    """Return PyTorch's forward pass in evaluation, without a graph of gradients, as `torch_step` returns the step."""
    torch, torch_net = torch_packages()
    device, held = _torch_device()
    net = torch_net(case.model, 10, case.image_shape[2]).to(device, memory_format=torch.channels_last).eval()
    forward = torch.compile(net) if compiled else net
    images = torch.tensor(make_batch(case)["image"].transpose(0, 3, 1, 2))
    images = images.to(device, memory_format=torch.channels_last)

    def evaluate() -> np.ndarray:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=case.dtype == "bfloat16"):
            return forward(images).float().numpy(force=True)

    return _ready(evaluate, held)


# what is timed -> who -> the maker of a program
PROGRAMS: dict[str, dict[str, Callable[[Case], Runner]]] = {
    "step": {"ours": our_step, "torch": torch_step, "torch_compile": partial(torch_step, compiled=True),
             "library": partial(our_step, platform="gpu"), "torch_kept": torch_step, "ours_system": our_step},
    "evaluation": {"ours": our_evaluation, "torch": torch_evaluation,
                   "torch_compile": partial(torch_evaluation, compiled=True),
                   "library": partial(our_evaluation, platform="gpu"), "torch_kept": torch_evaluation,
                   "ours_system": our_evaluation},
}
KEEPING = ("ours", "library", "torch_kept")  # keep their memory as our scripts do; others use the system's allocator
KEEPING_SAID = "ours, stock Flax and 'PyTorch, memory kept'"


@cache
def matrix_rate(dtype: str) -> float:
    """Return the floating-point operations a second of plain products of large random matrices: the best of five.

    On an accelerator ten products run in a row, so that the call takes none of the time; a chip multiplies ones faster.
    """
    size, times = (2048, 1) if jax.default_backend() == "cpu" else (8192, 10)
    product, x, seconds = jax.jit(lambda x: x @ x), jax.random.normal(jax.random.key(0), (size, size), dtype), []
    for _ in range(6):  # the first compiles
        start = time.perf_counter()
        jax.block_until_ready([product(x) for _ in range(times)])
        seconds.append((time.perf_counter() - start) / times)
    return 2 * size**3 / min(seconds[1:])


def compare_steps(case: Case, peers: Sequence[str], rounds: int, phase: str = "step") -> Records:
    """Return a record of our step or evaluation (`phase`) and of each peer's, after two rounds that do not count.

    On a CPU each runs in a process of its own, with the allocator that its user has: those in KEEPING keep their memory
    as our scripts do, others have the system's. 'matrix_share' is the part of `matrix_rate` that a program reaches. A
    step counts as three forward passes (the backward pass has two products for each of the forward pass).
    'memory_bytes' is what it needs, by XLA or by PyTorch's allocator. Raise UserError for an unknown peer, before
    anything is compiled, or one whose packages are missing.
    """
    makers = {who: lookup(PROGRAMS[phase], who, "peer") for who in ("ours", *peers)}
    with contextlib.ExitStack() as stack:
        def ready(who: str, make: Callable[[Case], Runner]) -> Runner:
            return stack.enter_context(apart(who, make, case, who in KEEPING)) if formulations.on_cpu() else make(case)

        runners = {}
        for who, make in along(makers.items(), f"{case.model}, compiling"):
            try:
                runners[who] = ready(who, make)
            except Exception as e:  # of torch.compile, say: an accelerator's minutes are worth the others' times
                if who == "ours" or isinstance(e, UserError):
                    raise
                reason, *_ = (str(e).strip() or type(e).__name__).splitlines()
                print(f"{case.model}: left out {who}: {reason}", file=sys.stderr)
        records = compare(phase, case, runners, rounds, 2, case.batch_size)
    passes = 3 if phase == "step" else 1
    work = passes * 2 * summarize(models.build(case.model, 10), case.image_shape).macs * case.batch_size
    for record in records:
        record["matrix_share"] = work / record["median_ms"] * 1e3 / matrix_rate(case.dtype)
        record["memory_bytes"] = runners[record["who"]].memory
    return records
