//! Every binding that is refused, and in which words.

use super::*;
use crate::backend::Target;
use crate::optimize::Planner;
use crate::spec::{Hierarchy, Leaves, Level};
use crate::tensor::Layout;

/// Ids that look up a table of 4 rows; weighted means over three segments, one of them empty.
fn plan() -> (Plan, Segments) {
    let segments = Segments::from_lengths(&[2u64, 0, 2]).unwrap();
    let hierarchy = Hierarchy::new(Leaves::lookup("char", DType::I32, DType::F32, 4, 2))
        .level(Level::new("word", segments.clone()).reduce(Reducer::Mean).weights("w", DType::F32).on_empty(crate::reducer::OnEmpty::Zero));
    (Planner::new(Target::new("cpu")).plan(hierarchy.graph().unwrap()).unwrap().plan, segments)
}

struct Memory {
    ids: Vec<i32>,
    table: Vec<f32>,
    weights: Vec<f32>,
    word: Vec<f32>,
}

fn memory() -> Memory {
    Memory { ids: vec![0, 3, 1, 2], table: vec![0.0; 8], weights: vec![1.0, 0.0, 2.0, 3.0], word: vec![0.0; 6] }
}

impl Memory {
    fn bindings<'a>(&'a mut self, segments: &'a Segments) -> Bindings<'a> {
        Bindings::new()
            .input("char.ids", TensorView::from_column(&self.ids))
            .input("char.table", TensorView::from_slice(&self.table, [4, 2]).unwrap())
            .input("w", TensorView::from_column(&self.weights))
            .output("word", TensorViewMut::from_slice(&mut self.word, [3, 2]).unwrap())
            .table(segments)
    }
}

fn told(change: impl FnOnce(&mut Memory)) -> String {
    let (plan, segments) = plan();
    let mut memory = memory();
    change(&mut memory);
    TableSet::new().check(&plan, &memory.bindings(&segments)).map_or_else(|error| error.to_string(), |()| "fine".into())
}

#[test]
fn good_bindings_are_fine() {
    assert_eq!(told(|_| ()), "fine");
}

#[test]
fn bad_data_is_told_with_index_and_value() {
    insta::assert_snapshot!(told(|memory| memory.ids[2] = 4), @"char.ids: `char.ids`[2] = 4, but `char.table` has 4 rows; ids are 0 or more, and below the rows of their table [id-too-large]");
    insta::assert_snapshot!(told(|memory| memory.ids[1] = -1), @"char.ids: `char.ids`[1] = -1, but `char.table` has 4 rows; ids are 0 or more, and below the rows of their table [id-too-large]");
    insta::assert_snapshot!(told(|memory| memory.weights[3] = -0.5), @"word: `w`[3] = -0.5; the weights of a mean are 0 or more [weights]");
    insta::assert_snapshot!(told(|memory| memory.weights[0] = f32::NAN), @"word: `w`[0] = NaN; the weights of a mean are 0 or more [weights]");
    insta::assert_snapshot!(told(|memory| memory.weights[..2].fill(0.0)), @"word: the weights of segment 0 are all 0: it has no mean; give each segment that has rows a weight above 0, or leave its rows out of it [weights]");
    insta::assert_snapshot!(told(|memory| memory.weights.truncate(3)), @"w: `w` has shape [3, 1], planned was [4, 1]; a plan holds for one shape; plan again for another [shape]");
}

