"""`python -m tasks.embed`: unit vectors of every readable track, after new ones were scanned."""

from pathlib import Path

from omegaconf import DictConfig

from cbmr.errors import InputError
from cbmr.files import file_hash, read_json, write_arrays, write_json
from cbmr.priors import PRIORS
from tasks.command import command
from tasks.runs import MANIFESTS, progress, read_corpus, say, serving_stage, where


def run(cfg: DictConfig) -> None:
    """Embed the run's store with a stage's encoder and replace that stage's `embeddings.npz`; or
    leave the activations of one layer beside it."""
    _check_prior(cfg)
    folder = Path(cfg.run)
    stage = serving_stage(cfg)
    if stage == "pretrain" and cfg.prior != "none":
        raise InputError(
            f"prior={cfg.prior}: pretrain's vectors are not CF factors, which is what a prior is "
            "made of; expected prior=none or another stage"
        )
    manifest = read_json(folder / MANIFESTS[stage])

    from cbmr.embed import embed_store
    from cbmr.encoder import load_encoder
    from cbmr.vectors import save_vectors
    from tasks.stages import open_store

    encoder = load_encoder(folder / stage / "encoder.pt")
    if encoder.mel_spec is None and cfg.excerpts > 1:
        raise InputError(f"excerpts={cfg.excerpts}: the corpus came as vectors: expected 1")
    store = open_store(cfg, read_corpus(cfg), encoder.mel_spec, excerpts=cfg.excerpts)
    if cfg.layer is not None:
        _save_layer(cfg.layer, encoder, store, folder / stage / "layers")
        return
    with progress(f"embed {stage}") as report:
        vectors = embed_store(encoder, store, progress=report)
    predicted = folder / stage / "predicted.npz"
    if cfg.prior == "none":
        save_vectors(folder / stage / "embeddings.npz", vectors)
        predicted.unlink(missing_ok=True)
        manifest.pop("prior", None)
    else:
        blended, manifest["prior"] = _blended(cfg, stage, manifest, store, vectors)
        # What sound alone predicts goes first: while it is there, evaluation reads nothing else.
        save_vectors(predicted, vectors)
        save_vectors(folder / stage / "embeddings.npz", blended)
    manifest["excerpts"] = cfg.excerpts
    manifest["outputs"]["embeddings.npz"] = file_hash(folder / stage / "embeddings.npz")
    write_json(folder / MANIFESTS[stage], manifest)
    say(f"embed: {len(vectors.track_ids)} vectors -> {folder / stage / 'embeddings.npz'}")


def _save_layer(layer: str, encoder, store, folder: Path) -> None:
    from cbmr.embed import layer_activations

    with progress(f"embed {layer}") as report:
        activations = layer_activations(encoder, store, layer, progress=report)
    write_arrays(folder / f"{layer}.npz", track_ids=store.track_ids, activations=activations)
    tracks, units = activations.shape
    say(f"embed: {units} activations of {tracks} tracks -> {folder / f'{layer}.npz'}")


def _check_prior(cfg: DictConfig) -> None:
    if cfg.prior not in ("none", *PRIORS):
        raise InputError(f"prior={cfg.prior}: expected {', '.join(PRIORS)} or none")
    if cfg.layer is not None and (cfg.prior != "none" or cfg.excerpts > 1):
        raise InputError(
            f"layer={cfg.layer} hears what training does and leaves the vectors as they are: "
            "expected prior=none excerpts=1"
        )
    weight = cfg.prior_weight
    if weight is None:
        return
    if cfg.prior == "none":
        raise InputError(f"prior_weight={weight} weighs nothing: prior=artist or album is missing")
    if type(weight) not in (int, float) or not 0 <= weight <= 1:
        raise InputError(f"prior_weight={weight}: expected a number from 0 to 1")


def _blended(cfg, stage: str, manifest: dict, store, vectors):
    """The vectors with their prior, and what the manifest says of it."""
    import numpy as np

    from cbmr.evaluation.held_out import held_out
    from cbmr.factors import load_factors
    from cbmr.priors import blend, choose_weight, priors_of_new_tracks, training_targets
    from cbmr.vectors import Vectors

    factors_file = Path(cfg.run) / "factors.npz"
    if file_hash(factors_file) != manifest["inputs"]["factors.npz"]:
        raise InputError(
            f"{factors_file} has changed since {stage} was trained, so a blend would add vectors "
            f"of two spaces: make the stage again with python -m tasks.{stage} {where(cfg)}"
        )
    holdout = manifest["settings"]["holdout"]
    corpus = read_corpus(cfg, needs=["plays"], uses=["thumbs"], holdout=holdout)
    factors = load_factors(factors_file)
    rows = corpus.track_rows(vectors.track_ids)
    prior = priors_of_new_tracks(corpus, *training_targets(corpus, factors), prior=cfg.prior)
    prior = np.where((rows >= 0)[:, None], prior[rows], 0)
    number = int(prior.any(axis=1).sum())
    said = {"name": cfg.prior, "tracks": number, "weight": cfg.prior_weight}
    if cfg.prior_weight is None:
        valid = held_out(corpus, factors, store)
        chosen = choose_weight(vectors.vectors[valid.rows], prior[valid.rows], valid.measure)
        if chosen is None:
            raise InputError(
                f"prior={cfg.prior}: no played validation track has a training track of its "
                "artist or album (or holdout=false left none), so its weight cannot be learned: "
                "expected prior_weight=, as another run learned it"
            )
        said |= vars(chosen)
        say(f"embed: prior={cfg.prior}, {chosen}")
    say(f"embed: {number} new tracks are blended, {len(rows) - number} stay as predicted")
    return Vectors(vectors.track_ids, blend(vectors.vectors, prior, said["weight"])), said


if __name__ == "__main__":
    command("embed", run)
