"""What hand-made features of the stored log-mels foretell of the factors.

Mel statistics to a ridge regression, and the bag of words that van den Oord et al. (2013) compare
with: MFCC with their differences, quantised into words, counted, reduced by PCA, then a linear
regression or a network of one hidden layer. All learn from training tracks alone and repeat to the
byte.
"""

import warnings
from collections.abc import Callable

import numpy as np
import scipy.fft
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, RidgeCV
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from cbmr.corpus import Corpus, rows_of
from cbmr.factors import unit_rows
from cbmr.spectrograms import Store

RIDGE_ALPHAS = np.logspace(0, 6, 25)
COEFFICIENTS = 13
WORD_FRAMES = 100_000
"""Training frames that the words are learned from, at most."""
VARIANCE_KEPT = 0.95
MLP_EPOCHS = 200
"""At most; the optimiser stops where ten epochs in a row gain nothing, usually within fifty."""


def mel_statistics(store: Store) -> np.ndarray:
    """Mean and standard deviation over time of every mel band, `[tracks, 2 mels]`."""
    statistics = np.empty((len(store), 2 * store.mels), dtype=np.float32)
    for row in range(len(store)):
        real = _real(store, row)
        statistics[row] = np.concatenate([real.mean(axis=1), real.std(axis=1)])
    return statistics


def ridge_vectors(
    corpus: Corpus, store: Store, features: np.ndarray, train: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """Ridge regression from `features` `[tracks of the store, size]` to unit-norm factors, its
    strength by leave-one-out; unit vectors `[tracks, factors]`, zeros where there is no audio."""
    at = rows_of(store.track_ids, corpus.track_ids)
    model = make_pipeline(StandardScaler(), RidgeCV(alphas=RIDGE_ALPHAS))
    return _foretold(model, features, at, train, targets)


def word_vectors(
    corpus: Corpus,
    store: Store,
    train: np.ndarray,
    targets: np.ndarray,
    *,
    words: int,
    hidden: int,
    rng_seed: int,
    report: Callable[[str], None] = print,
) -> dict[str, np.ndarray]:
    """The rows `MFCC words, linear` and `MFCC words, MLP`: from the shares of `words` words in each
    track, by a PCA that keeps 95 % of their variance, to unit-norm factors, by linear regression
    and by a network of one layer of `hidden` units. Unit vectors `[tracks, factors]`, zeros where
    there is no audio. The paper has 4,000 words and 1,000 units.
    """
    at = rows_of(store.track_ids, corpus.track_ids)
    heard = at[train][at[train] >= 0]
    shares = word_shares(store, learn_words(store, heard, words=words, rng_seed=rng_seed))
    network = MLPRegressor(hidden_layer_sizes=(hidden,), max_iter=MLP_EPOCHS, random_state=rng_seed)
    models = {"MFCC words, linear": LinearRegression(), "MFCC words, MLP": network}
    vectors = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said below, in a line of ours
        for name, model in models.items():
            reduced = make_pipeline(PCA(VARIANCE_KEPT, svd_solver="full"), model)
            vectors[name] = _foretold(reduced, shares, at, train, targets)
    if network.n_iter_ == MLP_EPOCHS:
        report(f"MFCC words, MLP: still gaining when stopped after {MLP_EPOCHS} epochs")
    return vectors


def learn_words(store: Store, train: np.ndarray, *, words: int, rng_seed: int) -> Pipeline:
    """The words: centres of k-means over the standardised `frame_features` of the training tracks,
    rows `train` of the store; fewer than asked for where there are fewer frames."""
    rng = np.random.default_rng(rng_seed)
    each = -(-WORD_FRAMES // len(train))
    frames = np.concatenate(
        [rng.permutation(frame_features(_real(store, row)))[:each] for row in train]
    )
    centres = MiniBatchKMeans(
        min(words, len(frames)), batch_size=4_096, n_init=1, max_iter=20, random_state=rng_seed
    )
    return make_pipeline(StandardScaler(), centres).fit(frames)


def word_shares(store: Store, learned: Pipeline) -> np.ndarray:
    """How often each word is the nearest to a frame, `[tracks, words]`; a row adds to 1."""
    shares = np.empty((len(store), learned[-1].n_clusters))
    for row in range(len(store)):
        word = learned.predict(frame_features(_real(store, row)))
        shares[row] = np.bincount(word, minlength=shares.shape[1]) / len(word)
    return shares


def frame_features(logmel: np.ndarray) -> np.ndarray:
    """13 MFCC of every frame with their first and second differences, `[frames, 39]`, of a log-mel
    `[mels, frames]`.

    MFCC are the first coefficients of the orthonormal DCT-II over the bands; the log is ours,
    `log(1 + 10000 x)`. A difference is half of what lies between the frames before and after, at
    the ends between the frame and its neighbour.
    """
    mfcc = scipy.fft.dct(logmel, axis=0, norm="ortho")[:COEFFICIENTS].T
    first = np.gradient(mfcc, axis=0)
    return np.concatenate([mfcc, first, np.gradient(first, axis=0)], axis=1)


def _foretold(
    model: Pipeline, features: np.ndarray, at: np.ndarray, train: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """Fit on training tracks; `at` is the row of `features` of every track, -1 without audio."""
    heard = at[train] >= 0
    model.fit(features[at[train[heard]]], targets[heard])
    vectors = np.zeros((len(at), targets.shape[1]), dtype=np.float32)
    vectors[at >= 0] = unit_rows(model.predict(features[at[at >= 0]]))
    return vectors


def _real(store: Store, row: int) -> np.ndarray:
    real: np.ndarray = store[np.array([row])][0, :, : store.frames[row]].astype(np.float32)
    return real
