//! Encoders as a user says them, and what they come to as operations.
//!
//! Parameters are inputs of the caller's, named `prefix.weight`, `prefix.bias` and so on, as PyTorch names those of the same modules
//! (`docs/encoders.md` has the table). Encoders that say the same prefix share their parameters.

use crate::dtype::DType;
use crate::encoder::{Activation, Number, RowOp};
use crate::error::{Error, ErrorCode, Result};
use crate::graph::{GraphBuilder, Value, ValueType};
use crate::ids::TableId;
use crate::segments::Segments;
use std::sync::Arc;

/// The most layers of one transformer: a graph has a dozen nodes for each.
const MOST_LAYERS: u64 = 1024;

/// The wavelengths of positions go up to this many times 2π, unless said otherwise.
pub const POSITION_BASE: f64 = 10_000.0;

/// What norms add under the root, unless said otherwise.
pub const NORM_EPS: f64 = 1e-5;

/// One encoder of a level. `params` is the prefix of its parameters' names: `<level>.encode.<index>` where it is `None`.
#[derive(Clone, Debug, PartialEq)]
pub enum Encoder {
    /// y = x Wᵀ + b: `weight` `[features, in]`, `bias` `[features]`.
    Linear {
        /// The prefix of its parameters' names.
        params: Option<Arc<str>>,
        /// Features of a row of the result.
        features: u64,
        /// Whether there is a bias.
        bias: bool,
    },
    /// A function of each number.
    Activate(Activation),
    /// `weight` and `bias`, of one number a feature each.
    LayerNorm {
        /// The prefix of its parameters' names.
        params: Option<Arc<str>>,
        /// Added to the variance.
        eps: f64,
        /// Whether there is a bias.
        bias: bool,
    },
    /// `weight`, of one number a feature.
    RmsNorm {
        /// The prefix of its parameters' names.
        params: Option<Arc<str>>,
        /// Added to the mean of squares.
        eps: f64,
    },
    /// Each number times this.
    Scale(f64),
    /// Rounds to another type.
    Cast(DType),
    /// A [`RowEncoder`](crate::custom::RowEncoder) of the user's own, which the backend has to know.
    Custom {
        /// Its name.
        name: Arc<str>,
        /// Its version.
        version: u32,
    },
    /// x + f(x), where f are these encoders, one after the other.
    Residual(Vec<Encoder>),
    /// The results of several chains of encoders over the same rows, side by side; an empty chain are the rows themselves.
    Concat(Vec<Vec<Encoder>>),
    /// Sines and cosines of the position are added.
    Sinusoidal {
        /// The longest wavelength, in units of 2π.
        base: f64,
    },
    /// The row of a table at the position is added: `weight` `[rows, features]`.
    Learned {
        /// The prefix of its parameters' names.
        params: Option<Arc<str>>,
        /// How many positions there are; at least as many as the longest segment has rows.
        rows: u64,
    },
    /// Multi-head self-attention with its two projections: `in_proj_weight`, `in_proj_bias`, `out_proj.weight`, `out_proj.bias`.
    Attention {
        /// The prefix of its parameters' names.
        params: Option<Arc<str>>,
        /// What it does.
        attention: Attention,
    },
    /// Depth-wise convolution: `weight` `[features, width]`, `bias` `[features]`.
    Convolution {
        /// The prefix of its parameters' names.
        params: Option<Arc<str>>,
        /// How many rows it sees.
        width: u64,
        /// Whether there is a bias.
        bias: bool,
        /// Whether it sees only the row itself and those before it.
        causal: bool,
    },
    /// Layers of self-attention and a feed-forward part.
    Transformer {
        /// The prefix of its parameters' names.
        params: Option<Arc<str>>,
        /// What it does.
        transformer: Transformer,
    },
}

/// Self-attention.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// How many heads the features are divided into.
    pub heads: u32,
    /// Whether a row sees only itself and those before it.
    pub causal: bool,
    /// Rotates queries and keys by their positions, with wavelengths up to this many times 2π.
    pub rotary: Option<f64>,
}

/// Where the norms of a layer stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// In front of attention and of the feed-forward part: x + f(norm(x)).
    Pre,
    /// Behind the sums: norm(x + f(x)).
    Post,
}

