"""`python -m tasks.analyze`: what a stage's network learned: its filters, what its units react to,
maps of the tracks."""

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, ListConfig

from cbmr.corpus import Corpus
from cbmr.errors import InputError
from cbmr.files import content_hash, file_hash, whole_file
from cbmr.playlists import FORMATS, PATHS, Catalogue, Playlist, format_playlist
from tasks.command import command
from tasks.manifests import MANIFESTS, is_fresh, read_manifest, settings_of, where, write_manifest
from tasks.runs import read_corpus, serving_stage
from tasks.terminal import progress, say

if TYPE_CHECKING:
    from cbmr.analysis.cards import Card, UnitList
    from cbmr.encoder import Encoder

READ = ("predicted.npz", "embeddings.npz", "encoder.pt")


@dataclass(frozen=True)
class Material:
    """What is looked at, and everything in it by its hash."""

    stage: str
    manifest: dict[str, Any]
    corpus: Corpus
    inputs: dict[str, str]


def run(cfg: DictConfig) -> None:
    """Leave `analysis/` of a stage. Never trains."""
    folder = Path(cfg.run)
    chosen, units = _numbers(cfg, "filters"), _numbers(cfg, "units")
    if cfg.paths not in PATHS:
        raise InputError(f"paths={cfg.paths}: expected one of {', '.join(PATHS)}")
    looked_at = material(cfg)
    settings = settings_of(cfg)
    if is_fresh(folder, "analyze", settings, looked_at.inputs):
        return

    from cbmr.encoder import load_encoder

    (folder / MANIFESTS["analyze"]).unlink(missing_ok=True)
    encoder = load_encoder(folder / looked_at.stage / "encoder.pt")
    left = [
        *_filters(folder / "analysis", encoder, chosen),
        *_units(cfg, looked_at, encoder, units),
        *_maps(cfg, looked_at),
    ]
    outputs = {name: file_hash(folder / "analysis" / name) for name in left}
    write_manifest(folder, "analyze", settings, looked_at.inputs, outputs=outputs)
    say(f"analyze {looked_at.stage}: -> {folder / 'analysis'}")


def material(cfg: DictConfig) -> Material:
    """What `analysis/` is made of: all that decides it beside the settings."""
    folder, stage = Path(cfg.run), serving_stage(cfg)
    manifest = read_manifest(folder, stage)
    holdout = manifest["settings"].get("holdout", True)
    corpus = read_corpus(cfg, uses=["plays"], holdout=holdout)
    names = [*(f"{stage}/{name}" for name in READ), "regress/users.npz", "factors.npz"]
    inputs = {name: file_hash(folder / name) for name in names if (folder / name).exists()}
    columns = ("track_ids", "path", "title", "artist", "album", "style", "year", "split")
    said = [getattr(corpus, name) for name in columns]
    inputs["tracks"] = content_hash(*("" if column is None else column for column in said))
    return Material(stage, manifest, corpus, inputs)


def _filters(target: Path, encoder: "Encoder", chosen: list[int]) -> list[str]:
    from cbmr.analysis import draw_close_up, draw_filters, first_filters, strongest

    if encoder.mel_spec is None:
        say("analyze: this encoder reads vectors, not sound, so it has no filters to look at")
        return []
    filters = first_filters(encoder)
    draw_filters(filters, encoder.mel_spec, target / "filters.png")
    draw_close_up(
        filters, chosen or strongest(filters), encoder.mel_spec, target / "filters_close.png"
    )
    return ["filters.png", "filters_close.png"]


