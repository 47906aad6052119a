from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from captionapp.settings import Settings


def test_each_setting_is_shown_with_where_it_came_from(
    make_app: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CAPTIONAPP_MAX_FILES", "7")
    (tmp_path / "instance").mkdir()
    (tmp_path / "instance" / "config.py").write_text("CAPTIONAPP_NUM_BEAMS = 2\n")
    result = make_app().test_cli_runner().invoke(args=["settings"])
    assert result.exit_code == 0
    rows = {line.split()[0]: line.split()[1:] for line in result.output.splitlines()}
    assert rows["CAPTIONAPP_MAX_FILES"][:3] == ["7", "environment", "CAPTIONAPP_MAX_FILES"]
    assert rows["CAPTIONAPP_NUM_BEAMS"][:2] == ["2", "config.py"]
    assert rows["CAPTIONAPP_WAIT_SECONDS"][:2] == ["30.0", "default"]
    for name, field in Settings.model_fields.items():
        assert f"CAPTIONAPP_{name.upper()}" in rows
        assert str(field.description) in result.output


def test_secrets_are_not_shown(make_app: Any) -> None:
    app = make_app(CAPTIONAPP_ADMIN_PASSWORD="hunter2", CAPTIONAPP_SECRET_KEY="topsecretkey")
    result = app.test_cli_runner().invoke(args=["settings"])
    assert "hunter2" not in result.output
    assert "topsecretkey" not in result.output
    assert result.output.count("(set)") == 2
