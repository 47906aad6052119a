from __future__ import annotations

import errno
import json
import os
import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest

from captionapp.captioning.versions import ModelVersions
from captionapp.errors import ModelUnavailable, PullFailed, UnknownVersion
from tests.tiny_blip import make_tiny_blip


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_blip(tmp_path_factory.mktemp("made") / "Tiny BLIP")


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    folder = tmp_path / "fine-tuned-model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("# A model")
    return folder


@pytest.fixture
def versions(tmp_path: Path, shipped: Path) -> ModelVersions:
    return ModelVersions(tmp_path / "models", shipped)


def test_the_shipped_version_is_current_and_named_after_its_weights(
    versions: ModelVersions, shipped: Path
) -> None:
    first = versions.current()
    assert (first.origin, first.folder) == ("shipped", shipped)
    assert first == versions.current() == versions.get(first.name)
    assert first.name.startswith("shipped-") and len(first.name) == len("shipped-") + 8
    (shipped / "model.safetensors").write_bytes(b"other weights")
    assert versions.current().name != first.name
    assert versions.model_card(first) == "# A model"


def test_weights_are_hashed_once(versions: ModelVersions, monkeypatch: pytest.MonkeyPatch) -> None:
    name = versions.current().name
    monkeypatch.setattr("hashlib.file_digest", None)
    assert versions.current().name == name


def test_without_weights_nothing_can_be_served(tmp_path: Path) -> None:
    empty = ModelVersions(tmp_path / "models", tmp_path / "fine-tuned-model")
    with pytest.raises(ModelUnavailable, match="no checkpoint"):
        empty.current()
    assert list(empty.list()) == []


def test_a_pulled_folder_is_whole_and_can_be_made_current(
    versions: ModelVersions, checkpoint: Path
) -> None:
    pulled = versions.pull(str(checkpoint))
    assert pulled.name.startswith("tiny-blip-")
    assert (pulled.origin, pulled.source) == ("pulled", str(checkpoint))
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(os.listdir(pulled.folder))
    assert [one.name for one in versions.list()][1:] == [pulled.name]
    assert versions.current().origin == "shipped"  # pulling alone promotes nothing
    versions.set_current(pulled.name)
    assert versions.current() == pulled
    assert versions.pull(str(checkpoint)) == pulled  # once more is the same
    assert not list(versions.models_folder.glob(".*"))


