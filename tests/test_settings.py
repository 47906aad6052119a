from __future__ import annotations

from pathlib import Path

import pytest

from captionapp import create_app, settings
from captionapp.errors import InvalidSetting
from captionapp.settings import Settings


def test_environment_over_config_file_over_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = tmp_path / "instance"
    instance.mkdir()
    (instance / "config.py").write_text(
        "CAPTIONAPP_MAX_FILES = 3\nCAPTIONAPP_QUEUE_SIZE = 50\nMY_OWN = 1\n"
    )
    monkeypatch.setenv("CAPTIONAPP_QUEUE_SIZE", "70")
    chosen, flask_config, sources = settings.load()
    assert (chosen.max_files, chosen.queue_size, chosen.num_beams) == (3, 70, 3)
    assert flask_config == {"MY_OWN": 1}
    source = dict(zip(Settings.model_fields, sources, strict=True))
    assert source["max_files"] == "config.py"
    assert source["queue_size"] == "environment CAPTIONAPP_QUEUE_SIZE"
    assert source["num_beams"] == "default"


def test_an_argument_of_create_app_goes_over_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CAPTIONAPP_QUEUE_SIZE", "70")
    assert settings.load({"CAPTIONAPP_QUEUE_SIZE": 90})[0].queue_size == 90


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_FILES", "many"),
        ("MAX_FILES", "0"),
        ("UNDO_MINUTES", "0"),
        ("NUM_BEAMS", "99"),
        ("LENGTH_PENALTY", "nan"),
        ("RATE_LIMIT", "often"),
        ("LOG_FORMAT", "xml"),
        ("CORRECTION_MEMORY", "yes"),
        ("HTTPS", "perhaps"),
    ],
)
def test_a_bad_value_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"CAPTIONAPP_{name}", value)
    with pytest.raises(InvalidSetting, match=f"CAPTIONAPP_{name}.*{value}"):
        create_app()


def test_a_queue_must_hold_one_request() -> None:
    with pytest.raises(InvalidSetting, match="CAPTIONAPP_QUEUE_SIZE.*CAPTIONAPP_MAX_FILES"):
        settings.load({"CAPTIONAPP_QUEUE_SIZE": 8, "CAPTIONAPP_MAX_FILES": 9})


def test_a_misspelt_setting_is_refused_with_a_suggestion(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidSetting, match="did you mean CAPTIONAPP_MAX_FILES"):
        settings.load({"CAPTIONAPP_MAX_FILE": 3})
    monkeypatch.setenv("CAPTIONAPP_MAX_FILE", "3")  # others write there too: a warning will do
    settings.load()
    assert "did you mean CAPTIONAPP_MAX_FILES" in caplog.text


def test_a_broken_config_file_is_named(tmp_path: Path) -> None:
    instance = tmp_path / "instance"
    instance.mkdir()
    (instance / "config.py").write_text("this is not python")
    with pytest.raises(InvalidSetting, match=r"config\.py cannot be read"):
        settings.load()


def test_an_instance_folder_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CAPTIONAPP_INSTANCE", str(tmp_path / "file" / "instance"))
    with pytest.raises(InvalidSetting, match="CAPTIONAPP_INSTANCE"):
        create_app()


def test_secrets_are_masked_in_errors() -> None:
    with pytest.raises(InvalidSetting) as caught:
        settings.load({"CAPTIONAPP_ADMIN_PASSWORD": ["hush-hush"]})
    assert "hush-hush" not in str(caught.value)


def test_the_secret_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    first, second = create_app(), create_app()
    assert len(first.config["SECRET_KEY"]) == 64
    assert first.config["SECRET_KEY"] == second.config["SECRET_KEY"]
    path = tmp_path / "instance" / "secret_key"
    assert path.stat().st_mode & 0o077 == 0
    assert create_app({"CAPTIONAPP_SECRET_KEY": "mine"}).config["SECRET_KEY"] == "mine"


def test_an_emptied_secret_key_is_an_error_and_not_a_key(tmp_path: Path) -> None:
    create_app()
    (tmp_path / "instance" / "secret_key").write_text("")
    with pytest.raises(InvalidSetting, match="is empty"):
        create_app()


def test_every_setting_has_a_help_text_and_stands_in_the_readme() -> None:
    readme = (settings.ROOT / "README.md").read_text()
    for name, field in Settings.model_fields.items():
        assert field.description
        assert f"`CAPTIONAPP_{name.upper()}`" in readme


def test_words_are_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIONAPP_BAD_WORDS", "arafed, photo ,")
    assert settings.load()[0].bad_words == ("arafed", "photo")


def test_the_threads_of_all_workers_fit_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "available_cores", lambda: 8)
    assert Settings(workers=3).threads_of_model() == 2
    assert Settings(workers=16).threads_of_model() == 1
    assert Settings(torch_threads=5).threads_of_model() == 5


def test_flask_s_own_settings_go_over_ours(tmp_path: Path) -> None:
    app = create_app({"SESSION_COOKIE_SECURE": True, "WTF_CSRF_TIME_LIMIT": None})
    assert app.config["SESSION_COOKIE_SECURE"] is True
    assert app.config["WTF_CSRF_TIME_LIMIT"] is None
    assert app.config["SESSION_COOKIE_HTTPONLY"] is True


def test_the_instance_folder_cannot_be_named_inside_itself(tmp_path: Path) -> None:
    (tmp_path / "instance").mkdir()
    (tmp_path / "instance" / "config.py").write_text("CAPTIONAPP_INSTANCE = 'elsewhere'\n")
    with pytest.raises(InvalidSetting, match="CAPTIONAPP_INSTANCE cannot be set in config.py"):
        settings.load()


def test_a_database_that_is_none_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "instance").mkdir()
    (tmp_path / "instance" / "captionapp.db").write_text("this is no database, however long" * 99)
    with pytest.raises(InvalidSetting, match="captionapp.db cannot be used"):
        create_app()


def test_a_folder_to_retain_is_seen_from_where_the_process_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is the instance folder; a training that is started from the page may be elsewhere."""
    monkeypatch.chdir(tmp_path)
    for given, meant in (("kept", str(tmp_path / "kept")), ("/kept", "/kept"), ("", "")):
        monkeypatch.setenv("CAPTIONAPP_RETAIN", given)
        assert settings.load()[0].retain == meant
