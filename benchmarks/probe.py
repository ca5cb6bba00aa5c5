"""What each layer knows of music: `python -m benchmarks.probe [RUN CORPUS]`, on a demo world.

Linear probes on the activations of every layer of both stages (of `runs/demo`, where none is
named), for what the world's program knows of each track: style, by logistic regression; tempo, the
R^2 of its logarithm by ridge; key, one of twelve, by logistic regression. Beside them the same
network untrained, the statistics of the mel bands, and guessing. Five folds by artist, so that no
artist is learned from and asked about; a probe's strength is chosen within its training artists.
Intervals are of 95 %, from 1,000 draws of artists. All of it is simulated.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold, GroupShuffleSplit
from sklearn.preprocessing import StandardScaler

from cbmr.corpus import rows_of
from cbmr.embed import layer_activations
from cbmr.encoder import Encoder, load_encoder
from cbmr.evaluation import mel_statistics
from cbmr.spectrograms import SpectrogramStore, store_folder

FOLDS, DRAWS = 5, 1_000
STRENGTHS = {"C": [0.1, 1, 10, 100]}
ALPHAS = {"alpha": [0.01, 0.1, 1, 10, 100]}


def main() -> None:
    """Print a Markdown table, row by row."""
    run, corpus = map(Path, sys.argv[1:3] or ("runs/demo", "corpora/demo"))
    stages = {f"stage {n}": load_encoder(run / stage / "encoder.pt")
              for n, stage in enumerate(("regress", "rank"), start=1)}  # fmt: skip
    spec = stages["stage 1"].mel_spec
    assert spec is not None
    store = SpectrogramStore(store_folder(run / "spectrograms", spec, 30))
    known, artists = _truth(corpus, store)
    print("| layer | units | style: accuracy | tempo: R² | key: accuracy |\n|---|---|---|---|---|")
    _print("guessing", np.zeros((len(store), 1)), known, artists)
    _print("mel statistics", mel_statistics(store), known, artists)
    encoders = {"untrained": untrained(stages["stage 1"]), **stages}
    for layer in stages["stage 1"].network.layers():
        for name, encoder in encoders.items():
            _print(f"{layer}, {name}", layer_activations(encoder, store, layer), known, artists)


def _truth(corpus: Path, store: SpectrogramStore) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What is known of each track of the store, and its artist, as a number."""
    truth = np.load(corpus / "truth.npz")
    tracks = pl.read_parquet(corpus / "tracks.parquet")
    at = rows_of(truth["track_ids"], store.track_ids)
    row = rows_of(tracks["track_id"].to_numpy(), store.track_ids)
    known = {
        "style": tracks["style"].to_numpy()[row],
        "tempo": np.log(truth["tempo_bpm"][at]),
        "key": truth["key"][at],
    }
    return known, np.unique(tracks["artist"].to_numpy()[row], return_inverse=True)[1]


def untrained(encoder: Encoder, rng_seed: int = 0) -> Encoder:
    """The same network and scaling with weights as a training of `rng_seed` finds them, but for the
    last layer, which starts from nothing."""
    torch.manual_seed(rng_seed)
    fresh = Encoder(encoder.name, encoder.arguments, encoder.mel_spec, encoder.input_mean,
                    encoder.input_std)  # fmt: skip
    *_, output = (m for m in fresh.modules() if isinstance(m, torch.nn.Linear))
    torch.nn.init.xavier_uniform_(output.weight)
    return fresh


def _print(
    name: str, features: np.ndarray, known: dict[str, np.ndarray], artists: np.ndarray
) -> None:
    cells = [
        _probe(features, known["style"], artists, LogisticRegression(max_iter=500), STRENGTHS),
        _probe(features, known["tempo"], artists, Ridge(), ALPHAS),
        _probe(features, known["key"], artists, LogisticRegression(max_iter=500), STRENGTHS),
    ]
    print(f"| {name} | {features.shape[1]} | {' | '.join(cells)} |", flush=True)


def _probe(
    features: np.ndarray,
    known: np.ndarray,
    artists: np.ndarray,
    model: LogisticRegression | Ridge,
    strengths: dict[str, list[float]],
) -> str:
    """Accuracy, or R² of numbers, of tracks by artists that the probe has not heard."""
    inputs = rotated(features)
    foretold = np.empty(len(known), dtype=known.dtype)
    for train, asked in GroupKFold(FOLDS).split(inputs, known, artists):
        within = GroupShuffleSplit(1, test_size=0.25, random_state=0)
        search = GridSearchCV(model, strengths, cv=within)
        search.fit(inputs[train], known[train], groups=artists[train])
        foretold[asked] = search.predict(inputs[asked])

    def score(rows: np.ndarray) -> float:
        if known.dtype.kind != "f":
            return float(np.mean(foretold[rows] == known[rows]))
        error = np.mean(np.square(foretold[rows] - known[rows]))
        return float(1 - error / np.var(known[rows]))

    low, high = _interval(score, artists)
    return f"{score(np.arange(len(known))):.3f} [{low:.3f}, {high:.3f}]"


def rotated(features: np.ndarray) -> np.ndarray:
    """Standardised, of mean square length 1 and turned into the space that the tracks span: to a
    linear model with an L2 penalty it is all the same, and a fraction of the work."""
    scaled = StandardScaler().fit_transform(features.astype(np.float64))
    left, stretch, _ = np.linalg.svd(scaled / np.sqrt(scaled.shape[1]), full_matrices=False)
    return left * stretch


def _interval(score: Callable[[np.ndarray], float], artists: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    tracks = [np.flatnonzero(artists == artist) for artist in range(artists.max() + 1)]
    draws = rng.integers(len(tracks), size=(DRAWS, len(tracks)))
    values = [score(np.concatenate([tracks[artist] for artist in draw])) for draw in draws]
    return np.percentile(values, [2.5, 97.5])


if __name__ == "__main__":
    main()
