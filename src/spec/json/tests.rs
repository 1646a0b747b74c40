use super::*;

const TEXT: &str = r#"{
  "leaves": { "name": "char", "dtype": "f32", "features": 4 },
  "levels": [
    { "name": "word", "segments": { "lengths": [3, 1, 2] }, "reduce": ["mean", "max"], "keep": true },
    { "name": "sentence", "segments": "cuts", "reduce": "sum", "weights": "w", "on_empty": { "fill": "-inf" }, "dtype": "f64" }
  ]
}"#;

/// A spec of one level over six leaves, with this in place of the level.
fn with_level(level: &str) -> String {
    format!(r#"{{"leaves": {{"name": "char", "dtype": "f32", "features": 4, "rows": 6}}, "levels": [{level}]}}"#)
}

fn error_of(text: &str) -> String {
    Hierarchy::from_json(text).unwrap_err().to_string()
}

#[test]
fn reads_what_the_builder_says() {
    let built = Hierarchy::new(Leaves::values("char", DType::F32, 4))
        .level(Level::new("word", Segments::from_lengths(&[3, 1, 2]).unwrap()).reduce_all(&[Reducer::Mean, Reducer::Max]).keep())
        .level(
            Level::new("sentence", "cuts")
                .reduce(Reducer::Sum)
                .weights("w", DType::F32)
                .on_empty(OnEmpty::Fill(f64::NEG_INFINITY))
                .dtype(DType::F64),
        );
    assert_eq!(Hierarchy::from_json(TEXT).unwrap(), built);
    assert_eq!(Hierarchy::from_json(&built.to_json()).unwrap(), built);
}

#[test]
fn a_lookup_names_its_bindings() {
    let text = r#"{"leaves": {"name": "char", "ids": {"dtype": "u8"}, "table": {"name": "emb", "dtype": "bf16", "rows": 256, "features": 8}, "keep": true},
        "levels": [{"name": "word", "segments": {"ranges": [[4, 6], [0, 2]], "rows": 9}, "reduce": "prod", "keep": false}]}"#;
    let hierarchy = Hierarchy::from_json(text).unwrap();
    let LeafSource::Lookup { ids, table } = &hierarchy.leaves.source else { panic!("a lookup") };
    assert_eq!((&*ids.name, &*table.name, table.dtype), ("char.ids", "emb", DType::BF16));
    assert_eq!(hierarchy.levels[0].segments, Segments::from_ranges(&[(4, 6), (0, 2)], 9).unwrap().into());
    assert_eq!(Hierarchy::from_json(&hierarchy.to_json()).unwrap(), hierarchy);
}

