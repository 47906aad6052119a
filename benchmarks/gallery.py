"""What a page costs: of one picture, and of the gallery, the first and the 200th, with 100 and with
10,000 pictures.

    python benchmarks/gallery.py

The gallery is filled with records only, no files; a page is what ``GET`` answers, HTML and all, in
this process, in seconds of the processor: what else the machine does hardly changes them.
Ratios are of medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flask.testing import FlaskClient  # noqa: E402

from captionapp import create_app  # noqa: E402
from captionapp.gallery import PER_PAGE, Sort, Wanted  # noqa: E402
from captionapp.tables import CaptionRow, Holding, Picture  # noqa: E402
from captionapp.workflow import Workflow  # noqa: E402

BROWSER = "a" * 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", nargs=2, type=int, default=[100, 10_000])
    parser.add_argument("--page", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    few, many = arguments.pictures
    small = gallery(few)
    seconds = [timed(small, f"/images/{id_of(number % few)}") for number in range(200)]
    seconds.sort()
    print(f"a picture: {statistics.median(seconds) * 1000:.1f} ms, at best {seconds[0] * 1000:.1f}")
    large = gallery(many)
    print(f"first visit after an upgrade, {many} pictures: {timed(large, '/history'):.2f} s")
    timed(small, "/history")
    for sort in ("newest", "least-sure", "name"):
        start = f"/history?sort={sort}"
        there = far(large, sort, arguments.page)
        of_few, first, last = measure(
            arguments.rounds, (small, start), (large, start), (large, there)
        )
        print(
            f"{sort}: {first * 1000:.1f} ms; page {arguments.page} / page 1 = {last / first:.2f};"
            f" {many} / {few} pictures = {first / of_few:.2f}"
        )
    of_few, first = measure(
        arguments.rounds, (small, "/history?text=zebra"), (large, "/history?text=zebra")
    )
    print(f"a word that is nowhere: {first * 1000:.1f} ms; {many} / {few} = {first / of_few:.2f}")


def gallery(count: int) -> FlaskClient:
    """The browser of an application with so many pictures, none of them looked at yet."""
    folder = tempfile.mkdtemp(prefix="captionapp-gallery-")
    app = create_app({"CAPTIONAPP_INSTANCE": folder, "CAPTIONAPP_RATE_LIMIT": ""})
    workflow: Workflow = app.extensions["captionapp"]
    options = workflow.settings.decode_options().key()
    now = datetime.now(UTC)
    pictures, holdings, captions = [], [], []
    for number in range(count):
        image_id = id_of(number)
        moment = (now - timedelta(minutes=number)).timestamp()
        pictures.append({"image_id": image_id, "width": 4, "height": 3, "created_at": moment})
        held = {"image_id": image_id, "contributor": BROWSER, "created_at": moment}
        holdings.append(held | {"name": f"IMG_{number}.jpg", "options": options})
        words = f"a dog and a man are running through the snow number {number}".split()
        captions.append(
            {
                "id": f"c{number}",
                "image_id": image_id,
                "options": options,
                "text": " ".join(words),
                "words": json.dumps([(word, 0.5) for word in words]),
                "probability": (number * 7919 % 1000) / 1000,
                "model_version": workflow.versions.current().name,
                "seconds": 0.1,
                "created_at": moment,
            }
        )
    with workflow.records.write() as session:
        for table, rows in ((Picture, pictures), (Holding, holdings), (CaptionRow, captions)):
            session.connection().execute(table.__table__.insert(), rows)
    client = app.test_client()
    with client.session_transaction() as session:
        session["contributor"] = BROWSER
    return client


def id_of(number: int) -> str:
    return f"{number * 7919 % 2**31:032x}"


def far(client: FlaskClient, sort: str, page: int) -> str:
    """The address of this page: behind all the pictures before it."""
    workflow: Workflow = client.application.extensions["captionapp"]
    before = workflow.gallery.page(BROWSER, Wanted(sort=Sort(sort)), limit=PER_PAGE * (page - 1))
    return f"/history?{urlencode({'sort': sort, 'after': before.older})}"


def measure(rounds: int, *pages: tuple[FlaskClient, str]) -> list[float]:
    """Median seconds of each, taken in turn."""
    seconds = [[timed(client, address) for client, address in pages] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*seconds, strict=True)]


def timed(client: FlaskClient, address: str) -> float:
    started = time.process_time()
    answer = client.get(address)
    assert answer.status_code == 200, answer.status
    return time.process_time() - started


if __name__ == "__main__":
    main()
