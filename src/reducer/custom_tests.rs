use super::{ComponentText, CustomReducer, Reducer};
use crate::error::{Error, ErrorCode};
use crate::reducer::{Instruction, OnEmpty};

const RMS: &str = "custom(rms: s from x * x by a.s + b.s else 0; n from 1 by a.n + b.n else 0; sqrt(s / n))";

fn read(text: &str) -> Reducer {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A reducer of one component whose lift is this.
fn lift(expression: &str) -> Result<Reducer, String> {
    format!("custom(t: s from {expression} by a.s + b.s; s)").parse::<Reducer>().map_err(|error| error.to_string())
}

fn custom(text: &str) -> CustomReducer {
    let Reducer::Custom(custom) = read(text) else { panic!("{text}") };
    (*custom).clone()
}

#[test]
fn what_is_printed_reads_back_as_the_same() {
    for (text, printed) in [
        ("(x)", "x"),
        ("x+w*2", "x + w * 2"),
        ("(x+w)*2", "(x + w) * 2"),
        ("x-(w-1)", "x - (w - 1)"),
        ("(x-w)-1", "x - w - 1"),
        ("x/(w/2)", "x / (w / 2)"),
        ("x/w/2", "x / w / 2"),
        ("-x*2", "-x * 2"),
        ("-(x*2)", "-(x * 2)"),
        ("--x", "-(-x)"),
        ("2--1", "2 - -1"),
        ("-0", "-0"),
        ("1e-6+1E+3", "1e-6 + 1000"),
        (".5", "0.5"),
        ("max ( x , -inf )", "max(x, -inf)"),
        ("min(abs(x), exp(log(sqrt(w))))", "min(abs(x), exp(log(sqrt(w))))"),
        ("nan", "nan"),
        ("1234567890123456789", "1.2345678901234568e18"),
    ] {
        let reducer = lift(text).unwrap();
        assert_eq!(reducer.to_string(), format!("custom(t: s from {printed} by a.s + b.s; s)"), "{text}");
        assert_eq!(read(&reducer.to_string()), reducer);
        let json = serde_json::to_string(&reducer).unwrap();
        assert_eq!(serde_json::from_str::<Reducer>(&json).unwrap(), reducer, "{json}");
    }
    assert_eq!(read(RMS).to_string(), RMS);
    assert_ne!(lift("x + w").unwrap(), lift("w + x").unwrap());
    // The name is part of it: plans show it.
    assert_ne!(read(RMS), read(&RMS.replace("rms", "root")));
}

#[test]
fn every_mistake_says_where_and_what_to_do() {
    let told = |expression: &str| lift(expression).unwrap_err();
    insta::assert_snapshot!([
        told("x ** 2"), told("x +"), told("(x"), told("x)"), told("y + 1"), told("a.s"), told("sqr(x)"), told("sqrt x"), told("max(x)"),
        told("1.2.3"), told("1e999"), told("x # w"), told(&"(".repeat(100)), told(&vec!["x"; 200].join(" + ")),
    ].join("\n"), @r"
    lift of `s`: at character 4 of `x ** 2`: `*` is not expected here; write a number, a name or a bracket [spec-invalid]
    lift of `s`: at character 4 of `x +`: something is missing here; write a number, a name or a bracket [spec-invalid]
    lift of `s`: at character 3 of `(x`: a bracket is not closed; write `)` [spec-invalid]
    lift of `s`: at character 2 of `x)`: `)` is not expected here; write an operator, or end the expression [spec-invalid]
    lift of `s`: at character 1 of `y + 1`: `y` is not known here; did you mean `x`? [spec-invalid]
    lift of `s`: at character 1 of `a.s`: `a.s` is not known here; did you mean `abs`? [spec-invalid]
    lift of `s`: at character 1 of `sqr(x)`: `sqr` is not known here; did you mean `sqrt`? [spec-invalid]
    lift of `s`: at character 6 of `sqrt x`: `sqrt` lacks its bracket; write for instance sqrt(x) or max(x, 0) [spec-invalid]
    lift of `s`: at character 6 of `max(x)`: `max` takes two numbers; separate them by a comma [spec-invalid]
    lift of `s`: at character 1 of `1.2.3`: `1.2.3` is not a number; write for instance 2, 0.5 or 1e-6 [spec-invalid]
    lift of `s`: at character 1 of `1e999`: `1e999` is not a number; write for instance 2, 0.5 or 1e-6 [spec-invalid]
    lift of `s`: at character 3 of `x # w`: `#` is not expected here; write an operator, or end the expression [spec-invalid]
    lift of `s`: at character 66 of `…((((((((((((((((((((((((((((((((((((((((…`: brackets and signs nest more than 64 deep; keep it smaller [spec-invalid]
    lift of `s`: at character 515 of `… x + x + x + x + x + x + x + x + x + x +…`: the expression has more than 256 parts; keep it smaller [spec-invalid]
    ");
    let whole = |text: &str| text.parse::<Reducer>().unwrap_err().to_string();
    insta::assert_snapshot!([
        whole("custom"), whole("custom()"), whole("custom(t: s)"), whole("custom(t: s by x; s)"), whole("custom(t: s from x by a.s; q)"),
        whole("custom(t: x from x by a.x; x)"), whole("custom(t: s from x by a.s; s from x by a.s; s)"),
        whole("custom(2t: s from x by a.s; s)"), whole("custom(t: s from x by a.s else 0; r from x by a.r; s)"),
        whole("custom(t: s from x by a.s else zero; s)"), whole("custom(t: p from x by a.p; q from x by a.q; r from x by a.r; s from x by a.s; t from x by a.t; s)"),
    ].join("\n"), @r"
    unknown reducer `custom`; known: sum, mean, max, min, prod, var, std, logsumexp, softmax, median, quantile, l1, l2, first, last, count, argmax, argmin; one of your own is `custom(NAME: …)` [unknown-word]
    a custom reducer lacks its name, and `:` behind it; write for instance `custom(rms: s from x * x by a.s + b.s else 0; n from 1 by a.n + b.n else 0; sqrt(s / n))` [spec-invalid]
    `t` has no components; write for instance `custom(rms: s from x * x by a.s + b.s else 0; n from 1 by a.n + b.n else 0; sqrt(s / n))` [spec-invalid]
    `s by x` is not `NAME from LIFT by COMBINE`, with `else IDENTITY` where there is one; write for instance `custom(rms: s from x * x by a.s + b.s else 0; n from 1 by a.n + b.n else 0; sqrt(s / n))` [spec-invalid]
    finish of `t`: at character 1 of `q`: `q` is not known here; did you mean `s`? [spec-invalid]
    a component of `t` cannot be named `x`; components need names of their own, and none of x, w, a, b, abs, sqrt, exp, log, max, min, inf, nan, from, by, else [spec-invalid]
    a component of `t` cannot be named `s`; components need names of their own, and none of x, w, a, b, abs, sqrt, exp, log, max, min, inf, nan, from, by, else [spec-invalid]
    `2t` is no name for a reducer; a name is a letter, then letters, digits and `_`, 40 at most [spec-invalid]
    only some components of `t` have an identity; give all of them one, or none [spec-invalid]
    `s from x by a.s else zero` is not `NAME from LIFT by COMBINE`, with `else IDENTITY` where there is one; write for instance `custom(rms: s from x * x by a.s + b.s else 0; n from 1 by a.n + b.n else 0; sqrt(s / n))` [spec-invalid]
    the state of `t` has 5 components; a state has from 1 to 4 [spec-invalid]
    ");
    // Equal parts are computed once; different ones have to fit the registers.
    assert!(lift(&vec!["exp(x)"; 80].join(" * ")).is_err_and(|error| error.contains("intermediate results")));
    // A lift runs by itself on the first row of a block, also where `combine` leaves the newer state out.
    let terms: Vec<String> = (0..60).map(|index| format!("x * {index}.5")).collect();
    let first = format!("custom(t: s from {} by a.s; s)", terms.join(" + "));
    assert!(first.parse::<Reducer>().is_err_and(|error| error.to_string().contains("lift of `t` takes 181 intermediate results")));
    let long = (0..40).map(|index| format!("exp(x + {index})")).collect::<Vec<_>>().join(" + ");
    assert!(told(&long).contains("64 are the most"), "{}", told(&long));
}

#[test]
fn programs_compute_equal_parts_once() {
    let push = custom("custom(t: s from x * x by a.s + b.s; q from x * x * 2 by a.q + b.q + a.s * 2; s + q)").push();
    assert_eq!((push.inputs, push.constants.as_slice()), (4, &[2.0][..]));
    let multiplied = push.code.iter().filter(|code| matches!(code, Instruction::Binary(super::Binary::Mul, ..))).count();
    // x · x, (x · x) · 2 and s · 2.
    assert_eq!((push.code.len(), multiplied), (6, 3), "{:?}", push.code);
}

#[test]
fn the_identity_answers_empty_segments_where_it_is_finite() {
    let answer = |text: &str| read(text).default_on_empty();
    // 0 ÷ 0 is no number.
    assert_eq!(answer(RMS), OnEmpty::Error);
    assert_eq!(answer("custom(t: s from x by a.s + b.s else 0; s)"), OnEmpty::Zero);
    assert_eq!(answer("custom(t: s from x by a.s * b.s else 1; s + 2)"), OnEmpty::Fill(3.0));
    assert_eq!(answer("custom(t: s from x by max(a.s, b.s) else -inf; s)"), OnEmpty::Error);
    assert_eq!(answer("custom(t: s from x by a.s + b.s; s)"), OnEmpty::Error);
    assert!(read("custom(t: s from x * w by a.s + b.s; s)").takes_weights() && !read(RMS).takes_weights());
}

#[test]
fn laws_that_do_not_hold_are_found() {
    let check = |text: &str| custom(text).check_laws(7);
    for text in [
        RMS,
        "custom(own_lse: m from x by max(a.m, b.m) else -1e300; s from 1 by a.s * exp(a.m - max(a.m, b.m)) + b.s * exp(b.m - max(a.m, b.m)) else 0; m + log(s))",
        "custom(own_var: n from w by a.n + b.n; m from x by a.m + (b.m - a.m) * (b.n / (a.n + b.n)); q from 0 by a.q + b.q + (b.m - a.m) * (b.m - a.m) * (a.n * (b.n / (a.n + b.n))); q / n)",
        "custom(own_last: s from x by b.s; s)",
    ] {
        check(text).unwrap();
    }
    for (text, law) in [
        ("custom(t: s from x by (a.s + b.s) / 2; s)", "combine is not associative"),
        ("custom(t: s from x by a.s - b.s; s)", "combine is not associative"),
        ("custom(t: s from x * x by a.s + b.s else 1; s)", "the identity is none"),
        ("custom(t: s from x by a.s * b.s else 0; s)", "the identity is none"),
        ("custom(t: s from x by b.s else 0; s)", "the identity is none"),
        // An infinity is far from every number.
        ("custom(t: s from x by a.s + b.s else inf; s)", "the identity is none"),
        ("custom(t: s from 1 by a.s + 1 / (b.s - 1); s)", "combine is not associative"),
    ] {
        let error = check(text).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ReducerLaw);
        assert!(error.to_string().contains(law) && error.to_string().contains("seed 7"), "{error}");
    }
}

#[test]
fn every_broken_law_is_told() {
    let error = custom("custom(t: s from x by (a.s + b.s) / 2 else 1; s)").check_laws(7).unwrap_err();
    assert!(error.to_string().starts_with(
        "the reducer `t` breaks 2 laws; results would depend on how rows fall into blocks; mend `combine` or the identity [reducer-law]"
    ));
    let causes: Vec<&str> = error.causes().iter().map(Error::message).collect();
    assert_eq!(causes.len(), 2, "{error}");
    assert!(causes[0].contains("combine is not associative") && causes[1].contains("the identity is none"), "{error}");
}

#[test]
fn special_rows_that_depend_on_brackets_are_found() {
    let check = |text: &str| custom(text).check_special_rows(7);
    for text in [
        RMS,
        "custom(t: s from x by max(a.s, b.s) else -inf; s)",
        "custom(own_last: s from x by b.s; s)",
        // Of rows that are all −∞ the largest is shifted by 0.
        "custom(own_lse: m from x by max(a.m, b.m); s from 1 by a.s * exp(a.m - max(max(a.m, b.m), -1e300)) + b.s * exp(b.m - max(max(a.m, b.m), -1e300)); m + log(s))",
    ] {
        check(text).unwrap();
    }
    // e^(−∞ − −∞) is a NaN where two such rows meet, and none where they meet a number first.
    let shifted = "custom(own_lse: m from x by max(a.m, b.m); s from 1 by a.s * exp(a.m - max(a.m, b.m)) + b.s * exp(b.m - max(a.m, b.m)); m + log(s))";
    custom(shifted).check_laws(7).unwrap();
    let error = check(shifted).unwrap_err();
    assert_eq!(error.code(), ErrorCode::ReducerLaw);
    assert!(error.to_string().contains("inf") && error.to_string().contains("combine is not associative"), "{error}");
}

#[test]
fn laws_hold_in_the_arithmetic_of_blocks_too() {
    // Exact in f64, and in f32 every sum is rounded to another multiple.
    let error = custom("custom(t: s from x + 131072 by a.s + b.s - 131072; s - 131072)").check_laws(7).unwrap_err();
    assert!(error.to_string().contains("; f32)"), "{error}");
}

#[test]
fn parts_are_read_as_the_text_is() {
    let parts = [
        ComponentText { name: "s", lift: "x * x", combine: "a.s + b.s", identity: Some(0.0) },
        ComponentText { name: "n", lift: "1", combine: "a.n + b.n", identity: Some(0.0) },
    ];
    assert_eq!(CustomReducer::new("rms", &parts, "sqrt(s / n)").unwrap(), custom(RMS));
}

#[test]
fn reducers_in_rust_are_named_with_version_and_arguments() {
    for (text, printed) in [
        ("custom(rms version=1)", "custom(rms version=1)"),
        ("custom(power-mean  version = 12 ,3.0,-.5, 1e-9)", "custom(power-mean version=12, 3, -0.5, 1e-9)"),
    ] {
        let reducer = read(text);
        assert_eq!((reducer.to_string().as_str(), reducer.name()), (printed, "custom"));
        assert_eq!(read(printed), reducer);
        let json = serde_json::to_string(&reducer).unwrap();
        assert_eq!(serde_json::from_str::<Reducer>(&json).unwrap(), reducer, "{json}");
        assert_eq!(reducer.default_on_empty(), OnEmpty::Error);
    }
    let Reducer::Named(named) = read("custom(power-mean version=12, 3, -0.5)") else { panic!("named") };
    assert_eq!((named.name(), named.version(), named.arguments()), ("power-mean", 12, &[3.0, -0.5][..]));
    assert_eq!(Reducer::named("power-mean", 12, &[3.0, -0.5]).unwrap(), Reducer::Named(named));
    assert_ne!(read("custom(t version=1, 1)"), read("custom(t version=1, 2)"));
    let told = |text: &str| text.parse::<Reducer>().unwrap_err().to_string();
    insta::assert_snapshot!([
        told("custom(t version=one)"), told("custom(t version=-1)"), told("custom(t version=1, x)"), told("custom(t version=1, )"), told("custom(t version=1, inf)"),
        told("custom(2t version=1)"), told(&format!("custom(t version=1{})", ", 1".repeat(17))),
    ].join("\n"), @r"
    `one` is no version of the reducer `t`; write for instance `custom(power-mean version=1, 3)` [spec-invalid]
    `-1` is no version of the reducer `t`; write for instance `custom(power-mean version=1, 3)` [spec-invalid]
    `x` is no number for an argument of the reducer `t`; write for instance `custom(power-mean version=1, 3)` [spec-invalid]
    `` is no number for an argument of the reducer `t`; write for instance `custom(power-mean version=1, 3)` [spec-invalid]
    the reducer `t` is given inf; arguments are finite numbers [spec-invalid]
    `2t` is no name for a reducer; a name is a letter, then letters, digits, `_` and `-`, 40 at most [spec-invalid]
    the reducer `t` is given 17 arguments; 16 are the most [spec-invalid]
    ");
}

#[test]
fn operations_are_counted_once_and_are_those_of_its_programs() {
    let rms = custom(RMS);
    assert_eq!(rms.operations(), (rms.push().code.len() as u64, rms.finishing().code.len() as u64));
    assert_eq!(rms.definition(), "s from x * x by a.s + b.s else 0; n from 1 by a.n + b.n else 0; sqrt(s / n)");
}
