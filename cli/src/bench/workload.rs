//! What is measured: hierarchies and data that follow from a seed.
//!
//! Lengths are drawn with integers only and values are exact in `f32`, so a workload has the same bits on every machine.

use super::case::Order;
use super::random;
use crate::memory::Tensor;
use half::{bf16, f16};
use levelfold::error::suggestion;
use levelfold::spec::LeafSource;
use levelfold::{DType, Error, ErrorCode, Hierarchy, Leaves, Level, Plan, Reducer, Segments};

/// A workload that this command knows by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Workload {
    /// Characters, words (1-15, mean 5.2), sentences (1-60 words, mean 18), paragraphs (1-12 sentences, mean 5), one corpus
    Text,
    /// The same over bytes that look up a table of 256 rows
    Lookup,
    /// That, and only the corpus is kept: a sum of sums, unless --reduce says otherwise
    LookupCoarse,
    /// One segment has half of all rows, the others one row each
    Skewed,
    /// 2000 rows in words, nothing above: what a call costs
    Tiny,
    /// Eight levels of 1-7 rows each
    Deep,
    /// Text with 1024 features
    Wide,
    /// One segment of all rows
    Flat,
    /// One level, every segment one row
    Ones,
}

/// The sizes of a workload.
#[derive(Clone, Debug)]
pub(crate) struct Size {
    /// Leaf rows.
    pub(crate) rows: u64,
    /// Features.
    pub(crate) features: u64,
    /// The type of the values.
    pub(crate) dtype: DType,
    /// The reducers of every level.
    pub(crate) reduce: Vec<Reducer>,
    /// Only so many levels, counted from the lowest.
    pub(crate) levels: Option<usize>,
    /// Which levels are kept.
    pub(crate) keep: Keep,
    /// How values lie in memory.
    pub(crate) order: Order,
    /// Where the data comes from.
    pub(crate) seed: u64,
}

impl Default for Size {
    fn default() -> Self {
        Size {
            rows: ROWS,
            features: 64,
            dtype: DType::F32,
            reduce: vec![Reducer::Mean],
            levels: None,
            keep: Keep::Default,
            order: Order::RowMajor,
            seed: 1,
        }
    }
}

/// Which levels of a workload are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Those that the workload keeps of itself.
    #[default]
    Default,
    /// Every one.
    All,
    /// Nothing but the top one, which is always kept.
    Top,
    /// These, and the top one.
    Named(Vec<String>),
}

impl Keep {
    /// Of the words of the command line.
    ///
    /// # Errors
    /// `option` where one of the three words that say everything stands beside others.
    pub(crate) fn of(words: &[String]) -> Result<Self, Error> {
        let word = |text: &str| words.iter().any(|word| word == text);
        match words {
            [] => Ok(Keep::Default),
            [one] if one == "default" => Ok(Keep::Default),
            [one] if one == "all" => Ok(Keep::All),
            [one] if one == "top" => Ok(Keep::Top),
            _ if word("default") || word("all") || word("top") => {
                Err(Error::new(ErrorCode::Option, format!("`--keep {}` says more than one thing", words.join(",")))
                    .help("write default, all, top, or the names of levels"))
            }
            names => Ok(Keep::Named(names.to_vec())),
        }
    }

    fn apply(&self, levels: &mut [Level]) -> Result<(), Error> {
        if let Keep::Named(names) = self {
            let known: Vec<&str> = levels.iter().map(|level| &*level.name).collect();
            if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
                return Err(Error::new(ErrorCode::UnknownName, format!("the workload has no level `{name}` to keep"))
                    .help(suggestion(name, &known)));
            }
        }
        for level in levels {
            level.keep = match self {
                Keep::Default => level.keep,
                Keep::All => true,
                Keep::Top => false,
                Keep::Named(names) => names.iter().any(|name| **name == *level.name),
            };
        }
        Ok(())
    }
}

/// Lengths of the units of a language: `1 + uniform(0..=long)` in this share of the cases (of 10 000), `1 + uniform(0..=short)` in the others.
struct Lengths {
    long: u64,
    short: u64,
    share: u64,
}

const WORDS: Lengths = Lengths { long: 14, short: 4, share: 4400 };
const SENTENCES: Lengths = Lengths { long: 59, short: 16, share: 4186 };
const PARAGRAPHS: Lengths = Lengths { long: 11, short: 4, share: 5714 };
const DEEP: Lengths = Lengths { long: 6, short: 6, share: 0 };

