from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from captionapp import detached
from captionapp.errors import TaskBusy
from captionapp.settings import ROOT
from captionapp.version_tasks import Task, VersionTasks
from tests.waiting import until


def pretend(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Have this program run instead of flask; it sees the command's words in ``sys.argv``."""
    import subprocess

    start = subprocess.Popen

    def instead(command: list[str], **options: Any) -> Any:
        return start([sys.executable, "-c", program, *command[1:]], **options)

    monkeypatch.setattr("captionapp.detached.subprocess.Popen", instead)


def ended(tasks: VersionTasks) -> bool:
    state = tasks.latest()
    return state is not None and not state.running


@pytest.mark.usefixtures("hardly_nice")
@pytest.mark.parametrize(
    ("task", "reason", "words"),
    [
        (Task.EVALUATE, "", ["model", "evaluate", "v1"]),
        (Task.PROMOTE, "", ["model", "promote", "v1"]),
        (Task.PROMOTE, "-x; y", ["model", "promote", "v1", "--force=-x; y"]),
    ],
)
def test_a_task_is_the_command_on_this_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task, reason: str, words: list[str]
) -> None:
    program = (
        "import json, os, sys; print(json.dumps([sys.argv[1:], os.getcwd(),"
        " os.environ['CAPTIONAPP_INSTANCE'], 'PROMETHEUS_MULTIPROC_DIR' in os.environ]))"
    )
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # where settings say that a folder is, it is for the command
    pretend(monkeypatch, program)
    tasks = VersionTasks(tmp_path)
    assert tasks.start(task, "v1", reason).version == "v1"
    until(lambda: ended(tasks))
    state = tasks.latest()
    assert state is not None
    argv, folder, instance, counted = json.loads(state.last_line)
    assert argv == ["-m", "flask", "--app", str(ROOT / "wsgi.py"), *words]
    assert Path(folder) == tmp_path
    assert (Path(instance), counted) == (tmp_path, False)
    assert (state.task, state.refusal) == (task, "")


@pytest.mark.usefixtures("hardly_nice")
def test_a_refusal_is_the_sentence_that_the_command_ends_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, "print('reading'); print('Error: v1 was not promoted: worse.\\n')")
    tasks = VersionTasks(tmp_path)
    tasks.start(Task.PROMOTE, "v1")
    until(lambda: ended(tasks))
    state = tasks.latest()
    assert state is not None and state.refusal == "v1 was not promoted: worse."


def test_one_at_a_time_in_its_own_session_and_giving_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, "import sys, time; time.sleep(60)")
    tasks = VersionTasks(tmp_path)
    tasks.start(Task.EVALUATE, "v1")
    known = json.loads((tmp_path / "evaluations" / "task.json").read_text())
    try:
        assert os.getsid(known["pid"]) != os.getsid(0)
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, known["pid"]) == min(19, own + 15)
        with pytest.raises(TaskBusy, match="v1"):
            VersionTasks(tmp_path).start(Task.PROMOTE, "v2")
        assert detached.lives(known)
        assert not detached.lives(known | {"pid_since": known["pid_since"] - 100})
    finally:
        os.kill(known["pid"], 9)
    until(lambda: ended(tasks))
    state = tasks.latest()
    assert state is not None and (state.refusal, state.last_line) == ("", "")


@pytest.mark.parametrize("content", ["", "[]", '{"task": "dance"}', '{"task": "evaluate"}'])
def test_no_task_or_a_damaged_trace_of_one_is_none(tmp_path: Path, content: str) -> None:
    assert VersionTasks(tmp_path).latest() is None
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "evaluations" / "task.json").write_text(content)
    assert VersionTasks(tmp_path).latest() is None
