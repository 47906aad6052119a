"""Every setting once: its name, default, help and validation.

A field ``max_files`` is the environment variable ``CAPTIONAPP_MAX_FILES``; the same name in
``instance/config.py`` is the next place looked at, and the default below the last.
"""

from __future__ import annotations

import difflib
import logging
import os
import runpy
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import limits
from filelock import FileLock
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from captionapp import atomic
from captionapp.captioning.captioner import DecodeOptions
from captionapp.errors import InvalidOptions, InvalidSetting

PREFIX = "CAPTIONAPP_"
ROOT = Path(__file__).resolve().parent.parent

logger = logging.getLogger(__name__)


def _words(value: object) -> object:
    """Words between commas, as an environment variable has them."""
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    return value


def _rate(value: str) -> str:
    if value:
        limits.parse_many(value)  # ValueError: not the notation of the limits library
    return value


def _boolean_or_absent(value: object) -> object:
    """An empty environment variable means "no", as it does for most programs."""
    return False if value == "" else value


def _absolute(value: str) -> str:
    """A folder as it is seen from where the process was started; none stays none."""
    return str(Path(value).absolute()) if value else ""


Flag = Annotated[bool, BeforeValidator(_boolean_or_absent)]


class Settings(BaseModel):
    """The settings of one application, checked. Immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    instance: Annotated[
        Path, Field(description="Folder of uploads, feedback.csv, captionapp.db and models.")
    ] = ROOT / "instance"
    secret_key: Annotated[
        str, Field(description="Signs the cookies; made in the instance folder if empty.")
    ] = ""
    model: Annotated[
        str,
        Field(
            description="Folder or hub name of the checkpoint to serve; "
            "empty: the promoted version, else the shipped one."
        ),
    ] = ""

    max_file_mb: Annotated[
        int, Field(ge=1, le=1000, description="Megabytes (10^6 bytes) of one picture's file.")
    ] = 20
    max_megapixels: Annotated[int, Field(ge=1, le=500, description="Megapixels of a picture.")] = 50
    max_files: Annotated[int, Field(ge=1, le=500, description="Pictures in one request.")] = 32
    upload_quota_mb: Annotated[
        int, Field(ge=0, description="Megabytes that all stored pictures may take; 0: no limit.")
    ] = 10_000
    retention_days: Annotated[
        int,
        Field(ge=0, description="Days until an uploaded picture is let go; 0: never."),
    ] = 0
    undo_minutes: Annotated[
        int, Field(ge=1, le=1440, description="Minutes in which a deletion can be undone.")
    ] = 10
    rate_limit: Annotated[
        str,
        AfterValidator(_rate),
        Field(description="Uploads and answers from one address, per worker; empty: no limit."),
    ] = "120 per minute"

    fetch_addresses: Annotated[
        Flag,
        Field(description="Pictures may be given by their address; the server fetches them."),
    ] = False

    wait_seconds: Annotated[
        float,
        Field(ge=0, le=300, description="Seconds an upload of one picture waits for its caption."),
    ] = 30.0
    queue_size: Annotated[
        int, Field(ge=1, le=10_000, description="Captions that may wait in one worker.")
    ] = 64
    batch_size: Annotated[
        int, Field(ge=1, le=256, description="Pictures that the model captions at once.")
    ] = 8
    load_retry_seconds: Annotated[
        float, Field(ge=0, le=3600, description="Seconds from a failed load to the next try.")
    ] = 30.0
    torch_threads: Annotated[
        int, Field(ge=0, le=1024, description="Threads of a worker's model; 0: cores / workers.")
    ] = 0
    precision: Annotated[
        Literal["auto", "fp32", "fp16", "bf16", "mixed", "int8"],
        Field(
            description="Number format of the model; auto: the fastest on this processor in which "
            "it says what it says in fp32."
        ),
    ] = "auto"

    num_beams: Annotated[int, Field(description="Beams of the search, 1 to 8; 1 is greedy.")] = 3
    max_new_tokens: Annotated[
        int, Field(description="Tokens of a caption at most, 1 to 100, after the prompt.")
    ] = 30
    length_penalty: Annotated[
        float, Field(description="Above 0 favours longer captions, below 0 shorter; -5 to 5.")
    ] = 1.0
    repetition_penalty: Annotated[
        float, Field(description="1 is none; up to 5 makes a repeated word less likely.")
    ] = 1.0
    no_repeat_ngram_size: Annotated[
        int, Field(description="No run of so many tokens comes twice, 0 (off) to 10.")
    ] = 3
    bad_words: Annotated[
        tuple[str, ...],
        BeforeValidator(_words),
        Field(description="Words that a caption never contains, between commas."),
    ] = ("arafed", "araffe", "arafe")

    neutral: Annotated[
        Flag,
        Field(
            description="Descriptions are shown without guesses at gender, unless a browser "
            "chooses otherwise."
        ),
    ] = False
    correction_memory: Annotated[
        Literal["everyone", "own", "off"],
        Field(description="Whose corrections are shown when a picture comes again."),
    ] = "everyone"

    held_out_share: Annotated[
        float,
        Field(gt=0, lt=1, description="Share of the answered pictures that only judge versions."),
    ] = 0.2
    split_seed: Annotated[
        int, Field(description="Number that draws which pictures those are; settled ones stay.")
    ] = 0

    min_held_out: Annotated[
        int, Field(ge=1, description="Held-out corrections without which no version is proven.")
    ] = 20
    promote_probability: Annotated[
        float,
        Field(gt=0.5, le=1, description="Probability of being better that a promotion asks for."),
    ] = 0.95
    max_retained_loss: Annotated[
        float,
        Field(ge=0, le=1, description="Share of CIDEr on retained pictures that may be lost."),
    ] = 0.05
    min_retained: Annotated[
        int, Field(ge=1, description="Retained pictures without which nothing shows what was lost.")
    ] = 20
    max_accepted_loss: Annotated[
        float,
        Field(ge=0, le=1, description="Share of CIDEr on accepted pictures that may be lost."),
    ] = 0.5
    min_votes: Annotated[
        int,
        Field(
            ge=0, description="Blind votes for one of the two that a promotion asks for; 0: none."
        ),
    ] = 0
    retain: Annotated[
        str,
        AfterValidator(_absolute),
        Field(
            description="Imagefolder that trainings started from the page must not unlearn; "
            "versions that retained nothing are judged by it, too."
        ),
    ] = ""

    admin_password: Annotated[
        str, Field(description="Opens the operator's pages; they answer 404 without one.")
    ] = ""
    https: Annotated[
        Flag, Field(description="The site is served over HTTPS: secure cookies and HSTS.")
    ] = False
    proxies: Annotated[
        int, Field(ge=0, le=10, description="Reverse proxies whose X-Forwarded-* are trusted.")
    ] = 0
    workers: Annotated[
        int, Field(ge=1, le=256, description="Processes of gunicorn, each with its model.")
    ] = 1
    threads: Annotated[int, Field(ge=1, le=1024, description="Threads of a gunicorn worker.")] = 16
    log_format: Annotated[
        Literal["json", "text", "auto"],
        Field(description="Form of a log line; auto: text on a terminal, json elsewhere."),
    ] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="What is logged at least.")
    ] = "info"

    def threads_of_model(self) -> int:
        """Threads that torch may use in one worker, so that all workers together fit the cores."""
        return self.torch_threads or max(1, available_cores() // self.workers)

    def decode_options(
        self,
        prompt: str = "",
        alternatives: int = 1,
        avoid: Sequence[str] = (),
        length: str = "",
    ) -> DecodeOptions:
        """The decoding options of these settings, with what a person asks for.

        Raises:
            InvalidOptions: if that is more than can be asked for (see ``DecodeOptions``).
        """
        return DecodeOptions(
            num_beams=self.num_beams,
            max_new_tokens=self.max_new_tokens,
            length_penalty=self.length_penalty,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            prompt=prompt,
            bad_words=self.bad_words,
            alternatives=alternatives,
            avoid=tuple(avoid),
            length=length,
        )


def available_cores() -> int:
    """Cores that this process may use: fewer than the machine has, in many containers."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


