"""`python -m tasks.scan`: decode the corpus's audio into the store of log-mels."""

from pathlib import Path

from omegaconf import DictConfig

from cbmr.errors import InputError
from tasks.command import command
from tasks.runs import read_corpus
from tasks.terminal import progress, say


def run(cfg: DictConfig) -> None:
    """Bring the run's store up to date with the corpus."""
    if "mel" not in cfg.encoder:
        raise InputError(
            f"encoder={cfg.encoder.name} reads vectors that come with the corpus (features.npz), "
            "so there is nothing to scan: expected an encoder of sound"
        )
    corpus = read_corpus(cfg)

    from cbmr.logmel import MelSpec
    from cbmr.spectrograms import build_store, store_folder

    spec = MelSpec(**cfg.encoder.mel)
    folder = store_folder(Path(cfg.run) / "spectrograms", spec, cfg.excerpt_s, cfg.excerpts)
    with progress("scan") as report:
        scan = build_store(
            folder,
            corpus.track_ids.tolist(),
            [corpus.audio_path(row) for row in range(len(corpus.track_ids))],
            spec=spec,
            excerpt_s=cfg.excerpt_s,
            excerpts=cfg.excerpts,
            workers=cfg.workers,
            file_timeout_s=cfg.file_timeout_s,
            progress=report,
            say=say,
        )
    for track_id, reason in scan.skipped.items():
        # Names may hold line ends, and worse.
        shown = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in reason)
        say(f"skipped {track_id}: {shown}")
    say(
        f"scan: {scan.readable} tracks readable, {scan.decoded} decoded now, {scan.known} known by "
        f"their content, {len(scan.skipped)} skipped -> {folder}"
    )


if __name__ == "__main__":
    command("scan", run)
