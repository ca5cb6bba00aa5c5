"""`python -m tasks.playlist seed=X`: the tracks that sound like a seed, in order."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, ListConfig

from cbmr.errors import InputError
from cbmr.files import whole_file
from cbmr.hubs import load_crowding
from cbmr.index import load_index
from cbmr.playlists import (
    TRACKS,
    Catalogue,
    Entry,
    Playlist,
    Track,
    choose_format,
    find_excluded,
    find_tracks,
    format_playlist,
    make_playlist,
    make_rules,
    shown_name,
)
from cbmr.vectors import load_vectors
from tasks.command import command
from tasks.manifests import MANIFESTS, factors_of, read_manifest, where
from tasks.runs import read_corpus, serving_stage
from tasks.terminal import say

RULES = ("negative_distance", "min_duration_s", "max_duration_s", "max_per_artist", "max_per_album",
         "title_variants", "duplicate_similarity", "artist_spacing")  # fmt: skip
SHAPE = ("n", "mode", "lookback", "temperature", "rng_seed", "total_duration_s")


def run(cfg: DictConfig) -> None:
    """Write a playlist to `output`, else to standard output. Never trains."""
    output = None if cfg.output is None else Path(cfg.output).expanduser()
    form = choose_format(cfg.format, output)
    folder = Path(cfg.run)
    stage = serving_stage(cfg)
    catalogue = Catalogue(read_corpus(cfg), load_vectors(folder / stage / "embeddings.npz"))
    manifest = read_manifest(folder, stage)

    weights = None if cfg.weights is None else _items(cfg, "weights")
    seeds = find_tracks(catalogue, _words(cfg, "seed"), weights=weights)
    notes = seeds.notes
    unwanted: tuple[int | Entry, ...] = ()
    if cfg.negative is not None:
        negative = find_tracks(catalogue, _words(cfg, "negative"), setting="negative")
        unwanted, notes = negative.tracks, notes + negative.notes
    excluded: frozenset[int] = frozenset()
    if cfg.exclude is not None:
        excluded, note = find_excluded(catalogue, Path(str(cfg.exclude)).expanduser())
        notes += note
    for text in notes:
        say(f"note: {text}")

    tracks = heard(cfg, catalogue, seeds.tracks + unwanted, folder / stage / "encoder.pt", manifest)
    asking = _with_listeners(cfg, catalogue, tracks[: len(seeds.tracks)], manifest)
    rules = make_rules(
        exclude=excluded,
        negative=[track.vector for track in tracks[len(seeds.tracks) :]],
        **{name: cfg[name] for name in RULES},
    )
    if not (folder / MANIFESTS["index"]).exists():
        _build_index(cfg, stage)
    encoder_hash = manifest["outputs"]["encoder.pt"]
    index = load_index(folder / "index", catalogue.vectors, encoder_hash=encoder_hash)
    if index.slow:
        say(
            f"note: {index.changed} tracks have changed since the index was built, and searching "
            f"them beside it takes longer than it: python -m tasks.index {where(cfg)}"
        )
    crowding = load_crowding(folder / "index", catalogue.vectors, encoder_hash)
    if crowding is not None:
        say("playlist: hubs are corrected, so similarities need not fall")
    playlist = make_playlist(
        catalogue,
        index,
        asking,
        rules,
        weights=seeds.weights,
        title=cfg.title or seeds.title or None,
        crowding=crowding,
        **{name: cfg[name] for name in SHAPE},
    )
    text = format_playlist(playlist, form, paths=cfg.paths, base=(output or Path("x")).parent)
    give(text, output, f"playlist: {len(playlist.entries)} tracks")
    if stage == "pretrain":
        albums = " and albums" if "albums" in manifest["inputs"] else ""
        say(f"playlist: no plays and no thumbs: these vectors come from sound{albums} alone")
    wanted = cfg.n or (
        f"total_duration_s={cfg.total_duration_s}" if cfg.total_duration_s else TRACKS
    )
    say_what_is_missing(cfg, catalogue, playlist, "playlist", wanted)


def give(text: str, output: Path | None, what: str) -> None:
    """The text into a file, which is said, else to standard output."""
    content = text.encode(errors="replace")  # a file name may be no text
    if output is None:
        sys.stdout.buffer.write(content)
        return
    with whole_file(output) as file:
        file.write(content)
    say(f"{what} -> {output}")


def say_what_is_missing(
    cfg: DictConfig, catalogue: Catalogue, playlist: Playlist, task: str, wanted: int | str
) -> None:
    """What rules cost a list of `wanted` tracks, and where `cfg.explain` asks for it, which."""
    rules = {track.rule for track in playlist.left_out}
    asked = {name: f"{name}={str(cfg[name]).lower()}" for name in rules - {"exclude"}}
    asked["exclude"] = f"exclude={cfg.exclude}"
    if cfg.explain:
        for track in playlist.left_out:
            entry = catalogue.entry(track.row, track.similarity)
            name = shown_name(entry.artist, entry.title)
            say(
                f"left out: {track.similarity:6.3f}  {name} ({entry.track_id}): {asked[track.rule]}"
            )
    for rule, count in Counter(track.rule for track in playlist.left_out).items():
        say(f"{task}: {count} nearer tracks left out by {asked[rule]}")
    if playlist.exhausted:
        say(f"{task}: {len(playlist.entries)} of the {wanted} asked for: no more tracks fit")


def _items(cfg: DictConfig, name: str) -> list[Any]:
    """A setting that is one value or a list of them."""
    value = cfg[name]
    if isinstance(value, DictConfig):
        raise InputError(f"{name}={value}: expected one, or several as {name}=[a,b]")
    return list(value) if isinstance(value, ListConfig) else [value]


def _words(cfg: DictConfig, name: str) -> list[str]:
    return [str(value) for value in _items(cfg, name)]


def heard(
    cfg: DictConfig,
    catalogue: Catalogue,
    sources: Sequence[int | Entry],
    encoder_file: Path,
    manifest: dict[str, Any],
) -> list[Track]:
    """Tracks with their vectors; audio files from outside the corpus are embedded."""
    vectors: dict[Path | None, np.ndarray] = {}
    outside = [source.path for source in sources if isinstance(source, Entry) and source.path]
    if outside:
        from cbmr.embed import embed_file
        from cbmr.encoder import load_encoder

        encoder = load_encoder(encoder_file)
        excerpts = manifest.get("excerpts", 1)  # a stage's own vectors are of the middle
        for path in outside:
            vectors[path] = embed_file(encoder, path, excerpt_s=cfg.excerpt_s, excerpts=excerpts)
    return [
        catalogue.track(source, vectors[source.path] if isinstance(source, Entry) else None)
        for source in sources
    ]


def _with_listeners(
    cfg: DictConfig, catalogue: Catalogue, seeds: list[Track], manifest: dict[str, Any]
) -> list[Track]:
    """Seeds that ask with what their listeners know of them, where they have some."""
    rows = [seed.source for seed in seeds if isinstance(seed.source, int)]
    factors = factors_of(cfg, manifest) if rows else None
    if factors is None:
        return seeds

    from cbmr.priors import seed_queries  # here, since it loads SciPy

    content = catalogue.vectors.vectors[catalogue.vector_of_row[rows]]
    queries = seed_queries(content, catalogue.corpus.track_ids[rows], factors)
    asking = dict(zip(rows, queries, strict=True))
    return [
        replace(seed, query=asking[seed.source]) if isinstance(seed.source, int) else seed
        for seed in seeds
    ]


def _build_index(cfg: DictConfig, stage: str) -> None:
    """The one thing that a playlist writes beside its list: under the run's lock."""
    import tasks.index
    from tasks.command import defaults_of
    from tasks.runs import locked

    settings = defaults_of("index", cfg)
    settings.stage = stage
    with locked(Path(cfg.run)):
        tasks.index.run(settings)


if __name__ == "__main__":
    command("playlist", run, writes=False)
