"""`python -m tasks.radio station=FILE.json seed=X`: a personal station, its votes and its picks.

The file is all that a station is; it is read, changed and written whole by each command:

    format_version, stage, encoder   whose vectors it is of; another encoder's are refused
    seed, listener                   what it begins with
    votes                            track_id and up, one a track
    picks                            what was played, with its propensity, the number of draws that
                                     it was estimated by, and how many votes were known
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from cbmr.corpus import Corpus, rows_of
from cbmr.errors import InputError
from cbmr.files import read_arrays, read_json, write_json
from cbmr.playlists import Catalogue, find_track, shown_name
from cbmr.radio import (
    Pick,
    Reason,
    Station,
    candidates,
    explain,
    pick,
    play,
    rank_of,
    start_station,
    vote,
    with_taste,
)
from cbmr.vectors import Vectors, load_vectors
from tasks.command import command
from tasks.manifests import MANIFESTS, factors_of, read_manifest, require_same_space, where
from tasks.runs import OF_FACTORS, SERVED, STATIONS_LOCK, locked, read_corpus, serving_stage
from tasks.terminal import say

FORMAT_VERSION = 1
PICKS = 5
KEYS = {"format_version", "stage", "encoder", "seed", "listener", "votes", "picks"}
ITEMS = {
    "votes": {"track_id": str, "up": bool},
    "picks": {"track_id": str, "propensity": float, "draws": int, "votes": int},
}


def run(cfg: DictConfig) -> None:
    """Record a vote, or play; leave the station's file. Never trains."""
    path = Path(cfg.station).expanduser()
    if path.is_dir():
        raise InputError(f"station={cfg.station}: expected a file, as blue.json, not a folder")
    corpus = read_corpus(cfg)
    serving_stage(cfg)  # before a lock makes the run's folder
    with locked(Path(cfg.run), STATIONS_LOCK):
        _run(cfg, corpus, path)


def _run(cfg: DictConfig, corpus: Corpus, path: Path) -> None:
    changes = [key for key in ("forget", "up", "down") if cfg[key] is not None]
    n = cfg.n if cfg.n is not None else 0 if changes else PICKS
    kept = _read_station(cfg, path) if path.exists() else _new_station(cfg, path)
    catalogue = Catalogue(corpus, _vectors(cfg, corpus, kept))
    _begin(cfg, catalogue, kept, path)
    _record(catalogue, kept, {key: str(cfg[key]) for key in changes}, path)
    station = _station(cfg, catalogue, kept, path)
    lines = []
    for _ in range(min(n, len(candidates(station)))):
        # A stream for each place on the station: five at once are those of five commands.
        rng = np.random.default_rng([cfg.rng_seed, len(kept["picks"])])
        chosen = pick(station, rng, draws=cfg.draws)
        lines.append(_line(catalogue, station, kept, chosen))
        station = play(station, chosen.track)
        kept["picks"].append(
            {
                "track_id": str(catalogue.vectors.track_ids[chosen.track]),
                "propensity": chosen.propensity,
                "draws": chosen.draws,
                "votes": len(kept["votes"]),
            }
        )
    write_json(path, kept)
    sys.stdout.writelines(lines)
    if len(candidates(station)) == 0:
        say("radio: every track was played or voted down; nothing is left for this station")
    say(f"radio: {len(kept['votes'])} votes, {len(kept['picks'])} tracks played -> {path}")


# --- the station's file -------------------------------------------------------------------------


def _new_station(cfg: DictConfig, path: Path) -> dict[str, Any]:
    if cfg.seed is None:
        raise InputError(
            f"station={path} is not there yet: expected seed= beside it, the track that a new "
            "station begins with"
        )
    stage = serving_stage(cfg)
    return {
        "format_version": FORMAT_VERSION,
        "stage": stage,
        "encoder": _encoder(cfg, stage),
        "seed": None,
        "listener": cfg.listener,
        "votes": [],
        "picks": [],
    }


