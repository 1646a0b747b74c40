//! Reading and writing the encoders of a level.
//!
//! An encoder without options is its name; one with options is an object of one field, its name.

use super::super::encoder::{Attention, Encoder, NORM_EPS, Norm, POSITION_BASE, Transformer};
use super::{Fields, Node, Place, Reader};
use crate::encoder::Activation;
use crate::error::{ErrorCode, suggestion};
use serde_json::{Value, json};
use std::sync::Arc;

/// Encoders that may be said by their name alone, beside activations.
const PLAIN: [&str; 3] = ["sinusoidal", "layer-norm", "rms-norm"];

/// Encoders with options.
const WITH_OPTIONS: [&str; 13] = [
    "linear",
    "layer-norm",
    "rms-norm",
    "scale",
    "cast",
    "custom",
    "residual",
    "concat",
    "sinusoidal",
    "learned",
    "attention",
    "convolution",
    "transformer",
];

fn plain() -> Vec<&'static str> {
    Activation::ALL.iter().map(|activation| activation.name()).chain(PLAIN).collect()
}

impl Reader {
    /// The field `encode`: nothing, one encoder, or a list.
    pub(super) fn encoders(&mut self, fields: &Fields<'_>) -> Option<Vec<Encoder>> {
        let place = fields.at("encode");
        match fields.get("encode") {
            None | Some(Node::Null) => Some(Vec::new()),
            Some(node @ (Node::List(_) | Node::Integers(_))) => self.chain(node, &place),
            Some(node) => self.encoder(node, &place).map(|encoder| vec![encoder]),
        }
    }

    /// A list of encoders. All of them are read, so that each mistake is reported.
    fn chain(&mut self, node: &Node, place: &Place) -> Option<Vec<Encoder>> {
        let items = match node {
            Node::List(items) => items.as_slice(),
            Node::Integers(integers) if integers.is_empty() => &[],
            other => return self.wrong_type(other, "a list of encoders", place),
        };
        let read: Vec<Option<Encoder>> = items.iter().enumerate().map(|(index, item)| self.encoder(item, &place.item(index))).collect();
        read.into_iter().collect()
    }

    fn encoder(&mut self, node: &Node, place: &Place) -> Option<Encoder> {
        match node {
            Node::Text(word) => self.plain(word, place),
            Node::Object(entries) => {
                let [(name, options)] = &entries[..] else {
                    let help = "an encoder is its name, or an object of one field: its name, with its options";
                    let found: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
                    let message =
                        format!("an encoder has one name; found {}", if found.is_empty() { "none".into() } else { found.join(" and ") });
                    self.report(ErrorCode::SpecInvalid, &message, place, Some(help));
                    return None;
                };
                self.with_options(name, options, place)
            }
            other => self.wrong_type(other, "the name of an encoder, or an object with its options", place),
        }
    }

    fn plain(&mut self, word: &str, place: &Place) -> Option<Encoder> {
        if let Ok(activation) = word.parse() {
            return Some(Encoder::Activate(activation));
        }
        match word {
            "sinusoidal" => Some(Encoder::Sinusoidal { base: POSITION_BASE }),
            "layer-norm" => Some(Encoder::LayerNorm { params: None, eps: NORM_EPS, bias: true }),
            "rms-norm" => Some(Encoder::RmsNorm { params: None, eps: NORM_EPS }),
            other => {
                if WITH_OPTIONS.contains(&other) {
                    let help = format!("say {{\"{other}\": …}}");
                    self.report(ErrorCode::SpecInvalid, &format!("the encoder `{other}` lacks its options"), place, Some(&help));
                    return None;
                }
                let mut known = plain();
                known.extend(WITH_OPTIONS.iter().filter(|name| !PLAIN.contains(name)));
                let help = suggestion(other, &known);
                self.report(ErrorCode::UnknownWord, &format!("unknown encoder `{other}`"), place, Some(&help));
                None
            }
        }
    }

