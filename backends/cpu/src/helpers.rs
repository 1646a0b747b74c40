//! Threads that help with medium work: too much for one thread, too little to pay for waking a pool.
//!
//! The caller begins at once and takes tasks like anybody else; helpers join it while there are tasks. A helper looks out for the next job for a short
//! while, and then sleeps until it is woken. Who comes too late is not waited for, so that a sleeping helper costs what waking it costs and no more.
//!
//! *Invariant:* a job is only called between its opening and the return of [`Helpers::run`]: whoever entered it is waited for, and nobody enters
//! after it was closed.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a helper looks out for the next job before it sleeps.
const LOOKS_OUT: Duration = Duration::from_micros(150);
/// The most helpers: more would find no task left.
const MOST: usize = 7;

/// One job after the other, and who runs it.
pub(crate) struct Helpers {
    /// Held by the caller whose job it is; its threads are started by the first job.
    threads: Mutex<Vec<JoinHandle<()>>>,
    shared: Arc<Lookout>,
    wanted: usize,
}

/// What the caller and the helpers see.
struct Lookout {
    /// How often a job was opened or closed (odd while one is open), times 2^32, plus how many entered it.
    state: AtomicU64,
    /// How many of those have left it.
    left: AtomicUsize,
    ends: AtomicBool,
    job: UnsafeCell<Option<Job>>,
}

/// A job of the caller's stack. Called with the number of the helper.
type Job = *const (dyn Fn(usize) + Sync);

// SAFETY: the job is written while none is open and nobody is in one, and read by who has entered; it may be called from any thread.
unsafe impl Sync for Lookout {}
// SAFETY: as above.
unsafe impl Send for Lookout {}

const ONE: u64 = 1 << 32;

fn is_open(state: u64) -> bool {
    (state / ONE) % 2 == 1
}

impl Helpers {
    /// For work on so many threads, the caller included.
    pub(crate) fn new(threads: usize) -> Self {
        let shared =
            Lookout { state: AtomicU64::new(0), left: AtomicUsize::new(0), ends: AtomicBool::new(false), job: UnsafeCell::new(None) };
        Helpers { threads: Mutex::new(Vec::new()), shared: Arc::new(shared), wanted: threads.saturating_sub(1).min(MOST) }
    }

    /// Calls `work` with the index of each of `tasks` tasks and a number of the thread that runs it: `caller` for the calling thread, and below
    /// `caller` for helpers. Nothing is done, and `false` comes back, where the helpers are at work for somebody else or cannot be had.
    pub(crate) fn run(&self, tasks: usize, caller: usize, work: &(dyn Fn(usize, usize) + Sync)) -> bool {
        let mut threads = match self.threads.try_lock() {
            Ok(threads) => threads,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let helpers = self.wanted.min(tasks.saturating_sub(1)).min(caller);
        while threads.len() < helpers {
            let Some(thread) = start(Arc::clone(&self.shared), threads.len()) else { return false };
            threads.push(thread);
        }
        let next = AtomicUsize::new(0);
        let take = |thread: usize| {
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    return;
                }
                work(task, thread);
            }
        };
        let fell = AtomicBool::new(false);
        // A helper's panic is the caller's.
        let helped = |helper: usize| {
            if helper < helpers && catch_unwind(AssertUnwindSafe(|| take(helper))).is_err() {
                fell.store(true, Ordering::Relaxed);
            }
        };
        let job: *const (dyn Fn(usize) + Sync + '_) = &helped;
        // SAFETY: only the lifetime changes. No job is open, and whoever was in the last one has left it; `close` keeps this one from being called later
        // than it lives.
        unsafe { *self.shared.job.get() = Some(std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(job)) };
        self.shared.open();
        threads[..helpers].iter().for_each(|thread| thread.thread().unpark());
        let own = catch_unwind(AssertUnwindSafe(|| take(caller)));
        self.shared.close();
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!fell.load(Ordering::Relaxed), "a task fell over on another thread");
        true
    }
}

impl Lookout {
    fn open(&self) {
        self.left.store(0, Ordering::Relaxed);
        let state = self.state.load(Ordering::Relaxed);
        self.state.store((state / ONE + 1) * ONE, Ordering::Release);
    }

    /// Lets nobody in any more, and waits for those who are.
    fn close(&self) {
        let entered = (self.state.fetch_add(ONE, Ordering::AcqRel) % ONE) as usize;
        let mut looks = 0u32;
        while self.left.load(Ordering::Acquire) < entered {
            looks += 1;
            // It may have been sent off its core in the middle of a task.
            if looks.is_multiple_of(1 << 12) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    }

    /// Enters the job that is open, where it is another than the last.
    fn enter(&self, last: u64) -> Option<(u64, Job)> {
        let state = self.state.load(Ordering::Acquire);
        if !is_open(state) || state / ONE == last {
            return None;
        }
        self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        // SAFETY: it is open, and this thread is waited for from here on.
        unsafe { (*self.job.get()).map(|job| (state / ONE, job)) }
    }

    /// A helper's life.
    fn look_out(&self, helper: usize) {
        let (mut last, mut since) = (0, Instant::now());
        while !self.ends.load(Ordering::Acquire) {
            if let Some((number, job)) = self.enter(last) {
                // SAFETY: the caller waits until `left` says that this is done.
                unsafe { (*job)(helper) };
                self.left.fetch_add(1, Ordering::Release);
                (last, since) = (number, Instant::now());
                continue;
            }
            for _ in 0..64 {
                std::hint::spin_loop();
            }
            if since.elapsed() > LOOKS_OUT {
                // Whoever opens a job unparks after that: then this returns at once, or the job was seen above.
                std::thread::park();
                since = Instant::now();
            }
        }
    }
}

fn start(lookout: Arc<Lookout>, helper: usize) -> Option<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("levelfold-helper-{helper}")).spawn(move || lookout.look_out(helper)).ok()
}

impl Drop for Helpers {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Release);
        let threads = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner);
        threads.iter().map(JoinHandle::thread).for_each(Thread::unpark);
        for thread in threads.drain(..) {
            // A helper does not fall over: what it calls is caught.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_on_a_thread_of_its_number() {
        let helpers = Helpers::new(4);
        for tasks in [1, 2, 3, 5, 100, 1, 64] {
            for pause in [0, 300] {
                let runs: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                let busy: Vec<AtomicBool> = (0..5).map(|_| AtomicBool::new(false)).collect();
                let done = helpers.run(tasks, 4, &|task, thread| {
                    assert!(!busy[thread].swap(true, Ordering::Relaxed), "two threads are number {thread}");
                    runs[task].fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_micros(20));
                    busy[thread].store(false, Ordering::Relaxed);
                });
                assert!(done);
                assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1), "{tasks} tasks");
                std::thread::sleep(Duration::from_micros(pause));
            }
        }
    }

    #[test]
    fn who_comes_while_they_work_is_sent_away_and_a_panic_comes_back() {
        let helpers = Helpers::new(3);
        assert!(helpers.run(8, 3, &|_, _| assert!(!helpers.run(8, 3, &|_, _| ()), "nested")));
        let fell = catch_unwind(AssertUnwindSafe(|| helpers.run(64, 3, &|task, _| assert_ne!(task, 40, "planned"))));
        assert!(fell.is_err());
        let count = AtomicUsize::new(0);
        assert!(helpers.run(64, 3, &|_, _| _ = count.fetch_add(1, Ordering::Relaxed)));
        assert_eq!(count.into_inner(), 64);
    }
}
