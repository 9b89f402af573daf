"""Image files decoded to arrays, and images resized to what a network takes."""
import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from modern_cnn.errors import UserError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def check_memory(what: str, count: int, height: int, width: int) -> None:
    """Raise UserError if `count` RGB images of `height` x `width` need more than half of the machine's memory.

    All decoded images are held in memory, so this is better said before decoding than an hour later.
    """
    needed = count * height * width * 3
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory / 2:
        raise UserError(f"{what}: {count:,} images of {width}x{height} decode to {needed / 2**30:.1f} GiB, more than "
                        f"half of this machine's {memory / 2**30:.1f} GiB of memory; set a smaller "
                        "--config.data.image_size, or decode images during training: --config.data.stream=true")


def keep_size(size: int, *shapes: tuple[int, ...]) -> bool:
    """Return whether images of these shapes [..., H, W, C] are stored in their own size.

    They are if no `size` is asked for, or if none is larger: then the device enlarges them (`augment.enlarge`).
    """
    return not size or all(max(shape[-3:-1]) <= size for shape in shapes)


def resized_side(side: int, shorter: int, size: int) -> tuple[int, int]:
    """Return (resized length, first pixel of the central crop) of a side, if the `shorter` side becomes `size`."""
    length = max(size, round(side * size / shorter))
    return length, (length - size) // 2


def resize(image: Image.Image, size: int) -> Image.Image:
    """Return an image resized until its shorter side is `size`, and cropped to the central `size` x `size`.

    The filter is bilinear with antialiasing on 8-bit pixels. For square images this is the textbook's and
    torchvision's Resize. A `size` of 0 leaves the image alone.
    """
    if not size or image.size == (size, size):
        return image
    (width, left), (height, top) = (resized_side(side, min(image.size), size) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return image.crop((left, top, left + size, top + size))


def resize_pixels(image: np.ndarray, size: int) -> np.ndarray:
    """Return an image uint8 [H, W, C] as `resize` makes it."""
    gray = image.shape[2] == 1
    resized = np.asarray(resize(Image.fromarray(image[:, :, 0] if gray else image), size))
    return resized[..., None] if gray else resized


def resize_array(images: np.ndarray, size: int, what: str) -> np.ndarray:
    """Return images uint8 [N, H, W, C], each as `resize` makes it.

    Raises:
      UserError: they do not fit into memory; it calls them `what`.
    """
    if not size or images.shape[1:3] == (size, size):
        return images
    check_memory(what, len(images), size, size)
    with ThreadPoolExecutor() as pool:
        return np.stack(list(tqdm(pool.map(lambda image: resize_pixels(image, size), images),
                                  f"resizing to {size}x{size}", len(images), leave=False, disable=None, unit="img")))


def decode(file: Path | io.BytesIO, size: int, transform: Callable[[Image.Image], Image.Image] | None = None,
           name: str = "") -> np.ndarray:
    """Return an image file as uint8 [H, W], if it is grayscale, or [H, W, 3].

    Args:
      file: a path, or encoded bytes, which errors call `name`.
      size: `resize` to this; 0 keeps the size.
      transform: applied to the decoded image instead of `resize`.
    Raises:
      UserError: the file does not decode.
    """
    try:
        with Image.open(file) as opened:
            opened.load()
            image: Image.Image = opened
            if image.mode.startswith("I;16"):  # Pillow's own conversion would clip at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.mode in ("I", "F"):
                raise ValueError(f"its pixels have 32 bits (mode {image.mode}); convert it to 8 bits")
            gray = image.mode in ("1", "L")
            if image.mode == "P":  # directly to RGB, palettes with transparency warn
                image = image.convert("RGBA")
            if image.mode != (mode := "L" if gray else "RGB"):  # convert would copy
                image = image.convert(mode)
            return np.asarray(transform(image) if transform else resize(image, size))
    except Exception as e:  # a damaged image can raise nearly anything
        raise UserError(f"{name or file} does not decode as an image: {e}; repair or remove it") from e


def decode_all(paths: list[Path], size: int, split: str) -> list[np.ndarray]:
    """Return the image files of a split, each as `decode` gives it, by several threads."""
    with ThreadPoolExecutor() as pool:
        return list(tqdm(pool.map(lambda path: decode(path, size), paths), f"decoding {split}", len(paths),
                         leave=False, disable=None, unit="img"))


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Return an image [H, W] or [H, W, 3] as [H, W, 3]."""
    return np.stack([image] * 3, axis=-1) if image.ndim == 2 else image
