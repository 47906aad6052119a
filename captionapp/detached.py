"""Commands of ours as processes of their own: they outlive whoever started them, and give way."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captionapp.settings import ROOT

#: Of the server's environment; such a process must not count among its workers.
SERVER_ONLY = frozenset({"PROMETHEUS_MULTIPROC_DIR", "SERVER_SOFTWARE", "GUNICORN_CMD_ARGS"})
#: Added to the priority: it takes what serving leaves.
NICENESS = 15


def start(arguments: Sequence[str], instance: Path, log: Path) -> dict[str, Any]:
    """Start ``flask`` with these arguments on this instance folder; what it prints goes to ``log``.

    It has its own session, so that signals to this process do not reach it, and a low priority. It
    is where this process is: what settings say of a folder means the same to it.
    Returns what tells it from any other process, for ``lives``.

    Raises:
        OSError: if the process or the log cannot be made.
    """
    environment = {name: value for name, value in os.environ.items() if name not in SERVER_ONLY}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", str(ROOT / "wsgi.py"), *arguments],
            env=environment | {"CAPTIONAPP_INSTANCE": str(instance.resolve())},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            **_own_session(),
        )
    _lower_priority(process.pid)
    # Until it ends somebody has to wait for it, or it stays as a zombie.
    threading.Thread(target=process.wait, daemon=True, name=f"process {process.pid}").start()
    return identity(process.pid)


def identity(pid: int) -> dict[str, Any]:
    """The process, told from a later one of the same number by when it began."""
    import psutil

    try:
        return {"pid": pid, "pid_since": psutil.Process(pid).create_time()}
    except psutil.Error:
        return {"pid": pid, "pid_since": 0.0}


def lives(known: dict[str, Any]) -> bool:
    """Whether the process that ``identity`` was of still runs."""
    import psutil

    try:
        process = psutil.Process(int(known["pid"]))
        same = abs(process.create_time() - float(known["pid_since"])) < 5
        return same and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def last_line(log: Path) -> str:
    """The last line of a log that is not empty; empty if there is none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _own_session() -> dict[str, Any]:
    if sys.platform == "win32":
        flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
        return {"creationflags": flags}
    return {"start_new_session": True}


def _lower_priority(pid: int) -> None:
    import psutil

    try:
        process = psutil.Process(pid)
        if sys.platform == "win32":
            process.nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
        else:
            process.nice(min(19, process.nice() + NICENESS))
    except (psutil.Error, OSError):
        return  # it has ended already, or the system does not allow it: it works all the same
