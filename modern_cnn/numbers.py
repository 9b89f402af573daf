"""Settings that are numbers, which a trial of many in one compiled program has as traced values."""
import jax


def is_off(number: float | jax.Array) -> bool:
    """Whether a setting is a plain number and 0 (or False). A traced one is on: nobody knows yet what it is."""
    return not isinstance(number, jax.Array) and number == 0
