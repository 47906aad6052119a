import errno
import io
import logging
import os
import random
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import pillow_heif
import pytest
from PIL import Image, ImageCms, ImageDraw, ImageFile
from PIL.PngImagePlugin import PngInfo

from captionapp import images
from captionapp.errors import InvalidImage, NotFound, StorageFull, TooLarge
from captionapp.images import (
    MAX_STORED_SIDE,
    THUMBNAIL_SIDE,
    ImageLimits,
    ImageStore,
    ValidatedImage,
    decode,
)

LIMITS = ImageLimits()
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"]
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
ORIENTATION = 0x0112
SECRET = "taken at 47.3769N 8.5417E"

pillow_heif.register_heif_opener()


def corners(size: tuple[int, int] = (48, 32)) -> Image.Image:
    """Red, green, blue and white quarters, from the top left in reading order."""
    width, height = size
    image = Image.new("RGB", size, RED)
    draw = ImageDraw.Draw(image)
    draw.rectangle((width // 2, 0, width, height // 2 - 1), GREEN)
    draw.rectangle((0, height // 2, width // 2 - 1, height), BLUE)
    draw.rectangle((width // 2, height // 2, width, height), WHITE)
    return image


def photo(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Something with gradients and noise, as photographs have."""
    noise = random.Random(seed).randbytes(size[0] * size[1] // 16 * 3)
    small = Image.frombytes("RGB", (size[0] // 4, size[1] // 4), noise)
    smooth = small.resize((max(1, size[0] // 64), max(1, size[1] // 64)))
    return Image.blend(
        smooth.resize(size, Image.Resampling.BICUBIC),
        small.resize(size, Image.Resampling.BICUBIC),
        0.15,
    )


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    if file_format in ("JPEG", "WEBP", "AVIF", "HEIF"):
        options = {"quality": 95, **options}
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def close(found: object, wanted: tuple[int, ...], by: int = 12) -> bool:
    assert isinstance(found, tuple)
    return all(abs(a - b) <= by for a, b in zip(found, wanted, strict=True))


def quarter_colours(image: Image.Image) -> list[object]:
    width, height = image.size
    xs, ys = (width // 4, width * 3 // 4), (height // 4, height * 3 // 4)
    return [image.getpixel((x, y)) for y in ys for x in xs]


def assert_corners(validated: ValidatedImage, by: int = 12) -> None:
    colours = quarter_colours(validated.image)
    for found, wanted in zip(colours, (RED, GREEN, BLUE, WHITE), strict=True):
        assert close(found, wanted, by), colours


def pixel(data: bytes) -> object:
    image = decode(data, LIMITS).image
    return image.getpixel((image.width // 2, image.height // 2))


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


# Colour


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


def icc_profile(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A version 2 ICC profile: header, tag table, tag data."""
    offset = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    header = struct.pack(">I4xI4s4s4s", offset + len(body), 0x02400000, b"prtr", space, connection)
    header = header.ljust(36, b"\0") + b"acsp"
    header = header.ljust(68, b"\0") + struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)
    return header.ljust(128, b"\0") + table + body


def xyz(x: float, y: float, z: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(v * 65536) for v in (x, y, z)))


DESCRIPTION = {b"desc": b"desc\0\0\0\0\0\0\0\x05test\0".ljust(95, b"\0")}


def swapped_profile() -> bytes:
    """The primaries of sRGB (adapted to D50), with red and green changed over."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256))
    primaries = {
        b"rXYZ": xyz(0.3851, 0.7169, 0.0971),
        b"gXYZ": xyz(0.4361, 0.2225, 0.0139),
        b"bXYZ": xyz(0.1431, 0.0606, 0.7141),
    }
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return icc_profile(b"RGB ", b"XYZ ", {**DESCRIPTION, **primaries, **curves})


def inverse_cmyk_profile() -> bytes:
    """A CMYK profile in which no ink is black and all ink is white (Lab by K alone)."""
    grid = b"".join(bytes((255 * (i & 1), 128, 128)) for i in range(16))
    ramp = bytes(range(256))
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + ramp * 4 + grid + ramp * 3
    return icc_profile(b"CMYK", b"Lab ", {**DESCRIPTION, b"A2B0": table})


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


# Normalisation and the store


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "uploads")


def test_large_pictures_are_reduced_and_keep_their_identity(store: ImageStore) -> None:
    validated = decode(encoded(photo((4000, 1000)), "JPEG"), LIMITS)
    assert validated.image.size == (MAX_STORED_SIDE, 512)
    store.add(validated)
    again = decode(store.path(validated.image_id).read_bytes(), LIMITS)
    assert again.image_id == validated.image_id


def test_stored_picture_is_exact(store: ImageStore) -> None:
    validated = decode(encoded(photo((640, 480)), "JPEG"), LIMITS)
    store.add(validated)

    assert validated.image_id in store
    assert store.load(validated.image_id).tobytes() == validated.image.tobytes()
    path = store.path(validated.image_id)
    assert path.parent.name == validated.image_id[2:4]
    assert path.parent.parent.name == validated.image_id[:2]
    with Image.open(path) as stored, Image.open(store.thumbnail_path(validated.image_id)) as small:
        assert Image.MIME[str(stored.format)] == images.MEDIA_TYPE
        assert Image.MIME[str(small.format)] == images.MEDIA_TYPE
        assert small.size == (THUMBNAIL_SIDE, 384)


@pytest.mark.parametrize(
    ("find", "size"),
    [
        (ImageStore.view_path, (images.VIEW_SIDE, 960)),
        (ImageStore.thumbnail_path, (THUMBNAIL_SIDE, 384)),
    ],
)
def test_a_smaller_copy_is_made_when_it_is_asked_for_and_goes_with_the_picture(
    store: ImageStore, find: Callable[[ImageStore, str], Path], size: tuple[int, int]
) -> None:
    validated = decode(encoded(photo((1600, 1200)), "JPEG"), LIMITS)
    store.add(validated)
    alone = store.size_bytes()
    copy = find(store, validated.image_id)
    made = copy.stat().st_mtime_ns
    with Image.open(copy) as picture:
        assert picture.size == size
    assert store.size_bytes() - alone == copy.stat().st_size < alone / 2
    assert find(store, validated.image_id) == copy and copy.stat().st_mtime_ns == made
    store.delete(validated.image_id)
    assert not copy.exists()
    with pytest.raises(NotFound):
        find(store, validated.image_id)


@pytest.mark.parametrize("find", [ImageStore.view_path, ImageStore.thumbnail_path])
def test_without_room_for_a_copy_the_picture_is_shown_as_it_is_stored(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch, find: Callable[[ImageStore, str], Path]
) -> None:
    validated = decode(encoded(photo((640, 480)), "JPEG"), LIMITS)
    store.add(validated)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert find(store, validated.image_id) == store.path(validated.image_id)
    assert find(store, validated.image_id) != store.path(validated.image_id)


def test_copies_count_in_the_quota_but_are_not_refused(store: ImageStore) -> None:
    first, second = (decode(encoded(photo((64, 64), seed), "PNG"), LIMITS) for seed in (1, 2))
    store.add(first)
    full = ImageStore(store.folder, quota_bytes=store.size_bytes() + 10)
    assert full.thumbnail_path(first.image_id) != full.path(first.image_id)
    with pytest.raises(StorageFull):
        full.add(second)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF", "GIF"])
def test_metadata_is_gone_from_what_is_stored(store: ImageStore, file_format: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = SECRET
    exif.get_ifd(0x8825)[29] = SECRET
    xmp = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'>{SECRET}</x:xmpmeta>".encode()
    options: dict[str, object] = {"exif": exif, "icc_profile": swapped_profile(), "xmp": xmp}
    if file_format == "PNG":
        text = PngInfo()
        text.add_text("Comment", SECRET)
        options["pnginfo"] = text
    elif file_format == "JPEG":
        options["comment"] = SECRET
    elif file_format == "TIFF":
        del options["xmp"]
    elif file_format == "GIF":
        options = {"comment": SECRET}
    data = encoded(corners((96, 64)), file_format, **options)
    assert SECRET.encode() in data

    validated = decode(data, LIMITS)
    store.add(validated)
    for find in (store.path, store.thumbnail_path, store.view_path):
        path = find(validated.image_id)
        stored = path.read_bytes()
        for trace in (SECRET.encode(), b"EXIF", b"Exif", b"XMP", b"xmpmeta", b"ICCP", b"acsp"):
            assert trace not in stored
        assert stored[12:16] in (b"VP8 ", b"VP8L")  # a WebP file without room for metadata


def test_adding_twice_writes_once(store: ImageStore) -> None:
    validated = decode(encoded(corners(), "PNG"), LIMITS)
    store.add(validated)
    before = store.path(validated.image_id).stat()
    store.add(validated)
    after = store.path(validated.image_id).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert len([path for path in store.folder.rglob("*") if path.is_file()]) == 1


def test_many_threads_add_the_same(store: ImageStore) -> None:
    validated = decode(encoded(corners(), "PNG"), LIMITS)
    threads = [
        threading.Thread(target=ImageStore(store.folder).add, args=(validated,)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([path for path in store.folder.rglob("*") if path.is_file()]) == 1
    assert store.load(validated.image_id).tobytes() == validated.image.tobytes()


@pytest.mark.parametrize(
    "image_id", ["", "a" * 31, "A" * 32, "../" * 10 + "aa", "a" * 32 + "\n", "g" * 32, "/etc"]
)
def test_ids_from_outside_make_no_path(store: ImageStore, image_id: str) -> None:
    assert image_id not in store
    for action in (
        store.path,
        store.thumbnail_path,
        store.view_path,
        store.load,
        store.delete,
    ):
        with pytest.raises(NotFound):
            action(image_id)


def test_delete(store: ImageStore) -> None:
    validated = decode(encoded(corners(), "PNG"), LIMITS)
    store.add(validated)
    assert store.size_bytes() > 0
    store.delete(validated.image_id)
    store.delete(validated.image_id)

    assert validated.image_id not in store
    assert store.size_bytes() == 0
    for action in (store.path, store.thumbnail_path, store.load):
        with pytest.raises(NotFound):
            action(validated.image_id)


def test_quota(tmp_path: Path) -> None:
    first, second = (decode(encoded(photo((64, 64), seed), "PNG"), LIMITS) for seed in (1, 2))
    ImageStore(tmp_path).add(first)
    store = ImageStore(tmp_path, quota_bytes=ImageStore(tmp_path).size_bytes() + 10)
    store.add(first)
    with pytest.raises(StorageFull, match="no room"):
        store.add(second)
    assert second.image_id not in store
    ImageStore(tmp_path).delete(first.image_id)  # by another process
    store.add(second)
    assert second.image_id in store


def test_full_disk_keeps_nothing(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    validated = decode(encoded(corners(), "PNG"), LIMITS)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageFull, match="disk"):
            store.add(validated)
    assert [path for path in store.folder.rglob("*") if path.is_file()] == []
    store.add(validated)
    assert validated.image_id in store


def test_leftovers_of_killed_processes_go(store: ImageStore) -> None:
    validated = decode(encoded(corners(), "PNG"), LIMITS)
    store.add(validated)
    size = store.size_bytes()
    old, new = (store.path(validated.image_id).with_name(f"{age}.tmp") for age in ("old", "new"))
    for file in (old, new):
        file.write_bytes(b"12345")
    os.utime(old, (0, 0))
    assert store.size_bytes() == size + 5
    assert not old.exists()
    assert new.exists()


def test_damaged_stored_file_is_reported(
    store: ImageStore, caplog: pytest.LogCaptureFixture
) -> None:
    validated = decode(encoded(photo((64, 64)), "PNG"), LIMITS)
    store.add(validated)
    path = store.path(validated.image_id)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InvalidImage, match="Send the picture again"):
        store.load(validated.image_id)
    assert validated.image_id in caplog.text


@pytest.mark.parametrize("length", [0, 11, 100, -1])
def test_a_stored_file_cut_short_is_not_whole(store: ImageStore, length: int) -> None:
    validated = decode(encoded(photo((64, 64)), "PNG"), LIMITS)
    with pytest.raises(NotFound):
        store.is_whole(validated.image_id)
    store.add(validated)
    assert store.is_whole(validated.image_id)
    path = store.path(validated.image_id)
    path.write_bytes(path.read_bytes()[:length])
    assert not store.is_whole(validated.image_id)
