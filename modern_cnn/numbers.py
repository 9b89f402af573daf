"""Settings that are numbers, which trials that are trained together in one compiled program have as traced values."""
import jax


def is_off(number: float | jax.Array) -> bool:
    """Whether a setting is a plain number and 0 (or False). A traced one is on: nobody knows yet what it is.

    Where 0 would not be the weakest of what is on (`clip_norm`, `resized_crop`, `mixup`, `cutmix`), trials with and
    without it are therefore two programs.
    """
    return not isinstance(number, jax.Array) and number == 0
