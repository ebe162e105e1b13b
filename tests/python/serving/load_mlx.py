"""Loads exports in mlx-lm:   load_mlx.py SCRATCH"""

import sys
from importlib.metadata import version

import mlx.core as mx
import mlx_lm
import numpy

import loads


def load_and_run(load):
    model, _ = mlx_lm.load(load.base, adapter_path=load.adapter)
    logits = numpy.array(model(mx.array([loads.TOKENS]))[0, :-1].astype(mx.float32)).astype(numpy.float64)
    largest = logits.max(-1, keepdims=True)
    return (logits - largest - numpy.log(numpy.exp(logits - largest).sum(-1, keepdims=True))).tolist()


loads.run(sys.argv[1], "mlx", f"mlx-lm {version('mlx-lm')}, mlx {version('mlx')} on the CPU", load_and_run)
