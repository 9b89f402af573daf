"""Single images: modes of files, and resizing against Pillow."""
import io
import struct
import subprocess

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin

from modern_cnn.data import decoding, sources
from modern_cnn.errors import UserError
from modern_cnn.settings import Data
from modern_cnn.training.devices import Devices
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


@pytest.mark.parametrize(("width", "height"), [(50, 37), (37, 51), (40, 40), (28, 28)])
def test_resize_to_a_larger_side_and_the_centre_is_torchvisions(width, height, tmp_path):
    """transforms.Resize(32), which rounds down, and CenterCrop(28), which rounds halves to even; or in a folder."""
    image = Image.fromarray(files.pixels(height, width, 3))
    sides = [int(32 * side / min(width, height)) for side in (width, height)]
    left, top = (round((side - 28) / 2) for side in sides)
    cut = image.resize(sides, Image.Resampling.BILINEAR).crop((left, top, left + 28, top + 28))
    assert decoding.resize(image, 28, 32) == cut
    np.testing.assert_array_equal(decoding.resize_array(np.asarray(image)[None], 28, "it", 32)[0], cut)
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        image.save(tmp_path / split / "a" / "0.png")
    for stream in (False, True):
        dataset = files.load(f"folder:{tmp_path}", image_size=28, resize=32, layout="splits", stream=stream)
        feed = dataset.feed(Devices())
        seen = [feed.eval_batch(*next(iter(feed.evaluation("test", 1)))),
                feed.train_batch(0, 1, *next(iter(feed.train(0, 0, 0, 1))))]
        for batch in seen:
            np.testing.assert_array_equal(batch["image"][0], cut)


def test_a_side_to_scale_to_is_another_entry_of_the_cache():
    first, second = (files.load("digits", image_size=6, resize=size).splits["test"].images for size in (0, 7))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(files.load("digits", image_size=6, resize=0).splits["test"].images, first)


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
    seen, (red, green, blue, alpha) = decoding.decode(tmp_path / "palette.png", 0), np.moveaxis(
        np.asarray(Image.open(tmp_path / "palette.png").convert("RGBA")).astype(int), 2, 0)
    white = np.stack([part * alpha + 255 * (255 - alpha) for part in (red, green, blue)], axis=-1) / 255
    np.testing.assert_allclose(seen, white, atol=1)
    colour.save(tmp_path / "moves.gif", save_all=True, append_images=[colour.rotate(180)])
    colour.convert("CMYK").save(tmp_path / "print.jpg")
    colour.convert("RGBA").save(tmp_path / "alpha.webp", lossless=True)
    for name in ("moves.gif", "print.jpg", "alpha.webp"):
        assert decoding.decode(tmp_path / name, 0).shape == (6, 8, 3)
    np.testing.assert_array_equal(decoding.decode(tmp_path / "alpha.webp", 0), colour)
    Image.fromarray(deep.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match=r"float\.tif.*32 bits"):
        decoding.decode(tmp_path / "float.tif", 0)


