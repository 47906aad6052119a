"""The forms people send. Bounds of the domain are checked by the domain; these say them early."""

from __future__ import annotations

from flask_wtf import FlaskForm
from flask_wtf.file import MultipleFileField
from wtforms import (
    HiddenField,
    SelectChoice,
    SelectMultipleField,
    StringField,
    TextAreaField,
)
from wtforms.validators import AnyOf, DataRequired, Length
from wtforms.widgets import CheckboxInput, ListWidget

from captionapp.captioning.captioner import MAX_PROMPT_CHARACTERS
from captionapp.feedback.repository import Reason, Verdict

MAX_CORRECTION_CHARACTERS = 1000

REASON_LABELS = {
    Reason.INACCURATE: "inaccurate",
    Reason.ASSUMPTIVE: "assumes too much",
    Reason.MISSING_DETAILS: "misses details",
    Reason.TOO_LONG: "too long",
    Reason.HARD_TO_READ: "hard to read",
    Reason.WRONG_TONE: "wrong tone",
}


class UploadForm(FlaskForm):  # type: ignore[misc]
    """``POST /captions``"""

    images = MultipleFileField("Pictures")
    prompt = StringField(
        "Beginning of the description",
        validators=[
            Length(
                max=MAX_PROMPT_CHARACTERS,
                message="The beginning may have at most %(max)d characters.",
            )
        ],
    )


class FeedbackForm(FlaskForm):  # type: ignore[misc]
    """``POST /images/<image_id>/feedback``"""

    caption_id = HiddenField(validators=[DataRequired("The form is incomplete; send it again.")])
    verdict = HiddenField(
        validators=[
            AnyOf(
                [verdict.value for verdict in Verdict],
                message="Say whether the description is right or what it should be.",
            )
        ]
    )
    correction = TextAreaField("A better description")
    reasons = SelectMultipleField(
        "What was wrong with it? (optional)",
        choices=[SelectChoice(reason.value, label) for reason, label in REASON_LABELS.items()],
        widget=ListWidget(prefix_label=False),
        option_widget=CheckboxInput(),
    )


class ButtonForm(FlaskForm):  # type: ignore[misc]
    """A button that changes something: no fields but the CSRF token."""


def first_error(form: FlaskForm) -> str:
    """The first sentence that says what is wrong with a form that did not validate."""
    for messages in form.errors.values():
        for message in messages:
            return str(message)
    return "The form is incomplete; send it again."
