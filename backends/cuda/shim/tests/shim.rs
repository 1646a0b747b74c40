//! The shim itself: it does what CUDA does, and sees what CUDA would only suffer from.

use levelfold_cuda_shim::{Flavour, Module, Schedule, Shim, libraries, skip};

/// What every test kernel takes.
#[repr(C)]
#[derive(Clone, Copy)]
struct Args {
    out: u64,
    from: u64,
}

const PRELUDE: &str = "
    typedef unsigned int u32;
    typedef unsigned char u8;
    struct Args { u32* out; const u8* from; };
";

fn shim(what: &str) -> Option<Shim> {
    match libraries(Flavour::Plain).and_then(|built| Shim::open(&built)) {
        Ok(shim) => Some(shim),
        Err(reason) => {
            skip(what, &reason);
            None
        }
    }
}

fn compile(shim: &Shim, body: &str, threads: u32) -> Module {
    let source = format!("{PRELUDE}\nLF_KERNEL(test, Args, {threads}) {{\n  const u32 t = threadIdx.x;\n{body}\n}}\n");
    shim.compile(&source, &["--fmad=false".to_owned()]).unwrap_or_else(|log| panic!("{log}"))
}

const SCHEDULES: [Schedule; 4] = [Schedule::Forward, Schedule::Reverse, Schedule::Random(1), Schedule::Random(2)];

/// Runs two blocks of a kernel over as many results as it has threads.
fn run(module: &Module, threads: u32, schedule: Schedule) -> Result<Vec<u32>, String> {
    let mut out = vec![0u32; 2 * usize::try_from(threads).expect("few")];
    let from: Vec<u64> = (0..64).collect();
    let args = Args { out: out.as_mut_ptr().addr() as u64, from: from.as_ptr().addr() as u64 };
    // SAFETY: kernels of this file write one result a thread, and read what they are given.
    unsafe { module.kernel("test")?.launch(2, threads, 512, &args, schedule) }?;
    Ok(out)
}

/// The same under every schedule.
fn results(shim: &Shim, body: &str, threads: u32) -> Vec<u32> {
    let module = compile(shim, body, threads);
    let [first, others @ ..] = SCHEDULES.map(|schedule| run(&module, threads, schedule).unwrap_or_else(|error| panic!("{error}")));
    for other in others {
        assert_eq!(first, other, "a schedule changes results");
    }
    first
}

/// What is said about a kernel that is wrong.
fn error(shim: &Shim, body: &str, threads: u32) -> String {
    let module = compile(shim, body, threads);
    run(&module, threads, Schedule::Forward).expect_err("the kernel is wrong")
}

#[test]
fn shuffles_keep_to_their_width() {
    let Some(shim) = shim("shuffles") else { return };
    let lane = |f: &dyn Fn(u32) -> u32| (0..2).flat_map(|_| (0..64).map(|t| t / 32 * 32 + f(t % 32))).collect::<Vec<u32>>();
    let shuffled = |call: &str| results(&shim, &format!("args.out[blockIdx.x * 64 + t] = {call};"), 64);
    let all = "0xffffffffu, t";
    assert_eq!(shuffled(&format!("__shfl_sync({all}, 5)")), lane(&|_| 5));
    assert_eq!(shuffled(&format!("__shfl_sync({all}, 5, 4)")), lane(&|l| l / 4 * 4 + 1));
    assert_eq!(shuffled(&format!("__shfl_up_sync({all}, 3)")), lane(&|l| if l < 3 { l } else { l - 3 }));
    assert_eq!(shuffled(&format!("__shfl_up_sync({all}, 3, 8)")), lane(&|l| if l % 8 < 3 { l } else { l - 3 }));
    assert_eq!(shuffled(&format!("__shfl_down_sync({all}, 3, 8)")), lane(&|l| if l % 8 + 3 > 7 { l } else { l + 3 }));
    assert_eq!(shuffled(&format!("__shfl_xor_sync({all}, 16)")), lane(&|l| l ^ 16));
    // Beyond its group, later: its own value. Earlier: theirs.
    assert_eq!(shuffled(&format!("__shfl_xor_sync({all}, 8, 8)")), lane(&|l| if l & 8 == 0 { l } else { l ^ 8 }));
}

