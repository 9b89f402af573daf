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

    `module` and `optimizer` are static: a state goes through jit, pmap and shard_map by itself.
    """
    step: jax.Array  # int32, steps done
    params: Any
    collections: dict[str, Any]
    opt_state: optax.OptState
    module: nn.Module = struct.field(pytree_node=False)
    optimizer: optax.GradientTransformation = struct.field(pytree_node=False)

    @classmethod
    def create(cls, key: jax.Array, module: nn.Module, optimizer: optax.GradientTransformation,
               image_shape: tuple[int, int, int], pretrained: dict[str, Any] | None = None) -> "TrainState":
        """Parameters for images of `image_shape` (H, W, C): `pretrained` ones where there are some, the rest drawn."""
        variables = module.init(key, jnp.zeros((1, *image_shape)), train=False)
        variables = unflatten_dict(flatten_dict(variables) | flatten_dict(pretrained or {}))
        params = variables.pop("params")
        return cls(jnp.zeros((), jnp.int32), params, variables, optimizer.init(params), module, optimizer)

    @property
    def variables(self) -> dict[str, Any]:
        """What `module.apply` takes."""
        return {"params": self.params, **self.collections}
