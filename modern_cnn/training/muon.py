"""Muon (Jordan 2024, "Muon: An optimizer for hidden layers in neural networks"), as airbench has it.

`optax.contrib.muon` differs: its momentum is bias-corrected, it scales updates by the shape, and it takes five steps.
Above all it does not keep the norm of the kernels, without which the update has no scale to be compared with.
"""
from typing import Any

import jax
import jax.numpy as jnp
import optax

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of X, X X' X and (X X')^2 X
STEPS = 3


def orthogonalize(matrix: jax.Array, steps: int = STEPS) -> jax.Array:
    """Return a matrix [m, n] with the same singular vectors and singular values near 1.

    Each step of the Newton-Schulz iteration applies a polynomial, x times 3.4445 - 4.775 x^2 + 2.0315 x^4, to all
    singular values. It does not converge to 1, but raises small ones fast: three steps bring all those above 0.01 of
    the Frobenius norm to between 0.4 and 1.21.
    """
    a, b, c = COEFFICIENTS
    x = matrix / (jnp.linalg.norm(matrix) + 1e-7)
    wide = matrix.shape[0] <= matrix.shape[1]
    x = x if wide else x.T
    for _ in range(steps):
        product = x @ x.T
        x = a * x + (b * product + c * product @ product) @ x
    return x if wide else x.T


def follows(params: Any) -> Any:
    """Return True for the leaves that Muon is for: kernels of convolutions, which have four axes."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) == 4, params)


def muon(schedule: optax.Schedule, momentum: float) -> optax.GradientTransformation:
    """Return Muon with Nesterov momentum for kernels [kh, kw, I, O], whose update is orthogonalised as [kh*kw*I, O].

    A step first scales each kernel to the norm sqrt(O). So the gradient of a layer before a normalisation, which does
    not depend on the kernel's norm, moves it by the same angle throughout.
    """
    def project(updates, params):
        return jax.tree.map(lambda u: orthogonalize(u.reshape(-1, u.shape[-1])).reshape(u.shape), updates)

    def normalize(updates, params):
        def scaled(update, kernel):
            norm = jnp.linalg.norm(kernel)  # 0 where a block begins as the identity
            factor = jnp.where(norm > 0, kernel.shape[-1] ** 0.5 / jnp.where(norm > 0, norm, 1), 1)
            return update + (factor - 1) * kernel
        return jax.tree.map(scaled, updates, params)

    return optax.chain(optax.trace(momentum, nesterov=True), optax.stateless(project),
                       optax.scale_by_learning_rate(schedule), optax.stateless(normalize))
