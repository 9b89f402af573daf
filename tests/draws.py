"""Whether numbers were drawn from a distribution, to five standard errors: for seeds that are fixed."""
import numpy as np


def is_uniform(values, bound):
    """Within the bound, reaching it, and with the mean and variance of U(-bound, bound)."""
    values = np.asarray(values, np.float64).ravel()
    assert np.abs(values).max() <= bound * (1 + 1e-6)
    assert np.abs(values).max() > bound * (1 - 10 / values.size)
    assert abs(values.mean()) < 5 * bound / np.sqrt(3 * values.size)
    # the variance of a uniform variable's square is 4/45 bound^4
    assert abs((values ** 2).mean() - bound ** 2 / 3) < 5 * bound ** 2 * np.sqrt(4 / 45 / values.size)


def is_normal(values, deviation):
    """The mean and variance of N(0, deviation^2), and as many values beyond 2.5 deviations: none are cut off."""
    values = np.asarray(values, np.float64).ravel()
    assert abs(values.mean()) < 5 * deviation / np.sqrt(values.size)
    assert abs((values ** 2).mean() - deviation ** 2) < 5 * deviation ** 2 * np.sqrt(2 / values.size)
    share = 0.0124193  # of N(0, 1) beyond 2.5
    assert abs((np.abs(values) > 2.5 * deviation).mean() - share) < 5 * np.sqrt(share / values.size)
