//! Graphs that are built by hand: siblings, concats, and the operations of the literal program in other orders.

use super::{lengths, ranges};
use crate::case::Case;
use crate::tensor::{Arrangement, Fill};
use levelfold::graph::{GraphBuilder, Reduce, Value};
use levelfold::{DType, OnEmpty, Reducer, Result};

/// 147 rows of 4 features, their words and their sentences.
fn words(graph: &mut GraphBuilder, dtype: DType) -> Result<(Value, levelfold::ids::TableId, levelfold::ids::TableId)> {
    let x = graph.input("x", dtype, 147, 4)?;
    let word = graph.table("word", &lengths(&[3, 40, 1, 65, 2, 36]))?;
    let sentence = graph.table("sentence", &lengths(&[4, 2]))?;
    Ok((x, word, sentence))
}

pub(super) fn siblings() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in super::FLOATS {
        cases.push(
            Case::build(format!("siblings/every-reducer/{dtype}"), |graph| {
                let (x, word, _) = words(graph, dtype)?;
                for reducer in Reducer::ALL.into_iter().filter(|reducer| !reducer.needs_weights()) {
                    let folded = graph.fold(x, word, Reduce::new(reducer.clone()))?;
                    graph.output(&reducer.to_string(), folded)?;
                }
                Ok(())
            })
            .values(Fill::Factors),
        );
        cases.push(Case::build(format!("siblings/types/{dtype}"), |graph| {
            let (x, word, _) = words(graph, dtype)?;
            for to in super::FLOATS {
                let folded = graph.fold(x, word, Reduce::new(Reducer::Mean).dtype(to))?;
                graph.output(to.name(), folded)?;
            }
            Ok(())
        }));
    }
    cases.push(Case::build("siblings/empty-answers", |graph| {
        let x = graph.input("x", DType::F32, 6, 3)?;
        let table = graph.table("y", &lengths(&[0, 4, 0, 2]))?;
        for (name, on_empty) in [("zero", OnEmpty::Zero), ("nan", OnEmpty::NaN), ("fill", OnEmpty::Fill(4.5))] {
            let folded = graph.fold(x, table, Reduce::new(Reducer::Mean).on_empty(on_empty))?;
            graph.output(name, folded)?;
        }
        Ok(())
    }));
    cases.push(Case::build("siblings/beside-what-it-is-made-from", |graph| {
        let x = graph.input("x", DType::F32, 50, 3)?;
        let (word, same) = (graph.table("word", &lengths(&[10, 40]))?, graph.table("same", &lengths(&[1, 1]))?);
        let below = graph.fold(x, word, Reduce::new(Reducer::Mean))?;
        let above = graph.fold(below, same, Reduce::new(Reducer::Sum))?;
        let both = graph.concat(&[below, above])?;
        graph.output("both", both)
    }));
    cases.push(Case::build("siblings/equal", |graph| {
        let (x, word, sentence) = words(graph, DType::F32)?;
        let (a, b) = (graph.fold(x, word, Reduce::new(Reducer::Mean))?, graph.fold(x, word, Reduce::new(Reducer::Mean))?);
        let top = graph.fold(b, sentence, Reduce::new(Reducer::Sum))?;
        graph.output("a", a)?;
        graph.output("b", b)?;
        graph.output("top", top)
    }));
    cases.push(Case::build("siblings/equal-tables", |graph| {
        let x = graph.input("x", DType::F32, 50, 3)?;
        let (a, b) = (graph.table("a", &lengths(&[10, 40]))?, graph.table("b", &ranges(&[(0, 10), (10, 50)], 50))?);
        let (a, b) = (graph.fold(x, a, Reduce::new(Reducer::Max))?, graph.fold(x, b, Reduce::new(Reducer::Sum))?);
        graph.output("a", a)?;
        graph.output("b", b)
    }));
    cases.push(Case::build("siblings/two-tables", |graph| {
        let x = graph.input("x", DType::F32, 50, 3)?;
        let (a, b) = (graph.table("a", &lengths(&[10, 40]))?, graph.table("b", &ranges(&[(5, 50), (0, 33), (9, 9)], 50))?);
        let (a, b) = (graph.fold(x, a, Reduce::new(Reducer::Sum))?, graph.fold(x, b, Reduce::new(Reducer::Sum))?);
        graph.output("a", a)?;
        graph.output("b", b)
    }));
    cases.push(Case::build("siblings/feed-each-its-own", |graph| {
        let (x, word, sentence) = words(graph, DType::F32)?;
        for (name, below, above) in
            [("a", Reducer::Mean, Reducer::Sum), ("b", Reducer::Max, Reducer::Min), ("c", Reducer::Max, Reducer::Max)]
        {
            let folded = graph.fold(x, word, Reduce::new(below))?;
            let top = graph.fold(folded, sentence, Reduce::new(above))?;
            graph.output(name, top)?;
        }
        Ok(())
    }));
    cases.push(Case::build("siblings/one-weighs-the-other", |graph| {
        let x = graph.input("x", DType::F32, 12, 1)?;
        let table = graph.table("y", &lengths(&[1; 12]))?;
        let max = graph.fold(x, table, Reduce::new(Reducer::Max))?;
        let weighted = graph.fold(x, table, Reduce::new(Reducer::Sum).weights(max))?;
        graph.output("max", max)?;
        graph.output("weighted", weighted)
    }));
    cases.extend(concats());
    cases
}