def _maps(cfg: DictConfig, looked_at: Material) -> list[str]:
    from cbmr.analysis import draw_maps, groups_of, place, usage_patterns, write_map
    from cbmr.factors import load_factors
    from tasks.stages import predicted_vectors, with_users

    folder, corpus, stage = Path(cfg.run), looked_at.corpus, looked_at.stage
    predicted = predicted_vectors(folder / stage)
    rows = corpus.track_rows(predicted.track_ids)
    on_map = np.flatnonzero(rows >= 0)
    if len(on_map) > cfg.points:
        rng = np.random.default_rng(cfg.rng_seed)
        on_map = np.sort(rng.choice(on_map, cfg.points, replace=False))
        say(f"map: {len(on_map)} of {len(rows)} tracks, drawn at random (points=)")
    rows, vectors = rows[on_map], predicted.vectors[on_map]
    compared = {"predicted factors": vectors}
    users = looked_at.manifest["inputs"].get("factors.npz")
    if users is None:
        compared = {"sound": vectors}  # of a stage that has heard of no listeners
    elif users == looked_at.inputs.get("factors.npz"):
        factors = with_users(load_factors(folder / "factors.npz"), folder / "regress" / "users.npz")
        compared["predicted usage"] = usage_patterns(vectors, factors.user_factors)
    else:
        say(
            f"map: factors.npz has changed since {stage} was trained, so there is no map of usage; "
            f"python -m tasks.{stage} {where(cfg)} makes the stage again"
        )
    layouts = {}
    for name, points in compared.items():
        with progress(f"map of {len(rows)} tracks by {name}") as report:
            layouts[name] = place(
                points, perplexity=cfg.perplexity, rng_seed=cfg.rng_seed, progress=report
            )
    groups = groups_of(corpus, rows)
    target = folder / "analysis"
    draw_maps(layouts, groups[0] if groups else None, target / "map.png")
    write_map(target / "map.html", corpus, rows, layouts, groups)
    return ["map.png", "map.html"]


def _units(cfg: DictConfig, looked_at: Material, encoder: "Encoder", units: list[int]) -> list[str]:
    from cbmr.analysis import check_units, make_cards, strongest_tracks, write_units
    from tasks.stages import open_store, predicted_vectors

    corpus, target = looked_at.corpus, Path(cfg.run) / "analysis"
    store = open_store(cfg, corpus, encoder.mel_spec)
    names = [name for name in encoder.network.layers() if name not in ("pooled", "output")]
    layers = [cfg.layer] if cfg.layer else list(dict.fromkeys((names[0], names[-1])))
    check_units(encoder, store, layers, units)
    with progress(f"analyze {', '.join(layers)}") as report:
        strongest = strongest_tracks(encoder, store, layers, n=cfg.n, progress=report)
    cards = make_cards(encoder, store, corpus, strongest, units)
    write_units(target / "units.html", corpus, cards)
    shutil.rmtree(target / "units", ignore_errors=True)
    catalogue = Catalogue(corpus, predicted_vectors(Path(cfg.run) / looked_at.stage))
    left = ["units.html"]
    for card in cards:
        for tracks in card.lists:
            for form in FORMATS:
                suffix = "txt" if form == "table" else form
                left.append(f"units/{card.layer}/{card.unit:03d}-{tracks.by}.{suffix}")
                text = format_playlist(
                    _listed(catalogue, card, tracks), form, paths=cfg.paths,
                    base=(target / left[-1]).parent,
                )  # fmt: skip
                with whole_file(target / left[-1]) as file:
                    file.write(text.encode(errors="replace"))
    say(f"analyze: {len(cards)} units of {', '.join(layers)} -> {target / 'units.html'}")
    return left


def _listed(catalogue: Catalogue, card: "Card", tracks: "UnitList") -> Playlist:
    """A unit's tracks as a list, each with the unit's reaction and when it is at its maximum."""
    entries = []
    for row, value, moment_s in zip(
        tracks.rows.tolist(), tracks.values.tolist(), tracks.moments_s.tolist(), strict=True
    ):
        at = "" if math.isnan(moment_s) else f", peak at {moment_s:.1f} s"
        entry = catalogue.entry(row, value)
        entries.append(replace(entry, why=f"{tracks.by} {value:.3g}{at}"))
    return Playlist(f"{card.layer}, unit {card.unit}: highest {tracks.by}", tuple(entries))


def _numbers(cfg: DictConfig, name: str) -> list[int]:
    """Numbers that a person chose, empty where there are none."""
    value = cfg[name]
    if value is None:
        return []
    numbers = list(value) if isinstance(value, ListConfig) else [value]
    if not numbers or any(type(number) is not int or number < 0 for number in numbers):
        raise InputError(f"{name}={value}: expected whole numbers from 0, such as {name}=[14,242]")
    return numbers


if __name__ == "__main__":
    command("analyze", run)
