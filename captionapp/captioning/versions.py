"""The versions of the model: shipped, pulled, trained, or named by a setting; which is current."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from captionapp import atomic
from captionapp.captioning import pulling
from captionapp.captioning.pointer import Pointer, PointerChange
from captionapp.errors import ModelUnavailable, PullFailed, UnknownVersion
from captionapp.sentences import Sentence

logger = logging.getLogger(__name__)

_METADATA = "version.json"
_POINTER = "current.json"
_SHIPPED = "shipped-"
#: A pull that has not finished after this time was killed.
_ABANDONED_SECONDS = 24 * 3600


@dataclass(frozen=True)
class ModelVersion:
    """A version that never changes once it is there.

    ``origin`` is ``shipped``, ``pulled``, ``trained``, ``local`` (a folder named by the setting) or
    ``hub cache``; ``source`` says where it came from. ``created_at`` is ISO 8601 in UTC.
    ``details`` say how a trained one was made: its parent, configuration, data, figures.
    """

    name: str
    folder: Path
    origin: str
    created_at: str
    source: str = ""
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def parent(self) -> str:
        """The version that it was trained from, or what it was pulled from; else empty."""
        return str(self.details.get("parent") or (self.source if self.origin == "pulled" else ""))


class ModelVersions:
    """Versions in ``models_folder`` (``instance/models``), the shipped one, and the setting's.

    ``model_setting`` is ``CAPTIONAPP_MODEL``: a folder or a hub name, or empty.
    """

    def __init__(self, models_folder: Path, shipped_folder: Path, model_setting: str = "") -> None:
        self.models_folder = models_folder
        self.shipped_folder = shipped_folder
        self.model_setting = model_setting
        self.pointer = Pointer(models_folder / _POINTER)
        self._hashes: dict[tuple[Path, int, int], str] = {}
        self._from_cache: ModelVersion | None = None
        self._unreadable: set[Path] = set()

    def current(self) -> ModelVersion:
        """What is to be served: the setting's, else the pointer's, else the shipped one.

        Cheap enough to ask often: weights are hashed once per change of the file.

        Raises:
            ModelUnavailable: if that is not there.
        """
        if self.model_setting:
            return self._named_by_setting(self.model_setting)
        change = self.pointer.last()
        if change is None:
            return self.shipped()
        try:
            return self.get(self.successor(change.version))
        except UnknownVersion as error:
            raise ModelUnavailable(
                Sentence("The current version is gone: %(why)s", why=error.message)
            ) from error

    def set_current(
        self,
        name: str,
        previous: str = "",
        reason: str = "",
        *,
        forced: bool = False,
        expected: str | None = None,
    ) -> PointerChange:
        """Point to this version from now on, atomically; ``Pointer.move`` says the rest.

        Raises:
            UnknownVersion: if there is none of this name.
            PointerMoved: if ``expected`` is not what the pointer names.
        """
        self.get(name)
        return self.pointer.move(
            name, previous, reason, forced, expected=expected, check=lambda: self.get(name)
        )

    def shipped(self) -> ModelVersion:
        """The version that comes with the application.

        Raises:
            ModelUnavailable: if the folder holds no weights.
        """
        return self._of_folder(self.shipped_folder, _SHIPPED.rstrip("-"), "shipped")

    def list(self) -> Sequence[ModelVersion]:
        """The shipped version, then those in the instance folder, oldest first."""
        found = []
        for metadata in self.models_folder.glob(f"*/{_METADATA}"):
            if metadata.parent.name.startswith("."):  # under way, or left over
                continue
            version = self._read(metadata)
            if version is not None:
                found.append(version)
        found.sort(key=lambda version: (version.created_at, version.name))
        return [*self._shipped_if_there(), *found]

    def list_with_current(self) -> Sequence[ModelVersion]:
        """``list``, and after them the current version if the setting names one that lies
        elsewhere."""
        versions = [*self.list()]
        with suppress(ModelUnavailable):
            current = self.current()
            if current.name not in [version.name for version in versions]:
                versions.append(current)
        return versions

    def _read(self, metadata: Path) -> ModelVersion | None:
        try:
            return _read_metadata(metadata)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if metadata not in self._unreadable:  # the others can be served; say it once
                self._unreadable.add(metadata)
                logger.warning("%s cannot be read and is passed over: %r", metadata, error)
            return None

    def get(self, name: str) -> ModelVersion:
        """The version of this name.

        Raises:
            UnknownVersion: if there is none.
        """
        for version in self._shipped_if_there():
            if version.name == name:
                return version
        if name and not name.startswith(".") and not set("/\\") & set(name):
            version_if_whole = self._read(self.models_folder / name / _METADATA)
            if version_if_whole is not None:
                return version_if_whole
        raise UnknownVersion(
            f"There is no version {name}; `flask model list` shows those there are."
        )

    def successor(self, name: str) -> str:
        """The name, or that of the shipped version if it was shipped and an upgrade replaced it.

        Raises:
            UnknownVersion: if it is gone otherwise.
        """
        try:
            return self.get(name).name
        except UnknownVersion:
            if name.startswith(_SHIPPED):
                return self.shipped().name
            raise

    def model_card(self, version: ModelVersion) -> str:
        """The README.md of the version; empty if it has none."""
        try:
            return (version.folder / "README.md").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return ""

    def pull(self, source: str) -> ModelVersion:
        """Bring a BLIP captioning checkpoint from the hub, or copy it from a folder.

        It is made under a temporary name, loaded once, and renamed when whole. Pulling the same
        weights again gives the version that is there.

        Raises:
            PullFailed: with one sentence that says why.
        """
        self.models_folder.mkdir(parents=True, exist_ok=True)
        self._remove_abandoned()
        temporary = Path(tempfile.mkdtemp(dir=self.models_folder, prefix=".pull-"))
        try:
            pulling.bring(source, temporary)
            return self._keep(temporary, source)
        except OSError as error:
            raise PullFailed(f"{source} could not be stored: {error.strerror or error}.") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def add_trained(self, folder: Path, name: str, details: Mapping[str, Any]) -> ModelVersion:
        """Make a version of a complete checkpoint, which moves here from ``folder``.

        It is there with all its files, version.json the last of them, or not at all, whatever is
        killed; ``folder`` must be on the same file system. ``details["parent"]`` is the version
        that it was made from.

        Raises:
            OSError: if it cannot be stored.
        """
        self.models_folder.mkdir(parents=True, exist_ok=True)
        target = self.models_folder / name
        version = ModelVersion(name, target, "trained", _now(), str(details["parent"]), details)
        for file in folder.iterdir():
            with file.open("r+b") as stream:  # a power cut must not leave less than the name says
                os.fsync(stream.fileno())
        _write_metadata(folder, version)
        os.replace(folder, target)
        return version

    def _remove_abandoned(self) -> None:
        for folder in self.models_folder.glob(".pull-*"):
            if time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)

    def _keep(self, temporary: Path, source: str) -> ModelVersion:
        base = re.sub(r"[^a-z0-9.-]+", "-", Path(source).name.lower()).strip("-.") or "model"
        name = f"{base}-{self._weights_hash(temporary)}"
        folder = self.models_folder / name
        if (folder / _METADATA).exists():
            return _read_metadata(folder / _METADATA)
        version = ModelVersion(name, folder, "pulled", _now(), source)
        _write_metadata(temporary, version)
        os.chmod(temporary, 0o755)  # mkdtemp makes it 0700
        os.replace(temporary, folder)
        return version

    def _named_by_setting(self, setting: str) -> ModelVersion:
        if Path(setting).is_dir():
            folder = Path(setting).resolve()
            return self._of_folder(folder, folder.name, "local")
        newest_first = [*reversed(self.list())]
        for version in newest_first:
            if setting == version.name:
                return version
        for version in newest_first:
            # The source of a trained version is its parent, which is somebody else.
            if version.origin == "pulled" and setting == version.source:
                return version
        if self._from_cache is None:
            self._from_cache = _in_hub_cache(setting)
        return self._from_cache

    def _of_folder(self, folder: Path, name: str, origin: str) -> ModelVersion:
        try:
            suffix = self._weights_hash(folder)
            made = datetime.fromtimestamp(_weights(folder)[0].stat().st_mtime, UTC)
        except OSError as error:
            raise ModelUnavailable(
                Sentence("%(folder)s holds no checkpoint: %(why)s", folder=folder, why=str(error))
            ) from error
        return ModelVersion(f"{name}-{suffix}", folder, origin, _iso(made), str(folder))

    def _shipped_if_there(self) -> Sequence[ModelVersion]:
        try:
            return [self.shipped()]
        except ModelUnavailable:
            return []

    def _weights_hash(self, folder: Path) -> str:
        """First 8 hex digits of the SHA-256 of the weights: the same name is the same model."""
        digest = hashlib.sha256()
        for file in _weights(folder):
            status = file.stat()
            key = (file, status.st_size, status.st_mtime_ns)
            if key not in self._hashes:
                with file.open("rb") as stream:
                    self._hashes[key] = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(self._hashes[key].encode())
        return digest.hexdigest()[:8]


def _weights(folder: Path) -> list[Path]:
    """The files that hold the weights: safetensors, else PyTorch's.

    Raises:
        FileNotFoundError: if there are none.
    """
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise FileNotFoundError("there is no model.safetensors in it")
    return files


def _in_hub_cache(repo: str) -> ModelVersion:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        # The configuration alone is asked for: weights of other frameworks may well be missing.
        folder = Path(
            snapshot_download(repo, local_files_only=True, allow_patterns=["config.json"])
        )
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise ModelUnavailable(
            f"CAPTIONAPP_MODEL is {repo}, which is neither a folder nor a pulled or cached model. "
            f"`flask model pull {repo}` brings one from the hub."
        ) from error
    revision = folder.name  # the commit
    made = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
    name = f"{repo.rsplit('/', 1)[-1].lower()}-{revision[:8]}"
    return ModelVersion(name, folder, "hub cache", _iso(made), repo)


def _read_metadata(path: Path) -> ModelVersion:
    described = json.loads(path.read_text(encoding="utf-8"))
    return ModelVersion(
        name=path.parent.name,
        folder=path.parent,
        origin=str(described["origin"]),
        created_at=str(described["created_at"]),
        source=str(described.get("source", "")),
        details=dict(described.get("details") or {}),
    )


def _write_metadata(folder: Path, version: ModelVersion) -> None:
    described = {key: value for key, value in asdict(version).items() if key != "folder"}
    content = json.dumps(described, indent=2, ensure_ascii=False).encode()
    atomic.write(folder / _METADATA, content)


def _now() -> str:
    return _iso(datetime.now(UTC))


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