#: Settings whose values are not shown.
SECRET = frozenset({"secret_key", "admin_password"})


def load(overrides: Mapping[str, Any] | None = None) -> tuple[Settings, dict[str, Any], list[str]]:
    """Settings from ``overrides`` over the environment over ``config.py`` over the defaults.

    Returns the settings, the other upper-case names of ``config.py`` and ``overrides`` (they are
    Flask's), and for each field, in order, where its value came from.

    Raises:
        InvalidSetting: with a sentence that names the setting and the value.
    """
    overrides = overrides or {}
    values, sources = _named(os.environ, "environment", strict=False)
    given, given_sources = _named(overrides, "create_app()", strict=True)
    values, sources = values | given, sources | given_sources

    instance = Path(values.get("instance") or Settings.model_fields["instance"].default).absolute()
    from_file = _config_file(instance)
    if f"{PREFIX}INSTANCE" in from_file:
        raise InvalidSetting(
            f"{PREFIX}INSTANCE cannot be set in config.py, which lies in that folder; "
            "set it in the environment."
        )
    filed, filed_sources = _named(from_file, "config.py", strict=True)
    values = filed | values | {"instance": instance}
    sources = filed_sources | sources

    settings = _validated(values)
    flask_config = {
        name: value
        for name, value in (from_file | dict(overrides)).items()
        if not name.startswith(PREFIX)
    }
    return settings, flask_config, [sources.get(name, "default") for name in Settings.model_fields]


