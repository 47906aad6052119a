"""``flask feedback``: what people answered."""

from __future__ import annotations

import dataclasses
import json

import click

from captionapp.cli.base import Commands, table
from captionapp.feedback.repository import FeedbackStats
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
