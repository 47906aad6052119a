"""Pixels of any mode and colour space -> 8-bit RGB in sRGB, opaque on white."""

import io
import logging
import math
from collections.abc import Callable

from PIL import Image, ImageChops, ImageCms

log = logging.getLogger(__name__)

_WIDE_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_GREY = ("1", "L", "LA", "La")
#: Colour space that an ICC profile must be of, per mode of the pixels.
_PROFILE_SPACE = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}


def to_srgb(
    image: Image.Image, source: Image.Image, reduce: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """``image`` as an opaque RGB picture in sRGB; a new object.

    ``source`` is the opened file that ``image`` was made of, for its ICC profile and tags.
    ``reduce`` is applied in between: after the mode is plain, before the costly colour transform.
    """
    plain = reduce(_flatten(_to_eight_bits(image, source)))
    if plain.mode == "LAB":
        return _transform(plain, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    profile_bytes = source.info.get("icc_profile")
    if profile_bytes:
        try:
            converted = _apply_profile(plain, profile_bytes)
        except Exception as error:
            # Its own errors, and those of a broken profile: the picture is worth more than it.
            log.warning("Colour profile ignored: %s: %s", type(error).__name__, error)
        else:
            if converted is not None:
                return converted
    return plain.convert("RGB") if plain.mode != "RGB" else plain.copy()


def _to_eight_bits(image: Image.Image, source: Image.Image) -> Image.Image:
    """Greys of more than 8 bits as ``L``, by their full scale; other pictures unchanged."""
    if image.mode not in _WIDE_GREY:
        return image
    tags = getattr(source, "tag_v2", {})
    # Pillow converts only the native "I;16" to other modes faithfully; "I" holds all of them.
    wide = image.convert("F") if image.mode in ("I", "F") else image.convert("I").convert("F")
    extrema = wide.getextrema()
    low, high = float(extrema[0]), float(extrema[1])  # type: ignore[arg-type]
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("grey values are not finite")
    if image.mode.startswith("I;16"):
        low, high = 0.0, 4095.0 if tags.get(258) == (12,) else 65535.0
    elif image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 65535:
        low, high = 0.0, 255.0 if high <= 255 else 65535.0
    # Anything else has no scale of its own (measurements): what is there is stretched.
    scale = 255.0 / (high - low) if high > low else 0.0
    grey = wide.point(lambda value: value * scale + (0.5 - low * scale)).convert("L")
    white_is_zero = image.mode.startswith("I;16") and tags.get(262) == 0
    return ImageChops.invert(grey) if white_is_zero else grey


def _flatten(image: Image.Image) -> Image.Image:
    """The picture in L, RGB, CMYK or LAB, with what is transparent on white."""
    grey = image.mode in _GREY
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        # RGBa and La convert only to their unmultiplied sisters.
        straight = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))
        straight = straight.convert("RGBA")
        flat = Image.new("RGB", image.size, "white")
        flat.paste(straight, mask=straight.getchannel("A"))
        return flat.convert("L") if grey else flat
    if grey:
        return image.convert("L")
    return image if image.mode in ("RGB", "CMYK", "LAB") else image.convert("RGB")


def _apply_profile(image: Image.Image, profile_bytes: bytes) -> Image.Image | None:
    """The picture brought to sRGB by its profile; None when that changes nothing."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(profile_bytes))
    space = profile.profile.xcolor_space.strip()
    if space != _PROFILE_SPACE[image.mode]:
        log.warning("Colour profile ignored: it is for %r, the picture is %s", space, image.mode)
        return None
    # Most profiles by far. Rounding through the transform would only change the identity.
    if "sRGB" in ImageCms.getProfileDescription(profile):
        return None
    return _transform(image, profile)


def _transform(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    converted = ImageCms.profileToProfile(
        image,
        profile,
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.PERCEPTUAL,
        outputMode="RGB",
    )
    if converted is None:
        raise ValueError("the colour transform gave no picture")
    return converted
