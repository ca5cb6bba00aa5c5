"""`python -m tasks.update`: the corpus as it is now into a run's vectors and index; trains nothing.

New, changed and deleted tracks are followed a piece of the corpus at a time, each scanned and
embedded before the next, so that playlists hold more and more of it while the rest is scanned. What
is new is searched exactly beside the index, which is built again where that takes as long.
Whatever interrupts it, the same command goes on. A track is embedded by itself, and again only when
its file or the encoder changes: its vector does not depend on the others.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig

from cbmr.corpus import Corpus, rows_of
from cbmr.errors import InputError
from cbmr.files import content_hash, file_hash, read_json, whole_file, write_json
from cbmr.vectors import Vectors, load_vectors, save_vectors
from tasks.command import command, defaults_of
from tasks.manifests import MANIFESTS, read_manifest, settings_of, where, write_manifest
from tasks.runs import SERVED, read_corpus, serving_stage
from tasks.terminal import progress, say

if TYPE_CHECKING:
    from cbmr.encoder import Encoder
    from cbmr.logmel import MelSpec
    from cbmr.spectrograms import SpectrogramStore
    from tasks.stages import Blended


@dataclass(frozen=True)
class Material:
    """The hashes of what `update/` was made from."""

    inputs: dict[str, str]


def material(cfg: DictConfig) -> Material:
    """The store that the encoder of `update/` reads, as it is."""
    from cbmr.encoder import load_encoder
    from cbmr.spectrograms import SpectrogramStore

    spec = load_encoder(Path(cfg.run) / "update" / "encoder.pt").mel_spec
    assert spec is not None, "the stage is made by an encoder of sound"
    excerpts = read_manifest(Path(cfg.run), "update")["excerpts"]
    store = SpectrogramStore(_store_folder(cfg, spec, excerpts))
    return Material({"spectrograms": store.fingerprint})


def run(cfg: DictConfig) -> None:
    """Bring `embeddings.npz` of the stage up to date, and `index/` where it pays; those of an
    encoder from elsewhere are the stage `update`, which is made where it is missing."""
    stage, encoder_file = _stage_and_encoder(cfg)
    corpus = read_corpus(cfg)

    from cbmr.encoder import load_encoder
    from cbmr.spectrograms import SpectrogramStore

    encoder = load_encoder(encoder_file)
    spec = encoder.mel_spec
    if spec is None:
        raise InputError(
            f"{encoder_file} reads vectors that come with the corpus, not sound: there is nothing "
            "to scan, and python -m tasks.embed brings the run up to date"
        )
    run_folder, encoder_hash = Path(cfg.run), file_hash(encoder_file)
    folder, manifest = run_folder / stage, {}
    if (run_folder / MANIFESTS[stage]).exists():
        manifest = read_manifest(run_folder, stage)
        stands = load_vectors(folder / "embeddings.npz")
        _index(cfg, stands, manifest["outputs"]["encoder.pt"])
    blend = _prior(cfg, stage, manifest)
    excerpts = manifest.get("excerpts", 1)
    store_folder = _store_folder(cfg, spec, excerpts)
    for left in _scanned(cfg, corpus, spec, store_folder, excerpts):
        store = SpectrogramStore(store_folder)
        predicted = _embedded(folder, encoder_hash, encoder, store)
        if not _stands(cfg, stage, encoder_hash, predicted):
            mixed = blend(store, predicted)
            _leave(cfg, stage, encoder_file, store, predicted, mixed, excerpts=excerpts)
            more = f", {left} files are still to be scanned" if left else ""
            say(f"update: {len(predicted.track_ids)} tracks in {folder}{more}")
    say(f"update: {folder} holds {corpus.folder} as it is")


def _stage_and_encoder(cfg: DictConfig) -> tuple[str, Path]:
    """The stage that is brought up to date, and the encoder that it hears with."""
    folder = Path(cfg.run)
    there = [name for name in SERVED if (folder / MANIFESTS[name]).exists()]
    if cfg.encoder_file is None:
        if not there:
            raise InputError(
                f"{folder} has no encoder: expected encoder_file=, the encoder.pt of another run, "
                f"or a training first: python -m tasks.pretrain {where(cfg)}"
            )
        stage = serving_stage(cfg)
        return stage, folder / stage / "encoder.pt"
    trained = [name for name in there if name != "update"]
    if trained:
        raise InputError(
            f"encoder_file={cfg.encoder_file}: {folder} has {trained[0]}, and its playlists are "
            "made of that: leave encoder_file out, or use another run="
        )
    file = Path(cfg.encoder_file).expanduser()
    if not file.is_file():
        raise InputError(
            f"encoder_file={cfg.encoder_file} is not there: expected the encoder.pt that another "
            "run's training left"
        )
    return "update", file


def _store_folder(cfg: DictConfig, spec: "MelSpec", excerpts: int) -> Path:
    from cbmr.spectrograms import store_folder

    excerpt_s = defaults_of("scan", cfg).excerpt_s
    return store_folder(Path(cfg.run) / "spectrograms", spec, excerpt_s, excerpts)


def _scanned(
    cfg: DictConfig, corpus: Corpus, spec: "MelSpec", store_folder: Path, excerpts: int
) -> Iterator[int]:
    """Scan what the store knows and `piece` files more, until it knows all; after each piece, how
    many are left. No track of the corpus leaves the store meanwhile."""
    from cbmr.spectrograms import build_store

    catalogue = store_folder / "catalogue.json"
    before = read_json(catalogue) if catalogue.exists() else {"tracks": {}, "skipped": {}}
    is_new = ~np.isin(corpus.track_ids, [*before["tracks"], *before["skipped"]])
    turn = np.where(is_new, np.cumsum(is_new), 0)
    new, skipped = int(is_new.sum()), before["skipped"]
    with progress("update") as report:
        for first in range(0, max(new, 1), cfg.piece):
            left = max(0, new - first - cfg.piece)
            rows = np.flatnonzero(turn <= first + cfg.piece)

            def of_all(done: int, total: int, before: int = first) -> None:
                report(before + done, max(new, total))

            try:
                scan = build_store(
                    store_folder,
                    corpus.track_ids[rows].tolist(),
                    [corpus.audio_path(row) for row in rows.tolist()],
                    spec=spec,
                    excerpt_s=defaults_of("scan", cfg).excerpt_s,
                    excerpts=excerpts,
                    workers=cfg.workers,
                    progress=of_all,
                )
            except InputError:
                if catalogue.exists() or not left:
                    raise
                continue  # no file of the first pieces can be read, but one of the next may be
            for track_id, reason in scan.skipped.items():
                if skipped.get(track_id) != reason:
                    say(f"skipped {track_id}: {reason}")
            skipped = scan.skipped
            yield left


def _embedded(
    folder: Path, encoder_hash: str, encoder: "Encoder", store: "SpectrogramStore"
) -> Vectors:
    """The vectors of the store's tracks; what was heard before is kept by the content of its file
    beside them, and not heard again."""
    from cbmr.embed import embed_each

    contents = np.array(list(read_json(store.folder / "catalogue.json")["tracks"].values()))
    heard_by = content_hash(encoder_hash, repr(read_json(store.folder / "manifest.json")))
    file = folder / f"heard-{heard_by}.npz"
    unique, rows = np.unique(contents, return_index=True)
    heard = load_vectors(file) if file.exists() else None
    lacking = rows if heard is None else rows[rows_of(heard.track_ids, unique) < 0]
    if len(lacking):
        new = replace(embed_each(encoder, store, lacking), track_ids=contents[lacking])
        heard = new if heard is None else _joined(heard, new)
    assert heard is not None
    if len(lacking) or len(heard.track_ids) > len(unique):
        heard = _taken(heard, unique, unique)  # what no track needs any more is forgotten
        save_vectors(file, heard)
        for other in set(folder.glob("heard-*.npz")) - {file}:
            other.unlink()
    return _taken(heard, contents, store.track_ids)


def _joined(first: Vectors, second: Vectors) -> Vectors:
    def both(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return np.concatenate([one, other])

    confidence = None
    if first.confidence is not None and second.confidence is not None:
        confidence = both(first.confidence, second.confidence)
    ids = both(first.track_ids, second.track_ids)
    return Vectors(ids, both(first.vectors, second.vectors), confidence)


def _taken(heard: Vectors, contents: np.ndarray, names: np.ndarray) -> Vectors:
    """The vectors of these contents under other names."""
    rows = rows_of(heard.track_ids, contents)
    confidence = None if heard.confidence is None else heard.confidence[rows]
    return Vectors(names, heard.vectors[rows], confidence)


def _prior(cfg: DictConfig, stage: str, manifest: dict[str, Any]) -> Callable[..., Any]:
    """The blend that the stage's vectors were made with, its weight as it was learned then."""
    import tasks.embed

    embed = defaults_of("embed", cfg)
    said = manifest.get("prior", {"name": "none", "weight": None})
    embed.stage, embed.prior, embed.prior_weight = stage, said["name"], said["weight"]
    return tasks.embed.blender(embed, stage, manifest)


