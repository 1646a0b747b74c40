//! Operations on single elements before folds and behind them: every reducer and type, layouts, lookups, ranges, levels of which some are kept.

use super::{FLOATS, lengths, ranges};
use crate::case::Case;
use crate::tensor::{Arrangement, Fill};
use levelfold::encoder::{Activation, Number, RowOp};
use levelfold::graph::{GraphBuilder, Reduce, Value};
use levelfold::{DType, OnEmpty, Reducer, Result, Segments};

fn done(graph: &mut GraphBuilder, mut rows: Value, ops: &[RowOp<Value>]) -> Result<Value> {
    for op in ops {
        rows = graph.map(rows, op)?;
    }
    Ok(rows)
}

fn activate(activation: Activation) -> RowOp<Value> {
    RowOp::Activate(activation)
}

/// gelu before the fold; halved and its silu behind it, but for positions.
fn both(graph: &mut GraphBuilder, x: Value, segments: &Segments, reducer: &Reducer, dtype: DType) -> Result<()> {
    let table = graph.table("y", segments)?;
    let rows = graph.map(x, &activate(Activation::Gelu))?;
    let mut how = Reduce::new(reducer.clone()).on_empty(OnEmpty::Fill(-3.0));
    if reducer.needs_weights() {
        how = how.weights(graph.weights("scores", dtype, segments.rows())?);
    }
    let gives_positions = reducer.gives_positions();
    let made = graph.fold(rows, table, how)?;
    let made = if gives_positions { made } else { done(graph, made, &[RowOp::Scale(Number(0.5)), activate(Activation::Silu)])? };
    graph.output("y", made)
}

pub(super) fn elements() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in FLOATS {
        let name = |what: &str| format!("elements/{dtype}/{what}");
        for reducer in Reducer::ALL {
            let around = lengths(&[31, 32, 33, 1, 0, 63, 64, 65, 2, 97, 129, 3]);
            let case = |what: &str, segments: &Segments, features: u64| {
                Case::build(name(&format!("{reducer}/{what}")), |graph| {
                    let x = graph.input("x", dtype, segments.rows(), features)?;
                    both(graph, x, segments, &reducer, dtype)
                })
            };
            cases.push(case("lengths", &around, 5));
            cases.push(case("wide", &lengths(&[1, 40, 0, 7]), 70));
            cases.push(case("specials", &lengths(&[1, 1, 2, 3, 5, 33, 70, 1, 0]), 9).values(Fill::Specials));
            cases.push(case("ranges", &ranges(&[(0, 40), (10, 75), (0, 100), (7, 7), (99, 100)], 100), 3));
            let table = lengths(&[1, 0, 40, 2, 70]);
            cases.push(Case::build(name(&format!("{reducer}/lookup")), |graph| {
                let ids = graph.ids("ids", DType::U16, table.rows())?;
                let rows = graph.param("table", dtype, 50, 3)?;
                let x = graph.gather(ids, rows)?;
                both(graph, x, &table, &reducer, dtype)
            }));
        }
        for arrangement in Arrangement::INPUTS {
            let segments = lengths(&[40, 3, 70, 1]);
            let case = Case::build(name(&format!("layout/{arrangement:?}")), |graph| {
                let x = graph.input("x", dtype, segments.rows(), 6)?;
                both(graph, x, &segments, &Reducer::Mean, dtype)
            });
            cases.push(case.arrange_all(arrangement));
        }
        // Rows that are cast, and results that are.
        for to in FLOATS {
            cases.push(Case::build(name(&format!("cast/{to}")), |graph| {
                let x = graph.input("x", dtype, 75, 7)?;
                let table = graph.table("y", &lengths(&[1, 33, 41]))?;
                let rows = done(graph, x, &[activate(Activation::Tanh), RowOp::Cast(to)])?;
                let sum = graph.fold(rows, table, Reduce::new(Reducer::Sum))?;
                let sum = done(graph, sum, &[RowOp::Cast(dtype), activate(Activation::Sigmoid)])?;
                graph.output("y", sum)
            }));
        }
        // Between the levels of a chain: level by level kept or not, before and after what is done to it.
        for kept in 0..8 {
            let case = Case::build(name(&format!("levels/kept-{kept}")), |graph| {
                let x = graph.input("x", dtype, 200, 5)?;
                let words = graph.table("word", &lengths(&[3, 0, 40, 32, 1, 64, 10, 50]))?;
                let lines = graph.table("line", &lengths(&[2, 3, 0, 3]))?;
                let pages = graph.table("page", &lengths(&[4]))?;
                let mut rows = graph.map(x, &activate(Activation::GeluTanh))?;
                for (level, (table, reducer)) in
                    [(words, Reducer::Mean), (lines, Reducer::Max), (pages, Reducer::Sum)].into_iter().enumerate()
                {
                    let made = graph.fold(rows, table, Reduce::new(reducer).on_empty(OnEmpty::Fill(0.25)))?;
                    rows = done(graph, made, &[activate(Activation::Silu), RowOp::Scale(Number(-1.5))])?;
                    if kept >> level & 1 == 1 {
                        graph.output(&format!("raw{level}"), made)?;
                    }
                    if kept == 7 || level == 2 {
                        graph.output(&format!("done{level}"), rows)?;
                    }
                }
                Ok(())
            });
            cases.push(case.values(Fill::Factors));
        }
        cases.push(Case::build(name("siblings"), |graph| {
            let x = graph.input("x", dtype, 300, 9)?;
            let table = graph.table("y", &lengths(&[100, 3, 0, 33, 164]))?;
            let rows = graph.map(x, &activate(Activation::Relu))?;
            let mut parts = Vec::new();
            for reducer in [Reducer::Mean, Reducer::Max, Reducer::Sum, Reducer::Min, Reducer::L2] {
                let made = graph.fold(rows, table, Reduce::new(reducer.clone()).on_empty(OnEmpty::Zero))?;
                parts.push(if reducer == Reducer::Max { graph.map(made, &activate(Activation::Tanh))? } else { made });
            }
            let all = graph.concat(&parts)?;
            graph.output("y", all)
        }));
        // Long enough to be cut for threads.
        for table in [vec![20_000], vec![3, 9_000, 1, 8_193, 3_000]] {
            let segments = lengths(&table);
            let case = Case::build(name(&format!("long-{}", table.len())), |graph| {
                let x = graph.input("x", dtype, segments.rows(), 2)?;
                both(graph, x, &segments, &Reducer::Mean, dtype)
            });
            cases.push(case.values(Fill::Factors));
        }
    }
    cases.push(Case::build("elements/no-features", |graph| {
        let x = graph.input("x", DType::F32, 7, 0)?;
        both(graph, x, &lengths(&[3, 4]), &Reducer::Sum, DType::F32)
    }));
    cases.push(Case::build("elements/no-rows", |graph| {
        let x = graph.input("x", DType::F32, 0, 3)?;
        both(graph, x, &lengths(&[0, 0]), &Reducer::Sum, DType::F32)
    }));
    cases
}
