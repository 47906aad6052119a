from __future__ import annotations

import re

from tests.conftest import draw, encoded
from tests.web.sending import send


def moments(page: str) -> list[str]:
    return re.findall(r'name="moment" value="([^"]+)"', page)


def test_deleted_pictures_come_back_after_a_reload(client, png):
    path = send(client, png)
    client.post(path + "/delete")
    (moment,) = moments(client.get("/history").text)
    assert moments(client.get("/history").text) == [moment]
    back = client.post("/history/undo", data={"moment": moment})
    assert (back.status_code, back.location) == (303, "/history")
    page = client.get("/history").text
    assert path in page and moments(page) == []
    assert client.get(path).status_code == 200
    late = client.post("/history/undo", data={"moment": moment}, follow_redirects=True)
    assert "too late" in late.text


def test_only_the_browser_that_deleted_can_take_it_back(app, client, png):
    path = send(client, png)
    client.post(path + "/delete")
    (moment,) = moments(client.get("/history").text)
    stranger = app.test_client()
    assert moments(stranger.get("/history").text) == []
    stranger.post("/history/undo", data={"moment": moment})
    assert client.get(path).status_code == 404


def test_pages_lead_to_each_other(client):
    for number in range(26):
        send(client, encoded(draw(f"#{number:02x}0000")), f"{number}.png")
    first = client.get("/history").text
    assert "26 pictures" in first and "1–24 of 26" in first and "25.png" in first
    (older,) = re.findall(r'rel="next" href="([^"]+)"', first)
    second = client.get(older.replace("&amp;", "&")).text
    assert "25–26 of 26" in second and '"0.png"' in second and "25.png" not in second
    (newer,) = re.findall(r'rel="prev" href="([^"]+)"', second)
    assert "1–24 of 26" in client.get(newer.replace("&amp;", "&")).text
    assert client.get("/history?after=nonsense&page=x").status_code == 200
