"""The model card of a trained version: README.md with the header that the Hub reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from captionapp.captioning.versions import ModelVersion, ModelVersions
from captionapp.errors import CaptionAppError

FILE = "README.md"
#: Of the card of the version that it was made from: its terms hold for what is made of it.
_INHERITED = ("language", "license", "license_name", "license_link")
_DATA = {
    "corrected": "corrections that it learnt",
    "watched": "corrections that it was stopped by",
    "accepted": "accepted captions that were rehearsed",
    "unanswered": "pictures without an answer that were rehearsed",
    "retained": "retained pictures that were rehearsed",
    "held_out": "answers that were held out, to judge it by",
}


def write_card(
    folder: Path,
    name: str,
    start: ModelVersion,
    versions: ModelVersions,
    details: Mapping[str, Any],
) -> None:
    """Write the card of the version ``name``, made from ``start``, into its ``folder``.

    Raises:
        OSError: if it cannot be written.
    """
    from huggingface_hub import ModelCardData

    header = ModelCardData(
        **_terms(versions.model_card(start)),
        library_name="transformers",
        pipeline_tag="image-to-text",
        base_model=start.source if start.origin == "pulled" else start.name,
        tags=["image-captioning", "blip", "captionapp"],
    )
    text = f"---\n{header.to_yaml()}\n---\n\n{_body(name, _lineage(start, versions), details)}"
    (folder / FILE).write_text(text, encoding="utf-8")


def _terms(card: str) -> dict[str, Any]:
    if not card.startswith("---"):
        return {}
    from huggingface_hub import ModelCard

    try:
        parsed = ModelCard(card, ignore_metadata_errors=True)
        known: dict[str, Any] = parsed.data.to_dict()  # type: ignore[no-untyped-call]
    except Exception:  # whatever a broken header raises, it names no terms
        return {}
    return {name: known[name] for name in _INHERITED if known.get(name)}


def _lineage(start: ModelVersion, versions: ModelVersions) -> list[str]:
    """From the first ancestor that is known to the version that it was made from."""
    chain = [start.name]
    version = start
    while (parent := str(version.details.get("parent") or "")) and parent not in chain:
        chain.insert(0, parent)
        try:
            version = versions.get(parent)
        except CaptionAppError:  # it was cleared away; its name is known all the same
            break
    return chain


def _body(name: str, lineage: Sequence[str], details: Mapping[str, Any]) -> str:
    figures, config = details["figures"], details["config"]
    counts = details.get("data") or {}
    data = [(text, counts[key]) for key, text in _DATA.items() if key in counts]
    made = [
        ("vision half", figures["vision"]),
        ("method", figures["method"]),
        ("steps", f"{figures['step']} of {figures['steps']}"),
        ("minutes", f"{figures['seconds'] / 60:.1f}"),
        ("loss on corrections, nats a token", _number(figures["loss"])),
        ("loss on watched corrections before", _number(figures["first_held_out_loss"])),
        ("loss on watched corrections at best", _number(figures["best_held_out_loss"])),
    ]
    return "\n".join(
        [
            f"# {name}",
            "",
            "A BLIP captioning model, fine-tuned by captionapp on what people corrected.",
            "",
            f"Lineage: {' → '.join([*lineage, name])}. What the card of {lineage[-1]} says of its "
            "terms, its limits and its biases holds here as well.",
            "",
            *_table("data", [*data, ("fingerprint", f"`{details.get('data_fingerprint', '')}`")]),
            "",
            *_table("training", made),
            "",
            "How good it is, beside the version that was current, is in `evaluation.json` once "
            "`flask model evaluate` has been run; every hyperparameter is in `version.json`.",
            f"The seed was {config['seed']}.",
            "",
        ]
    )


def _table(title: str, rows: Sequence[tuple[str, object]]) -> list[str]:
    return [f"| {title} | |", "| --- | ---: |", *(f"| {name} | {value} |" for name, value in rows)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
