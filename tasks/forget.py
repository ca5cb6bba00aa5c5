"""`python -m tasks.forget track=X` or `user=X`: one out of the corpus and of all that a run made.

Search, take out, search again: what the second search finds, and only that, is what is left, so a
file that nobody thought of is named, not passed over. In this order, so that the same command goes
on after an interruption, whatever stands:

    corpus/forgotten.json   its name, hashed: `ingest` does not bring it back
    STAGE/checkpoints/      removed where the stage may have seen it: states of a training
    *.npz                   factors, vectors, learned listeners and activations: its row
    analysis/, report.html  removed where they name it
    stations, lists         votes, picks and entries; one that is the listener's, or a station that
                            begins with the track, goes whole
    index/                  made again
    spectrograms/           rows, the files behind them, the catalogue, which knew its content
    the corpus's tables     its rows, the tracks table, which knew its file, last

Weights, and what they made of others, are not taken back by any of this: the stages are stale then,
and made again without it by their own commands. The audio file stays where it is.
"""

import difflib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from omegaconf import DictConfig

from cbmr.errors import InputError
from cbmr.files import file_hash, read_json, sync_folder, whole_file, write_arrays, write_json
from cbmr.forget import (
    Looked,
    Wanted,
    look_through,
    rows_of_tables,
    users_of,
    wanted_of,
    without_in_arrays,
    without_in_list,
    without_in_table,
)
from cbmr.forgotten import forgotten, remember
from tasks.command import command, defaults_of
from tasks.manifests import MANIFESTS, inputs_now, of_same_space, where
from tasks.radio import KEYS
from tasks.runs import SERVED, STATIONS_LOCK, locked
from tasks.status import stale
from tasks.terminal import say

OF_USERS = ("factorize", "regress", "rank", "evaluate")
LEARN = {"track": ("pretrain", *OF_USERS), "user": OF_USERS}
"""The tasks that may have learned from one, in their order."""
PAGES = ("analysis", "report.html")
"""Of a run: they show all tracks together, some in pictures that cannot be searched."""
MOST_NAMED = 5
CATALOGUE = "catalogue.json"
"""Of a store: with the tables and the arrays, what makes a name one of the corpus or the run."""


@dataclass(frozen=True)
class Target:
    """What is forgotten: `kind` is track or user. Of a track, `paths` are where its audio is,
    `stamp` its size and time of change where the tracks table has them, and `ids` its own and those
    of its contents."""

    kind: str
    name: str
    ids: frozenset[str]
    paths: frozenset[Path]
    stamp: str | None
    wanted: Wanted


def run(cfg: DictConfig) -> None:
    """Forget, and say what was looked through; InputError while anything still names it."""
    if (cfg.track is None) == (cfg.user is None):
        raise InputError("expected either track=, a track id, or user=, a user id")
    kind = "user" if cfg.track is None else "track"
    corpus, folder = Path(cfg.corpus).expanduser(), Path(cfg.run)
    if not corpus.is_dir():
        raise InputError(f"corpus={cfg.corpus} is not a folder: expected one with tracks.parquet")
    with locked(corpus), locked(folder, STATIONS_LOCK):
        target = _target(corpus, folder, kind, str(cfg[kind]))
        for path in folder.rglob(".*.partial"):
            path.unlink()  # what killed processes left half-written: their lock is ours now
        looked = look_through((corpus, folder), target.wanted)
        tables = rows_of_tables(corpus, kind, target.name)
        is_known = bool(tables) or any(
            path.name == CATALOGUE or path.suffix == ".npz" for path in looked.found
        )
        before = forgotten(corpus, f"{kind}s", [target.name])
        if not (is_known or before):
            raise InputError(_unknown(corpus, kind, target.name))
        if before and not is_known:
            say(f"forget: {kind} {target.name} was forgotten before")
        if looked.found:
            _forget(cfg, corpus, folder, target, looked, tables, is_known)
            looked = look_through((corpus, folder), target.wanted)
    _report(cfg, corpus, folder, target, looked)


def _target(corpus: Path, folder: Path, kind: str, name: str) -> Target:
    if kind == "user":
        wanted = wanted_of(kind, [name], phrases=[_list_of(name)])
        return Target(kind, name, frozenset([name]), frozenset(), None, wanted)

    from cbmr.spectrograms.removal import known_of

    ids, paths, stamp = {name}, set[Path](), None
    for row in _tracks(corpus).filter(pl.col("track_id") == name).rows(named=True):
        paths.add(_absolute(corpus / row["path"]))
        if row.get("mtime_ns") is not None:
            stamp = f"{row['size']} {row['mtime_ns']}"
    for store in _stores(folder):
        known = known_of(store, name)
        ids |= known.contents
        paths |= known.paths
    own = frozenset(paths - _others_at(corpus, name, paths))
    return Target(kind, name, frozenset(ids), own, stamp, wanted_of(kind, ids, paths=own))


