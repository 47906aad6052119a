"""Which version is served: past the gate (``captionapp.gate``), back again, and cleared away.

What is served follows the pointer (``captioning.pointer``); the service of every process looks at
it (``captioning.service``).
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from captionapp import detached, gate
from captionapp.captioning.pointer import PointerChange
from captionapp.captioning.versions import ModelVersion, ModelVersions
from captionapp.errors import (
    CaptionAppError,
    InvalidDataset,
    ModelUnavailable,
    PointerMoved,
    PromotionRefused,
    TooFewRows,
    UnknownVersion,
)
from captionapp.sentences import Sentence
from captionapp.settings import ROOT, Settings
from captionapp.training import compare
from captionapp.training.compare import Report
from captionapp.training.dataset import read_imagefolder
from captionapp.training.job import needed_versions
from captionapp.training.proof import OnProgress, PictureSet, Prover, no_progress
from captionapp.training.retained import HELD_OUT_SHARE, split_retained
from captionapp.training.runs import TrainingRuns

logger = logging.getLogger(__name__)

#: A process that imports torch and loads a large model on a slow disk takes minutes at most.
CHECK_SECONDS = 600.0
#: Of a version that is being removed; what starts with a dot is never listed.
_PRUNED = ".pruned-"
_ABANDONED_SECONDS = 3600


class Promotion:
    """Moves the pointer. ``check`` loads a version in a fresh process and captions a picture; it
    returns the reason why it cannot, or nothing."""

    def __init__(
        self,
        settings: Settings,
        versions: ModelVersions,
        prover: Prover,
        check: Callable[[ModelVersion], str] | None = None,
    ) -> None:
        self.settings = settings
        self.versions = versions
        self.prover = prover
        self._check = check or (lambda version: problem_in_fresh_process(version, settings))

    # Proof

    def evaluate(
        self,
        name: str,
        retained: Path | None = None,
        on_progress: OnProgress = no_progress,
    ) -> Report:
        """Compare a version with the current one on held-out answers and on retained pictures,
        ask the gate, and keep the report with the version.

        ``retained`` is an imagefolder. By default it is the one that the version's training
        retained, and the setting's if there was none or it is gone. Only pictures that no training
        has seen judge.

        Raises:
            UnknownVersion, ModelUnavailable: if a version is not there or does not load.
            TooFewRows: if there are no held-out answers.
            InvalidDataset: if the folder is none, or the version is the current one.
        """
        candidate, current = self.versions.get(name), self.versions.current()
        if candidate.name == current.name:
            raise InvalidDataset(f"{name} is the current version: there is nothing to compare.")
        report = self.prover.report(
            candidate,
            current,
            self.prover.held_out(),
            self._retained(candidate, retained),
            on_progress,
        )
        report = replace(report, refusals=gate.refusals(report, self.settings))
        self._keep(report, self._report_file(candidate))
        return report

    def evaluate_on(self, name: str, folder: Path, on_progress: OnProgress = no_progress) -> Report:
        """Compare a version with the current one on an imagefolder. The gate is not asked, and the
        report is kept beside those of ``evaluate``. Raises as that does."""
        candidate, current = self.versions.get(name), self.versions.current()
        pictures = self.prover.folder(folder)
        report = self.prover.report(candidate, current, pictures, on_progress=on_progress)
        self._keep(report, self.file_of(report, folder))
        return report

    def file_of(self, report: Report, folder: Path | None = None) -> Path:
        """Where ``evaluate`` has kept a report, or ``evaluate_on`` the one about ``folder``."""
        if folder is None:
            return self._report_file(self.versions.get(report.candidate))
        name = f"{report.candidate}--{folder.resolve().name}-{report.data_fingerprint[:8]}.json"
        return self._reports_folder() / name

    def report(self, name: str) -> Report | None:
        """The last report of ``evaluate`` for this version; None if there is none.

        Raises:
            UnknownVersion: if there is no such version.
        """
        return self.report_of(self.versions.get(name))

    def report_of(self, version: ModelVersion) -> Report | None:
        """The last report of ``evaluate`` for this version; None if there is none."""
        return compare.read_report(self._report_file(version))

    # The pointer

    def promote(
        self,
        name: str,
        force_reason: str | None = None,
        retained: Path | None = None,
        on_progress: OnProgress = no_progress,
    ) -> PointerChange:
        """Make a version the current one.

        A trained version has to pass the gate, or ``force_reason`` says why it need not; that goes
        into the history, with what the gate had against it. Every version has to load and caption
        in a fresh process, forced or not: nothing could be served by it.

        Raises:
            PromotionRefused: with every reason; nothing has changed then.
            PointerMoved: if another version became current meanwhile; nothing has changed then.
            UnknownVersion: if there is none of this name.
        """
        if force_reason is not None and not force_reason.strip():
            raise PromotionRefused("To force a promotion, say why: --force REASON.")
        self._must_follow_the_pointer()
        version, expected = self.versions.get(name), self._pointed_to()
        current = self._current_name()
        if name == current:
            raise PromotionRefused(f"{name} is the current version already.")
        against, reason = self._judge(version, retained, on_progress)
        problem = self._check(version)
        if problem:
            against = (f"it does not load and caption in a fresh process ({problem})", *against)
        if problem or (against and force_reason is None):
            raise PromotionRefused(f"{name} was not promoted: {'; '.join(against)}.")
        if against:
            reason = f"{force_reason}; the gate had said: {'; '.join(against)}"
        change = self.versions.set_current(
            name, current, reason, forced=bool(against), expected=expected
        )
        logger.info("%s is the current version instead of %s: %s", name, current, reason)
        return change

    def rollback(self, leave: str | None = None) -> PointerChange:
        """Return to the version before the current one, and from there to the one before it.

        ``leave`` is the version that is to be left, if that matters: asking twice must not go back
        twice. A shipped version that an upgrade has replaced is the one that is shipped now.

        Raises:
            PromotionRefused: if there is none, or it is gone.
            PointerMoved: if another version became current meanwhile; nothing has changed then.
        """
        self._must_follow_the_pointer()
        history = self.versions.pointer.history()
        last = history[-1] if history else None
        if last and leave is not None and last.version != leave:
            raise PointerMoved(
                Sentence(
                    "Another version is current by now: %(name)s. Look at what there is.",
                    name=last.version,
                )
            )
        if not last or not last.previous:
            raise PromotionRefused(
                Sentence(
                    "There is no version to go back to from the current one;"
                    " another one can be promoted."
                )
            )
        known = [one for one in history if one.version == last.previous]
        before = known[-1].previous if known else ""
        try:
            name = self.versions.successor(last.previous)
            change = self.versions.set_current(
                name, before, f"rollback from {last.version}", expected=last.version
            )
        except UnknownVersion as error:
            raise PromotionRefused(
                Sentence(
                    "%(before)s, the version before %(name)s, is gone; promote another one.",
                    before=last.previous,
                    name=last.version,
                )
            ) from error
        logger.info("%s is the current version again instead of %s", change.version, last.version)
        return change

    def history(self) -> list[PointerChange]:
        """Every change of the current version, oldest first.

        Raises:
            ModelUnavailable: if the pointer's file cannot be read.
        """
        return self.versions.pointer.history()

    def prune(self, keep: int) -> list[str]:
        """Remove all versions of the instance folder but the ``keep`` newest, the current one, the
        one that a rollback would return to, and those that a training goes on with. Returns the
        names of what was removed."""
        with self.versions.pointer.held():  # what is about to become current is not removed
            last = self.versions.pointer.last()
            kept = {self._current_name(), *([last.version, last.previous] if last else [])}
            kept |= needed_versions(TrainingRuns(self.settings.instance / "training"))
            own = [one for one in self.versions.list() if self._is_own(one)]
            kept.update(one.name for one in own[-keep:] if keep)  # all of them if they are fewer
            removed = [one for one in own if one.name not in kept]
            for version in removed:
                # Renamed first: a version is there with all its files or not at all.
                os.replace(version.folder, version.folder.with_name(_PRUNED + version.name))
                self.prover.cache.forget(version.name)
        for folder in self.versions.models_folder.glob(f"{_PRUNED}*"):
            shutil.rmtree(folder, ignore_errors=True)
        for left in self.versions.models_folder.glob("*/*.tmp"):  # of a process that was killed
            with suppress(FileNotFoundError):  # written, and renamed, a moment ago
                if time.time() - left.stat().st_mtime > _ABANDONED_SECONDS:
                    left.unlink()
        return [version.name for version in removed]

    # Steps of the above

    def _judge(
        self, version: ModelVersion, retained: Path | None, on_progress: OnProgress
    ) -> tuple[tuple[str, ...], str]:
        """What speaks against a version, and what speaks for it."""
        if version.origin != "trained":
            return (), f"{version.origin} version: promoted freely"
        try:
            report = self.evaluate(version.name, retained, on_progress)
        except (TooFewRows, InvalidDataset, ModelUnavailable) as error:
            return (f"nothing is proven ({str(error).rstrip('.')})",), ""
        return report.refusals, gate.described(report)

    def _retained(self, version: ModelVersion, folder: Path | None) -> PictureSet | None:
        described = version.details.get("retain") or {}
        own = Path(described["folder"]) if described.get("folder") else None
        set_for_all = Path(self.settings.retain) if self.settings.retain else None
        if own is not None and not own.is_dir() and set_for_all is not None:
            own = None  # it was moved or deleted since
        path = folder or own or set_for_all
        if path is None:
            return None
        try:
            examples = read_imagefolder(path, must_exist=False)
        except InvalidDataset as error:
            raise InvalidDataset(
                f"{error} It was to show what {version.name} has forgotten; "
                "name another folder with --retained DIR or CAPTIONAPP_RETAIN."
            ) from error
        if own is not None and path.resolve() == own.resolve():
            share = float(described.get("held_out_share", HELD_OUT_SHARE))
            _, examples = split_retained(examples, share)
        unseen = self.prover.unseen(examples)
        if not unseen:
            raise InvalidDataset(f"{path} has no picture that no training has seen.")
        return self.prover.folder(path, unseen)

    def _must_follow_the_pointer(self) -> None:
        if self.versions.model_setting:
            raise PromotionRefused(
                Sentence(
                    "CAPTIONAPP_MODEL names %(model)s, which overrides every promotion."
                    " Take it out of the settings and restart the server first.",
                    model=self.versions.model_setting,
                )
            )

    def _current_name(self) -> str:
        try:
            return self.versions.current().name
        except ModelUnavailable:  # a damaged pointer or a lost folder must not bar the way out
            return ""

    def _pointed_to(self) -> str | None:
        try:
            last = self.versions.pointer.last()
        except ModelUnavailable:
            return None
        return last.version if last else ""

    def _is_own(self, version: ModelVersion) -> bool:
        return version.folder.parent == self.versions.models_folder

    def _reports_folder(self) -> Path:
        return self.versions.models_folder.parent / "evaluations"

    def _keep(self, report: Report, file: Path) -> None:
        self._reports_folder().mkdir(parents=True, exist_ok=True)
        compare.save_report(report, file)

    def _report_file(self, version: ModelVersion) -> Path:
        if self._is_own(version):
            return version.folder / compare.REPORT_FILE
        return self._reports_folder() / f"{version.name}.json"  # the shipped folder is not ours


def problem_in_fresh_process(version: ModelVersion, settings: Settings) -> str:
    """Why a new process cannot load the version and caption a picture with it; empty if it can."""
    environment = {x: y for x, y in os.environ.items() if x not in detached.SERVER_ONLY}
    environment |= {
        "CAPTIONAPP_INSTANCE": str(settings.instance),
        "CAPTIONAPP_MODEL": version.name,
        "CAPTIONAPP_TORCH_THREADS": "1",  # other processes are serving meanwhile
    }
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "model", "warmup"]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=CHECK_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {CHECK_SECONDS:.0f} s"
    except OSError as error:
        raise CaptionAppError(f"No process could be started: {error}.") from error
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return lines[-1].removeprefix("Error: ").rstrip(".")
