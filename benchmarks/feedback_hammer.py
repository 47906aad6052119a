"""Hammer feedback.csv: many processes append, one of them is killed again and again.

    python benchmarks/feedback_hammer.py --rows 1000 --processes 8 --kills 10

Each writer appends its share of the rows and notes the id of each in a file of its own, after
``append`` has returned: that is an acknowledged row. One writer is killed with SIGKILL, started
again, and goes on with what it has not noted, under new ids. So that kills hit the middle of a row
and not only the wait for the disk, that writer writes in small pieces until it has been killed
often enough. At the end every acknowledged row must be in the file exactly once and unchanged.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from captionapp.feedback import repository as module  # noqa: E402
from captionapp.feedback.repository import (  # noqa: E402
    CsvFeedbackRepository,
    FeedbackRow,
    Reason,
    Verdict,
)

TEXT = 'a dog,\r\nsaid "so",\nand 犬 👩‍👧 =1+1\n'


def make_row(row_id: str, writer: int) -> FeedbackRow:
    return FeedbackRow(
        id=row_id,
        created_at="2026-11-23T12:00:00.000Z",
        image_id=uuid.uuid5(uuid.NAMESPACE_OID, row_id).hex,
        image_name=f"{writer}.jpg",
        caption="a dog runs",
        feedback=f"{row_id} {TEXT * 5}".strip(),
        verdict=Verdict.CORRECTED,
        reasons=(Reason.INACCURATE,),
        model_version="shipped-1a2b3c4d",
        contributor=uuid.UUID(int=writer).hex,
    )


def acknowledged_ids(folder: Path, writer: int) -> list[str]:
    path = folder / f"acknowledged-{writer}.txt"
    if not path.exists():
        return []
    # A line cut short by a kill was not an acknowledgement.
    return [line[:-1] for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def write_share(folder: Path, writer: int, share: int, in_pieces: bool) -> None:
    if in_pieces:
        module._write_all = write_in_pieces
    repository = CsvFeedbackRepository(folder / "feedback.csv")
    noted = folder / f"acknowledged-{writer}.txt"
    done = acknowledged_ids(folder, writer)
    with open(noted, "ab", buffering=0) as file:
        if noted.stat().st_size:
            # Ends the note that a kill may have cut; a cut note is of no row (checked by length).
            file.write(b"\n")
        for _ in range(share - len([row_id for row_id in done if len(row_id) == 32])):
            row_id = uuid.uuid4().hex
            repository.append(make_row(row_id, writer))
            file.write(f"{row_id}\n".encode())


def write_in_pieces(file, data: bytes) -> None:
    for start in range(0, len(data), 16):
        file.write(data[start : start + 16])
        time.sleep(0.0005)


def start_writer(arguments: argparse.Namespace, writer: int, in_pieces: bool) -> subprocess.Popen:
    share = arguments.rows // arguments.processes
    share += writer < arguments.rows % arguments.processes
    command = [sys.executable, __file__, "--folder", str(arguments.folder)]
    command += ["--write", str(writer), str(share), str(int(in_pieces))]
    return subprocess.Popen(command)


def run(arguments: argparse.Namespace) -> int:
    path = arguments.folder / "feedback.csv"
    chance = random.Random(arguments.seed)
    started = time.monotonic()
    writers = [start_writer(arguments, n, False) for n in range(1, arguments.processes)]
    kills = 0
    while kills < arguments.kills:
        victim = start_writer(arguments, 0, True)
        wait_for_first_write(arguments.folder, victim)
        time.sleep(chance.uniform(0, 0.06))
        if victim.poll() is not None:
            print(f"The writer to be killed was done after {kills} kills; give it more rows.")
            return 1
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        kills += 1
    writers.append(start_writer(arguments, 0, False))
    failed = [writer.args for writer in writers if writer.wait() != 0]
    seconds = time.monotonic() - started
    # One more row, so that what the last kill left is settled by a writer too.
    CsvFeedbackRepository(path).append(make_row(uuid.uuid4().hex, 99))
    return report(arguments, kills, seconds) or bool(failed)


def wait_for_first_write(folder: Path, victim: subprocess.Popen) -> None:
    """Wait until the new process is at work: it has imported everything and noted a row."""
    noted = folder / "acknowledged-0.txt"
    before = noted.stat().st_size if noted.exists() else 0
    while victim.poll() is None and (not noted.exists() or noted.stat().st_size < before + 2):
        time.sleep(0.001)


def report(arguments: argparse.Namespace, kills: int, seconds: float) -> int:
    path = arguments.folder / "feedback.csv"
    rows = CsvFeedbackRepository(path).rows()
    acknowledged = [
        (row_id, writer)
        for writer in range(arguments.processes)
        for row_id in acknowledged_ids(arguments.folder, writer)
        if len(row_id) == 32
    ]
    found = [row.id for row in rows if row.image_name != "99.jpg"]
    by_id = {row.id: row for row in rows}
    lost = [
        row_id for row_id, writer in acknowledged if by_id.get(row_id) != make_row(row_id, writer)
    ]
    duplicates = len(found) - len(set(found))
    whole = b"\r\n".join([module.HEADER, module.encode(rows)]) == path.read_bytes()
    print(f"kills: {kills}")
    print(f"acknowledged: {len(acknowledged)}")
    print(f"found: {len(found)}")
    print(f"written but killed before the acknowledgement: {len(found) - len(acknowledged)}")
    print(f"duplicates: {duplicates}")
    print(f"lost: {len(lost)}")
    print(f"torn lines set aside: {len(list(arguments.folder.glob('feedback.csv.torn-*')))}")
    print(f"left in the file: {'only whole rows' if whole else 'more than whole rows'}")
    print(f"seconds: {seconds:.1f}")
    return int(bool(lost or duplicates or not whole or len(acknowledged) != arguments.rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="an empty folder; a temporary one if not given")
    parser.add_argument("--write", nargs=3, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        writer, share, in_pieces = arguments.write
        write_share(arguments.folder, writer, share, bool(in_pieces))
        return 0
    if arguments.folder is not None:
        return run(arguments)
    with tempfile.TemporaryDirectory() as folder:
        arguments.folder = Path(folder)
        return run(arguments)


if __name__ == "__main__":
    if os.name == "nt":
        sys.exit("This needs SIGKILL: run it on Linux or macOS.")
    sys.exit(main())
