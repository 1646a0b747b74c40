#!/usr/bin/env python3
"""Attention pooling by a learned query over ragged segments: Levelfold beside PyTorch, on the same weights and rows, in the same run.

    benches/peers/run.py setup                                                      PyTorch, in target/peers
    target/peers/venv/bin/python benches/peers/pooling.py target/release/levelfold  [--threads 2] [--rows 100000]

PyTorch runs `nn.MultiheadAttention` with one learned query over a padded batch with a mask. Levelfold pools whole rows by one query a head, and a linear map follows:
docs/encoders.md says why that is the same function, and `parameters` below does it. Both results are held against PyTorch in f64, segment by segment; the script fails
beyond 1e-5. Padding is not timed. Times are the median of --rounds, taken in turns.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from encoders import CASES, load, save


def parameters(attention, query, heads):
    """One query a head, and the linear map behind all heads."""
    features = attention.embed_dim
    width = features // heads
    of_query, of_keys, of_values = attention.in_proj_weight.chunk(3)
    query_bias, _, value_bias = attention.in_proj_bias.chunk(3)
    projected = (of_query @ query + query_bias).reshape(heads, width)
    # A row is scored by row · query ÷ √features here, and by ÷ √width there. A bias of the keys is the same for all rows, and falls out.
    queries = torch.einsum("hw,hwf->hf", projected, of_keys.reshape(heads, width, features)) * (features / width) ** 0.5
    out = attention.out_proj.weight.reshape(features, heads, width)
    weight = torch.einsum("ohw,hwf->ohf", out, of_values.reshape(heads, width, features)).reshape(features, heads * features)
    bias = attention.out_proj.weight @ value_bias + attention.out_proj.bias
    named = {f"query.{head}": queries[head : head + 1] for head in range(heads)}
    return {**named, "out.weight": weight, "out.bias": bias.reshape(1, features)}


class Levelfold:
    name = "levelfold"

    def __init__(self, args, folder, params, x, lengths):
        self.command, self.common = args.levelfold, ["--bind", f"x={folder}/x.safetensors", "--threads", str(args.threads), "--json"]
        level = {"name": "y", "segments": {"lengths": lengths}, "reduce": "softmax", "query": [f"query.{head}" for head in range(args.heads)]}
        level["encode"] = {"linear": {"features": args.features, "params": "out"}}
        self.spec, self.params, self.out = folder / "spec.json", folder / "params.safetensors", folder / "out.safetensors"
        self.spec.write_text(json.dumps({"leaves": {"name": "x", "dtype": "f32", "features": args.features}, "levels": [level]}))
        save(folder / "x.safetensors", {"x": x})
        save(self.params, {name: tensor.float() for name, tensor in params.items()})

    def call(self, *arguments):
        done = subprocess.run([self.command, *map(str, arguments), *self.common], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
        return json.loads(done.stdout)

    def result(self):
        self.call("run", self.spec, "--params", self.params, "--out", self.out)
        return load(self.out, "y")

    def seconds(self):
        """One warm run; its parameters are random here, which changes no time."""
        return self.call("explain", self.spec, "--analyze", "--runs", 3)["seconds"]


class Padded:
    name = "torch, padded with a mask"

    def __init__(self, attention, query, x, lengths):
        self.attention = attention
        self.batch = torch.nn.utils.rnn.pad_sequence(x.split(lengths), batch_first=True)
        self.mask = torch.arange(self.batch.shape[1])[None, :] >= torch.tensor(lengths)[:, None]
        self.query = query.expand(len(lengths), 1, -1)

    def result(self):
        return self.attention(self.query, self.batch, self.batch, key_padding_mask=self.mask, need_weights=False)[0].squeeze(1)

    def seconds(self):
        start = time.perf_counter()
        self.result()
        return time.perf_counter() - start


def measure(case, args, folder):
    rng = random.Random(case)
    lengths = []
    while sum(lengths) < args.rows:
        lengths.append(CASES[case](rng))
    print(f"\n{case}: {len(lengths)} segments, {sum(lengths)} rows of {args.features}, the longest has {max(lengths)}\n")
    torch.manual_seed(1)
    attention = torch.nn.MultiheadAttention(args.features, args.heads, batch_first=True).eval()
    torch.nn.init.normal_(attention.in_proj_bias)
    query, x = torch.randn(args.features), torch.randn(sum(lengths), args.features)
    exact = torch.nn.MultiheadAttention(args.features, args.heads, batch_first=True, dtype=torch.float64).eval()
    exact.load_state_dict({name: tensor.double() for name, tensor in attention.state_dict().items()})
    whole = query.double().reshape(1, 1, -1)
    wanted = torch.cat([exact(whole, rows[None], rows[None], need_weights=False)[0].reshape(1, -1) for rows in x.double().split(lengths)])
    makers = [lambda: Levelfold(args, folder, parameters(exact, query.double(), args.heads), x, lengths)]
    if len(lengths) * max(lengths) * args.features * 4 <= args.cap:
        makers.append(lambda: Padded(attention, query, x, lengths))
    else:
        print(f"  left out: padded rows would take {len(lengths) * max(lengths) * args.features * 4 / 1e9:.1f} GB")
    contenders = [make() for make in makers]
    errors = [((contender.result().double() - wanted).abs().max() / wanted.abs().max()).item() for contender in contenders]
    times = [[] for _ in contenders]
    for _ in range(args.rounds):
        for contender, taken in zip(contenders, times):
            taken.append(contender.seconds())
    best = statistics.median(times[0])
    print("| | ms | beside levelfold | relative error |\n|---|---|---|---|")
    for contender, error, taken in zip(contenders, errors, times):
        took = statistics.median(taken)
        print(f"| {contender.name} | {took * 1e3:.2f} | {took / best:.2f} | {error:.1e} |")
    return all(error <= 1e-5 for error in errors)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("levelfold", help="the command")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--cap", type=float, default=2e9, help="the most bytes of padded rows")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        close = [measure(case, args, Path(folder)) for case in args.cases.split(",")]
    if not all(close):
        sys.exit("a result is off by more than 1e-5")


if __name__ == "__main__":
    main()
