"""Kill promotions with SIGKILL at random moments: the current version must always load.

    python benchmarks/kill_promotion.py --kills 20

Twice: the command ``flask model promote`` is killed at a random moment of what it usually takes;
and a process that evaluates, promotes and rolls back without a pause, so that kills hit the moments
in which reports and the pointer are written. After each kill the pointer, the versions and the
reports must be whole, the current version must load and caption, and the next promotion must work.
"""

import argparse
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from captionapp.captioning.versions import ModelVersion, ModelVersions  # noqa: E402
from captionapp.promotion import Promotion  # noqa: E402
from captionapp.settings import Settings  # noqa: E402
from captionapp.training import compare  # noqa: E402
from captionapp.training.caption_cache import CaptionCache  # noqa: E402
from captionapp.training.proof import Prover  # noqa: E402
from captionapp.votes import Tally  # noqa: E402
from tests.conftest import draw  # noqa: E402
from tests.judging import SAID, Reader, add_version, dataset  # noqa: E402

NAMES = ("one", "two")


def versions_in(instance: Path) -> ModelVersions:
    return ModelVersions(instance / "models", ROOT / "fine-tuned-model")


def loop(instance: Path) -> None:
    """Evaluate, promote and roll back without end. Captions are read off pictures, not made."""
    versions = versions_in(instance)
    settings = Settings(instance=instance)
    held_out = dataset(instance / "pictures")

    def load(version: ModelVersion) -> Reader:
        return Reader(version.name, lambda number: SAID[number])

    cache = CaptionCache(instance / "evaluations" / "captions.db")
    prover = Prover(settings, load, cache, lambda: held_out, lambda *_: Tally())
    promotion = Promotion(settings, versions, prover, check=lambda version: "")
    for name in itertools.cycle(NAMES):
        if versions.current().name != name:
            promotion.promote(name, force_reason="to be killed")
        if random.random() < 0.3 and versions.pointer.history()[-1].previous:
            promotion.rollback()


def start(instance: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "model", *words]
    if words == ("loop",):
        command = [sys.executable, __file__, "--loop", str(instance)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("CAPTIONAPP_")}
        | {"CAPTIONAPP_INSTANCE": str(instance)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # its own checks are killed with it
    )


def kill(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def other_than_current(versions: ModelVersions) -> str:
    current = versions.current().name
    return next(name for name in NAMES if name != current)


def problems(instance: Path) -> list[str]:
    """What is not as it has to be after a kill."""
    from captionapp.captioning.blip import BlipCaptioner
    from captionapp.captioning.captioner import DecodeOptions

    found = []
    versions = versions_in(instance)
    try:
        current = versions.current()
        captioner = BlipCaptioner.load(current.folder, current.name)
        captioner.caption([draw()], DecodeOptions(max_new_tokens=5))
        versions.pointer.history()
    except Exception as error:
        found.append(f"the current version does not load: {error!r}")
    listed = {version.name for version in versions.list() if version.origin == "trained"}
    if listed != set(NAMES):
        found.append(f"listed are {sorted(listed)}")
    for name in NAMES:
        version = versions.get(name)
        if (version.folder / compare.REPORT_FILE).exists() and not compare.load_report(version):
            found.append(f"the report of {name} is not whole")
    return found


def kill_commands(instance: Path, kills: int, chance: random.Random) -> list[str]:
    found = []
    versions = versions_in(instance)
    started = time.monotonic()
    words = ("promote", "one", "--force", "to be killed")
    if start(instance, *words).wait() or versions.current().name != "one":
        return ["the first promotion failed"]
    usual = time.monotonic() - started
    moved = 0
    for _ in range(kills):
        before = len(versions.pointer.history())
        words = ("promote", other_than_current(versions), "--force", "to be killed")
        process = start(instance, *words)
        time.sleep(chance.uniform(0, usual))
        kill(process)
        moved += len(versions.pointer.history()) > before
        found += problems(instance)
    print(f"the command takes {usual:.1f} s; it had moved the pointer before {moved} of the kills")
    return found


def kill_loops(instance: Path, kills: int, chance: random.Random) -> list[str]:
    found = []
    versions = versions_in(instance)
    changes = 0
    for _ in range(kills):
        before = versions.pointer.history()[-1:]
        process = start(instance, "loop")
        while versions.pointer.history()[-1:] == before:  # it has imported everything by now
            time.sleep(0.01)
            if process.poll() is not None:
                return [*found, "the loop ended by itself"]
        time.sleep(chance.uniform(0, 0.5))
        kill(process)
        changes += versions.pointer.history()[-1:] != before
        found += problems(instance)
        versions.set_current(other_than_current(versions))  # the lock went with the process
    print(f"the loop had moved the pointer before {changes} of the kills")
    leftovers = len(list(versions.models_folder.rglob("*.tmp")))
    print(f"files left half written under a temporary name, which nobody reads: {leftovers}")
    return found


def run(arguments: argparse.Namespace, folder: Path) -> int:
    instance = folder / "instance"
    versions = versions_in(instance)
    for name in NAMES:
        target = add_version(versions, name).folder
        shutil.copytree(arguments.checkpoint, target, dirs_exist_ok=True)
    chance = random.Random(arguments.seed)
    found = kill_commands(instance, arguments.kills, chance)
    found += kill_loops(instance, arguments.kills, chance)
    last = start(instance, "promote", other_than_current(versions), "--force", "the last one")
    if last.wait():
        found.append("the last promotion failed")
    print(f"kills: {arguments.kills} of the command, {arguments.kills} of the loop")
    print(f"problems: {len(found)}")
    for problem in found:
        print(f"- {problem}")
    return int(bool(found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "fine-tuned-model")
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.loop:
        loop(arguments.loop)
    with tempfile.TemporaryDirectory() as folder:
        return run(arguments, Path(folder))


if __name__ == "__main__":
    if os.name == "nt":
        sys.exit("This needs SIGKILL: run it on Linux or macOS.")
    sys.exit(main())