fn concats() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.push(Case::build("concat/several-orders", |graph| {
        let (x, word, _) = words(graph, DType::F32)?;
        let (a, b) = (graph.fold(x, word, Reduce::new(Reducer::Mean))?, graph.fold(x, word, Reduce::new(Reducer::Max))?);
        for (name, parts) in [("ab", vec![a, b]), ("ba", vec![b, a]), ("aab", vec![a, a, b]), ("a", vec![a])] {
            let joined = graph.concat(&parts)?;
            graph.output(name, joined)?;
        }
        Ok(())
    }));
    cases.push(Case::build("concat/parts-kept", |graph| {
        let (x, word, sentence) = words(graph, DType::F16)?;
        let (a, b) = (graph.fold(x, word, Reduce::new(Reducer::Mean))?, graph.fold(x, word, Reduce::new(Reducer::Max))?);
        let joined = graph.concat(&[a, b])?;
        let top = graph.fold(joined, sentence, Reduce::new(Reducer::Sum))?;
        graph.output("b", b)?;
        graph.output("top", top)
    }));
    cases.push(Case::build("concat/read-again-and-kept", |graph| {
        let (x, word, sentence) = words(graph, DType::F32)?;
        let (a, b) = (graph.fold(x, word, Reduce::new(Reducer::Mean))?, graph.fold(x, word, Reduce::new(Reducer::Min))?);
        let joined = graph.concat(&[a, b])?;
        let top = graph.fold(joined, sentence, Reduce::new(Reducer::Sum))?;
        let other = graph.fold(a, sentence, Reduce::new(Reducer::Max))?;
        graph.output("joined", joined)?;
        graph.output("top", top)?;
        graph.output("other", other)
    }));
    cases.push(Case::build("concat/of-concats", |graph| {
        let (x, word, sentence) = words(graph, DType::F32)?;
        let (a, b) = (graph.fold(x, word, Reduce::new(Reducer::Mean))?, graph.fold(x, word, Reduce::new(Reducer::Max))?);
        let joined = graph.concat(&[a, b])?;
        let more = graph.concat(&[joined, a, joined])?;
        let top = graph.fold(more, sentence, Reduce::new(Reducer::Sum))?;
        graph.output("more", more)?;
        graph.output("top", top)
    }));
    cases.push(
        Case::build("concat/with-inputs", |graph| {
            let (x, word, _) = words(graph, DType::F32)?;
            let extra = graph.input("extra", DType::F32, 6, 3)?;
            let a = graph.fold(x, word, Reduce::new(Reducer::Mean))?;
            let joined = graph.concat(&[extra, a, extra])?;
            graph.output("joined", joined)
        })
        .arrange("extra", Arrangement::Backwards),
    );
    cases.push(Case::build("concat/no-features", |graph| {
        let x = graph.input("x", DType::F32, 6, 0)?;
        let y = graph.input("y", DType::F32, 6, 2)?;
        let table = graph.table("pair", &lengths(&[2, 4]))?;
        let (a, b) = (graph.fold(x, table, Reduce::new(Reducer::Sum))?, graph.fold(y, table, Reduce::new(Reducer::Sum))?);
        let joined = graph.concat(&[a, b, a])?;
        graph.output("joined", joined)
    }));
    cases.push(Case::build("concat/different-leaves", |graph| {
        let (x, y) = (graph.input("x", DType::BF16, 147, 4)?, graph.input("y", DType::BF16, 147, 9)?);
        let word = graph.table("word", &lengths(&[3, 40, 1, 65, 2, 36]))?;
        let (a, b) = (graph.fold(x, word, Reduce::new(Reducer::Mean))?, graph.fold(y, word, Reduce::new(Reducer::Sum))?);
        let joined = graph.concat(&[b, a])?;
        graph.output("joined", joined)
    }));
    cases
}

