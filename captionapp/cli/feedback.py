"""``flask feedback``: what people answered."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import click

from captionapp.cli.base import Commands, table
from captionapp.feedback.interchange import read_entries
from captionapp.feedback.repository import FeedbackStats
from captionapp.feedback.transfer import export_feedback
from captionapp.web.current import workflow


@click.group("feedback", cls=Commands)
def group() -> None:
    """What people answered."""


@group.command("stats")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def stats(as_json: bool) -> None:
    """Count the answers in feedback.csv: accepted, corrected, by reason and by model version."""
    counted = workflow().feedback.stats()
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(counted), ensure_ascii=False))
    else:
        click.echo(described(counted))


@group.command("import")
@click.argument("path", metavar="PATH", type=click.Path(exists=True, path_type=Path))
def import_answers(path: Path) -> None:
    """Bring in pictures with captions that people wrote.

    PATH is an imagefolder (pictures and a metadata.csv with the columns file_name and caption), or
    a CSV file with the columns image, caption and feedback. The version that is served now captions
    the pictures first: what a person wrote then accepts or corrects that. Answers that are there
    already add nothing. What cannot be brought in is said on standard error, and the exit status is
    1, after everything else has been done. After an interruption, the same command goes on.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    entries = read_entries(path)
    outcomes: Counter[str] = Counter()
    try:
        with tqdm(total=len(entries), unit="answer", disable=None) as bar:
            for result in workflow().import_feedback(entries):
                outcomes[result.outcome] += 1
                if result.row:
                    outcomes[result.row.verdict] += 1
                if result.problem:
                    with bar.external_write_mode():
                        click.echo(f"{result.where}: {result.problem}", err=True)
                bar.update()
    except KeyboardInterrupt:
        click.echo(
            f"Interrupted. {outcomes['added']} answers have been added and are kept; the same"
            " command goes on with the others.",
            err=True,
        )
        raise click.exceptions.Exit(130) from None
    click.echo(
        f"{len(entries)} answers: {outcomes['added']} added ({outcomes['accepted']} accepted the"
        f" caption, {outcomes['corrected']} corrected it), {outcomes['known']} were there already."
    )
    if outcomes["skipped"]:
        raise click.ClickException(
            f"{outcomes['skipped']} of {len(entries)} answers could not be brought in."
        )


@group.command("export")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--csv", "old_columns", is_flag=True, help="A CSV of the columns image, caption, feedback."
)
def export_answers(folder: Path, old_columns: bool) -> None:
    """Write the answers with their pictures into DIR, a new folder, as an imagefolder.

    Its metadata.csv has the latest answer of each picture, and all of it but who gave it. Text is
    written to the letter: do not open the files in a spreadsheet program.
    """
    from tqdm import tqdm

    flow = workflow()
    rows = flow.feedback.rows()
    pictures = len({(row.image_id, row.image_name) for row in rows})
    with tqdm(total=pictures, unit="picture", disable=None) as bar:
        done = export_feedback(rows, flow.store, folder, old_columns, bar.update)
    click.echo(f"{done.answers} answers about {done.pictures} pictures are in {folder}.")
    if done.missing:
        raise click.ClickException(
            f"{len(done.missing)} pictures are no longer stored, so that their answers were left"
            f" out: {', '.join(done.missing[:5])}{' …' if len(done.missing) > 5 else ''}"
        )


def described(stats: FeedbackStats) -> str:
    """The statistics as lines for a person."""
    rate = "-" if stats.acceptance_rate is None else f"{stats.acceptance_rate:.1%}"
    lines = [
        ("answers", str(stats.rows)),
        ("pictures", str(stats.pictures)),
        ("accepted", f"{stats.accepted} ({rate})"),
        ("corrected", str(stats.corrected)),
        ("first", stats.first or "-"),
        ("last", stats.last or "-"),
    ]
    lines += [(f"reason {reason}", str(count)) for reason, count in stats.by_reason.items()]
    lines += [(f"version {name}", str(count)) for name, count in stats.by_model_version.items()]
    return table(lines)
