"""The rules of the house: who may import what, and configuration that fits what it configures."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from cbmr.augment import augment
from cbmr.encoder import ENCODERS
from cbmr.factors import MODELS, factorize
from cbmr.factors.vector_exp import vector_exp
from cbmr.learners import FACTOR_LOSSES, THUMB_LOSSES
from cbmr.logmel import MelSpec
from cbmr.playlists import make_playlist, make_rules
from cbmr.radio import DRAWS, start_station
from cbmr.sources.adapters import NO_OPTIONS, SOURCES
from cbmr.votes import FLIP_RATES
from tasks import ingest, rank, regress
from tasks.command import CONF, check_settings

ROOT = Path(CONF).parent
MAY_IMPORT = {
    "errors": "",
    "files": "errors",
    "corpus": "corpus",
    "audio": "",
    "logmel": "",
    "forgotten": "",
    "sources": "corpus audio forgotten sources",
    "spectrograms": "corpus audio logmel spectrograms",
    "features": "corpus",
    "factors": "corpus quiet factors",
    "priors": "corpus factors",
    "preferences": "corpus evidence",
    "votes": "corpus losses",
    "evidence": "corpus",
    "few_plays": "corpus factors metrics priors",
    "metrics": "",
    "losses": "",
    "augment": "",
    "encoder": "logmel encoder",
    "batches": "corpus spectrograms factors preferences quiet",
    "quiet": "",
    "learners": "encoder augment losses metrics batches quiet learners",
    "vectors": "corpus",
    "embed": "audio logmel spectrograms encoder vectors",
    "export": "encoder logmel",
    "index": "corpus vectors",
    "hubs": "corpus vectors",
    "playlists": "corpus vectors index playlists",
    "radio": "corpus vectors",
    "recommend": "corpus factors priors vectors playlists",
    "forget": "sources playlists forget",
    "outliers": "",
    "report": "corpus factors priors playlists analysis hubs report",
    "analysis": "corpus audio encoder embed factors logmel spectrograms analysis",
    "evaluation": "corpus audio logmel sources spectrograms factors priors preferences metrics "
    "losses augment encoder vectors embed index playlists evaluation",
}
NO_DEFAULT = {
    "playlist": ["seed"], "radio": ["station"], "ingest": ["source", "path", "corpus"],
    "filter": ["list"],
}  # fmt: skip
SOFTMAX_MODEL = ROOT / "cbmr/factors/vector_exp.py"
LIGHT = ("corpus", "sources.adapters", "sources.tables", "sources.demo", "factors", "priors",
         "few_plays", "preferences", "evidence", "metrics", "vectors", "index", "playlists",
         "radio", "recommend", "outliers", "forgotten", "forget", "hubs")  # fmt: skip


def modules():
    return sorted((ROOT / "cbmr").rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def room(path):
    return path.relative_to(ROOT / "cbmr").parts[0].removesuffix(".py")


def test_imports_point_up_the_table():
    checked = 0
    for path in modules():
        if room(path) == "__init__":
            assert not list(imports(path))
            continue
        allowed = {*MAY_IMPORT[room(path)].split(), "errors", "files"}
        for name in imports(path):
            top, _, rest = name.partition(".")
            assert top not in ("hydra", "omegaconf", "tasks"), path
            if top == "pytorch_lightning":
                assert room(path) in ("batches", "learners") or path == SOFTMAX_MODEL, path
            if top == "cbmr":
                checked += 1
                assert rest.split(".")[0] in allowed, f"{path} imports {name}"
    assert checked > 50
    assert {room(path) for path in modules()} - {"__init__"} == set(MAY_IMPORT)


def test_serving_rooms_load_no_training_library():
    names = ", ".join(f"cbmr.{name}" for name in LIGHT)
    program = (
        f"import sys, {names}\n"
        "heavy = {'torch', 'pytorch_lightning', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# --- configuration ------------------------------------------------------------------------------


def test_the_default_row_of_the_results_is_the_default_of_the_tasks():
    shared = OmegaConf.load(ROOT / "benchmarks/results.yaml")
    row = OmegaConf.load(ROOT / f"benchmarks/rows/{shared.default}.yaml")
    with hydra.initialize_config_dir(CONF, version_base=None):
        for task in ("factorize", "regress"):
            overrides = [*shared[task], *row.get(task, ())]
            assert hydra.compose(task, overrides) == hydra.compose(task)


def test_every_yaml_fits_what_it_configures():
    """Tasks are composed and checked against themselves; encoder files are bound to their network,
    `MelSpec`, CF options to their model, and the demo world's settings to `make_demo`."""
    from cbmr.sources.demo import make_demo

    seen = set()
    with hydra.initialize_config_dir(CONF, version_base=None):
        for path in sorted(Path(CONF).glob("*.yaml")):
            if path.stem != "base":
                cfg = hydra.compose(path.stem)
                assert (ROOT / "tasks" / f"{path.stem}.py").exists(), path
                for key in NO_DEFAULT.get(path.stem, ()):
                    cfg[key] = "x"
                check_settings(cfg, hydra.compose(path.stem))
            seen.add(path)
        world = hydra.compose("demo").world
        inspect.signature(make_demo).bind(Path(), **OmegaConf.to_container(world))
        playlist = hydra.compose("playlist")
        for function in (make_playlist, make_rules):
            for name, parameter in inspect.signature(function).parameters.items():
                # These are made of several settings, or come from files.
                made = ("catalogue", "index", "seeds", "rules", "exclude", "negative", "crowding")
                if name not in made:
                    assert parameter.default == playlist[name], name
        for stage in ("pretrain", "regress", "rank"):
            settings = OmegaConf.to_container(hydra.compose(stage).augment)
            inspect.signature(augment).bind(None, None, band_mean=None, crop_frames=1, **settings)
        radio = hydra.compose("radio")
        exploration = inspect.signature(start_station).parameters["exploration"].default
        assert (radio.exploration, radio.draws) == (exploration, DRAWS)
        takes = {
            name for adapter in SOURCES.values() for name in inspect.signature(adapter).parameters
        }
        assert {*ingest.OPTIONS} == takes - {*NO_OPTIONS}
        assert {*ingest.OPTIONS} | {"source", "path"} == {*hydra.compose("ingest")} - {
            *hydra.compose("base")
        }
        defaults = inspect.signature(make_demo).parameters
        assert all(defaults[name].default == value for name, value in world.items())
        for path in sorted(Path(CONF).glob("encoder/*.yaml")):
            cfg = hydra.compose("regress", overrides=[f"encoder={path.stem}"]).encoder
            # Vectors come from no sound, so their encoder has no `mel`.
            mels = 6 if cfg.name == "vector" else MelSpec(**cfg.mel).mels
            assert set(cfg) == {"name", "arguments"} | ({"mel"} if cfg.name != "vector" else set())
            network = ENCODERS[cfg.name](mels=mels, embedding_size=4, **cfg.arguments)
            options = inspect.signature(type(network)).parameters
            assert set(options) == {"mels", "embedding_size", *cfg.arguments}
            if path.stem == cfg.name:
                for option, value in OmegaConf.to_container(cfg.arguments).items():
                    default = options[option].default
                    assert value == ([*default] if isinstance(default, tuple) else default)
            seen.add(path)
    assert {path.stem for path in Path(CONF).glob("factors/*.yaml")} == set(MODELS)
    for name, model in {**MODELS, "vector_exp": vector_exp}.items():
        cfg = OmegaConf.load(Path(CONF) / f"factors/{name}.yaml")
        parameters = inspect.signature(model).parameters
        options = {key: tuple(value) if isinstance(value, list) else value
                   for key, value in OmegaConf.to_container(cfg.options).items()}  # fmt: skip
        # `concat` goes by the defaults of the functions, so they have to be the same.
        assert options == {key: parameters[key].default for key in options}
        assert {*parameters} == {"user_item", "size", "rng_seed", "report", *options}
        size = inspect.signature(factorize).parameters["size"].default
        assert (cfg.name, cfg.size, cfg.tune) == (name, size, False)
        seen.add(Path(CONF) / f"factors/{name}.yaml")
    for path in sorted(Path(CONF).glob("loss/*.yaml")):
        whole = OmegaConf.load(path)
        assert set(whole) == {"loss", "learning_rate"} and path.read_text().startswith(
            "# @package _global_"
        )
        cfg = whole.loss
        loss = {**THUMB_LOSSES, **FACTOR_LOSSES}[cfg.name]
        assert cfg.name == path.stem
        keywords = inspect.signature(loss).parameters.values()
        expected = {p.name for p in keywords if p.kind == p.KEYWORD_ONLY}
        if cfg.name == "wpe":
            expected -= {"alpha", "eps"}  # of the factors
        assert set(cfg.options) == expected
        seen.add(path)
    assert len(seen) == 47
    assert set(rank.LOSSES) == set(THUMB_LOSSES)
    assert FLIP_RATES[-1] == rank.MOST_FLIPS
    assert set(regress.LOSSES) == set(FACTOR_LOSSES)
    assert {*Path(CONF).rglob("*.yaml")} == seen


@pytest.mark.parametrize("path", sorted((ROOT / "tasks").glob("*.py")), ids=lambda p: p.stem)
def test_every_task_has_a_configuration(path):
    helpers = ("__init__", "command", "manifests", "runs", "stages", "terminal")
    assert (path.stem in helpers) != (Path(CONF) / f"{path.stem}.yaml").exists()