pub(super) fn literal() -> Vec<Case> {
    let mut cases = Vec::new();
    let tables = [("partition", lengths(&[3, 0, 40, 1, 65, 2, 0, 36])), ("ranges", ranges(&[(40, 147), (0, 60), (9, 9), (100, 101)], 147))];
    for (name, segments) in &tables {
        for dtype in super::FLOATS {
            for chain in ["", "t", "c", "tc", "ct", "ctc", "tct", "ttc", "cc", "tctc", "tttc", "tctctc"] {
                cases.push(Case::build(format!("literal/{name}/{dtype}/slice-{chain}"), |graph| {
                    let x = graph.input("x", dtype, 147, 4)?;
                    let table = graph.table("y", segments)?;
                    let mut ragged = graph.slice(x, table)?;
                    for op in chain.chars() {
                        ragged = if op == 't' { graph.transpose(ragged)? } else { graph.contiguous(ragged)? };
                    }
                    let pieces = graph.reduce(ragged, Reduce::new(Reducer::Mean).on_empty(OnEmpty::Zero))?;
                    let stacked = graph.stack(pieces)?;
                    let rows = graph.squeeze(stacked)?;
                    graph.output("y", rows)
                }));
            }
        }
        // Ragged values that several reduces read, before and after they are packed.
        cases.push(Case::build(format!("literal/{name}/shared"), |graph| {
            let x = graph.input("x", DType::F32, 147, 4)?;
            let table = graph.table("y", segments)?;
            let sliced = graph.slice(x, table)?;
            let packed = graph.contiguous(sliced)?;
            let transposed = graph.transpose(packed)?;
            let repacked = graph.contiguous(transposed)?;
            for (output, ragged) in [("a", sliced), ("b", packed), ("c", transposed), ("d", repacked)] {
                let pieces = graph.reduce(ragged, Reduce::new(Reducer::Sum))?;
                let stacked = graph.stack(pieces)?;
                let rows = graph.squeeze(stacked)?;
                graph.output(output, rows)?;
            }
            Ok(())
        }));
        // Pieces that are stacked twice.
        cases.push(Case::build(format!("literal/{name}/stacked-twice"), |graph| {
            let x = graph.input("x", DType::F32, 147, 4)?;
            let table = graph.table("y", segments)?;
            let sliced = graph.slice(x, table)?;
            let pieces = graph.reduce(sliced, Reduce::new(Reducer::Sum))?;
            for output in ["a", "b"] {
                let stacked = graph.stack(pieces)?;
                let rows = graph.squeeze(stacked)?;
                graph.output(output, rows)?;
            }
            Ok(())
        }));
    }
    cases.push(
        Case::build("literal/inputs-are-outputs", |graph| {
            let x = graph.input("x", DType::F64, 5, 4)?;
            let ids = graph.ids("ids", DType::U16, 5)?;
            graph.output("x", x)?;
            graph.output("again", x)?;
            graph.output("ids", ids)
        })
        .arrange("x", Arrangement::FeaturesBroadcast)
        .fill("ids", Fill::Ids(60_000))
        .values(Fill::Specials),
    );
    cases.push(Case::build("literal/one-value-two-outputs", |graph| {
        let (x, word, sentence) = words(graph, DType::F32)?;
        let y = graph.fold(x, word, Reduce::new(Reducer::Mean))?;
        let z = graph.fold(y, sentence, Reduce::new(Reducer::Sum))?;
        for (name, value) in [("y", y), ("y-again", y), ("z", z), ("z-again", z)] {
            graph.output(name, value)?;
        }
        Ok(())
    }));
    cases.push(Case::build("literal/unused", |graph| {
        let (x, word, sentence) = words(graph, DType::F32)?;
        let unused = graph.input("unused", DType::F16, 6, 2)?;
        let y = graph.fold(x, word, Reduce::new(Reducer::Mean))?;
        graph.fold(y, sentence, Reduce::new(Reducer::Sum))?;
        graph.fold(unused, sentence, Reduce::new(Reducer::Max))?;
        graph.output("y", y)
    }));
    cases.push(Case::build("literal/names-that-meet", |graph| {
        // An input, a level and an output of one name each, and a level named as another's step.
        let x = graph.input("a", DType::F32, 20, 2)?;
        let weights = graph.weights("a.reduce", DType::F32, 20)?;
        let (a, b) = (graph.table("a", &lengths(&[10, 10]))?, graph.table("a.stack", &lengths(&[2]))?);
        let y = graph.fold(x, a, Reduce::new(Reducer::Mean).weights(weights))?;
        let z = graph.fold(y, b, Reduce::new(Reducer::Sum))?;
        graph.output("a", y)?;
        graph.output("a.stack", z)
    }));
    cases
}