def _forget(
    cfg: DictConfig,
    corpus: Path,
    folder: Path,
    target: Target,
    looked: Looked,
    tables: dict[Path, tuple[int, int]],
    is_known: bool,
) -> None:
    for path, (named, rows) in tables.items():
        if path.stem == "tracks" and named == rows:
            raise InputError(
                f"track={target.name} is the only one of {path}: to forget it, delete the corpus "
                "and the runs made of it"
            )
    said = [f"{named} of the {rows} rows of {path}" for path, (named, rows) in tables.items()]
    say(f"forget: {target.kind} {target.name} goes for good: {', '.join(said) or 'no rows'}, and "
        f"what {folder} holds of it")  # fmt: skip
    remember(
        corpus,
        **{f"{target.kind}s": [target.name]},
        files=[] if target.stamp is None else [target.stamp],
    )
    for stage in LEARN[target.kind]:
        if is_known and (folder / stage / "checkpoints").exists():
            shutil.rmtree(folder / stage / "checkpoints")
            say(f"forget: {folder / stage / 'checkpoints'} is removed: a training, not a result")
    for path in looked.found:
        if path.suffix == ".npz":
            _out_of_arrays(path, folder, target)
    for page in (folder / name for name in PAGES):
        if any(path.is_relative_to(page) for path in looked.found):
            shutil.rmtree(page) if page.is_dir() else page.unlink()
            say(f"forget: {page} is removed, which shows all tracks together")
    for path in looked.found:
        if path not in tables and path.suffix != ".npz":
            _out_of_station(path, target)
            _out_of_list(path, target)
    if target.kind == "track" and (folder / "index").exists():
        _index_again(cfg, folder)
    if target.kind == "track":
        _out_of_stores(cfg, folder, target)
    for path in tables:
        without_in_table(path, target.kind, target.name)


def _out_of_stores(cfg: DictConfig, folder: Path, target: Target) -> None:
    from cbmr.spectrograms.removal import forget_track

    update = folder / MANIFESTS["update"]
    was_fresh = update.exists() and not stale(cfg, "update")
    for store in _stores(folder):
        rows = forget_track(store, target.name, target.paths, say)
        if rows:
            say(f"forget: {rows} log-mels out of {store}")
    if was_fresh:  # and is: its vectors are each of one track alone
        write_json(update, read_json(update) | {"inputs": inputs_now(cfg, "update")})


def _out_of_arrays(path: Path, folder: Path, target: Target) -> None:
    """The rows out of an `.npz`, and its new hash into the manifests that have the old one."""
    arrays = without_in_arrays(path, target.kind, target.ids)
    if arrays is None:
        return
    # The manifests change before the file: interrupted between, it is done again, to the same byte.
    shorter = path.with_name(f".{path.name}.shorter")
    write_arrays(shorter, **arrays)
    for manifest in (path.with_name("manifest.json"), path.with_suffix(".json")):
        if manifest.exists():
            content = read_json(manifest)
            if path.name in content.get("outputs", {}):
                content["outputs"][path.name] = file_hash(shorter)
                write_json(manifest, content)
    if path == folder / "factors.npz":
        for stage in SERVED:
            manifest = folder / MANIFESTS[stage]
            content = read_json(manifest) if manifest.exists() else {"inputs": {}}
            if "factors.npz" in content["inputs"] and of_same_space(content, path):
                content["forgotten"] = [file_hash(path), file_hash(shorter)]
                write_json(manifest, content)
    shorter.replace(path)
    sync_folder(path.parent)
    say(f"forget: its row out of {path}")


def _out_of_station(path: Path, target: Target) -> None:
    """The votes and picks out of a station's file; one that is nothing without it goes whole."""
    station = read_json(path) if path.suffix == ".json" and path.exists() else {}
    if set(station) != KEYS:
        return
    if station["seed" if target.kind == "track" else "listener"] == target.name:
        path.unlink()
        say(f"forget: {path} is removed, a station that is nothing without it")
    elif target.kind == "track":
        for key in ("votes", "picks"):
            station[key] = [item for item in station[key] if item["track_id"] != target.name]
        write_json(path, station)
        say(f"forget: its votes and picks out of the station {path}")


def _out_of_list(path: Path, target: Target) -> None:
    """The entry out of a playlist that cbmr wrote; one for the listener goes whole."""
    from cbmr.playlists import read_playlist

    text = without_in_list(path, target.wanted) if path.exists() else None
    if text is None:
        return
    if target.kind == "user" and read_playlist(path).title == _list_of(target.name):
        path.unlink()
        say(f"forget: {path} is removed, a list for them")
        return
    with whole_file(path) as file:
        file.write(text.encode(errors="replace"))
    say(f"forget: its entry out of the list {path}")


