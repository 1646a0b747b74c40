//! The expressions of a custom reducer: reading, printing, evaluating.

use crate::error::{Error, ErrorCode, Result, suggestion};
use crate::numerics::elementary::{Elementary, exp, log, sqrt};
use std::fmt;

/// The most parts of one expression.
const MOST_PARTS: usize = 256;
/// How many characters of an expression an error shows.
const SHOWN: usize = 40;
/// How deep brackets nest at most.
const MOST_DEPTH: usize = 64;

/// An operation on one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unary {
    /// −x.
    Neg,
    /// |x|.
    Abs,
    /// √x.
    Sqrt,
    /// eˣ.
    Exp,
    /// log x.
    Log,
}

/// An operation on two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// x + y.
    Add,
    /// x − y.
    Sub,
    /// x · y.
    Mul,
    /// x ÷ y.
    Div,
    /// IEEE 754-2019 `maximum`: a NaN wins, −0 < +0.
    Max,
    /// IEEE 754-2019 `minimum`.
    Min,
}

impl Unary {
    const ALL: [Unary; 5] = [Unary::Neg, Unary::Abs, Unary::Sqrt, Unary::Exp, Unary::Log];

    fn word(self) -> &'static str {
        match self {
            Unary::Neg => "-",
            Unary::Abs => "abs",
            Unary::Sqrt => "sqrt",
            Unary::Exp => "exp",
            Unary::Log => "log",
        }
    }

    /// The operation, rounded to the type.
    #[inline(always)]
    pub fn apply<A: Elementary>(self, x: A) -> A {
        match self {
            Unary::Neg => A::of_f64(-1.0).mul(x),
            Unary::Abs => x.abs(),
            Unary::Sqrt => sqrt(x),
            Unary::Exp => exp(x),
            Unary::Log => log(x),
        }
    }
}

impl Binary {
    const ALL: [Binary; 6] = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Max, Binary::Min];

    fn word(self) -> &'static str {
        match self {
            Binary::Add => "+",
            Binary::Sub => "-",
            Binary::Mul => "*",
            Binary::Div => "/",
            Binary::Max => "max",
            Binary::Min => "min",
        }
    }

    /// How tightly it binds; 3 for what is written as a function.
    fn binds(self) -> u8 {
        match self {
            Binary::Add | Binary::Sub => 1,
            Binary::Mul | Binary::Div => 2,
            Binary::Max | Binary::Min => 3,
        }
    }

    /// The operation, rounded to the type.
    #[inline(always)]
    pub fn apply<A: Elementary>(self, x: A, y: A) -> A {
        match self {
            Binary::Add => x.add(y),
            Binary::Sub => x.sub(y),
            Binary::Mul => x.mul(y),
            Binary::Div => x.div(y),
            Binary::Max => x.maximum(y),
            Binary::Min => x.minimum(y),
        }
    }
}

/// What an expression may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// The value of a row: `x`.
    Value,
    /// Its weight, 1 where there are none: `w`.
    Weight,
    /// A component of the state, by its place.
    State(usize),
    /// The same of the older of two neighbours: `a.` and the name.
    Older(usize),
    /// The same of the newer one: `b.` and the name.
    Newer(usize),
}

/// An expression. Compared and printed by its structure: what is read back from its text is the same.
#[derive(Clone, Debug)]
pub enum Expression {
    /// A number.
    Constant(f64),
    /// Something named.
    Variable(Variable),
    /// An operation on one.
    Unary(Unary, Box<Expression>),
    /// An operation on two.
    Binary(Binary, Box<[Expression; 2]>),
}

/// Which names an expression may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `x` and `w`.
    Lift,
    /// `a.s` and `b.s`.
    Combine,
    /// `s`.
    Finish,
}

impl Expression {
    /// Its value, in the arithmetic of a type; every operation is rounded on its own.
    pub fn evaluate<A: Elementary>(&self, of: &impl Fn(Variable) -> A) -> A {
        match self {
            Expression::Constant(number) => A::of_f64(*number),
            Expression::Variable(variable) => of(*variable),
            Expression::Unary(operation, x) => operation.apply(x.evaluate(of)),
            Expression::Binary(operation, both) => operation.apply(both[0].evaluate(of), both[1].evaluate(of)),
        }
    }

    /// Whether it names this.
    pub fn names(&self, variable: Variable) -> bool {
        match self {
            Expression::Constant(_) => false,
            Expression::Variable(named) => *named == variable,
            Expression::Unary(_, x) => x.names(variable),
            Expression::Binary(_, both) => both.iter().any(|x| x.names(variable)),
        }
    }

