"""`python -m tasks.embed`: unit vectors of every readable track, after new ones were scanned."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from cbmr.errors import InputError
from cbmr.files import file_hash, write_arrays, write_json
from cbmr.priors import PRIORS
from tasks.command import command
from tasks.manifests import MANIFESTS, read_manifest, require_same_space
from tasks.runs import OF_FACTORS, read_corpus, serving_stage
from tasks.terminal import progress, say

if TYPE_CHECKING:
    from cbmr.encoder import Encoder
    from cbmr.spectrograms import Store


def run(cfg: DictConfig) -> None:
    """Embed the run's store with a stage's encoder and replace that stage's `embeddings.npz`; or
    leave the activations of one layer beside it."""
    _check_prior(cfg)
    folder = Path(cfg.run)
    stage = serving_stage(cfg)
    manifest = read_manifest(folder, stage)

    from cbmr.embed import embed_store
    from cbmr.encoder import load_encoder
    from tasks.stages import open_store, save_stage_vectors

    encoder = load_encoder(folder / stage / "encoder.pt")
    if encoder.mel_spec is None and cfg.excerpts > 1:
        raise InputError(f"excerpts={cfg.excerpts}: the corpus came as vectors: expected 1")
    store = open_store(cfg, read_corpus(cfg), encoder.mel_spec, excerpts=cfg.excerpts)
    if cfg.layer is not None:
        _save_layer(cfg.layer, encoder, store, folder / stage / "layers")
        return
    with progress(f"embed {stage}") as report:
        vectors = embed_store(encoder, store, progress=report)
    mixed = blender(cfg, stage, manifest)(store, vectors)
    save_stage_vectors(folder / stage, vectors, mixed)
    manifest.pop("prior", None)
    if mixed is not None:
        manifest["prior"] = mixed.said
    manifest["excerpts"] = cfg.excerpts
    manifest["outputs"]["embeddings.npz"] = file_hash(folder / stage / "embeddings.npz")
    write_json(folder / MANIFESTS[stage], manifest)
    say(f"embed: {len(vectors.track_ids)} vectors -> {folder / stage / 'embeddings.npz'}")


def _save_layer(layer: str, encoder: "Encoder", store: "Store", folder: Path) -> None:
    from cbmr.embed import layer_activations

    with progress(f"embed {layer}") as report:
        activations = layer_activations(encoder, store, layer, progress=report)
    write_arrays(folder / f"{layer}.npz", track_ids=store.track_ids, activations=activations)
    tracks, units = activations.shape
    say(f"embed: {units} activations of {tracks} tracks -> {folder / f'{layer}.npz'}")


def _check_prior(cfg: DictConfig) -> None:
    if cfg.prior not in ("none", *PRIORS):
        raise InputError(f"prior={cfg.prior}: expected {', '.join(PRIORS)} or none")
    if cfg.layer is not None and cfg.excerpts > 1:
        raise InputError(f"layer={cfg.layer} hears what training does: expected excerpts=1")
    weight = cfg.prior_weight
    if weight is None:
        return
    if cfg.prior == "none":
        raise InputError(f"prior_weight={weight} weighs nothing: prior=artist or album is missing")
    if type(weight) not in (int, float) or not 0 <= weight <= 1:
        raise InputError(f"prior_weight={weight}: expected a number from 0 to 1")


def blender(cfg: DictConfig, stage: str, manifest: dict[str, Any]) -> Callable[..., Any]:
    """What blends the prior of `cfg` into vectors of a store: a function of both, None where there
    is no prior. Only vectors trained in this run are of its CF factors' space, and pretrain's are
    not."""
    if stage not in OF_FACTORS or cfg.prior == "none":
        return lambda store, vectors: None

    from cbmr.factors import load_factors
    from tasks.stages import blended, with_users

    require_same_space(cfg, stage, otherwise=", or leave them as predicted with prior=none")
    holdout = manifest["settings"]["holdout"]
    votes = ["thumbs"] if stage == "rank" else []  # what the stage itself was validated by
    corpus = read_corpus(cfg, needs=["plays"], uses=votes, holdout=holdout)
    run = Path(cfg.run)
    factors = with_users(load_factors(run / "factors.npz"), run / "regress" / "users.npz")
    return partial(blended, cfg, corpus, factors)


if __name__ == "__main__":
    command("embed", run)
