//! How long planning takes: one four-level graph with small tables, and how it grows with the segments.
//!
//! `cargo bench --bench planning`. Prints medians over many rounds; every plan is used (its step count is added up), so nothing is
//! optimized away.

use levelfold::backend::Target;
use levelfold::optimize::Planner;
use levelfold::{DType, Hierarchy, Leaves, Level, OptLevel, Reducer, Segments};
use std::time::Instant;

/// Words of 5 characters, sentences of 18 words, paragraphs of 5 sentences, one corpus.
fn lengths(words: u64) -> [Vec<u64>; 4] {
    let group = |rows: u64, size: u64| -> Vec<u64> {
        let full = rows / size;
        let rest = rows % size;
        (0..full).map(|_| size).chain((rest > 0).then_some(rest)).collect()
    };
    let sentences = group(words, 18);
    let paragraphs = group(sentences.len() as u64, 5);
    let corpus = vec![paragraphs.len() as u64];
    [vec![5; usize::try_from(words).expect("few words")], sentences, paragraphs, corpus]
}

fn hierarchy(tables: &[Segments; 4]) -> Hierarchy {
    Hierarchy::new(Leaves::values("char", DType::F32, 64))
        .level(Level::new("word", tables[0].clone()).reduce(Reducer::Mean))
        .level(Level::new("sentence", tables[1].clone()).reduce(Reducer::Mean).keep())
        .level(Level::new("paragraph", tables[2].clone()).reduce(Reducer::Mean).keep())
        .level(Level::new("corpus", tables[3].clone()).reduce(Reducer::Mean))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let mut steps = 0;
    println!("{:>9} {:>12} {:>12} {:>12} {:>12}", "words", "tables µs", "graph µs", "-O0 µs", "-O1 µs");
    for words in [100u64, 1_000, 10_000, 100_000, 1_000_000] {
        let lengths = lengths(words);
        let rounds = if words > 50_000 { 40 } else { 1_000 };
        let [mut tables_us, mut graph_us, mut literal_us, mut default_us] = [const { Vec::new() }; 4];
        let lap = |from: Instant, times: &mut Vec<f64>| times.push(from.elapsed().as_secs_f64() * 1e6);
        for _ in 0..rounds {
            let start = Instant::now();
            let tables = [0, 1, 2, 3].map(|level: usize| Segments::from_lengths(&lengths[level]).expect("lengths"));
            lap(start, &mut tables_us);
            let hierarchy = hierarchy(&tables);
            let start = Instant::now();
            let graph = hierarchy.graph().expect("a graph");
            lap(start, &mut graph_us);
            for (opt, times) in [(OptLevel::O0, &mut literal_us), (OptLevel::O1, &mut default_us)] {
                let planner = Planner::new(Target::new("cpu")).opt(opt);
                let graph = graph.clone();
                let start = Instant::now();
                steps += planner.plan(graph).expect("a plan").plan.steps.len();
                lap(start, times);
            }
        }
        println!(
            "{words:>9} {:>12.1} {:>12.1} {:>12.1} {:>12.1}",
            median(tables_us),
            median(graph_us),
            median(literal_us),
            median(default_us)
        );
    }
    println!("{steps} steps planned");
}
