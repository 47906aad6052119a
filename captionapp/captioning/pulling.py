"""A BLIP captioning checkpoint, from the hub or a folder into a folder of ours."""

from __future__ import annotations

import errno
import json
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from captionapp.errors import PullFailed

#: What a checkpoint may consist of; nothing else is taken over from the hub or a folder.
CHECKPOINT_FILES = ("*.json", "*.safetensors", "*.txt", "*.md", "pytorch_model*.bin")
#: How long the hub may take to say what a model consists of.
HUB_SECONDS = 10.0

logger = logging.getLogger(__name__)

#: Files of a version that tell of it where it is, and not of a copy.
_NOT_TAKEN = frozenset({"version.json", "evaluation.json"})


def bring(source: str, folder: Path) -> None:
    """Copy the checkpoint ``source``, a folder or a name on the hub, into ``folder``, and have it
    caption once.

    Raises:
        PullFailed: with one sentence that says why it is none, or cannot be had.
        OSError: if it cannot be stored.
    """
    if Path(source).is_dir():
        _copy_checkpoint(Path(source), folder)
    else:
        _download(source, folder)
    _check(folder, source)


def _copy_checkpoint(source: Path, target: Path) -> None:
    for pattern in _wanted(file.name for file in source.iterdir()):
        for file in source.glob(pattern):
            if file.name not in _NOT_TAKEN:
                shutil.copyfile(file, target / file.name)


def _download(repo: str, target: Path) -> None:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    try:
        # Fails at once without a network, where the download would try again for half a minute.
        known = HfApi().model_info(repo, timeout=HUB_SECONDS)
        patterns = _wanted(file.rfilename for file in known.siblings or [])
        snapshot_download(repo, revision=known.sha, local_dir=target, allow_patterns=list(patterns))
    except HFValidationError as error:
        raise PullFailed(f"{repo} is neither a folder nor a name on the hub.") from error
    except GatedRepoError as error:
        raise PullFailed(f"{repo} asks for its terms to be accepted on the hub first.") from error
    except RepositoryNotFoundError as error:
        raise PullFailed(f"There is no model {repo} on the hub, or it is private.") from error
    except Exception as error:  # of the HTTP library, whichever the hub's client uses
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        logger.debug("%s could not be downloaded", repo, exc_info=True)
        raise PullFailed(
            f"{repo} could not be downloaded: the hub cannot be reached ({type(error).__name__})."
        ) from error
    shutil.rmtree(target / ".cache", ignore_errors=True)  # the download's own bookkeeping


def _wanted(names: Iterable[str]) -> tuple[str, ...]:
    """What to take of a checkpoint of these files: where there are safetensors, no pickles, which
    are the same weights once more, and less safe."""
    if any(name.endswith(".safetensors") for name in names):
        return tuple(pattern for pattern in CHECKPOINT_FILES if not pattern.endswith(".bin"))
    return CHECKPOINT_FILES


def _check(folder: Path, source: str) -> None:
    """A version must be able to caption before it is one."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = config.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise PullFailed(f"{source} holds no checkpoint: its config.json is missing.") from error
    if kind != "blip" or "BlipForConditionalGeneration" not in (config.get("architectures") or []):
        raise PullFailed(f"{source} is not a BLIP captioning model (its type is {kind}).")
    from PIL import Image

    from captionapp.captioning.blip import BlipCaptioner
    from captionapp.captioning.captioner import DecodeOptions
    from captionapp.errors import CaptionAppError

    try:
        captioner = BlipCaptioner.load(folder, Path(source).name)
        captioner.caption([Image.new("RGB", (32, 32), "grey")], DecodeOptions(max_new_tokens=5))
    except CaptionAppError as error:
        raise PullFailed(f"{source} does not work: {error}") from error
    except Exception as error:  # parts that do not fit each other fail anywhere in torch
        logger.debug("%s does not caption", source, exc_info=True)
        raise PullFailed(
            f"{source} loads, but makes no caption: its files do not fit each other."
        ) from error