    fn with_options(&mut self, name: &str, options: &Node, at: &Place) -> Option<Encoder> {
        let place = at.field(name);
        match name {
            "scale" => self.number(options, &place).map(Encoder::Scale),
            "cast" => self.float(options, &place).map(Encoder::Cast),
            "custom" => {
                let fields = self.object(options, place, &["name", "version"])?;
                let (name, version) = (self.name(&fields), self.optional_count(&fields, "version"));
                let version = u32::try_from(version?.unwrap_or(1)).ok().or_else(|| {
                    self.report(ErrorCode::Overflow, "the version does not fit 32 bits", &fields.at("version"), None);
                    None
                });
                Some(Encoder::Custom { name: name?.into(), version: version? })
            }
            "residual" => self.chain(options, &place).map(Encoder::Residual),
            "concat" => self.branches(options, &place),
            "linear" => {
                let fields = self.object(options, place, &["params", "features", "bias"])?;
                let (params, bias) = (self.params(&fields), self.flag_or(&fields, "bias", true));
                let features = self.required(&fields, "features").and_then(|node| self.count(node, &fields.at("features")));
                Some(Encoder::Linear { params: params?, features: features?, bias: bias? })
            }
            "layer-norm" => {
                let fields = self.object(options, place, &["params", "eps", "bias"])?;
                let (params, bias) = (self.params(&fields), self.flag_or(&fields, "bias", true));
                Some(Encoder::LayerNorm { params: params?, eps: self.number_or(&fields, "eps", NORM_EPS)?, bias: bias? })
            }
            "rms-norm" => {
                let fields = self.object(options, place, &["params", "eps"])?;
                Some(Encoder::RmsNorm { params: self.params(&fields)?, eps: self.number_or(&fields, "eps", NORM_EPS)? })
            }
            "sinusoidal" => {
                let fields = self.object(options, place, &["base"])?;
                Some(Encoder::Sinusoidal { base: self.number_or(&fields, "base", POSITION_BASE)? })
            }
            "learned" => {
                let fields = self.object(options, place, &["params", "rows"])?;
                let params = self.params(&fields);
                let rows = self.required(&fields, "rows").and_then(|node| self.count(node, &fields.at("rows")));
                Some(Encoder::Learned { params: params?, rows: rows? })
            }
            "attention" => {
                let fields = self.object(options, place, &["params", "heads", "causal", "rotary"])?;
                let params = self.params(&fields);
                let attention = self.attention(&fields);
                Some(Encoder::Attention { params: params?, attention: attention? })
            }
            "convolution" => {
                let fields = self.object(options, place, &["params", "width", "bias", "causal"])?;
                let (params, bias, causal) = (self.params(&fields), self.flag_or(&fields, "bias", true), self.flag(&fields, "causal"));
                let width = self.required(&fields, "width").and_then(|node| self.count(node, &fields.at("width")));
                Some(Encoder::Convolution { params: params?, width: width?, bias: bias?, causal: causal? })
            }
            "transformer" => self.transformer(options, place),
            other => {
                if plain().contains(&other) {
                    let help = format!("say \"{other}\"");
                    self.report(ErrorCode::SpecInvalid, &format!("the encoder `{other}` has no options"), at, Some(&help));
                    return None;
                }
                let help = suggestion(other, &WITH_OPTIONS);
                self.report(ErrorCode::UnknownName, &format!("unknown encoder `{other}`"), at, Some(&help));
                None
            }
        }
    }

    fn branches(&mut self, node: &Node, place: &Place) -> Option<Encoder> {
        let Node::List(items) = node else {
            return self.wrong_type(node, "a list of lists of encoders", place);
        };
        let read: Vec<Option<Vec<Encoder>>> = items.iter().enumerate().map(|(index, item)| self.chain(item, &place.item(index))).collect();
        read.into_iter().collect::<Option<_>>().map(Encoder::Concat)
    }

    fn attention(&mut self, fields: &Fields<'_>) -> Option<Attention> {
        let heads = self.required(fields, "heads").and_then(|node| self.count(node, &fields.at("heads")));
        let causal = self.flag(fields, "causal");
        let rotary = match fields.get("rotary") {
            None | Some(Node::Null | Node::Bool(false)) => Some(None),
            Some(Node::Bool(true)) => Some(Some(POSITION_BASE)),
            Some(node) => self.number(node, &fields.at("rotary")).map(Some),
        };
        let heads = u32::try_from(heads?).ok().or_else(|| {
            self.report(ErrorCode::Overflow, "so many heads do not fit 32 bits", &fields.at("heads"), None);
            None
        });
        Some(Attention { heads: heads?, causal: causal?, rotary: rotary? })
    }