#[test]
fn every_form_of_segments_gives_the_same() {
    let wanted: SegmentSource = Segments::from_lengths(&[2, 0, 4]).unwrap().into();
    for form in [
        r#"{"lengths": [2, 0, 4]}"#,
        r#"{"offsets": [0, 2, 2, 6]}"#,
        r#"{"offsets": [0, 2, 2, 6], "rows": 6, "partial": true}"#,
        r#"{"ranges": [[0, 2], [2, 2], [2, 6]]}"#,
        r#"{"ids": [0, 0, 2, 2, 2, 2], "count": 3}"#,
        r#"{"boundaries": [2, 2]}"#,
    ] {
        let text = with_level(&format!(r#"{{"name": "word", "segments": {form}, "reduce": "sum"}}"#));
        assert_eq!(Hierarchy::from_json(&text).unwrap().levels[0].segments, wanted, "{form}");
    }
}

#[test]
fn mistakes_name_their_level_and_path() {
    let cases = [
        (
            r#"{"name": "word", "segments": {"lengths": [6]}, "reduce": "maen"}"#,
            "word: levels[0].reduce: unknown reducer `maen`; did you mean `mean`? [unknown-word]",
        ),
        (
            r#"{"name": "word", "segments": {"lengths": [6]}, "reduce": ["sum", "mxa"]}"#,
            "word: levels[0].reduce[1]: unknown reducer `mxa`; did you mean `max`? [unknown-word]",
        ),
        (
            r#"{"name": "word", "segment": {"lengths": [6]}, "reduce": "sum"}"#,
            "the spec has 2 errors [spec-invalid]\n  - word: levels[0]: unknown field `segment`; did you mean `segments`? [unknown-name]\n  \
             - word: levels[0]: the field `segments` is missing [spec-invalid]",
        ),
        (
            r#"{"name": "word", "segments": {"lenghts": [6]}, "reduce": "sum"}"#,
            "the spec has 2 errors [spec-invalid]\n  - word: levels[0].segments: unknown field `lenghts`; did you mean `lengths`? [unknown-name]\n  \
             - word: levels[0].segments: segments take exactly one of lengths, offsets, ranges, ids, boundaries; found none [spec-invalid]",
        ),
        (
            r#"{"name": "word", "segments": {"lengths": [6, "x"]}, "reduce": "sum"}"#,
            "word: levels[0].segments.lengths[1]: expected a whole number, found the string \"x\" [spec-invalid]",
        ),
        (
            r#"{"name": "word", "segments": {"lengths": [6.5]}, "reduce": "sum"}"#,
            "word: levels[0].segments.lengths[0]: expected a whole number, found 6.5 [spec-invalid]",
        ),
        (
            r#"{"name": "word", "segments": {"lengths": [7, -1]}, "reduce": "sum"}"#,
            "word: levels[0].segments.lengths: lengths[1] = -1 is negative [negative]",
        ),
        (
            r#"{"name": "word", "segments": {"lengths": [5]}, "reduce": "sum"}"#,
            "word: levels[0].segments.lengths: its segments are for 5 rows, but the level below has 6 [rows-mismatch]",
        ),
        (
            r#"{"name": "word", "segments": {"offsets": [0, 4]}, "reduce": "sum"}"#,
            "word: levels[0].segments.offsets: the last offset is 4, but there are 6 rows: 2 would be dropped; end the offsets at the row count, or ask for it with the partial form [rows-not-covered]",
        ),
        (
            r#"{"name": "word", "segments": {"lengths": [6], "count": 1}, "reduce": "sum"}"#,
            "word: levels[0].segments.count: `count` means nothing beside `lengths`; it goes with ids [spec-invalid]",
        ),
        (
            r#"{"name": "word", "segments": {"ranges": [[0, 6, 7]]}, "reduce": "sum"}"#,
            "word: levels[0].segments.ranges[0]: expected a [start, end] pair, found a list of whole numbers [spec-invalid]",
        ),
        (
            r#"{"name": "word", "segments": {"lengths": [6]}, "reduce": "sum", "on_empty": "zeor"}"#,
            "word: levels[0].on_empty: unknown answer to empty segments `zeor`; did you mean `zero`? [unknown-word]",
        ),
        (
            r#"{"name": "word", "segments": {"lengths": [6]}, "reduce": "sum", "keep": 1}"#,
            "word: levels[0].keep: expected true or false, found 1 [spec-invalid]",
        ),
        (
            r#"{"name": "word", "segments": {"lengths": [6]}, "reduce": "sum", "dtype": "u8"}"#,
            "word: levels[0].dtype: values cannot be u8; values are f32, f64, f16 or bf16 [dtype]",
        ),
        (
            r#"{"name": "char", "segments": {"lengths": [6]}, "reduce": "sum"}"#,
            "char: levels[0].name: the name `char` is taken by the leaves; give each level a name of its own [duplicate-name]",
        ),
        (r#"7"#, "levels: expected a list of objects, found a list of whole numbers [spec-invalid]"),
        ("", "levels: there is no level above the leaves; add at least one level [spec-invalid]"),
    ];
    for (level, wanted) in cases {
        let found = error_of(&with_level(level));
        assert_eq!(found, wanted, "{level}");
    }
}

#[test]
fn documents_that_are_no_specs_are_refused() {
    for (text, wanted) in [
        ("", "the spec is not valid JSON: EOF while parsing a value at line 1 column 0 [spec-invalid]"),
        (&TEXT[..100], "the spec is not valid JSON: EOF while parsing a"),
        (r#"{"leaves": 1, "leaves": 2}"#, "the spec is not valid JSON: the field `leaves` stands twice in one object at line 1 column"),
        (r#"{"leaves": 18446744073709551615}"#, "the spec is not valid JSON: 18446744073709551615 is larger than any row index at line 1"),
        ("[]", "expected an object, found an empty list [spec-invalid]"),
        (&"[".repeat(100_000), "the spec is not valid JSON: recursion limit exceeded at line 1"),
    ] {
        let found = error_of(text);
        assert!(found.starts_with(wanted), "{found}");
    }
    let both = r#"{"leaves": {"name": "c", "dtype": "f32", "features": 1, "ids": {"dtype": "u8"}}, "levels": [{"name": "w", "segments": "w", "reduce": "sum"}]}"#;
    assert!(error_of(both).contains("not both"), "{}", error_of(both));
}

#[test]
fn a_level_named_twice_names_both() {
    let text = r#"{"leaves": {"name": "c", "dtype": "f32", "features": 1},
        "levels": [{"name": "w", "segments": {"lengths": [1]}, "reduce": "sum"}, {"name": "w", "segments": {"lengths": [1]}, "reduce": "sum"}]}"#;
    assert_eq!(error_of(text), "w: levels[1].name: the name `w` is taken by levels[0]; give each level a name of its own [duplicate-name]");
}

const MODEL: &str = r#"{
  "leaves": { "name": "char", "dtype": "f32", "features": 6, "encode": [ENCODE] },
  "levels": [{ "name": "word", "segments": { "lengths": [2, 3] }, "reduce": "mean" }]
}"#;

fn told(encode: &str) -> String {
    match Hierarchy::from_json(&MODEL.replace("ENCODE", encode)).and_then(|hierarchy| hierarchy.graph().map(drop)) {
        Ok(()) => "fine".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn mistakes_of_encoders_name_their_level_and_place() {
    let mistakes = [
        r#""gelo""#,
        r#""transformer""#,
        r#"{"gelu": {}}"#,
        r#"{"transfomer": {"heads": 2}}"#,
        r#"{"linear": {}}, {"linear": {"feature": 3}}"#,
        r#"{"linear": {"features": 3}, "scale": 2}"#,
        r#"7"#,
        r#"{"transformer": {"heads": 4}}"#,
        r#"{"transformer": {"heads": 2, "norm": "prae"}}"#,
        r#"{"attention": {"heads": 6, "rotary": true}}"#,
        r#""relu", {"residual": [{"linear": {"features": 5}}]}"#,
        r#"{"learned": {"rows": 2}}"#,
        r#"{"linear": {"params": "a", "features": 6}}, {"linear": {"params": "a", "features": 4}}"#,
        r#"{"linear": {"params": "char", "features": 6}}, {"scale": 1e999}"#,
        r#"{"concat": []}"#,
        r#"{"sinusoidal": {"base": 0}}"#,
        r#"{"linear": {"params": "a", "features": 6}}, {"linear": {"params": "a", "features": 6}}"#,
    ];
    let told: Vec<String> = mistakes.iter().map(|mistake| told(mistake)).collect();
    insta::assert_snapshot!(told.join("\n"), @r#"
    char: leaves.encode[0]: unknown encoder `gelo`; did you mean `gelu`? [unknown-word]
    char: leaves.encode[0]: the encoder `transformer` lacks its options; say {"transformer": …} [spec-invalid]
    char: leaves.encode[0]: the encoder `gelu` has no options; say "gelu" [spec-invalid]
    char: leaves.encode[0]: unknown encoder `transfomer`; did you mean `transformer`? [unknown-name]
    the spec has 3 errors [spec-invalid]
      - char: leaves.encode[0].linear: the field `features` is missing [spec-invalid]
      - char: leaves.encode[1].linear: unknown field `feature`; did you mean `features`? [unknown-name]
      - char: leaves.encode[1].linear: the field `features` is missing [spec-invalid]
    char: leaves.encode[0]: an encoder has one name; found linear and scale; an encoder is its name, or an object of one field: its name, with its options [spec-invalid]
    char: leaves.encode: expected a list of encoders, found a list of whole numbers [spec-invalid]
    char: encode[0].transformer: 6 features are not divided by 4 heads; use a number of heads that divides the features of the level [shape]
    char: leaves.encode[0].transformer.norm: unknown place of norms `prae`; did you mean `pre`? [unknown-word]
    char: encode[0].attention: rotate turns pairs inside heads of 1 of 12 columns of f32[5x18]; rotary positions need an even number of features a head [shape]
    char: encode[1].residual: add takes rows of one shape and type, not f32[5x5] and f32[5x6]; what is added must have as many features as what it is added to [shape]
    char: encode[0].learned: there are 2 learned positions, but a segment has 3 rows; use sinusoidal or rotary positions, or a table with a row for each position [shape]
    char: encode[1].linear: the parameter `a.weight` is f32[6x6] elsewhere, and f32[4x6] here; parameters that share a name share their shape and type; give one of them another name [shape]
    the spec is not valid JSON: number out of range at line 2 column 134 [spec-invalid]
    char: leaves.encode[0].concat: expected a list of lists of encoders, found an empty list [spec-invalid]
    char: encode[0].sinusoidal: the `base` of sinusoid is 0.0; use a number above 0 [option]
    fine
    "#);
}

#[test]
fn encoders_are_written_as_they_are_read() {
    let text = MODEL.replace(
        "ENCODE",
        r#""relu", {"residual": ["layer-norm", {"linear": {"features": 6, "params": "x"}}]}, {"transformer": {"heads": 3, "layers": 2}}"#,
    );
    let hierarchy = Hierarchy::from_json(&text).unwrap();
    let again = Hierarchy::from_json(&hierarchy.to_json()).unwrap();
    assert_eq!(again, hierarchy);
    assert_eq!(again.to_json(), hierarchy.to_json());
    let names: Vec<String> = {
        let graph = hierarchy.graph().unwrap();
        let plan = crate::optimize::Planner::new(crate::backend::Target::new("test")).plan(graph).unwrap().plan;
        plan.inputs().map(|(_, buffer)| format!("{} {}x{}", buffer.name, buffer.rows, buffer.features)).collect()
    };
    insta::assert_snapshot!(names.join("\n"), @"
    char 5x6
    char.encode.1.0.weight 1x6
    char.encode.1.0.bias 1x6
    x.weight 6x6
    x.bias 1x6
    char.encode.2.layers.0.self_attn.in_proj_weight 18x6
    char.encode.2.layers.0.self_attn.in_proj_bias 1x18
    char.encode.2.layers.0.self_attn.out_proj.weight 6x6
    char.encode.2.layers.0.self_attn.out_proj.bias 1x6
    char.encode.2.layers.0.norm1.weight 1x6
    char.encode.2.layers.0.norm1.bias 1x6
    char.encode.2.layers.0.linear1.weight 24x6
    char.encode.2.layers.0.linear1.bias 1x24
    char.encode.2.layers.0.linear2.weight 6x24
    char.encode.2.layers.0.linear2.bias 1x6
    char.encode.2.layers.0.norm2.weight 1x6
    char.encode.2.layers.0.norm2.bias 1x6
    char.encode.2.layers.1.self_attn.in_proj_weight 18x6
    char.encode.2.layers.1.self_attn.in_proj_bias 1x18
    char.encode.2.layers.1.self_attn.out_proj.weight 6x6
    char.encode.2.layers.1.self_attn.out_proj.bias 1x6
    char.encode.2.layers.1.norm1.weight 1x6
    char.encode.2.layers.1.norm1.bias 1x6
    char.encode.2.layers.1.linear1.weight 24x6
    char.encode.2.layers.1.linear1.bias 1x24
    char.encode.2.layers.1.linear2.weight 6x24
    char.encode.2.layers.1.linear2.bias 1x6
    char.encode.2.layers.1.norm2.weight 1x6
    char.encode.2.layers.1.norm2.bias 1x6
    ");
}

#[test]
fn windows_get_a_row_for_each_occurrence_where_an_encoder_looks_along_them() {
    let windows = |encode: &str| {
        let text = format!(
            r#"{{"leaves": {{"name": "char", "dtype": "f32", "features": 2, "encode": [{encode}], "keep": true}},
                "levels": [{{"name": "window", "segments": {{"ranges": [[0, 3], [1, 4]], "rows": 4}}, "reduce": "sum", "encode": [{encode}]}}]}}"#
        );
        Hierarchy::from_json(&text).unwrap().graph().unwrap().to_string()
    };
    insta::assert_snapshot!(windows("\"sinusoidal\""), @"
    table t0 window ranges 2 of 4 rows
    table t1 window.occurrences offsets 2 of 6 rows
    table t2 window.rows offsets 1 of 2 rows
    n0 = input char : f32[4x2]
    n1 = spread n0 by t0 : f32[6x2]
    n2 = map n1 | sinusoid by t1 base=10000.0 : f32[6x2]
    n3 = slice n2 by t1 : ragged f32[t1x2] row-major view
    n4 = transpose n3 : ragged f32[t1x2] feature-major view
    n5 = contiguous n4 : ragged f32[t1x2] feature-major packed
    n6 = reduce.sum n5 : pieces f32[2x2]
    n7 = stack n6 : stacked f32[2x2x1]
    n8 = squeeze n7 : f32[2x2]
    n9 = map n8 | sinusoid by t2 base=10000.0 : f32[2x2]
    output char = n2
    output window = n9
    ");
    assert!(!windows("\"relu\"").contains("spread"));
}

#[test]
fn queries_score_the_rows_that_softmax_pools() {
    let text = with_level(r#"{"name": "word", "segments": {"lengths": [2, 4]}, "reduce": "softmax", "query": ["a", "b"]}"#);
    let hierarchy = Hierarchy::from_json(&text).unwrap();
    assert_eq!(hierarchy.levels[0].queries, ["a".into(), "b".into()]);
    assert_eq!(Hierarchy::from_json(&hierarchy.to_json()).unwrap(), hierarchy);
    let built = Level::new("word", Segments::from_lengths(&[2, 4]).unwrap()).pool_by(&["a", "b"]);
    assert_eq!(hierarchy.levels[0], built);
    let graph = hierarchy.graph().unwrap();
    let crate::graph::ValueType::Rows { features, .. } = *graph.value_type(graph.outputs()[0].value) else { panic!("rows") };
    assert_eq!(features % 2, 0, "two heads, side by side");
    let told = |level: &str| {
        let read = Hierarchy::from_json(&with_level(level)).and_then(|hierarchy| hierarchy.graph());
        read.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let errors = [
        told(r#"{"name": "word", "segments": {"lengths": [6]}, "reduce": "mean", "query": "a"}"#),
        told(r#"{"name": "word", "segments": {"lengths": [6]}, "reduce": ["softmax", "mean"], "query": "a"}"#),
        told(r#"{"name": "word", "segments": {"lengths": [6]}, "reduce": "softmax", "query": "a", "weights": "w"}"#),
        told(r#"{"name": "word", "segments": {"lengths": [6]}, "reduce": "softmax", "query": []}"#),
        told(r#"{"name": "word", "segments": {"lengths": [6]}, "reduce": "softmax", "query": [1]}"#),
        told(r#"{"name": "word", "segments": {"lengths": [6]}, "reduce": "softmax", "query": ""}"#),
        told(r#"{"name": "word", "segments": {"lengths": [6]}, "reduce": "softmax"}"#),
    ];
    insta::assert_snapshot!(errors.join("\n"), @"
    word: only softmax has queries; reduce by softmax alone, or leave the queries out [spec-invalid]
    word: only softmax has queries; reduce by softmax alone, or leave the queries out [spec-invalid]
    word: its scores are given twice, by weights and by queries; leave one of them out [spec-invalid]
    word: levels[0].query: expected a name, or a list of names, found an empty list [spec-invalid]
    word: levels[0].query: expected a name, or a list of names, found a list of whole numbers [spec-invalid]
    word: levels[0].query: the name is empty; give it a name [spec-invalid]
    word: softmax has no scores; bind one score for each row as `weights`, or name a `query` that makes them [weights]
    ");
}

#[test]
fn positions_and_numbers_do_not_stand_side_by_side() {
    let told = |reduce: &str| {
        let spec = format!(
            r#"{{"leaves": {{"name": "x", "dtype": "f32", "features": 1}}, "levels": [{{"name": "y", "segments": {{"lengths": [2]}}, "reduce": {reduce}}}]}}"#
        );
        Hierarchy::from_json(&spec).unwrap().graph().map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(
        told(r#"["mean", "argmax"]"#),
        Err("y: argmax gives positions (i64) and mean numbers, which do not stand side by side in one row; keep them apart: a hierarchy of its own for argmax, over the same segments [dtype]".into())
    );
    assert_eq!(told(r#"["argmin", "argmax"]"#), Ok(()));
    assert_eq!(told(r#"["mean", "count"]"#), Ok(()));
}
