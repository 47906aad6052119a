"""Kill `flask model finetune` at random moments: the current version always loads, and no
half-written version is ever listed.

    python benchmarks/kill_training.py [--kills 20] [--model DIR] [--json FILE]

The corrections are of pictures that are drawn here. It is killed until so many kills have hit it
while it trained or saved a checkpoint, and as many while it stored the finished version: between
the first file of that and the rename that makes it a version. A first training that is let be tells
how long that takes. A kill counts if the process was still alive; how many of them left half a
checkpoint is said apart. After each kill the current version must load and caption, and every
listed version must load; in the end a resumed training must bring a version. ``--model`` is a BLIP
checkpoint; the shipped one by default.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from captionapp.captioning.blip import BlipCaptioner  # noqa: E402
from captionapp.captioning.captioner import DecodeOptions  # noqa: E402
from captionapp.captioning.versions import ModelVersions  # noqa: E402
from captionapp.training.runs import RunState, TrainingRuns  # noqa: E402
from tests.drawing import pattern  # noqa: E402

#: Kills for each that is wanted, at most.
TRIES = 10
#: Seconds within which a process of the application must have got somewhere.
PATIENCE = 600.0


class Kills:
    """A fresh instance whose trainings are killed."""

    def __init__(self, work: Path, model: Path) -> None:
        self.work, self.instance = work, work / "instance"
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("CAPTIONAPP_")}
        self.environment["CAPTIONAPP_INSTANCE"] = str(self.instance)
        self.versions = ModelVersions(self.instance / "models", model)
        if model != ROOT / "fine-tuned-model":
            self.environment["CAPTIONAPP_MODEL"] = str(model)
            self.versions.model_setting = str(model)
        self.runs = TrainingRuns(self.instance / "training")
        self.problems: list[str] = []

    def prepare(self) -> None:
        folder = self.work / "pictures"
        folder.mkdir()
        with (folder / "metadata.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file_name", "caption"])
            for number in range(24):
                pattern(number, 96).save(folder / f"{number}.png")
                writer.writerow([f"{number}.png", "a blanket of many colours"])
        command = self._command("feedback", "import", str(folder))
        subprocess.run(command, cwd=ROOT, env=self.environment, check=True)

    def seconds_to_store(self, options: list[str]) -> float:
        """That a training that is not killed takes to store its version."""
        command = self._command("model", "finetune", *options)
        process = subprocess.Popen(command, cwd=ROOT, env=self.environment)
        wait(process, self.stores)
        began = time.monotonic()
        wait(process, lambda: not self.stores())
        seconds = time.monotonic() - began
        if process.wait():
            raise SystemExit("The training failed.")
        return seconds

    def trains(self) -> bool:
        """Whether the newest training has not got as far as storing."""
        latest = self.runs.latest()
        return latest is not None and latest.status == "interrupted" and not self.stores()

    def stores(self) -> bool:
        """Whether a version is half stored."""
        return any(self.runs.folder.glob("*/version/*"))

    def half_a_checkpoint(self, since: float) -> bool:
        """Whether a checkpoint was begun since then and not finished."""
        return any(changed(file) > since for file in self.runs.folder.glob("*/checkpoint.pt.tmp"))

    def kill(self, options: list[str], moment: Callable[[subprocess.Popen[bytes]], None]) -> bool:
        """Start a training, or go on with the one there is, kill it at a moment, and look; whether
        it was still there to be killed."""
        latest = self.runs.latest()
        go_on = latest is not None and latest.status != "done"
        arguments = ["--resume"] if go_on else options
        with (self.work / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                self._command("model", "finetune", *arguments),
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
            moment(process)
            process.send_signal(signal.SIGKILL)  # of one that has ended, nothing happens
            killed = process.wait() == -signal.SIGKILL
        self._look()
        return killed

    def finish(self) -> None:
        """What is left is brought to its end."""
        latest = self.runs.latest()
        if latest and latest.status != "done":
            command = self._command("model", "finetune", "--resume")
            subprocess.run(command, cwd=ROOT, env=self.environment, check=True)
        self._look()

    def _look(self) -> None:
        try:
            current = self.versions.current()
            captioner = BlipCaptioner.load(current.folder, current.name)
            captioner.caption([pattern(0, 96)], DecodeOptions(max_new_tokens=5))
        except Exception as error:  # that is what is looked for
            self.problems.append(f"the current version does not caption: {error}")
        for version in self.versions.list():
            try:
                BlipCaptioner.load(version.folder, version.name)
            except Exception as error:  # that is what is looked for
                self.problems.append(f"{version.name} is listed and does not load: {error}")

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "flask", "--app", "wsgi", *arguments]


def wait(process: subprocess.Popen[bytes], condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition() and process.poll() is None:
        if time.monotonic() > end:
            raise TimeoutError("The training got nowhere.")
        time.sleep(0.001)


def changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def while_training(kills: Kills, chance: random.Random) -> Callable[..., None]:
    """Some time after this process has reported progress or saved a checkpoint."""

    def moment(process: subprocess.Popen[bytes]) -> None:
        began = time.time()

        def goes() -> bool:
            state: RunState | None = kills.runs.latest()
            folder = kills.runs.folder / (state.id if state else "none")
            files = [folder / "progress.json", folder / "checkpoint.pt"]
            return any(changed(file) > began for file in files)

        wait(process, goes)
        time.sleep(chance.uniform(0, 2.0))

    return moment


def while_storing(kills: Kills, chance: random.Random, seconds: float) -> Callable[..., None]:
    """Between the first file of the finished version and the rename, as long as that takes."""

    def moment(process: subprocess.Popen[bytes]) -> None:
        for left in kills.runs.folder.glob("*/version"):  # of the kill before
            shutil.rmtree(left)
        wait(process, kills.stores)
        time.sleep(chance.uniform(0, seconds))

    return moment


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill trainings at random moments.")
    parser.add_argument("--kills", type=int, default=20, help="of each kind")
    parser.add_argument("--model", type=Path, default=ROOT / "fine-tuned-model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the result")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    always = ["--set", "checkpoint_seconds=0.01", "--full", "--batch-size", "4"]
    counts: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as work:
        kills = Kills(Path(work), args.model.resolve())
        kills.prepare()
        long, short = [*always, "--epochs", "40"], [*always, "--epochs", "0.2"]
        seconds = kills.seconds_to_store(short)
        print(f"a version is stored in {seconds:.3f} s", flush=True)
        kinds = {
            "training": (while_training(kills, chance), long, kills.trains),
            "storing": (while_storing(kills, chance, seconds), short, kills.stores),
        }
        for kind, (moment, options, hit) in kinds.items():
            count = counts[kind] = {"kills": 0, "hits": 0, "in a checkpoint": 0}
            while count["hits"] < args.kills and count["kills"] < TRIES * args.kills:
                began = time.time()
                killed = kills.kill(options, moment)
                count["kills"] += 1
                count["hits"] += killed and hit()
                count["in a checkpoint"] += killed and kills.half_a_checkpoint(began)
                state = kills.runs.latest()
                status = state.status if state else "not begun"
                print(kind, count, status, f"{len(kills.versions.list())} versions", flush=True)
            if count["hits"] < args.kills:
                kills.problems.append(f"only {count['hits']} kills hit it while {kind}")
            kills.finish()
        result: dict[str, object] = {"kills": counts, "problems": kills.problems}
        result["versions"] = len(kills.versions.list())
    print(json.dumps(result, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")
    return 1 if kills.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