#[test]
fn votes_atomics_and_barriers_work() {
    let Some(shim) = shim("votes") else { return };
    let votes = results(&shim, "args.out[blockIdx.x * 32 + t] = __ballot_sync(0xffffffffu, t % 3 == 0);", 32);
    assert_eq!(votes, [0x4924_9249; 64]);
    let any = results(&shim, "args.out[blockIdx.x * 32 + t] = __any_sync(0xffffffffu, t == 7) + 2 * __all_sync(0xffffffffu, t < 31);", 32);
    assert_eq!(any, [1; 64]);
    // Two blocks of 96 threads add up their numbers, in static and in dynamic shared memory.
    let sums = "
        __shared__ u32 sum;
        LF_SHARED(shared);
        u32* numbers = (u32*)shared;
        if (t == 0) sum = 0;
        numbers[t] = t;
        __syncthreads();
        atomicAdd(&sum, numbers[(t + 50) % 96]);
        __syncthreads();
        args.out[blockIdx.x * 96 + t] = sum + blockIdx.x;";
    let found = results(&shim, sums, 96);
    assert_eq!((found[0], found[95], found[96], found[191]), (4560, 4560, 4561, 4561));
}

#[test]
fn copies_under_way_are_poison_until_they_are_waited_for() {
    let Some(shim) = shim("copies") else { return };
    let body = |wait: &str| {
        format!(
            "LF_SHARED(shared);
             bring<4>(shared + 4 * t, args.from + 8 * t); sent();
             bring<4>(shared + 256 + 4 * t, args.from + 8 * t); sent();
             {wait}
             args.out[blockIdx.x * 32 + t] = *(u32*)(shared + 4 * t);"
        )
    };
    assert_eq!(results(&shim, &body("arrived<1>();"), 32)[..32], (0..32).collect::<Vec<u32>>());
    assert_eq!(results(&shim, &body("arrived<2>();"), 32)[..2], [0xa5a5_a5a5; 2]);
}

#[test]
fn a_missing_barrier_shows_under_some_schedule() {
    let Some(shim) = shim("a missing barrier") else { return };
    let body = "LF_SHARED(shared); u32* numbers = (u32*)shared; numbers[t] = t; args.out[blockIdx.x * 32 + t] = numbers[t ^ 1];";
    let module = compile(&shim, body, 32);
    let wanted: Vec<u32> = (0..64).map(|t| (t % 32) ^ 1).collect();
    assert!(SCHEDULES.iter().any(|&schedule| run(&module, 32, schedule).expect("it runs") != wanted));
}

#[test]
fn who_waits_for_what_never_comes_is_named() {
    let Some(shim) = shim("waiting") else { return };
    // The kernel's body begins in line 8 of the source.
    let left = error(&shim, "if (t == 3) return;\n__syncthreads();", 32);
    assert!(
        left.starts_with("1 threads have ended, and the others wait for what will not come; thread 0 waits at the barrier in line 9; "),
        "{left}"
    );
    assert!(left.ends_with("; … in block (0, 0, 0) of test"), "{left}");
    let apart = error(&shim, "if (t == 3) { __syncthreads(); } else {\n __syncthreads(); }", 32);
    assert!(apart.contains("thread 3 waits at the barrier"), "{apart}");
    let lane = error(&shim, "if (t < 31) __syncwarp();", 32);
    assert!(lane.contains("for lanes ffffffff"), "{lane}");
    let outside = error(&shim, "if (t < 16) args.out[t] = __shfl_sync(0xffffu, t, 20);", 32);
    assert!(outside.contains("thread 0 asks lane 20, which takes no part"), "{outside}");
    let not_in = error(&shim, "__syncwarp(0xfffffffeu);", 32);
    assert!(not_in.contains("thread 0 is not in the mask"), "{not_in}");
}

#[test]
fn bytes_out_of_place_are_seen() {
    let Some(shim) = shim("bytes out of place") else { return };
    let behind = error(&shim, "LF_SHARED(shared); if (t == 0) shared[512] = 1;", 32);
    assert!(behind.starts_with("bytes behind the shared memory were written"), "{behind}");
    let crooked = error(&shim, "LF_SHARED(shared); bring<16>(shared + 16 * t, args.from + 8); sent();", 8);
    assert!(crooked.contains("brings bytes that are not aligned"), "{crooked}");
    let across = error(&shim, "*(unsigned long long*)(args.out + 1) = t;", 1);
    assert!(across.starts_with("thread 0 touches 0x") && across.contains("which is not aligned to 8 bytes, in line 8"), "{across}");
    let beyond = error(&shim, "LF_SHARED(shared); bring<4>(shared + 512, args.from); sent();", 1);
    assert!(beyond.contains("where no shared memory is"), "{beyond}");
    let module = compile(&shim, "args.out[t] = 0;", 32);
    let many = run(&module, 64, Schedule::Forward).expect_err("too many threads");
    assert!(many.starts_with("a launch of 64 threads a block, of up to 32"), "{many}");
}

#[test]
fn sources_that_do_not_compile_say_why() {
    let Some(shim) = shim("compiling") else { return };
    let log = shim.compile("int x = y;", &[]).err().expect("it does not compile");
    assert!(log.contains('y'), "{log}");
    let option = shim.compile("", &["-nonsense".to_owned()]).err().expect("no such option");
    assert_eq!(option, "unknown option -nonsense");
}
