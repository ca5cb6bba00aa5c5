"""`python -m tasks.survey`: which of three tracks is the odd one out? Asked in the terminal."""

import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
from omegaconf import DictConfig

from cbmr.corpus import Corpus, rows_of
from cbmr.errors import InputError
from cbmr.evidence import next_three
from cbmr.files import whole_file
from cbmr.vectors import load_vectors
from tasks.command import command
from tasks.manifests import MANIFESTS
from tasks.runs import SERVED, locked, read_corpus
from tasks.terminal import say

PLACES = ("1", "2", "3")
SKIP, UNDO, END = "s", "u", "q"


def run(cfg: DictConfig) -> None:
    """Ask until there are `rounds` answers; each is in the corpus's `triplets.csv` at once.

    What is asked follows from `rng_seed`, the answers that are there, and what was skipped since
    the survey began.
    """
    corpus = read_corpus(cfg, uses=["plays", "triplets"])  # earlier answers are checked, too
    file = corpus.folder / "triplets.csv"
    if file.with_suffix(".parquet").exists():
        raise InputError(
            f"{file.with_suffix('.parquet')} is there, and the survey writes {file.name}: expected "
            "one of them; save the table as CSV and move the Parquet file away"
        )
    tracks, vectors = _candidates(cfg, corpus)
    # Once polars is imported, Ctrl-C no longer ends a wait for input; Python's own handler does.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with locked(corpus.folder):
        table = pl.read_csv(file, infer_schema=False) if file.exists() else pl.DataFrame()
        asked = _answered(corpus, table)
        answered: list[frozenset[int]] = []
        skipped = 0
        while len(answered) < cfg.rounds:
            rng = np.random.default_rng([cfg.rng_seed, len(table), skipped])
            three = next_three(tracks, asked, rng, vectors)
            if three is None:
                say(f"survey: every three of the {len(tracks)} tracks has been asked")
                break
            say(f"\n{len(answered) + 1} of {cfg.rounds}: which is the odd one out?")
            for number, row in enumerate(three.tolist(), 1):
                say(f"  {number}  {_named(corpus, row)}\n     {corpus.audio_path(row)}")
            choice = _choice()
            if choice == END:
                break
            if choice == UNDO and not answered:
                say("survey: nothing was answered since it began")
                continue
            if choice == UNDO:
                asked.remove(answered.pop())
                table = table[:-1]
            else:
                asked.add(frozenset(three.tolist()))
                if choice == SKIP:
                    skipped += 1
                    continue
                answered.append(frozenset(three.tolist()))
                table = _with_answer(table, corpus.track_ids[three], PLACES.index(choice))
            with whole_file(file) as written:
                table.write_csv(written)
    say(f"survey: {len(answered)} answered, {len(table)} in all in {file}")


def _candidates(cfg: DictConfig, corpus: Corpus) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows of the tracks to ask about, and their vectors where the run has any."""
    tracks = np.arange(len(corpus.track_ids))
    if corpus.split is not None:
        tracks = corpus.in_split("train")
    folder, vectors = Path(cfg.run), None
    stage = next((name for name in SERVED if (folder / MANIFESTS[name]).exists()), None)
    if stage is None:
        say(f"survey: {folder} has no vectors, so questions are drawn at random")
    else:
        say(f"using {folder / stage}")
        stored = load_vectors(folder / stage / "embeddings.npz")
        place = rows_of(stored.track_ids, corpus.track_ids[tracks])
        tracks, vectors = tracks[place >= 0], stored.vectors[place[place >= 0]]
    if len(tracks) < 3:
        what = "training tracks" if stage is None else f"training tracks with a vector in {stage}"
        raise InputError(f"{corpus.folder}: expected three {what} or more, found {len(tracks)}")
    return tracks, vectors


def _answered(corpus: Corpus, table: pl.DataFrame) -> set[frozenset[int]]:
    if table.is_empty():
        return set()
    rows = [corpus.track_rows(table[name].to_list()).tolist() for name in ("a", "b", "odd")]
    return {frozenset(three) for three in zip(*rows, strict=True)}


def _with_answer(table: pl.DataFrame, track_ids: np.ndarray, odd: int) -> pl.DataFrame:
    """The table with a row more; its own columns stay as they are, and its times of one kind."""
    a, b = np.delete(track_ids, odd).tolist()
    now = datetime.now(UTC)
    time = now.isoformat(timespec="seconds")
    if "time" in table.columns and table["time"].str.contains(r"^\s*\d+\s*$").any():
        time = str(int(now.timestamp()))
    answer = pl.DataFrame({"a": [a], "b": [b], "odd": [str(track_ids[odd])], "time": [time]})
    return pl.concat([table, answer], how="diagonal")


def _choice() -> str:
    """What was typed, once it is one of the choices; `END` where the input has ended."""
    while True:
        say(
            f"type {', '.join(PLACES)}, {SKIP} to skip, {UNDO} to take the last answer back or "
            f"{END} to end"
        )
        line = sys.stdin.buffer.readline().decode(errors="replace") if sys.stdin else ""
        if not line:
            say("survey: standard input has ended")
            return END
        typed = line.strip().casefold()
        if typed in (*PLACES, SKIP, UNDO, END):
            return typed
        say(f"{line.strip()!r} is none of them")


def _named(corpus: Corpus, row: int) -> str:
    title = corpus.title[row] or corpus.track_ids[row]
    named = " - ".join(str(part) for part in (corpus.artist[row], title) if part)
    return " ".join(named.split())


if __name__ == "__main__":
    command("survey", run, writes=False)
