"""``flask model promote``, ``rollback``, ``list`` and ``prune``: which version is served."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from captionapp.captioning.pointer import PointerChange
from captionapp.captioning.versions import ModelVersion
from captionapp.cli.base import progress_of_captions, table
from captionapp.cli.model import group
from captionapp.errors import ModelUnavailable
from captionapp.training.compare import Report
from captionapp.web.current import workflow


@group.command("promote")
@click.argument("version")
@click.option(
    "--retained",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Imagefolder on which the version must not have become worse.",
)
@click.option("--force", metavar="REASON", help="Promote it although it is refused, and say why.")
def promote(version: str, retained: Path | None, force: str | None) -> None:
    """Make a version the current one; running servers follow within seconds.

    A trained version has to be shown to be better on held-out corrections, not to have forgotten
    what it knew, and not to say the same of every picture. Any version has to load.
    """
    with progress_of_captions() as on_progress:
        change = workflow().promotion.promote(version, force, retained, on_progress)
    forced = "FORCED: " if change.forced else ""
    instead = f" instead of {change.previous}" if change.previous else ""
    click.echo(f"{change.version} is the current version{instead} ({forced}{change.reason}).")


@group.command("rollback")
def rollback() -> None:
    """Return to the version before the current one; running servers follow within seconds."""
    change = workflow().promotion.rollback()
    # ``previous`` is what another rollback would return to, not what was left.
    click.echo(f"{change.version} is the current version again ({change.reason}).")


@group.command("prune")
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="Newest versions that stay.",
)
def prune(keep: int) -> None:
    """Remove old versions, never the current one nor the one that a rollback returns to."""
    removed = workflow().promotion.prune(keep)
    for name in removed:
        click.echo(f"Removed {name}.")
    if not removed:
        click.echo("There is nothing to remove.")


@group.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_versions(as_json: bool) -> None:
    """List the versions there are, what they came from and how good they are.

    A star marks the one that would be served, a minus the one that a rollback returns to.
    """
    rows = described_versions()
    if as_json:
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False))
        return
    lines = [("", "version", "origin", "created_at", "parent", "folder", "report")]
    for row in rows:
        mark = "*" if row["current"] else "-" if row["previous"] else ""
        told = "; ".join(part for part in (row["why"], row["report"]) if part)
        created = str(row["created_at"])
        lines.append(
            (mark, row["version"], row["origin"], created, row["parent"], row["folder"], told)
        )
    click.echo(table(lines))


def described_versions() -> list[dict[str, Any]]:
    """Every version with its lineage, its figures, and why it is current if it is."""
    flow = workflow()
    try:
        current = flow.versions.current().name
        last = flow.versions.pointer.last()
    except ModelUnavailable as error:  # what there is can be listed all the same
        click.echo(f"Nothing can be served: {error}", err=True)
        current, last = "", None
    rows = []
    for version in flow.versions.list_with_current():
        report = flow.promotion.report_of(version)
        rows.append(
            {
                "version": version.name,
                "origin": version.origin,
                "created_at": version.created_at,
                "parent": version.parent or "-",
                "current": version.name == current,
                "previous": last is not None and version.name == last.previous,
                "why": _why(version, current, last, flow.versions.model_setting),
                "report": _in_short(report),
                "figures": dataclasses.asdict(report.candidate_figures) if report else None,
                "folder": str(version.folder),
            }
        )
    return rows


def _why(version: ModelVersion, current: str, last: PointerChange | None, setting: str) -> str:
    if version.name != current:
        return ""
    if setting:
        return "current because CAPTIONAPP_MODEL names it"
    if last is None:
        return "current because none was promoted"
    forced = "forced: " if last.forced else ""
    return f"current since {last.at} ({forced}{last.reason})"


def _in_short(report: Report | None) -> str:
    if report is None:
        return ""
    said = (
        f"{report.verdict} than {report.current}"
        if report.verdict != "cannot tell"
        else f"cannot be told from {report.current}"
    )
    figures = f"CIDEr {report.candidate_figures.cider:.3f} after {report.current_figures.cider:.3f}"
    if report.probability_better is not None:
        figures += f", probability {report.probability_better:.3f}"
    return f"{said} on {report.compared} pictures ({figures})"