/// A stack of layers, each of them self-attention and two linear maps with an activation between, with residual sums and layer norms.
#[derive(Clone, Debug, PartialEq)]
pub struct Transformer {
    /// How many layers, up to 1024, named `layers.0`, `layers.1`, …; `None` is one layer whose parameters stand right under the prefix.
    pub layers: Option<u64>,
    /// The attention of each layer.
    pub attention: Attention,
    /// Features between the two linear maps; four times those of a row where it is not said.
    pub feed_forward: Option<u64>,
    /// Between the two linear maps.
    pub activation: Activation,
    /// Where norms stand.
    pub norm: Norm,
    /// Whether a last norm follows the layers, named `norm`.
    pub final_norm: bool,
    /// Added to variances.
    pub eps: f64,
}

impl Transformer {
    /// One layer with this many heads, as PyTorch's `TransformerEncoderLayer` is by default: norms behind the sums, relu; but with four times the
    /// features of a row between the linear maps.
    pub fn new(heads: u32) -> Self {
        Transformer {
            layers: None,
            attention: Attention { heads, causal: false, rotary: None },
            feed_forward: None,
            activation: Activation::Relu,
            norm: Norm::Post,
            final_norm: false,
            eps: NORM_EPS,
        }
    }
}

impl Encoder {
    /// A linear map with a bias.
    pub fn linear(features: u64) -> Self {
        Encoder::Linear { params: None, features, bias: true }
    }

    /// A transformer whose parameters have names under this prefix.
    pub fn transformer(params: &str, transformer: Transformer) -> Self {
        Encoder::Transformer { params: Some(params.into()), transformer }
    }

    /// The name used in specs.
    pub fn name(&self) -> &'static str {
        match self {
            Encoder::Linear { .. } => "linear",
            Encoder::Activate(activation) => activation.name(),
            Encoder::LayerNorm { .. } => "layer-norm",
            Encoder::RmsNorm { .. } => "rms-norm",
            Encoder::Scale(_) => "scale",
            Encoder::Cast(_) => "cast",
            Encoder::Custom { .. } => "custom",
            Encoder::Residual(_) => "residual",
            Encoder::Concat(_) => "concat",
            Encoder::Sinusoidal { .. } => "sinusoidal",
            Encoder::Learned { .. } => "learned",
            Encoder::Attention { .. } => "attention",
            Encoder::Convolution { .. } => "convolution",
            Encoder::Transformer { .. } => "transformer",
        }
    }

    /// Whether it looks at the position of a row in its segment, or at other rows of it.
    pub fn looks_along(&self) -> bool {
        match self {
            Encoder::Linear { .. }
            | Encoder::Activate(_)
            | Encoder::LayerNorm { .. }
            | Encoder::RmsNorm { .. }
            | Encoder::Scale(_)
            | Encoder::Cast(_)
            | Encoder::Custom { .. } => false,
            Encoder::Residual(inner) => inner.iter().any(Encoder::looks_along),
            Encoder::Concat(branches) => branches.iter().flatten().any(Encoder::looks_along),
            Encoder::Sinusoidal { .. }
            | Encoder::Learned { .. }
            | Encoder::Attention { .. }
            | Encoder::Convolution { .. }
            | Encoder::Transformer { .. } => true,
        }
    }
}

/// Encodes the rows of a level, along the segments of a table that partitions them in order.
///
/// # Errors
/// What does not fit, with the place of the encoder: `encode[1].residual[0].linear`.
pub(super) fn encode(graph: &mut GraphBuilder, level: &str, rows: Value, table: TableId, encoders: &[Encoder]) -> Result<Value> {
    let mut making = Making { graph, table };
    making.chain(rows, encoders, &format!("{level}.encode"), "encode")
}

struct Making<'g> {
    graph: &'g mut GraphBuilder,
    table: TableId,
}

