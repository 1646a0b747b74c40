//! Every binding that is refused, and in which words.

use super::*;
use crate::backend::Target;
use crate::optimize::Planner;
use crate::reducer::Reducer;
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
    insta::assert_snapshot!(told(|memory| memory.weights[3] = -0.5), @"word: `w`[3] = -0.5; weights that are divided by are 0 or more [weights]");
    insta::assert_snapshot!(told(|memory| memory.weights[0] = f32::NAN), @"word: `w`[0] = NaN; weights that are divided by are 0 or more [weights]");
    insta::assert_snapshot!(told(|memory| memory.weights[..2].fill(0.0)), @"word: the weights of segment 0 are all 0: it has no mean; give each segment that has rows a weight above 0, or leave its rows out of it [weights]");
    insta::assert_snapshot!(told(|memory| memory.weights.truncate(3)), @"w: `w` has shape [3, 1], planned was [4, 1]; a plan holds for one shape; plan again for another [shape]");
}

/// A plan may look ids up in one column of several; that one is the one to check.
#[test]
fn the_column_that_is_looked_up_is_the_one_that_is_checked() {
    let (mut plan, segments) = plan();
    let ids = plan.inputs().find(|(_, buffer)| &*buffer.name == "char.ids").expect("ids").0;
    plan.buffers[ids.index()].features = 2;
    plan.views.iter_mut().filter(|view| view.buffer == ids).for_each(|view| view.first_column = 1);
    plan.verify().unwrap();
    let check = |pairs: &[i32; 8]| {
        let (table, weights, mut word) = ([0f32; 8], [1f32; 4], [0f32; 6]);
        let bindings = Bindings::new()
            .input("char.ids", TensorView::from_slice(pairs, [4, 2]).unwrap())
            .input("char.table", TensorView::from_slice(&table, [4, 2]).unwrap())
            .input("w", TensorView::from_column(&weights))
            .output("word", TensorViewMut::from_slice(&mut word, [3, 2]).unwrap())
            .table(&segments);
        TableSet::new().check(&plan, &bindings).map_or_else(|error| error.message().to_owned(), |()| "fine".into())
    };
    assert_eq!(check(&[9, 0, -1, 3, 9, 1, 9, 2]), "fine");
    assert_eq!(check(&[0, 0, 0, 3, 0, 9, 0, 2]), "`char.ids`[2] = 9, but `char.table` has 4 rows");
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

/// A device whose memory is the host's, so that addresses can be followed.
struct Mirror(DeviceId);

impl DeviceMemory for Mirror {
    fn device(&self) -> DeviceId {
        self.0
    }

    fn fetch(&self, view: DeviceView<'_>) -> Result<Vec<u64>> {
        let range = view.address_range();
        let mut data = vec![0u64; usize::try_from(range.end - range.start).unwrap().div_ceil(8)];
        let bytes = bytemuck::must_cast_slice_mut::<u64, u8>(&mut data);
        for (byte, address) in bytes.iter_mut().zip(range) {
            // SAFETY: the tests bind memory of the host that outlives the view.
            *byte = unsafe { std::ptr::with_exposed_provenance::<u8>(usize::try_from(address).unwrap()).read() };
        }
        Ok(data)
    }
}

const MIRROR: DeviceId = DeviceId { backend: "mirror", ordinal: 0 };

fn on_device<T: crate::dtype::Element>(data: &[T], shape: [usize; 2]) -> DeviceView<'_> {
    let address = u64::try_from(data.as_ptr().expose_provenance()).unwrap();
    // SAFETY: the data is borrowed as long as the view lives.
    unsafe { DeviceView::from_raw(MIRROR, address, data.len(), T::DTYPE, Layout::row_major(shape)).unwrap() }
}

