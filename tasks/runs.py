"""The run folder: its lock, the corpus it is of, and building what is missing upstream.

What exists is used as it is; what a task requires and is missing is built by its own task's
defaults; and each is said, on standard error.
"""

import importlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from omegaconf import DictConfig

from cbmr.corpus import Corpus
from cbmr.errors import InputError
from tasks.manifests import MANIFESTS, where, whole_manifest
from tasks.terminal import say

DEMO_CORPUS = Path("corpora/demo")
SERVED = ("rank", "regress", "pretrain", "update")
"""Stages that leave vectors, the best first; `update` has its encoder from elsewhere."""
OF_FACTORS = ("regress", "rank")
"""Those whose vectors are of the space of the plays' factors."""
UPSTREAM = ("scan", "factorize", "pretrain", "regress", "rank", "index")
"""What may come before a task, in this order; all of it before those that are not here."""
CHANGE = ("embed", "forget", "update")
"""Tasks that change what others made."""
LEAVES = {"scan": ("spectrograms",), "factorize": ("factors.npz", "factors.json")}
"""What a task leaves in the run, where that is no folder of its own name."""
STATIONS_LOCK = ".stations.lock"
"""Beside the run's own, which a training holds for hours."""


@contextmanager
def locked(run: Path, name: str = ".lock", *, waits: bool = True) -> Iterator[bool]:
    """Hold the run's lock of that name. A second process waits, and says so, or with `waits=False`
    is told that it does not hold it."""
    try:
        run.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"run={run} is a file: expected a folder, made where missing") from None
    lock = FileLock(run / name)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not waits:
                yield False
                return
            say(f"{run} is in use by another process; waiting for it to end")
            lock.acquire()
        yield True
    finally:
        lock.release()


def read_corpus(
    cfg: DictConfig,
    *,
    needs: Collection[str] = (),
    uses: Collection[str] = (),
    holdout: bool | None = None,
    sessions: bool = False,
) -> Corpus:
    """The corpus of `cfg`, its notes said; the demo world is made on first use. `holdout` where it
    is not a setting of the task; `sessions` keeps the training plays of each session apart."""
    from cbmr.sources.tables import read_corpus as read

    folder = Path(cfg.corpus)
    if folder == DEMO_CORPUS and not (folder / "tracks.parquet").exists():
        from tasks.demo import make_world

        make_world(cfg)
    if holdout is None:
        holdout = cfg.get("holdout", True)
    corpus = read(folder, needs=needs, uses=uses, holdout=holdout, sessions=sessions)
    for note in corpus.notes:
        say(f"note: {note}")
    return corpus


def require(task: str, cfg: DictConfig) -> None:
    """Build the artefact of `task` by that task's own defaults, if it is missing."""
    from tasks.command import defaults_of

    manifest = Path(cfg.run) / MANIFESTS[task]
    if manifest.exists():
        whole_manifest(cfg, task)
        say(f"using {manifest.parent if manifest.name == 'manifest.json' else manifest}")
        return
    say(f"{task}: missing in {cfg.run}, made now by its defaults")
    importlib.import_module(f"tasks.{task}").run(defaults_of(task, cfg))


def share(run: Path, job: Path, task: str) -> None:
    """Let a job's run begin from what comes before `task` in another run, by links to it; nothing
    is shared with a task that would change it there."""
    if task in CHANGE:
        return
    before = UPSTREAM[: UPSTREAM.index(task)] if task in UPSTREAM else UPSTREAM
    names = [name for made in before for name in LEAVES.get(made, (made,))]
    for name in names:
        link = job / name
        if (run / name).exists() and not link.is_symlink() and not link.exists():
            job.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path("..") / name)


def first_stage(cfg: DictConfig) -> str:
    """The stage that a run begins with: where nobody's plays are known, pretraining."""
    names = ("plays.parquet", "plays.csv")
    played = any((Path(cfg.corpus).expanduser() / name).exists() for name in names)
    return "regress" if played or Path(cfg.corpus) == DEMO_CORPUS else "pretrain"


def serving_stage(cfg: DictConfig) -> str:
    """The stage whose vectors are served: `stage=` where given, else the first of `SERVED`."""
    run = Path(cfg.run)
    stages = [name for name in SERVED if (run / MANIFESTS[name]).exists()]
    if cfg.stage is not None:
        if cfg.stage not in SERVED:
            raise InputError(f"stage={cfg.stage}: expected one of {', '.join(SERVED)}")
        stages = [name for name in stages if name == cfg.stage]
    if not stages:
        task = cfg.stage or first_stage(cfg)
        raise InputError(
            f"{run} has no {task}/embeddings.npz yet; make it with: "
            f"python -m tasks.{task} {where(cfg)}"
        )
    vectors = run / stages[0] / "embeddings.npz"
    if not vectors.exists():
        raise InputError(
            f"{vectors} is gone: python -m tasks.{stages[0]} {where(cfg)} makes it again"
        )
    return stages[0]