/// With 64 features 256 MiB of `f32`: more than the caches of most machines.
const ROWS: u64 = 1 << 20;

impl Workload {
    /// As it is given on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Workload::Text => "text",
            Workload::Lookup => "lookup",
            Workload::LookupCoarse => "lookup-coarse",
            Workload::Skewed => "skewed",
            Workload::Tiny => "tiny",
            Workload::Deep => "deep",
            Workload::Wide => "wide",
            Workload::Flat => "flat",
            Workload::Ones => "ones",
        }
    }

    /// Leaf rows, where nothing is said.
    pub(crate) fn rows(self) -> u64 {
        match self {
            Workload::Text
            | Workload::Lookup
            | Workload::LookupCoarse
            | Workload::Skewed
            | Workload::Deep
            | Workload::Flat
            | Workload::Ones => ROWS,
            Workload::Tiny => 2000,
            Workload::Wide => ROWS / 16,
        }
    }

    /// Features, where nothing is said.
    pub(crate) fn features(self) -> u64 {
        match self {
            Workload::Wide => 1024,
            Workload::Text
            | Workload::Lookup
            | Workload::LookupCoarse
            | Workload::Skewed
            | Workload::Tiny
            | Workload::Deep
            | Workload::Flat
            | Workload::Ones => 64,
        }
    }

    /// The reducer of every level, where nothing is said.
    pub(crate) fn reduce(self) -> Reducer {
        match self {
            // Means of means are no mean: only sums become one fold.
            Workload::LookupCoarse => Reducer::Sum,
            Workload::Text
            | Workload::Lookup
            | Workload::Skewed
            | Workload::Tiny
            | Workload::Deep
            | Workload::Wide
            | Workload::Flat
            | Workload::Ones => Reducer::Mean,
        }
    }

    /// The hierarchy, its segments drawn from the seed.
    ///
    /// # Errors
    /// What the sizes make impossible.
    pub(crate) fn hierarchy(self, size: &Size) -> Result<Hierarchy, Error> {
        let &Size { rows, features, .. } = size;
        let leaves = match self {
            Workload::Lookup | Workload::LookupCoarse => Leaves::lookup("char", DType::U8, size.dtype, 256, features),
            Workload::Text | Workload::Tiny | Workload::Wide => Leaves::values("char", size.dtype, features),
            Workload::Skewed | Workload::Deep | Workload::Flat | Workload::Ones => Leaves::values("row", size.dtype, features),
        };
        let mut levels = match self {
            Workload::Tiny => vec![Level::new("word", drawn(&WORDS, size.seed, 1, rows)?)],
            Workload::Text | Workload::Lookup | Workload::LookupCoarse | Workload::Wide => {
                let words = drawn(&WORDS, size.seed, 1, rows)?;
                let sentences = drawn(&SENTENCES, size.seed, 2, words.len())?;
                let paragraphs = drawn(&PARAGRAPHS, size.seed, 3, sentences.len())?;
                let corpus = Segments::whole(paragraphs.len());
                vec![
                    Level::new("word", words),
                    Level::new("sentence", sentences).keep(),
                    Level::new("paragraph", paragraphs).keep(),
                    Level::new("corpus", corpus),
                ]
            }
            Workload::Skewed => {
                let half = rows / 2;
                let mut lengths = ones(rows - half)?;
                let middle = lengths.len() / 2;
                if half > 0 {
                    lengths.insert(middle, half);
                }
                let groups = Segments::from_lengths(&lengths)?;
                let all = Segments::whole(groups.len());
                vec![Level::new("group", groups).keep(), Level::new("all", all)]
            }
            Workload::Deep => {
                let mut levels = Vec::new();
                let mut below = rows;
                for depth in 1..=7 {
                    let segments = drawn(&DEEP, size.seed, depth, below)?;
                    below = segments.len();
                    levels.push(Level::new(&format!("level{depth}"), segments));
                }
                levels.push(Level::new("level8", Segments::whole(below)));
                levels
            }
            Workload::Flat => vec![Level::new("all", Segments::whole(rows))],
            Workload::Ones => vec![Level::new("segment", Segments::from_lengths(&ones(rows)?)?)],
        };
        if let Some(count) = size.levels {
            if count == 0 || count > levels.len() {
                let message = format!("{} has {} level(s), not {count}", self.name(), levels.len());
                return Err(Error::new(ErrorCode::Option, message).help("--levels takes a number from 1 to that"));
            }
            levels.truncate(count);
        }
        if let Workload::LookupCoarse = self {
            levels.iter_mut().for_each(|level| level.keep = false);
        }
        size.keep.apply(&mut levels)?;
        for level in &mut levels {
            level.reduce = size.reduce.clone();
        }
        Ok(Hierarchy { leaves: leaves.rows(rows), levels, top: None })
    }
}

