//! Reducers of the user's own, written as expressions.

use super::OnEmpty;
use super::expression::{Expression, Scope, Variable, shown_number};
use crate::custom::BrokenLaws;
use crate::error::{Error, ErrorCode, Result};
use crate::numerics::elementary::Elementary;
use crate::numerics::{MAX_STATE, count_to_f64, narrow_to_f32};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

/// A reducer as a monoid of the user's own, with up to four numbers of state a feature.
///
/// A row becomes a state by [`lift`](Component::lift); two neighbours become one by [`combine`](Component::combine); the state of a whole
/// segment becomes its result by [`finish`](Self::finish). `combine` has to be associative but for rounding: rows are combined from the
/// left in blocks, and blocks in pairs (see [`numerics`](crate::numerics)). [`check_laws`](Self::check_laws) tries it.
///
/// As text: `custom(rms: s from x * x by a.s + b.s; n from 1 by a.n + b.n; sqrt(s / n))`, and `else 0` after `by …` gives the
/// identity, which is what an empty segment is finished from.
#[derive(Clone, Debug)]
pub struct CustomReducer {
    name: String,
    components: Vec<Component>,
    finish: Expression,
    /// What it is compared by.
    text: String,
    /// For costs: counted once, and not for every plan.
    operations: (u64, u64),
}

/// One number of the state.
#[derive(Clone, Debug)]
pub struct Component {
    /// Its name.
    pub name: String,
    /// Of a row, from `x` and `w`.
    pub lift: Expression,
    /// Of two neighbours, from `a.…` and `b.…`.
    pub combine: Expression,
    /// Of no rows.
    pub identity: Option<f64>,
}

/// A component as text.
#[derive(Clone, Copy, Debug)]
pub struct ComponentText<'a> {
    /// Its name.
    pub name: &'a str,
    /// From `x` and `w`.
    pub lift: &'a str,
    /// From `a.…` and `b.…`.
    pub combine: &'a str,
    /// Of no rows: all components have one, or none has.
    pub identity: Option<f64>,
}

/// Names that mean something else in expressions.
const RESERVED: [&str; 15] = ["x", "w", "a", "b", "abs", "sqrt", "exp", "log", "max", "min", "inf", "nan", "from", "by", "else"];
/// The longest name.
const LONGEST_NAME: usize = 40;
/// What to do about a broken law.
const MEND: &str = "results would depend on how rows fall into blocks; mend `combine` or the identity";
/// The longest text.
const LONGEST_TEXT: usize = 8192;

