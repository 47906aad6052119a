"""Colour as it is after decoding, whatever the file said it in."""

import struct

import pytest
from PIL import Image, ImageCms

from captionapp.errors import InvalidImage
from captionapp.images import decode
from tests.drawing import (
    GREEN,
    LIMITS,
    RED,
    WHITE,
    assert_corners,
    close,
    corners,
    encoded,
    inverse_cmyk_profile,
    photo,
    pixel,
    swapped_profile,
)


def test_transparency_is_put_on_white() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert pixel(encoded(clear, "PNG")) == WHITE
    assert close(pixel(encoded(half, "PNG")), (127, 127, 127), by=1)
    assert pixel(encoded(clear, "WEBP", lossless=True)) == WHITE
    assert close(pixel(encoded(clear, "TIFF")), WHITE)
    assert pixel(encoded(Image.new("LA", (8, 8), (0, 0)), "PNG")) == WHITE
    assert close(pixel(encoded(Image.new("LA", (8, 8), (0, 128)), "PNG")), (127,) * 3, by=1)


def test_palettes() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert pixel(encoded(image, "PNG")) == (10, 20, 30)
    assert pixel(encoded(image, "GIF")) == (10, 20, 30)
    assert pixel(encoded(image, "PNG", transparency=1)) == WHITE
    assert pixel(encoded(image, "GIF", transparency=1)) == WHITE
    assert close(pixel(encoded(image, "PNG", transparency=b"\xff\x80")), (132, 137, 142), by=1)


def test_one_colour_as_transparent() -> None:
    assert pixel(encoded(Image.new("RGB", (8, 8), RED), "PNG", transparency=RED)) == WHITE
    assert pixel(encoded(Image.new("L", (8, 8), 7), "PNG", transparency=7)) == WHITE
    assert pixel(encoded(Image.new("L", (8, 8), 7), "PNG", transparency=8)) == (7, 7, 7)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
def test_one_bit(file_format: str) -> None:
    assert pixel(encoded(Image.new("1", (8, 8), 1), file_format)) == WHITE
    assert pixel(encoded(Image.new("1", (8, 8), 0), file_format)) == (0, 0, 0)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
@pytest.mark.parametrize(("value", "grey"), [(0, 0), (32896, 128), (257, 1), (65535, 255)])
def test_sixteen_bit_grey_is_scaled(file_format: str, value: int, grey: int) -> None:
    image = Image.new("I;16", (8, 8), value)
    assert pixel(encoded(image, file_format)) == (grey,) * 3


def test_sixteen_bit_grey_of_the_other_byte_order() -> None:
    image = Image.frombytes("I;16B", (8, 8), struct.pack(">H", 32896) * 64)
    assert pixel(encoded(image, "TIFF")) == (128,) * 3


@pytest.mark.parametrize(
    ("mode", "values", "greys"),
    [
        ("I", (0, 128, 255), (0, 128, 255)),
        ("I", (0, 32896, 65535), (0, 128, 255)),
        ("I", (-1000, 0, 1000), (0, 128, 255)),
        ("I", (0, 2**30, 2**31 - 1), (0, 128, 255)),
        ("F", (0.0, 0.5, 1.0), (0, 128, 255)),
        ("F", (0.0, 128.0, 255.0), (0, 128, 255)),
        ("F", (-1e30, 0.0, 1e30), (0, 128, 255)),
    ],
)
def test_wide_greys_are_scaled(
    mode: str, values: tuple[float, ...], greys: tuple[int, ...]
) -> None:
    image = Image.new(mode, (3, 3))
    for x, value in enumerate(values):
        for y in range(3):
            image.putpixel((x, y), value)
    found = decode(encoded(image, "TIFF"), LIMITS).image
    for x, grey in enumerate(greys):
        assert close(found.getpixel((x, 1)), (grey,) * 3, by=1)


def test_greys_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InvalidImage, match="damaged"):
        decode(encoded(Image.new("F", (8, 8), float("nan")), "TIFF"), LIMITS)


def test_cmyk_without_profile() -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert close(pixel(encoded(cyan, "JPEG")), (0, 255, 255))  # inverted, as Adobe does
    assert close(pixel(encoded(cyan, "TIFF")), (0, 255, 255))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_colour_profile_is_applied(file_format: str) -> None:
    red = Image.new("RGB", (32, 32), RED)
    data = encoded(red, file_format, icc_profile=swapped_profile())
    assert close(pixel(data), GREEN, by=20)


def test_colour_profile_of_cmyk_is_applied() -> None:
    for file_format in ("JPEG", "TIFF"):
        profile = inverse_cmyk_profile()
        for ink, grey in ((0, 0), (255, 255)):
            image = Image.new("CMYK", (16, 16), (0, 0, 0, ink))
            data = encoded(image, file_format, icc_profile=profile)
            assert close(pixel(data), (grey,) * 3), (file_format, ink)


def test_srgb_profile_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = photo((64, 64))
    plain, tagged = (encoded(image, "PNG"), encoded(image, "PNG", icc_profile=profile))
    assert decode(tagged, LIMITS).image_id == decode(plain, LIMITS).image_id


@pytest.mark.parametrize(
    "profile", [b"nonsense", swapped_profile()[:200], inverse_cmyk_profile()], ids=len
)
def test_broken_colour_profile_is_ignored(profile: bytes, caplog: pytest.LogCaptureFixture) -> None:
    data = encoded(corners((96, 64)), "PNG", icc_profile=profile)
    assert_corners(decode(data, LIMITS), by=0)
    assert "Colour profile ignored" in caplog.text