def test_what_cannot_caption_is_not_pulled(
    versions: ModelVersions, checkpoint: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(checkpoint, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(b"short")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder, reason in [(broken, "does not work"), (other, "not a BLIP"), (empty, "config")]:
        with pytest.raises(PullFailed, match=reason):
            versions.pull(str(folder))
    assert [one.origin for one in versions.list()] == ["shipped"]
    assert list(versions.models_folder.iterdir()) == []


def test_a_name_that_cannot_be_one_is_refused_in_one_sentence(versions: ModelVersions) -> None:
    with pytest.raises(PullFailed, match="neither a folder nor a name on the hub"):
        versions.pull("no/such/model at all")


def test_the_setting_goes_over_the_pointer(
    versions: ModelVersions, checkpoint: Path, shipped: Path
) -> None:
    versions.set_current(versions.pull(str(checkpoint)).name)
    folder = ModelVersions(versions.models_folder, shipped, str(shipped)).current()
    assert (folder.origin, folder.folder) == ("local", shipped.resolve())


def test_a_pulled_version_is_found_by_the_name_it_was_pulled_under(
    versions: ModelVersions, checkpoint: Path, shipped: Path
) -> None:
    pulled = versions.pull(str(checkpoint))
    metadata = pulled.folder / "version.json"
    metadata.write_text(metadata.read_text().replace(str(checkpoint), "someone/tiny"))
    for setting in ("someone/tiny", pulled.name):
        assert ModelVersions(versions.models_folder, shipped, setting).current().name == pulled.name


def test_the_name_of_a_version_is_not_that_of_the_one_trained_from_it(
    versions: ModelVersions, checkpoint: Path, shipped: Path
) -> None:
    parent = versions.pull(str(checkpoint))
    child = parent.folder.with_name("trained-from-it")
    shutil.copytree(parent.folder, child)
    metadata = json.loads((child / "version.json").read_text())
    metadata |= {"name": child.name, "origin": "trained", "source": parent.name}
    metadata["created_at"] = "2099-01-01T00:00:00Z"
    (child / "version.json").write_text(json.dumps(metadata))
    assert versions.list()[-1].name == child.name
    pinned = ModelVersions(versions.models_folder, shipped, parent.name)
    assert pinned.current().name == parent.name


def test_a_hub_name_is_found_in_the_local_cache(
    versions: ModelVersions, shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--someone--tiny"
    (repo / "snapshots" / commit).mkdir(parents=True)
    (repo / "snapshots" / commit / "model.safetensors").write_bytes(b"weights")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    found = ModelVersions(versions.models_folder, shipped, "someone/tiny").current()
    assert (found.name, found.origin) == ("tiny-01234567", "hub cache")
    assert found.folder == repo / "snapshots" / commit


def test_a_setting_that_names_nothing_is_unavailable(
    versions: ModelVersions, shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    missing = ModelVersions(versions.models_folder, shipped, "someone/missing")
    with pytest.raises(ModelUnavailable, match="flask model pull someone/missing"):
        missing.current()


def test_a_pointer_to_nothing_or_with_nothing_in_it_says_so(versions: ModelVersions) -> None:
    with pytest.raises(UnknownVersion):
        versions.set_current("v9")
    versions.models_folder.mkdir()
    pointer = versions.models_folder / "current.json"
    for content, reason in [('{"version": "v9"}', "gone"), ("{", "cannot be read")]:
        pointer.write_text(content)
        with pytest.raises(ModelUnavailable, match=reason):
            versions.current()


def test_what_is_half_written_is_not_listed(versions: ModelVersions) -> None:
    (versions.models_folder / ".pull-x").mkdir(parents=True)
    (versions.models_folder / ".pull-x" / "version.json").write_text("{}")
    (versions.models_folder / "v1").mkdir()
    assert [one.origin for one in versions.list()] == ["shipped"]


def test_one_version_that_cannot_be_read_hides_no_other(
    versions: ModelVersions, caplog: pytest.LogCaptureFixture
) -> None:
    for name, content in [
        ("bad", "{"),
        ("odd", "[]"),
        ("v1", '{"origin": "trained", "created_at": "x"}'),
    ]:
        (versions.models_folder / name).mkdir(parents=True)
        (versions.models_folder / name / "version.json").write_text(content)
    versions.set_current("v1")
    assert versions.current().name == versions.current().name == "v1"
    assert [one.origin for one in versions.list()] == ["shipped", "trained"]
    assert len(caplog.records) == 2  # each is told of once


def test_parts_that_do_not_fit_are_not_pulled(
    versions: ModelVersions, checkpoint: Path, tmp_path: Path
) -> None:
    odd = Path(shutil.copytree(checkpoint, tmp_path / "odd"))
    processor = json.loads((odd / "processor_config.json").read_text())
    processor["image_processor"]["size"] = {"height": 48, "width": 48}  # the model has 32
    (odd / "processor_config.json").write_text(json.dumps(processor))
    with pytest.raises(PullFailed, match="do not fit"):
        versions.pull(str(odd))
    assert list(versions.models_folder.iterdir()) == []


def test_no_pickles_are_taken_where_there_are_safetensors(
    versions: ModelVersions, checkpoint: Path, tmp_path: Path
) -> None:
    both = Path(shutil.copytree(checkpoint, tmp_path / "both"))
    (both / "pytorch_model.bin").write_bytes(b"pickle")
    assert not (versions.pull(str(both)).folder / "pytorch_model.bin").exists()


def test_what_a_killed_pull_left_is_removed_in_the_end(
    versions: ModelVersions, checkpoint: Path
) -> None:
    for name in (".pull-killed", ".pull-going"):
        (versions.models_folder / name).mkdir(parents=True)
    os.utime(versions.models_folder / ".pull-killed", (0, 0))
    versions.pull(str(checkpoint))
    assert [path.name for path in versions.models_folder.glob(".*")] == [".pull-going"]


def hub_answers(monkeypatch: pytest.MonkeyPatch, answer: object) -> list[str]:
    """What the hub says of any model: the information, or an error. Returns what it was asked."""
    asked: list[str] = []

    def model_info(self: object, repo: str, timeout: float) -> object:
        asked.append(repo)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    return asked


@pytest.mark.parametrize(
    "error, reason",
    [
        (ConnectionError("no route"), "the hub cannot be reached"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left"),
    ],
)
def test_a_download_that_fails_says_why_in_one_sentence(
    versions: ModelVersions,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    reason: str,
) -> None:
    asked = hub_answers(monkeypatch, error)
    with pytest.raises(PullFailed, match=reason) as caught:
        versions.pull("someone/tiny")
    assert asked == ["someone/tiny"]
    assert len(str(caught.value).splitlines()) == 1
    assert not caplog.records  # a traceback before the sentence hides it
    assert list(versions.models_folder.iterdir()) == []


def test_a_name_that_can_be_none_is_refused(versions: ModelVersions) -> None:
    with pytest.raises(PullFailed, match="neither a folder nor a name"):
        versions.pull("no/such/folder")


def test_a_download_is_of_one_commit_and_a_version_like_any_other(
    versions: ModelVersions, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [*os.listdir(checkpoint), "pytorch_model.bin", "tf_model.h5"]
    info = SimpleNamespace(sha="0" * 40, siblings=[SimpleNamespace(rfilename=x) for x in names])
    hub_answers(monkeypatch, info)

    def snapshot_download(
        repo: str, revision: str, local_dir: Path, allow_patterns: list[str]
    ) -> None:
        assert revision == "0" * 40
        assert not [x for x in allow_patterns if fnmatch("pytorch_model.bin", x)]
        assert not [x for x in allow_patterns if fnmatch("tf_model.h5", x)]
        shutil.copytree(checkpoint, local_dir, dirs_exist_ok=True)
        (local_dir / ".cache").mkdir()

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    pulled = versions.pull("someone/Tiny")
    assert (pulled.source, pulled.origin) == ("someone/Tiny", "pulled")
    assert pulled.name.startswith("tiny-")
    assert not (pulled.folder / ".cache").exists()