def encoded(image, kind, **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return io.BytesIO(data.getvalue())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(kind, orientation):
    """EXIF 2.32, 4.6.4: where row 0 and column 0 of the stored pixels are."""
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16], upright[:16, :24], upright[16:, :24] = (250, 250, 250), (250, 0, 0), (0, 0, 250)
    stored = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
              5: upright.transpose(1, 0, 2), 6: upright.transpose(1, 0, 2)[::-1],
              7: upright.transpose(1, 0, 2)[::-1, ::-1], 8: upright.transpose(1, 0, 2)[:, ::-1]}[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = encoded(Image.fromarray(stored), kind, exif=exif)
    seen = decoding.decode(file, 0)
    assert seen.shape == upright.shape
    assert np.abs(seen.astype(int) - upright).mean() < 8
    square = decoding.decode(file, 16)
    assert square[2, 2, 0] > 200 > 100 > square[2, 2, 2]  # red is above and left of the centre


@pytest.mark.parametrize("exif", [b"Exif\0\0" + b"junk" * 9, b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\xff",
                                  b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0"])
@pytest.mark.filterwarnings("ignore:(Corrupt EXIF|Truncated)")
def test_damaged_exif_does_not_damage_the_pixels(exif):
    image = Image.fromarray(files.pixels(8, 8))
    np.testing.assert_array_equal(decoding.decode(encoded(image, "PNG", exif=exif), 0), image)


def test_what_is_transparent_is_white():
    pixels = np.zeros((4, 4, 4), np.uint8)  # black under transparency
    pixels[1], pixels[2], pixels[3] = (10, 20, 30, 255), (0, 0, 0, 128), (255, 0, 0, 51)
    expected = np.array([[255] * 3, [10, 20, 30], [127] * 3, [255, 204, 204]])
    for kind, options in {"PNG": {}, "WEBP": {"lossless": True, "exact": True}, "TIFF": {}}.items():
        seen = decoding.decode(encoded(Image.fromarray(pixels), kind, **options), 0)
        np.testing.assert_array_equal(seen[:, 0], expected)
    gray = Image.merge("LA", [Image.fromarray(pixels[..., i]) for i in (0, 3)])
    assert decoding.decode(encoded(gray, "PNG"), 0)[:, 0, 1].tolist() == [255, 10, 127, 255]
    keyed = Image.fromarray(np.array([[0, 7, 9]], np.uint8))
    assert decoding.decode(encoded(keyed, "PNG", transparency=7), 0).tolist() == [[0, 255, 9]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    assert decoding.decode(encoded(palette, "GIF", transparency=0), 0)[0, :, 0].tolist() == [255, 1]


def tiff(pixels, bits, photometric=1, order="<"):
    """Return a grayscale TIFF of one strip, with samples of 12 packed bits or of 16."""
    data = np.packbits(np.unpackbits(pixels.astype(">u2").view(np.uint8).reshape(*pixels.shape, 2), axis=-1)[..., 4:]
                       .reshape(len(pixels), -1), axis=1) if bits == 12 else pixels.astype(f"{order}u2")
    tags = [(256, pixels.shape[1]), (257, len(pixels)), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1),
            (278, len(pixels)), (279, data.nbytes)]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + data.nbytes)
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags)
    return io.BytesIO(head + data.tobytes() + struct.pack(f"{order}H", len(tags)) + entries + bytes(4))


def test_more_than_8_bits():
    ramp = np.tile(np.arange(0, 4096, 16), (4, 1))
    for data in (tiff(ramp, 12), tiff(16 * ramp, 16), tiff(16 * ramp, 16, order=">"),
                 io.BytesIO(b"P5 256 4 4095\n" + ramp.astype(">u2").tobytes()),
                 io.BytesIO(b"P5 256 4 65535\n" + (16 * ramp).astype(">u2").tobytes())):
        np.testing.assert_array_equal(decoding.decode(data, 0), np.tile(np.arange(256), (4, 1)))
    np.testing.assert_array_equal(decoding.decode(tiff(65535 - 16 * ramp, 16, photometric=0), 0)[0], np.arange(256))


@pytest.mark.parametrize("ending", decoding.IMAGE_ENDINGS)
def test_every_ending_is_read(ending, tmp_path):
    files.write_images(tmp_path, count=4, size=(16, 16), ending=ending, mode="L" if ending == ".pgm" else "RGB")
    assert files.load(f"folder:{tmp_path}").spec.sizes == {"train": 6, "test": 2}


def test_no_other_format_is_tried(tmp_path, monkeypatch):
    """Pillow would give an EPS to ghostscript."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) print\n%%EOF\n"
    (tmp_path / "cat.png").write_bytes(eps)
    Image.fromarray(files.pixels(8, 8, 3)).save(tmp_path / "dog.tga")
    for name in ("cat.png", "dog.tga"):
        with pytest.raises(UserError, match=rf"{name} does not decode as an image: it has none of the formats"):
            decoding.decode(tmp_path / name, 0)


def test_a_small_file_of_very_many_pixels_is_not_decoded():
    with pytest.raises(UserError, match="8000x8000 pixels, too many"):
        decoding.decode(encoded(Image.new("1", (8000, 8000)), "PNG"), 8)
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "x" * 2**27, zip=True)
    with pytest.raises(UserError, match="does not decode"):
        decoding.decode(encoded(Image.new("1", (8, 8)), "PNG", pnginfo=text), 8)


@pytest.mark.parametrize(("version", "own", "files_", "limit"), [
    (2, "0::/user/run\n", {"user/run/memory.max": "max", "user/memory.max": "5000\n"}, 5000),
    (2, "0::/\n", {"memory.max": "7000"}, 7000), (2, "0::/gone\n", {"memory.max": "7000"}, 7000),
    (1, "4:cpu:/a\n3:memory:/a\n", {"memory/a/memory.limit_in_bytes": "3000", "memory.max": "1"}, 3000),
    (1, "3:memory:/docker/x\n", {"memory/memory.limit_in_bytes": str(2**63 - 4096)}, None), (2, "", {}, None)])
def test_the_memory_of_a_control_group(version, own, files_, limit, tmp_path, monkeypatch):
    machine = decoding.memory_limit(tmp_path / "nothing")
    assert machine > 2**28
    for name, text in files_.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "own").write_text(own)
    monkeypatch.setattr(decoding, "CGROUPS", tmp_path)
    assert decoding.memory_limit(tmp_path / "own") == (limit or machine)


@pytest.fixture
def damaged(tmp_path):
    """Write 2 x 30 images, 24 of them damaged in four ways, and return the source."""
    files.write_images(tmp_path / "set", count=30, ending=".jpg", size=(20, 20))
    for i in range(12):
        for name in ("cat", "dog"):
            path = tmp_path / "set" / name / f"{2 * i}.jpg"
            path.write_bytes([b"", b"<html>404</html>", path.read_bytes()[:300], b"\xff\xd8\xff"][i % 4])
    (tmp_path / "set" / "cat" / "Thumbs.db").write_bytes(b"x")
    return f"folder:{tmp_path / 'set'}"


def test_all_damaged_images_are_named_at_once(damaged, log):
    with pytest.raises(UserError, match=r"24 of 60 images of .* do not decode: cat/0\.jpg, .*cat/10\.jpg.*"
                                        r"; .*skip_damaged=true") as caught:
        files.load(damaged)
    assert len(str(caught.value)) < 600
    named = [record.getMessage() for record in log.records if "does not decode as an image" in record.getMessage()]
    assert len(named) == 20
    assert "1 files are left out" in log.text
    assert "Thumbs.db" in log.text


@pytest.mark.parametrize("stream", [False, True])
def test_damaged_images_are_left_out_with_a_count(damaged, log, stream):
    for _ in range(2):
        log.clear()
        dataset = files.load(damaged, skip_damaged=True, image_size=8, stream=stream)
        assert dataset.spec.sizes == {"train": 29, "test": 7}
        counted = "24 of 60 images" in log.text or "24 images that do not decode are left out" in log.text
        assert counted
    whole = np.bincount(np.concatenate([split.labels for split in dataset.splits.values()]))
    assert whole.tolist() == [18, 18]
    with pytest.raises(UserError, match="skip_damaged=true"):  # from the cache or not
        files.load(damaged, image_size=8) if not stream else next(
            files.load(damaged, image_size=8, stream=True).feed(Devices()).train(0, 0, 0, 48))


def test_a_class_whose_images_are_all_damaged_is_refused(tmp_path):
    files.write_images(tmp_path, count=5)
    for path in (tmp_path / "dog").iterdir():
        path.write_bytes(b"x")
    for stream in (False, True):
        with pytest.raises(UserError, match="leaving out damaged images would leave none of class 1"):
            files.load(f"folder:{tmp_path}", skip_damaged=True, image_size=8, stream=stream)


def test_what_would_be_enlarged_too_much_is_left_out_of_streams_too(tmp_path):
    """So that names, splits and training agree with the set in memory."""
    files.write_images(tmp_path / "set", count=5)
    Image.new("RGB", (8000, 1)).save(tmp_path / "set" / "cat" / "line.png")
    fields = {"skip_damaged": True, "image_size": 224}
    sizes = [files.load(f"folder:{tmp_path / 'set'}", stream=stream, **fields).spec.sizes for stream in (False, True)]
    assert sizes == [{"train": 8, "test": 2}] * 2
    names = [sources.file_names(Data(f"folder:{tmp_path / 'set'}", **fields), split) for split in ("train", "test")]
    assert list(map(len, names)) == [8, 2]
    assert not any("line" in name for each in names for name in each)
    with pytest.raises(UserError, match=r"has 2 classes, and config\.data\.num_classes=1"):
        files.load(f"folder:{tmp_path / 'set'}", stream=True, num_classes=1, **fields)


def test_a_line_of_pixels_is_not_made_an_image(tmp_path):
    """It would be resized to 1,792,000x224 pixels, of which the middle 224 columns are left."""
    Image.new("RGB", (8000, 1)).save(tmp_path / "line.png")
    with pytest.raises(UserError, match="8000x1 pixels, and would be enlarged to many more"):
        decoding.decode(tmp_path / "line.png", 224)
    assert decoding.decode(tmp_path / "line.png", 0).shape == (1, 8000, 3)
    assert decoding.decode(tmp_path / "line.png", 32).shape == (32, 32, 3)
