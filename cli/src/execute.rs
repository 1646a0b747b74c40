//! One run of a prepared plan over named tensors.

use crate::memory::Tensor;
use levelfold::backend::RunReport;
use levelfold::{Bindings, Error, Prepared, TensorView, TensorViewMut};

/// An input, by the name that the plan has for it.
pub(crate) type Input<'a> = (&'a str, TensorView<'a>);

/// Runs, and hands the report to `look`.
///
/// # Errors
/// As [`Prepared::run`].
pub(crate) fn execute<T>(
    prepared: &Prepared,
    inputs: &[Input<'_>],
    outputs: &mut [Tensor],
    look: impl FnOnce(&RunReport) -> T,
) -> Result<T, Error> {
    prepared.run_with(bind(inputs, outputs)?, look)
}

/// Inputs and outputs, bound by their names.
///
/// # Errors
/// None that tensors of their own can meet.
pub(crate) fn bind<'a>(inputs: &[Input<'a>], outputs: &'a mut [Tensor]) -> Result<Bindings<'a>, Error> {
    let mut bindings = Bindings::new();
    for &(name, view) in inputs {
        bindings.bind_input(name, view);
    }
    for Tensor { name, dtype, shape, bytes } in outputs {
        bindings.bind_output(name, TensorViewMut::from_bytes(bytes.as_mut(), *dtype, *shape)?);
    }
    Ok(bindings)
}

/// A hash of outputs: their names, types, shapes and bits.
pub(crate) fn hash(outputs: &[Tensor]) -> u64 {
    let mut state = xxhash_rust::xxh3::Xxh3::new();
    for Tensor { name, dtype, shape, bytes } in outputs {
        state.update(format!("{name}\0{dtype}{shape:?}\0").as_bytes());
        state.update(bytes.as_ref());
    }
    state.digest()
}
