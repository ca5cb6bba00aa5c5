"""Which track of a collection a row of an export means.

By the path, else the MusicBrainz recording, else artist and title, which are compared folded: case,
accents, punctuation and spaces do not count, in any script.
"""

import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import polars as pl

IDENTITY = ("path", "mbid", "artist", "title", "album")


def folded(text: str) -> str:
    """Text as it is compared. By hand: "Beyoncé — Déjà Vu!" is "beyoncedejavu"; what is all signs
    ("!!!") stays as it is."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    kept = (sign for sign in decomposed if not unicodedata.combining(sign))
    letters = "".join(sign for sign in kept if unicodedata.category(sign)[0] in "LNM")
    return letters or text.casefold().strip()


def match(rows: pl.DataFrame, tracks: pl.DataFrame, root: Path) -> pl.DataFrame:
    """`rows` with the columns `track_id`, null where none is meant, and `by`, "path", "id" or
    "name".

    `rows` have the columns of `IDENTITY`; `tracks` have `track_id`, `file` (the path below `root`),
    `mbid`, `artist`, `title` and `album`. Of several tracks of one name the one on the row's album
    is meant, else the first.
    """
    collection = _collection(tracks)
    distinct = rows.select(IDENTITY).unique(maintain_order=True)
    found = [_meant(identity, collection, root) for identity in distinct.iter_rows()]
    known = pl.DataFrame(found, {"track_id": pl.String, "by": pl.String}, orient="row")
    return rows.join(distinct.hstack(known), on=IDENTITY, how="left", maintain_order="left")


@dataclass(frozen=True)
class _Collection:
    by_path: dict[str, str]
    by_id: dict[str, list[tuple[str, str]]]
    by_name: dict[tuple[str, str], list[tuple[str, str]]]


def _collection(tracks: pl.DataFrame) -> _Collection:
    by_path: dict[str, str] = {}
    by_id: dict[str, list[tuple[str, str]]] = defaultdict(list)
    by_name: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    wanted = tracks.select("track_id", "file", "mbid", "artist", "title", "album")
    for track_id, file, mbid, artist, title, album in wanted.iter_rows():
        by_path[file] = track_id
        by_id[mbid].append((folded(album), track_id))
        by_name[folded(artist), folded(title)].append((folded(album), track_id))
    return _Collection(by_path, by_id, by_name)


def _meant(
    identity: tuple[str, ...], collection: _Collection, root: Path
) -> tuple[str | None, str | None]:
    path, mbid, artist, title, album = identity
    if path and _below(path, root) in collection.by_path:
        return collection.by_path[_below(path, root)], "path"
    if mbid and mbid in collection.by_id:
        return _on_album(collection.by_id[mbid], album), "id"
    key = folded(artist), folded(title)
    if all(key) and key in collection.by_name:
        return _on_album(collection.by_name[key], album), "name"
    return None, None


def _on_album(tracks: list[tuple[str, str]], album: str) -> str:
    wanted = folded(album)
    return next((track_id for name, track_id in tracks if name == wanted), tracks[0][1])


def _below(path: str, root: Path) -> str:
    """A path as it stands below `root`, if it does; players also write file addresses."""
    plain = unquote(urlsplit(path).path) if path.startswith("file://") else path
    whole = PurePosixPath(plain)
    top = PurePosixPath(root.absolute())
    return str(whole.relative_to(top)) if whole.is_relative_to(top) else str(whole)
