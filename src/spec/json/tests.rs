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
