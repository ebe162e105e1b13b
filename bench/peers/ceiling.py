"""What the processor and its memory can do, measured with PyTorch: products of the given shapes, and bytes that are read and copied."""

import argparse
import json
import statistics
import time

import torch

parser = argparse.ArgumentParser()
parser.add_argument("--shapes", required=True, help="rows x inner x columns, with commas between")
parser.add_argument("--mebibytes", type=int, default=1024)
parser.add_argument("--rounds", type=int, default=9)
options = parser.parse_args()


def seconds(work):
    work()
    found = []
    for _ in range(options.rounds):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return statistics.median(found)


def product(rows, inner, columns, dtype):
    a = torch.randn(rows, inner).to(dtype)
    b = torch.randn(inner, columns).to(dtype)
    # Short ones several times, so that the clock does not count.
    times = max(1, int(2e9 / (2 * rows * inner * columns)))

    def work():
        for _ in range(times):
            a @ b

    return 2 * rows * inner * columns * times / seconds(work)


shapes = [tuple(map(int, shape.split("x"))) for shape in options.shapes.split(",")]
products = [{"rows": rows, "inner": inner, "columns": columns,
             "float32": product(rows, inner, columns, torch.float32),
             "bfloat16": product(rows, inner, columns, torch.bfloat16)} for rows, inner, columns in shapes]
numbers = torch.zeros(options.mebibytes * 2**20 // 4)
other = torch.zeros_like(numbers)
size = numbers.numel() * 4
print(json.dumps({
    "threads": torch.get_num_threads(),
    "products": products,
    "read_bytes_per_second": size / seconds(lambda: numbers.sum()),
    # What is copied is read and written.
    "copied_bytes_per_second": 2 * size / seconds(lambda: other.copy_(numbers)),
}))
