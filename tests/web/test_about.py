from __future__ import annotations

import pytest

from captionapp.errors import UnknownVersion
from captionapp.web.about import render_markdown, split_front_matter

CARD = """---
license: bsd-3-clause
language: [en]
datasets:
- nobody/pictures
tags: [x]
---
# The model

| a | b |
| - | - |
| 1 | 2 |

#### Deep
"""


def test_model_card_of_the_served_version(client, workflow, monkeypatch):
    monkeypatch.setattr(workflow.versions, "model_card", lambda _: CARD)
    page = client.get("/about")
    assert page.status_code == 200
    assert "fake-1" in page.text
    assert '<th scope="row">License</th><td>bsd-3-clause</td>' in page.text
    assert "<td>nobody/pictures</td>" in page.text
    assert "<h2>The model</h2>" in page.text and "<h3>Deep</h3>" in page.text
    assert page.text.count("<h1") == 1


def test_version_without_a_card(client, workflow, monkeypatch):
    monkeypatch.setattr(workflow.versions, "model_card", lambda _: "")
    assert "no model card" in client.get("/about").text


def test_no_version_at_all_is_said_so(client, workflow, monkeypatch):
    def refuse() -> None:
        raise UnknownVersion("There is no version x.")

    monkeypatch.setattr(workflow.versions, "current", refuse)
    page = client.get("/about")
    assert page.status_code == 200 and "There is no version x." in page.text


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "[x](javascript:alert(1))",
        "![x](https://example.org/pixel.png)",
        '<img src=x onerror="alert(1)">',
        "[x](data:text/html,hello)",
    ],
)
def test_a_card_can_do_no_harm(text):
    html = render_markdown(text)
    assert "<script" not in html and "<img" not in html
    assert 'href="javascript' not in html and 'href="data' not in html


def test_links_to_files_that_are_not_served_are_text():
    html = render_markdown("[code](starter/README.md) and [site](https://example.org)")
    assert html.count("href") == 1 and 'href="https://example.org"' in html and "code" in html


def test_tables_can_be_scrolled_by_keyboard():
    table = "| a |\n| - |\n| 1 |\n"
    html = render_markdown(f"{table}\nand\n\n{table}")
    for label in ("Table 1", "Table 2"):  # regions are told apart by their names
        assert (
            f'<div class="scroll" role="region" aria-label="{label}" tabindex="0"><table>' in html
        )
    assert html.count("</table></div>") == 2


@pytest.mark.parametrize("card", ["", "no front matter", "---\n: [\n---\nbody", "---\nendless"])
def test_odd_front_matter_is_dropped(card):
    fields, body = split_front_matter(card)
    assert fields == []
    assert body.strip() in {"", "no front matter", "body", "---\nendless"}


def test_cells_of_a_table_are_named_without_styles():
    html = render_markdown("| | n |\n| --- | ---: |\n| a | 1 |\n| b | |\n")
    assert "style" not in html
    assert '<td></td>\n<th class="aligned-right">n</th>' in html
    assert '<th scope="row">a</th>\n<td class="aligned-right">1</td>' in html
    assert '<th scope="row">b</th>\n<td class="aligned-right"></td>' in html
