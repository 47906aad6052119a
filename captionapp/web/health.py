"""For machines: alive, ready, and the numbers. Nothing here knows who asks."""

from __future__ import annotations

import math

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue

from captionapp.web.current import workflow

blueprint = Blueprint("health", __name__)

LOADING_RETRY_SECONDS = 2


@blueprint.get("/healthz")
def healthz() -> Response:
    """The process answers. Says nothing of the model, so that a slow load restarts nobody."""
    return Response("ok\n", mimetype="text/plain")


@blueprint.get("/readyz")
def readyz() -> ResponseReturnValue:
    """200 once a caption can be made; until then 503, and the load starts if nothing has."""
    service = workflow().service
    if service.ready():
        return jsonify(model_version=service.captioner().model_version)
    state, failure = service.state, service.failure
    if state != "loading":
        service.start_loading()
    if state == "failed" and failure is not None:
        return _unavailable(str(failure), failure.retry_after)
    return _unavailable("The model is being loaded.", LOADING_RETRY_SECONDS)


@blueprint.get("/metrics")
def metrics() -> Response:
    """Prometheus. Open like the others: a proxy in front should keep it private."""
    text, content_type = workflow().metrics.render(request.headers.get("Accept", ""))
    return Response(text, content_type=content_type)


def _unavailable(reason: str, retry_after: float) -> ResponseReturnValue:
    return jsonify(reason=reason), 503, {"Retry-After": str(max(1, math.ceil(retry_after)))}