impl CustomReducer {
    /// A reducer of these components.
    ///
    /// # Errors
    /// `spec-invalid`, with the place in the expression; `duplicate-name` for the name of a built-in one, or what that is called elsewhere (`sum`,
    /// `average`).
    ///
    /// ```
    /// use levelfold::reducer::{ComponentText, CustomReducer};
    ///
    /// # fn main() -> levelfold::Result<()> {
    /// let squares = ComponentText { name: "s", lift: "x * x", combine: "a.s + b.s", identity: Some(0.0) };
    /// let rows = ComponentText { name: "n", lift: "1", combine: "a.n + b.n", identity: Some(0.0) };
    /// let rms = CustomReducer::new("rms", &[squares, rows], "sqrt(s / n)")?;
    /// assert_eq!(rms.to_string(), "custom(rms: s from x * x by a.s + b.s else 0; n from 1 by a.n + b.n else 0; sqrt(s / n))");
    /// rms.check_laws(1)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(name: &str, components: &[ComponentText<'_>], finish: &str) -> Result<Self> {
        let wrong = |message: String, help: &str| Err(Error::new(ErrorCode::SpecInvalid, message).help(help));
        let is_name = |name: &str| {
            let starts = name.starts_with(|sign: char| sign.is_ascii_alphabetic() || sign == '_');
            starts && name.len() <= LONGEST_NAME && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        };
        if !is_name(name) {
            return wrong(format!("`{name}` is no name for a reducer"), "a name is a letter, then letters, digits and `_`, 40 at most");
        }
        super::not_built_in(name)?;
        if components.is_empty() || components.len() > MAX_STATE {
            let count = components.len();
            return wrong(format!("the state of `{name}` has {count} components"), &format!("a state has from 1 to {MAX_STATE}"));
        }
        let names: Vec<&str> = components.iter().map(|component| component.name).collect();
        for (index, component) in names.iter().enumerate() {
            if !is_name(component) || RESERVED.contains(component) || names[..index].contains(component) {
                let help = format!("components need names of their own, and none of {}", RESERVED.join(", "));
                return wrong(format!("a component of `{name}` cannot be named `{component}`"), &help);
            }
        }
        let identities = components.iter().filter(|component| component.identity.is_some()).count();
        if identities != 0 && identities != components.len() {
            return wrong(format!("only some components of `{name}` have an identity"), "give all of them one, or none");
        }
        let in_component = |error: Error, component: &str, what: &str| {
            let help = error.help_text().unwrap_or_default().to_owned();
            Error::new(error.code(), format!("{what} of `{component}`: {}", error.message())).help(help)
        };
        let read = |component: &ComponentText<'_>| -> Result<Component> {
            let lift = Expression::read(component.lift, Scope::Lift, &names);
            let combine = Expression::read(component.combine, Scope::Combine, &names);
            Ok(Component {
                name: component.name.to_owned(),
                lift: lift.map_err(|error| in_component(error, component.name, "lift"))?,
                combine: combine.map_err(|error| in_component(error, component.name, "combine"))?,
                identity: component.identity,
            })
        };
        let read: Vec<Component> = components.iter().map(read).collect::<Result<_>>()?;
        let finish = Expression::read(finish, Scope::Finish, &names).map_err(|error| in_component(error, name, "finish"))?;
        let mut made = CustomReducer { name: name.to_owned(), components: read, finish, text: String::new(), operations: (0, 0) };
        made.text = made.written();
        if made.text.len() > LONGEST_TEXT {
            return wrong(format!("`{name}` is {} characters long", made.text.len()), &format!("{LONGEST_TEXT} are the most"));
        }
        // Every backend can hold what it computes in so many registers.
        let programs =
            [("lift", made.lifting()), ("lift and combine", made.push()), ("combine", made.combining()), ("finish", made.finishing())];
        made.operations = (crate::widen_u64(programs[1].1.code.len()), crate::widen_u64(programs[3].1.code.len()));
        for (what, program) in programs {
            let count = program.registers();
            if count > super::REGISTERS {
                return wrong(
                    format!("{what} of `{name}` takes {count} intermediate results"),
                    &format!("{} are the most: make the expressions shorter", super::REGISTERS),
                );
            }
        }
        Ok(made)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What stands behind its name in its text: components, and the result.
    pub fn definition(&self) -> &str {
        self.text.split_once(": ").and_then(|(_, inner)| inner.strip_suffix(')')).unwrap_or("")
    }

    /// The numbers of its state.
    pub fn components(&self) -> &[Component] {
        &self.components
    }

    /// The result, from the state of all rows.
    pub fn finish(&self) -> &Expression {
        &self.finish
    }

    /// The operations of combining with one more row, and of finishing; equal parts count once.
    pub fn operations(&self) -> (u64, u64) {
        self.operations
    }

    /// Whether rows may have weights.
    pub fn takes_weights(&self) -> bool {
        self.components.iter().any(|component| component.lift.names(Variable::Weight))
    }

    /// What an empty segment gives: the finished identity where it is finite, else an error.
    pub fn default_on_empty(&self) -> OnEmpty {
        let identity: Option<Vec<f64>> = self.components.iter().map(|component| component.identity).collect();
        match identity.map(|state| self.finished(&state)) {
            Some(value) if value.to_bits() == 0 => OnEmpty::Zero,
            Some(value) if value.is_finite() => OnEmpty::Fill(value),
            Some(_) | None => OnEmpty::Error,
        }
    }

    /// The state of a row.
    pub fn lifted<A: Elementary>(&self, x: A, w: A) -> Vec<A> {
        let of = |variable| match variable {
            Variable::Value => x,
            Variable::Weight => w,
            Variable::State(_) | Variable::Older(_) | Variable::Newer(_) => A::default(),
        };
        self.components.iter().map(|component| component.lift.evaluate(&of)).collect()
    }

    /// The state of two neighbours together.
    pub fn combined<A: Elementary>(&self, older: &[A], newer: &[A]) -> Vec<A> {
        let of = |variable| match variable {
            Variable::Older(index) => older.get(index).copied().unwrap_or_default(),
            Variable::Newer(index) => newer.get(index).copied().unwrap_or_default(),
            Variable::Value | Variable::Weight | Variable::State(_) => A::default(),
        };
        self.components.iter().map(|component| component.combine.evaluate(&of)).collect()
    }

    /// The result of a state.
    pub fn finished<A: Elementary>(&self, state: &[A]) -> A {
        self.finish.evaluate(&|variable| match variable {
            Variable::State(index) => state.get(index).copied().unwrap_or_default(),
            Variable::Value | Variable::Weight | Variable::Older(_) | Variable::Newer(_) => A::default(),
        })
    }

    /// Tries the laws on rows drawn from a seed, and tells of each that does not hold: four neighbours give one result however they are bracketed, in f64 and in f32, which blocks are computed in,
    /// and the identity changes nothing. It cannot prove them.
    ///
    /// Results a and b may be apart by 1e-9 · (1 + max(|a|, |b|)), in f32 by 1e-4 · the same.
    ///
    /// # Errors
    /// `reducer-law`, with the rows and what came out; several broken laws are its [causes](Error::causes).
    pub fn check_laws(&self, seed: u64) -> Result<()> {
        let mut draw = Draw(seed ^ 0x9e37_79b9_7f4a_7c15);
        let mut broken = BrokenLaws::of(&self.name);
        for round in 0..256 {
            let scale = [1.0, 1.0, 8.0, 0.125][round % 4];
            // Distinct magnitudes and signs, a zero and a repeat now and then; numbers of f32, so that both types get the same.
            let mut x: [f64; 4] = std::array::from_fn(|_| narrow_to_f32((2.0 * draw.next() - 1.0) * scale).into());
            if round % 8 == 5 {
                x[round / 8 % 4] = 0.0;
            }
            if round % 8 == 6 {
                x[1] = x[0];
            }
            let w: [f64; 4] = std::array::from_fn(|_| if self.takes_weights() { narrow_to_f32(0.25 + draw.next()).into() } else { 1.0 });
            self.try_brackets::<f64>(x, w, 1e-9, seed, &mut broken);
            self.try_brackets::<f32>(x, w, 1e-4, seed, &mut broken);
            self.try_identity(x, w, seed, &mut broken);
        }
        broken.told(MEND)
    }

    /// The same with a NaN, an infinity or a zero of either sign among the rows: results have to be NaN together, the same infinity together, or close.
    /// Where that fails, what a segment with such rows gives depends on where its blocks end.
    ///
    /// # Errors
    /// `reducer-law`, with the rows and what came out.
    pub fn check_special_rows(&self, seed: u64) -> Result<()> {
        let mut draw = Draw(seed ^ 0x9e37_79b9_7f4a_7c15);
        let mut broken = BrokenLaws::of(&self.name);
        let special = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0];
        // Each of them in each place, and each two of them.
        for case in 0..special.len() * special.len() * 12 {
            let mut x: [f64; 4] = std::array::from_fn(|_| narrow_to_f32(2.0 * draw.next() - 1.0).into());
            let (first, second, places) =
                (case % special.len(), case / special.len() % special.len(), case / (special.len() * special.len()));
            let (one, other) = (places % 4, (places % 4 + 1 + places / 4) % 4);
            x[one] = special[first];
            x[other] = special[second];
            self.try_brackets::<f64>(x, [1.0; 4], 1e-9, seed, &mut broken);
        }
        broken.told(MEND)
    }

    /// Four neighbours, bracketed in every way.
    fn try_brackets<A: Elementary>(&self, x: [f64; 4], w: [f64; 4], tolerance: f64, seed: u64, broken: &mut BrokenLaws<'_>) {
        let [a, b, c, d]: [Vec<A>; 4] = std::array::from_fn(|row| self.lifted(A::of_f64(x[row]), A::of_f64(w[row])));
        let both = |older: &[A], newer: &[A]| self.combined(older, newer);
        let finished = |state: &[A]| self.finished(state).as_f64();
        let left = finished(&both(&both(&both(&a, &b), &c), &d));
        for (bracketed, other) in [
            ("(a b) (c d)", both(&both(&a, &b), &both(&c, &d))),
            ("a (b (c d))", both(&a, &both(&b, &both(&c, &d)))),
            ("(a (b c)) d", both(&both(&a, &both(&b, &c)), &d)),
            ("a ((b c) d)", both(&a, &both(&both(&b, &c), &d))),
        ] {
            let other = finished(&other);
            if !close(left, other, tolerance) {
                broken.add("brackets", || {
                    format!(
                        "for the rows {x:?} (a, b, c, d; weights {w:?}; seed {seed}; {}) ((a b) c) d gives {left} and {bracketed} gives {other}: combine is not associative",
                        A::DTYPE
                    )
                });
            }
        }
    }

    /// The identity before and behind two rows.
    fn try_identity(&self, x: [f64; 4], w: [f64; 4], seed: u64, broken: &mut BrokenLaws<'_>) {
        let identity: Option<Vec<f64>> = self.components.iter().map(|component| component.identity).collect();
        let Some(identity) = identity else { return };
        let (a, b) = (self.lifted(x[0], w[0]), self.lifted(x[1], w[1]));
        let both = |older: &[f64], newer: &[f64]| self.combined(older, newer);
        let alone = self.finished(&both(&a, &b));
        for (side, other) in [("before", both(&both(&identity, &a), &b)), ("behind", both(&both(&a, &b), &identity))] {
            let other = self.finished(&other);
            if !close(alone, other, 1e-9) {
                broken.add("identity", || {
                    format!(
                        "the rows {:?} (weights {:?}; seed {seed}) give {alone}, and with the identity {side} them {other}: the identity is none",
                        &x[..2],
                        &w[..2]
                    )
                });
            }
        }
    }

    fn written(&self) -> String {
        let names: Vec<&str> = self.components.iter().map(|component| component.name.as_str()).collect();
        let mut text = format!("custom({}: ", self.name);
        for component in &self.components {
            let (lift, combine) = (component.lift.shown(&names), component.combine.shown(&names));
            text.push_str(&format!("{} from {lift} by {combine}", component.name));
            if let Some(identity) = component.identity {
                text.push_str(&format!(" else {}", shown_number(identity)));
            }
            text.push_str("; ");
        }
        text.push_str(&format!("{})", self.finish.shown(&names)));
        text
    }

    /// Reads what stands between the brackets of `custom(…)`.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub(super) fn read(inner: &str) -> Result<Self> {
        let wrong = |message: String| {
            Error::new(ErrorCode::SpecInvalid, message)
                .help("write for instance `custom(rms: s from x * x by a.s + b.s else 0; n from 1 by a.n + b.n else 0; sqrt(s / n))`")
        };
        if inner.len() > 2 * LONGEST_TEXT {
            return Err(wrong(format!("the reducer is {} characters long; {LONGEST_TEXT} are the most", inner.len())));
        }
        let (name, rest) = inner.split_once(':').ok_or_else(|| wrong("a custom reducer lacks its name, and `:` behind it".into()))?;
        let (components, finish) = rest.rsplit_once(';').ok_or_else(|| wrong(format!("`{}` has no components", name.trim())))?;
        let mut read = Vec::new();
        for text in components.split(';') {
            let form = || wrong(format!("`{}` is not `NAME from LIFT by COMBINE`, with `else IDENTITY` where there is one", text.trim()));
            let (component, rest) = text.split_once(" from ").ok_or_else(form)?;
            let (lift, rest) = rest.split_once(" by ").ok_or_else(form)?;
            let (combine, identity) = match rest.split_once(" else ") {
                None => (rest, None),
                Some((combine, number)) => (combine, Some(number.trim().parse::<f64>().map_err(|_| form())?)),
            };
            read.push(ComponentText { name: component.trim(), lift: lift.trim(), combine: combine.trim(), identity });
        }
        CustomReducer::new(name.trim(), &read, finish.trim())
    }
}

/// Whether results are the same but for rounding.
fn close(a: f64, b: f64, tolerance: f64) -> bool {
    let near = || a.is_finite() && b.is_finite() && (a - b).abs() <= tolerance * (1.0 + a.abs().max(b.abs()));
    (a.is_nan() && b.is_nan()) || a == b || near()
}

/// Numbers from 0 to 1, from a seed.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        count_to_f64(self.0 >> 12) / count_to_f64(1 << 52)
    }
}

impl fmt::Display for CustomReducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl PartialEq for CustomReducer {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for CustomReducer {}

impl PartialOrd for CustomReducer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for CustomReducer {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for CustomReducer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}
