"""Image files decoded to arrays, and images resized to what a network takes."""
import io
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.Image import Transpose
from tqdm import tqdm

from modern_cnn.data.splits import AnySplit, keep
from modern_cnn.errors import UserError, some

T = TypeVar("T")
log = logging.getLogger(__name__)

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm",
                 ".avif", ".jp2")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")  # no other: EPS would run a program
# An image with more pixels than this, and more than 5 a byte of its file, is refused: it would take gigabytes.
PIXELS, PIXELS_A_BYTE = 2**25, 5
UPRIGHT = {2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
           6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90}  # by EXIF's number of orientation
CGROUPS = Path("/sys/fs/cgroup")
NAMED = 20  # damaged images that are named at once
OR_SKIP = "; or leave out what is damaged: --config.data.skip_damaged=true (evaluate.py: --skip_damaged)"


def memory_limit(own: Path = Path("/proc/self/cgroup")) -> int:
    """Return the bytes of memory of this machine, or of this process's control group (version 1 or 2) if it is less."""
    limits = [psutil.virtual_memory().total]
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, group = line.split(":", 2)
        if not controllers or "memory" in controllers.split(","):
            root = CGROUPS / "memory" if controllers else CGROUPS
            folder = root / group.strip("/")  # inside a container it may be unknown, and the limit is at the root
            for place in (folder, *(parent for parent in folder.parents if parent.is_relative_to(root))):
                limit = place / ("memory.limit_in_bytes" if controllers else "memory.max")
                text = limit.read_text().strip() if limit.is_file() else "max"
                limits += [int(text)] if text.isdigit() else []
    return min(limits)


def check_memory(what: str, count: int, height: int, width: int) -> None:
    """Raise UserError if `count` decoded RGB images need more than half of the memory there is, not an hour later."""
    needed, memory = count * height * width * 3, memory_limit()
    if needed > memory / 2:
        raise UserError(f"{what}: {count:,} images of {width}x{height} decode to {needed / 2**30:.1f} GiB, more than "
                        f"half of the {memory / 2**30:.1f} GiB of memory that this process may use; set a smaller "
                        "--config.data.image_size, or decode images during training: --config.data.stream=true")


def keep_size(size: int, *shapes: tuple[int, ...], scaled: int = 0) -> bool:
    """Return whether images of these shapes [..., H, W, C] are stored in their own size: where none exceeds `size`."""
    # The device enlarges them: augment.enlarge.
    return not size or (not scaled and all(max(shape[-3:-1]) <= size for shape in shapes))


def resized_side(side: int, shorter: int, size: int, scaled: int = 0) -> tuple[int, int]:
    """Return (resized length, first pixel of the central crop) of a side, if the `shorter` side becomes `scaled`."""
    if scaled:  # as torchvision rounds
        length = scaled * side // shorter
        return length, round((length - size) / 2)
    length = max(size, round(side * size / shorter))
    return length, (length - size) // 2


def resize(image: Image.Image, size: int, scaled: int = 0) -> Image.Image:
    """Return the central square of `size` pixels of an image whose shorter side is made `scaled` pixels (0: `size`).

    The filter is bilinear with antialiasing on 8-bit pixels. With `scaled` it is torchvision's Resize(scaled) and
    CenterCrop(size), and for square images without it Resize(size). If `size` is 0, the image stays as it is.
    """
    if not size or (image.size == (size, size) and not scaled):
        return image
    (width, left), (height, top) = (resized_side(side, min(image.size), size, scaled) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return image.crop((left, top, left + size, top + size))


def resize_pixels(image: np.ndarray, size: int, scaled: int = 0) -> np.ndarray:
    """Return an image uint8 [H, W, C] as `resize` makes it."""
    resized = np.asarray(resize(Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image), size, scaled))
    return resized.reshape(*resized.shape[:2], -1)


def in_threads(function: Callable[[Any], T], items: Sequence | np.ndarray, doing: str) -> list[T]:
    """Return function(item) of each item, in their order, by several threads; a progress bar says what they do."""
    with ThreadPoolExecutor() as pool:
        return list(tqdm(pool.map(function, items), doing, len(items), leave=False, disable=None, unit="img"))


def resize_array(images: np.ndarray, size: int, what: str, scaled: int = 0) -> np.ndarray:
    """Return images uint8 [N, H, W, C] as `resize` makes them. Raise UserError if `what` does not fit into memory."""
    if not size or (images.shape[1:3] == (size, size) and not scaled):
        return images
    check_memory(what, len(images), size, size)
    return np.stack(in_threads(partial(resize_pixels, size=size, scaled=scaled), images, f"resizing to {size}x{size}"))


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Return a grayscale image of 12 or 16 bits with 8; Pillow's own conversion would clip at 255."""
    tags = getattr(image, "tag_v2", {})  # of TIFF: bits of a sample, and 0 where the lowest number is white
    bits, inverted = tags.get(258, (16,))[0], tags.get(262) == 0
    pixels = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    return Image.fromarray(255 - pixels if inverted else pixels)


