//! The schema and the reader agree: on the examples of the documentation, and on each of them with one thing changed.

use super::*;
use serde_json::Value;

const EXAMPLES: [&str; 6] = [
    include_str!("../../../docs/examples/text.json"),
    include_str!("../../../docs/examples/lookup.json"),
    include_str!("../../../docs/examples/bound.json"),
    include_str!("../../../docs/examples/protein.json"),
    include_str!("../../../docs/examples/transformer.json"),
    EVERY_ENCODER,
];

/// Each encoder with each of its options.
const EVERY_ENCODER: &str = r#"{
  "leaves": { "name": "a", "dtype": "f32", "features": 4, "encode": "sinusoidal" },
  "levels": [{ "name": "b", "segments": { "lengths": [2, 1] }, "reduce": "sum", "encode": [
    "layer-norm", "rms-norm", "gelu-tanh", { "scale": 0.5 }, { "cast": "f64" },
    { "linear": { "params": "l", "features": 6, "bias": false } },
    { "layer-norm": { "params": "n", "eps": 0.001, "bias": false } },
    { "rms-norm": { "params": "r", "eps": 0.001 } },
    { "residual": ["relu", { "learned": { "params": "p", "rows": 9 } }] },
    { "concat": [["tanh"], []] },
    { "custom": { "name": "mine", "version": 2 } },
    { "sinusoidal": { "base": 100 } },
    { "attention": { "params": "a", "heads": 2, "causal": true, "rotary": true } },
    { "convolution": { "params": "c", "width": 3, "bias": false, "causal": true } },
    { "transformer": { "params": "t", "layers": 2, "heads": 2, "feed_forward": 8, "activation": "silu", "norm": "pre", "final_norm": true, "causal": true, "rotary": 100.0, "eps": 0.001 } }
  ] }]
}"#;

/// The part of JSON Schema that the schema uses; a keyword that is not in it fails the test.
fn valid(schema: &Value, value: &Value, root: &Value) -> bool {
    schema.as_object().expect("a schema is an object").iter().all(|(keyword, argument)| match keyword.as_str() {
        "$schema" | "title" | "description" | "default" | "$defs" => true,
        "$ref" => {
            let name = argument.as_str().and_then(|path| path.strip_prefix("#/$defs/")).expect("a local reference");
            valid(&root["$defs"][name], value, root)
        }
        "oneOf" => argument.as_array().expect("a list").iter().filter(|schema| valid(schema, value, root)).count() == 1,
        "enum" => argument.as_array().expect("a list").contains(value),
        "type" => match argument.as_str().expect("one type") {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "number" => value.is_number(),
            "integer" => value.is_i64() || value.is_u64(),
            "null" => value.is_null(),
            other => panic!("type {other}"),
        },
        "required" => argument
            .as_array()
            .expect("a list")
            .iter()
            .all(|name| value.as_object().is_none_or(|object| object.contains_key(name.as_str().expect("a name")))),
        "properties" => argument
            .as_object()
            .expect("an object")
            .iter()
            .all(|(name, schema)| value.get(name).is_none_or(|field| valid(schema, field, root))),
        "additionalProperties" => {
            let known = schema["properties"].as_object().expect("properties");
            argument == false && value.as_object().is_none_or(|object| object.keys().all(|name| known.contains_key(name)))
        }
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| valid(argument, item, root))),
        "minItems" => value.as_array().is_none_or(|items| Some(items.len() as u64) >= argument.as_u64()),
        "maxItems" => value.as_array().is_none_or(|items| Some(items.len() as u64) <= argument.as_u64()),
        "pattern" => value.as_str().is_none_or(|text| match argument.as_str().expect("a pattern") {
            r"^(var|std)\(ddof=[0-9]+\)$" => ["var(ddof=", "std(ddof="].iter().any(|start| {
                let number = text.strip_prefix(start).and_then(|rest| rest.strip_suffix(')'));
                number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
            }),
            r"^quantile\((0(\.[0-9]+)?|1(\.0+)?)\)$" => {
                let number = text.strip_prefix("quantile(").and_then(|rest| rest.strip_suffix(')'));
                number.is_some_and(|number| number.parse().is_ok_and(|q: f64| (0.0..=1.0).contains(&q)))
            }
            r"^custom\(.+\)$" => {
                text.strip_prefix("custom(").and_then(|rest| rest.strip_suffix(')')).is_some_and(|inner| !inner.is_empty())
            }
            other => panic!("pattern {other}"),
        }),
        "minLength" => value.as_str().is_none_or(|text| Some(text.chars().count() as u64) >= argument.as_u64()),
        "minimum" => value.as_i64().is_none_or(|number| Some(number) >= argument.as_i64()) && !value.is_f64(),
        "maximum" => value.as_u64().is_none_or(|number| Some(number) <= argument.as_u64()),
        other => panic!("keyword {other}"),
    })
}

