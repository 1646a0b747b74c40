//! What users bring in Rust. A plan holds its name and version; a backend finds it in its [`Registry`] when it compiles the plan.

mod laws;
mod reducer;
#[cfg(test)]
mod tests;

pub(crate) use laws::BrokenLaws;
pub use laws::Laws;
pub use reducer::{BoundReducer, MAX_PLANES, Planes, PlanesMut, Real, RowReducer};

use crate::error::{Error, ErrorCode, Result, suggestion};
use crate::reducer::NamedReducer;
use reducer::sealed::AnyReducer;
use std::fmt;
use std::sync::Arc;

/// An encoder of single rows, of a user's own: a function of one row, and of nothing else.
///
/// It keeps the width of a row. Rows come in the accumulator's type of their level (f32; f64 for f64 levels), and what it leaves is rounded to the
/// level's type, NaNs made canonical. It must give the same bits for the same row, on any thread; then plans that fuse it do too.
///
/// ```
/// use levelfold::custom::RowEncoder;
///
/// struct Softsign;
///
/// impl RowEncoder for Softsign {
///     fn name(&self) -> &str {
///         "softsign"
///     }
///     fn version(&self) -> u32 {
///         1
///     }
///     fn encode_f32(&self, row: &mut [f32]) {
///         row.iter_mut().for_each(|x| *x /= 1.0 + x.abs());
///     }
///     fn encode_f64(&self, row: &mut [f64]) {
///         row.iter_mut().for_each(|x| *x /= 1.0 + x.abs());
///     }
/// }
/// ```
pub trait RowEncoder: Send + Sync {
    /// Its name in specs and plans.
    fn name(&self) -> &str;
    /// Its version: another one wherever its results change, so that a saved plan is not run by something else.
    fn version(&self) -> u32;
    /// Encodes a row in place.
    fn encode_f32(&self, row: &mut [f32]);
    /// Encodes a row of an f64 level in place.
    fn encode_f64(&self, row: &mut [f64]);
}

/// What a backend knows beside what is built in.
#[derive(Clone, Default)]
pub struct Registry {
    encoders: Vec<Arc<dyn RowEncoder>>,
    reducers: Vec<Arc<dyn AnyReducer>>,
}

impl Registry {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more encoder of single rows. Of two with the same name and version, the last one counts.
    #[must_use]
    pub fn encoder(mut self, encoder: impl RowEncoder + 'static) -> Self {
        self.encoders.push(Arc::new(encoder));
        self
    }

    /// With one more reducer. Of two with the same name and version, the last one counts.
    #[must_use]
    pub fn reducer(mut self, reducer: impl RowReducer) -> Self {
        self.reducers.push(Arc::new(reducer));
        self
    }

    /// Whether each reducer has a name that a plan can say: see [`Reducer::named`](crate::Reducer::named). Backends ask before they look for one.
    ///
    /// # Errors
    /// `duplicate-name` for the name of a built-in reducer, or what that is called elsewhere; `spec-invalid` for what is no name.
    pub fn check(&self) -> Result<()> {
        self.reducers.iter().try_for_each(|reducer| NamedReducer::new(reducer.name(), reducer.version(), &[]).map(|_| ()))
    }

    /// The encoder that a plan names.
    ///
    /// # Errors
    /// `unknown-name`, where nothing of this name and version is known.
    pub fn find_encoder(&self, name: &str, version: u32) -> Result<Arc<dyn RowEncoder>> {
        let known: Vec<(&str, u32)> = self.encoders.iter().map(|encoder| (encoder.name(), encoder.version())).collect();
        let at = known.iter().rposition(|of| *of == (name, version)).ok_or_else(|| unknown("encoder", name, version, &known))?;
        Ok(Arc::clone(&self.encoders[at]))
    }

    /// The reducer that a plan names, with the arguments that the plan gives it.
    ///
    /// # Errors
    /// As for [`check`](Self::check); `unknown-name`, where nothing of this name and version is known; `option` where its state has no planes, or
    /// too many; and what it says itself of the arguments.
    pub fn find_reducer(&self, named: &NamedReducer) -> Result<BoundReducer> {
        self.check()?;
        let known: Vec<(&str, u32)> = self.reducers.iter().map(|reducer| (reducer.name(), reducer.version())).collect();
        let (name, version) = (named.name(), named.version());
        let at = known.iter().rposition(|of| *of == (name, version)).ok_or_else(|| unknown("reducer", name, version, &known))?;
        let bound = self.reducers[at].bound(named.arguments()).map_err(|error| {
            let help = error.help_text().unwrap_or_default().to_owned();
            Error::new(error.code(), format!("the reducer `{name}` refuses the arguments of `{named}`: {}", error.message())).help(help)
        })?;
        BoundReducer::new(bound)
    }
}

fn unknown(what: &str, name: &str, version: u32, known: &[(&str, u32)]) -> Error {
    let versions: Vec<String> = known.iter().filter(|(known, _)| *known == name).map(|(_, version)| version.to_string()).collect();
    let help = if versions.is_empty() {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        if names.is_empty() { "give the backend a registry that holds it".to_owned() } else { suggestion(name, &names) }
    } else {
        format!("the backend has version {}: plan again, or bring the version that was planned for", versions.join(", "))
    };
    Error::new(ErrorCode::UnknownName, format!("the backend knows no {what} `{name}` of version {version}")).help(help)
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoders = self.encoders.iter().map(|encoder| format!("{} {}", encoder.name(), encoder.version()));
        let reducers = self.reducers.iter().map(|reducer| format!("{} {}", reducer.name(), reducer.version()));
        f.debug_list().entries(encoders).entries(reducers).finish()
    }
}
