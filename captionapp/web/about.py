"""The model card of the version being served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, render_template
from flask_babel import gettext, lazy_gettext
from flask_babel.speaklater import LazyString
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from captionapp.errors import CaptionAppError
from captionapp.web.current import workflow
from captionapp.web.language import translated

blueprint = Blueprint("about", __name__)

#: Fields of a model card's front matter that tell a reader something.
SHOWN_FIELDS: Mapping[str, LazyString] = {
    "license": lazy_gettext("License"),
    "language": lazy_gettext("Language"),
    "base_model": lazy_gettext("Made from"),
    "datasets": lazy_gettext("Trained on"),
    "pipeline_tag": lazy_gettext("Task"),
}


@blueprint.get("/about")
def show() -> str:
    try:
        version = workflow().versions.current()
        card = workflow().versions.model_card(version)
    except CaptionAppError as error:
        return render_template("about.html", version=None, problem=translated(error))
    fields, body = split_front_matter(card)
    return render_template("about.html", version=version, fields=fields, card=render_markdown(body))


def split_front_matter(card: str) -> tuple[list[tuple[str, str]], str]:
    """The telling fields of the YAML between ``---`` lines, and the text below it."""
    if not card.startswith("---"):
        return [], card
    from huggingface_hub import ModelCard  # slow to import, and needed on this page only

    try:
        parsed = ModelCard(card, ignore_metadata_errors=True)
        data: Mapping[str, Any] = parsed.data.to_dict()  # type: ignore[no-untyped-call]
    except Exception:  # whatever a broken front matter raises, the text below it is still good
        _, _, body = card.removeprefix("---").partition("\n---")
        return [], body or card
    fields = [(str(label), _joined(data.get(name))) for name, label in SHOWN_FIELDS.items()]
    return [(label, value) for label, value in fields if value], parsed.text


def _joined(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(one) for one in value)
    return "" if value is None else str(value)


def render_markdown(text: str) -> Markup:
    """Markdown as HTML that can do no harm: raw HTML shows as text, pictures are left out.

    Headings move below the page's own ``h1``; links that lead to files beside the card, which are
    not served, are plain text.
    """
    markdown = MarkdownIt("js-default", {"linkify": False}).disable("image")
    tokens = markdown.parse(text)
    _lower_headings(tokens)
    _name_cells(tokens)
    for token in tokens:
        if token.children:
            _unlink_relative(token.children)
    html = markdown.renderer.render(tokens, markdown.options, {})
    # Tables scroll on narrow screens; a scrolling region has to be reachable by keyboard.
    before, *tables = html.split("<table>")
    for number, rest in enumerate(tables, start=1):
        label = f"{gettext('Table')} {number}"
        before += f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table>'
        before += rest.replace("</table>", "</table></div>")
    return Markup(before)


def _lower_headings(tokens: list[Token]) -> None:
    """No heading is higher than h2, and none is more than one level below the one before it."""
    previous = 1
    for token in tokens:
        if token.type == "heading_open":
            wanted = int(token.tag[1]) + 1
            level = min(wanted, previous + 1, 6)
            token.tag, previous = f"h{level}", level
        elif token.type == "heading_close":
            token.tag = f"h{previous}"


def _name_cells(tokens: list[Token]) -> None:
    """The first cell of a row names it; a corner without words names nothing. How a column is
    aligned is said by a class, as the page's policy allows no styles in the text."""
    first = False
    for n, token in enumerate(tokens):
        if token.type == "tr_open":
            first = True
        elif token.type in {"th_open", "td_open"}:
            style = str(token.attrs.pop("style", ""))
            if style:
                token.attrs["class"] = f"aligned-{style.removeprefix('text-align:')}"
            empty = not tokens[n + 1].content.strip()
            if empty or (token.type == "td_open" and first):
                token.tag = tokens[n + 2].tag = "td" if empty else "th"
                if not empty:
                    token.attrs["scope"] = "row"
            first = False


def _unlink_relative(tokens: list[Token]) -> None:
    unlinked = False  # links do not nest
    for token in tokens:
        if token.type == "link_open":
            href = str(token.attrs.get("href", ""))
            unlinked = not href.startswith(("https://", "http://", "mailto:"))
            if unlinked:
                token.tag, token.attrs = "span", {}
        elif token.type == "link_close" and unlinked:
            token.tag = "span"
