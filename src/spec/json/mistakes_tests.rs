//! What people mistype, and what they are told: the level, what was found, and what to do.

use crate::Hierarchy;

/// The error of a spec, or of its graph.
fn told(spec: &str) -> String {
    match Hierarchy::from_json(spec).and_then(|hierarchy| hierarchy.graph()) {
        Ok(_) => format!("taken: {spec}"),
        Err(error) => error.to_string(),
    }
}

/// Nine rows of eight features in three segments, encoded by this.
fn encoded(encode: &str) -> String {
    told(&format!(
        r#"{{"leaves": {{"name": "x", "dtype": "f32", "features": 8, "encode": {encode}}},
            "levels": [{{"name": "y", "segments": {{"lengths": [3, 2, 4]}}, "reduce": "sum"}}]}}"#
    ))
}

/// The same rows, in a level with these fields beside its name.
fn level(fields: &str) -> String {
    told(&format!(r#"{{"leaves": {{"name": "x", "dtype": "f32", "features": 8, "rows": 9}}, "levels": [{{"name": "y", {fields}}}]}}"#))
}

fn reduced(reduce: &str) -> String {
    level(&format!(r#""segments": {{"lengths": [3, 2, 4]}}, "reduce": {reduce}"#))
}

#[test]
fn encoders() {
    insta::assert_snapshot!([
        encoded(r#"{"layer-norm": {"eps": "nan"}}"#),
        encoded(r#"{"layer-norm": {"eps": NaN}}"#),
        encoded(r#"{"layer-norm": {"eps": 0}}"#),
        encoded(r#"{"rms-norm": {"eps": -1e-5}}"#),
        encoded(r#"{"sinusoidal": {"base": -1}}"#),
        encoded(r#"{"convolution": {"width": 0}}"#),
        encoded(r#"{"convolution": {"width": -3}}"#),
        encoded(r#"{"convolution": {"width": 1152921504606846976}}"#),
        encoded(r#"{"attention": {"heads": 3}}"#),
        encoded(r#"{"attention": {"heads": 0}}"#),
        encoded(r#"{"attention": {"heads": "4"}}"#),
        encoded(r#"{"attention": {"heads": 8, "rotary": true}}"#),
        encoded(r#""attention""#),
        encoded(r#"{"learned": {"rows": 3}}"#),
        encoded(r#"{"linear": {"features": 4.0}}"#),
        encoded(r#"{"linear": {"feature": 4}}"#),
        encoded(r#"{"relu": {}}"#),
        encoded(r#"{"linear": {"features": 4}, "bias": false}"#),
        encoded(r#"{"residual": [{"linear": {"features": 4}}]}"#),
        encoded(r#"[{"linear": {"features": 4, "params": "p"}}, {"linear": {"features": 4, "params": "p"}}]"#),
        encoded(r#"{"concat": ["relu", []]}"#),
        encoded(r#"{"cast": "u8"}"#),
        encoded(r#"{"cast": "bfloat16"}"#),
        encoded(r#"{"transformer": {"heads": 2, "num_layers": 2}}"#),
        encoded(r#"{"transformer": {"heads": 2, "layers": 5000}}"#),
        encoded(r#"{"transformer": {"heads": 2, "norm": "first"}}"#),
        encoded("[null]"),
    ].join("\n"), @r#"
    x: leaves.encode.layer-norm.eps: expected a number, found the string "nan" [spec-invalid]
    the spec is not valid JSON: expected value at line 1 column 90 [spec-invalid]
    x: encode[0].layer-norm: the `eps` of layer-norm is 0.0; use a number above 0 [option]
    x: encode[0].rms-norm: the `eps` of rms-norm is -1e-5; use a number above 0 [option]
    x: encode[0].sinusoidal: the `base` of sinusoid is -1.0; use a number above 0 [option]
    x: encode[0].convolution: the width of a convolution is 0; use the number of rows that it sees, 1 or more [shape]
    x: leaves.encode.convolution.width: -3 is negative; counts are 0 or more [negative]
    x: encode[0].convolution: 8 rows of 1152921504606846976 features do not fit 64 bits [overflow]
    x: encode[0].attention: 8 features are not divided by 3 heads; use a number of heads that divides the features of the level [shape]
    x: encode[0].attention: 8 features are not divided by 0 heads; use a number of heads that divides the features of the level [shape]
    x: leaves.encode.attention.heads: expected a whole number, found the string "4" [spec-invalid]
    x: encode[0].attention: rotate turns pairs inside heads of 1 of 16 columns of f32[9x24]; rotary positions need an even number of features a head [shape]
    x: leaves.encode: the encoder `attention` lacks its options; say {"attention": …} [spec-invalid]
    x: encode[0].learned: there are 3 learned positions, but a segment has 4 rows; use sinusoidal or rotary positions, or a table with a row for each position [shape]
    x: leaves.encode.linear.features: expected a whole number, found 4.0 [spec-invalid]
    the spec has 2 errors [spec-invalid]
      - x: leaves.encode.linear: unknown field `feature`; did you mean `features`? [unknown-name]
      - x: leaves.encode.linear: the field `features` is missing [spec-invalid]
    x: leaves.encode: the encoder `relu` has no options; say "relu" [spec-invalid]
    x: leaves.encode: an encoder has one name; found linear and bias; an encoder is its name, or an object of one field: its name, with its options [spec-invalid]
    x: encode[0].residual: add takes rows of one shape and type, not f32[9x4] and f32[9x8]; what is added must have as many features as what it is added to [shape]
    x: encode[1].linear: the parameter `p.weight` is f32[4x8] elsewhere, and f32[4x4] here; parameters that share a name share their shape and type; give one of them another name [shape]
    x: leaves.encode.concat[0]: expected a list of encoders, found the string "relu" [spec-invalid]
    x: leaves.encode.cast: values cannot be u8; values are f32, f64, f16 or bf16 [dtype]
    x: leaves.encode.cast: unknown dtype `bfloat16`; it is `bf16` here [unknown-word]
    x: leaves.encode.transformer: unknown field `num_layers`; known: params, layers, heads, feed_forward, activation, norm, final_norm, causal, rotary, eps [unknown-name]
    x: encode[0].transformer: a transformer has 5000 layers; 1024 are the most; stack several transformers where so many are meant [option]
    x: leaves.encode.transformer.norm: unknown place of norms `first`; known: pre, post [unknown-word]
    x: leaves.encode[0]: expected the name of an encoder, or an object with its options, found null [spec-invalid]
    "#);
}

#[test]
fn reducers_and_levels() {
    insta::assert_snapshot!([
        reduced("5"),
        reduced("null"),
        reduced("[]"),
        reduced(r#""avg""#),
        reduced(r#""Mean""#),
        reduced(r#""entropy""#),
        reduced(r#""quantile""#),
        reduced(r#""quantile(2)""#),
        reduced(r#""var(1)""#),
        reduced(r#""mean(""#),
        reduced(r#""softmax""#),
        reduced(r#""max", "weights": "w""#),
        reduced(r#""sum", "weights": {"name": "w", "dtype": "f64"}"#),
        reduced(r#""sum", "weights": "x""#),
        reduced(r#""sum", "query": "q""#),
        reduced(r#""softmax", "query": "q", "weights": "w""#),
        reduced(r#"["argmax", "mean"]"#),
        reduced(r#""argmax", "dtype": "f32""#),
        reduced(r#""argmax", "encode": "relu""#),
        reduced(r#""sum", "dtype": "float32""#),
        reduced(r#""sum", "on_empty": {"fill": "NaN"}"#),
        level(r#""segments": {"lengths": [3, 2, 0, 4]}, "reduce": "argmax", "on_empty": {"fill": 0.5}"#),
        level(r#""segments": {"lengths": [3, 2.0, 4]}, "reduce": "sum""#),
        level(r#""segments": {"ids": [0, 0, 1], "count": 1000000000000000}, "reduce": "sum""#),
        level(r#""segments": {"ranges": [[0, 3], [2, 30]]}, "reduce": "sum""#),
        told(r#"{"leaves": {"name": "", "dtype": "f32", "features": 1}, "levels": [{"name": "y", "segments": {"lengths": [3]}, "reduce": "sum"}]}"#),
        told(r#"{"leaves": {"name": "a\nb", "dtype": "f32", "features": 1}, "levels": [{"name": "y", "segments": {"lengths": [3]}, "reduce": "sum"}]}"#),
        told(r#"{"leaves": {"name": "x", "dtype": "f32", "features": 2305843009213693952}, "levels": [{"name": "y", "segments": {"lengths": [3]}, "reduce": "sum"}]}"#),
        told(r#"{"leaves": {"name": "x", "dtype": "f32", "features": 1}, "levels": {"name": "y"}}"#),
        told("[]"),
    ].join("\n"), @r#"
    y: levels[0].reduce: expected the name of a reducer, or an object with `custom`, found 5 [spec-invalid]
    y: levels[0].reduce: expected the name of a reducer, or an object with `custom`, found null [spec-invalid]
    y: levels[0].reduce: the level has no reducer; name one, such as sum or mean [spec-invalid]
    y: levels[0].reduce: unknown reducer `avg`; it is `mean` here [unknown-word]
    y: levels[0].reduce: unknown reducer `Mean`; it is `mean` here [unknown-word]
    y: levels[0].reduce: unknown reducer `entropy`; known: sum, mean, max, min, prod, var, std, logsumexp, softmax, median, quantile, l1, l2, first, last, count, argmax, argmin; one of your own is `custom(NAME: …)` [unknown-word]
    y: levels[0].reduce: quantile takes a number; write `quantile(0.25)`, or `median` [unknown-word]
    y: levels[0].reduce: there is no quantile 2; a quantile is a number from 0 to 1: quantile(0.25) [option]
    y: levels[0].reduce: var takes `ddof=` and a whole number, not `1`; write `var(ddof=1)` for a sample [unknown-word]
    y: levels[0].reduce: `mean(` lacks the bracket that closes it [unknown-word]
    y: softmax has no scores; bind one score for each row as `weights`, or name a `query` that makes them [weights]
    y: max has no weighted form; sum, mean, var, std, logsumexp, softmax, l1, l2 have one [weights]
    y: weights are f64[9x1], wanted is one float a row: 9 rows, exact in f32; bind one weight for each row of the level that is folded [weights]
    x: two inputs are named `x`; give each a name of its own; only encoders share parameters [duplicate-name]
    y: only softmax has queries; reduce by softmax alone, or leave the queries out [spec-invalid]
    y: its scores are given twice, by weights and by queries; leave one of them out [spec-invalid]
    y: argmax gives positions (i64) and mean numbers, which do not stand side by side in one row; keep them apart: a hierarchy of its own for argmax, over the same segments [dtype]
    y: argmax of f32 as f32 is not defined; its results are i64: say no other type [dtype]
    y: encode[0].relu: map takes floats, not i64[3x8]; ids look rows up in a table first [dtype]
    y: levels[0].dtype: unknown dtype `float32`; it is `f32` here [unknown-word]
    y: levels[0].on_empty.fill: expected a number, "nan", "inf" or "-inf", found the string "NaN" [spec-invalid]
    y: an empty segment cannot give fill(0.5) where results are i64; positions are whole numbers: say zero, or a fill such as -1 [dtype]
    y: levels[0].segments.lengths[1]: expected a whole number, found 2.0 [spec-invalid]
    y: levels[0].segments.ids: there is no memory for the offsets of 1000000000000000 segments; give the count of segments that there are: the last id and 1 more, or a few more where the last ones are empty [overflow]
    y: levels[0].segments.ranges: range 1 ends at 30, but there are 9 rows [past-rows]
    leaves.name: the name is empty; give it a name [spec-invalid]
    leaves.name: the name "a\nb" has the control character '\n'; names stand in plans, on one line: use other signs [spec-invalid]
    x: 3 rows of 2305843009213693952 features do not fit 64 bits [overflow]
    levels: expected a list of objects, found an object [spec-invalid]
    expected an object, found an empty list [spec-invalid]
    "#);
}
