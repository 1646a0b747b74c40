//! The backends that this build knows: an explicit list, and the command that prints it.

use crate::columns::bytes;
use crate::cuda::CudaOptions;
use crate::failure::CliResult;
use crate::ui::Ui;
use levelfold::backend::{Backend, Target};
use levelfold::{Error, ErrorCode};
use levelfold_cpu::CpuBackend;
use levelfold_cuda::CudaBuilder;
use levelfold_reference::ReferenceBackend;
use serde::Serialize;

/// Lists the backends, and why one cannot be used
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  levelfold backends
  levelfold backends --json")]
pub(crate) struct BackendsArgs {
    #[command(flatten)]
    cuda: CudaOptions,

    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// A backend that this command knows by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BackendName {
    /// Every core, vector code
    Cpu,
    /// One thread, literal and slow: what the others are held against
    Reference,
    /// An NVIDIA GPU
    Cuda,
    /// Cuda where it can be used, else cpu
    Auto,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    available: bool,
    about: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cuda: Option<CudaFacts>,
}

/// What the CUDA backend found.
#[derive(Serialize)]
struct CudaFacts {
    device: String,
    compute_capability: String,
    memory_bytes: u64,
    free_bytes: u64,
    multiprocessors: u32,
    driver: String,
    nvrtc: String,
    nvrtc_found: String,
    cache: Option<std::path::PathBuf>,
}

impl BackendName {
    /// Every backend, in the order in which they are listed.
    pub(crate) const ALL: [BackendName; 3] = [BackendName::Cpu, BackendName::Reference, BackendName::Cuda];

    /// As it is given on the command line and stands in plans.
    pub(crate) fn name(self) -> &'static str {
        match self {
            BackendName::Cpu => "cpu",
            BackendName::Reference => "reference",
            BackendName::Cuda => "cuda",
            BackendName::Auto => "auto",
        }
    }

    /// One backend for `auto`: cuda where it can be opened, else cpu. Says which on stderr, and why.
    pub(crate) fn settled(self, cuda: &CudaOptions, ui: &Ui) -> BackendName {
        if self != BackendName::Auto {
            return self;
        }
        match cuda.open(|builder| builder).and_then(|backend| backend.facts()) {
            Ok(facts) => {
                ui.note(format_args!("backend: cuda ({})", facts.device));
                BackendName::Cuda
            }
            Err(error) => {
                ui.note(format_args!("backend: cpu ({})", error.message()));
                BackendName::Cpu
            }
        }
    }

    /// A backend to run plans on: `threads` of them where it has several, all cores where nothing is said.
    ///
    /// # Errors
    /// `backend-unavailable`, with the reason. Another backend is never taken instead.
    pub(crate) fn open(self, threads: Option<u32>, cuda: &CudaOptions) -> Result<Box<dyn Backend>, Error> {
        match self {
            BackendName::Cpu => {
                let builder = CpuBackend::builder();
                let threads = threads.and_then(|threads| usize::try_from(threads).ok());
                Ok(Box::new(threads.map_or(builder.clone(), |threads| builder.threads(threads)).build()?))
            }
            BackendName::Reference => Ok(Box::new(ReferenceBackend::new())),
            BackendName::Cuda => Ok(Box::new(cuda.open(|builder| builder)?)),
            BackendName::Auto => Err(no_one_backend()),
        }
    }

    /// [`open`](Self::open), with the time of every step in every run, even where that takes longer.
    ///
    /// # Errors
    /// As for `open`.
    pub(crate) fn open_measuring(self, threads: Option<u32>, cuda: &CudaOptions) -> Result<Box<dyn Backend>, Error> {
        match self {
            BackendName::Cuda => Ok(Box::new(cuda.open(CudaBuilder::measure_steps)?)),
            BackendName::Cpu | BackendName::Reference | BackendName::Auto => self.open(threads, cuda),
        }
    }

    /// What to plan for. Needs no device.
    ///
    /// # Errors
    /// `option` for `auto`.
    pub(crate) fn target(self) -> Result<Target, Error> {
        match self {
            BackendName::Cpu => Ok(levelfold_cpu::target()),
            BackendName::Reference => Ok(ReferenceBackend::new().target().clone()),
            BackendName::Cuda => Ok(levelfold_cuda::target()),
            BackendName::Auto => Err(no_one_backend()),
        }
    }

    fn row(self, cuda: &CudaOptions) -> Row {
        let plain = |available, about: &str| Row { name: self.name(), available, about: about.to_owned(), cuda: None };
        match self {
            BackendName::Cpu => plain(true, "every core, vector code; the default"),
            BackendName::Reference => plain(true, "one thread, literal and slow: what the others are held against"),
            BackendName::Auto => plain(true, "cuda where it can be used, else cpu"),
            BackendName::Cuda => match cuda.open(|builder| builder).and_then(|backend| backend.facts()) {
                Err(error) => plain(false, &sentence(&error)),
                Ok(facts) => {
                    let (major, minor) = facts.capability;
                    let about = format!(
                        "{}, compute capability {major}.{minor}, {} ({} free), driver for CUDA {}, NVRTC {} at {}",
                        facts.device,
                        bytes(facts.memory),
                        bytes(facts.free),
                        facts.driver,
                        facts.nvrtc,
                        facts.nvrtc_found
                    );
                    let facts = CudaFacts {
                        device: facts.device,
                        compute_capability: format!("{major}.{minor}"),
                        memory_bytes: facts.memory,
                        free_bytes: facts.free,
                        multiprocessors: facts.multiprocessors,
                        driver: facts.driver,
                        nvrtc: facts.nvrtc,
                        nvrtc_found: facts.nvrtc_found,
                        cache: facts.cache,
                    };
                    Row { name: self.name(), available: true, about, cuda: Some(facts) }
                }
            },
        }
    }
}

fn no_one_backend() -> Error {
    Error::new(ErrorCode::Option, "`auto` is not one backend").help("name cpu, reference or cuda")
}

/// What is missing, and what to do.
fn sentence(error: &Error) -> String {
    match error.help_text() {
        Some(help) => format!("{}; {help}", error.message()),
        None => error.message().to_owned(),
    }
}

pub(crate) fn run(args: BackendsArgs, ui: &Ui) -> CliResult {
    let rows = BackendName::ALL.map(|backend| backend.row(&args.cuda));
    if args.json {
        return ui.print_json(&rows);
    }
    let mut text = String::new();
    for row in rows {
        let state = if row.available { "available" } else { "unavailable" };
        text += &format!("{:<10} {state:<12} {}\n", row.name, row.about);
    }
    ui.print(text)
}
