"""How exact the device at hand is: layers and networks in three precisions against PyTorch's in float64 on a CPU.

    python -m scripts.bench.exactness --out=exactness.json

'highest' is float32, 'default' what JAX computes float32 products with (on recent GPUs TF32), 'bfloat16' the networks'
dtype. It needs a checkout, for the networks, weights and golden arrays of tests/, and PyTorch.
"""
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import flags
from torch.nn import functional as T

from modern_cnn import cli, models, runtime
from modern_cnn import functional as F
from modern_cnn.errors import UserError
from scripts.bench import timing
from tests.golden.weights import golden_images
from tests.models.names import STORED, golden_weights, to_ours
from tests.models.torch_nets import torch_net

OUT = flags.DEFINE(cli.Path(), "out", None, "Also write the errors to this JSON file, each as soon as it is known.")
TINY = flags.DEFINE_bool("tiny", False, "Only a few of them: does everything run?")
ALLOWED = 1e-4  # with 'highest', of the largest number; more is no rounding
GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden"
NETWORKS = ("resnet50", "vgg16", "densenet121", "googlenet")
PRECISIONS: dict[str, tuple[str, Any]] = {
    "highest": ("highest", jnp.float32), "default": ("default", jnp.float32), "bfloat16": ("default", jnp.bfloat16)}


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


def _channels_first(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2)


def _as_torch(function: Callable, **options: Any) -> Callable:
    """Return a function of PyTorch for images in our layout; kernels come in ours, [kh, kw, I, O], too."""
    def call(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        weights = tuple(w.permute(3, 2, 0, 1) if w.ndim == 4 else w for w in weights)
        return function(_channels_first(x), *weights, **options).permute(0, 2, 3, 1)

    return call


def _batch_norm(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, train: bool = True) -> torch.Tensor:
    mean, var = torch.zeros_like(scale), torch.ones_like(scale)
    return T.batch_norm(x, mean, var, scale, bias, training=train)


def _our_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, train: bool = True) -> jax.Array:
    mean, var = jnp.zeros(scale.shape), jnp.ones(scale.shape)
    return F.batch_norm(x, scale, bias, mean, var, train=train, decay=0.9, epsilon=1e-5)[0]


def layers() -> dict[str, tuple[Callable, Callable, list[np.ndarray]]]:
    """Return {name: (our function, PyTorch's, their arguments)}."""
    image, kernel, bias = normal(8, 28, 28, 32), normal(3, 3, 32, 48), normal(48)
    scale, shift = normal(32), normal(1, 32)[0]
    dense, large = normal(256, 512), normal(8, 30, 30, 3)
    return {
        "conv 3x3": (partial(F.conv2d, padding=1), _as_torch(T.conv2d, padding=1), [image, kernel, bias]),
        "conv 3x3, unpadded": (F.conv2d, _as_torch(T.conv2d), [image, kernel, bias]),
        "conv 3x3, stride 2": (partial(F.conv2d, padding=1, strides=2), _as_torch(T.conv2d, padding=1, stride=2),
                               [image, kernel, bias]),
        "conv 3x3, dilated": (partial(F.conv2d, padding=2, dilation=2), _as_torch(T.conv2d, padding=2, dilation=2),
                              [image, kernel, bias]),
        "conv 1x1": (F.conv2d, _as_torch(T.conv2d), [image, normal(1, 1, 32, 64)]),
        "conv 5x5": (partial(F.conv2d, padding=2), _as_torch(T.conv2d, padding=2), [image, normal(5, 5, 32, 16)]),
        "conv 7x7, stride 2": (partial(F.conv2d, padding=3, strides=2), _as_torch(T.conv2d, padding=3, stride=2),
                               [large, normal(7, 7, 3, 64)]),
        "conv 11x11, stride 4": (partial(F.conv2d, padding=2, strides=4), _as_torch(T.conv2d, padding=2, stride=4),
                                 [large, normal(11, 11, 3, 64)]),
        "conv, 4 groups": (partial(F.conv2d, padding=1, groups=4), _as_torch(T.conv2d, padding=1, groups=4),
                           [image, normal(3, 3, 8, 64)]),
        "depthwise": (partial(F.depthwise_conv2d, padding=1), lambda x, k: T.conv2d(
            _channels_first(x), k.permute(2, 3, 0, 1).reshape(-1, 1, 3, 3), padding=1, groups=32).permute(0, 2, 3, 1),
            [image, normal(3, 3, 32, 2)]),
        "dense": (jnp.matmul, torch.matmul, [dense, normal(512, 128)]),
        "max_pool 2x2": (partial(F.max_pool, window_shape=2, strides=2), _as_torch(T.max_pool2d, kernel_size=2),
                         [image]),
        "max_pool 3x3, stride 2": (partial(F.max_pool, window_shape=3, strides=2, padding=1),
                                   _as_torch(T.max_pool2d, kernel_size=3, stride=2, padding=1), [image]),
        "max_pool, ceil": (partial(F.max_pool, window_shape=3, strides=2, ceil_mode=True),
                           _as_torch(T.max_pool2d, kernel_size=3, stride=2, ceil_mode=True), [image]),
        "avg_pool 2x2": (partial(F.avg_pool, window_shape=2, strides=2), _as_torch(T.avg_pool2d, kernel_size=2),
                         [image]),
        "adaptive_avg_pool": (partial(F.adaptive_avg_pool, output_size=(6, 6)),
                              _as_torch(T.adaptive_avg_pool2d, output_size=(6, 6)), [image]),
        "batch_norm": (_our_norm, _as_torch(_batch_norm), [image, scale, shift]),
        "batch_norm, evaluation": (partial(_our_norm, train=False), _as_torch(_batch_norm, train=False),
                                   [image, scale, shift]),
        "group_norm": (partial(F.group_norm, groups=4), _as_torch(lambda x, *weights: T.group_norm(x, 4, *weights)),
                       [image, scale, shift]),
        "local_response_norm": (F.local_response_norm, _as_torch(T.local_response_norm, size=5), [image]),
    }


