"""`python -m tasks.factorize`: plays to collaborative-filtering factors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cbmr.corpus import Corpus, Plays, training_plays
from cbmr.files import file_hash
from tasks.command import command
from tasks.manifests import is_fresh, plain, plays_hash, settings_of, write_manifest
from tasks.runs import read_corpus
from tasks.terminal import say


@dataclass(frozen=True)
class Material:
    """What the factors are fitted on, and its hashes."""

    corpus: Corpus
    plays: Plays
    inputs: dict[str, str]


def material(cfg: DictConfig) -> Material:
    """The plays of training tracks: all that decides the factors beside the settings."""
    corpus = read_corpus(cfg, needs=["plays"], sessions=cfg.factors.name == "sessions")
    plays = training_plays(corpus)
    return Material(corpus, plays, {"training plays": plays_hash(corpus, plays)})


def run(cfg: DictConfig) -> None:
    """Fit the factors and write `factors.npz`."""
    learned_from = material(cfg)
    corpus, plays, inputs = learned_from.corpus, learned_from.plays, learned_from.inputs
    folder, settings = Path(cfg.run), settings_of(cfg)
    if is_fresh(folder, "factorize", settings, inputs):
        return

    from cbmr.factors import factorize, save_factors, settled, tune

    asked: dict[str, Any] = {
        "plays": plays,
        "track_ids": corpus.track_ids,
        "user_ids": corpus.user_ids,
        "model": cfg.factors.name,
        "size": cfg.factors.size,
        "rng_seed": cfg.rng_seed,
    }
    options = plain(cfg.factors.options)
    given = options
    if cfg.factors.tune:
        options = tune(**asked, report=say, **options)
    options = settled(plays, model=cfg.factors.name, **options)
    if options != given:
        say("factorize: chosen " + ", ".join(f"{name} {n:.4g}" for name, n in options.items()))
    fitted = factorize(**asked, report=say, **options)
    save_factors(folder / "factors.npz", fitted)
    output = {"factors.npz": file_hash(folder / "factors.npz")}
    write_manifest(folder, "factorize", settings, inputs, outputs=output, options=options)
    say(
        f"factorize: {fitted.item_factors.shape[1]} factors by {cfg.factors.name} of "
        f"{len(fitted.track_ids)} tracks and {len(fitted.user_ids)} listeners -> "
        f"{folder / 'factors.npz'}"
    )


if __name__ == "__main__":
    command("factorize", run)