def _read_station(cfg: DictConfig, path: Path) -> dict[str, Any]:
    kept = read_json(path)
    if set(kept) != KEYS or kept["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"station={path} is no station of format {FORMAT_VERSION} (it has {', '.join(kept)}): "
            "give the station a file of its own"
        )
    texts = ("encoder", "seed") if kept["listener"] is None else ("encoder", "seed", "listener")
    if kept["stage"] not in SERVED or not all(type(kept[key]) is str for key in texts):
        raise InputError(f"station={path}: its beginning is not as this task writes it")
    for key, kinds in ITEMS.items():
        items = kept[key]
        if not isinstance(items, list) or not all(_is_item(item, kinds) for item in items):
            raise InputError(f"station={path}: its {key} are not as this task writes them")
    if len({item["track_id"] for item in kept["votes"]}) < len(kept["votes"]):
        raise InputError(f"station={path}: its votes have a track twice")
    for key in ("listener", "stage"):
        _refuse_another(cfg, key, cfg[key], kept, path)
    encoder = _encoder(cfg, kept["stage"])
    if encoder != kept["encoder"]:
        raise InputError(
            f"station={path} was made for encoder {kept['encoder']}, the run's {kept['stage']} has "
            f"{encoder}: votes are of one space; begin a new station"
        )
    return kept


def _is_item(item: Any, kinds: dict[str, type]) -> bool:
    return (
        isinstance(item, dict)
        and {name: type(value) for name, value in item.items()} == kinds
        and 0 < item.get("propensity", 1.0) <= 1
    )


def _encoder(cfg: DictConfig, stage: str) -> str:
    manifest = Path(cfg.run) / MANIFESTS[stage]
    if not manifest.exists():
        raise InputError(
            f"{manifest} is missing; make it with python -m tasks.{stage} {where(cfg)}"
        )
    return read_json(manifest)["outputs"]["encoder.pt"]


def _begin(cfg: DictConfig, catalogue: Catalogue, kept: dict[str, Any], path: Path) -> None:
    """The seed into a new station's file; no other into one that has begun."""
    seed = None if cfg.seed is None else _track_id(catalogue, "seed", str(cfg.seed))
    kept["seed"] = kept["seed"] or seed
    _refuse_another(cfg, "seed", seed, kept, path)


def _refuse_another(
    cfg: DictConfig, key: str, value: str | None, kept: dict[str, Any], path: Path
) -> None:
    if value is not None and value != kept[key]:
        made = "without one" if kept[key] is None else f"with {kept[key]}"
        raise InputError(f"{key}={cfg[key]}: station={path} was made {made}; begin a new station")


def _record(
    catalogue: Catalogue, kept: dict[str, Any], changes: dict[str, str], path: Path
) -> None:
    """Votes into the file's list, and out of it."""
    voted = [item["track_id"] for item in kept["votes"]]
    found = {}
    for key, name in changes.items():
        # A track that has left the corpus since can still be forgotten, by its id.
        known = key == "forget" and name in voted
        found[key] = name if known else _track_id(catalogue, key, name)
    if len(set(found.values())) < len(found):
        raise InputError(f"{' and '.join(found)} name the same track: expected one of them")
    if "forget" in found and found["forget"] not in voted:
        raise InputError(f"forget={changes['forget']}: {path} has no vote on {found['forget']}")
    kept["votes"] = [item for item in kept["votes"] if item["track_id"] not in found.values()]
    for key, track_id in found.items():
        if key != "forget":
            kept["votes"].append({"track_id": track_id, "up": key == "up"})


def _track_id(catalogue: Catalogue, key: str, name: str) -> str:
    row = find_track(catalogue, name, setting=key)
    if not isinstance(row, int):
        raise InputError(
            f"{key}={name}: a station is of the corpus's tracks, and this file is none of them; "
            "add it to the tracks table, then python -m tasks.scan and tasks.embed"
        )
    return str(catalogue.corpus.track_ids[row])


# --- the station itself -------------------------------------------------------------------------


def _vectors(cfg: DictConfig, corpus: Corpus, kept: dict[str, Any]) -> Vectors:
    """The vectors of the tracks that the corpus still has."""
    found = load_vectors(Path(cfg.run) / kept["stage"] / "embeddings.npz")
    here = corpus.track_rows(found.track_ids) >= 0
    return Vectors(found.track_ids[here], found.vectors[here])