/// Segments over `rows` rows, of lengths that are drawn until the rows are used up; the last is as long as what is left.
fn drawn(lengths: &Lengths, seed: u64, stream: u64, rows: u64) -> Result<Segments, Error> {
    let mut all = Vec::new();
    // About as many as there will be: what no memory holds is found before it is drawn.
    let average = 1 + lengths.short.div_ceil(2);
    all.try_reserve(narrow(rows / average)?).map_err(|_| too_many(rows))?;
    let mut left = rows;
    let mut index = 0;
    while left > 0 {
        let longest = if random::below(random::at(seed, stream, 2 * index), 10_000) < lengths.share { lengths.long } else { lengths.short };
        let length = 1 + random::below(random::at(seed, stream, 2 * index + 1), longest + 1);
        all.push(length.min(left));
        left -= length.min(left);
        index += 1;
    }
    Segments::from_lengths(&all)
}

/// Segments of one row.
fn ones(count: u64) -> Result<Vec<u64>, Error> {
    let mut lengths = Vec::new();
    lengths.try_reserve(narrow(count)?).map_err(|_| too_many(count))?;
    lengths.resize(narrow(count)?, 1);
    Ok(lengths)
}

fn too_many(rows: u64) -> Error {
    Error::new(ErrorCode::MemoryLimit, format!("the system has no memory for the segments of {rows} rows")).help("take fewer with --rows")
}

fn narrow(count: u64) -> Result<usize, Error> {
    usize::try_from(count).map_err(|_| Error::new(ErrorCode::Overflow, format!("{count} rows are more than this machine can address")))
}

