//! Faults that are planted into the kernels, one at a time: each has to be caught, or the checks are worth nothing. docs/cuda.md lists them.

use crate::specs::{self, Named};
use crate::{Compiled, check, compile, compile_fold, maps, moves, seeds, shim, unchanged};
use levelfold::{DType, Reducer};
use levelfold_cuda::spec::{COMPILE_OPTIONS, KernelSpec};
use levelfold_cuda_shim::{Flavour, Shim, skip};

/// Which source is changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Where {
    Fold,
    Finish,
    Moves,
    Maps,
}

/// What is run to catch it.
pub(crate) enum Check {
    /// Cases of the kernel of this name.
    Cases(&'static str),
    /// Second passes over partials.
    Finishes,
    /// The same of a reducer with a state.
    FinishesOf(Reducer),
    /// Copies.
    Copies,
    /// Roundings to this type.
    Roundings(DType),
    /// Operations on rows.
    Maps,
}

/// One fault: a text of the source and what stands there instead.
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) place: Where,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    pub(crate) caught_by: Check,
    /// Part of what is said about it.
    pub(crate) says: &'static str,
}

const fn fold(name: &'static str, from: &'static str, to: &'static str, kernel: &'static str, says: &'static str) -> Fault {
    Fault { name, place: Where::Fold, from, to, caught_by: Check::Cases(kernel), says }
}

const fn moved(name: &'static str, from: &'static str, to: &'static str, caught_by: Check, says: &'static str) -> Fault {
    Fault { name, place: Where::Moves, from, to, caught_by, says }
}

/// A wrong number.
const BITS: &str = "and not";

