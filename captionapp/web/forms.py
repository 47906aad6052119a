"""The forms people send. Bounds of the domain are checked by the domain; these say them early."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask_babel import lazy_gettext
from flask_babel.speaklater import LazyString
from flask_wtf import FlaskForm
from flask_wtf.file import MultipleFileField
from wtforms import (
    DateField,
    HiddenField,
    IntegerField,
    SelectChoice,
    SelectField,
    SelectMultipleField,
    StringField,
    TextAreaField,
)
from wtforms.validators import (
    AnyOf,
    DataRequired,
    InputRequired,
    Length,
    NumberRange,
    Optional,
    Regexp,
)
from wtforms.widgets import CheckboxInput, ListWidget

from captionapp.arrivals import Ticket
from captionapp.captioning.captioner import (
    MAX_ALTERNATIVES,
    MAX_PROMPT_CHARACTERS,
    DecodeOptions,
)
from captionapp.feedback.filters import FeedbackFilter, Source
from captionapp.feedback.repository import Reason, Verdict
from captionapp.votes import Choice
from captionapp.web.language import locale
from captionapp.web.words import REASON_LABELS

MAX_CORRECTION_CHARACTERS = 1000

INCOMPLETE = lazy_gettext("The form is incomplete; send it again.")


def _one_line(text: str | None) -> str:
    """Words between single spaces; what cannot be printed is left out."""
    return " ".join("".join(c if c.isprintable() else " " for c in text or "").split())


class Form(FlaskForm):  # type: ignore[misc]
    """Ours, in the language of the page."""

    class Meta:
        @property
        def locales(self) -> list[str]:
            """Of what WTForms itself says, which it reads once for each language, and not, as
            Flask-WTF would, for each request."""
            return [locale().language, "en"]


_BATCH = [Optional(), Regexp("[0-9a-f]{32}$")]
_COUNT = [Optional(), NumberRange(0, 1_000_000)]


class UploadForm(Form):
    """``POST /captions``"""

    images = MultipleFileField(lazy_gettext("Pictures"))
    prompt = StringField(
        lazy_gettext("Beginning of the description"),
        validators=[
            Length(
                max=MAX_PROMPT_CHARACTERS,
                message=lazy_gettext("The beginning may have at most %(max)d characters."),
            )
        ],
    )
    address = StringField()
    example = StringField()
    # From a page that sends its pictures one by one: see ``Ticket``.
    batch = StringField(validators=_BATCH)
    place = IntegerField(validators=_COUNT)
    total = IntegerField(validators=_COUNT)

    def ticket(self) -> Ticket | None:
        """Where the one file of this form stands, if it is one of a batch."""
        if not self.batch.data:
            return None
        return Ticket(self.batch.data, self.place.data or 0, self.total.data or 0)


class CancelForm(Form):
    """``POST /captions/cancel``"""

    batch = StringField(validators=_BATCH)


class FeedbackForm(Form):
    """``POST /images/<image_id>/feedback``"""

    caption_id = HiddenField(validators=[DataRequired(INCOMPLETE)])
    verdict = HiddenField(
        validators=[
            AnyOf(
                [verdict.value for verdict in Verdict],
                message=lazy_gettext("Say whether the description is right or what it should be."),
            )
        ]
    )
    correction = TextAreaField(lazy_gettext("A better description"))
    reasons = SelectMultipleField(
        lazy_gettext("What was wrong with it? (optional)"),
        choices=[SelectChoice(reason.value, label) for reason, label in REASON_LABELS.items()],
        widget=ListWidget(prefix_label=False),
        option_widget=CheckboxInput(),
    )


class NextForm(FeedbackForm):
    """``POST /feedback/next``: an answer about a picture that this browser need not hold."""

    image_id = HiddenField(validators=[DataRequired(INCOMPLETE)])
    skip = IntegerField(default=0, validators=[Optional()])


def _choice(label: LazyString, choices: Mapping[str, LazyString]) -> SelectField:
    """One of these values, shown as their labels."""
    return SelectField(
        label,
        choices=[SelectChoice(value, shown) for value, shown in choices.items()],
        default="",
        validate_choice=False,  # its message names nothing
        validators=[
            AnyOf(
                list(choices),
                message=lazy_gettext("%(field)s: choose one of those in the list.", field=label),
            )
        ],
    )


class FilterForm(Form):
    """``GET /feedback`` and what else is about some of the answers; changes nothing."""

    class Meta:
        csrf = False

    verdict = _choice(
        lazy_gettext("Verdict"),
        {
            "": lazy_gettext("any"),
            Verdict.ACCEPTED.value: lazy_gettext("it is right"),
            Verdict.CORRECTED.value: lazy_gettext("corrected"),
        },
    )
    reason = _choice(
        lazy_gettext("Reason"),
        {"": lazy_gettext("any")} | {one.value: REASON_LABELS[one] for one in Reason},
    )
    # Its choices are the versions of the rows.
    version = SelectField(lazy_gettext("Version"), default="", validate_choice=False)
    source = _choice(
        lazy_gettext("Given by"),
        {
            "": lazy_gettext("anybody"),
            Source.PEOPLE.value: lazy_gettext("people here"),
            Source.IMPORT.value: lazy_gettext("an import"),
        },
    )
    text = StringField(
        lazy_gettext("Text"),
        validators=[Length(max=200, message=lazy_gettext("Look for at most %(max)d characters."))],
    )
    first = DateField(lazy_gettext("From"), validators=[Optional()])
    last = DateField(lazy_gettext("To"), validators=[Optional()])

    def chosen(self) -> FeedbackFilter:
        """The filter, once the form has been validated."""
        return FeedbackFilter(
            verdict=Verdict(self.verdict.data) if self.verdict.data else None,
            reason=Reason(self.reason.data) if self.reason.data else None,
            model_version=self.version.data or "",
            source=Source(self.source.data) if self.source.data else None,
            text=self.text.data or "",
            first=self.first.data,
            last=self.last.data,
        )

    def arguments(self) -> dict[str, str]:
        """What was asked for, as arguments of an address."""
        return {field.name: field.raw_data[0] for field in self if field.raw_data and field.data}


class ForceForm(Form):
    """``POST /models/<version>/promote`` with ``force``: over what the gate says, and why."""

    reason = TextAreaField(
        lazy_gettext("Why it should be served anyway"),
        validators=[
            DataRequired(lazy_gettext("Write why it is to be served although it was refused.")),
            Length(
                max=500, message=lazy_gettext("The reason may have at most %(max)d characters.")
            ),
        ],
        filters=[_one_line],
    )


class VoteForm(Form):
    """``POST /compare``"""

    image_id = HiddenField(validators=[DataRequired()])
    candidate = HiddenField(validators=[DataRequired()])
    mark = HiddenField(validators=[DataRequired()])
    choice = HiddenField(
        validators=[
            AnyOf(
                [choice.value for choice in Choice], message=lazy_gettext("Choose one of the four.")
            )
        ]
    )


class AskForm(Form):
    """``POST /images/<image_id>/describe``; what can be asked for is checked by the domain."""

    prompt = StringField(lazy_gettext("Begin with"))
    avoid = StringField(lazy_gettext("Words to avoid, between commas"))
    length = SelectField(
        lazy_gettext("Length"),
        choices=[
            SelectChoice("", lazy_gettext("as it comes")),
            SelectChoice("short", lazy_gettext("short")),
            SelectChoice("medium", lazy_gettext("longer")),
        ],
        default="",
        validate_choice=False,  # the domain says what lengths there are
    )
    alternatives = IntegerField(
        lazy_gettext("How many texts"),
        default=MAX_ALTERNATIVES,
        validators=[InputRequired(lazy_gettext("Say how many texts you want, as a number."))],
    )

    def wishes(self) -> dict[str, Any]:
        """What ``Settings.decode_options`` takes."""
        return {
            "prompt": self.prompt.data or "",
            "avoid": (self.avoid.data or "").split(","),
            "length": self.length.data or "",
            "alternatives": self.alternatives.data,
        }

    @classmethod
    def of(cls, options: DecodeOptions) -> AskForm:
        """The form as somebody filled it in who asked for these."""
        form = cls(formdata=None)
        form.prompt.data = options.prompt
        form.avoid.data = ", ".join(options.avoid)
        form.length.data = options.length
        if options.alternatives > 1:  # else the form suggests some
            form.alternatives.data = options.alternatives
        return form


def first_error(form: FlaskForm) -> str:
    """The first sentence that says what is wrong with a form that did not validate."""
    for messages in form.errors.values():
        for message in messages:
            return str(message)
    return str(INCOMPLETE)
