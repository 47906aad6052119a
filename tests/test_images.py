import logging
import random
import struct
import threading
import warnings
import zlib

import pytest
from PIL import Image, ImageFile

from captionapp import images
from captionapp.errors import InvalidImage, TooLarge
from captionapp.images import ImageLimits, decode
from tests.drawing import (
    BLUE,
    FORMATS,
    GREEN,
    LIMITS,
    ORIENTATION,
    RED,
    assert_corners,
    close,
    corners,
    encoded,
    photo,
    pixel,
    swapped_profile,
)

# Formats


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format_is_decoded(file_format: str) -> None:
    validated = decode(encoded(corners((96, 64)), file_format), LIMITS)

    assert (validated.width, validated.height) == validated.image.size == (96, 64)
    assert validated.image.mode == "RGB"
    assert type(validated.image) is Image.Image
    assert validated.image.info == {}
    assert_corners(validated, by=25)


def test_identity_is_of_the_pixels_and_not_of_the_file() -> None:
    same = [
        encoded(corners(), "PNG"),
        encoded(corners(), "PNG", compress_level=0),
        encoded(corners(), "BMP"),
        encoded(corners(), "TIFF"),
        encoded(corners(), "GIF"),
        encoded(corners(), "WEBP", lossless=True),
        encoded(corners().convert("RGBA"), "PNG"),
        encoded(corners().quantize(), "PNG"),
    ]
    ids = {decode(data, LIMITS).image_id for data in same}
    assert len(ids) == 1
    assert len(ids.pop()) == 32
    assert decode(encoded(corners((32, 48)), "PNG"), LIMITS).image_id not in ids


def test_identity_knows_the_size() -> None:
    ids = {
        decode(encoded(Image.new("RGB", size), "PNG"), LIMITS).image_id
        for size in [(6, 4), (4, 6), (12, 2), (24, 1)]
    }
    assert len(ids) == 4


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(file_format: str, orientation: int) -> None:
    # What has to be stored so that a reader who applies the orientation sees the corners again.
    undo = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    stored = corners((96, 64))
    if undo != 1:
        stored = stored.transpose(images._TRANSPOSE[undo])
    exif = Image.Exif()
    exif[ORIENTATION] = orientation

    # Given bytes, the encoder of HEIC writes the rotation where that format has it, too.
    validated = decode(encoded(stored, file_format, exif=exif.tobytes()), LIMITS)
    assert validated.image.size == (96, 64)
    assert_corners(validated, by=25)


def test_orientation_in_exif_alone_means_nothing_in_heic() -> None:
    # ISO/IEC 23008-12: the picture is rotated by its own properties; EXIF only repeats them.
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = encoded(corners((96, 64)), "HEIF", exif=exif)  # an object, so no rotation is written
    assert b"irot" not in data
    assert_corners(decode(data, LIMITS), by=25)


def test_broken_exif_does_not_cost_the_picture() -> None:
    data = encoded(corners((96, 64)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff nonsense")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_corners(decode(data, LIMITS), by=25)


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_animations_give_their_first_frame(file_format: str) -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in (BLUE, RED, GREEN)]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert close(pixel(data), BLUE)


# What is refused


def test_too_many_bytes() -> None:
    with pytest.raises(TooLarge, match="more than .* MB.*Save it smaller"):
        decode(encoded(corners(), "PNG"), ImageLimits(max_bytes=10))


@pytest.mark.parametrize("file_format", FORMATS)
def test_too_many_pixels(file_format: str) -> None:
    with pytest.raises(TooLarge, match="96 by 64 pixels; at most 0.0 megapixels"):
        decode(encoded(corners((96, 64)), file_format), ImageLimits(max_pixels=96 * 64 - 1))
    decode(encoded(corners((96, 64)), file_format), ImageLimits(max_pixels=96 * 64))


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of_size(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1_000_000)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("size", [(8000, 8000), (12000, 12000), (50000, 50000), (2**31 - 1, 2**30)])
def test_bomb_is_refused_before_decoding(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def must_not_run(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", must_not_run)
    with pytest.raises(TooLarge, match="megapixels"):
        decode(png_of_size(*size), LIMITS)


@pytest.mark.parametrize("size", [(1, 20000), (20000, 1), (3, 301)])
def test_absurdly_narrow_pictures_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidImage, match="too narrow.*Crop"):
        decode(encoded(Image.new("RGB", size), "PNG"), LIMITS)


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (300, 3)])
def test_small_and_long_pictures_are_fine(size: tuple[int, int]) -> None:
    assert decode(encoded(Image.new("RGB", size), "PNG"), LIMITS).image.size == size