def _to_pixels(image: Image.Image) -> Image.Image:
    """Return a loaded image as L if it is grayscale, else as RGB: upright, and on white where it is transparent."""
    try:
        turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation) or 1)
    except Exception:  # damaged EXIF, which can raise nearly anything, does not damage the pixels
        turn = None
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        image = _to_8_bits(image)
    if image.mode in ("I", "F"):
        raise ValueError(f"its pixels have 32 bits (mode {image.mode}); convert it to 8 bits")
    mode = "L" if image.mode in ("1", "L") else "RGB"
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        ground = Image.new("RGB", image.size, "white")
        ground.paste(image, mask=image)
        image = ground
    image = image if image.mode == mode else image.convert(mode)  # convert would copy
    return image if turn is None else image.transpose(turn)


def decode(file: Path | io.BytesIO, size: int, transform: Callable[[Image.Image], Image.Image] | None = None,
           name: str = "", scaled: int = 0) -> np.ndarray:
    """Return an image file, or encoded bytes that errors call `name`, as uint8 [H, W] if it is grayscale, or [H, W, 3].

    It is turned upright as its EXIF data say, put on white where it is transparent, and changed by `transform` if there
    is one, else by `resize` to `size` and `scaled`. Raise UserError if it does not decode.
    """
    try:
        length = file.getbuffer().nbytes if isinstance(file, io.BytesIO) else file.stat().st_size
        with Image.open(file, formats=FORMATS) as opened:
            if opened.width * opened.height > max(PIXELS, PIXELS_A_BYTE * length):
                raise ValueError(f"it has {opened.width}x{opened.height} pixels, too many to decode safely; shrink it")
            if not transform and max(opened.size) * (scaled or size)**2 > PIXELS * min(opened.size):
                raise ValueError(f"it has {opened.width}x{opened.height} pixels, and would be enlarged to many more "
                                 "before its middle is cut out; cut it")
            opened.load()
            image = _to_pixels(opened)
            return np.asarray(transform(image) if transform else resize(image, size, scaled))
    except Exception as e:  # a damaged image can raise nearly anything
        reason = ("it has none of the formats that are read: " + ", ".join(FORMATS)
                  if isinstance(e, UnidentifiedImageError) else " ".join(str(e).split())[:200] or type(e).__name__)
        raise UserError(f"{name or file} does not decode as an image: {reason}; repair or remove it") from e


def decode_example(split: AnySplit, size: int, scaled: int, index: int) -> np.ndarray | UserError:
    """Return `decode` of an example's image, or the error that it raises."""
    file, _, name = split[index]
    try:
        return decode(file, size, name=name, scaled=scaled)
    except UserError as e:
        return e


def _pixel(split: AnySplit, size: int, scaled: int, index: int) -> np.ndarray | UserError:
    """Return the first pixel of `decode_example`, so that a set need not fit into memory, or its error."""
    image = decode_example(split, size, scaled, index)
    return image if isinstance(image, UserError) else image[:1, :1].copy()


def decode_all(splits: dict[str, AnySplit], size: int, place: str, skip: bool, scaled: int = 0,
               pixels: bool = True) -> tuple[dict[str, AnySplit], dict[str, list[np.ndarray]]]:
    """Return splits, and the decoded images of each, without examples that do not decode; the log names NAMED of those.

    Without `pixels`, one pixel stands for each image. Raise UserError if some do not decode, unless `skip` says to
    leave them out, and if none are left of a class or a split.
    """
    read = decode_example if pixels else _pixel
    decoded = {name: in_threads(partial(read, split, size, scaled), range(len(split)), f"decoding {name}")
               for name, split in splits.items()}
    errors = [image for images in decoded.values() for image in images if isinstance(image, UserError)]
    for error in errors[:NAMED] if skip or len(errors) > 1 else ():
        log.warning("%s", error)
    names = [str(error).partition(" does not decode")[0].removeprefix(f"{place}/") for error in errors]
    found = f"{len(errors):,} of {sum(map(len, splits.values())):,} images of {place} do not decode: {some(names, 300)}"
    if errors and not skip:
        raise UserError(f"{found if len(errors) > 1 else errors[0]}{OR_SKIP}")
    if errors:
        log.warning("left out: %s", found)
    for name, images in decoded.items():
        kept = np.flatnonzero([isinstance(image, np.ndarray) for image in images])
        if not len(kept):
            raise UserError(f"no image of the {name} split decodes")
        reason = "leaving out damaged images"
        splits = splits | {name: keep(splits[name], kept, reason) if name == "train" else splits[name].take(kept)}
    return splits, {name: [image for image in images if isinstance(image, np.ndarray)]
                    for name, images in decoded.items()}


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Return an image [H, W] or [H, W, 3] as [H, W, 3]."""
    return np.stack([image] * 3, axis=-1) if image.ndim == 2 else image
