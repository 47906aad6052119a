"""Pictures that are drawn by code, encoded in every format, and looked at again."""

import io
import random
import struct

import pillow_heif
from PIL import Image, ImageDraw

from captionapp.images import ImageLimits, ValidatedImage, decode

LIMITS = ImageLimits()
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"]
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
ORIENTATION = 0x0112

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


def pattern(number: int, size: int = 64) -> Image.Image:
    """Squares as different as perceptual hashes want them; another number, another picture."""
    chance = random.Random(number)
    image = Image.new("RGB", (size, size))
    pen = ImageDraw.Draw(image)
    side = size // 8
    for x in range(0, size, side):
        for y in range(0, size, side):
            corner = (x + side - 1, y + side - 1)
            pen.rectangle((x, y, *corner), fill=tuple(chance.randbytes(3)))
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
