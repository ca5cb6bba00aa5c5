"""`python -m tasks.pretrain`: a warm start for stage 1 without labels, from sound and albums."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import DictConfig

from cbmr.errors import InputError
from cbmr.files import content_hash
from tasks.command import command
from tasks.manifests import is_fresh, plain, settings_of
from tasks.runs import read_corpus
from tasks.terminal import say

if TYPE_CHECKING:
    from cbmr.spectrograms import Store


@dataclass(frozen=True)
class Material:
    """The store, what to learn from and to validate by as rows of it, and the hashes of these.

    `album` `[train_rows]` is the name of each one's album, its own id where it has none; None where
    no two tracks share one, or albums are not to be learned from.
    """

    store: "Store"
    train_rows: np.ndarray
    valid_rows: np.ndarray
    album: np.ndarray | None
    inputs: dict[str, str]


def material(cfg: DictConfig) -> Material:
    """What pretraining learns from: all that decides it beside the settings.

    Where plays make the split, it learns from the tracks without any as well: they are `test` by
    then, but nothing is ever asked about them. Without plays it learns from every track.
    """
    if "mel" not in cfg.encoder:
        raise InputError(
            f"encoder={cfg.encoder.name} reads one vector a track, so there are no two excerpts "
            "to compare: expected an encoder of sound"
        )
    corpus = read_corpus(cfg)
    trained = ["train"]
    if corpus.split is None:
        corpus = read_corpus(cfg, uses=["plays"])
        trained = ["train", "test"]

    from cbmr.logmel import MelSpec
    from tasks.stages import open_store

    store = open_store(cfg, corpus, MelSpec(**cfg.encoder.mel))
    split = np.full(len(corpus.track_ids), "train") if corpus.split is None else corpus.split

    def rows(names: list[str]) -> np.ndarray:
        return np.flatnonzero(np.isin(store.track_ids, corpus.track_ids[np.isin(split, names)]))

    train_rows, valid_rows = rows(trained), rows(["valid"])
    inputs = {
        "spectrograms": store.fingerprint,
        "split": content_hash(store.track_ids[train_rows], store.track_ids[valid_rows]),
    }
    album = corpus.album[corpus.track_rows(store.track_ids[train_rows])]
    _, tracks = np.unique(album[album != ""], return_counts=True)
    if cfg.albums == 0 or not (tracks > 1).any():
        return Material(store, train_rows, valid_rows, None, inputs)
    album = np.where(album == "", np.char.add("track ", store.track_ids[train_rows]), album)
    inputs["albums"] = content_hash(album)
    return Material(store, train_rows, valid_rows, album, inputs)


def run(cfg: DictConfig) -> None:
    """Train the encoder to tell tracks apart and leave `pretrain/`."""
    if not 0 <= cfg.albums <= 1:
        raise InputError(f"albums={cfg.albums}: expected a share from 0 to 1")
    settings, learned_from = settings_of(cfg), material(cfg)
    store, train_rows = learned_from.store, learned_from.train_rows
    if len(train_rows) < 2:
        raise InputError(f"{len(train_rows)} training tracks have audio: expected at least 2")
    if is_fresh(Path(cfg.run), "pretrain", settings, learned_from.inputs):
        return
    has_validation = len(learned_from.valid_rows) > 1
    if not has_validation:
        say("pretrain: no two validation tracks have audio, so nothing is measured on the way")

    import torch

    from cbmr.batches import excerpt_batches
    from cbmr.embed import embed_store
    from cbmr.encoder import Encoder
    from cbmr.learners import ExcerptContrast, retrieval_score
    from cbmr.spectrograms import band_scale
    from tasks.stages import fit, optimisation, save_stage

    torch.manual_seed(cfg.rng_seed)
    arguments = plain(cfg.encoder.arguments)
    arguments |= {"mels": store.mels, "embedding_size": cfg.embedding_size}
    scale = band_scale(store, train_rows)
    encoder = Encoder(cfg.encoder.name, arguments, store.mel_spec, *scale)
    learner = ExcerptContrast(
        encoder,
        retrieval_score if has_validation else None,
        temperature=cfg.temperature,
        **optimisation(cfg, store.mel_spec),
    )
    batches = excerpt_batches(
        store,
        train_rows,
        learned_from.valid_rows if has_validation else None,
        batch_size=cfg.batch_size,
        rng_seed=cfg.rng_seed,
        workers=cfg.workers,
        album=learned_from.album,
        album_share=cfg.albums,
    )
    if cfg.albums > 0 and learned_from.album is None:
        say("pretrain: no two tracks share an album, so it learns from excerpts of tracks alone")
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    say(f"pretrain: {cfg.encoder.name}, {parameters:,} parameters, {len(train_rows)} tracks")
    inputs = learned_from.inputs
    fit(cfg, "pretrain", learner, batches, settings, inputs)
    metrics: dict[str, float] = {
        "train_tracks": len(train_rows), "parameters": parameters, "epochs": cfg.epochs
    }  # fmt: skip
    if has_validation:
        with torch.no_grad():
            halves = [encoder(b["logmel"], b["frames"]) for b in batches.val_dataloader()]
        numbers = retrieval_score(torch.cat(halves).numpy())
        metrics |= {f"valid_{name}": value for name, value in numbers.items()}
    vectors = embed_store(encoder, store)
    save_stage(cfg, "pretrain", encoder, vectors, metrics, settings, inputs)


if __name__ == "__main__":
    command("pretrain", run)
