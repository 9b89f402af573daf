"""Why inputs are scaled: gradient descent on a linear model of two inputs, and the contours of its loss.

The example is the TensorFlow text's (section 10.8): inputs in [1, 10] and [1, 10], against [1, 10] and [100, 1000]. The
text takes the output itself as the loss, which has no minimum; here the loss is half the mean squared error to known
weights.
"""
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from modern_cnn.errors import UserError
from scripts.ablations.trials import write_trials

RANGES = {"alike": ((1, 10), (1, 10)), "unlike": ((1, 10), (100, 1000))}  # of the two inputs
CASES = ("alike", "unlike", "unlike, standardised")
EXAMPLES, NEAR, LONGEST = 100, 0.01, 10**7
BEST = np.array([1.0, 1.0])  # the weights that make the loss 0
SHOWN = 30  # steps in the picture


class Descent(NamedTuple):
    """Gradient descent at the rate 1 / the loss's largest curvature, from a distance of 1 to the best weights.

    Half of the distance is along each principal axis, so that the start favours none of the cases.
    """
    hessian: np.ndarray  # [2, 2], of the loss
    condition: float  # the largest curvature over the smallest
    path: np.ndarray  # [SHOWN + 1, 2], the weights of the first steps
    steps: int  # until the distance to the best weights is at most NEAR


def draw_inputs(case: str, seed: int) -> np.ndarray:
    """Return float64 [EXAMPLES, 2], uniform in the case's RANGES; 'standardised' to mean 0 and deviation 1 afterwards.

    Raise UserError if it is not one of CASES.
    """
    if case not in CASES:
        raise UserError(f"there is no case {case!r} of inputs; known: {'; '.join(CASES)}")
    ranges, _, standardised = case.partition(", ")
    low, high = np.array(RANGES[ranges], np.float64).T
    inputs = np.random.default_rng(seed).uniform(low, high, (EXAMPLES, 2))
    return (inputs - inputs.mean(0)) / inputs.std(0) if standardised else inputs


def descend(inputs: np.ndarray) -> Descent:
    """Return the descent on the loss mean((inputs @ (w - BEST))^2) / 2 of inputs [N, 2].

    After t steps the distance along each principal axis is (1 - rate * curvature)^t of the first one. Bisection finds
    the first t that is near enough.
    """
    hessian = inputs.T @ inputs / len(inputs)
    curvatures, axes = np.linalg.eigh(hessian)
    shrink, start = 1 - curvatures / curvatures[-1], np.full(2, -(0.5 ** 0.5))
    steps = bisect_left(range(LONGEST), True, key=lambda step: np.linalg.norm(start * shrink ** step) <= NEAR)
    path = np.array([BEST + axes @ (start * shrink ** step) for step in range(SHOWN + 1)])
    return Descent(hessian, curvatures[1] / curvatures[0], path, steps)


def draw(descents: Sequence[tuple[str, Descent]], path: Path) -> None:
    """Write a picture with a panel for each (title, descent): the contours of the loss and the first steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.3 * len(descents), 3.7), layout="constrained")
    first, second = np.meshgrid(np.linspace(-0.2, 2.2, 200), np.linspace(-0.2, 2.2, 200))
    away = np.stack([first, second], -1) - BEST
    for axes, (title, descent) in zip(figure.subplots(1, len(descents), squeeze=False)[0], descents, strict=True):
        loss = np.einsum("abi,ij,abj->ab", away, descent.hessian, away) / 2
        axes.contour(first, second, loss, levels=loss.max() * np.geomspace(1e-3, 1, 10), linewidths=0.8, cmap="viridis")
        axes.plot(*descent.path.T, color="tab:red", marker="o", markersize=2.5, linewidth=1)
        axes.plot(*BEST, color="black", marker="*", markersize=9)
        axes.set_title(f"{title}\n{descent.steps:,} steps, condition {descent.condition:,.3g}", fontsize=9)
        axes.set(xlabel="$w_1$", ylabel="$w_2$", aspect="equal")
    figure.suptitle(f"the first {SHOWN} steps of gradient descent", fontsize=10)
    figure.savefig(path, dpi=130)


def contour_experiment(directory: Path, seeds: int = 3) -> None:
    """Run gradient descent on the inputs of each case and seed; write the numbers of steps and a picture."""
    descents = {(case, seed): descend(draw_inputs(case, seed)) for case in CASES for seed in range(seeds)}
    write_trials(directory, [({"inputs": case, "seed": seed}, {"condition": descent.condition, "steps": descent.steps})
                             for (case, seed), descent in descents.items()])
    draw([(case, descents[case, 0]) for case in CASES], directory / "picture.png")
