//! From slices to vectors: the example of the README.

use levelfold::{Bindings, DType, Engine, Hierarchy, Leaves, Level, Reducer, Segments, TensorView, TensorViewMut};
use levelfold_cpu::CpuBackend;

fn main() -> levelfold::Result<()> {
    let engine = Engine::new(CpuBackend::new()?);
    let hierarchy = Hierarchy::new(Leaves::values("char", DType::F32, 2))
        .level(Level::new("word", Segments::from_lengths(&[2, 3, 1])?).reduce(Reducer::Mean))
        .level(Level::new("sentence", Segments::from_lengths(&[2, 1])?).reduce(Reducer::Max));
    let prepared = engine.prepare(&hierarchy)?;
    let chars = [1.0f32, 2.0, 3.0, 4.0, 0.0, 0.0, 3.0, 3.0, 6.0, 9.0, 5.0, -1.0];
    let mut sentences = [0.0f32; 4];
    prepared.run(
        Bindings::new()
            .input("char", TensorView::from_slice(&chars, [6, 2])?)
            .output("sentence", TensorViewMut::from_slice(&mut sentences, [2, 2])?),
    )?;
    assert_eq!(sentences, [3.0, 4.0, 5.0, -1.0]);
    println!("{}", prepared.plan());
    Ok(())
}
