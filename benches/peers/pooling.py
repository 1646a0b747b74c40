#!/usr/bin/env python3
"""Attention pooling by a learned query over ragged segments: Levelfold beside PyTorch, on the same weights and rows, in the same run.

    benches/peers/run.py setup                                                      PyTorch, in target/peers
    target/peers/venv/bin/python benches/peers/pooling.py target/release/levelfold  [--threads 2] [--rows 100000] [--dtype f64]

PyTorch runs `nn.MultiheadAttention` with one learned query over a padded batch with a mask. Levelfold pools whole rows by one query a head, and a linear map follows:
docs/encoders.md says why that is the same function, and `parameters` below does it. Both results are held against PyTorch in f64, segment by segment; the script fails
beyond 1e-5 (f32). Padding is not timed. Times are medians of rounds taken in turns.
"""

import torch

import ragged


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


class Levelfold(ragged.Levelfold):
    def __init__(self, args, folder, params, x, lengths):
        level = {"name": "y", "segments": {"lengths": lengths}, "reduce": "softmax", "query": [f"query.{head}" for head in range(args.heads)]}
        level["encode"] = {"linear": {"features": args.features, "params": "out"}}
        spec = {"leaves": {"name": "x", "dtype": args.dtype, "features": args.features}, "levels": [level]}
        super().__init__(args, folder, spec, {name: tensor.to(x.dtype) for name, tensor in params.items()}, x, "y")


class Padded(ragged.Torch):
    name = "torch, padded with a mask"

    def __init__(self, args, attention, query, x, lengths):
        ragged.refuse_padded(args, lengths, queries=1)
        self.attention = attention
        self.batch = torch.nn.utils.rnn.pad_sequence(x.split(lengths), batch_first=True)
        self.mask = torch.arange(self.batch.shape[1])[None, :] >= torch.tensor(lengths)[:, None]
        self.query = query.expand(len(lengths), 1, -1)

    def run(self):
        return self.attention(self.query, self.batch, self.batch, key_padding_mask=self.mask, need_weights=False)[0]

    def result(self):
        return self.run().squeeze(1)


def run(args, folder, lengths):
    torch.manual_seed(1)
    dtype = ragged.DTYPES[args.dtype]
    attention = torch.nn.MultiheadAttention(args.features, args.heads, batch_first=True, dtype=dtype).eval()
    torch.nn.init.normal_(attention.in_proj_bias)
    query, x = torch.randn(args.features).to(dtype), torch.randn(sum(lengths), args.features).to(dtype)
    exact = torch.nn.MultiheadAttention(args.features, args.heads, batch_first=True, dtype=torch.float64).eval()
    exact.load_state_dict({name: tensor.double() for name, tensor in attention.state_dict().items()})
    whole = query.double().reshape(1, 1, -1)
    wanted = torch.cat([exact(whole, rows[None], rows[None], need_weights=False)[0].reshape(1, -1) for rows in x.double().split(lengths)])
    params = parameters(exact, query.double(), args.heads)
    makers = [lambda: Levelfold(args, folder, params, x, lengths), lambda: Padded(args, attention, query, x, lengths)]
    return ragged.measure(args, makers, wanted)


if __name__ == "__main__":
    ragged.main(__doc__, run)