fn told_on_device(device: DeviceId, change: impl FnOnce(&mut Memory)) -> [String; 2] {
    let (plan, segments) = plan();
    let mut memory = memory();
    change(&mut memory);
    let Memory { ids, table, weights, word } = &mut memory;
    let bindings = Bindings::new()
        .device_input("char.ids", on_device(ids, [4, 1]))
        .device_input("w", on_device(weights, [weights.len(), 1]))
        .input("char.table", TensorView::from_slice(table, [4, 2]).unwrap())
        .output("word", TensorViewMut::from_slice(word, [3, 2]).unwrap())
        .table(&segments);
    let told = |result: Result<()>| result.map_or_else(|error| error.to_string(), |()| "fine".into());
    [told(TableSet::new().check_on(&plan, &bindings, &Mirror(device))), told(TableSet::new().check(&plan, &bindings))]
}

#[test]
fn memory_of_a_device_is_held_to_the_same_rules_by_its_backend() {
    let [on, _] = told_on_device(MIRROR, |_| ());
    assert_eq!(on, "fine");
    let [on, _] = told_on_device(MIRROR, |memory| memory.ids[2] = 4);
    insta::assert_snapshot!(on, @"char.ids: `char.ids`[2] = 4, but `char.table` has 4 rows; ids are 0 or more, and below the rows of their table [id-too-large]");
    let [on, _] = told_on_device(MIRROR, |memory| memory.weights[3] = -0.5);
    insta::assert_snapshot!(on, @"word: `w`[3] = -0.5; weights that are divided by are 0 or more [weights]");
    let [on, _] = told_on_device(MIRROR, |memory| memory.weights.truncate(3));
    insta::assert_snapshot!(on, @"w: `w` has shape [3, 1], planned was [4, 1]; a plan holds for one shape; plan again for another [shape]");
}

#[test]
fn memory_of_a_device_is_refused_by_every_other() {
    let [on, host] = told_on_device(DeviceId { ordinal: 1, ..MIRROR }, |_| ());
    insta::assert_snapshot!(on, @"char.ids: `char.ids` is bound to memory of mirror:0, but this executable runs on mirror:1; bind it where the plan runs [wrong-device]");
    insta::assert_snapshot!(host, @"char.ids: `char.ids` is bound to memory of mirror:0, but the cpu backend reads and writes the host's memory; bind it where the plan runs [wrong-device]");
}

#[test]
fn outputs_on_a_device_share_memory_with_nothing_there() {
    let (plan, segments) = plan();
    let (ids, table, weights, word) = ([0i32, 3, 1, 2], [0.0f32; 8], [1.0f32, 0.0, 2.0, 3.0], [0.0f32; 6]);
    let view = |data: &[f32], shape| on_device(data, shape).address();
    let told = |address: u64, name: &'static str| {
        // SAFETY: nothing is written: the check is all that happens.
        let output = unsafe { DeviceViewMut::from_raw(MIRROR, address, 6, DType::F32, Layout::row_major([3, 2])).unwrap() };
        let bindings = Bindings::new()
            .input("char.ids", TensorView::from_column(&ids))
            .device_input("char.table", on_device(&table, [4, 2]))
            .input("w", TensorView::from_column(&weights))
            .device_output(name, output)
            .table(&segments);
        TableSet::new().check_on(&plan, &bindings, &Mirror(MIRROR)).map_or_else(|error| error.to_string(), |()| "fine".into())
    };
    assert_eq!(told(view(&word, [3, 2]), "word"), "fine");
    insta::assert_snapshot!(told(view(&table, [4, 2]) + 28, "word"), @"word: output `word` shares memory with `char.table`; bind memory of its own for every output [aliasing]");
    insta::assert_snapshot!(told(view(&word, [3, 2]), "wort"), @"the plan has no output `wort`; did you mean `word`? [unknown-name]");
}

#[test]
fn strides_on_a_device_stay_inside_its_buffer_and_apart_in_outputs() {
    let layout = Layout { offset: 0, shape: [3, 2], strides: [2, 1] };
    // SAFETY: both are refused before anything is read or written.
    let (past, twice) = unsafe {
        (
            DeviceView::from_raw(MIRROR, 64, 5, DType::F32, layout).unwrap_err(),
            DeviceViewMut::from_raw(MIRROR, 64, 6, DType::F32, Layout { strides: [1, 1], ..layout }).unwrap_err(),
        )
    };
    assert_eq!((past.code(), twice.code()), (ErrorCode::StridesLeaveBuffer, ErrorCode::StridesOverlap));
}
