//! What is measured: a hierarchy and all of its data, in memory of our own.

use super::workload::{self, Size, Workload};
use crate::backends::BackendName;
use crate::execute::Input;
use crate::input::Bind;
use crate::memory::Tensor;
use crate::spec_file::{Loaded, read_spec};
use levelfold::optimize::Planner;
use levelfold::{DType, Error, Hierarchy, Layout, OptLevel, TensorView};
use std::path::Path;

/// How the values of a workload lie in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Order {
    /// The features of a row beside each other
    #[default]
    RowMajor,
    /// The rows of a feature beside each other: a transposed array, which is not copied
    FeatureMajor,
}

/// A hierarchy and all of its data.
pub(crate) struct Case {
    loaded: Loaded,
    made: Vec<Tensor>,
    order: Order,
}

impl Case {
    /// Inputs that nobody gave are made from the seed.
    ///
    /// # Errors
    /// What is wrong with the hierarchy; `overflow`.
    pub(crate) fn new(loaded: Loaded, order: Order, seed: u64) -> Result<Self, Error> {
        // Inputs are the same for every target, so any plan names them.
        let plan = Planner::new(BackendName::Reference.target()?).opt(OptLevel::O0).plan(loaded.hierarchy.graph()?)?.plan;
        let given: Vec<&str> = loaded.inputs.iter().map(|(name, _)| name.as_str()).collect();
        let mut made = workload::data(&loaded.hierarchy, &plan, &given, seed)?;
        if let Order::FeatureMajor = order {
            for tensor in made.iter_mut().filter(|tensor| is_turned(tensor)) {
                transpose(tensor)?;
            }
        }
        Ok(Case { loaded, made, order })
    }

    /// A spec, the files that are bound, and data from the seed for the rest. Files are read into memory: pages of a file are small ones.
    ///
    /// # Errors
    /// What is wrong with the spec or a file.
    pub(crate) fn of_spec(path: &Path, bind: &[Bind], seed: u64) -> Result<Self, Error> {
        Case::of_hierarchy(read_spec(path)?, bind, seed)
    }

    /// The same of a spec that was read already.
    ///
    /// # Errors
    /// What is wrong with a file, or missing.
    pub(crate) fn of_hierarchy(hierarchy: Hierarchy, bind: &[Bind], seed: u64) -> Result<Self, Error> {
        let mut loaded = Loaded::new(hierarchy, bind)?;
        loaded.inputs.iter_mut().try_for_each(|(_, file)| file.read_into_memory())?;
        Case::new(loaded, Order::RowMajor, seed)
    }

    /// A workload of this size.
    ///
    /// # Errors
    /// What the sizes make impossible.
    pub(crate) fn of_workload(workload: Workload, size: &Size) -> Result<Self, Error> {
        Case::new(Loaded { hierarchy: workload.hierarchy(size)?, inputs: Vec::new() }, size.order, size.seed)
    }

    /// What is folded.
    pub(crate) fn hierarchy(&self) -> &Hierarchy {
        &self.loaded.hierarchy
    }

    /// Names of the inputs that were made from the seed.
    pub(crate) fn made(&self) -> impl Iterator<Item = &str> {
        self.made.iter().map(|tensor| &*tensor.name)
    }

    /// Every input.
    ///
    /// # Errors
    /// `dtype` where a file holds what the engine does not compute with.
    pub(crate) fn inputs(&self) -> Result<Vec<Input<'_>>, Error> {
        let mut inputs: Vec<Input<'_>> = Vec::new();
        for (name, file) in &self.loaded.inputs {
            inputs.push((name, file.view()?));
        }
        for tensor in &self.made {
            let view = match self.order {
                Order::FeatureMajor if is_turned(tensor) => {
                    TensorView::from_bytes(tensor.bytes.as_ref(), tensor.dtype, Layout::feature_major(tensor.shape))?
                }
                Order::RowMajor | Order::FeatureMajor => tensor.view()?,
            };
            inputs.push((&tensor.name, view));
        }
        Ok(inputs)
    }
}

/// Ids and weights have one feature, which lies the same either way.
fn is_turned(tensor: &Tensor) -> bool {
    tensor.shape[1] > 1
}

/// Puts the rows of a feature beside each other.
fn transpose(tensor: &mut Tensor) -> Result<(), Error> {
    let [rows, features] = tensor.shape;
    let size = tensor.dtype.size();
    let count = |axis: usize| u64::try_from(axis).unwrap_or(u64::MAX);
    let mut turned = Tensor::zeroed(&tensor.name, tensor.dtype, count(rows), count(features))?;
    let (from, into) = (tensor.bytes.as_ref(), turned.bytes.as_mut());
    match tensor.dtype {
        DType::U8 | DType::U16 | DType::U32 | DType::I32 | DType::I64 => return Ok(()),
        DType::F16 | DType::BF16 => turn::<2>(from, into, rows, features),
        DType::F32 => turn::<4>(from, into, rows, features),
        DType::F64 => turn::<8>(from, into, rows, features),
    }
    debug_assert_eq!(size * rows * features, turned.bytes.len());
    *tensor = turned;
    Ok(())
}

/// In tiles, so that the lines of both sides stay in the first cache.
fn turn<const SIZE: usize>(from: &[u8], into: &mut [u8], rows: usize, features: usize) {
    const TILE: usize = 32;
    let (from, into) = (from.as_chunks::<SIZE>().0, into.as_chunks_mut::<SIZE>().0);
    for first in (0..rows).step_by(TILE) {
        for low in (0..features).step_by(TILE) {
            for row in first..rows.min(first + TILE) {
                for feature in low..features.min(low + TILE) {
                    into[feature * rows + row] = from[row * features + feature];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use levelfold::Reducer;

    #[test]
    fn either_order_holds_the_same_values() {
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            let size = Size { rows: 77, features: 41, dtype, reduce: vec![Reducer::Sum], seed: 3, ..Size::default() };
            let rows = Case::of_workload(Workload::Flat, &size).unwrap();
            let turned = Case::of_workload(Workload::Flat, &Size { order: Order::FeatureMajor, ..size }).unwrap();
            let (rows, turned) = (rows.inputs().unwrap()[0].1, turned.inputs().unwrap()[0].1);
            let element = |view: TensorView<'_>, row, feature| match dtype {
                DType::F32 => f64::from(view.get::<f32>(row, feature)),
                DType::F64 => view.get::<f64>(row, feature),
                _ => f64::from(view.get::<half::bf16>(row, feature)),
            };
            for (row, feature) in [(0, 0), (76, 40), (3, 40), (76, 1), (33, 32)] {
                assert_eq!(element(rows, row, feature), element(turned, row, feature), "{dtype} {row} {feature}");
            }
            assert_ne!(rows.layout().position(1, 0), turned.layout().position(1, 0));
        }
    }
}
