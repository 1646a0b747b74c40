//! Parameters of encoders from one `.safetensors` file: whatever params a plan has that nothing else is bound to, by their names.
//!
//! A tensor of one axis is a row (a bias, a norm's weight), and one of `[features, 1, width]`, as depth-wise convolutions have it in
//! PyTorch, is `[features, width]`. Tensors that no plan asks for are left alone: a state dict may hold more.

use crate::input::FileArray;
use levelfold::plan::Place;
use levelfold::{Error, ErrorCode, Plan, TensorView};
use std::path::Path;

/// Open tensors, by the names of the params that they are.
pub(crate) struct Params(Vec<(String, FileArray)>);

impl Params {
    /// Opens what a plan asks for and is not bound already. `how` says how a parameter is given to the command.
    ///
    /// # Errors
    /// `file`; `unknown-name` for a param that the file lacks; `shape`; `not-bound` where params are asked for and no file is given.
    pub(crate) fn open(path: Option<&Path>, plan: &Plan, how: &str, is_bound: impl Fn(&str) -> bool) -> Result<Params, Error> {
        if let Some(path) = path {
            FileArray::holds(path, "")?;
        }
        let mut found = Vec::new();
        for (_, buffer) in plan.inputs().filter(|(_, buffer)| buffer.place == Place::Param && !is_bound(&buffer.name)) {
            let Some(path) = path else {
                return Err(Error::new(ErrorCode::NotBound, format!("the parameter `{}` is not bound", buffer.name))
                    .at_level(&*buffer.name)
                    .help(format!("it is {}[{}, {}]: {how}", buffer.dtype, buffer.rows, buffer.features)));
            };
            let array = FileArray::open_param(path, Some(&buffer.name), &buffer.name, [buffer.rows, buffer.features]);
            found.push((buffer.name.to_string(), array.map_err(|error| error.at_level(&*buffer.name))?));
        }
        Ok(Params(found))
    }

    /// Whether nothing was asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What to bind.
    ///
    /// # Errors
    /// `dtype` where the engine has no such element type.
    pub(crate) fn views(&self) -> Result<Vec<(&str, TensorView<'_>)>, Error> {
        self.0.iter().map(|(name, array)| Ok((name.as_str(), array.view()?))).collect()
    }

    /// Bytes that were copied because they were not aligned.
    pub(crate) fn copied_bytes(&self) -> usize {
        self.0.iter().map(|(_, array)| array.copied_bytes()).sum()
    }
}
