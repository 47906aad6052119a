from __future__ import annotations

import csv
import io
import zipfile

from PIL import Image

from tests.hanging import hang
from tests.web.sending import answer, send


def download(client, form: str, **data):
    answered = client.post("/history/selection", data={"do": "download", "form": form} | data)
    assert answered.status_code == 200
    assert answered.headers["Content-Disposition"].startswith("attachment")
    return answered


def metadata(taken) -> list[dict[str, str]]:
    table = zipfile.ZipFile(io.BytesIO(taken.data)).read("metadata.csv").decode()
    return list(csv.DictReader(io.StringIO(table, newline="")))


def test_an_imagefolder_to_take_away(app, anna, workflow):
    image_ids = hang(app, 3)
    answer(anna, workflow, image_ids[0], '=A "kite", ünlike')
    taken = download(anna, "imagefolder", picture=image_ids)
    archive = zipfile.ZipFile(io.BytesIO(taken.data))
    assert archive.testzip() is None
    table = metadata(taken)
    said = [(row["caption"], row["verdict"], row["model_caption"]) for row in table]
    assert said == [  # to the letter: it is for programs
        ('=A "kite", ünlike', "corrected", "ball number 1"),
        ("ball number 2", "", "ball number 2"),
        ("ball number 3", "", "ball number 3"),
    ]
    for row in table:
        with Image.open(io.BytesIO(archive.read(row["file_name"]))) as picture:
            assert picture.size == (16, 12)


def test_what_somebody_else_said_is_taken_away_without_their_name_for_the_picture(
    app, anna, workflow, png
):
    """Correction memory shows everybody what one browser wrote."""
    stranger = app.test_client()
    path = send(stranger, png, "my secret plan.png")
    image_id = path.rsplit("/", 1)[-1]
    form = {
        "caption_id": workflow.picture(image_id, None).caption.id,
        "verdict": "corrected",
        "correction": "A kite",
        "reasons": "too-long",
    }
    stranger.post(f"{path}/feedback", data=form)
    (row,) = workflow.feedback.rows()
    send(anna, png, "holiday.png")
    assert metadata(download(anna, "imagefolder", everything="1")) == [
        {
            "file_name": f"holiday-{image_id[:8]}.webp",
            "caption": "A kite",
            "id": "",
            "created_at": "",
            "image_name": "holiday.png",
            "model_caption": row.caption,
            "verdict": "corrected",
            "reasons": "",
            "model_version": row.model_version,
        }
    ]
    (own,) = metadata(download(stranger, "imagefolder", everything="1"))
    assert (own["id"], own["image_name"]) == (row.id, "my secret plan.png")


def test_text_files_beside_the_pictures(app, anna):
    hang(app, 2)
    taken = download(anna, "sidecars", everything="1")
    archive = zipfile.ZipFile(io.BytesIO(taken.data))
    pictures = sorted(name for name in archive.namelist() if name.endswith(".webp"))
    assert len(pictures) == 2
    texts = [archive.read(name.replace(".webp", ".txt")).decode() for name in pictures]
    assert texts == ["ball number 1\n", "ball number 2\n"]


def test_a_table_for_spreadsheets_runs_nothing(app, anna, workflow):
    first, second = hang(app, 2)
    answer(anna, workflow, first, "=HYPERLINK(1)")
    taken = download(anna, "spreadsheet", everything="1")
    assert taken.mimetype == "text/csv" and taken.data.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(io.StringIO(taken.data.decode("utf-8-sig"), newline="")))
    assert [row["description"] for row in rows] == ["'=HYPERLINK(1)", "ball number 2"]
    assert [row["written_by"] for row in rows] == ["person", "machine"]


def test_without_guesses_at_gender_what_is_shown_is_found_and_taken_away(client, captioner, png):
    captioner.replies = ["a man and his dog"]
    address = send(client, png)
    client.post(f"{address}/neutral", data={"neutral": "1"})
    for text in ("person their", "man his"):
        assert "a person and their dog" in client.get("/history", query_string={"text": text}).text
    archive = zipfile.ZipFile(io.BytesIO(download(client, "sidecars", everything="1").data))
    (name,) = (name for name in archive.namelist() if name.endswith(".txt"))
    assert archive.read(name) == b"a person and their dog\n"
    table = download(client, "spreadsheet", everything="1").data.decode("utf-8-sig")
    (line,) = csv.DictReader(io.StringIO(table, newline=""))
    model = "a man and his dog"
    assert (line["description"], line["model_caption"]) == ("a person and their dog", model)
    (row,) = metadata(download(client, "imagefolder", everything="1"))
    assert row["caption"] == model  # to the letter: imported, it is the model's text
