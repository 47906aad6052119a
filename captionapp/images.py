"""Bytes that claim to be a picture -> ``ValidatedImage``.

Everything after this module sees one kind of picture: upright, 8-bit RGB in sRGB, opaque, at most
``MAX_STORED_SIDE`` pixels on its longer side, and without any metadata.
"""

import hashlib
import io
import logging
import re
import threading
from dataclasses import dataclass
from typing import Any

from PIL import Image

from captionapp.colour import to_srgb
from captionapp.errors import InvalidImage, TooLarge
from captionapp.sentences import Sentence

log = logging.getLogger(__name__)

#: The longer side, in pixels, above which normalisation reduces a picture. It bounds the stored
#: files and the memory of the queue, and makes the identity of a stored file that of its source.
MAX_STORED_SIDE = 2048
#: Longer side over shorter side above which nothing could be recognised in the picture.
MAX_ASPECT = 100

#: The only decoders that are ever tried; Pillow has some forty, several of them unsafe.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
FORMAT_NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC"

#: Pictures above this many pixels are decoded one at a time: 50 megapixels are 200 MB, twice.
_LARGE_PIXELS = 12_000_000
_large_decode = threading.Semaphore(1)
_heif_lock = threading.Lock()
_heif_registered = False

#: First bytes of a picture in a format that can be read: whatever fails in it is damage.
_READABLE = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF.{4}WEBP|GIF8[79]a|BM|II[*+]\0|MM\0[*+]"
    rb"|.{4}ftyp(?:avif|avis|heic|heix|heim|heis|hevc|hevx|mif1|msf1)",
    re.DOTALL,
)
_RAW = Sentence("a raw file of a camera")
_RAW_START = re.compile(
    rb".{4}ftypcrx |FUJIFILMCCD-RAW|II[*]\0.{4}CR|IIU\0|IIR[OS]|MMOR|FOVb", re.DOTALL
)
#: What else people send, by its first bytes.
_OTHER_KINDS = [
    (re.compile(rb"%PDF-"), Sentence("a PDF document")),
    (re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*|<!DOCTYPE svg[^>]*>\s*)*<svg\b", re.S),
     Sentence("an SVG drawing")),
    (re.compile(rb"\s*(?:<!--.*?-->\s*)?<(?:!doctype html|html|head|body)\b", re.I | re.S),
     Sentence("a web page")),
    (_RAW_START, _RAW),
    (re.compile(rb".{4}(?:ftyp|moov|mdat)|\x1aE\xdf\xa3|RIFF.{4}AVI |\0\0\x01[\xba\xb3]", re.S),
     Sentence("a video")),
    (re.compile(rb"ID3|OggS|fLaC|RIFF.{4}WAVE|\xff[\xfb\xf3]", re.S),
     Sentence("a sound or video file")),
    (re.compile(rb"PK\x03\x04|Rar!|7z\xbc\xaf|\x1f\x8b"),
     Sentence("an archive or office document")),
    (re.compile(rb"8BPS"), Sentence("a Photoshop document")),
    (re.compile(rb"\0\0\0\x0cJXL |\xff\x0a"), Sentence("a JPEG XL picture")),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), Sentence("a JPEG 2000 picture")),
]  # fmt: skip

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageLimits:
    """What a file may be at most: bytes as sent, and pixels as its header says."""

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000


@dataclass(frozen=True)
class ValidatedImage:
    """A normalised picture: ``image`` is RGB, sRGB, upright; width and height are its pixels."""

    image_id: str
    image: Image.Image
    width: int
    height: int


def decode(data: bytes, limits: ImageLimits) -> ValidatedImage:
    """Decode and normalise one picture, by its content alone.

    Returns the first frame, upright, in sRGB, transparency on white, reduced to
    ``MAX_STORED_SIDE``, without metadata. ``image_id`` is the first 32 hex digits of SHA-256 over
    the size and the pixels of that.

    Raises:
        TooLarge: more bytes or pixels than the limits; pixels are checked before decoding.
        InvalidImage: anything else that is not a whole picture. The message says what to do.
    """
    if not data:
        raise InvalidImage(
            Sentence("The file is empty. Choose the picture again and send it once more.")
        )
    if len(data) > limits.max_bytes:
        raise TooLarge(
            Sentence(
                "The file has more than %(most)s MB, which is the most allowed."
                " Save it smaller or with more compression and send that.",
                most=_short(limits.max_bytes / 1e6),
            )
        )
    try:
        image = _normalise(data, limits)
    except InvalidImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow's own limits; the warning is an error only where warnings are made so.
        raise TooLarge(_too_many_pixels(None, limits)) from error
    except Exception as error:
        # A decoder fails in its own ways (OSError, SyntaxError, struct.error, MemoryError, ...),
        # and a hostile file must not find one that is not on a list.
        log.info("Picture refused: %s: %s", type(error).__name__, error)
        raise InvalidImage(_why_unreadable(data)) from error
    width, height = image.size
    digest = hashlib.sha256(f"{width}x{height}:".encode())
    digest.update(image.tobytes())
    return ValidatedImage(digest.hexdigest()[:32], image, width, height)


