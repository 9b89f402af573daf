"""The state that training carries from step to step."""
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict


class TrainState(struct.PyTreeNode):
    """A training state: arrays, and the static `module` and `optimizer`, so that it passes through jit and pmap."""
    step: jax.Array  # int32, the number of steps done
    params: Any
    collections: dict[str, Any]  # the other collections of the module ('batch_stats', ...)
    opt_state: optax.OptState
    module: nn.Module = struct.field(pytree_node=False)
    optimizer: optax.GradientTransformation = struct.field(pytree_node=False)
    ema: dict[str, Any] | None = None  # running averages of `variables` (batch statistics too), if they are kept

    @classmethod
    def create(cls, key: jax.Array, module: nn.Module, optimizer: optax.GradientTransformation,
               image_shape: tuple[int, int, int], pretrained: dict[str, Any] | None = None, *,
               ema: bool = False) -> "TrainState":
        """Return the state of step 0 for images of `image_shape` (H, W, C), with running averages if `ema`.

        It starts from the variables `pretrained`; `key` draws those that these do not hold.
        """
        variables = module.init(key, jnp.zeros((1, *image_shape)), train=False)
        variables = unflatten_dict(flatten_dict(variables) | flatten_dict(pretrained or {}))
        params = variables.pop("params")
        state = cls(jnp.zeros((), jnp.int32), params, variables, optimizer.init(params), module, optimizer)
        return state.replace(ema=jax.tree.map(jnp.copy, state.variables)) if ema else state  # copies: both are donated

    @property
    def variables(self) -> dict[str, Any]:
        """Return the variables of `module.apply`."""
        return {"params": self.params, **self.collections}

    @property
    def evaluation_variables(self) -> dict[str, Any]:
        """Return the variables that evaluation scores and a run has as its result: the averages if they are kept."""
        return self.variables if self.ema is None else self.ema

    def average(self, decay: float | jax.Array) -> "TrainState":
        """Return the state with its averages, if it keeps any, moved towards its variables.

        new = d * old + (1 - d) * variables with d = min(decay, (1 + step) / (10 + step)), so that the first steps are
        soon forgotten (`tf.train.ExponentialMovingAverage` with `num_updates`).
        """
        if self.ema is None:
            return self
        decay = jnp.minimum(decay, (1 + self.step) / (10 + self.step))
        # optax.incremental_update takes 1 - d, and its 1 - (1 - d) rounds to another number than d.
        averages = jax.tree.map(lambda old, now: jnp.where(old == now, old, decay * old + (1 - decay) * now),
                                self.ema, self.variables)  # what is frozen keeps every bit
        return self.replace(ema=averages)
