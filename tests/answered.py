"""feedback.csv: its rows, its bytes, and what was set aside."""

from __future__ import annotations

import uuid
from pathlib import Path

from captionapp.feedback.repository import CsvFeedbackRepository, FeedbackRow, Reason, Verdict
from captionapp.feedback.rows import encode

HEADER = (
    "id,created_at,image_id,image_name,caption,feedback,verdict,reasons,model_version,contributor"
)


def make_row(**changes: object) -> FeedbackRow:
    values: dict[str, object] = {
        "id": uuid.uuid4().hex,
        "created_at": "2026-11-23T12:00:00.000Z",
        "image_id": "a" * 32,
        "image_name": "dog.jpg",
        "caption": "a dog",
        "feedback": "a brown dog",
        "verdict": Verdict.CORRECTED,
        "reasons": (Reason.INACCURATE, Reason.TOO_LONG),
        "model_version": "shipped-1a2b3c4d",
        "contributor": "c" * 32,
    }
    return FeedbackRow(**{**values, **changes})  # type: ignore[arg-type]


def torn_files(repository: CsvFeedbackRepository) -> list[Path]:
    return sorted(repository.path.parent.glob("feedback.csv.torn-*"))


def append_bytes(repository: CsvFeedbackRepository, data: bytes) -> None:
    with open(repository.path, "ab") as file:
        file.write(data)


def line_of(row: FeedbackRow) -> bytes:
    """A row as the repository writes it, with its line end."""
    return encode([row])
