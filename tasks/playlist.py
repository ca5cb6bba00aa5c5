"""`python -m tasks.playlist seed=X`: the tracks that sound like a seed, in order."""

import sys
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from cbmr.errors import InputError
from cbmr.files import read_json, whole_file
from cbmr.index import load_index
from cbmr.playlists import choose_format, find_seed, format_playlist, make_playlist
from cbmr.vectors import load_vectors
from tasks.command import command
from tasks.runs import MANIFESTS, read_corpus, say, serving_stage


def run(cfg: DictConfig) -> None:
    """Write a playlist to `output`, else to standard output. Never trains."""
    output = None if cfg.output is None else Path(cfg.output).expanduser()
    form = choose_format(cfg.format, output)
    folder = Path(cfg.run)
    stage = serving_stage(cfg)
    corpus = read_corpus(cfg)
    seed = find_seed(corpus, cfg.seed)

    vectors = load_vectors(folder / stage / "embeddings.npz")
    manifest = read_json(folder / MANIFESTS[stage])
    if not (folder / MANIFESTS["index"]).exists():
        _build_index(cfg, stage)
    index = load_index(folder / "index", vectors, encoder_hash=manifest["outputs"]["encoder.pt"])
    playlist = make_playlist(
        corpus,
        index,
        _query(cfg, corpus, vectors, seed, folder / stage / "encoder.pt", manifest),
        seed,
        n=cfg.n,
        artist_spacing=cfg.artist_spacing,
        title=cfg.title,
    )
    text = format_playlist(playlist, form, paths=cfg.paths, base=(output or Path("x")).parent)
    if output is None:
        sys.stdout.write(text)
    else:
        with whole_file(output) as file:
            file.write(text.encode())
        say(f"playlist: {len(playlist.entries)} tracks -> {output}")
    for rule, count in playlist.left_out.items():
        say(f"playlist: {count} nearer tracks left out by {rule}={cfg[rule]}")
    if len(playlist.entries) < cfg.n:
        say(f"playlist: {len(playlist.entries)} of the {cfg.n} asked for: no more tracks fit")


def _build_index(cfg: DictConfig, stage: str) -> None:
    """The one thing that a playlist writes beside its list: under the run's lock."""
    import tasks.index
    from tasks.command import defaults_of
    from tasks.runs import locked

    settings = defaults_of("index", cfg)
    settings.stage = stage
    with locked(Path(cfg.run)):
        tasks.index.run(settings)


def _query(
    cfg, corpus, vectors, seed: int | Path, encoder_file: Path, manifest: dict
) -> np.ndarray:
    if isinstance(seed, Path):
        from cbmr.embed import embed_file
        from cbmr.encoder import load_encoder

        excerpts = manifest.get("excerpts", 1)  # a stage's own vectors are of the middle
        return embed_file(
            load_encoder(encoder_file), seed, excerpt_s=cfg.excerpt_s, excerpts=excerpts
        )
    row = np.flatnonzero(vectors.track_ids == corpus.track_ids[seed])
    if not len(row):
        raise InputError(
            f"seed={cfg.seed}: {corpus.audio_path(seed)} has no vector: it was not readable when "
            "scanned, or is new since (python -m tasks.scan, then tasks.embed and tasks.index)"
        )
    return vectors.vectors[row[0]]


if __name__ == "__main__":
    command("playlist", run, writes=False)
