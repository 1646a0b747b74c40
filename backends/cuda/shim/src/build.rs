//! Builds the fake driver and the fake NVRTC.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The sources, by name.
const SOURCES: [(&str, &str); 11] = [
    ("abi.h", include_str!("../abi.h")),
    ("lf_shim.h", include_str!("../lf_shim.h")),
    ("shim.h", include_str!("../shim.h")),
    ("shim.cpp", include_str!("../shim.cpp")),
    ("driver/fake.h", include_str!("../driver/fake.h")),
    ("driver/fake.cpp", include_str!("../driver/fake.cpp")),
    ("driver/device.cpp", include_str!("../driver/device.cpp")),
    ("driver/memory.cpp", include_str!("../driver/memory.cpp")),
    ("driver/streams.cpp", include_str!("../driver/streams.cpp")),
    ("driver/kernels.cpp", include_str!("../driver/kernels.cpp")),
    ("nvrtc.cpp", include_str!("../nvrtc.cpp")),
];

/// How kernels are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// As fast as is worth the time of compiling.
    Plain,
    /// With AddressSanitizer and UndefinedBehaviorSanitizer: whoever loads these kernels has to run under the sanitizer's own library
    /// ([`Libraries::sanitizer`]).
    Sanitized,
}

impl Flavour {
    fn name(self) -> &'static str {
        match self {
            Flavour::Plain => "plain",
            Flavour::Sanitized => "sanitized",
        }
    }

    fn flags(self) -> &'static str {
        match self {
            // As on a device, what lies across its alignment is an error: see lf_shim.h, which has what the compiler calls then.
            Flavour::Plain => "-O1 -fsanitize=alignment -Wl,--as-needed",
            Flavour::Sanitized => "-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer",
        }
    }
}

/// What was built.
#[derive(Clone, Debug)]
pub struct Libraries {
    /// The fake `libcuda.so.1`.
    pub driver: PathBuf,
    /// The fake `libnvrtc.so.13`.
    pub nvrtc: PathBuf,
}

impl Libraries {
    /// AddressSanitizer's library, which a process that loads sanitized kernels has to have in `LD_PRELOAD`.
    ///
    /// # Errors
    /// The compiler does not have it.
    pub fn sanitizer() -> Result<PathBuf, String> {
        let output =
            Command::new("g++").arg("-print-file-name=libasan.so").output().map_err(|error| format!("g++ cannot be run: {error}"))?;
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let path = fs::canonicalize(path).map_err(|_| "g++ has no AddressSanitizer (libasan.so)".to_owned())?;
        Ok(path)
    }
}

/// The folder that everything is built into: `cuda` in the target folder of the running test.
///
/// # Errors
/// The running program does not lie in a target folder.
pub(crate) fn folder() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    let folder = target.ok_or("the program does not lie in a target folder")?.join("cuda");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// Holds a file of the folder locked until it is dropped, so that tests that run at once build once.
pub(crate) fn lock(folder: &Path, name: &str) -> Result<File, String> {
    let path = folder.join(name);
    let file = File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    file.lock().map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(file)
}

/// Builds the libraries, or finds them built.
///
/// # Errors
/// There is no g++, or it fails: with what it says.
pub fn libraries(flavour: Flavour) -> Result<Libraries, String> {
    if !cfg!(target_os = "linux") {
        return Err("the fake driver is for Linux".to_owned());
    }
    let compiler = Command::new("g++").arg("--version").output().map_err(|error| format!("g++ cannot be run: {error}"))?;
    let mut hasher = DefaultHasher::new();
    // They know where they lie: a target folder that was copied has its own.
    let root = folder()?;
    (SOURCES, flavour.flags(), &compiler.stdout, &root).hash(&mut hasher);
    let made = root.join(format!("{}-{:016x}", flavour.name(), hasher.finish()));
    // Kernels do not know the driver: what was compiled stays when that changes. Their names are hashes of all else.
    let mut hasher = DefaultHasher::new();
    (flavour.flags(), &compiler.stdout).hash(&mut hasher);
    let kernels = root.join(format!("kernels-{}-{:016x}", flavour.name(), hasher.finish()));
    let libraries = Libraries { driver: made.join("libcuda.so.1"), nvrtc: made.join("libnvrtc.so.13") };
    let _lock = lock(&root, "build.lock")?;
    if libraries.driver.exists() && libraries.nvrtc.exists() {
        return Ok(libraries);
    }
    fs::create_dir_all(&made).map_err(|error| format!("{}: {error}", made.display()))?;
    fs::create_dir_all(made.join("driver")).map_err(|error| format!("{}: {error}", made.display()))?;
    for (name, text) in SOURCES {
        fs::write(made.join(name), text).map_err(|error| format!("{name}: {error}"))?;
    }
    let text = |name: &str, value: &str| format!("-D{name}=\"{value}\"");
    let here = made.display().to_string();
    let defines = [
        text("LF_SHIM_HEADERS", &here),
        text("LF_SHIM_FOLDER", &kernels.display().to_string()),
        text("LF_SHIM_COMPILER", "g++"),
        text("LF_SHIM_FLAGS", flavour.flags()),
    ];
    let sources: Vec<&str> = SOURCES
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| *name == "shim.cpp" || name.starts_with("driver/") && name.ends_with(".cpp"))
        .collect();
    // Whoever looks for a driver by this name first, finds ours before that of a machine which has one: by the library's own name where it is loaded
    // already, and by the link where the folder is searched.
    compile(&made, &sources, &[], "libcuda.so", &libraries.driver)?;
    let link = made.join("libcuda.so");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink("libcuda.so.1", &link).map_err(|error| format!("{}: {error}", link.display()))?;
    compile(&made, &["nvrtc.cpp"], &defines, "libnvrtc.so.13", &libraries.nvrtc)?;
    Ok(libraries)
}

fn compile(folder: &Path, sources: &[&str], defines: &[String], name: &str, library: &Path) -> Result<(), String> {
    let unfinished = library.with_extension("unfinished");
    let output = Command::new("g++")
        .current_dir(folder)
        .args(["-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-fvisibility=hidden", "-ftls-model=initial-exec"])
        .arg(format!("-Wl,-soname,{name}"))
        .args(defines)
        .args(sources)
        .arg("-o")
        .arg(&unfinished)
        .args(["-ldl", "-pthread"])
        .output()
        .map_err(|error| format!("g++ cannot be run: {error}"))?;
    if !output.status.success() {
        return Err(format!("g++ does not compile the shim:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    fs::rename(&unfinished, library).map_err(|error| format!("{}: {error}", library.display()))
}
