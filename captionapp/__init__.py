"""captionapp: describes pictures with BLIP and learns from the people who correct it.

Imports stand inside the functions so that a domain module, ``captionapp.images`` say, can be used
without Flask being loaded for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from flask import Flask

    from captionapp.captioning.captioner import Captioner
    from captionapp.captioning.versions import ModelVersion
    from captionapp.records import Records
    from captionapp.settings import Settings
    from captionapp.workflow import Workflow

__version__ = "0.1.0"


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """The application.

    ``config`` overrides every other source of settings: ``CAPTIONAPP_...`` names are ours, the rest
    are Flask's. Nothing is loaded here: torch is imported when a model is first asked for.

    Raises:
        InvalidSetting: with a sentence that names the setting.
    """
    from flask import Flask

    from captionapp import cli, logs, settings, web

    chosen, flask_config, sources = settings.load(config)
    _make_instance(chosen)
    app = Flask(
        __name__,
        instance_path=str(chosen.instance),
        root_path=str(settings.ROOT),
        template_folder="templates",
        static_folder="static",
        static_url_path=f"/static/{_fingerprint(settings.ROOT / 'static')}",
    )
    app.config["SECRET_KEY"] = settings.secret_key(chosen)
    app.config["SETTINGS_SOURCES"] = sources
    web.configure(app, chosen)
    app.config.update(flask_config)
    logs.configure(chosen)
    app.extensions["captionapp"] = _workflow(chosen)
    logs.init_app(app)
    web.register(app)
    cli.register(app)
    return app


def _fingerprint(folder: Path) -> str:
    """Eight hex digits, others as soon as any file in it is another. Part of the addresses of all:
    what a script imports is found beside it, and everything can be cached for good."""
    import hashlib

    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def _make_instance(chosen: Settings) -> None:
    from captionapp.errors import InvalidSetting

    try:
        chosen.instance.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSetting(
            f"CAPTIONAPP_INSTANCE: {chosen.instance} cannot be used ({error.strerror or error})."
        ) from error


def _records(path: Path) -> Records:
    from sqlalchemy.exc import SQLAlchemyError

    from captionapp.errors import InvalidSetting
    from captionapp.records import Records

    try:
        return Records(path)
    except (OSError, SQLAlchemyError) as error:
        reason = getattr(error, "orig", None) or error
        raise InvalidSetting(f"CAPTIONAPP_INSTANCE: {path} cannot be used ({reason}).") from error


def _workflow(chosen: Settings) -> Workflow:
    from captionapp.captioning.batching import CaptionQueue
    from captionapp.captioning.service import ModelService
    from captionapp.captioning.versions import ModelVersions
    from captionapp.feedback.repository import CsvFeedbackRepository
    from captionapp.image_store import ImageStore
    from captionapp.job_records import JobRecords
    from captionapp.metrics import Metrics
    from captionapp.settings import ROOT
    from captionapp.workflow import Workflow

    def load_captioner(version: ModelVersion) -> Captioner:
        from captionapp.captioning.blip import BlipCaptioner, EngineOptions  # imports torch

        options = EngineOptions(chosen.threads_of_model(), chosen.precision, instance / "engine")
        with metrics.model_load(version.name):
            return BlipCaptioner.load(version.folder, version.name, options)

    fetcher = None
    if chosen.fetch_addresses:
        from captionapp.addresses import PictureFetcher  # imports an HTTP client

        # Each holds a thread of the server while the other side takes its time.
        fetcher = PictureFetcher(chosen.max_file_mb * 1_000_000, max(1, chosen.threads // 4))
    metrics = Metrics()
    instance = chosen.instance
    versions = ModelVersions(instance / "models", ROOT / "fine-tuned-model", chosen.model)
    service = ModelService(versions, load_captioner, chosen.load_retry_seconds)
    records = _records(instance / "captionapp.db")
    job_records = JobRecords(records)
    return Workflow(
        settings=chosen,
        records=records,
        job_records=job_records,
        store=ImageStore(instance / "uploads", chosen.upload_quota_mb * 1_000_000),
        feedback=CsvFeedbackRepository(instance / "feedback.csv"),
        versions=versions,
        service=service,
        queue=CaptionQueue(
            service, chosen.queue_size, chosen.batch_size, metrics, job_records.take
        ),
        metrics=metrics,
        fetcher=fetcher,
    )