/// What bits and the shim's own rules catch.
pub(crate) static FAULTS: [Fault; 28] = [
    fold(
        "a removed barrier between bringing a tile and taking it",
        "__syncwarp();\n    if (active) walk",
        "if (active) walk",
        "f32 mean, tiles",
        BITS,
    ),
    moved(
        "a removed barrier before eight warps are paired",
        "__syncthreads();\n  double value[8];",
        "double value[8];",
        Check::Finishes,
        BITS,
    ),
    moved("a removed barrier between values and weights", "__syncthreads();\n  return pairs", "return pairs", Check::Finishes, BITS),
    moved(
        "lanes without a column leave before a barrier",
        "double value, weight = 0.0;",
        "double value, weight = 0.0;\n  if (!on) return;",
        Check::Cases("f32 sum"),
        "the others wait for what will not come",
    ),
    fold("no wait for what is under way", "arrived<BATCHES - 1>();\n    const Index next", "const Index next", "f32 sum", BITS),
    fold(
        "a wait for one batch too few",
        "arrived<BATCHES - 1>();\n    const Index next",
        "arrived<BATCHES>();\n    const Index next",
        "f32 sum",
        BITS,
    ),
    fold(
        "a batch is brought over one that was not taken",
        "(batch + BATCHES - 1) % BATCHES",
        "(batch + BATCHES - 2) % BATCHES",
        "bf16 mean",
        BITS,
    ),
    fold("blocks end one row late", "at + BLOCK_ROWS : end;", "at + BLOCK_ROWS + 1 : end;", "f32 sum", BITS),
    fold("blocks end one row early", "at + BLOCK_ROWS : end;", "at + BLOCK_ROWS - 1 : end;", "f64 sum", BITS),
    fold(
        "rows are taken for dense",
        "(LF_SOURCE == PACKED ? (i64)sizeof(Raw) : args.row_stride)",
        "(LF_SOURCE == PACKED ? (i64)sizeof(Raw) : (i64)(args.features * sizeof(Raw)))",
        "f32 sum",
        BITS,
    ),
    fold(
        "result rows are taken for dense",
        "(i64)segment * to.out_row_stride",
        "(i64)segment * (i64)(args_features * sizeof(Out))",
        "f32 prod, by 4",
        BITS,
    ),
    fold(
        "NaN keeps its payload",
        "nearest(float x) { return x != x ? float_of(0x7fc00000u) : x; }",
        "nearest(float x) { return x; }",
        "f32 sum",
        BITS,
    ),
    fold("sums start at +0", "default: return (T)-0.0;", "default: return (T)0.0;", "f32 sum", BITS),
    fold(
        "what is left is combined from the oldest",
        "value[c] = groups[d][c];\n  for (++d; blocks >> d; ++d) {",
        "value[c] = groups[31 - __builtin_clz(blocks)][c];\n  const int low = d;\n  for (d = 30 - __builtin_clz(blocks); d >= low; --d) {",
        "f64 sum",
        BITS,
    ),
    moved(
        "neighbours four apart are paired first",
        "for (int apart = 1; apart < N; apart *= 2)",
        "for (int apart = N / 2; apart; apart /= 2)",
        Check::Finishes,
        BITS,
    ),
    fold("partials go to the wrong row", "this->piece * args.features", "this->piece / 2 * args.features", "f32 sum", BITS),
    fold("a piece has one block too many", "blocks + 1 == args.piece_blocks", "blocks == args.piece_blocks", "f32 sum", BITS),
    fold(
        "a mean of one block divides by 32",
        "weight[r.value] : (Acc)(end - first);",
        "weight[r.value] : (Acc)BLOCK_ROWS;",
        "f32 mean to bf16",
        BITS,
    ),
    fold("weights are read by position", "(Index)(taken + shift) : taken;", "taken : taken;", "f32 weighted mean, by 8", BITS),
    fold("ids are read by position", "(Index)(at++ + shift)", "(Index)(at++)", "f32 mean, looked up", BITS),
    fold(
        "a level is not rounded before the next reads it",
        "fed.row[c] = Type<OUT>::widen(row[c]);",
        "fed.row[c] = (typename Type<OUT>::Acc)value[c];",
        "bf16 mean, mean+max, sum",
        BITS,
    ),
    fold("empty segments of a lower level are left out", "      fill(args, self, pairs);\n", "", "f32 mean of means", BITS),
    fold(
        "zeros of both signs are equal to a maximum",
        "larger = a == b ? with_bits(a, bits_of(a) & bits_of(b)) : larger;",
        "",
        "f64 max, tiles",
        BITS,
    ),
    moved(
        "f64 is rounded to f16 by way of f32",
        "(u16)0x7e00 : round_to_16_bits<5, 10>(x); }",
        "(u16)0x7e00 : round_to_16_bits<5, 10>((double)(float)x); }",
        Check::Roundings(DType::F16),
        "is rounded to",
    ),
    moved("half-way cases are rounded up", "rest == half && (kept & 1)", "rest == half", Check::Roundings(DType::BF16), "is rounded to"),
    moved(
        "a transposed copy forgets the row",
        "walk.column * (end - start) + (walk.row - start)",
        "walk.column * (end - start)",
        Check::Copies,
        "other bytes",
    ),
    fold(
        "results are stored whole where they are not aligned",
        "if (VECTOR > 1 && to.vector_store) {",
        "if (VECTOR > 1) {",
        "f32 sum",
        "not aligned",
    ),
    fold(
        "positions are counted in 32 bits where there are more",
        "typedef u64 Index;",
        "typedef u32 Index;",
        "f32 mean, tiles, 64 bits",
        BITS,
    ),
];

const fn finish(name: &'static str, from: &'static str, to: &'static str, kernel: &'static str, says: &'static str) -> Fault {
    Fault { name, place: Where::Finish, from, to, caught_by: Check::Cases(kernel), says }
}

