"""The three experiments that are not sweeps; the files that they write are those of a sweep.

Features made by hand, as before 2012: histograms of oriented gradients (Dalal and Triggs 2005, "Histograms of oriented
gradients for human detection"), and a linear classifier on them.

Why inputs are scaled: gradient descent on a linear model of two inputs, and the contours of its loss. The example is
the TensorFlow text's (section 10.8): inputs in [1, 10] and [1, 10], against [1, 10] and [100, 1000]. The text takes the
output itself as the loss, which has no minimum; here it is half the mean squared error to known weights.

Gridding: which pixels have an influence on an output of stacked dilated convolutions (the TensorFlow text's 10.11.1).
"""
import dataclasses
import itertools
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from modern_cnn import functional as F
from modern_cnn import settings
from modern_cnn.data import sources
from modern_cnn.errors import UserError, lookup
from modern_cnn.runs import workdir

ALIKE, UNLIKE = ((1, 10), (1, 10)), ((1, 10), (100, 1000))  # ranges of the two inputs
CASES = {"alike": ALIKE, "unlike": UNLIKE, "unlike, standardised": UNLIKE}
EXAMPLES, NEAR, LONGEST = 100, 0.01, 10**7
BEST = np.array([1.0, 1.0])  # the weights that make the loss 0
SHOWN = 30  # steps in the picture
STACKS = {"1, 1, 1": (1, 1, 1), "2, 2, 2": (2, 2, 2), "1, 2, 3": (1, 2, 3)}  # dilation rates
CHANNELS = 4  # between the convolutions


def _write_trials(directory: Path, trials: Sequence[tuple[dict[str, Any], dict[str, float]]]) -> None:
    """Write trials, (fields, scores) each, to sweep.json, and the machine to run.json."""
    directory.mkdir(parents=True, exist_ok=True)
    named = {",".join(f"{key}={value}" for key, value in fields.items()):
             {"fields": fields, "result": {"status": "done", **scores}} for fields, scores in trials}
    workdir.write_json(directory / "sweep.json", {"config": {}, "trials": named})
    workdir.write_json(directory / "run.json", workdir.describe_machine())


def hog(images: np.ndarray, cell: int = 4) -> np.ndarray:
    """Return the histograms of uint8 images [N, H, W, C] as float32 [N, F], computed by scikit-image.

    They have 9 orientations in cells of `cell` pixels (the paper's 8 are for people 96 pixels tall) and are normalised
    in blocks of 2x2 cells (L2 with clipping); the pixels' square roots are taken first (the paper's sections 6.1 to
    6.4). Raise UserError if scikit-image or scikit-learn, which will classify them, is not installed.
    """
    try:
        import sklearn  # noqa: F401
        from skimage import feature
    except ImportError as e:
        raise UserError("this experiment needs two packages: pip install scikit-image scikit-learn") from e
    return np.stack([feature.hog(image, orientations=9, pixels_per_cell=(cell, cell), cells_per_block=(2, 2),
                                 block_norm="L2-Hys", transform_sqrt=True, channel_axis=-1)
                     for image in images]).astype(np.float32)


