"""How images reach the device: small sets live there as uint8, and a batch is a row of indices."""
import jax
import jax.numpy as jnp
import numpy as np

from modern_cnn.data import augment


def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of `size` examples in an epoch: int32, a permutation that depends on seed and epoch alone.

    A resumed run draws it again and goes on in the middle. RandomState's streams are frozen across numpy versions.
    """
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed % 2**32, epoch])))
    return random.permutation(size).astype(np.int32)


def evaluation_batches(size: int, batch_size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(indices int32 [B], mask bool [B]) that visit each of `size` examples once; masked zeros pad the last batch."""
    batches = []
    for start in range(0, size, batch_size):
        indices = np.arange(start, start + batch_size, dtype=np.int32)
        mask = indices < size
        batches.append((np.where(mask, indices, 0).astype(np.int32), mask))
    return batches


def gather(data: tuple[jax.Array, jax.Array], indices: jax.Array, shape: tuple[int, int, int]) -> dict[str, jax.Array]:
    """{'image': uint8 [B, *shape], 'label': int32 [B]} of a split on the device; smaller images are enlarged."""
    images = jnp.take(data[0], indices, axis=0)
    if images.shape[1:] != shape:
        images = augment.enlarge(images, shape[0])
    return {"image": images, "label": jnp.take(data[1], indices, axis=0)}