/// The same, of reducers with a state.
pub(crate) static FAULTS_OF_STATES: [Fault; 16] = [
    fold(
        "rows are shifted by themselves",
        "const T shift = s.part[0] == (T)0 ? x : s.part[1];",
        "const T shift = x;",
        "f32 var, by 8",
        BITS,
    ),
    fold(
        "what is infinite is taken out of exponents",
        "{ return lf_magnitude(largest) == -lowest<T>() ? (T)0 : largest; }",
        "{ return largest; }",
        "f32 logsumexp+softmax, looked up by 8",
        BITS,
    ),
    fold(
        "the last of equal values is the largest",
        "value > older.part[0]",
        "value >= older.part[0]",
        "f32 norms and positions, by 8",
        BITS,
    ),
    fold(
        "a NaN is no better than a number",
        "|| (value != value && older.part[0] == older.part[0]);",
        ";",
        "f32 norms and positions, by 8",
        BITS,
    ),
    fold(
        "places are counted in each block",
        "(double)((at - first - 1) / BLOCK_ROWS * BLOCK_ROWS);",
        "0.0;",
        "f32 norms and positions, by 8",
        BITS,
    ),
    fold("the second pass leaves out the last row", "% BLOCK_ROWS + 1;", "% BLOCK_ROWS;", "f64 var, tiles", BITS),
    fold("no pass is closed", "    close_pass<0>();\n", "", "f32 var, by 8", BITS),
    fold(
        "two threads hold their rows in one place",
        "+ (index * THREADS + threadIdx.x);",
        "+ (index * THREADS + threadIdx.x / 2);",
        "f64 var, tiles",
        BITS,
    ),
    fold(
        "rows are held one place too far",
        "+ (index * THREADS + threadIdx.x);",
        "+ (index * THREADS + threadIdx.x + 1);",
        "f32 var, by 8",
        "shared memory",
    ),
    fold(
        "the second pass takes the weight of the block's first row",
        "again.row, at - rows + index, index);",
        "again.row, at - rows, index);",
        "bf16 weighted std to f32, by 4",
        BITS,
    ),
    fold(
        "the numbers of a state lie where those of the next piece do",
        "(this->piece * Of::TREE + plane) * args.features",
        "(this->piece + plane) * args.features",
        "f16 weighted logsumexp, by 4",
        BITS,
    ),
    fold(
        "a custom reducer combines its first row with nothing",
        "index ? with(s, x, w) : lift(x, w)",
        "with(s, x, w)",
        "bf16 odd, packed",
        BITS,
    ),
    finish(
        "the newest partials are not combined",
        "fold_states<LF_REDUCER>(groups, count, folded);",
        "fold_states<LF_REDUCER>(groups, count & (count - 1) ? count & (count - 1) : count, folded);",
        "f32 var, by 8",
        BITS,
    ),
    Fault {
        name: "a removed barrier before eight states are paired",
        place: Where::Finish,
        from: "  __syncthreads();\n",
        to: "",
        caught_by: Check::FinishesOf(Reducer::SoftMax),
        says: BITS,
    },
    finish(
        "a long segment counts the rows of its group only",
        "(double)group.rows",
        "(double)group.count",
        "f32 norms and positions, by 8",
        BITS,
    ),
    finish("a sample is taken for a population", "args.ddof);", "0);", "bf16 weighted std to f32, by 4", BITS),
];

/// Operations before and after a fold.
pub(crate) static FAULTS_OF_OPERATIONS: [Fault; 8] = [
    fold(
        "operations go the other way round",
        "constexpr OpSpec OP = List::at(N);",
        "constexpr OpSpec OP = List::at(List::COUNT - 1 - N);",
        "bf16 scale+relu, then mean+max, silu, cast to f32",
        BITS,
    ),
    fold(
        "an operation is not rounded before the next",
        "Type<OP.dtype>::widen(Type<OP.dtype>::nearest(operate<OP.kind>(x, OP.number)))",
        "(typename Type<OP.dtype>::Acc)operate<OP.kind>(x, OP.number)",
        "bf16 scale+relu, then mean+max, silu, cast to f32",
        BITS,
    ),
    fold(
        "a result is not rounded before it is operated on",
        "(Type<ROUNDED>::widen(rounded))",
        "((typename Type<ROUNDED>::Acc)value[c])",
        "bf16 scale+relu, then mean+max, silu, cast to f32",
        BITS,
    ),
    fold(
        "rows are folded as they are read",
        "x[c] = all_operations<Before<0>, LF_VALUE>(Type<LF_VALUE>::widen(packed.elements[c]));",
        "x[c] = Type<LF_VALUE>::widen(packed.elements[c]);",
        "f32 gelu, then sum",
        BITS,
    ),
    fold(
        "a level folds what comes to it as it is",
        "x[c] = all_operations<Before<STAGE>, fed_type(STAGE)>(row[c]);",
        "x[c] = (Acc)row[c];",
        "f16 sum, tanh; sigmoid, then weighted mean, scale, looked up",
        BITS,
    ),
    fold(
        "a filled segment of a lower level is not operated on",
        "if constexpr (After<STAGE, R>::COUNT == 0) row[c] = rounded;",
        "if (After<STAGE, R>::COUNT == 0 || end == first) row[c] = Type<OUT>::nearest(Type<ROUNDED>::widen(rounded));",
        "f16 sum, tanh; sigmoid, then weighted mean, scale, looked up",
        BITS,
    ),
    finished(
        "a long segment is not operated on",
        "store_float(at, args.out_type, all_operations<FinishOps, LF_FINISH_TYPE>(Type<LF_FINISH_TYPE>::widen(Type<LF_FINISH_TYPE>::nearest(value))));",
        "store_float(at, args.out_type, value);",
        "bf16 scale+relu, then mean+max, silu, cast to f32",
    ),
    finished(
        "a long segment is not rounded before it is operated on",
        "(Type<LF_FINISH_TYPE>::widen(Type<LF_FINISH_TYPE>::nearest(value)))",
        "((typename Type<LF_FINISH_TYPE>::Acc)value)",
        "f16 sum, tanh; sigmoid, then weighted mean, scale, looked up",
    ),
];