def secret_key(settings: Settings) -> str:
    """The key that signs cookies: the setting, else one kept in the instance folder.

    Raises:
        InvalidSetting: if the instance folder cannot be written or the file is empty.
    """
    if settings.secret_key:
        return settings.secret_key
    path = settings.instance / "secret_key"
    try:
        with FileLock(f"{path}.lock"):  # several workers make their first start together
            if not path.exists():
                atomic.write(path, secrets.token_hex(32).encode(), mode=0o600)
            key = path.read_text().strip()
    except OSError as error:
        raise InvalidSetting(
            f"CAPTIONAPP_INSTANCE: {settings.instance} cannot be used ({error.strerror or error})."
        ) from error
    if not key:
        raise InvalidSetting(f"{path} is empty; delete it and a new key is made.")
    return key


def _named(
    given: Mapping[str, Any], source: str, *, strict: bool
) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings among ``given``, by field name, and the source of each.

    A name that is no setting is an error where the place is ours, and a warning in the environment,
    which others write too.
    """
    values, sources = {}, {}
    for name, value in given.items():
        if not name.startswith(PREFIX):
            continue
        field = name.removeprefix(PREFIX).lower()
        if field not in Settings.model_fields:
            message = f"{name} ({source}) is not a setting{_suggestion(field)}."
            if strict:
                raise InvalidSetting(message)
            logger.warning(message)
            continue
        values[field] = value
        sources[field] = f"environment {name}" if source == "environment" else source
    return values, sources


def _suggestion(field: str) -> str:
    near = difflib.get_close_matches(field, Settings.model_fields, n=1)
    return f"; did you mean {PREFIX}{near[0].upper()}?" if near else ""


def _config_file(instance: Path) -> dict[str, Any]:
    path = instance / "config.py"
    if not path.exists():
        return {}
    try:
        names = runpy.run_path(str(path))
    except Exception as error:  # the file is Python, so anything may be raised by it
        raise InvalidSetting(f"{path} cannot be read: {error}") from error
    return {name: value for name, value in names.items() if name.isupper()}


def _validated(values: dict[str, Any]) -> Settings:
    try:
        settings = Settings.model_validate(values)
        settings.decode_options()  # its bounds are the bounds of the settings it is made of
        if settings.queue_size < settings.max_files:
            raise InvalidSetting(
                f"CAPTIONAPP_QUEUE_SIZE is {settings.queue_size}: less than CAPTIONAPP_MAX_FILES "
                f"({settings.max_files}), so that many pictures could never be sent together."
            )
        return settings
    except InvalidOptions as error:
        raise InvalidSetting(f"{PREFIX}{error.option.upper()}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        value = "that value" if field in SECRET else repr(values[field])
        raise InvalidSetting(
            f"{PREFIX}{field.upper()} is {value}: {first['msg']}. "
            f"({Settings.model_fields[field].description})"
        ) from error