def _stands(cfg: DictConfig, stage: str, encoder_hash: str, predicted: Vectors) -> bool:
    """Whether the run holds these vectors already."""
    from tasks.stages import predicted_vectors

    path = Path(cfg.run) / MANIFESTS[stage]
    if not path.exists() or read_json(path)["outputs"]["encoder.pt"] != encoder_hash:
        return False
    there = predicted_vectors(Path(cfg.run) / stage)
    return np.array_equal(there.track_ids, predicted.track_ids) and np.array_equal(
        there.vectors, predicted.vectors
    )


def _leave(
    cfg: DictConfig,
    stage: str,
    encoder_file: Path,
    store: "SpectrogramStore",
    predicted: Vectors,
    mixed: "Blended | None",
    *,
    excerpts: int,
) -> None:
    """Vectors, index and manifest, in an order that leaves a run to make playlists from at any
    moment: tracks that the index does not know are searched beside it."""
    from tasks.stages import save_stage_vectors

    run, folder = Path(cfg.run), Path(cfg.run) / stage
    encoder_hash = file_hash(encoder_file)
    path = run / MANIFESTS[stage]
    if stage == "update" and not (
        path.exists() and read_json(path)["outputs"]["encoder.pt"] == encoder_hash
    ):
        path.unlink(missing_ok=True)
        with whole_file(folder / "encoder.pt") as file:
            file.write(encoder_file.read_bytes())
    save_stage_vectors(folder, predicted, mixed)
    _index(cfg, predicted if mixed is None else mixed.vectors, encoder_hash)
    hashes = {name: file_hash(folder / name) for name in ("encoder.pt", "embeddings.npz")}
    if stage == "update":
        inputs = {"spectrograms": store.fingerprint}
        more = {"outputs": hashes, "excerpts": excerpts}
        write_manifest(run, stage, settings_of(cfg), inputs, **more)
    else:
        manifest = read_json(path)
        manifest["outputs"] |= hashes
        write_json(path, manifest)


def _index(cfg: DictConfig, vectors: Vectors, encoder_hash: str) -> None:
    """Build the index where there is none that serves these vectors, or a build pays."""
    from cbmr.index import build_index, load_index

    run, defaults = Path(cfg.run), defaults_of("index", cfg)
    settings = {"backend": defaults.backend, "recall": defaults.recall}
    try:
        settings = read_json(run / MANIFESTS["index"]).get("settings", settings)
        if not load_index(run / "index", vectors, encoder_hash=encoder_hash).slow:
            return
    except (InputError, FileNotFoundError):
        pass  # missing, of another encoder or damaged
    build_index(run / "index", vectors, encoder_hash=encoder_hash, **settings)


if __name__ == "__main__":
    command("update", run, waits=False)
