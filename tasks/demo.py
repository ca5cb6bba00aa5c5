"""`python -m tasks.demo`: makes the demo world, and a whole run of it."""

import importlib
from pathlib import Path

from omegaconf import DictConfig

from tasks.command import command, defaults_of
from tasks.manifests import plain
from tasks.terminal import progress, say

STEPS = ("scan", "factorize", "regress", "rank", "index", "evaluate")


def run(cfg: DictConfig) -> None:
    """World, both stages, index, table, and one playlist."""
    make_world(cfg)
    for step in STEPS:
        importlib.import_module(f"tasks.{step}").run(defaults_of(step, cfg))
    playlist = defaults_of("playlist", cfg)
    playlist.seed = _first_test_track(Path(cfg.corpus))
    playlist.n = 10
    task = importlib.import_module("tasks.playlist")
    task.run(playlist)
    playlist.output = str(Path(cfg.run) / "playlists" / "demo.m3u8")
    task.run(playlist)


def make_world(cfg: DictConfig) -> None:
    """Make the world of `conf/demo.yaml` in the corpus folder, unless it is there."""
    from cbmr.sources.demo import make_demo

    settings = cfg.world if "world" in cfg else defaults_of("demo", cfg).world
    folder = Path(cfg.corpus)
    if not (folder / "tracks.parquet").exists():
        say(f"demo: rendering a simulated world of music into {folder}")
    with progress("demo world") as report:
        make_demo(folder, **plain(settings), workers=cfg.workers, progress=report)


def _first_test_track(folder: Path) -> str:
    from cbmr.sources.tables import read_corpus

    corpus = read_corpus(folder)
    return str(corpus.track_ids[corpus.in_split("test")[0]])


if __name__ == "__main__":
    command("demo", run)
