"""The pointer to the current version, and how it came to point there: one file, changed as one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from captionapp import atomic
from captionapp.errors import ModelUnavailable, PointerMoved, PromotionRefused
from captionapp.sentences import Sentence

#: Changes that are remembered.
HISTORY = 200
LOCK_SECONDS = 30


@dataclass(frozen=True)
class PointerChange:
    """One move of the pointer.

    ``at`` is ISO 8601 in UTC; ``previous`` is what a rollback returns to, empty if nothing was
    there before; ``reason`` says why it was moved, ``forced`` that a refusal was overridden.
    """

    at: str
    version: str
    previous: str
    reason: str
    forced: bool


class Pointer:
    """``current.json``: the last change, and those before it in the same file, so that a process
    killed at any moment leaves the two in agreement."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def last(self) -> PointerChange | None:
        """The change that made the current version current; None if none was ever promoted.

        Raises:
            ModelUnavailable: if the file cannot be read.
        """
        return next(reversed(self.history()), None)

    def history(self) -> list[PointerChange]:
        """All changes that are remembered, oldest first. Raises as ``last`` does."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return [*map(_change, content.get("history", [])), _change(content)]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelUnavailable(
                f"{self.path} cannot be read ({error}); promote a version anew or delete the file."
            ) from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else moves the pointer meanwhile; ``move`` must not be called inside.

        Raises:
            PromotionRefused: if somebody else has held it for too long.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{self.path}.lock", timeout=LOCK_SECONDS)
        try:
            lock.acquire()
        except Timeout as error:
            raise PromotionRefused(
                Sentence(
                    "Another process has been changing the current version for %(seconds)s s;"
                    " try again later.",
                    seconds=LOCK_SECONDS,
                )
            ) from error
        try:
            yield
        finally:
            lock.release()

    def move(
        self,
        version: str,
        previous: str,
        reason: str,
        forced: bool,
        *,
        expected: str | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> PointerChange:
        """Point to ``version`` from now on, atomically, also for a reader in another process.

        ``expected`` is the version that the pointer has to name at that moment (empty: none, so
        that nothing was promoted yet); None takes whatever there is. ``check`` may raise at the
        last moment, when nobody can do anything to the version any more that needs ``held``.

        Raises:
            PointerMoved: if it names another one; nothing has changed then.
            OSError: if it cannot be written; nothing has changed then.
        """
        change = PointerChange(now(), version, previous, reason, forced)
        with self.held():
            check()
            try:
                past = self.history()
            except ModelUnavailable:  # moving it anew is what puts a damaged file right
                past = []
            named = past[-1].version if past else ""
            if expected is not None and named != expected:
                raise PointerMoved(
                    f"Meanwhile {named or 'the shipped version'} was made the current version; "
                    "look at it and try again."
                )
            for left in self.path.parent.glob(f"{self.path.name}.*.tmp"):
                left.unlink(missing_ok=True)  # of a process that was killed
            content = _as_json(change) | {"history": [_as_json(one) for one in past[-HISTORY:]]}
            atomic.write(self.path, json.dumps(content, indent=1, ensure_ascii=False).encode())
        return change


def now() -> str:
    """ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _change(content: Mapping[str, Any]) -> PointerChange:
    return PointerChange(
        at=str(content.get("since", "")),
        version=str(content["version"]),
        previous=str(content.get("previous", "")),
        reason=str(content.get("reason", "")),
        forced=bool(content.get("forced", False)),
    )


def _as_json(change: PointerChange) -> dict[str, Any]:
    content = asdict(change)
    content["since"] = content.pop("at")
    return content