const fn finished(name: &'static str, from: &'static str, to: &'static str, kernel: &'static str) -> Fault {
    Fault { name, place: Where::Finish, from, to, caught_by: Check::Cases(kernel), says: BITS }
}

const fn mapped(name: &'static str, from: &'static str, to: &'static str, says: &'static str) -> Fault {
    Fault { name, place: Where::Maps, from, to, caught_by: Check::Maps, says }
}

/// Operations on whole rows.
pub(crate) static FAULTS_OF_MAPS: [Fault; 6] = [
    mapped("an operation on rows is not rounded before the next", "part.round_to(type);", "", BITS),
    mapped("other rows are those that are added first", "args.others[op.number]", "args.others[0]", BITS),
    mapped("neighbouring units overlap", "(i64)column[u] * N * rows.column_stride", "(i64)column[u] * rows.column_stride", "not aligned"),
    mapped("rows of f32 beside f64 are operated on in f64", "if (type == F64) part", "if (true) part", BITS),
    mapped("the last unit of a chunk is left out", "part.on[u] = walk.left;", "part.on[u] = walk.left > 1;", BITS),
    mapped(
        "what was read is not stepped over",
        "if (walk.left) walk.step();",
        "if (walk.left) u & 1 ? --walk.left : (walk.step(), 0);",
        BITS,
    ),
];

/// What only a sanitizer catches.
pub(crate) static FAULTS_OF_MEMORY: [Fault; 4] = [
    mapped(
        "rows beyond the last are read",
        "if (on[u]) units[u] = *(const Unit*)place(rows, u);",
        "units[u] = *(const Unit*)place(rows, u);",
        "AddressSanitizer: heap-buffer-overflow",
    ),
    fold(
        "a tile takes more columns than there are",
        "args.features - first < args.lanes ? args.features - first : args.lanes;",
        "args.lanes + 1;",
        "f32 mean, tiles",
        "AddressSanitizer: heap-buffer-overflow",
    ),
    fold(
        "rows beyond the run are brought",
        "if (at < limit) {\n        const Index row = next(args, self);\n        const u8* from",
        "{\n        const Index row = next(args, self);\n        const u8* from",
        "f32 prod, by 4",
        "AddressSanitizer",
    ),
    fold(
        "results are stored whole where they are not aligned",
        "if (VECTOR > 1 && to.vector_store) {",
        "if (VECTOR > 1) {",
        "f32 sum",
        "runtime error",
    ),
];

/// The source with the fault in it.
fn broken(fault: &Fault, source: &str) -> String {
    assert_eq!(source.matches(fault.from).count(), 1, "{}: the text to change stands there once", fault.name);
    let to = fault.to.replace("args_features", "(1 + self.column)");
    source.replace(fault.from, &to)
}

fn named(name: &str) -> (usize, Named) {
    specs::all().into_iter().enumerate().find(|(_, named)| named.name == name).expect("a kernel of this name")
}

