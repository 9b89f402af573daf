"""Image files decoded to arrays, and images resized to what a network takes."""
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from modern_cnn.errors import UserError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def check_memory(what: str, count: int, height: int, width: int) -> None:
    """Raise UserError if `count` decoded RGB images need more than half of the machine's memory, not an hour later."""
    needed = count * height * width * 3
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > memory / 2:
        raise UserError(f"{what}: {count:,} images of {width}x{height} decode to {needed / 2**30:.1f} GiB, more than "
                        f"half of this machine's {memory / 2**30:.1f} GiB of memory; set a smaller "
                        "--config.data.image_size, or decode images during training: --config.data.stream=true")


def keep_size(size: int, *shapes: tuple[int, ...]) -> bool:
    """Return whether images of these shapes [..., H, W, C] are stored in their own size: where none exceeds `size`."""
    return not size or all(max(shape[-3:-1]) <= size for shape in shapes)  # the device enlarges them: augment.enlarge


def resized_side(side: int, shorter: int, size: int) -> tuple[int, int]:
    """Return (resized length, first pixel of the central crop) of a side, if the `shorter` side becomes `size`."""
    length = max(size, round(side * size / shorter))
    return length, (length - size) // 2


def resize(image: Image.Image, size: int) -> Image.Image:
    """Return an image resized until its shorter side is `size`, and cropped to the central square; 0: as it is.

    The filter is bilinear with antialiasing on 8-bit pixels. For square images it is torchvision's Resize.
    """
    if not size or image.size == (size, size):
        return image
    (width, left), (height, top) = (resized_side(side, min(image.size), size) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return image.crop((left, top, left + size, top + size))


def resize_pixels(image: np.ndarray, size: int) -> np.ndarray:
    """Return an image uint8 [H, W, C] as `resize` makes it."""
    resized = np.asarray(resize(Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image), size))
    return resized.reshape(*resized.shape[:2], -1)


def in_threads(function: Callable[[Any], np.ndarray], items: Sequence | np.ndarray, doing: str) -> list[np.ndarray]:
    """Return function(item) of each item, in their order, by several threads; a progress bar says what they do."""
    with ThreadPoolExecutor() as pool:
        return list(tqdm(pool.map(function, items), doing, len(items), leave=False, disable=None, unit="img"))


def resize_array(images: np.ndarray, size: int, what: str) -> np.ndarray:
    """Return images uint8 [N, H, W, C] as `resize` makes them. Raise UserError if `what` does not fit into memory."""
    if not size or images.shape[1:3] == (size, size):
        return images
    check_memory(what, len(images), size, size)
    return np.stack(in_threads(partial(resize_pixels, size=size), images, f"resizing to {size}x{size}"))


def decode(file: Path | io.BytesIO, size: int, transform: Callable[[Image.Image], Image.Image] | None = None,
           name: str = "") -> np.ndarray:
    """Return an image file, or encoded bytes that errors call `name`, as uint8 [H, W] if it is grayscale, or [H, W, 3].

    It is changed by `transform` if there is one, else by `resize` to `size`. Raise UserError if it does not decode.
    """
    try:
        with Image.open(file) as opened:
            opened.load()
            image: Image.Image = opened
            if image.mode.startswith("I;16"):  # Pillow's own conversion would clip at 255
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            if image.mode in ("I", "F"):
                raise ValueError(f"its pixels have 32 bits (mode {image.mode}); convert it to 8 bits")
            mode = "L" if image.mode in ("1", "L") else "RGB"
            if image.mode == "P":  # directly to RGB, palettes with transparency warn
                image = image.convert("RGBA")
            if image.mode != mode:  # convert would copy
                image = image.convert(mode)
            return np.asarray(transform(image) if transform else resize(image, size))
    except Exception as e:  # a damaged image can raise nearly anything
        raise UserError(f"{name or file} does not decode as an image: {e}; repair or remove it") from e


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Return an image [H, W] or [H, W, 3] as [H, W, 3]."""
    return np.stack([image] * 3, axis=-1) if image.ndim == 2 else image