def _station(cfg: DictConfig, catalogue: Catalogue, kept: dict[str, Any], path: Path) -> Station:
    if catalogue.corpus.track_rows([kept["seed"]])[0] < 0:
        raise InputError(
            f"station={path}: its seed {kept['seed']} has left the corpus; begin a new station"
        )
    taste = None if kept["listener"] is None else _taste(cfg, kept)
    vectors, start = catalogue.vectors, _seed(cfg, catalogue, kept)
    if taste is not None:
        start = with_taste(start, taste)
    gone = [kept["seed"], *(item["track_id"] for item in kept["picks"])]
    played = rows_of(vectors.track_ids, np.array(gone))
    station = start_station(
        vectors.vectors,
        start,
        played=frozenset(played[played >= 0].tolist()),
        exploration=cfg.exploration,
    )
    ids = np.array([item["track_id"] for item in kept["votes"]], dtype=str)
    for row, item in zip(rows_of(vectors.track_ids, ids).tolist(), kept["votes"], strict=True):
        if row < 0:
            raise InputError(
                f"station={path}: track {item['track_id']!r}, voted on, has no vector now; "
                f"forget={item['track_id']} takes the vote away"
            )
        station = vote(station, row, item["up"])
    return station


def _seed(cfg: DictConfig, catalogue: Catalogue, kept: dict[str, Any]) -> np.ndarray:
    """What the seed asks for `[size]`: by its sound, and by its listeners where it has some."""
    ids = np.array([kept["seed"]])
    content = catalogue.vectors.of(ids)
    factors = factors_of(cfg, read_manifest(Path(cfg.run), kept["stage"]))
    if factors is None:
        return content[0]

    from cbmr.priors import seed_queries  # here, since it loads SciPy

    return seed_queries(content, ids, factors)[0]


def _taste(cfg: DictConfig, kept: dict[str, Any]) -> np.ndarray:
    """The listener's factors `[size]`, of the space that the stage's vectors are of."""
    folder = Path(cfg.run)
    learned = folder / "regress" / "users.npz"  # stage 2 stays in the space of stage 1
    path = learned if learned.exists() else folder / "factors.npz"
    if kept["stage"] not in OF_FACTORS or not path.exists():
        raise InputError(
            f"listener={kept['listener']}: expected vectors of the space of the plays' factors, "
            f"of stage=regress or rank with {folder / 'factors.npz'}; this station is of "
            f"{kept['stage']}"
        )
    require_same_space(cfg, kept["stage"])
    user_ids, factors = read_arrays(path, "user_ids", "user_factors")
    row = rows_of(user_ids, np.array([kept["listener"]]))[0]
    if row < 0:
        raise InputError(
            f"listener={kept['listener']}: {path} has no factors of this user id; begin a new "
            "station, with another listener or none"
        )
    return factors[row]


def _line(catalogue: Catalogue, station: Station, kept: dict[str, Any], chosen: Pick) -> str:
    vectors, track = catalogue.vectors, chosen.track
    similarity = float(vectors.vectors[track] @ vectors.of(np.array([kept["seed"]]))[0])
    reason = _because(catalogue, explain(station, track), rank_of(station, track))
    return (
        f"{len(kept['picks']) + 1:3d}  {similarity:6.3f}  p={chosen.propensity:.3f}  "
        f"{_named(catalogue, track)} ({vectors.track_ids[track]}): {reason}\n"
    )


def _named(catalogue: Catalogue, track: int) -> str:
    entry = catalogue.entry(int(catalogue.row_of_vector[track]), float("nan"))
    return " ".join(shown_name(entry.artist, entry.title).split())


def _because(catalogue: Catalogue, reasons: list[Reason], rank: int) -> str:
    """Why a pick is here, in a line."""
    if not reasons:
        return f"{_ordinal(rank)} by its likeness to the seed"
    first = reasons[0]
    if first.rank_without <= rank:
        return f"{_ordinal(rank)} by the seed and all votes together"
    kind = "up" if first.up else "down"
    voted = _named(catalogue, first.track)
    return f"here because of your {kind} on {voted}; without it, {_ordinal(first.rank_without)}"


def _ordinal(number: int) -> str:
    ending = (
        "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    )
    return f"{number}{ending}"


if __name__ == "__main__":
    command("radio", run, writes=False)