/// Errors that no schema can express: of what numbers mean together, not of their form.
fn is_about_form(error: &Error) -> bool {
    let all = if error.causes().is_empty() { std::slice::from_ref(error) } else { error.causes() };
    all.iter().any(|error| match error.code() {
        ErrorCode::SpecInvalid => !error.message().contains("do not say how many rows"),
        ErrorCode::UnknownName | ErrorCode::UnknownWord | ErrorCode::DType | ErrorCode::Negative | ErrorCode::OffsetsEmpty => true,
        _ => false,
    })
}

/// Every place in a document, as the path to it.
fn places(value: &Value, path: String, into: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, field)| places(field, format!("{path}/{name}"), into)),
        Value::Array(items) => items.iter().enumerate().for_each(|(index, item)| places(item, format!("{path}/{index}"), into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    into.push(path);
}

#[test]
fn the_schema_takes_what_the_reader_takes() {
    let schema: Value = serde_json::from_str(SPEC_SCHEMA).unwrap();
    let changes = [
        serde_json::json!(null),
        serde_json::json!(true),
        serde_json::json!(7),
        serde_json::json!(-1),
        serde_json::json!(1.5),
        serde_json::json!(""),
        serde_json::json!("sum"),
        serde_json::json!("u8"),
        serde_json::json!("f64"),
        serde_json::json!("nan"),
        serde_json::json!([]),
        serde_json::json!([1, 2]),
        serde_json::json!(["sum", "max"]),
        serde_json::json!({}),
        serde_json::json!({"fill": "inf"}),
        serde_json::json!({"lengths": [3]}),
        serde_json::json!({"name": "x", "dtype": "f32"}),
        serde_json::json!({"name": "x", "dtype": "i64"}),
    ];
    let mut compared = [0, 0];
    for example in EXAMPLES {
        let document: Value = serde_json::from_str(example).unwrap();
        assert!(valid(&schema, &document, &schema) && Hierarchy::from_json(example).is_ok(), "{example}");
        let mut all = Vec::new();
        places(&document, String::new(), &mut all);
        let mut documents = Vec::new();
        for place in all.iter().filter(|place| !place.is_empty()) {
            for change in &changes {
                let mut document = document.clone();
                *document.pointer_mut(place).unwrap() = change.clone();
                documents.push(document);
            }
            let (parent, name) = place.rsplit_once('/').unwrap();
            let mut without = document.clone();
            if let Some(fields) = without.pointer_mut(parent).unwrap().as_object_mut() {
                let field = fields.remove(name).unwrap();
                documents.push(without.clone());
                without.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(format!("{name}x"), field);
                documents.push(without);
            }
        }
        for document in documents {
            let text = document.to_string();
            let taken = match Hierarchy::from_json(&text) {
                Ok(_) => true,
                Err(error) => !is_about_form(&error),
            };
            assert_eq!(valid(&schema, &document, &schema), taken, "{text}\n{:?}", Hierarchy::from_json(&text).err());
            compared[usize::from(taken)] += 1;
        }
    }
    assert!(compared[0] > 1000 && compared[1] > 100, "{compared:?}");
}

#[test]
fn custom_reducers_are_in_the_schema() {
    let schema: Value = serde_json::from_str(SPEC_SCHEMA).unwrap();
    let reducer = &schema["$defs"]["reducer"];
    let part = |more: Value| {
        let mut part = serde_json::json!({"name": "s", "lift": "x * x", "combine": "a.s + b.s"});
        part.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::json!({"custom": {"name": "squares", "state": [part], "finish": "sqrt(s)"}})
    };
    let spec = |reduce: &Value| {
        let level = serde_json::json!({"name": "y", "segments": {"lengths": [2]}, "reduce": reduce});
        serde_json::json!({"leaves": {"name": "x", "dtype": "f32", "features": 1}, "levels": [level]}).to_string()
    };
    for more in [
        serde_json::json!({}),
        serde_json::json!({"identity": 0}),
        serde_json::json!({"identity": "-inf"}),
        serde_json::json!({"identity": null}),
    ] {
        let custom = part(more);
        assert!(valid(reducer, &custom, &schema), "{custom}");
        let read = Hierarchy::from_json(&spec(&custom)).unwrap();
        // As text it is a reducer of the same bytes.
        let text = serde_json::json!(read.levels[0].reduce[0].to_string());
        assert!(valid(reducer, &text, &schema), "{text}");
        assert_eq!(Hierarchy::from_json(&spec(&text)).unwrap(), read);
        assert_eq!(Hierarchy::from_json(&read.to_json()).unwrap(), read);
    }
    for more in [serde_json::json!({"identity": "zero"}), serde_json::json!({"lift": 1}), serde_json::json!({"unit": 1})] {
        let custom = part(more);
        assert!(!valid(reducer, &custom, &schema), "{custom}");
        assert!(Hierarchy::from_json(&spec(&custom)).is_err(), "{custom}");
    }
    let five: Vec<Value> = (0..5).map(|index| serde_json::json!({"name": format!("s{index}"), "lift": "x", "combine": "a.s0"})).collect();
    let five = serde_json::json!({"custom": {"name": "five", "state": five, "finish": "s0"}});
    assert!(!valid(reducer, &five, &schema) && Hierarchy::from_json(&spec(&five)).is_err());
}

#[test]
fn reducers_in_rust_are_in_the_schema() {
    let schema: Value = serde_json::from_str(SPEC_SCHEMA).unwrap();
    let reducer = &schema["$defs"]["reducer"];
    let spec = |reduce: &Value| {
        let level = serde_json::json!({"name": "y", "segments": {"lengths": [2]}, "reduce": reduce});
        serde_json::json!({"leaves": {"name": "x", "dtype": "f32", "features": 1}, "levels": [level]}).to_string()
    };
    for (custom, text) in [
        (serde_json::json!({"name": "power-mean", "version": 1}), "custom(power-mean version=1)"),
        (serde_json::json!({"name": "power-mean", "version": 0, "arguments": null}), "custom(power-mean version=0)"),
        (serde_json::json!({"name": "power-mean", "version": 7, "arguments": [3, 2]}), "custom(power-mean version=7, 3, 2)"),
        (serde_json::json!({"name": "power-mean", "version": 7, "arguments": [0.5, 2]}), "custom(power-mean version=7, 0.5, 2)"),
    ] {
        let custom = serde_json::json!({"custom": custom});
        assert!(valid(reducer, &custom, &schema), "{custom}");
        let read = Hierarchy::from_json(&spec(&custom)).unwrap();
        assert_eq!(read.levels[0].reduce[0].to_string(), text);
        assert!(valid(reducer, &serde_json::json!(text), &schema), "{text}");
        assert_eq!(Hierarchy::from_json(&spec(&serde_json::json!(text))).unwrap(), read);
        assert_eq!(Hierarchy::from_json(&read.to_json()).unwrap(), read);
    }
    for custom in [
        serde_json::json!({"name": "power-mean"}),
        serde_json::json!({"version": 1}),
        serde_json::json!({"name": "power-mean", "version": "1"}),
        serde_json::json!({"name": "power-mean", "version": 1, "arguments": 3}),
        serde_json::json!({"name": "power-mean", "version": 1, "arguments": ["3"]}),
        serde_json::json!({"name": "power-mean", "version": 1, "finish": "s"}),
        serde_json::json!({"name": "power-mean", "version": 4294967296u64}),
    ] {
        let custom = serde_json::json!({"custom": custom});
        assert!(!valid(reducer, &custom, &schema), "{custom}");
        assert!(Hierarchy::from_json(&spec(&custom)).is_err(), "{custom}");
    }
}
