"""`python -m tasks.ingest`: a folder of music, or a public data set, becomes a corpus."""

import shlex
from pathlib import Path

from omegaconf import DictConfig

from cbmr.sources.tables import counts
from tasks.command import command
from tasks.runs import locked
from tasks.terminal import progress, say

PATHS = ("listens", "audio")
OPTIONS = (*PATHS, "user", "subset", "user_column", "song_column", "time_column")


def run(cfg: DictConfig) -> None:
    """Write the corpus, and say what was found, what was left out, and what to type next."""
    from cbmr.sources.adapters import ingest

    corpus = Path(cfg.corpus).expanduser()
    options = {name: cfg[name] for name in OPTIONS if cfg[name] is not None}
    options |= {name: Path(options[name]).expanduser() for name in PATHS if name in options}
    with locked(corpus), progress("ingest") as report:
        found = ingest(cfg.source, Path(cfg.path), corpus, progress=report, **options)
    for note in found.notes:
        say(f"note: {note}")
    held = counts(corpus)
    said = ", ".join(f"{name} {number:,}" for name, number in held.items())
    say(f"ingest: {said} -> {corpus}")
    say(f"next: {_next(cfg, held, vectors=found.features is not None)}")


def _next(cfg: DictConfig, held: dict[str, int], *, vectors: bool) -> str:
    """The command that learns most from what there is."""
    if cfg.source == "lastfm2k":
        task = "factorize"  # there is nothing to hear
    elif held["listeners"] < 2:
        task = "pretrain"  # one person's plays make no neighbours
    else:
        task = "rank" if held["ups"] and held["downs"] else "regress"
    words = [f"corpus={cfg.corpus}", f"run=runs/{Path(cfg.corpus).name}"]
    return (
        f"python -m tasks.{task} {shlex.join([*words, *(['encoder=vector'] if vectors else [])])}"
    )


if __name__ == "__main__":
    command("ingest", run, writes=False)
