"""``flask model``: the checkpoint that is served, and what it says of pictures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from captionapp.captioning.captioner import (
    LENGTHS,
    MAX_ALTERNATIVES,
    MAX_BEAMS,
    MAX_NEW_TOKENS,
    Caption,
)
from captionapp.cli import files as picture_files
from captionapp.cli.base import Commands, table
from captionapp.cli.checkpoint import facts
from captionapp.neutral import neutral
from captionapp.settings import available_cores
from captionapp.web.current import workflow


@click.group("model", cls=Commands)
def group() -> None:
    """The checkpoint that is served, and what it says of pictures."""


@group.command("warmup")
def warmup() -> None:
    """Load the version that would be served, make one real caption, and say what that took."""
    warm = workflow().service.warm_up()
    click.echo(
        f"{warm.version}: loaded in {warm.load_seconds:.2f} s, "
        f"one caption in {warm.caption_seconds:.2f} s ({warm.caption!r})"
    )


@group.command("info")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def info(as_json: bool) -> None:
    """Describe the version that would be served, and the settings it runs with. Loads nothing."""
    described = describe_served()
    if as_json:
        click.echo(json.dumps(described, ensure_ascii=False))
        return
    lines = []
    for name, value in described.items():
        if isinstance(value, dict):
            lines += [(f"{name}.{inner}", _shown(known)) for inner, known in value.items()]
        else:
            lines.append((name, _shown(value)))
    click.echo(table(lines))


def describe_served() -> dict[str, Any]:
    """Version, files, decoding and settings as one flat object of two levels.

    Raises:
        ModelUnavailable: if there is no checkpoint to describe.
    """
    flow = workflow()
    version = flow.versions.current()
    settings = flow.settings
    return {
        "version": version.name,
        "origin": version.origin,
        "created_at": version.created_at,
        "folder": str(version.folder),
        **facts(version.folder),
        "decoding": dataclasses.asdict(settings.decode_options()),
        "settings": {
            "model": settings.model,
            "batch_size": settings.batch_size,
            "queue_size": settings.queue_size,
            "threads_of_model": settings.threads_of_model(),
        },
    }


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value) if value not in ("", None) else "-"


@group.command("caption")
@click.argument(
    "paths",
    metavar="FILE...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path),
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--prompt", default="", help="The beginning of every caption.")
@click.option(
    "--alternatives",
    type=click.IntRange(1, MAX_ALTERNATIVES),
    default=1,
    help="So many different texts of each picture, a line each.",
)
@click.option(
    "--avoid", multiple=True, metavar="WORD", help="A word that is not written; several times."
)
@click.option("--length", type=click.Choice(LENGTHS[1:]), help="A short or a longer sentence.")
@click.option(
    "--neutral/--no-neutral",
    "neutral_words",
    default=None,
    help="Write the captions without guesses at gender.",
)
@click.option("--beams", type=click.IntRange(1, MAX_BEAMS), help="Beams of the search.")
@click.option(
    "--max-new-tokens", type=click.IntRange(1, MAX_NEW_TOKENS), help="Longest caption, in tokens."
)
@click.option("--batch-size", type=click.IntRange(1, 256), help="Pictures at once.")
def caption(
    paths: tuple[Path, ...],
    as_json: bool,
    prompt: str,
    alternatives: int,
    avoid: tuple[str, ...],
    length: str | None,
    neutral_words: bool | None,
    beams: int | None,
    max_new_tokens: int | None,
    batch_size: int | None,
) -> None:
    """Describe pictures, and the pictures in folders and their subfolders.

    Captions go to standard output, one line a text. What cannot be described is said on standard
    error, and the exit status is 1, after everything else has been done.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    flow = workflow()
    chosen: dict[str, Any] = {"alternatives": alternatives, "avoid": avoid, "length": length or ""}
    if beams is not None:
        chosen["num_beams"] = beams
    if max_new_tokens is not None:
        chosen["max_new_tokens"] = max_new_tokens
    options = dataclasses.replace(flow.settings.decode_options(prompt), **chosen)
    found = picture_files.find_pictures(paths)
    is_neutral = flow.settings.neutral if neutral_words is None else neutral_words
    captioner = flow.service.captioner()
    results = picture_files.caption_files(
        found, captioner, options, flow.limits, batch_size or flow.settings.batch_size
    )
    failed = 0
    with tqdm(total=len(found), unit="picture", disable=None) as bar:  # None: only on a terminal
        for result in results:
            with bar.external_write_mode():
                if result.caption:
                    click.echo(_line(result.file, result.caption, as_json, is_neutral))
                else:
                    failed += 1
                    click.echo(f"{result.file}: {result.problem}", err=True)
            bar.update()
    if failed:
        raise click.ClickException(f"{failed} of {len(found)} files could not be described.")