    /// As text, with the names of the components.
    pub(super) fn shown<'a>(&'a self, components: &'a [&'a str]) -> Shown<'a> {
        Shown(self, components)
    }

    /// Reads an expression that is all of a text.
    ///
    /// # Errors
    /// `spec-invalid` and `unknown-word`, with the place.
    pub(super) fn read(text: &str, scope: Scope, components: &[&str]) -> Result<Expression> {
        let mut reader = Reader { text, at: 0, parts: 0, depth: 0, scope, components };
        let read = reader.sum()?;
        reader.skip();
        match reader.rest().chars().next() {
            None => Ok(read),
            Some(found) => Err(reader.wrong(&format!("`{found}` is not expected here"), "write an operator, or end the expression")),
        }
    }
}

/// A number as it is written in expressions.
pub(super) fn shown_number(number: f64) -> String {
    if number.is_nan() {
        "nan".into()
    } else if number.is_infinite() {
        if number > 0.0 { "inf".into() } else { "-inf".into() }
    } else if number.fract() == 0.0 && number.abs() < 1e15 {
        format!("{number:.0}")
    } else {
        format!("{number:?}")
    }
}

pub(super) struct Shown<'a>(&'a Expression, &'a [&'a str]);

impl Shown<'_> {
    /// How tightly the whole text binds: 4 for what never needs brackets.
    fn binds(&self) -> u8 {
        match self.0 {
            Expression::Constant(number) if number.is_sign_negative() && !number.is_nan() => 3,
            Expression::Unary(Unary::Neg, _) => 3,
            Expression::Constant(_) | Expression::Variable(_) | Expression::Unary(..) => 4,
            Expression::Binary(operation, _) => {
                if operation.binds() == 3 {
                    4
                } else {
                    operation.binds()
                }
            }
        }
    }

    fn fmt_within(&self, f: &mut fmt::Formatter<'_>, least: u8) -> fmt::Result {
        if self.binds() < least { write!(f, "({self})") } else { write!(f, "{self}") }
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shown(expression, components) = *self;
        let component = |index: &usize| components.get(*index).copied().unwrap_or("?");
        match expression {
            Expression::Constant(number) => f.write_str(&shown_number(*number)),
            Expression::Variable(Variable::Value) => f.write_str("x"),
            Expression::Variable(Variable::Weight) => f.write_str("w"),
            Expression::Variable(Variable::State(index)) => f.write_str(component(index)),
            Expression::Variable(Variable::Older(index)) => write!(f, "a.{}", component(index)),
            Expression::Variable(Variable::Newer(index)) => write!(f, "b.{}", component(index)),
            Expression::Unary(Unary::Neg, x) => {
                f.write_str("-")?;
                Shown(x, components).fmt_within(f, 4)
            }
            Expression::Unary(operation, x) => write!(f, "{}({})", operation.word(), Shown(x, components)),
            Expression::Binary(operation, both) => {
                let [x, y] = [&both[0], &both[1]].map(|part| Shown(part, components));
                if operation.binds() == 3 {
                    return write!(f, "{}({x}, {y})", operation.word());
                }
                x.fmt_within(f, operation.binds())?;
                write!(f, " {} ", operation.word())?;
                // Operators of one rank are read from the left.
                y.fmt_within(f, operation.binds() + 1)
            }
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    parts: usize,
    depth: usize,
    scope: Scope,
    components: &'a [&'a str],
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn skip(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// Whether this comes next; it is taken then.
    fn takes(&mut self, sign: char) -> bool {
        self.skip();
        let found = self.rest().starts_with(sign);
        self.at += if found { sign.len_utf8() } else { 0 };
        found
    }

    fn wrong(&self, message: &str, help: &str) -> Error {
        let place = self.text.get(..self.at).unwrap_or(self.text).chars().count() + 1;
        // Of a long text what is around the place.
        let skipped = if place > SHOWN { place - SHOWN / 2 } else { 0 };
        let mut shown: String = self.text.chars().skip(skipped).take(SHOWN).collect();
        if skipped > 0 {
            shown.insert(0, '…');
        }
        if self.text.chars().count() > skipped + SHOWN {
            shown.push('…');
        }
        Error::new(ErrorCode::SpecInvalid, format!("at character {place} of `{shown}`: {message}")).help(help)
    }

    fn part(&mut self, expression: Expression) -> Result<Expression> {
        self.parts += 1;
        if self.parts > MOST_PARTS {
            return Err(self.wrong(&format!("the expression has more than {MOST_PARTS} parts"), "keep it smaller"));
        }
        Ok(expression)
    }

    /// Operators of one rank, from the left.
    fn chain(&mut self, operations: [(char, Binary); 2], below: fn(&mut Self) -> Result<Expression>) -> Result<Expression> {
        let mut x = below(self)?;
        loop {
            let Some((_, operation)) = operations.into_iter().find(|(sign, _)| self.takes(*sign)) else { return Ok(x) };
            let y = below(self)?;
            x = self.part(Expression::Binary(operation, Box::new([x, y])))?;
        }
    }

    fn sum(&mut self) -> Result<Expression> {
        self.chain([('+', Binary::Add), ('-', Binary::Sub)], Self::product)
    }

    fn product(&mut self) -> Result<Expression> {
        self.chain([('*', Binary::Mul), ('/', Binary::Div)], Self::signed)
    }

    fn signed(&mut self) -> Result<Expression> {
        if !self.takes('-') {
            return self.atom();
        }
        self.deeper(|reader| {
            Ok(match reader.signed()? {
                // The sign of a number is part of it.
                Expression::Constant(number) => Expression::Constant(-number),
                x => reader.part(Expression::Unary(Unary::Neg, Box::new(x)))?,
            })
        })
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth += 1;
        if self.depth > MOST_DEPTH {
            return Err(self.wrong(&format!("brackets and signs nest more than {MOST_DEPTH} deep"), "keep it smaller"));
        }
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn atom(&mut self) -> Result<Expression> {
        if self.takes('(') {
            let inner = self.deeper(Self::sum)?;
            if !self.takes(')') {
                return Err(self.wrong("a bracket is not closed", "write `)`"));
            }
            return Ok(inner);
        }
        self.skip();
        match self.rest().chars().next() {
            Some(first) if first.is_ascii_digit() || first == '.' => self.number(),
            Some(first) if first.is_ascii_alphabetic() || first == '_' => self.named(),
            Some(found) => Err(self.wrong(&format!("`{found}` is not expected here"), "write a number, a name or a bracket")),
            None => Err(self.wrong("something is missing here", "write a number, a name or a bracket")),
        }
    }

    fn number(&mut self) -> Result<Expression> {
        let rest = self.rest();
        let mut end = 0;
        for (index, sign) in rest.char_indices() {
            let after_exponent = rest[..index].ends_with(['e', 'E']);
            if !(sign.is_ascii_alphanumeric() || sign == '.' || (after_exponent && (sign == '-' || sign == '+'))) {
                break;
            }
            end = index + sign.len_utf8();
        }
        let word = &rest[..end];
        let Some(number) = word.parse::<f64>().ok().filter(|number| number.is_finite()) else {
            return Err(self.wrong(&format!("`{word}` is not a number"), "write for instance 2, 0.5 or 1e-6"));
        };
        self.at += end;
        self.part(Expression::Constant(number))
    }

    fn named(&mut self) -> Result<Expression> {
        let is_part = |sign: char| sign.is_ascii_alphanumeric() || sign == '_' || sign == '.';
        let end = self.rest().find(|sign| !is_part(sign)).unwrap_or(self.rest().len());
        let word = self.rest()[..end].to_owned();
        let unary = Unary::ALL.into_iter().find(|operation| operation.word() == word);
        let binary = Binary::ALL.into_iter().find(|operation| operation.word() == word);
        let begins = self.at;
        self.at += end;
        if unary.is_some() || binary.is_some() {
            if !self.takes('(') {
                return Err(self.wrong(&format!("`{word}` lacks its bracket"), "write for instance sqrt(x) or max(x, 0)"));
            }
            let read = self.deeper(|reader| {
                let x = reader.sum()?;
                if let Some(operation) = unary {
                    return Ok(Expression::Unary(operation, Box::new(x)));
                }
                if !reader.takes(',') {
                    return Err(reader.wrong(&format!("`{word}` takes two numbers"), "separate them by a comma"));
                }
                let y = reader.sum()?;
                Ok(Expression::Binary(binary.unwrap_or(Binary::Max), Box::new([x, y])))
            })?;
            if !self.takes(')') {
                return Err(self.wrong(&format!("the bracket of `{word}` is not closed"), "write `)`"));
            }
            return self.part(read);
        }
        if let Some(constant) = [("inf", f64::INFINITY), ("nan", f64::NAN)].into_iter().find(|(name, _)| *name == word) {
            return self.part(Expression::Constant(constant.1));
        }
        let known: Vec<(String, Variable)> = match self.scope {
            Scope::Lift => vec![("x".into(), Variable::Value), ("w".into(), Variable::Weight)],
            Scope::Finish => self.components.iter().enumerate().map(|(index, name)| ((*name).to_owned(), Variable::State(index))).collect(),
            Scope::Combine => {
                let of = |side: &str, make: fn(usize) -> Variable| -> Vec<(String, Variable)> {
                    self.components.iter().enumerate().map(|(index, name)| (format!("{side}.{name}"), make(index))).collect()
                };
                [of("a", Variable::Older), of("b", Variable::Newer)].concat()
            }
        };
        match known.iter().find(|(name, _)| *name == word) {
            Some((_, variable)) => self.part(Expression::Variable(*variable)),
            None => {
                self.at = begins;
                let mut names: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
                names.extend(["abs", "sqrt", "exp", "log", "max", "min", "inf", "nan"]);
                Err(self.wrong(&format!("`{word}` is not known here"), &suggestion(&word, &names)))
            }
        }
    }
}
