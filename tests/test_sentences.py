"""English sentences that keep what they are made of, in memory and in the database."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from captionapp.errors import CaptionAppError
from captionapp.sentences import Sentence, packed, unpacked
from captionapp.tables import ArrivalRow


def test_a_sentence_is_text_wherever_text_is_wanted():
    said = Sentence("At most %(most)s files.", most=3)
    assert said == "At most 3 files." and f"{said}" == "At most 3 files."
    assert str(CaptionAppError(said)) == "At most 3 files."
    assert CaptionAppError(said).message is said
    assert Sentence("Nothing fills 100 %.") == "Nothing fills 100 %."


@pytest.mark.parametrize(
    "said",
    [
        Sentence("It is full."),
        Sentence("%(a)s and %(b)s", a=1.5, b=2),
        Sentence("This is %(kind)s.", kind=Sentence("a file of %(mb)s MB", mb=3)),
    ],
)
def test_what_was_packed_is_what_is_unpacked(said):
    again = unpacked(packed(said))
    assert again == said
    if said.parameters:
        assert isinstance(again, Sentence)
        assert (again.template, again.parameters) == (said.template, said.parameters)


def test_text_of_an_older_release_stays_as_it_is():
    assert unpacked('{"a": 1}') == '{"a": 1}'


def test_a_problem_in_the_database_is_still_a_sentence(workflow):
    said = Sentence("The file has more than %(most)s MB.", most=20)
    row = {"contributor": "me", "batch": "b", "total": 1, "fresh": False, "created_at": 0.0}
    with workflow.records.write() as session:
        session.add(ArrivalRow(**row, place=0, image_id=None, name="a.png", problem=said))
        session.add(ArrivalRow(**row, place=1, image_id=None, name="b.png", problem="plain"))
    with workflow.records.read() as session:
        first, second = session.scalars(select(ArrivalRow).order_by(ArrivalRow.place))
        assert first.problem == said and first.problem.template == said.template
        assert second.problem == "plain"
