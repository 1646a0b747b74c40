//! A case: a graph, and how its inputs lie and what stands in them. Plain data; nothing here knows a backend.

use crate::random::Random;
use crate::tensor::{Arrangement, Fill, Tensor};
use levelfold::graph::{FoldLoad, GraphBuilder, LevelGraph, Op, Reduction, Value, ValueType};
use levelfold::{Hierarchy, Result};
use std::collections::BTreeMap;

/// One case of the suite.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is about; failures begin with it.
    pub name: String,
    /// What its data is made from.
    pub seed: u64,
    /// The literal graph.
    pub graph: LevelGraph,
    arrangements: BTreeMap<String, Arrangement>,
    fills: BTreeMap<String, Fill>,
    everywhere: Arrangement,
    values: Fill,
}

impl Case {
    /// A case of any graph. Its seed follows from its name.
    pub fn of_graph(name: impl Into<String>, graph: LevelGraph) -> Self {
        let name = name.into();
        let seed = Random::seed_of(&name);
        let (arrangements, fills) = (BTreeMap::new(), BTreeMap::new());
        Case { name, seed, graph, arrangements, fills, everywhere: Arrangement::RowMajor, values: Fill::Plain }
    }

    /// A case of a graph that is built here.
    ///
    /// # Panics
    /// Where the graph cannot be built: then the case itself is wrong.
    pub fn build(name: impl Into<String>, build: impl FnOnce(&mut GraphBuilder) -> Result<()>) -> Self {
        let name = name.into();
        let mut builder = GraphBuilder::new();
        let graph = build(&mut builder).and_then(|()| builder.finish());
        Case::of_graph(name.clone(), graph.unwrap_or_else(|error| panic!("case {name}: {error}")))
    }

    /// A case of a hierarchy.
    ///
    /// # Panics
    /// Where the hierarchy has no graph: then the case itself is wrong.
    pub fn of(name: impl Into<String>, hierarchy: Hierarchy) -> Self {
        let name = name.into();
        let graph = hierarchy.graph().unwrap_or_else(|error| panic!("case {name}: {error}"));
        Case::of_graph(name, graph)
    }

    /// The seed of the data, where it is not that of the name.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How one input lies.
    #[must_use]
    pub fn arrange(mut self, input: &str, arrangement: Arrangement) -> Self {
        self.arrangements.insert(input.into(), arrangement);
        self
    }

    /// How every input lies that nothing else is said of.
    #[must_use]
    pub fn arrange_all(mut self, arrangement: Arrangement) -> Self {
        self.everywhere = arrangement;
        self
    }

    /// What stands in one input.
    #[must_use]
    pub fn fill(mut self, input: &str, fill: Fill) -> Self {
        self.fills.insert(input.into(), fill);
        self
    }

    /// What stands in every input of values that nothing else is said of. (Ids are below their table's rows, and weights that are divided by above
    /// 0, unless it is said of them by name.)
    #[must_use]
    pub fn values(mut self, fill: Fill) -> Self {
        self.values = fill;
        self
    }

    /// The inputs, filled: `run` tells the data of one run from that of another.
    pub fn inputs(&self, run: u64) -> BTreeMap<String, Tensor> {
        let mut inputs = BTreeMap::new();
        for node in self.graph.nodes() {
            let Op::Input { name, .. } = self.graph.op(node) else { continue };
            let ValueType::Rows { rows, features, dtype } = self.graph.types(node)[0] else { continue };
            let size = |count: u64| usize::try_from(count).expect("a small case");
            let mut random = Random::new(self.seed ^ Random::seed_of(name) ^ run.wrapping_mul(0x5851_f42d_4c95_7f2d));
            let arrangement = self.arrangements.get(&**name).copied().unwrap_or(self.everywhere);
            let fill = self.fills.get(&**name).copied().unwrap_or_else(|| self.fill_for_use(node));
            inputs.insert(name.to_string(), Tensor::filled(dtype, [size(rows), size(features)], arrangement, fill, &mut random));
        }
        inputs
    }

    /// What an input needs to hold for what it is used as.
    fn fill_for_use(&self, input: levelfold::ids::NodeId) -> Fill {
        let is_input = |value: Option<&Value>| value.is_some_and(|value| value.node() == input);
        for node in self.graph.nodes() {
            let operands = self.graph.operands(node);
            match self.graph.op(node) {
                Op::Gather | Op::Fold { load: FoldLoad::Gather | FoldLoad::Histogram, .. } if is_input(operands.first()) => {
                    let ValueType::Rows { rows, .. } = *self.graph.value_type(operands[1]) else { continue };
                    return Fill::Ids(rows);
                }
                Op::Reduce(Reduction { reducer, .. }) if reducer.divides_by_weights() && is_input(operands.get(1)) => {
                    return Fill::Positive;
                }
                Op::Input { .. }
                | Op::Gather
                | Op::Slice { .. }
                | Op::Transpose
                | Op::Contiguous
                | Op::Reduce(_)
                | Op::Stack
                | Op::Squeeze
                | Op::Rename
                | Op::Concat { .. }
                | Op::Spread { .. }
                | Op::Encode(_)
                | Op::Fold { .. } => {}
            }
        }
        self.values
    }
}
