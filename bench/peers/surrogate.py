"""The performance model in PyTorch: the same network, ensemble, leave-one-out networks, optimizer and candidates as ours.

Prints the seconds of fitting and of choosing among candidates, as one JSON document.
"""

import argparse
import json
import time

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--trials", type=int, default=16)
parser.add_argument("--layers", type=int, default=24)
parser.add_argument("--benchmarks", type=int, default=4)
parser.add_argument("--ensemble", type=int, default=5)
parser.add_argument("--epochs", type=int, default=40)
parser.add_argument("--candidates", type=int, default=384)
options = parser.parse_args()
torch.manual_seed(1)
WIDTH, FEATURES = 32, 15


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(FEATURES, WIDTH)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 4, 128, dropout=0.0, norm_first=True, batch_first=True)
        self.head = nn.Linear(WIDTH, options.benchmarks)

    def forward(self, x):
        return self.head(self.layer(self.embed(x)).mean(1))


def train(x, y):
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=1e-1)
    mean, std = y.mean(0), y.std(0).clamp_min(1e-12)
    target = (y - mean) / std
    for epoch in range(options.epochs):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - epoch / options.epochs)
        optimizer.zero_grad(set_to_none=True)
        nn.functional.mse_loss(network(x), target).backward()
        optimizer.step()
    return network.eval(), mean, std


x = torch.randn(options.trials, options.layers, FEATURES)
y = torch.randn(options.trials, options.benchmarks)
train(x[:3], y[:3])  # warm-up
started = time.perf_counter()
networks = [train(x, y) for _ in range(options.ensemble)]
# Ours leaves large studies out in 64 groups; so does this.
folds = min(options.trials, 64)
group = torch.arange(options.trials) % folds
for fold in range(folds):
    keep = group != fold
    network, mean, std = train(x[keep], y[keep])
    with torch.no_grad():
        network(x[~keep]) * std + mean
with torch.no_grad():
    candidates = torch.randn(options.candidates, options.layers, FEATURES)
    scores = torch.stack([network(candidates) * std + mean for network, mean, std in networks])
    scores.mean((0, 2)).argmax().item()
print(json.dumps({"propose_seconds": time.perf_counter() - started, "threads": torch.get_num_threads()}))
