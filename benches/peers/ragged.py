"""What the scripts beside PyTorch's modules have in common: ragged cases, tensors in files, the command, and a loop that measures in turns.

A contender has `name`, `result()`, which gives all rows or all pooled segments, and `seconds()`, one run. Every result is held against one in f64. A contender that cannot be made, or that
would take more than --cap-bytes for padded rows or more than --cap-flops for the scores of padded rows, is named and left out.
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

# The largest error, relative to the largest number, that is taken for rounding.
ERRORS = {"f32": 1e-5, "f64": 1e-12, "bf16": 4e-2}
DTYPES = {"f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16}


def words(rng, rows):
    return rng.choice([1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8, 10, 13])


def sentences(rng, rows):
    return min(90, max(1, int(rng.lognormvariate(2.9, 0.6))))


def skewed(rng, rows):
    """One segment holds a fifth of the rows."""
    return rng.randint(1, 40)


def long(rng, rows):
    return min(rows, 4096)


CASES = {"words": words, "sentences": sentences, "skewed": skewed, "long": long}


def lengths_of(case, rows):
    rng = random.Random(case)
    lengths = [rows // 5] if case == "skewed" else []
    while sum(lengths) < rows:
        lengths.append(CASES[case](rng, rows))
    return lengths


def save(path, tensors):
    """A .safetensors file."""
    header, data = {}, bytearray()
    names = {tensor: name.upper() for name, tensor in DTYPES.items()}
    for name, tensor in tensors.items():
        start = len(data)
        data += tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + data)


def load(path, name):
    raw = Path(path).read_bytes()
    size = int.from_bytes(raw[:8], "little")
    entry = json.loads(raw[8 : 8 + size])[name]
    start, end = entry["data_offsets"]
    dtype = DTYPES[entry["dtype"].lower()]
    return torch.frombuffer(bytearray(raw[8 + size + start : 8 + size + end]), dtype=dtype).reshape(entry["shape"])


class Levelfold:
    """The command over a spec; the level `output` is its result."""

    name = "levelfold"

    def __init__(self, args, folder, spec, params, x, output):
        self.command, self.output = args.levelfold, output
        self.common = ["--bind", f"x={folder}/x.safetensors", "--threads", str(args.threads), "--json"]
        self.spec, self.params, self.out = folder / "spec.json", folder / "params.safetensors", folder / "out.safetensors"
        self.spec.write_text(json.dumps(spec))
        save(folder / "x.safetensors", {"x": x})
        save(self.params, params)

    def call(self, *arguments):
        done = subprocess.run([self.command, *map(str, arguments), *self.common], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
        return json.loads(done.stdout)

    def result(self):
        self.call("run", self.spec, "--params", self.params, "--out", self.out)
        return load(self.out, self.output)

    def seconds(self):
        """The median of a few warm runs of the whole spec; its parameters are random here, which changes no time."""
        return self.call("explain", self.spec, "--analyze", "--runs", 3)["seconds"]


class Torch:
    """A module; `run` is timed, and what the constructor does is not."""

    def seconds(self):
        start = time.perf_counter()
        self.run()
        return time.perf_counter() - start


def refuse_padded(args, lengths, queries=None):
    """Says why rows of these lengths are not padded, if they are not; attention scores `queries` rows of each segment, or all of them."""
    longest = max(lengths)
    size = len(lengths) * longest * args.features * DTYPES[args.dtype].itemsize
    if size > args.cap_bytes:
        raise MemoryError(f"padded rows would take {size / 1e9:.1f} GB")
    flops = len(lengths) * (queries or longest) * longest * args.features * 4
    if flops > args.cap_flops:
        raise MemoryError(f"attention over padded rows would take {flops / 1e12:.1f} TFLOP")


def quartiles(times):
    times = sorted(times)
    return [times[(len(times) - 1) * quarter // 4] for quarter in (1, 2, 3)]


def measure(args, makers, wanted):
    """Holds every contender against `wanted`, times all of them in turns, and prints a table; says whether all results are close."""
    contenders = []
    for make in makers:
        try:
            contender = make()
            error = ((contender.result().double() - wanted).abs().max() / wanted.abs().max()).item()
        except (MemoryError, RuntimeError, NotImplementedError) as reason:
            print(f"  left out: {str(reason).splitlines()[0]}")
            continue
        contenders.append((contender, error, []))
    start = time.perf_counter()
    for round in range(args.rounds):
        for contender, _, times in contenders:
            times.append(contender.seconds())
        if round >= 2 and time.perf_counter() - start > args.seconds:
            break
    best = statistics.median(contenders[0][2])
    print(f"| {len(contenders[0][2])} rounds | ms | spread | beside levelfold | relative error |\n|---|---|---|---|---|")
    for contender, error, times in contenders:
        low, took, high = quartiles(times)
        print(f"| {contender.name} | {took * 1e3:.2f} | {50 * (high - low) / took:.0f} % | {took / best:.2f} | {error:.1e} |")
    return all(error <= ERRORS[args.dtype] for _, error, _ in contenders)


def main(doc, run, options=()):
    """Calls `run(case, args, folder)` for each case."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("levelfold", help="the command")
    parser.add_argument("--cases", default="words,sentences,skewed", help=f"of {', '.join(CASES)}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=20, help="no more rounds of a case after so long, but for the first three")
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--cap-bytes", type=float, default=2e9, help="the most bytes of padded rows")
    parser.add_argument("--cap-flops", type=float, default=1e11, help="the most operations of attention over padded rows")
    for name, settings in options:
        parser.add_argument(name, **settings)
    args = parser.parse_args()
    unknown = [case for case in args.cases.split(",") if case not in CASES]
    if unknown:
        parser.error(f"no case {unknown[0]}; there are {', '.join(CASES)}")
    torch.set_num_threads(args.threads)
    print(f"PyTorch {torch.__version__}, {args.dtype}, {args.threads} threads")
    close = []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for case in args.cases.split(","):
            lengths = lengths_of(case, args.rows)
            print(f"\n{case}: {len(lengths)} segments, {sum(lengths)} rows of {args.features}, the longest has {max(lengths)}\n", flush=True)
            close.append(run(args, Path(folder), lengths))
    if not all(close):
        sys.exit(f"a result is off by more than {ERRORS[args.dtype]}")
