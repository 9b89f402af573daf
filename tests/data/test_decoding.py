"""Single images: modes of files, and resizing against Pillow."""
import numpy as np
import pytest
from PIL import Image

from modern_cnn.data import decoding
from modern_cnn.errors import UserError
from tests.data import files


def test_resize_of_square_images_is_pillows_bilinear():
    image = Image.fromarray(files.pixels(31, 31, 3))
    for size in (8, 31, 57):
        assert decoding.resize(image, size) == image.resize((size, size), Image.Resampling.BILINEAR)
    assert decoding.resize(image, 0) is image


@pytest.mark.parametrize(("width", "height"), [(40, 20), (20, 41), (20, 20)])
def test_resize_scales_the_shorter_side_then_crops_the_centre(width, height):
    image = Image.fromarray(files.pixels(height, width, 3))
    scaled = image.resize((width // 2, round(height / 2)), Image.Resampling.BILINEAR)
    left, top = (scaled.width - 10) // 2, (scaled.height - 10) // 2
    assert decoding.resize(image, 10) == scaled.crop((left, top, left + 10, top + 10))


@pytest.mark.parametrize("channels", [1, 3])
def test_resize_array_is_resize_of_each(channels):
    images = files.pixels(3, 9, 12, channels)
    out = decoding.resize_array(images, 7, "these")
    assert out.shape == (3, 7, 7, channels)
    one = decoding.resize(Image.fromarray(images[1].squeeze()), 7)
    np.testing.assert_array_equal(out[1].squeeze(), one)
    assert decoding.resize_array(images, 0, "these") is images


def test_image_modes(tmp_path):
    deep = (files.pixels(6, 8).astype(np.uint16) << 8) + 77
    (tmp_path / "a").mkdir()
    Image.fromarray(deep).save(tmp_path / "16bit.png")
    np.testing.assert_array_equal(decoding.decode(tmp_path / "16bit.png", 0), files.pixels(6, 8))
    colour = Image.fromarray(files.pixels(6, 8, 3))
    palette = colour.convert("P")
    palette.save(tmp_path / "palette.png", transparency=bytes(range(256)))
    np.testing.assert_array_equal(decoding.decode(tmp_path / "palette.png", 0), palette.convert("RGB"))
    colour.save(tmp_path / "moves.gif", save_all=True, append_images=[colour.rotate(180)])
    colour.convert("CMYK").save(tmp_path / "print.jpg")
    colour.convert("RGBA").save(tmp_path / "alpha.webp", lossless=True)
    for name in ("moves.gif", "print.jpg", "alpha.webp"):
        assert decoding.decode(tmp_path / name, 0).shape == (6, 8, 3)
    np.testing.assert_array_equal(decoding.decode(tmp_path / "alpha.webp", 0), colour)
    Image.fromarray(deep.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match=r"float\.tif.*32 bits"):
        decoding.decode(tmp_path / "float.tif", 0)