    fn transformer(&mut self, node: &Node, place: Place) -> Option<Encoder> {
        let known = ["params", "layers", "heads", "feed_forward", "activation", "norm", "final_norm", "causal", "rotary", "eps"];
        let fields = self.object(node, place, &known)?;
        let params = self.params(&fields);
        let layers = self.optional_count(&fields, "layers");
        let attention = self.attention(&fields);
        let feed_forward = self.optional_count(&fields, "feed_forward");
        let activation = self.optional(&fields, "activation", |reader, node, place| reader.word::<Activation>(node, &place));
        let norm = self.optional(&fields, "norm", |reader, node, place| match node {
            Node::Text(word) if word == "pre" => Some(Norm::Pre),
            Node::Text(word) if word == "post" => Some(Norm::Post),
            Node::Text(word) => {
                let help = suggestion(word, &["pre", "post"]);
                reader.report(ErrorCode::UnknownWord, &format!("unknown place of norms `{word}`"), &place, Some(&help));
                None
            }
            other => reader.wrong_type(other, "\"pre\" or \"post\"", &place),
        });
        let final_norm = self.flag(&fields, "final_norm");
        let eps = self.number_or(&fields, "eps", NORM_EPS);
        let transformer = Transformer {
            layers: layers?,
            attention: attention?,
            feed_forward: feed_forward?,
            activation: activation?.unwrap_or(Activation::Relu),
            norm: norm?.unwrap_or(Norm::Post),
            final_norm: final_norm?,
            eps: eps?,
        };
        Some(Encoder::Transformer { params: params?, transformer })
    }

    fn params(&mut self, fields: &Fields<'_>) -> Option<Option<Arc<str>>> {
        self.optional(fields, "params", |reader, node, place| reader.text(node, &place).map(Arc::from))
    }

    pub(super) fn number(&mut self, node: &Node, place: &Place) -> Option<f64> {
        match node {
            // A whole number in JSON is the same number as a float, up to 2^53, and the nearest one above.
            Node::Integer(value) => Some(*value as f64),
            Node::Number(value) => Some(*value),
            other => self.wrong_type(other, "a number", place),
        }
    }

    fn number_or(&mut self, fields: &Fields<'_>, name: &str, default: f64) -> Option<f64> {
        self.optional(fields, name, |reader, node, place| reader.number(node, &place)).map(|found| found.unwrap_or(default))
    }

    fn flag_or(&mut self, fields: &Fields<'_>, name: &str, default: bool) -> Option<bool> {
        if fields.has(name) { self.flag(fields, name) } else { Some(default) }
    }
}

/// Encoders as the reader takes them, everything said.
pub(super) fn to_json(encoders: &[Encoder]) -> Value {
    encoders.iter().map(one_to_json).collect()
}

fn one_to_json(encoder: &Encoder) -> Value {
    let with = |params: &Option<Arc<str>>, mut options: Value| {
        if let Some(params) = params {
            options["params"] = json!(params);
        }
        json!({ encoder.name(): options })
    };
    match encoder {
        Encoder::Activate(activation) => json!(activation.name()),
        Encoder::Scale(by) => json!({ "scale": by }),
        Encoder::Cast(dtype) => json!({ "cast": dtype }),
        Encoder::Custom { name, version } => json!({ "custom": { "name": name, "version": version } }),
        Encoder::Residual(inner) => json!({ "residual": to_json(inner) }),
        Encoder::Concat(branches) => json!({ "concat": branches.iter().map(|branch| to_json(branch)).collect::<Vec<_>>() }),
        Encoder::Sinusoidal { base } => json!({ "sinusoidal": { "base": base } }),
        Encoder::Linear { params, features, bias } => with(params, json!({ "features": features, "bias": bias })),
        Encoder::LayerNorm { params, eps, bias } => with(params, json!({ "eps": eps, "bias": bias })),
        Encoder::RmsNorm { params, eps } => with(params, json!({ "eps": eps })),
        Encoder::Learned { params, rows } => with(params, json!({ "rows": rows })),
        Encoder::Attention { params, attention } => with(params, attention_to_json(attention)),
        Encoder::Convolution { params, width, bias, causal } => with(params, json!({ "width": width, "bias": bias, "causal": causal })),
        Encoder::Transformer { params, transformer } => {
            let Transformer { layers, attention, feed_forward, activation, norm, final_norm, eps } = transformer;
            let mut options = attention_to_json(attention);
            for (name, count) in [("layers", layers), ("feed_forward", feed_forward)] {
                if let Some(count) = count {
                    options[name] = json!(count);
                }
            }
            options["activation"] = json!(activation.name());
            options["norm"] = json!(match norm {
                Norm::Pre => "pre",
                Norm::Post => "post",
            });
            (options["final_norm"], options["eps"]) = (json!(final_norm), json!(eps));
            with(params, options)
        }
    }
}

fn attention_to_json(attention: &Attention) -> Value {
    let Attention { heads, causal, rotary } = attention;
    let mut options = json!({ "heads": heads, "causal": causal });
    if let Some(base) = rotary {
        options["rotary"] = json!(base);
    }
    options
}