impl Making<'_> {
    /// `prefix` names parameters that have no other name, `place` the encoders in errors.
    fn chain(&mut self, rows: Value, encoders: &[Encoder], prefix: &str, place: &str) -> Result<Value> {
        let mut x = rows;
        for (index, encoder) in encoders.iter().enumerate() {
            let place = format!("{place}[{index}].{}", encoder.name());
            x = self.encoder(x, encoder, &format!("{prefix}.{index}"), &place)?;
        }
        Ok(x)
    }

    fn encoder(&mut self, x: Value, encoder: &Encoder, prefix: &str, place: &str) -> Result<Value> {
        let named = |params: &Option<Arc<str>>| params.as_ref().map_or_else(|| prefix.to_owned(), |params| params.to_string());
        let made = match encoder {
            Encoder::Residual(inner) => {
                let inner = self.chain(x, inner, prefix, place)?;
                self.graph.map(inner, &RowOp::Add(x))
            }
            Encoder::Concat(branches) => {
                let mut parts = Vec::with_capacity(branches.len());
                for (index, branch) in branches.iter().enumerate() {
                    parts.push(self.chain(x, branch, &format!("{prefix}.{index}"), &format!("{place}[{index}]"))?);
                }
                self.graph.concat(&parts)
            }
            Encoder::Linear { params, features, bias } => self.linear(x, &named(params), *features, *bias),
            Encoder::Activate(activation) => self.graph.map(x, &RowOp::Activate(*activation)),
            Encoder::LayerNorm { params, eps, bias } => self.layer_norm(x, &named(params), *eps, *bias),
            Encoder::RmsNorm { params, eps } => {
                let (features, dtype) = self.of(x);
                let weight = self.graph.shared_param(&format!("{}.weight", named(params)), dtype, 1, features);
                weight.and_then(|weight| self.graph.map(x, &RowOp::RmsNorm { weight, eps: Number(*eps) }))
            }
            Encoder::Scale(by) => self.graph.map(x, &RowOp::Scale(Number(*by))),
            Encoder::Cast(dtype) => self.graph.map(x, &RowOp::Cast(*dtype)),
            Encoder::Custom { name, version } => self.graph.map(x, &RowOp::Custom { name: Arc::clone(name), version: *version }),
            Encoder::Sinusoidal { base } => self.graph.map(x, &RowOp::Sinusoid { table: self.table, base: Number(*base) }),
            Encoder::Learned { params, rows } => {
                let (features, dtype) = self.of(x);
                let positions = self.graph.shared_param(&format!("{}.weight", named(params)), dtype, *rows, features);
                positions.and_then(|positions| self.graph.map(x, &RowOp::Learned { positions, table: self.table }))
            }
            Encoder::Attention { params, attention } => self.attention(x, &named(params), attention),
            Encoder::Convolution { params, width, bias, causal } => self.convolution(x, &named(params), *width, *bias, *causal),
            Encoder::Transformer { params, transformer } => self.transformer(x, &named(params), transformer),
        };
        made.map_err(|error| at(error, place))
    }

    fn of(&self, value: Value) -> (u64, DType) {
        let ty = self.graph.value_type(value);
        (ty.features(), ty.dtype())
    }

    fn linear(&mut self, x: Value, prefix: &str, features: u64, bias: bool) -> Result<Value> {
        self.product(x, [&format!("{prefix}.weight"), &format!("{prefix}.bias")], features, bias)
    }

    fn product(&mut self, x: Value, [weight, bias_name]: [&str; 2], features: u64, bias: bool) -> Result<Value> {
        let (from, dtype) = self.of(x);
        let weight = self.graph.shared_param(weight, dtype, features, from)?;
        let bias = if bias { Some(self.graph.shared_param(bias_name, dtype, 1, features)?) } else { None };
        self.graph.linear(x, weight, bias)
    }

    fn layer_norm(&mut self, x: Value, prefix: &str, eps: f64, bias: bool) -> Result<Value> {
        let (features, dtype) = self.of(x);
        let weight = self.graph.shared_param(&format!("{prefix}.weight"), dtype, 1, features)?;
        let bias = if bias { Some(self.graph.shared_param(&format!("{prefix}.bias"), dtype, 1, features)?) } else { None };
        self.graph.map(x, &RowOp::LayerNorm { weight, bias, eps: Number(eps) })
    }

    fn attention(&mut self, x: Value, prefix: &str, attention: &Attention) -> Result<Value> {
        let (features, _) = self.of(x);
        let heads = u64::from(attention.heads);
        if heads == 0 || !features.is_multiple_of(heads) {
            return Err(Error::new(ErrorCode::Shape, format!("{features} features are not divided by {heads} heads"))
                .help("use a number of heads that divides the features of the level"));
        }
        let Some(three) = features.checked_mul(3) else {
            return Err(Error::new(ErrorCode::Overflow, format!("three times {features} features do not fit 64 bits")));
        };
        let names = [&*format!("{prefix}.in_proj_weight"), &*format!("{prefix}.in_proj_bias")];
        let mut qkv = self.product(x, names, three, true)?;
        if let Some(base) = attention.rotary {
            let op = RowOp::Rotate { table: self.table, base: Number(base), columns: 2 * features, width: features / heads };
            qkv = self.graph.map(qkv, &op)?;
        }
        let seen = self.graph.attend(qkv, self.table, attention.heads, attention.causal)?;
        self.linear(seen, &format!("{prefix}.out_proj"), features, true)
    }

    fn convolution(&mut self, x: Value, prefix: &str, width: u64, bias: bool, causal: bool) -> Result<Value> {
        let (features, dtype) = self.of(x);
        let weight = self.graph.shared_param(&format!("{prefix}.weight"), dtype, features, width)?;
        let bias = if bias { Some(self.graph.shared_param(&format!("{prefix}.bias"), dtype, 1, features)?) } else { None };
        self.graph.convolve(x, weight, bias, self.table, causal)
    }

    fn transformer(&mut self, x: Value, prefix: &str, transformer: &Transformer) -> Result<Value> {
        if let Some(layers) = transformer.layers.filter(|&layers| layers > MOST_LAYERS) {
            return Err(Error::new(ErrorCode::Option, format!("a transformer has {layers} layers; {MOST_LAYERS} are the most"))
                .help("stack several transformers where so many are meant"));
        }
        let mut x = match transformer.layers {
            None => self.layer(x, prefix, transformer)?,
            Some(layers) => (0..layers).try_fold(x, |x, layer| self.layer(x, &format!("{prefix}.layers.{layer}"), transformer))?,
        };
        if transformer.final_norm {
            x = self.layer_norm(x, &format!("{prefix}.norm"), transformer.eps, true)?;
        }
        Ok(x)
    }

    fn layer(&mut self, x: Value, prefix: &str, of: &Transformer) -> Result<Value> {
        let part = |part: &str| format!("{prefix}.{part}");
        let norm = |making: &mut Self, x: Value, name: &str| making.layer_norm(x, &part(name), of.eps, true);
        let attend = |making: &mut Self, x: Value| making.attention(x, &part("self_attn"), &of.attention);
        match of.norm {
            Norm::Post => {
                let seen = attend(self, x)?;
                let sum = self.graph.map(seen, &RowOp::Add(x))?;
                let x = norm(self, sum, "norm1")?;
                let fed = self.feed_forward(x, prefix, of)?;
                let sum = self.graph.map(fed, &RowOp::Add(x))?;
                norm(self, sum, "norm2")
            }
            Norm::Pre => {
                let normed = norm(self, x, "norm1")?;
                let seen = attend(self, normed)?;
                let x = self.graph.map(seen, &RowOp::Add(x))?;
                let normed = norm(self, x, "norm2")?;
                let fed = self.feed_forward(normed, prefix, of)?;
                self.graph.map(fed, &RowOp::Add(x))
            }
        }
    }

    fn feed_forward(&mut self, x: Value, prefix: &str, of: &Transformer) -> Result<Value> {
        let (features, _) = self.of(x);
        let Some(between) = of.feed_forward.or_else(|| features.checked_mul(4)) else {
            return Err(Error::new(ErrorCode::Overflow, format!("four times {features} features do not fit 64 bits")));
        };
        let hidden = self.linear(x, &format!("{prefix}.linear1"), between, true)?;
        let hidden = self.graph.map(hidden, &RowOp::Activate(of.activation))?;
        self.linear(hidden, &format!("{prefix}.linear2"), features, true)
    }
}