def _line(file: Path, made: Caption, as_json: bool, is_neutral: bool) -> str:
    given = len(made.options.prompt.split())

    def shown(caption: Caption) -> str:
        return neutral(caption.text, given) if is_neutral else caption.text

    if not as_json:
        return "\n".join(f"{file}: {shown(one)}" for one in (made, *made.others))
    line: dict[str, Any] = {
        "file": str(file),
        "caption": shown(made),
        "probability": made.probability,
        "model_version": made.model_version,
        "seconds": made.seconds,
    }
    if made.options.alternatives > 1:
        line["alternatives"] = [
            {"caption": shown(one), "probability": one.probability} for one in made.others
        ]
    return json.dumps(line, ensure_ascii=False)


@group.command("pull")
@click.argument("repo")
def pull(repo: str) -> None:
    """Fetch a BLIP captioning checkpoint from the hub, or copy one from a folder."""
    version = workflow().versions.pull(repo)
    click.echo(f"Pulled {repo} as {version.name} into {version.folder}.")
    click.echo(f"To serve it: flask model promote {version.name}")


@group.command("benchmark")
@click.option("--batch-size", type=click.IntRange(1, 256), help="Pictures at once.")
def benchmark(batch_size: int | None) -> None:
    """Measure how fast this machine captions with the version that would be served, and say which
    settings follow. Takes a minute or a few; what else the machine does spoils the figures."""
    from captionapp.captioning.benchmark import advise, measure
    from captionapp.captioning.blip import LoadAs
    from captionapp.captioning.engine import precision

    flow = workflow()
    version, settings = flow.versions.current(), flow.settings
    size, folder = batch_size or settings.batch_size, settings.instance / "engine"
    cores = available_cores()

    click.echo(f"{version.name}, {cores} cores, batches of {size}; seconds a caption:")
    speeds = []
    wanted = precision.fastest(folder)
    load = LoadAs(version.folder, version.name, folder)
    for speed in measure(load, wanted, cores, settings.decode_options(), size):
        speeds.append(speed)
        alone = f"alone {speed.alone:.3f}, " if speed.alone else ""
        click.echo(
            f"{speed.precision:5} {speed.workers} x {speed.threads} threads: "
            f"{alone}in batches {speed.batched:.3f}"
        )
    for name in [one for one in wanted if one not in {speed.precision for speed in speeds}]:
        click.echo(f"{name} is left out: the self-check refused it, or torch does not have it.")
    advice = advise(speeds)
    click.echo(
        f"\nAbout {advice.captions_a_second:.1f} captions a second with\n"
        f"CAPTIONAPP_PRECISION={advice.precision}\n"
        f"CAPTIONAPP_WORKERS={advice.workers}\n"
        f"CAPTIONAPP_TORCH_THREADS={advice.threads}\n"
        f"CAPTIONAPP_THREADS={max(settings.threads, 4 * size)}"
    )
    if advice.precision == wanted[0]:
        click.echo("CAPTIONAPP_PRECISION=auto, the default, chooses the same.")
