"""The influence of pixels through stacked dilated convolutions, against sums of offsets and a product of kernels."""
import itertools

import numpy as np
import pytest

from scripts.ablations import computed


@pytest.mark.parametrize(("rates", "count"), [((2, 2), 25), ((1, 2), 49)])
def test_the_pixels_with_an_influence_are_the_sums_of_the_offsets(rates, count):
    found, reach = computed.influence(rates, seed=1), sum(rates)
    offsets = {reach + sum(step) for step in itertools.product(*[(-rate, 0, rate) for rate in rates])}
    wanted = np.zeros((2 * reach + 1, 2 * reach + 1), bool)
    wanted[np.ix_(sorted(offsets), sorted(offsets))] = True
    np.testing.assert_array_equal(found > 0, wanted)
    assert wanted.sum() == count
    assert not np.allclose(found, computed.influence(rates, seed=2))