/// An error with its place in front, unless an inner encoder put one there.
fn at(error: Error, place: &str) -> Error {
    if error.message().starts_with("encode[") {
        return error;
    }
    let mut placed = Error::new(error.code(), format!("{place}: {}", error.message()));
    if let Some(help) = error.help_text() {
        placed = placed.help(help);
    }
    if let Some(index) = error.index() {
        placed = placed.at_index(index);
    }
    placed
}

/// The rows that encoders make of those of a level, and the table that folds them: that of the level above, or where segments overlap, leave
/// gaps or come out of order and an encoder looks along them, one that partitions a row for each occurrence.
pub(super) fn encode_level(
    graph: &mut GraphBuilder,
    level: &str,
    rows: Value,
    (above, top): (Option<TableId>, Option<&Segments>),
    encoders: &[Encoder],
) -> Result<(Value, Option<TableId>)> {
    if encoders.is_empty() {
        return Ok((rows, above));
    }
    graph.encode_level(Some(level));
    let looks_along = encoders.iter().any(Encoder::looks_along);
    let (rows, table, above) = match above {
        Some(table) => match graph.occurrences(table)? {
            Some(occurrences) if looks_along => (graph.spread(rows, table)?, occurrences, Some(occurrences)),
            Some(_) | None => (rows, table, Some(table)),
        },
        None => {
            let ValueType::Rows { rows: count, .. } = graph.value_type(rows) else {
                return Err(Error::new(ErrorCode::Internal, "a level is rows"));
            };
            let along = top.cloned().unwrap_or_else(|| Segments::whole(count));
            (rows, graph.table(&format!("{level}.rows"), &along)?, None)
        }
    };
    let encoded = encode(graph, level, rows, table, encoders)?;
    graph.encode_level(None);
    Ok((encoded, above))
}
