"""What of the gallery is asked for, as it stands in an address."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import request
from flask_babel import lazy_gettext
from flask_babel.speaklater import LazyString
from flask_wtf import FlaskForm
from wtforms import DateField, HiddenField, SelectChoice, SelectField, StringField
from wtforms.validators import AnyOf, Length, Optional

from captionapp.gallery import Sort, State, Wanted

STATES: Mapping[str, LazyString] = {
    "": lazy_gettext("All"),
    State.UNANSWERED.value: lazy_gettext("Unanswered"),
    State.ACCEPTED.value: lazy_gettext("Confirmed"),
    State.CORRECTED.value: lazy_gettext("Corrected"),
}
SORTS: Mapping[str, LazyString] = {
    Sort.NEWEST.value: lazy_gettext("newest first"),
    Sort.OLDEST.value: lazy_gettext("oldest first"),
    Sort.LEAST_SURE.value: lazy_gettext("least sure first"),
    Sort.NAME.value: lazy_gettext("by name"),
}
#: Beside the fields of the form, what an address says of the page that is shown: its cursor, or the
#: picture whose form is open, and the one before that.
PLACE = ("after", "before", "at", "back")


class WantedForm(FlaskForm):  # type: ignore[misc]
    """``GET /history`` and what else is about some of the pictures; changes nothing."""

    class Meta:
        csrf = False

    text = StringField(
        lazy_gettext("Words of the description or name"),
        validators=[Length(max=200, message=lazy_gettext("Look for at most %(max)d characters."))],
    )
    verdict = HiddenField(
        default="",
        validators=[
            Optional(),
            AnyOf(list(STATES), message=lazy_gettext("There is no such verdict.")),
        ],
    )
    sort = SelectField(
        lazy_gettext("Order"),
        choices=[SelectChoice(value, label) for value, label in SORTS.items()],
        default=Sort.NEWEST.value,
        validate_choice=False,
        validators=[AnyOf(list(SORTS), message=lazy_gettext("There is no such order."))],
    )
    first = DateField(lazy_gettext("From"), validators=[Optional()])
    last = DateField(lazy_gettext("To"), validators=[Optional()])

    def chosen(self) -> Wanted:
        """What is wanted, once the form has been validated."""
        return Wanted(
            text=self.text.data or "",
            state=State(self.verdict.data) if self.verdict.data else None,
            first=self.first.data,
            last=self.last.data,
            sort=Sort(self.sort.data),
        )

    def arguments(self, **others: str) -> dict[str, Any]:
        """What was asked for, as arguments of an address; ``others`` replace some of it."""
        given = {field.name: field.raw_data[0] for field in self if field.raw_data and field.data}
        if given.get("sort") == Sort.NEWEST:
            del given["sort"]
        return {name: value for name, value in (given | others).items() if value}


def asked() -> WantedForm:
    """The form as the address fills it in."""
    return WantedForm(request.args)


def place() -> dict[str, str]:
    """The page of the gallery that the address names."""
    return {name: request.args[name] for name in PLACE if name in request.args}
