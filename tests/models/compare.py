"""A comparison of our networks with PyTorch's: one training step of each."""
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from tests.functional.oracle import FAST_COMPILE

AUX_WEIGHT = 0.3  # Szegedy et al. 2014, section 5


def close(got, want, tolerance, name=""):
    """Assert that arrays are equal, to `tolerance` times the largest number."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, name
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max(initial=0), err_msg=name)


@dataclass
class Step:
    """One pass in training mode; `gradients` and `stats` (the new running statistics) have their framework's names."""
    loss: Any
    logits: list[Any]  # the network's, then those of the auxiliary heads
    stats: Any
    gradients: Any


def our_step(module, variables, images, labels):
    """Return the mean cross-entropy, with that of the auxiliary heads, and its gradients by JAX."""
    others = {name: value for name, value in variables.items() if name != "params"}

    def loss(params):
        logits, new = module.apply({"params": params, **others}, images, train=True,
                                   mutable=["batch_stats", "aux_logits"], rngs={"dropout": jax.random.key(0)})
        outputs = [logits, *jax.tree.leaves(new.get("aux_logits", {}))]
        first, *rest = (-jnp.take_along_axis(jax.nn.log_softmax(each), labels[:, None], 1).mean() for each in outputs)
        return first + AUX_WEIGHT * sum(rest), (outputs, new.get("batch_stats", {}))

    step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=FAST_COMPILE)
    (value, (outputs, stats)), gradients = step(variables["params"])
    return Step(value, outputs, stats, gradients)


def torch_step(net, images, labels):
    """Return the same by PyTorch, with PyTorch's names. The network stays in training mode."""
    net.train().zero_grad()
    outputs = net(images)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    first, *rest = (torch.nn.functional.cross_entropy(each, labels) for each in outputs)
    loss = first + AUX_WEIGHT * sum(rest)
    loss.backward()
    stats = {key: value.numpy().copy() for key, value in net.named_buffers() if not key.endswith("num_batches_tracked")}
    gradients = {key: parameter.grad.numpy() for key, parameter in net.named_parameters()}
    return Step(loss.item(), [each.detach().numpy() for each in outputs], stats, gradients)
