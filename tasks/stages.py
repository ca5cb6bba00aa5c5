"""What the training stages share: what they learn from, the loop, and the artefacts they leave."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from cbmr.batches import Batches
from cbmr.corpus import Corpus
from cbmr.encoder import Encoder, save_encoder
from cbmr.errors import InputError
from cbmr.evaluation.held_out import HeldOut, held_out
from cbmr.factors import Factors, load_factors, unit_targets
from cbmr.features import FeatureStore
from cbmr.files import (
    content_hash,
    file_hash,
    read_arrays,
    write_arrays,
    write_json,
)
from cbmr.learners import Learner, train
from cbmr.logmel import MelSpec
from cbmr.priors import blend, choose_weight, priors_of_new_tracks, training_targets
from cbmr.spectrograms import SpectrogramStore, Store, store_folder
from cbmr.vectors import Vectors, load_vectors, save_vectors
from tasks.command import defaults_of
from tasks.manifests import MANIFESTS, where, whole_manifest, write_manifest
from tasks.terminal import progress, say


@dataclass(frozen=True)
class Material:
    """What a stage learns from, and what decides it.

    `targets` `[tracks of the store, factors]` are the unit-norm factors of the training tracks
    `train_rows` (of the store), NaN for all others. `inputs` names everything by its hash.
    """

    corpus: Corpus
    store: Store
    factors: Factors
    targets: np.ndarray
    train_rows: np.ndarray
    valid: HeldOut
    inputs: dict[str, str]


def gather(
    cfg: DictConfig, corpus: Corpus, spec: MelSpec | None, users: Path | None = None
) -> Material:
    """The run's store of this spectrogram (None: the corpus's vectors) and its factors, for the
    tracks of `corpus`; with the listeners of the file `users` in place of the factors' own, where
    it is there."""
    folder = Path(cfg.run)
    fitted = whole_manifest(cfg, "factorize")["settings"]["holdout"]
    if fitted != cfg.holdout:
        raise InputError(
            f"holdout={str(cfg.holdout).lower()}, but {folder / 'factors.npz'} was made with "
            f"holdout={str(fitted).lower()}: expected the same in both, so run python -m "
            f"tasks.factorize holdout={str(cfg.holdout).lower()} {where(cfg)} first"
        )
    store = open_store(cfg, corpus, spec)
    factors = with_users(load_factors(folder / "factors.npz"), users)
    targets = unit_targets(factors, store.track_ids)
    targets[~np.isin(store.track_ids, corpus.track_ids[corpus.in_split("train")])] = np.nan
    train_rows = np.flatnonzero(~np.isnan(targets).any(axis=1))
    valid = held_out(corpus, factors, store)
    inputs = {
        "spectrograms": store.fingerprint,
        "factors.npz": file_hash(folder / "factors.npz"),
        "split": content_hash(store.track_ids[train_rows], valid.track_ids[valid.tracks]),
        "validation": valid.fingerprint,
    }
    return Material(corpus, store, factors, targets, train_rows, valid, inputs)


def with_users(factors: Factors, users: Path | None) -> Factors:
    """Factors whose listeners are those that a stage learned, where it left any."""
    if users is None or not users.exists():
        return factors
    user_ids, learned = read_arrays(users, "user_ids", "user_factors")
    return replace(factors, user_ids=user_ids, user_factors=learned)


def open_store(
    cfg: DictConfig, corpus: Corpus, spec: MelSpec | None, *, excerpts: int = 1
) -> Store:
    """The run's store of this spectrogram and of so many excerpts a track, scanned now if it is not
    there; without a spectrogram, the vectors that came with the corpus."""
    if spec is None:
        return FeatureStore(corpus)

    import tasks.scan

    scan = defaults_of("scan", cfg)
    scan.encoder.mel = vars(spec)
    scan.excerpts = excerpts
    folder = store_folder(Path(cfg.run) / "spectrograms", spec, scan.excerpt_s, excerpts)
    if (folder / "catalogue.json").exists():
        say(f"using {folder}")
    else:
        say(f"scan: {folder.name} missing in {cfg.run}, made now by its defaults")
        tasks.scan.run(scan)
    return SpectrogramStore(folder)


def optimisation(cfg: DictConfig, spec: MelSpec | None) -> dict[str, Any]:
    """The settings that every learner takes, as its keyword arguments."""
    augmentation = {"crop_frames": 1}  # of vectors, whose places are no bands to hide
    if spec is not None:
        augmentation = {"crop_frames": spec.frames(spec.samples(cfg.crop_s)), **cfg.augment}
    if augmentation["crop_frames"] < 1:
        raise InputError(f"crop_s={cfg.crop_s}: too short for one frame of {spec}")
    return {
        "learning_rate": cfg.learning_rate,
        "weight_decay": cfg.weight_decay,
        "augmentation": augmentation,
        "rng_seed": cfg.rng_seed,
    }


def fit(
    cfg: DictConfig,
    stage: str,
    learner: Learner,
    batches: Batches,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
) -> None:
    """Train with a bar, going on where the same training was interrupted."""
    with progress(stage) as report:
        train(
            learner,
            batches,
            Path(cfg.run) / stage,
            epochs=cfg.epochs,
            fingerprint=content_hash(json.dumps([settings, inputs])),
            progress=report,
        )


def predicted_file(folder: Path) -> Path:
    """What a stage predicts from sound alone: `predicted.npz` where a prior is blended into
    `embeddings.npz`, else `embeddings.npz` itself."""
    predicted = folder / "predicted.npz"
    return predicted if predicted.exists() else folder / "embeddings.npz"


def predicted_vectors(folder: Path) -> Vectors:
    """The vectors of `predicted_file`."""
    return load_vectors(predicted_file(folder))


@dataclass(frozen=True)
class Blended:
    """Vectors with what is known of new tracks beside their sound, and what the manifest says of
    it."""

    vectors: Vectors
    said: dict[str, Any]


def blended(
    embed: DictConfig, corpus: Corpus, factors: Factors, store: Store, predicted: Vectors
) -> Blended | None:
    """Predicted vectors of the store's tracks with the prior that the settings of `tasks.embed`
    name, its weight learned on validation unless they give it. None where they name none, and, said
    to the person, where there is nothing to learn a weight from."""
    if embed.prior == "none":
        return None
    rows = corpus.track_rows(predicted.track_ids)
    prior = priors_of_new_tracks(corpus, *training_targets(corpus, factors), prior=embed.prior)
    prior = np.where((rows >= 0)[:, None], prior[rows], 0)
    number = int(prior.any(axis=1).sum())
    said = {"name": embed.prior, "tracks": number, "weight": embed.prior_weight}
    if embed.prior_weight is None:
        valid = held_out(corpus, factors, store)
        chosen = choose_weight(predicted.vectors[valid.rows], prior[valid.rows], valid.measure)
        if chosen is None:
            say(
                f"prior={embed.prior}: no played validation track has a training track of its "
                "artist or album (or holdout=false left none), so no weight can be learned and "
                "vectors stay as predicted; python -m tasks.embed prior_weight= gives one"
            )
            return None
        said |= vars(chosen)
        say(f"prior={embed.prior}, {chosen}")
    say(f"prior={embed.prior}: {number} new tracks are blended, {len(rows) - number} stay")
    mixed = blend(predicted.vectors, prior, said["weight"])
    return Blended(replace(predicted, vectors=mixed), said)


def save_stage_vectors(folder: Path, predicted: Vectors, mixed: Blended | None) -> None:
    """Leave `embeddings.npz`, beside it `predicted.npz` where a prior is blended in, and
    `confidence.npz` where the encoder tells how sure it is."""
    if predicted.confidence is None:
        (folder / "confidence.npz").unlink(missing_ok=True)
    else:
        known = {"track_ids": predicted.track_ids, "confidence": predicted.confidence}
        write_arrays(folder / "confidence.npz", **known)
    if mixed is None:
        save_vectors(folder / "embeddings.npz", predicted)
        (folder / "predicted.npz").unlink(missing_ok=True)
        return
    # What sound alone predicts goes first: while it is there, evaluation reads nothing else.
    save_vectors(folder / "predicted.npz", predicted)
    save_vectors(folder / "embeddings.npz", mixed.vectors)


def save_stage(
    cfg: DictConfig,
    stage: str,
    encoder: Encoder,
    vectors: Vectors,
    metrics: Mapping[str, float],
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    *,
    mixed: Blended | None = None,
    users: np.ndarray | None = None,
) -> None:
    """Leave a stage's artefacts: `vectors` as predicted and with their prior, if any, and the
    listeners that it learned, if any, as `users.npz`. Its manifest goes first and comes back last,
    so that a stage interrupted here is seen as missing, never as whole."""
    run = Path(cfg.run)
    folder = run / stage
    (run / MANIFESTS[stage]).unlink(missing_ok=True)
    save_encoder(folder / "encoder.pt", encoder)
    save_stage_vectors(folder, vectors, mixed)
    write_json(folder / "metrics.json", metrics)
    names = ["encoder.pt", "embeddings.npz", "metrics.json"]
    if users is None:
        (folder / "users.npz").unlink(missing_ok=True)
    else:
        user_ids = load_factors(run / "factors.npz").user_ids
        write_arrays(folder / "users.npz", user_ids=user_ids, user_factors=users)
        names.append("users.npz")
    outputs = {name: file_hash(folder / name) for name in names}
    more = {"outputs": outputs} if mixed is None else {"outputs": outputs, "prior": mixed.said}
    write_manifest(run, stage, settings, inputs, **more)
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    say(f"{stage}: {numbers}; {len(vectors.track_ids)} vectors -> {folder}")
    if not cfg.holdout:
        say(f"{stage}: trained on every track (holdout=false), so no evaluation of it holds")