#[test]
fn bad_names_shapes_and_types_are_told() {
    let (plan, segments) = plan();
    let check = |bindings: Bindings<'_>| TableSet::new().check(&plan, &bindings).expect_err("refused").to_string();
    let mut m = memory();
    let ids = [0i32; 4];
    insta::assert_snapshot!(check(m.bindings(&segments).input("char.ids", TensorView::from_column(&ids))), @"char.ids: input `char.ids` is bound twice [bound-twice]");
    insta::assert_snapshot!(check(m.bindings(&segments).input("char.id", TensorView::from_column(&ids))), @"the plan has no input `char.id`; did you mean `char.ids`? [unknown-name]");
    insta::assert_snapshot!(check(Bindings::new().table(&segments)), @"char.ids: input `char.ids` is not bound; bind a tensor i32[4, 1] [not-bound]");
    let (mut m, mut other) = (memory(), [0f32; 6]);
    let twice = m.bindings(&segments).output("word", TensorViewMut::from_slice(&mut other, [3, 2]).unwrap());
    insta::assert_snapshot!(check(twice), @"word: output `word` is bound twice [bound-twice]");
    let mut unknown = [0f32; 2];
    let mut m = memory();
    let unknown = m.bindings(&segments).output("words", TensorViewMut::from_slice(&mut unknown, [1, 2]).unwrap());
    insta::assert_snapshot!(check(unknown), @"the plan has no output `words`; did you mean `word`? [unknown-name]");

    let inputs = |table: TensorView<'_>, word: TensorViewMut<'_>| {
        let (ids, weights) = ([0i32; 4], [1f32; 4]);
        check(
            Bindings::new()
                .input("char.ids", TensorView::from_column(&ids))
                .input("char.table", table)
                .input("w", TensorView::from_column(&weights))
                .output("word", word)
                .table(&segments),
        )
    };
    let (wide, mut word) = ([0f64; 8], [0f32; 6]);
    let table = TensorView::from_slice(&wide, [4, 2]).unwrap();
    insta::assert_snapshot!(inputs(table, TensorViewMut::from_slice(&mut word, [3, 2]).unwrap()), @"char.table: `char.table` is f64, planned was f32; convert it, or plan for its type [dtype]");
    let right = [0f32; 8];
    let table = TensorView::from_slice(&right, [2, 4]).unwrap();
    insta::assert_snapshot!(inputs(table, TensorViewMut::from_slice(&mut word, [3, 2]).unwrap()), @"char.table: `char.table` has shape [2, 4], planned was [4, 2]; a plan holds for one shape; plan again for another [shape]");
    let table = || TensorView::from_slice(&right, [4, 2]).unwrap();
    insta::assert_snapshot!(inputs(table(), TensorViewMut::from_slice(&mut word, [2, 3]).unwrap()), @"word: `word` has shape [2, 3], planned was [3, 2]; a plan holds for one shape; plan again for another [shape]");
    let mut halves = [half::f16::ZERO; 6];
    insta::assert_snapshot!(inputs(table(), TensorViewMut::from_slice(&mut halves, [3, 2]).unwrap()), @"word: `word` is f16, planned was f32; convert it, or plan for its type [dtype]");
}

#[test]
fn other_segments_are_refused_on_every_run() {
    let (plan, segments) = plan();
    let other = Segments::from_lengths(&[2u64, 1, 1]).unwrap();
    let mut tables = TableSet::new();
    let mut memory = memory();
    insta::assert_snapshot!(tables.check(&plan, &memory.bindings(&other)).unwrap_err(), @"word: no segments with hash 124be44a2616f1e479ef5ad07190ffe5 are bound; bind the segments that the plan was made with; other segments need a plan of their own [not-bound]");
    tables.check(&plan, &memory.bindings(&segments)).unwrap();
    assert_eq!(tables.check(&plan, &memory.bindings(&other)).unwrap_err().code(), ErrorCode::NotBound);
    tables.check(&plan, &memory.bindings(&segments)).unwrap();
}

#[test]
fn an_output_shares_memory_with_nothing() {
    let segments = Segments::from_lengths(&[1u64, 1]).unwrap();
    let hierarchy = Hierarchy::new(Leaves::values("x", DType::F32, 1)).level(Level::new("y", segments.clone()));
    let plan = Planner::new(Target::new("cpu")).plan(hierarchy.graph().unwrap()).unwrap().plan;
    let mut memory = [0f32; 4];
    let start = memory.as_mut_ptr();
    // SAFETY: both views are inside `memory`, and nothing is read or written through either: only their addresses are compared.
    let (x, y) = unsafe { (std::slice::from_raw_parts(start, 2), std::slice::from_raw_parts_mut(start.add(1), 2)) };
    let bindings = Bindings::new()
        .input("x", TensorView::strided(x, Layout::row_major([2, 1])).unwrap())
        .output("y", TensorViewMut::from_slice(y, [2, 1]).unwrap())
        .table(&segments);
    insta::assert_snapshot!(TableSet::new().check(&plan, &bindings).unwrap_err(), @"y: output `y` shares memory with `x`; bind memory of its own for every output [aliasing]");
}
