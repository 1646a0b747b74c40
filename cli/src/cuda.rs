//! How the CUDA backend is opened: what the library does not ask for itself, the environment and the folders of this machine.

use levelfold::Error;
use levelfold_cuda::{CudaBackend, CudaBuilder, NvrtcSearch, wheel_folders};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the CUDA backend finds what it needs.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct CudaOptions {
    /// NVRTC, which compiles kernels for the cuda backend; without it, the system's, or that of a wheel in the active Python environment
    #[arg(long, value_name = "FILE")]
    nvrtc: Option<PathBuf>,

    /// The device of the cuda backend, counted from 0
    #[arg(long, value_name = "N", default_value_t = 0)]
    cuda_device: u32,
}

impl CudaOptions {
    fn builder(&self, folders: Vec<PathBuf>) -> CudaBuilder {
        let builder = CudaBackend::builder().device(self.cuda_device).nvrtc(NvrtcSearch { file: self.nvrtc.clone(), folders });
        match cache_folder() {
            Some(folder) => builder.cache(folder),
            None => builder,
        }
    }

    /// The backend, set up by `set`.
    ///
    /// # Errors
    /// `backend-unavailable`, with the reason.
    pub(crate) fn open(&self, set: impl Fn(CudaBuilder) -> CudaBuilder) -> Result<CudaBackend, Error> {
        let active = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(std::env::var_os);
        let mut folders: Vec<PathBuf> =
            active.flat_map(|prefix| site_packages(Path::new(&prefix))).flat_map(|site| wheel_folders(&site)).collect();
        match set(self.builder(folders.clone())).build() {
            // A python outside of any environment is asked only where its answer matters.
            Err(error) if self.nvrtc.is_none() && error.message().contains("NVRTC") => {
                folders.extend(python_folders().iter().flat_map(|site| wheel_folders(site)));
                folders.extend(toolkit_folders(Path::new("/usr/local")));
                set(self.builder(folders)).build()
            }
            opened => opened,
        }
    }
}

/// The folders of packages of a Python environment.
fn site_packages(prefix: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(prefix.join("lib")) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3")))
        .map(|path| path.join("site-packages"))
        .collect();
    found.sort();
    found
}

/// Where the `python3` on the path has its packages; nothing where there is none.
fn python_folders() -> Vec<PathBuf> {
    let program = "import site, sysconfig; print('\\n'.join([sysconfig.get_path('purelib'), site.getusersitepackages()]))";
    let output = Command::new("python3").args(["-I", "-c", program]).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let Ok(output) = output else { return Vec::new() };
    String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect()
}

/// Where toolkits have NVRTC: those that `CUDA_HOME` and `CUDA_PATH` name, and those below a folder, where the installer puts them without telling the
/// system's loader. The latest first.
fn toolkit_folders(below: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(below).ok().into_iter().flatten().flatten().map(|entry| entry.path());
    let is_toolkit = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cuda"));
    let mut installed: Vec<PathBuf> = entries.filter(is_toolkit).collect();
    installed.sort();
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    named.chain(installed.into_iter().rev()).map(|toolkit| toolkit.join("lib64")).collect()
}

/// Where compiled kernels are kept: the user's folder for what can be made again.
fn cache_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(caches.join("levelfold").join("cuda"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toolkits_are_found_the_latest_first() {
        let below = tempfile::tempdir().unwrap();
        for name in ["cuda-12.8", "cuda-13.0", "other"] {
            std::fs::create_dir(below.path().join(name)).unwrap();
        }
        let found = toolkit_folders(below.path());
        let of = |name: &str| below.path().join(name).join("lib64");
        assert_eq!(found[found.len() - 2..], [of("cuda-13.0"), of("cuda-12.8")]);
    }

    #[test]
    fn packages_of_an_environment_are_found() {
        let prefix = tempfile::tempdir().unwrap();
        let lib = prefix.path().join("lib");
        std::fs::create_dir_all(lib.join("python3.13/site-packages")).unwrap();
        std::fs::create_dir_all(lib.join("other")).unwrap();
        assert_eq!(site_packages(prefix.path()), [lib.join("python3.13/site-packages")]);
        assert!(site_packages(Path::new("/nowhere")).is_empty());
    }
}
