"""`python -m tasks.rank`: stage 2, the encoder fine-tuned on radio thumbs."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from cbmr.errors import InputError
from cbmr.files import content_hash, file_hash
from tasks.command import command, defaults_of
from tasks.manifests import is_fresh, require_same_space, settings_of
from tasks.runs import read_corpus, require
from tasks.terminal import say

if TYPE_CHECKING:
    from cbmr.corpus import Thumbs
    from cbmr.encoder import Encoder
    from cbmr.evidence import Evidence
    from cbmr.preferences import Preferences
    from tasks.stages import Material

LOSSES = ("bpr", "drlim", "infonce", "lambdarank", "margin", "ranknet", "triplet", "warp")
NEED_NO_PAIRS = ("drlim", "infonce")
MOST_FLIPS = 0.45
"""As `cbmr.votes` has it, which loads torch: settings are checked before that."""
TRIPLETS = ("all", "semihard", "hard")
GROUPS = {"both": "listener's station", "station": "seed", "listener": "listener"}


def material(cfg: DictConfig) -> "Material":
    """What stage 2 learns from: all that decides it beside the settings."""
    evidence = cfg.evidence
    exposures = ["exposures"] if evidence.skips or evidence.completions or evidence.plays else []
    triplets = ["triplets"] if evidence.triplets else []
    corpus = read_corpus(cfg, needs=["plays", "thumbs", *exposures], uses=triplets)
    require("regress", cfg)

    from cbmr.encoder import load_encoder
    from tasks.stages import gather

    encoder_file = Path(cfg.run) / "regress" / "encoder.pt"
    spec, users = load_encoder(encoder_file).mel_spec, encoder_file.with_name("users.npz")
    learned_from = gather(cfg, corpus, spec, users)
    votes, ids = training_votes(learned_from), learned_from.store.track_ids
    named = [corpus.user_ids[votes.user], ids[votes.seed], ids[votes.track], votes.up]
    for other in other_evidence(cfg, learned_from):
        # By name, as rows move with listeners who have nothing to do with training; -1 is nobody.
        users = np.append(corpus.user_ids, "")[other.user]
        named += [users, ids[other.seed], ids[other.track], other.up, np.minimum(other.group, 0)]
    more = {
        "regress/encoder.pt": file_hash(encoder_file),
        "training votes": content_hash(*named),
    }
    return replace(learned_from, inputs=learned_from.inputs | more)


def training_votes(learned_from: "Material") -> "Thumbs":
    """The votes of training tracks on training seeds, as rows of the store."""
    from cbmr.evaluation.held_out import votes_in_store

    votes = votes_in_store(learned_from.corpus, learned_from.store, "train")
    if not len(votes):
        raise InputError(
            f"{learned_from.corpus.folder}: none of the thumbs has a training track on a training "
            "seed, with audio: stage 2 has nothing to learn from"
        )
    return votes


def other_evidence(cfg: DictConfig, learned_from: "Material") -> list["Evidence"]:
    """What the corpus knows beside thumbs, by the weights of `cfg.evidence`, as votes on rows of
    the store."""
    from cbmr.corpus import rows_of, training_exposures, training_triplets
    from cbmr.evidence import odd_one_out_votes, on_rows, weaker_votes

    corpus, found = learned_from.corpus, []
    weights = dict(cfg.evidence)
    of_triplets = weights.pop("triplets")
    if corpus.exposures is not None:
        assert corpus.thumbs is not None
        found.append(weaker_votes(training_exposures(corpus), corpus.thumbs, **weights))
    if corpus.triplets is not None:
        found.append(odd_one_out_votes(training_triplets(corpus), weight=of_triplets))
    rows = rows_of(learned_from.store.track_ids, corpus.track_ids)
    return [on_rows(evidence, rows) for evidence in found]


def run(cfg: DictConfig) -> None:
    """Fine-tune stage 1's encoder and leave `rank/`; stage 1's own where that is no better."""
    _check(cfg)
    folder, settings, learned_from = Path(cfg.run), settings_of(cfg), material(cfg)
    require_same_space(cfg, "regress")
    if is_fresh(folder, "rank", settings, learned_from.inputs):
        return

    from cbmr.embed import embed_store
    from cbmr.encoder import load_encoder
    from cbmr.evaluation.held_out import no_better
    from cbmr.preferences import make_preferences
    from cbmr.priors import seed_queries
    from cbmr.votes import fit_votes
    from tasks.stages import blended, save_stage

    store, valid = learned_from.store, learned_from.valid
    encoder = load_encoder(folder / "regress" / "encoder.pt")
    stage_1 = embed_store(encoder, store)  # its own file may be older than the store
    queries = seed_queries(stage_1.vectors, store.track_ids, learned_from.factors)
    votes, others = training_votes(learned_from), other_evidence(cfg, learned_from)
    model = fit_votes(queries, votes, flip_rate=cfg.flip_rate, rng_seed=cfg.rng_seed)
    say(f"rank: {model}")
    meant, certainty = model.corrected(queries, votes)
    say(f"rank: {int((meant.up != votes.up).sum())} of {len(votes)} votes are turned round")
    preferences = make_preferences(meant, *others, certainty=certainty, within=cfg.within)
    _check_sides(cfg, preferences)
    before = valid.measure(stage_1.vectors[valid.rows])
    for measured, what in (
        (valid.has_listening, "listening"), (valid.has_votes, "votes of both kinds")
    ):  # fmt: skip
        if not measured:
            say(f"rank: validation has no {what}, so that has no say in which encoder is kept")

    vectors, after, epochs = stage_1, before, 0
    if model.only_chance and not any(len(evidence.up) for evidence in others):
        say(
            "rank: likeness foretells these votes no better than chance, so there is nothing to "
            "learn from them and stage 1's encoder is exported"
        )
    else:
        say(
            f"rank: {cfg.loss.name} on {len(votes)} votes and {len(preferences.up) - len(votes)} "
            f"pieces of other evidence of {len(preferences.stations)} stations, "
            f"{preferences.pairs} pairs of an up and a down of one {GROUPS[preferences.within]}"
        )
        tuned = load_encoder(folder / "regress" / "encoder.pt")
        _fine_tune(cfg, tuned, learned_from, preferences, stage_1.vectors, queries, settings)
        heard = embed_store(tuned, store)
        by_tuned = valid.measure(heard.vectors[valid.rows])
        why = no_better(before, by_tuned)
        if why:
            say(f"rank: {why}, so stage 1's encoder is exported")
        else:
            encoder, vectors, after, epochs = tuned, heard, by_tuned, cfg.epochs
    metrics = {"train_votes": len(votes), "flip_rate": model.flip_rate, "epochs": epochs}
    for name, value in before.items():
        metrics |= {f"valid_{name}": after[name], f"valid_{name}_stage_1": value}
    mixed = blended(
        defaults_of("embed", cfg), learned_from.corpus, learned_from.factors, store, vectors
    )
    save_stage(cfg, "rank", encoder, vectors, metrics, settings, learned_from.inputs, mixed=mixed)


def _fine_tune(
    cfg: DictConfig,
    encoder: "Encoder",
    learned_from: "Material",
    preferences: "Preferences",
    stage_1: np.ndarray,
    queries: np.ndarray,
    settings: dict[str, Any],
) -> None:
    """Train `encoder` on stations of these preferences, anchored to stage 1's vectors as far as
    listeners are many."""
    import torch

    from cbmr.batches import station_batches
    from cbmr.learners import ThumbRanking
    from cbmr.priors import anchor_weights
    from tasks.stages import fit, optimisation

    store, rows, valid = learned_from.store, learned_from.train_rows, learned_from.valid
    is_measured = valid.has_listening or valid.has_votes
    weight = np.zeros(len(store), dtype=np.float32)
    weight[rows] = anchor_weights(learned_from.factors, store.track_ids[rows])
    batches = station_batches(
        store,
        preferences,
        stage_1,
        weight,
        queries,
        valid.rows if is_measured else None,
        batch_size=cfg.batch_size,
        rng_seed=cfg.rng_seed,
        workers=cfg.workers,
    )
    torch.manual_seed(cfg.rng_seed)
    learner = ThumbRanking(
        encoder,
        valid.measure if is_measured else None,
        loss=cfg.loss.name,
        options=dict(cfg.loss.options),
        anchor=cfg.anchor,
        layer_decay=cfg.layer_decay,
        frozen_convolutions=cfg.frozen_convolutions,
        **optimisation(cfg, store.mel_spec),
    )
    fit(cfg, "rank", learner, batches, settings, learned_from.inputs)


def _check_sides(cfg: DictConfig, preferences: "Preferences") -> None:
    """InputError where a loss finds nothing to hold against each other."""
    if cfg.loss.name not in NEED_NO_PAIRS and not preferences.pairs:
        raise InputError(
            f"loss={cfg.loss.name} learns from an up and a down of one {GROUPS[preferences.within]}"
            f" (within={preferences.within}), and none has both: use loss=drlim"
        )
    if cfg.loss.name == "infonce" and not preferences.up.any():
        raise InputError("loss=infonce learns from ups, and all votes are downs: use loss=drlim")


def _check(cfg: DictConfig) -> None:
    if cfg.loss.name not in LOSSES:
        raise InputError(f"loss={cfg.loss.name}: expected {', '.join(LOSSES)}; regress has others")
    of_pairs = cfg.loss.options.get("flip_rate", 0.0)
    if not 0 <= of_pairs < 0.5:
        raise InputError(f"loss.options.flip_rate={of_pairs}: expected at least 0 and below 0.5")
    if cfg.flip_rate is not None and not (
        type(cfg.flip_rate) in (int, float) and 0 <= cfg.flip_rate <= MOST_FLIPS
    ):
        raise InputError(
            f"flip_rate={cfg.flip_rate}: expected a share of the votes from 0 to {MOST_FLIPS}, or "
            "null for one that is estimated"
        )
    if not 0 < cfg.layer_decay <= 1:
        raise InputError(f"layer_decay={cfg.layer_decay}: expected above 0 and at most 1")
    if cfg.within is not None and cfg.within not in GROUPS:
        raise InputError(f"within={cfg.within}: expected {', '.join(GROUPS)}, or null")
    if cfg.loss.name == "triplet":
        if cfg.loss.options.mine not in TRIPLETS:
            raise InputError(f"mine={cfg.loss.options.mine}: expected one of {', '.join(TRIPLETS)}")
        if cfg.within == "listener":
            raise InputError(
                "loss=triplet with within=listener: a triplet has one seed, and a listener's "
                "stations have several; expected within=both or station"
            )


if __name__ == "__main__":
    command("rank", run)
