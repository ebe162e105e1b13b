"""Reads a gradient log with polars or pandas into a mean per module. Prints seconds, MB/s and peak memory as JSON."""

import argparse
import json
import os
import resource
import time

parser = argparse.ArgumentParser()
parser.add_argument("library", choices=["polars", "pandas"])
parser.add_argument("file")
options = parser.parse_args()
size = os.path.getsize(options.file)

is_table = options.file.endswith(".csv")

if is_table and options.library == "polars":
    import polars

    started = time.perf_counter()
    frame = polars.read_csv(options.file)
    norms = frame.select(polars.exclude("step").mean())
    modules, steps = len(norms.columns), frame.height
elif is_table:
    import pandas

    started = time.perf_counter()
    frame = pandas.read_csv(options.file, index_col="step")
    norms = frame.mean()
    modules, steps = len(norms), len(frame)
elif options.library == "polars":
    import polars

    started = time.perf_counter()
    # The first line is the header, which has other keys.
    frame = polars.read_ndjson(options.file, ignore_errors=True, infer_schema_length=2)
    rows = frame.filter(polars.col("grads").is_not_null()).select(polars.col("grads").struct.unnest())
    norms = rows.select(
        [(polars.col(m).struct.field("A") ** 2 + polars.col(m).struct.field("B") ** 2).sqrt().mean().alias(m)
         for m in rows.columns])
    modules, steps = len(norms.columns), rows.height
else:
    import pandas

    started = time.perf_counter()
    count = 0
    total = None
    for chunk in pandas.read_json(options.file, lines=True, chunksize=200):
        grads = chunk["grads"].dropna()
        norms = pandas.DataFrame(
            [{module: (pair["A"] ** 2 + pair["B"] ** 2) ** 0.5 for module, pair in row.items()} for row in grads])
        total = norms.sum() if total is None else total + norms.sum()
        count += len(norms)
    modules, steps = len(total), count
seconds = time.perf_counter() - started
print(json.dumps({
    "seconds": seconds, "megabytes_per_second": size / 1e6 / seconds, "steps": steps, "modules": modules,
    "memory": {"process_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024},
}))
