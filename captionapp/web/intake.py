"""What a page that sends its pictures one by one asks for: how they are getting on, and to stop.

JSON for the script of the first page; docs/intake.md says what is in it. A browser is told of its
own pictures only.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, abort, flash, jsonify, redirect, request, url_for
from flask.typing import ResponseReturnValue
from flask_babel import gettext, ngettext

from captionapp.arrivals import Arrival, each_once
from captionapp.results import PictureView
from captionapp.web import identity
from captionapp.web.current import workflow
from captionapp.web.errors import prefers_json
from captionapp.web.forms import CancelForm, first_error
from captionapp.web.language import translated
from captionapp.web.presenting import description_of, hint_of

blueprint = Blueprint("intake", __name__, url_prefix="/captions")

#: Pictures that one question may be about: their ids have to fit into an address.
MAX_ASKED = 64


@blueprint.get("/status")
def status() -> ResponseReturnValue:
    """``?image=ID&image=ID``: those pictures; else this browser's last batch, in its order."""
    viewer = identity.contributor()
    asked = request.args.getlist("image")
    if len(asked) > MAX_ASKED:
        abort(400)
    if asked:
        found = workflow().pictures_of(asked, viewer)
        return jsonify(pictures=[card(image_id, found.get(image_id), viewer) for image_id in asked])
    arrivals = workflow().arrivals.newest(viewer)
    found = workflow().pictures_of([one.image_id for one in arrivals if one.image_id], viewer)
    total = max((one.ticket.total for one in arrivals), default=0)
    return jsonify(
        batch=arrivals[0].ticket.batch if arrivals else None,
        missing=max(0, total - len(arrivals)),
        pictures=[
            _arrived(one, found, viewer)
            for one in each_once(arrivals)
            if one.image_id or one.problem
        ],
    )


@blueprint.post("/cancel")
def cancel() -> ResponseReturnValue:
    """Drops what this browser waits for and has not been begun, of one batch or of all."""
    form = CancelForm()
    if not form.validate_on_submit():
        abort(422, first_error(form))
    dropped = workflow().cancel(identity.contributor(), form.batch.data or "")
    if prefers_json():
        return jsonify(cancelled=dropped)
    message = ngettext(
        "%(num)d description was cancelled.", "%(num)d descriptions were cancelled.", len(dropped)
    )
    flash(message if dropped else gettext("Nothing was waiting any more."), "done")
    return redirect(url_for("history.show"), 303)


def card(image_id: str, view: PictureView | None, viewer: str) -> dict[str, Any]:
    """What the card of a picture says; ``view`` is None if this browser does not hold it."""
    if view is None:
        return {"image_id": image_id, "status": "gone"}
    status = view.status
    if status == "waiting":
        status = "describing" if view.ahead is None else "queued"
    description = description_of(view, viewer)
    said = description and {
        "text": description.text,
        "source": description.source,
        "label": description.label,
        "checked": description.checked,
    }
    return {
        "image_id": image_id,
        "name": view.name,
        "status": status,
        "ahead": view.ahead,
        "problem": translated(view.problem),
        "hint": hint_of(view, description),
        "description": said,
        "url": url_for("pictures.show", image_id=image_id),
        "thumbnail": url_for("pictures.thumbnail", image_id=image_id),
    }


def _arrived(arrival: Arrival, found: dict[str, PictureView], viewer: str) -> dict[str, Any]:
    place = {"place": arrival.ticket.place}
    if arrival.image_id is None:
        problem = translated(arrival.problem)
        return place | {"name": arrival.name, "status": "refused", "problem": problem}
    return place | card(arrival.image_id, found.get(arrival.image_id), viewer)