/// Runs what has to catch a fault: the error, or nothing where it was not caught.
pub(crate) fn caught(shim: &Shim, fault: &Fault, cases: u64) -> Option<String> {
    let moves_source = KernelSpec::Moves.source();
    let moves_source = if fault.place == Where::Moves { broken(fault, &moves_source) } else { moves_source.into_owned() };
    let moves = compile(shim, &KernelSpec::Moves, &moves_source).unwrap_or_else(|log| panic!("{}: {log}", fault.name));
    match &fault.caught_by {
        Check::Finishes => moves::finishes(&moves, 0xf101_0000..0xf101_0000 + cases).err(),
        Check::FinishesOf(reducer) => {
            let spec = KernelSpec::FinishStates(reducer.clone());
            let finish = compile(shim, &spec, &broken(fault, &spec.source())).unwrap_or_else(|log| panic!("{}: {log}", fault.name));
            moves::finishes_of_states(reducer, &finish, 0xf15_7000..0xf15_7000 + cases).err()
        }
        Check::Copies => moves::copies(&moves, 0xc0b1_0000..0xc0b1_0000 + cases).err(),
        Check::Roundings(dtype) => moves::roundings(&moves, *dtype, &moves::midpoints(*dtype)).err(),
        Check::Maps => {
            let source = broken(fault, &KernelSpec::Maps.source());
            let module = compile(shim, &KernelSpec::Maps, &source).unwrap_or_else(|log| panic!("{}: {log}", fault.name));
            maps::maps(&module, maps::SEEDS..maps::SEEDS + cases).err()
        }
        Check::Cases(kernel) => {
            let (index, named) = named(kernel);
            let change = |spec: &KernelSpec| match (spec, fault.place) {
                (KernelSpec::Fold(_), Where::Fold) | (KernelSpec::FinishStates(_) | KernelSpec::FinishOperated { .. }, Where::Finish) => {
                    broken(fault, &spec.source())
                }
                _ => unchanged(spec),
            };
            let compiled = compile_fold(shim, &named, change).unwrap_or_else(|log| panic!("{}: {log}", fault.name));
            check(&named, &compiled, &moves, seeds(index, cases)).err()
        }
    }
}

fn all_faults() -> impl Iterator<Item = &'static Fault> {
    FAULTS.iter().chain(&FAULTS_OF_STATES).chain(&FAULTS_OF_OPERATIONS).chain(&FAULTS_OF_MAPS)
}

#[test]
fn planted_faults_are_caught() {
    let shim = match shim(Flavour::Plain) {
        Ok(shim) => shim,
        Err(reason) => return skip("planted faults", &reason),
    };
    let mut missed = Vec::new();
    for fault in all_faults() {
        match caught(&shim, fault, crate::CASES) {
            Some(error) if error.contains(fault.says) => println!("{}: caught by {error}", fault.name),
            Some(error) => missed.push(format!("{}: caught, but not as it should be: {error}", fault.name)),
            None => missed.push(format!("{}: not caught", fault.name)),
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    report!("{} planted faults, all caught", all_faults().count());
}

/// Products that are fused into sums: what `--fmad=false` is there for.
#[test]
fn fused_products_are_caught() {
    let shim = match shim(Flavour::Plain) {
        Ok(shim) => shim,
        Err(reason) => return skip("fused products", &reason),
    };
    #[cfg(target_arch = "x86_64")]
    if !std::arch::is_x86_feature_detected!("fma") {
        return println!("skipped: this machine's CPU fuses no products");
    }
    let (index, named) = named("f32 weighted mean, by 8");
    let spec = KernelSpec::Fold(named.spec.clone());
    let mut options: Vec<String> =
        COMPILE_OPTIONS.iter().filter(|option| **option != "--fmad=false").map(|&option| option.to_owned()).collect();
    options.extend(spec.defines());
    let compiled = Compiled { fold: shim.compile(&spec.source(), &options).expect("it compiles"), finish: Vec::new() };
    let moves = compile(&shim, &KernelSpec::Moves, &KernelSpec::Moves.source()).expect("the moves compile");
    let error = check(&named, &compiled, &moves, seeds(index, crate::CASES)).expect_err("other bits");
    assert!(error.contains(BITS), "{error}");
    println!("products are fused into sums: caught by {error}");
}
