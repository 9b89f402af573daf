"""Features made by hand, as before 2012: histograms of oriented gradients and a linear classifier on them.

Dalal and Triggs 2005, "Histograms of oriented gradients for human detection".
"""
import numpy as np

from modern_cnn.errors import UserError


def hog(images: np.ndarray, cell: int = 4) -> np.ndarray:
    """Histograms of uint8 images [N, H, W, C]: float32 [N, F], by scikit-image.

    9 orientations in cells of `cell` pixels, normalised in blocks of 2x2 cells (L2 with clipping), on square roots of
    the pixels: the paper's sections 6.1 to 6.4, whose cells of 8 pixels are for people 96 pixels tall.

    Raises:
      UserError: scikit-image is not installed.
    """
    try:
        from skimage import feature
    except ImportError as e:
        raise UserError("histograms of oriented gradients need scikit-image: pip install scikit-image") from e
    return np.stack([feature.hog(image, orientations=9, pixels_per_cell=(cell, cell), cells_per_block=(2, 2),
                                 block_norm="L2-Hys", transform_sqrt=True, channel_axis=-1)
                     for image in images]).astype(np.float32)


def linear_accuracy(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """(train, test) accuracy of a linear support vector machine on (features [N, F], labels [N]), a class against the
    others. The problem is convex: no seed, and one solution."""
    from sklearn.svm import LinearSVC

    machine = LinearSVC(C=0.1, dual=False).fit(*train)
    return machine.score(*train), machine.score(*test)