def _index_again(cfg: DictConfig, folder: Path) -> None:
    """The index of the stage that it is of, unless it is whole and knows only that stage's
    tracks."""
    import tasks.index
    from cbmr.index import load_index
    from cbmr.vectors import load_vectors

    path, crowding = folder / MANIFESTS["index"], folder / "index" / "crowding.npz"
    made = read_json(path) if path.exists() else {"encoder": None}
    for stage in SERVED:
        manifest = folder / MANIFESTS[stage]
        if manifest.exists() and read_json(manifest)["outputs"]["encoder.pt"] == made["encoder"]:
            vectors = load_vectors(folder / stage / "embeddings.npz")
            try:
                load_index(folder / "index", vectors, encoder_hash=made["encoder"])
                # What `index` writes last; without a correction, one by `update` does not need it.
                whole = "hubs" in made or not crowding.exists()
                fresh = whole and made["track_ids"] == vectors.track_ids.tolist()
            except InputError:
                fresh = False
            if not fresh:
                settings = defaults_of("index", cfg)
                settings.stage = stage
                if crowding.exists():
                    settings.hubs = "local_scaling"
                tasks.index.run(settings)
            return
    shutil.rmtree(folder / "index")
    say(f"forget: {folder / 'index'} is removed: it is of no stage that is there")


def _report(cfg: DictConfig, corpus: Path, folder: Path, target: Target, looked: Looked) -> None:
    """What was looked through, what is stale, and whether anything still names it."""
    print(
        f"looked through {corpus} and {folder}: {looked.searched} files searched, {looked.numbers} "
        "of numbers (weights, log-mels), sound or pictures alone"
    )
    for path, reason in looked.closed.items():
        print(f"not searched: {path}: {reason}")
    for path in looked.found:
        print(f"still names it: {path}: make it again, or delete it")
    again = {
        task: stale(cfg, task) for task in LEARN[target.kind] if (folder / MANIFESTS[task]).exists()
    }
    if any(again.values()):
        print(
            "what training learned from it is in weights, in the numbers of others and in means, "
            "until these make them again, in this order:"
        )
    for task, why in again.items():
        if why:
            print(f"  python -m tasks.{task} {where(cfg)}  ({why})")
    left = [*looked.found, *looked.closed]
    if left:
        raise InputError(
            f"{len(left)} files name {target.kind} {target.name} still, or may, first {left[0]}: "
            "see to them, and the same command says when none does"
        )
    print(f"nothing holds {target.kind} {target.name}")
    for path in sorted(target.paths):
        if path.exists():
            say(f"note: {path} is yours, and stays")
    say(
        "note: other runs of this corpus are told by the same command with their run=; what lies "
        "elsewhere (exports, stations, lists) is not known here"
    )


def _tracks(corpus: Path) -> pl.DataFrame:
    """The tracks table, as far as it is there: ids, paths, titles, and what knows a file again."""
    columns = ("track_id", "path", "title", "size", "mtime_ns")
    for file in (corpus / "tracks.parquet", corpus / "tracks.csv"):
        if file.exists():
            parquet = file.suffix == ".parquet"
            table = pl.scan_parquet(file) if parquet else pl.scan_csv(file, infer_schema=False)
            return table.select(
                name for name in columns if name in table.collect_schema()
            ).collect()
    raise InputError(f"corpus={corpus} has no tracks.parquet or tracks.csv: is it the corpus?")


def _others_at(corpus: Path, name: str, paths: set[Path]) -> set[Path]:
    """Those of the paths at which another track is as well."""
    same_name = pl.col("path").str.split("/").list.last().is_in([path.name for path in paths])
    others = _tracks(corpus).filter(pl.col("track_id") != name, same_name)["path"]
    return {_absolute(corpus / path) for path in others}


def _absolute(path: Path) -> Path:
    return Path(os.path.normpath(path.absolute()))


def _stores(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("spectrograms/*/manifest.json"))


def _list_of(user: str) -> str:
    """The title of a list of `tasks.recommend` for a listener."""
    return f"For {user}"


def _unknown(corpus: Path, kind: str, name: str) -> str:
    if kind == "track":
        table = _tracks(corpus)
        titles = table["title"].to_list() if "title" in table else [""] * len(table)
        of = dict(zip(table["track_id"].to_list(), titles, strict=True))
        near = difflib.get_close_matches(name, of, MOST_NAMED, cutoff=0.5)
        near += [track_id for track_id, title in of.items() if title == name][:MOST_NAMED]
        shown = "; ".join(f"{track_id} ({of[track_id]})" for track_id in near)
    else:
        near = difflib.get_close_matches(name, users_of(corpus), MOST_NAMED, cutoff=0.5)
        shown = ", ".join(near)
    return f"{kind}={name}: nothing holds it; nearest ids: {shown or 'none is near'}"


if __name__ == "__main__":
    command("forget", run)