def of_layers() -> Iterator[dict[str, Any]]:
    """Yield the errors of each layer's value and gradients."""
    for name, (ours, theirs, arrays) in [*layers().items()][::5 if TINY.value else 1]:
        leaves = [torch.tensor(array, requires_grad=True) for array in arrays]
        value = theirs(*leaves)
        cotangent = normal(*value.shape, seed=1)  # not the image itself, along which batch norm has no gradient
        wanted = [value, *torch.autograd.grad(value, leaves, torch.tensor(cotangent))]

        def step(arrays: Any, cotangent: jax.Array, ours: Callable = ours) -> list[jax.Array]:
            y, pullback = jax.vjp(ours, *arrays)
            return [y, *pullback(cotangent)]

        for precision, (products, dtype) in PRECISIONS.items():
            with jax.default_matmul_precision(products):
                got = jax.jit(step)([jnp.asarray(each, dtype) for each in arrays], jnp.asarray(cotangent, dtype))
            yield {"what": name, "precision": precision, "error": max(map(_error, got, wanted))}


def of_networks() -> Iterator[dict[str, Any]]:
    """Yield the errors of logits in evaluation: against the golden arrays, and against PyTorch's large networks."""
    for stored, name in [*STORED.items()][:3 if TINY.value else None]:
        golden = np.load(GOLDEN / f"{stored}.npz")
        classes, seed = golden["eval_logits"].shape[1], int(golden["seed"])
        yield from _of_network(f"golden {stored}", name, classes, golden_images(tuple(golden["x_shape"]), seed), seed,
                               golden["eval_logits_f64"])
    for name in NETWORKS[:1 if TINY.value else None]:
        yield from _of_network(name, name, 1000, golden_images((2, 3, *[64 if TINY.value else 224] * 2)))


def _of_network(what: str, name: str, classes: int, images: np.ndarray, seed: int = 0,
                logits: np.ndarray | None = None) -> Iterator[dict[str, Any]]:
    with torch.device("meta"):
        twin = torch_net(name, classes, images.shape[1])
    _, state = golden_weights(name, twin, seed)
    if logits is None:
        twin.load_state_dict({key: torch.tensor(value) for key, value in state.items()}, assign=True)
        with torch.no_grad():
            logits = twin.double().eval()(torch.tensor(images).double()).numpy()
    variables = to_ours(name, state)
    for precision, (products, dtype) in PRECISIONS.items():
        module = models.build(name, classes, dtype=dtype.dtype.name)
        with jax.default_matmul_precision(products):
            got = jax.jit(module.apply)(variables, images.transpose(0, 2, 3, 1))
        yield {"what": what, "precision": precision, "error": _error(got, logits)}


def _error(got: Any, wanted: Any) -> float:
    """Return the largest difference by the largest number."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted.detach() if hasattr(wanted, "detach") else wanted)
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def main() -> None:
    runtime.configure()
    results, start = [], time.perf_counter()
    for measure in (of_networks, of_layers):
        for found in measure():
            results.append(found)
            print("{what:28} {precision:9} {error:.1e}".format(**found), flush=True)
            timing.write_measurements(OUT.value or "", seconds=time.perf_counter() - start, results=results)
    wrong = [each["what"] for each in results if each["precision"] == "highest" and not each["error"] < ALLOWED]
    if wrong:
        raise UserError(f"with the highest precision {', '.join(wrong)} are off by more than {ALLOWED} of the maximum")


if __name__ == "__main__":
    cli.run(main)
