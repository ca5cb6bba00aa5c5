"""`python -m tasks.filter list=FILE`: which tracks of a list do not sound like the rest."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from cbmr.errors import InputError
from cbmr.outliers import are_odd, fit_to_rest
from cbmr.playlists import (
    SUFFIXES,
    Catalogue,
    Playlist,
    choose_format,
    find_tracks,
    format_playlist,
)
from cbmr.vectors import load_vectors
from tasks.command import command
from tasks.manifests import read_manifest
from tasks.playlist import give, heard
from tasks.runs import read_corpus, serving_stage
from tasks.terminal import say

FEWEST = 5
"""Tracks in a list; of fewer it cannot be said which is the odd one."""
ODD = "does not sound like the rest"


def run(cfg: DictConfig) -> None:
    """Write the list again, the odd tracks marked or left out. Never trains."""
    path = Path(str(cfg.list)).expanduser()
    if not path.is_file() or path.suffix.lower() not in SUFFIXES:
        raise InputError(f"list={path}: expected a file that lists tracks, {', '.join(SUFFIXES)}")
    output = None if cfg.output is None else Path(cfg.output).expanduser()
    form = choose_format(cfg.format, output)
    folder, stage = Path(cfg.run), serving_stage(cfg)
    catalogue = Catalogue(read_corpus(cfg), load_vectors(folder / stage / "embeddings.npz"))
    found = find_tracks(catalogue, [str(path)], setting="list")
    for text in found.notes:
        say(f"note: {text}")
    if len(found.tracks) < FEWEST:
        raise InputError(
            f"list={path}: {len(found.tracks)} tracks with vectors: expected {FEWEST} or more, of "
            "which some can be unlike the rest"
        )
    manifest = read_manifest(folder, stage)
    tracks = heard(cfg, catalogue, found.tracks, folder / stage / "encoder.pt", manifest)
    fit = fit_to_rest(np.stack([track.vector for track in tracks]))
    odd = are_odd(fit) if cfg.n is None else np.isin(np.arange(len(fit)), np.argsort(fit)[: cfg.n])
    entries = tuple(
        replace(catalogue.entry(track.source, float(score)), why=ODD if is_odd else "")
        for track, score, is_odd in zip(tracks, fit, odd, strict=True)
        if not (cfg.remove and is_odd)
    )
    listed = Playlist(found.title or path.stem, entries)
    text = format_playlist(listed, form, paths=cfg.paths, base=(output or Path("x")).parent)
    give(text, output, f"filter: {len(entries)} tracks")
    done = "left out" if cfg.remove else "marked"
    say(f"filter: {odd.sum()} of {len(fit)} tracks do not sound like the rest and are {done}")


if __name__ == "__main__":
    command("filter", run, writes=False)