def linear_accuracy(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """Return the (train, test) accuracy of a linear support vector machine, one class against the others.

    `train` and `test` are (features [N, F], labels [N]). The problem is convex: there is one solution, and no seed.
    """
    from sklearn.svm import LinearSVC

    machine = LinearSVC(C=0.1, dual=False).fit(*train)  # type: ignore[arg-type] - scikit-learn declares a str
    return machine.score(*train), machine.score(*test)


def handmade_experiment(directory: Path, data: settings.Data, sizes: Sequence[int]) -> None:
    """Train the linear classifier on the histograms of each number of training images, and write its accuracies."""
    def features(data: settings.Data, split: str) -> tuple[np.ndarray, np.ndarray]:
        arrays: Any = sources.load(data).splits[split]
        return hog(arrays[0]), arrays[1]

    test, trials = features(data, "test"), []
    for size in sizes:
        scores = linear_accuracy(features(dataclasses.replace(data, train_size=size), "train"), test)
        trials.append(({"data.train_size": size}, dict(zip(("train_accuracy", "test_accuracy"), scores, strict=True))))
        _write_trials(directory, trials)


class Descent(NamedTuple):
    """Gradient descent at the rate 1 / the loss's largest curvature, from a distance of 1 to the best weights.

    Half of the distance is along each principal axis, so that the start favours none of the cases.
    """
    hessian: np.ndarray  # [2, 2], of the loss
    condition: float  # the largest curvature over the smallest
    path: np.ndarray  # [SHOWN + 1, 2], the weights of the first steps
    steps: int  # until the distance to the best weights is at most NEAR


def draw_inputs(case: str, seed: int) -> np.ndarray:
    """Return [EXAMPLES, 2], uniform in a case's ranges; 'standardised' to mean 0, deviation 1. UserError: no case."""
    low, high = np.array(lookup(CASES, case, "case"), np.float64).T
    inputs = np.random.default_rng(seed).uniform(low, high, (EXAMPLES, 2))
    return (inputs - inputs.mean(0)) / inputs.std(0) if case.endswith("standardised") else inputs


def descend(inputs: np.ndarray) -> Descent:
    """Return the descent on the loss mean((inputs @ (w - BEST))^2) / 2 of inputs [N, 2].

    After t steps the distance along each principal axis is (1 - rate * curvature)^t of the first; bisection finds t.
    """
    hessian = inputs.T @ inputs / len(inputs)
    curvatures, axes = np.linalg.eigh(hessian)
    shrink, start = 1 - curvatures / curvatures[-1], np.full(2, -(0.5 ** 0.5))
    steps = bisect_left(range(LONGEST), True, key=lambda step: np.linalg.norm(start * shrink ** step) <= NEAR)
    path = np.array([BEST + axes @ (start * shrink ** step) for step in range(SHOWN + 1)])
    return Descent(hessian, curvatures[1] / curvatures[0], path, steps)


def contour_experiment(directory: Path, seeds: int = 3) -> None:
    """Run gradient descent on the inputs of each case and seed; write the numbers of steps, and a picture.

    The picture has a panel for each case, of the first seed: the contours of the loss and the first steps.
    """
    descents = {(case, seed): descend(draw_inputs(case, seed)) for case in CASES for seed in range(seeds)}
    _write_trials(directory, [({"inputs": case, "seed": seed}, {"condition": found.condition, "steps": found.steps})
                              for (case, seed), found in descents.items()])
    figure = Figure(figsize=(3.3 * len(CASES), 3.7), layout="constrained")
    first, second = np.meshgrid(np.linspace(-0.2, 2.2, 200), np.linspace(-0.2, 2.2, 200))
    away = np.stack([first, second], -1) - BEST
    for axes, case in zip(figure.subplots(1, len(CASES)), CASES, strict=True):
        descent = descents[case, 0]
        loss = np.einsum("abi,ij,abj->ab", away, descent.hessian, away) / 2
        axes.contour(first, second, loss, levels=loss.max() * np.geomspace(1e-3, 1, 10), linewidths=0.8, cmap="viridis")
        axes.plot(*descent.path.T, color="tab:red", marker="o", markersize=2.5, linewidth=1)
        axes.plot(*BEST, color="black", marker="*", markersize=9)
        axes.set_title(f"{case}\n{descent.steps:,} steps, condition {descent.condition:,.3g}", fontsize=9)
        axes.set(xlabel="$w_1$", ylabel="$w_2$", aspect="equal")
    figure.suptitle(f"the first {SHOWN} steps of gradient descent (seed 0)", fontsize=10)
    figure.savefig(directory / "picture.png", dpi=130)


def influence(rates: Sequence[int], seed: int) -> np.ndarray:
    """Return how much each pixel of the receptive field of one output moves it: [H, W], the size of its gradient.

    The network is 3x3 convolutions with these dilation rates, normal kernels of He's size, CHANNELS channels between
    and one before and after, and nothing else: a ReLU could only take pixels away.
    """
    widths = [1, *[CHANNELS] * (len(rates) - 1), 1]
    keys = jax.random.split(jax.random.key(seed), len(rates))
    kernels = [jax.random.normal(key, (3, 3, *pair)) * (2 / (9 * pair[0])) ** 0.5
               for key, pair in zip(keys, itertools.pairwise(widths), strict=True)]

    def output(image: jax.Array) -> jax.Array:
        for kernel, rate in zip(kernels, rates, strict=True):
            image = F.conv2d(image, kernel, dilation=rate)
        return image.sum()  # there is one

    side = 1 + 2 * sum(rates)
    return np.abs(np.asarray(jax.grad(output)(jnp.zeros((1, side, side, 1)))))[0, :, :, 0]


def gridding_experiment(directory: Path, seeds: int = 3) -> None:
    """Write the share of the receptive field that has an influence, for each of STACKS and seed, and a picture.

    The picture has a panel for each stack: the mean over the seeds, each relative to its largest.
    """
    maps = {(name, seed): influence(rates, seed) for name, rates in STACKS.items() for seed in range(seeds)}
    _write_trials(directory, [({"rates": name, "seed": seed}, {
        "receptive field (pixels)": found.size, "with influence": int((found > 0).sum()),
        "share with influence (%)": 100 * float((found > 0).mean())}) for (name, seed), found in maps.items()])
    figure = Figure(figsize=(3.3 * len(STACKS) + 0.8, 3.7), layout="constrained")
    panels, reach, shown = figure.subplots(1, len(STACKS)), max(map(sum, STACKS.values())), []
    for axes, name in zip(panels, STACKS, strict=True):
        mean = np.mean([maps[name, seed] / maps[name, seed].max() for seed in range(seeds)], axis=0)
        radius = sum(STACKS[name]) + 0.5
        shown.append(axes.imshow(np.ma.masked_equal(mean, 0), vmin=0, vmax=1, cmap="viridis",
                                 extent=(-radius, radius, radius, -radius)))
        axes.set(xlim=(-reach - 1, reach + 1), ylim=(reach + 1, -reach - 1), xticks=range(-reach, reach + 1, 3),
                 yticks=range(-reach, reach + 1, 3))
        axes.add_patch(Rectangle((-radius, -radius), 2 * radius, 2 * radius, fill=False, color="tab:red"))
        axes.set_xlabel("pixels from the output's place")
        axes.set_title(f"rates {name}: {(mean > 0).sum()} of {mean.size} pixels", fontsize=10)
    figure.colorbar(shown[0], ax=panels, label="influence, of the largest")
    figure.suptitle("pixels that have an influence on one output; white: none; red: the receptive field", fontsize=10)
    figure.savefig(directory / "picture.png", dpi=130)
