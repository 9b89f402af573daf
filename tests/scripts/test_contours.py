"""Gradient descent over badly scaled inputs, against its own steps taken one by one."""
import numpy as np
import pytest

from modern_cnn.errors import UserError
from scripts.ablations import computed


@pytest.mark.parametrize("case", ["alike", "unlike, standardised"])
def test_descent_equals_gradient_steps_taken_one_by_one(case):
    inputs = computed.draw_inputs(case, 3)
    found = computed.descend(inputs)
    targets = inputs @ computed.BEST
    rate = 1 / (np.linalg.norm(inputs, 2) ** 2 / len(inputs))
    weights, steps = found.path[0].copy(), 0
    np.testing.assert_allclose(np.linalg.norm(weights - computed.BEST), 1)
    while np.linalg.norm(weights - computed.BEST) > computed.NEAR:
        weights -= rate * inputs.T @ (inputs @ weights - targets) / len(inputs)
        steps += 1
        if steps < len(found.path):
            np.testing.assert_allclose(found.path[steps], weights, rtol=1e-10)
    assert found.steps == steps
    np.testing.assert_allclose(found.condition, np.linalg.cond(inputs) ** 2)


def test_inputs_are_in_the_texts_ranges():
    alike, unlike, standardised = (computed.draw_inputs(case, 0) for case in computed.CASES)
    for inputs, low, high in ((alike, (1, 1), (10, 10)), (unlike, (1, 100), (10, 1000))):
        assert (inputs.min(0) >= low).all()
        assert (inputs.max(0) <= high).all()
    np.testing.assert_allclose(standardised.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(standardised.std(0), 1)
    with pytest.raises(UserError, match="no case 'skewed'"):
        computed.draw_inputs("skewed", 0)
