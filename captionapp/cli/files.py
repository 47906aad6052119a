"""Captions of files on the disk, for ``flask model caption``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from captionapp.captioning.captioner import Caption, Captioner, DecodeOptions
from captionapp.captioning.together import caption_together
from captionapp.errors import InvalidImage
from captionapp.images import ImageLimits, ValidatedImage, decode

#: Names that are taken for pictures in a folder; a file that is named itself is always tried.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .png .webp .gif .bmp .tif .tiff .avif .heic .heif .hif".split()
)


@dataclass(frozen=True)
class Described:
    """A file and its caption, or the sentence that says why it has none."""

    file: Path
    caption: Caption | None
    problem: str = ""


def find_pictures(paths: Iterable[Path]) -> list[Path]:
    """The files among ``paths``, and the pictures in the folders among them, by name, recursively.

    Hidden files and folders are passed over. Each file comes once, in order.

    Raises:
        InvalidImage: if a folder has no pictures.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            found[path] = None
            continue
        inside = sorted(file for file in path.rglob("*") if _is_picture(file, path))
        if not inside:
            raise InvalidImage(f"There are no pictures in {path}.")
        found.update(dict.fromkeys(inside))
    return list(found)


def _is_picture(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return not hidden and file.suffix.lower() in SUFFIXES and file.is_file()


def caption_files(
    files: Sequence[Path],
    captioner: Captioner,
    options: DecodeOptions,
    limits: ImageLimits,
    batch_size: int,
) -> Iterator[Described]:
    """Describe files, in order. A broken one takes nothing from the others."""
    for start in range(0, len(files), batch_size):
        batch = files[start : start + batch_size]
        decoded = [_decoded(file, limits) for file in batch]
        images = [image for image in decoded if isinstance(image, ValidatedImage)]
        captions = iter(caption_together(captioner, [one.image for one in images], options))
        for file, image in zip(batch, decoded, strict=True):
            result = next(captions) if isinstance(image, ValidatedImage) else image
            if isinstance(result, Caption):
                yield Described(file, result)
            else:
                yield Described(file, None, result)


def _decoded(file: Path, limits: ImageLimits) -> ValidatedImage | str:
    try:
        with file.open("rb") as stream:  # one byte beyond the limit is enough to be refused
            return decode(stream.read(limits.max_bytes + 1), limits)
    except InvalidImage as error:
        return str(error)
    except OSError as error:
        return f"The file cannot be read ({error.strerror})."
