"""What training carries from step to step."""
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict


class TrainState(struct.PyTreeNode):
    """Parameters, every other collection of the module ('batch_stats', ...), the optimiser's state and the step count.

    `ema` are the running averages of `variables`, batch statistics included, or None where none are kept. `module` and
    `optimizer` are static: a state goes through jit, pmap and shard_map by itself.
    """
    step: jax.Array  # int32, steps done
    params: Any
    collections: dict[str, Any]
    opt_state: optax.OptState
    module: nn.Module = struct.field(pytree_node=False)
    optimizer: optax.GradientTransformation = struct.field(pytree_node=False)
    ema: dict[str, Any] | None = None

    @classmethod
    def create(cls, key: jax.Array, module: nn.Module, optimizer: optax.GradientTransformation,
               image_shape: tuple[int, int, int], pretrained: dict[str, Any] | None = None, *,
               ema: bool = False) -> "TrainState":
        """Parameters for images of `image_shape` (H, W, C): `pretrained` ones where there are some, the rest drawn.

        With `ema` averages are kept from here on.
        """
        variables = module.init(key, jnp.zeros((1, *image_shape)), train=False)
        variables = unflatten_dict(flatten_dict(variables) | flatten_dict(pretrained or {}))
        params = variables.pop("params")
        state = cls(jnp.zeros((), jnp.int32), params, variables, optimizer.init(params), module, optimizer)
        return state.replace(ema=jax.tree.map(jnp.copy, state.variables)) if ema else state  # arrays of its own

    @property
    def variables(self) -> dict[str, Any]:
        """What `module.apply` takes."""
        return {"params": self.params, **self.collections}

    @property
    def evaluation_variables(self) -> dict[str, Any]:
        """The variables that evaluation scores and a run results in: the averages, where they are kept."""
        return self.variables if self.ema is None else self.ema

    def average(self, decay: float | jax.Array) -> "TrainState":
        """The state after its averages, if it keeps any, have moved towards its variables.

        new = d * old + (1 - d) * variables, d = min(decay, (1 + step) / (10 + step)): the first steps do not linger
        (`tf.train.ExponentialMovingAverage` with `num_updates`).
        """
        if self.ema is None:
            return self
        decay = jnp.minimum(decay, (1 + self.step) / (10 + self.step))
        return self.replace(ema=jax.tree.map(lambda old, now: decay * old + (1 - decay) * now, self.ema,
                                             self.variables))
