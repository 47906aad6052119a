"""``flask model evaluate``: how good versions are, beside the current one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from captionapp.cli.base import progress_of_captions, table
from captionapp.cli.model import group
from captionapp.training.compare import Outcome, PictureResult, Report
from captionapp.training.evaluate import MEASURES, Figures, Measure
from captionapp.web.current import workflow
from captionapp.workflow import Workflow

#: Wins and losses that are printed; the report has them all.
SHOWN = 3


@group.command("evaluate")
@click.argument("versions", metavar="[VERSION ...]", nargs=-1)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Imagefolder with captions, instead of the held-out answers.",
)
@click.option(
    "--retained",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Imagefolder on which a version must not have become worse.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def evaluate(
    versions: tuple[str, ...], data: Path | None, retained: Path | None, as_json: bool
) -> None:
    """Compare versions with the current one on pictures that none was trained on.

    Without a VERSION, the newest trained one is compared; if there is none, the figures are those
    of the current version. A report is kept with each version, with both captions of each picture.
    """
    if data and retained:
        raise click.UsageError("--retained goes with the held-out answers, not with --data.")
    flow = workflow()
    current = flow.versions.current()
    chosen = dict.fromkeys(versions or _newest_trained(flow))
    names = [flow.versions.get(name).name for name in chosen if name != current.name]
    if retained and not names:
        raise click.UsageError("--retained judges a version beside the current one: name one.")
    with progress_of_captions() as on_progress:
        if not names:
            given = flow.promotion.prover.folder(data) if data else flow.promotion.prover.held_out()
            figures = flow.promotion.prover.figures(current, given, on_progress)
            reports: list[Report] = []
            if given.skipped:
                click.echo(_left_out(given.skipped), err=True)
        else:
            reports = [
                flow.promotion.evaluate_on(name, data, on_progress)
                if data
                else flow.promotion.evaluate(name, retained, on_progress)
                for name in names
            ]
            figures = reports[0].current_figures
    if as_json:
        click.echo(json.dumps(as_object(current.name, figures, reports), ensure_ascii=False))
        return
    click.echo(figures_table(current.name, figures, reports))
    for report in reports:
        click.echo(f"\n{described(report)}")
        click.echo(f"\nEvery picture with both captions: {flow.promotion.file_of(report, data)}")


def _newest_trained(flow: Workflow) -> Sequence[str]:
    return [one.name for one in flow.versions.list() if one.origin == "trained"][-1:]


def as_object(current: str, figures: Figures, reports: Sequence[Report]) -> dict[str, Any]:
    """For programs: the current version's figures, and every report as a whole."""
    return {
        "current": {"version": current, "figures": figures.as_dict()},
        "reports": [dataclasses.asdict(report) for report in reports],
    }


def figures_table(current: str, figures: Figures, reports: Sequence[Report]) -> str:
    """A column for each version.

    CIDEr depends on the pictures that a report is about, the retained ones too: where these differ,
    the current version stands once more before those that have to be compared with it.
    """
    columns = [] if reports else [(f"{current} (current)", figures)]
    shown = None
    for report in reports:
        kept = report.retained
        judged_on = (report.data_fingerprint, kept and (kept.source, kept.pictures))
        if judged_on != shown:
            shown = judged_on
            columns.append((f"{current} (current)", report.current_figures))
        columns.append((report.candidate, report.candidate_figures))
    rows = [["", *(name for name, _ in columns)]]
    rows.append(["Pictures", *(str(one.pictures) for _, one in columns)])
    for measure in MEASURES:
        rows.append([measure.label, *(_shown(measure, one) for _, one in columns)])
    return table(rows)


def _shown(measure: Measure, figures: Figures) -> str:
    kind = "%" if measure.share else "f"
    return f"{getattr(figures, measure.field):.{measure.decimals}{kind}}"


def described(report: Report) -> str:
    """For a person: the verdict, the slices, some wins and losses, the reasons of the gate."""
    lines = [_verdict(report)]
    if report.slices:
        lines += ["", _slices(report)]
    if report.retained:
        kept = report.retained
        lines += [
            "",
            f"On {kept.pictures} retained pictures of {kept.source}: CIDEr "
            f"{kept.candidate_figures.cider:.3f} after {kept.current_figures.cider:.3f} "
            f"({kept.change:+.1%}).",
        ]
    if report.votes.votes:
        lines += [
            "",
            f"Blind votes: {report.votes.candidate} for it, {report.votes.current} for the current "
            f"version, {report.votes.both + report.votes.neither} without a preference.",
        ]
    lines += [*_some(report, "win", "Wins"), *_some(report, "loss", "Losses")]
    if report.skipped:
        lines += ["", _left_out(report.skipped)]
    if report.refusals:
        lines += ["", f"{report.candidate} would not be promoted:"]
        lines += [f"- {reason}" for reason in report.refusals]
    return "\n".join(lines)


def _left_out(pictures: Sequence[str]) -> str:
    return f"Left out, as they cannot be read: {', '.join(pictures)}."


def _verdict(report: Report) -> str:
    counts = (
        f"{report.count('win')} wins, {report.count('tie')} ties, {report.count('loss')} losses "
        f"on {report.pictures} pictures of {report.source}"
    )
    if report.probability_better is None:
        return (
            f"{report.candidate} against {report.current}: cannot tell, from {report.compared} "
            f"pictures that count: CAPTIONAPP_MIN_HELD_OUT asks for more. {counts}."
        )
    return (
        f"{report.candidate} against {report.current}: {report.verdict}, with probability "
        f"{report.probability_better:.3f} on {report.compared} pictures that count. {counts}."
    )


def _slices(report: Report) -> str:
    rows = [["slice", "pictures", "CIDEr", "before", "wins", "ties", "losses"]]
    for name, part in report.slices.items():
        counts = (part.wins, part.ties, part.losses)
        cider = (f"{part.candidate_cider:.3f}", f"{part.current_cider:.3f}")
        rows.append([name, str(part.pictures), *cider, *map(str, counts)])
    return table(rows)


def _some(report: Report, outcome: Outcome, title: str) -> list[str]:
    some = report.of(outcome)[:SHOWN]
    if not some:
        return []
    pairs = [line for row in some for line in _pair(row)]
    return ["", f"{title}, {len(some)} of {report.count(outcome)}:", *pairs]


def _pair(row: PictureResult) -> list[str]:
    return [
        f"  {row.image_id}: {row.references[0]!r}",
        f"    now    {row.candidate!r} ({row.candidate_score:.2f})",
        f"    before {row.current!r} ({row.current_score:.2f})",
    ]
