//! A reducer of one's own, twice: the geometric mean as expressions and in Rust.

use levelfold::custom::{Laws, Planes, PlanesMut, Real, Registry, RowReducer};
use levelfold::numerics::elementary::{exp, log};
use levelfold::{Bindings, DType, Engine, Hierarchy, Leaves, Level, Reducer, Segments, TensorView, TensorViewMut};
use levelfold_cpu::CpuBackend;

/// The n-th root of the product, by logarithms: no product that overflows.
#[derive(Clone)]
pub(crate) struct GeometricMean;

impl RowReducer for GeometricMean {
    fn name(&self) -> &str {
        "geometric-mean"
    }

    fn version(&self) -> u32 {
        1
    }

    fn planes(&self) -> usize {
        1
    }

    fn lift<A: Real>(&self, row: &[A], _weight: A, mut state: PlanesMut<'_, A>) {
        for (sum, &x) in state.plane(0).iter_mut().zip(row) {
            *sum = log(x);
        }
    }

    fn combine<A: Real>(&self, mut older: PlanesMut<'_, A>, newer: Planes<'_, A>) {
        for (older, &newer) in older.plane(0).iter_mut().zip(newer.plane(0)) {
            *older += newer;
        }
    }

    fn finish<A: Real>(&self, state: Planes<'_, A>, rows: A, out: &mut [A]) {
        for (out, &sum) in out.iter_mut().zip(state.plane(0)) {
            *out = exp(sum / rows);
        }
    }
}

/// The same as expressions, which every backend with custom reducers has, and files can say.
const WRITTEN: &str = "custom(geometric_mean: s from log(x) by a.s + b.s; n from 1 by a.n + b.n; exp(s / n))";

pub(crate) fn main() -> levelfold::Result<()> {
    Laws::new(1).rows(0.5..2.0).check(&GeometricMean)?;
    let backend = CpuBackend::builder().registry(Registry::new().reducer(GeometricMean)).build()?;
    let engine = Engine::new(backend);
    let growth = [1.02f32, 0.5, 1.10, 8.0, 0.97, 1.0, 1.05, 2.0];
    let mut rates = Vec::new();
    for reducer in [Reducer::named("geometric-mean", 1, &[])?, WRITTEN.parse()?] {
        let hierarchy = Hierarchy::new(Leaves::values("month", DType::F32, 2))
            .level(Level::new("quarter", Segments::from_lengths(&[3, 1])?).reduce(reducer));
        let prepared = engine.prepare(&hierarchy)?;
        let mut rate = [0.0f32; 4];
        prepared.run(
            Bindings::new()
                .input("month", TensorView::from_slice(&growth, [4, 2])?)
                .output("quarter", TensorViewMut::from_slice(&mut rate, [2, 2])?),
        )?;
        println!("{}", prepared.plan());
        rates.push(rate);
    }
    assert_eq!(rates[0], rates[1]);
    assert!((rates[0][0] - (1.02f32 * 1.10 * 0.97).powf(1.0 / 3.0)).abs() < 1e-6);
    println!("{:?}", rates[0]);
    Ok(())
}
