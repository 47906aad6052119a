"""The web face: blueprints, forms, error pages and headers around the domain's ``Workflow``."""

from __future__ import annotations

from datetime import timedelta

from flask import Flask
from flask_wtf.csrf import CSRFProtect
from werkzeug.middleware.proxy_fix import ProxyFix

from captionapp.settings import Settings
from captionapp.web import (
    about,
    asking,
    compare,
    describing,
    errors,
    events,
    feedback,
    headers,
    health,
    history,
    insights,
    intake,
    language,
    limits,
    models,
    operator,
    pictures,
    presenting,
    training,
    upload,
    words,
)


def register(app: Flask) -> None:
    """Adds the pages to an application that is configured and has its ``Workflow``."""
    settings: Settings = app.extensions["captionapp"].settings
    if settings.proxies:
        n = settings.proxies
        app.wsgi_app = ProxyFix(app.wsgi_app, n, n, n)  # type: ignore[method-assign]
    headers.init_app(app, settings)
    language.init_app(app, settings)
    # The order of these matters: requests are counted, their type is looked at, and the operator's
    # password is asked for, before the CSRF check reads the body.
    limits.init_app(app, settings)
    operator.init_app(app)
    CSRFProtect(app)
    errors.init_app(app)
    presenting.init_app(app)
    words.init_app(app)
    app.jinja_env.globals["is_operator"] = operator.is_operator
    events.init_app(app, settings.threads)
    for module in (
        *(upload, intake, pictures, describing, feedback, history, about, health),
        *(asking, insights, training, models, compare),  # for the operator
    ):
        app.register_blueprint(module.blueprint)


def configure(app: Flask, settings: Settings) -> None:
    """Flask's own settings that follow from ours: cookies, CSRF, and the bounds of a request."""
    app.config.update(
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=settings.https,
        # Answers for pictures must not send the session again: arriving late, an old copy would
        # bring back messages that were read already.
        SESSION_REFRESH_EACH_REQUEST=False,
        PERMANENT_SESSION_LIFETIME=timedelta(days=365),
        WTF_CSRF_TIME_LIMIT=24 * 3600,
        WTF_I18N_ENABLED=False,  # forms.Form has it
        MAX_CONTENT_LENGTH=settings.max_files * settings.max_file_mb * 1_000_000 + 1_000_000,
        # More files than the limit reach the form, which names the limit; far more do not.
        MAX_FORM_PARTS=2 * settings.max_files + 50,
        MAX_FORM_MEMORY_SIZE=100_000,
    )
