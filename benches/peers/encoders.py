#!/usr/bin/env python3
"""One transformer layer over ragged segments: Levelfold beside PyTorch, on the same weights and rows, in the same run.

    benches/peers/run.py setup                                                       PyTorch, in target/peers
    target/peers/venv/bin/python benches/peers/encoders.py target/release/levelfold  [--threads 2] [--rows 100000]

PyTorch runs its own `nn.TransformerEncoderLayer` in three ways: a padded batch with a mask, a nested tensor (its fast path, where it takes one), and a loop over
segments. Levelfold loads the layer's state dict as it is. Every result is held against the layer in f64, segment by segment; the script fails beyond 1e-5. A way
that would need more than --cap bytes for its padded rows, or that PyTorch refuses, is named and left out. Times are the median of --rounds, taken in turns.
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

CASES = {
    "words": lambda rng: rng.choice([1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8, 10, 13]),
    "sentences": lambda rng: min(90, max(1, int(rng.lognormvariate(2.9, 0.6)))),
    "skewed": lambda rng: 4000 if rng.random() < 0.0005 else rng.randint(1, 40),
}


def save(path, tensors):
    """A .safetensors file of f32 tensors."""
    header, data = {}, bytearray()
    for name, tensor in tensors.items():
        start = len(data)
        data += tensor.detach().contiguous().numpy().tobytes()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + data)


def load(path, name):
    raw = Path(path).read_bytes()
    size = int.from_bytes(raw[:8], "little")
    entry = json.loads(raw[8 : 8 + size])[name]
    start, end = entry["data_offsets"]
    return torch.frombuffer(bytearray(raw[8 + size + start : 8 + size + end]), dtype=torch.float32).reshape(entry["shape"])


class Levelfold:
    name = "levelfold"

    def __init__(self, binary, folder, layer, x, lengths, args):
        self.command = [binary]
        self.common = ["--bind", f"x={folder}/x.safetensors", "--threads", str(args.threads), "--json"]
        encoder = {"params": "layer", "heads": args.heads, "feed_forward": args.feed_forward, "activation": "gelu"}
        leaves = {"name": "x", "dtype": "f32", "features": args.features, "encode": {"transformer": encoder}, "keep": True}
        self.spec = folder / "spec.json"
        self.spec.write_text(json.dumps({"leaves": leaves, "levels": [{"name": "y", "segments": {"lengths": lengths}, "reduce": "mean"}]}))
        self.params, self.out = folder / "params.safetensors", folder / "out.safetensors"
        save(folder / "x.safetensors", {"x": x})
        save(self.params, {f"layer.{name}": tensor for name, tensor in layer.state_dict().items()})

    def call(self, *arguments):
        done = subprocess.run([*self.command, *map(str, arguments), *self.common], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
        return json.loads(done.stdout)

    def result(self):
        self.call("run", self.spec, "--params", self.params, "--out", self.out)
        return load(self.out, "x")

    def seconds(self):
        """One warm run, of the layer and of the mean above it: its parameters are random here, which changes no time."""
        return self.call("explain", self.spec, "--analyze", "--runs", 3)["seconds"]


class Torch:
    def __init__(self, layer, x, lengths, args):
        self.layer, self.x, self.lengths, self.args = layer, x, lengths, args
        longest = max(lengths)
        if self.padded and len(lengths) * longest * args.features * 4 > args.cap:
            raise MemoryError(f"padded rows would take {len(lengths) * longest * args.features * 4 / 1e9:.1f} GB")
        self.prepare()

    padded = False

    def prepare(self):
        self.segments = [segment.unsqueeze(0) for segment in self.x.split(self.lengths)]

    def seconds(self):
        start = time.perf_counter()
        self.run()
        return time.perf_counter() - start


class Loop(Torch):
    name = "torch, a loop over segments"

    def run(self):
        return [self.layer(segment) for segment in self.segments]

    def result(self):
        return torch.cat([made.squeeze(0) for made in self.run()])


class Padded(Torch):
    name = "torch, padded with a mask"
    padded = True

    def prepare(self):
        """Padding is not timed."""
        self.batch = torch.nn.utils.rnn.pad_sequence(self.x.split(self.lengths), batch_first=True)
        self.mask = torch.arange(self.batch.shape[1])[None, :] >= torch.tensor(self.lengths)[:, None]
        # The fast path would turn a masked batch into a nested tensor by itself.
        torch.backends.mha.set_fastpath_enabled(False)

    def run(self):
        torch.backends.mha.set_fastpath_enabled(False)
        made = self.layer(self.batch, src_key_padding_mask=self.mask)
        torch.backends.mha.set_fastpath_enabled(True)
        return made

    def result(self):
        return self.run()[~self.mask]


class Nested(Torch):
    name = "torch, nested tensor"
    # Its attention pads inside.
    padded = True

    def prepare(self):
        self.batch = torch.nested.nested_tensor(list(self.x.split(self.lengths)))

    def run(self):
        return self.layer(self.batch)

    def result(self):
        return torch.cat(self.run().unbind())


def measure(case, args, folder):
    rng = random.Random(case)
    lengths = []
    while sum(lengths) < args.rows:
        lengths.append(CASES[case](rng))
    torch.manual_seed(1)
    layer = torch.nn.TransformerEncoderLayer(args.features, args.heads, args.feed_forward, dropout=0.0, activation="gelu", batch_first=True).eval()
    x = torch.randn(sum(lengths), args.features)
    exact = torch.nn.TransformerEncoderLayer(
        args.features, args.heads, args.feed_forward, dropout=0.0, activation="gelu", batch_first=True, dtype=torch.float64
    ).eval()
    exact.load_state_dict({name: tensor.double() for name, tensor in layer.state_dict().items()})
    wanted = torch.cat([exact(segment.unsqueeze(0)).squeeze(0) for segment in x.double().split(lengths)])
    print(f"\n{case}: {len(lengths)} segments, {sum(lengths)} rows of {args.features}, the longest has {max(lengths)}\n")
    contenders = []
    for make in (lambda: Levelfold(args.levelfold, folder, layer, x, lengths, args), *(lambda kind=kind: kind(layer, x, lengths, args) for kind in (Loop, Padded, Nested))):
        try:
            contender = make()
            error = ((contender.result().double() - wanted).abs().max() / wanted.abs().max()).item()
        except (MemoryError, RuntimeError, NotImplementedError) as reason:
            print(f"  left out: {str(reason).splitlines()[0]}")
            continue
        contenders.append((contender, error, []))
    for _ in range(args.rounds):
        for contender, _, times in contenders:
            times.append(contender.seconds())
    best = statistics.median(contenders[0][2])
    print("| | ms | beside levelfold | relative error |\n|---|---|---|---|")
    for contender, error, times in contenders:
        took = statistics.median(times)
        print(f"| {contender.name} | {took * 1e3:.1f} | {took / best:.2f} | {error:.1e} |")
    return all(error <= 1e-5 for _, error, _ in contenders)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("levelfold", help="the command")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--feed-forward", type=int, default=256)
    parser.add_argument("--cap", type=float, default=2e9, help="the most bytes of padded rows")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        close = [measure(case, args, Path(folder)) for case in args.cases.split(",")]
    if not all(close):
        sys.exit("a result is off by more than 1e-5")


if __name__ == "__main__":
    main()
