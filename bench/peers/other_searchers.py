"""Optuna's TPE, scikit-learn's Gaussian process and its K-means on a search of the same size as ours.

Prints the seconds of each as one JSON document.
"""

import argparse
import json
import time

import numpy
import optuna
from sklearn.cluster import KMeans
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel

parser = argparse.ArgumentParser()
parser.add_argument("--trials", type=int, default=16)
parser.add_argument("--layers", type=int, default=24)
parser.add_argument("--candidates", type=int, default=384)
options = parser.parse_args()
optuna.logging.set_verbosity(optuna.logging.ERROR)
modules = 7 * options.layers
random = numpy.random.default_rng(1)
ranks = random.integers(4, 65, (options.trials, modules))
scores = random.normal(size=options.trials)

study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=1))
space = {f"module-{module}": optuna.distributions.IntDistribution(1, 128) for module in range(modules)}
study.add_trials([
    optuna.trial.create_trial(params={name: int(rank) for name, rank in zip(space, row)}, distributions=space, value=score)
    for row, score in zip(ranks, scores)
])
started = time.perf_counter()
trial = study.ask(space)
tpe = time.perf_counter() - started

features = numpy.log2(ranks / 16.0)
candidates = numpy.log2(random.integers(4, 65, (options.candidates, modules)) / 16.0)
started = time.perf_counter()
process = GaussianProcessRegressor(RBF() + WhiteKernel(), normalize_y=True, n_restarts_optimizer=0, random_state=1)
process.fit(features, scores)
process.predict(candidates, return_std=True)
gaussian_process = time.perf_counter() - started

norms = random.uniform(0.1, 1.1, (options.layers, 1))
KMeans(3, n_init=32, random_state=1).fit(norms)  # warm-up
started = time.perf_counter()
KMeans(3, n_init=32, random_state=1).fit(norms)
k_means = time.perf_counter() - started
print(json.dumps({"optuna_tpe_seconds": tpe, "gaussian_process_seconds": gaussian_process, "k_means_seconds": k_means}))
