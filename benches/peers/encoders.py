#!/usr/bin/env python3
"""One transformer layer over ragged segments: Levelfold beside PyTorch, on the same weights and rows, in the same run.

    benches/peers/run.py setup                                                       PyTorch, in target/peers
    target/peers/venv/bin/python benches/peers/encoders.py target/release/levelfold  [--threads 2] [--rows 100000] [--dtype f64]

PyTorch runs its own `nn.TransformerEncoderLayer` in three ways: a padded batch with a mask, a nested tensor (its fast path, where it takes one), and a loop over
segments. Levelfold loads the layer's state dict as it is. Every result is held against the layer in f64, segment by segment; the script fails beyond 1e-5 (f32). What would
need too much for its padded rows, or what PyTorch refuses, is named and left out. Padding is not timed. Times are medians of rounds taken in turns.
"""

import torch

import ragged


class Levelfold(ragged.Levelfold):
    """The layer and a mean above it."""

    def __init__(self, args, folder, layer, x, lengths):
        encoder = {"params": "layer", "heads": args.heads, "feed_forward": args.feed_forward, "activation": "gelu"}
        leaves = {"name": "x", "dtype": args.dtype, "features": args.features, "encode": {"transformer": encoder}, "keep": True}
        spec = {"leaves": leaves, "levels": [{"name": "y", "segments": {"lengths": lengths}, "reduce": "mean"}]}
        super().__init__(args, folder, spec, {f"layer.{name}": tensor for name, tensor in layer.state_dict().items()}, x, "x")


class Loop(ragged.Torch):
    name = "torch, a loop over segments"

    def __init__(self, args, layer, x, lengths):
        self.layer = layer
        self.segments = [segment.unsqueeze(0) for segment in x.split(lengths)]

    def run(self):
        return [self.layer(segment) for segment in self.segments]

    def result(self):
        return torch.cat([made.squeeze(0) for made in self.run()])


class Padded(ragged.Torch):
    name = "torch, padded with a mask"

    def __init__(self, args, layer, x, lengths):
        ragged.refuse_padded(args, lengths)
        self.layer = layer
        self.batch = torch.nn.utils.rnn.pad_sequence(x.split(lengths), batch_first=True)
        self.mask = torch.arange(self.batch.shape[1])[None, :] >= torch.tensor(lengths)[:, None]

    def run(self):
        # The fast path would turn a masked batch into a nested tensor by itself.
        torch.backends.mha.set_fastpath_enabled(False)
        made = self.layer(self.batch, src_key_padding_mask=self.mask)
        torch.backends.mha.set_fastpath_enabled(True)
        return made

    def result(self):
        return self.run()[~self.mask]


class Nested(ragged.Torch):
    name = "torch, nested tensor"

    def __init__(self, args, layer, x, lengths):
        # Its attention pads inside.
        ragged.refuse_padded(args, lengths)
        self.layer = layer
        self.batch = torch.nested.nested_tensor(list(x.split(lengths)))

    def run(self):
        return self.layer(self.batch)

    def result(self):
        return torch.cat(self.run().unbind())


def run(args, folder, lengths):
    torch.manual_seed(1)
    make = lambda dtype: torch.nn.TransformerEncoderLayer(
        args.features, args.heads, args.feed_forward, dropout=0.0, activation="gelu", batch_first=True, dtype=dtype
    ).eval()
    layer, exact = make(ragged.DTYPES[args.dtype]), make(torch.float64)
    x = torch.randn(sum(lengths), args.features).to(ragged.DTYPES[args.dtype])
    exact.load_state_dict({name: tensor.double() for name, tensor in layer.state_dict().items()})
    wanted = torch.cat([exact(segment.unsqueeze(0)).squeeze(0) for segment in x.double().split(lengths)])
    peers = [lambda kind=kind: kind(args, layer, x, lengths) for kind in (Loop, Padded, Nested)]
    return ragged.measure(args, [lambda: Levelfold(args, folder, layer, x, lengths), *peers], wanted)


if __name__ == "__main__":
    ragged.main(__doc__, run, [("--feed-forward", {"type": int, "default": 256})])