/// Data for every input of a plan that `given` does not name: values in [−1, 1), near 1 where something multiplies them, ids below their
/// table, weights in (0, 1].
///
/// # Errors
/// `overflow`.
pub(crate) fn data(hierarchy: &Hierarchy, plan: &Plan, given: &[&str], seed: u64) -> Result<Vec<Tensor>, Error> {
    let multiplies = hierarchy.levels.iter().any(|level| level.reduce.contains(&Reducer::Prod));
    let ids_below = match &hierarchy.leaves.source {
        LeafSource::Lookup { table, .. } => table.rows,
        LeafSource::Values { .. } => 0,
    };
    let is_weight = |name: &str| hierarchy.levels.iter().any(|level| level.weights.as_ref().is_some_and(|weights| *weights.name == *name));
    let mut tensors = Vec::new();
    for (stream, (_, buffer)) in (100..).zip(plan.inputs()) {
        if given.contains(&&*buffer.name) {
            continue;
        }
        let mut tensor = Tensor::zeroed(&buffer.name, buffer.dtype, buffer.rows, buffer.features)?;
        let number = |index: u64| random::at(seed, stream, index);
        let value = |index: u64| match random::unit(number(index)) {
            unit if is_weight(&buffer.name) => (unit + 1.0) / 2.0 + f32::EPSILON,
            unit if multiplies => 1.0 + unit / 64.0,
            unit => unit,
        };
        // Low ids are drawn more often, as in text.
        let id = |index: u64| {
            let number = number(index);
            random::below(number, random::below(number.rotate_left(32), ids_below) + 1)
        };
        let bytes = tensor.bytes.as_mut();
        match buffer.dtype {
            DType::F32 => fill::<f32>(bytes, value),
            DType::F64 => fill(bytes, |index| f64::from(value(index))),
            DType::F16 => fill(bytes, |index| f16::from_f32(value(index))),
            DType::BF16 => fill(bytes, |index| bf16::from_f32(value(index))),
            // Ids that their type cannot hold are not drawn.
            DType::U8 => fill(bytes, |index| u8::try_from(id(index)).unwrap_or(0)),
            DType::U16 => fill(bytes, |index| u16::try_from(id(index)).unwrap_or(0)),
            DType::U32 => fill(bytes, |index| u32::try_from(id(index)).unwrap_or(0)),
            DType::I32 => fill(bytes, |index| i32::try_from(id(index)).unwrap_or(0)),
            DType::I64 => fill(bytes, |index| i64::try_from(id(index)).unwrap_or(0)),
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn fill<T: bytemuck::Pod>(bytes: &mut [u8], value: impl Fn(u64) -> T) {
    for (index, place) in (0..).zip(bytemuck::cast_slice_mut::<u8, T>(bytes)) {
        *place = value(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;
    use levelfold::spec::SegmentSource;

    fn size(rows: u64) -> Size {
        Size { rows, features: 2, reduce: vec![Reducer::Sum], seed: 7, ..Size::default() }
    }

    fn segments(hierarchy: &Hierarchy, level: usize) -> &Segments {
        match &hierarchy.levels[level].segments {
            SegmentSource::Inline(segments) => segments,
            SegmentSource::Binding(name) => panic!("{name} is not bound"),
        }
    }

    #[test]
    fn text_has_the_lengths_of_text() {
        let hierarchy = Workload::Text.hierarchy(&size(1_000_000)).unwrap();
        for (level, longest, mean) in [(0, 15, 5.2), (1, 60, 18.0), (2, 12, 5.0)] {
            let segments = segments(&hierarchy, level);
            let found = segments.rows() as f64 / segments.len() as f64;
            assert_eq!(segments.longest(), longest);
            assert!((found - mean).abs() < 0.05 * mean, "level {level}: mean {found}, wanted {mean}");
        }
    }

    #[test]
    fn every_workload_is_a_hierarchy_at_every_size() {
        for &workload in Workload::value_variants() {
            for rows in [0, 1, 2, 3, 64, 65, 1000] {
                let hierarchy = workload.hierarchy(&size(rows)).unwrap();
                // A mean over no row has no value; the sums of these specs do.
                hierarchy.graph().unwrap_or_else(|error| panic!("{workload:?} with {rows} rows: {error}"));
            }
        }
    }

    #[test]
    fn levels_are_cut_off_and_kept_as_asked() {
        let kept = |levels, keep: &[&str]| {
            let keep = Keep::of(&keep.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())?;
            let hierarchy = Workload::Text.hierarchy(&Size { levels, keep, ..size(500) })?;
            Ok(hierarchy.levels.iter().map(|level| level.keep).collect::<Vec<bool>>())
        };
        let message = |result: Result<Vec<bool>, Error>| result.unwrap_err().to_string();
        assert_eq!(kept(None, &[]).unwrap(), [false, true, true, false]);
        assert_eq!(kept(Some(1), &["default"]).unwrap(), [false]);
        assert_eq!(kept(None, &["all"]).unwrap(), [true; 4]);
        assert_eq!(kept(Some(3), &["top"]).unwrap(), [false; 3]);
        assert_eq!(kept(None, &["word", "corpus"]).unwrap(), [true, false, false, true]);
        assert!(message(kept(Some(5), &[])).contains("text has 4 level(s), not 5"));
        assert!(message(kept(None, &["wrod"])).contains("did you mean `word`?"));
        assert!(message(kept(None, &["all", "word"])).contains("says more than one thing"));
        let coarse = Workload::LookupCoarse.hierarchy(&size(500)).unwrap();
        assert!(coarse.levels.iter().all(|level| !level.keep));
    }

    #[test]
    fn the_same_seed_gives_the_same_data() {
        let first: Vec<u64> = (0..4).map(|index| random::at(1, 2, index)).collect();
        assert_eq!(first, (0..4).map(|index| random::at(1, 2, index)).collect::<Vec<_>>());
        assert_ne!(first, (0..4).map(|index| random::at(2, 2, index)).collect::<Vec<_>>());
        let one = Workload::Text.hierarchy(&size(5000)).unwrap();
        assert_eq!(one, Workload::Text.hierarchy(&size(5000)).unwrap());
        assert_ne!(one, Workload::Text.hierarchy(&Size { seed: 8, ..size(5000) }).unwrap());
        let units: Vec<f32> = (0..1000).map(|index| random::unit(random::at(3, 4, index))).collect();
        assert!(
            units.iter().all(|unit| (-1.0..1.0).contains(unit))
                && units.iter().any(|&unit| unit < -0.9)
                && units.iter().any(|&unit| unit > 0.9)
        );
    }
}
