"""All tests here run in float64, where two correct implementations agree to about 1e-15."""
import jax
import pytest


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield
