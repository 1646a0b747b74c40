//! What users bring in Rust: row encoders and reducers that only the [registry](crate::registry::registry) knows.

use super::{FLOATS, lengths, reducers};
use crate::case::Case;
use crate::registry;
use crate::tensor::{Arrangement, Fill};
use levelfold::encoder::{Activation, RowOp};
use levelfold::graph::Reduce;
use levelfold::spec::Encoder;
use levelfold::{DType, Hierarchy, Leaves, Level, Reducer};

pub(super) fn registered() -> Vec<Case> {
    let mut cases: Vec<Case> = registry::reducers().into_iter().flat_map(reducers::of).collect();
    cases.extend(FLOATS.into_iter().flat_map(encoders));
    cases.extend(FLOATS.map(siblings));
    cases
}

fn encoders(dtype: DType) -> Vec<Case> {
    let custom = |name: &str, version| Encoder::Custom { name: name.into(), version };
    let mut cases = Vec::new();
    for features in [1, 3, 16, 33] {
        let leaves =
            Leaves::values("x", dtype, features).encode(custom("suite-below-mean", 1)).encode(Encoder::Activate(Activation::Tanh)).keep();
        let word = Level::new("y", lengths(&[3, 40, 1, 65, 2, 36])).reduce(Reducer::Mean).encode(custom("suite-softsign", 4)).keep();
        let hierarchy = Hierarchy::new(leaves).level(word).level(Level::new("z", lengths(&[2, 4])).reduce(registry::reducers()[0].clone()));
        let case = |what: &str| Case::of(format!("registered/encoders/{dtype}/{features}/{what}"), hierarchy.clone());
        cases.extend([case("plain"), case("factors").values(Fill::Factors), case("specials").values(Fill::Specials)]);
        cases.extend(Arrangement::INPUTS.map(|arrangement| case(&format!("{arrangement:?}")).arrange_all(arrangement)));
    }
    // Each by itself.
    for (name, version) in [("suite-below-mean", 1), ("suite-softsign", 4)] {
        for rows in [0, 1, 130] {
            for fill in [Fill::Factors, Fill::Specials] {
                let case = Case::build(format!("registered/{name}/{dtype}/{rows}/{fill:?}"), |graph| {
                    let x = graph.input("x", dtype, rows, 5)?;
                    let y = graph.map(x, &RowOp::Custom { name: name.into(), version })?;
                    graph.output("y", y)
                });
                cases.push(case.values(fill));
            }
        }
    }
    cases
}

/// Reducers in Rust beside built-in ones, in one read, weighted or not.
fn siblings(dtype: DType) -> Case {
    Case::build(format!("registered/siblings/{dtype}"), |graph| {
        let x = graph.input("x", dtype, 147, 4)?;
        let w = graph.weights("w", dtype, 147)?;
        let word = graph.table("word", &lengths(&[3, 40, 1, 65, 2, 36]))?;
        for (index, reducer) in registry::reducers().into_iter().chain([Reducer::Mean, Reducer::Var { ddof: 0 }]).enumerate() {
            let folded = graph.fold(x, word, Reduce::new(reducer.clone()))?;
            graph.output(&format!("y{index}"), folded)?;
        }
        let weighted = graph.fold(x, word, Reduce::new(registry::reducers()[0].clone()).weights(w))?;
        graph.output("weighted", weighted)
    })
    .values(Fill::Factors)
    .fill("w", Fill::Positive)
}
