"""`python -m tasks.recommend`: tracks for a listener (`user=`), or listeners for a track
(`audience=`)."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from cbmr.corpus import Corpus, rows_of
from cbmr.errors import InputError
from cbmr.factors import Factors, load_factors
from cbmr.few_plays import choose_k
from cbmr.playlists import (
    Catalogue,
    choose_format,
    find_excluded,
    find_track,
    format_playlist,
    make_rules,
)
from cbmr.priors import USUAL_K
from cbmr.recommend import audience, blended_tracks, find_listener, listeners_of, recommend
from cbmr.vectors import Vectors, aligned, load_vectors
from tasks.command import command
from tasks.manifests import read_manifest, require_same_space, where, whole_manifest
from tasks.playlist import give, heard, say_what_is_missing
from tasks.runs import OF_FACTORS, read_corpus, serving_stage
from tasks.terminal import say

RULES = ("max_per_artist", "max_per_album", "title_variants", "duplicate_similarity")
TRACKS, LISTENERS = 50, 1000
"""In a list where n is not given."""
MOST_ASKED = 2000
"""Listeners, drawn at random, by whom k is chosen."""


def run(cfg: DictConfig) -> None:
    """Write a list of tracks or of listeners to `output`, else to standard output. Never trains."""
    if (cfg.user is None) == (cfg.audience is None):
        raise InputError(
            "expected either user=, for the tracks a listener may want, or audience=, for the "
            "listeners who may want a track"
        )
    output = None if cfg.output is None else Path(cfg.output).expanduser()
    form = choose_format(cfg.format, output)
    if cfg.audience is not None and form not in ("table", "csv"):
        raise InputError(f"format={form}: listeners come as CSV; expected format=csv or none")
    folder, stage = Path(cfg.run), serving_stage(cfg)
    manifest = read_manifest(folder, stage)
    factors, made = _factors(cfg, stage)
    corpus = read_corpus(cfg, needs=["plays"], holdout=made["settings"]["holdout"])
    listener = None if cfg.user is None else find_listener(corpus, str(cfg.user))
    content = load_vectors(folder / stage / "embeddings.npz")
    model = made["options"] if made["settings"]["factors"]["name"] == "wmf" else None
    if model is None:
        say("note: only factors=wmf can fold in plays; what was not in its fit has content alone")
    k = _k(cfg, corpus, factors, content, model)
    catalogue = Catalogue(corpus, blended_tracks(corpus, factors, content, k=k, model=model))
    if listener is None:
        _audience(cfg, catalogue, factors, output, folder / stage / "encoder.pt", manifest)
        return

    excluded: frozenset[int] = frozenset()
    if cfg.exclude is not None:
        excluded, notes = find_excluded(catalogue, Path(str(cfg.exclude)).expanduser())
        for text in notes:
            say(f"note: {text}")
    if str(cfg.user) not in factors.user_ids:
        say(
            f"note: listener {cfg.user} had no training plays when the factors were made, so "
            "nothing is known of their taste; this is what most listeners played"
        )
    rules = make_rules(exclude=excluded, artist_spacing=1, **{name: cfg[name] for name in RULES})
    n = cfg.n or TRACKS
    playlist = recommend(catalogue, factors, listener, rules, n=n)
    text = format_playlist(playlist, form, paths=cfg.paths, base=(output or Path("x")).parent)
    give(text, output, f"recommend: {len(playlist.entries)} tracks")
    say_what_is_missing(cfg, catalogue, playlist, "recommend", n)


def _audience(
    cfg: DictConfig,
    catalogue: Catalogue,
    factors: Factors,
    output: Path | None,
    encoder_file: Path,
    manifest: dict[str, Any],
) -> None:
    source = find_track(catalogue, str(cfg.audience), setting="audience")
    track = heard(cfg, catalogue, [source], encoder_file, manifest)[0]
    gone = listeners_of(catalogue.corpus, source) if isinstance(source, int) else np.empty(0, str)
    ids, scores = audience(factors, track.vector, n=cfg.n or LISTENERS, but=gone)
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(("user_id", "score"))
    writer.writerows((name, f"{score:.6f}") for name, score in zip(ids, scores, strict=True))
    give(file.getvalue(), output, f"recommend: {len(ids)} listeners")
    if len(gone):
        say(f"recommend: {len(gone)} listeners who played it already are left out")


def _factors(cfg: DictConfig, stage: str) -> tuple[Factors, dict[str, Any]]:
    """The run's factors and their manifest; InputError where the stage's vectors are not of their
    space."""
    path = Path(cfg.run) / "factors.npz"
    if stage not in OF_FACTORS:
        raise InputError(
            f"{cfg.run}: expected stage 1 or 2 and {path}, which know listeners, but the stage is "
            f"{stage}; make them with python -m tasks.regress {where(cfg)}"
        )
    made = whole_manifest(cfg, "factorize")
    require_same_space(cfg, stage)
    return load_factors(path), made


def _k(
    cfg: DictConfig,
    corpus: Corpus,
    factors: Factors,
    content: Vectors,
    model: dict[str, float] | None,
) -> float:
    """As how many plays content counts: what was given, else what validation chooses."""
    if cfg.k is not None:
        return float(cfg.k)
    listeners = np.sort(rows_of(corpus.user_ids, factors.user_ids))
    listeners = listeners[listeners >= 0]
    if len(listeners) > MOST_ASKED:
        rng = np.random.default_rng(cfg.rng_seed)
        listeners = np.sort(rng.choice(listeners, MOST_ASKED, replace=False))
    chosen = model and choose_k(
        corpus, factors, aligned(corpus, content), listeners, model=model, rng_seed=cfg.rng_seed
    )
    if not chosen:
        say(
            f"recommend: k = {USUAL_K:g}, as usual: to choose it takes factors=wmf and validation "
            "tracks with many listeners"
        )
        return USUAL_K
    say(f"recommend: k = {chosen[0]:g}, chosen on {chosen[1]} validation tracks")
    return chosen[0]


if __name__ == "__main__":
    command("recommend", run, writes=False)
