"""The sources by name, and the one way from any of them into a corpus."""

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from cbmr.errors import InputError
from cbmr.sources.fma import fma
from cbmr.sources.folder import folder
from cbmr.sources.lastfm2k import lastfm2k
from cbmr.sources.music4all import music4all, music4all_onion
from cbmr.sources.tables import Found, refuse_other, without_forgotten, write_corpus
from cbmr.sources.taste_profile import taste_profile
from cbmr.sources.yambda import yambda

SOURCES: dict[str, Callable[..., Found]] = {
    "folder": folder,
    "yambda": yambda,
    "taste_profile": taste_profile,
    "lastfm2k": lastfm2k,
    "music4all": music4all,
    "music4all_onion": music4all_onion,
    "fma": fma,
}
NO_OPTIONS = ("path", "known", "progress")
"""What an adapter takes that is no option of it."""


def ingest(
    source: str,
    path: Path,
    corpus: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Found:
    """Read `path` as `SOURCES[source]` and write it as the folder `corpus`, whole, without what
    that was told to forget.

    An option that is None is not given. `progress(done, total)` is called by a source that reads
    many files. Raises InputError for an unknown source or option, whatever the source refuses, and
    a corpus of another source.
    """
    if source not in SOURCES:
        near = difflib.get_close_matches(source, SOURCES, 1, cutoff=0.4)
        hint = f"; is {near[0]!r} meant?" if near else ""
        raise InputError(f"source={source}: expected one of {', '.join(SOURCES)}{hint}")
    adapter = SOURCES[source]
    takes = inspect.signature(adapter).parameters
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if name not in takes:
            own = [option for option in takes if option not in NO_OPTIONS]
            what = f"it has {', '.join(own)}" if own else "it has none"
            raise InputError(f"{name}={value} is no option of source={source} ({what})")
    path, corpus = path.expanduser(), corpus.expanduser()
    refuse_other(corpus, source)
    if "known" in takes and (corpus / "tracks.parquet").exists():
        given["known"] = pl.read_parquet(corpus / "tracks.parquet")
    if "progress" in takes:
        given["progress"] = progress
    found = without_forgotten(corpus, adapter(path, **given))
    write_corpus(corpus, found, source=source, path=path)
    return found