@pytest.mark.parametrize(
    "data",
    [png_of_size(0, 10), png_of_size(10, 0), b"GIF89a" + b"\0" * 20, b"BM" + b"\0" * 60],
    ids=["png", "png", "gif", "bmp"],
)
def test_pictures_without_pixels_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidImage, match=r"(no pixels|damaged)\b.*\."):
        decode(data, LIMITS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"hello", "Send a JPEG, PNG"),
        (b"\0" * 1000, "Send a JPEG, PNG"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"<?xml version='1.0'?>\n<!-- made -->\n<svg/>", "an SVG drawing"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\n<html>", "a web page"),
        (b"\0\0\0\x20ftypisom" + b"\0" * 50, "a video"),
        (b"\0\0\0\x14ftypqt  " + b"\0" * 50, "a video"),
        (b"\x1aE\xdf\xa3" + b"\0" * 50, "a video"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (b"II*\0\x10\0\0\0CR\x02\0" + b"\0" * 50, "a raw file"),
        (b"\0\0\0\x18ftypcrx " + b"\0" * 50, "a raw file"),
        (b"FUJIFILMCCD-RAW 0201", "a raw file"),
        (b"PK\x03\x04" + b"\0" * 50, "an archive"),
        (b"8BPS\0\x01", "a Photoshop document"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
        (b"\xff\xd8\xff\xe0 nothing", "damaged or incomplete"),
        (b"\x89PNG\r\n\x1a\n", "damaged or incomplete"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "damaged or incomplete"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "damaged or incomplete"),
        (b"II*\0\x08\0\0\0", "damaged or incomplete"),
    ],
)
def test_what_is_not_a_picture_is_named(data: bytes, message: str) -> None:
    with pytest.raises(InvalidImage, match=message) as caught:
        decode(data, LIMITS)
    assert not isinstance(caught.value, TooLarge)


def test_pictures_in_formats_that_are_not_on_the_list_are_refused() -> None:
    for file_format in ("PPM", "ICO", "TGA", "PCX", "JPEG2000"):
        with pytest.raises(InvalidImage):
            decode(encoded(corners((64, 64)), file_format), LIMITS)


def test_raw_file_that_begins_with_a_preview_is_refused() -> None:
    for tags in ({50706: b"\x01\x04\0\0"}, {254: 1, 330: 8}):
        data = encoded(corners(), "TIFF", tiffinfo=tags)
        with pytest.raises(InvalidImage, match="a raw file of a camera"):
            decode(data, LIMITS)


@pytest.mark.parametrize("file_format", FORMATS)
def test_truncated_files_are_refused(file_format: str, caplog: pytest.LogCaptureFixture) -> None:
    data = encoded(photo((256, 192)), file_format)
    caplog.set_level(logging.INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for share in (0.3, 0.6, 0.9):
            caplog.clear()
            with pytest.raises(InvalidImage, match="damaged or incomplete.*save it again"):
                decode(data[: int(len(data) * share)], LIMITS)
            assert "Picture refused" in caplog.text


@pytest.mark.parametrize(
    "error",
    [OSError, ValueError, SyntaxError, struct.error, MemoryError, OverflowError, zlib.error]
    + [RuntimeError, IndexError, RecursionError, AssertionError],
)
def test_every_error_of_a_decoder_is_an_invalid_image(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error("inside the decoder")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(InvalidImage, match="damaged") as caught:
        decode(encoded(corners(), "PNG"), LIMITS)
    assert "inside the decoder" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # in production a warning does not stop a decoder either
@pytest.mark.parametrize("file_format", FORMATS)
def test_damaged_files_never_raise_anything_else(file_format: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    options = {} if file_format in ("GIF", "BMP") else {"exif": exif}
    if file_format in ("JPEG", "PNG", "TIFF"):
        options["icc_profile"] = swapped_profile()
    good = encoded(photo((64, 48)), file_format, **options)
    limits = ImageLimits(max_bytes=100_000, max_pixels=1_000_000)
    chance = random.Random(f"damage {file_format}")
    refused = 0
    for round_number in range(300):
        damaged = bytearray(good)
        if round_number % 3 == 0:
            del damaged[chance.randrange(len(damaged)) :]
        else:
            # Headers are where the decisions are.
            reach = len(damaged) if round_number % 3 == 1 else min(len(damaged), 400)
            for _ in range(chance.choice((1, 1, 4, 16))):
                damaged[chance.randrange(reach)] ^= 1 << chance.randrange(8)
        try:
            validated = decode(bytes(damaged), limits)
        except InvalidImage as error:
            refused += 1
            assert str(error).endswith(".")
        else:
            assert validated.image.mode == "RGB"
            assert validated.width * validated.height <= limits.max_pixels
    assert refused > 50


def test_global_state_of_pillow_is_left_alone() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    decode(encoded(corners(), "PNG"), LIMITS)
    with pytest.raises(InvalidImage):
        decode(png_of_size(50000, 50000), LIMITS)
    after = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    assert before == after


def test_threads_decode_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_LARGE_PIXELS", 10)  # so that the gate for large ones is passed
    files = [encoded(photo((64, 48)), file_format) for file_format in FORMATS]
    wanted = [decode(data, LIMITS).image_id for data in files]
    found: list[list[str]] = []
    threads = [
        threading.Thread(
            target=lambda: found.append([decode(data, LIMITS).image_id for data in files])
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 8