def _normalise(data: bytes, limits: ImageLimits) -> Image.Image:
    _register_heif()
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        _check_size(opened.size, limits)
        _refuse_raw(opened)
        if opened.width * opened.height > _LARGE_PIXELS:
            with _large_decode:
                return _to_canonical(opened, limits)
        return _to_canonical(opened, limits)


def _to_canonical(opened: Image.Image, limits: ImageLimits) -> Image.Image:
    opened.load()
    _check_size(opened.size, limits)  # HEIF and GIF can turn out larger than they said
    method = _TRANSPOSE.get(_orientation(opened))
    upright = opened.transpose(method) if method is not None else opened
    # Each of these copies. JPEG's own reduction while decoding (draft) is not used, although it
    # is faster: the same picture sent as a PNG would get another identity.
    image = to_srgb(upright, opened, _reduce)
    image.info = {}
    return image


def _reduce(image: Image.Image) -> Image.Image:
    longer = max(image.size)
    if longer <= MAX_STORED_SIDE:
        return image
    width, height = (max(1, round(side * MAX_STORED_SIDE / longer)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InvalidImage(
            Sentence("The picture has no pixels. Export it again from where it came from.")
        )
    if width * height > limits.max_pixels:
        raise TooLarge(_too_many_pixels(size, limits))
    if max(size) > MAX_ASPECT * min(size):
        raise InvalidImage(
            Sentence(
                "The picture is %(width)s by %(height)s pixels, too narrow to describe."
                " Crop it to the part that matters and send that.",
                width=width,
                height=height,
            )
        )


def _too_many_pixels(size: tuple[int, int] | None, limits: ImageLimits) -> Sentence:
    most = round(limits.max_pixels / 1e6, 1)
    if size is None:
        return Sentence(
            "The picture has far too many pixels; at most %(most)s megapixels are allowed."
            " Reduce its size and send it again.",
            most=most,
        )
    return Sentence(
        "The picture has %(width)s by %(height)s pixels; at most %(most)s megapixels are allowed."
        " Reduce its size and send it again.",
        width=size[0],
        height=size[1],
        most=most,
    )


def _short(number: float) -> float:
    """``20.0`` -> ``20``, which is how people write it."""
    return int(number) if number == int(number) else number


def _orientation(opened: Image.Image) -> int:
    """The EXIF orientation that is still to be applied: 1 (upright) to 8."""
    if opened.format in ("HEIF", "TIFF"):
        return 1  # their decoders have applied it
    try:
        return int(opened.getexif().get(0x0112, 1))
    except Exception as error:
        log.info("Orientation ignored, EXIF is broken: %s: %s", type(error).__name__, error)
        return 1


def _refuse_raw(opened: Image.Image) -> None:
    """Refuse DNG, NEF, ARW and their like: TIFF files whose first picture is a small preview."""
    tags: Any = getattr(opened, "tag_v2", None)
    if opened.format != "TIFF" or tags is None:
        return
    dng_version, photometric, subfile_type, sub_ifds = 50706, 262, 254, 330
    # 32803 colour filter array, 34892 linear raw: TIFF/EP and the DNG specification.
    raw = dng_version in tags or tags.get(photometric) in (32803, 34892)
    if raw or (int(tags.get(subfile_type, 0)) & 1 and sub_ifds in tags):
        raise InvalidImage(_not_a_picture(_RAW))


def _why_unreadable(data: bytes) -> Sentence:
    start = data[:2048]
    for pattern, kind in _OTHER_KINDS:
        if pattern.match(start) and not _READABLE.match(start):
            return _not_a_picture(kind)
    if _RAW_START.match(start):  # Canon's raw files begin as TIFF files do
        return _not_a_picture(_RAW)
    if _READABLE.match(start):
        return Sentence(
            "The picture is damaged or incomplete. Open it in a picture viewer, save it again as"
            " JPEG or PNG, and send that."
        )
    return Sentence(
        "This is not a picture that can be read. Send a %(formats)s file.", formats=FORMAT_NAMES
    )


def _not_a_picture(kind: Sentence) -> Sentence:
    return Sentence(
        "This is %(kind)s, which cannot be read. Save it as JPEG or PNG and send that.", kind=kind
    )


def _register_heif() -> None:
    """Add HEIC/HEIF to Pillow's registry, once; importing it costs time that only uploads need."""
    global _heif_registered
    if _heif_registered:
        return
    with _heif_lock:
        if not _heif_registered:
            import pillow_heif

            # Uploads come from strangers: no thread pool per file, no side pictures.
            pillow_heif.register_heif_opener(
                thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
            )
            _heif_registered = True
