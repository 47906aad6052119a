from __future__ import annotations

import io
import threading

import pytest
from PIL import Image
from sqlalchemy import delete, event

from captionapp.tables import CaptionRow
from tests.conftest import FakeCaptioner, serve
from tests.web.sending import send


@pytest.mark.parametrize("part", ["/file", "/view", "/thumbnail"])
def test_stored_pictures_have_a_type_a_name_and_a_long_private_life(client, png, part):
    answer = client.get(send(client, png) + part)
    assert answer.status_code == 200
    kind = Image.open(io.BytesIO(answer.data)).get_format_mimetype()
    assert answer.mimetype == kind
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert answer.headers["Content-Disposition"].startswith("inline; filename=")
    assert answer.headers["X-Robots-Tag"] == "noindex"
    again = client.get(answer.request.path, headers={"If-None-Match": answer.headers["ETag"]})
    assert again.status_code == 304
    answer.close()
    again.close()


@pytest.mark.parametrize("part", ["", "/file", "/view", "/thumbnail"])
def test_another_browser_sees_nothing(app, client, png, part):
    path = send(client, png)
    stranger = app.test_client().get(path + part)
    assert stranger.status_code == 404
    assert "ball" not in stranger.text


@pytest.mark.parametrize("part", ["delete", "again", "feedback"])
def test_another_browser_can_do_nothing(app, client, png, part):
    path = send(client, png)
    form = {"caption_id": "x", "verdict": "accepted"}
    assert app.test_client().post(f"{path}/{part}", data=form).status_code == 404
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("image_id", ["0" * 32, "x", "..%2f..%2fetc", "A" * 32])
def test_no_such_picture(client, image_id):
    for part in ("", "/file", "/view", "/thumbnail"):
        assert client.get(f"/images/{image_id}{part}").status_code == 404


def test_names_and_captions_are_escaped(client, captioner, png):
    captioner.replies = ["<script>alert(1)</script>"]
    page = client.get(send(client, png, "'<img src=x onerror=alert(1)>.png"))
    assert "<script>alert" not in page.text and "<img src=x" not in page.text
    assert "&lt;script&gt;alert(1)" in page.text
    history = client.get("/history").text
    assert "<script>alert" not in history and "<img src=x" not in history


def test_delete_takes_it_out_of_the_history(client, workflow, png):
    path = send(client, png)
    gone = client.post(path + "/delete")
    assert (gone.status_code, gone.location) == (303, "/history")
    page = client.get("/history").text
    assert "One picture is deleted." in page and "no pictures here any more" in page
    for part in ("", "/file", "/view", "/thumbnail"):
        assert client.get(path + part).status_code == 404
    assert client.post(path + "/delete").status_code == 404


def test_delete_and_again_do_not_answer_to_get(client, png):
    path = send(client, png)
    for part in ("delete", "again", "feedback"):
        refused = client.get(f"{path}/{part}")
        assert refused.status_code == 405
        assert "POST" in refused.headers["Allow"]


def test_failed_caption_is_a_problem_and_never_a_caption(client, captioner, png):
    captioner.replies = [RuntimeError("secret detail")]
    path = send(client, png)
    page = client.get(path).text
    assert 'data-status="failed"' in page and "could not describe" in page
    assert "secret detail" not in page and "<blockquote" not in page
    captioner.replies = ["a red ball"]
    again = client.post(path + "/again")
    assert (again.status_code, again.location) == (303, path)
    assert "a red ball" in client.get(path).text


def test_a_page_that_waits_can_be_answered_and_looked_at_again(client, workflow, png):
    path = send(client, png)
    image_id = path.rsplit("/", 1)[-1]
    held = workflow.records.held(image_id, None)
    workflow.jobs.job_records.begin(image_id, held.options, 60)
    page = client.get(path).text
    assert 'data-status="waiting"' in page and 'name="correction"' in page
    assert f'<a href="{path}">Look again' in page
    with workflow.records.write() as session:
        session.execute(delete(CaptionRow).where(CaptionRow.image_id == image_id))
    assert f'<a href="{path}">Look again' in client.get(path).text


def test_older_version_is_labelled_and_made_again_on_request(client, workflow, png):
    path = send(client, png)
    assert "Describe it again" not in client.get(path).text
    serve(workflow, FakeCaptioner("fake-2", ["a bright ball"]))
    page = client.get(path).text
    assert "an older one" in page and "fake-2" in page and "Describe it again" in page
    assert "a red ball" in page
    workflow.service.follow()
    again = client.post(path + "/again")
    assert (again.status_code, again.location) == (303, path)
    page = client.get(path).text
    assert page.index("a bright ball") < page.index("Earlier descriptions")
    assert page.index("Earlier descriptions") < page.index("a red ball")
    assert "Describe it again" not in page


def test_operator_sees_everybodys_pictures_but_answers_for_nobody(make_app, png):
    app = make_app(CAPTIONAPP_ADMIN_PASSWORD="open sesame")
    path = send(app.test_client(), png)
    operator = app.test_client()
    page = operator.get(path, auth=("any", "open sesame"))
    assert page.status_code == 200
    assert 'name="verdict"' not in page.text and "/delete" not in page.text
    file = operator.get(path + "/file", auth=("any", "open sesame"))
    assert file.status_code == 200
    file.close()
    assert operator.get(path, auth=("any", "wrong")).status_code == 404


def test_a_page_is_of_one_moment_of_the_database(client, workflow, png):
    address, begun = send(client, png), []

    def begins(connection):
        begun.append(threading.current_thread())  # the recorder may still extend its leases

    event.listen(workflow.records._engine, "begin", begins)
    assert 'data-status="done"' in client.get(address).text
    assert begun.count(threading.current_thread()) == 1
