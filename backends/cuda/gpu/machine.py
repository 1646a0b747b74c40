"""What a machine with a GPU has: driver, device, NVRTC, compute-sanitizer. Run as a program, it asks the driver, in a process of its own."""

import ctypes
import glob
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import site
from pathlib import Path

#: Folders of wheels below `site-packages`: of release 13, and of release 12.
NVRTC_FOLDERS = ("nvidia/cu13/lib", "nvidia/cuda_nvrtc/lib")
SANITIZER_FOLDERS = ("nvidia/cu13/compute-sanitizer", "nvidia/cuda_sanitizer_api/bin", "nvidia/cuda_sanitizer_api/compute-sanitizer")


class Driver:
    """The driver's functions that are needed here."""

    def __init__(self):
        try:
            self.library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise SystemExit(f"there is no CUDA driver: {error}")
        self("cuInit", 0)

    def __call__(self, name, *arguments):
        result = getattr(self.library, name)(*arguments)
        if result == 100:
            raise SystemExit("the CUDA driver finds no device")
        if result:
            text = ctypes.c_char_p()
            known = self.library.cuGetErrorName(result, ctypes.byref(text)) == 0 and text.value
            raise SystemExit(f"{name}: {text.value.decode() if known else result}")

    def number(self, name, *arguments):
        value = ctypes.c_int()
        self(name, ctypes.byref(value), *arguments)
        return value.value


def device_facts():
    driver = Driver()
    if driver.number("cuDeviceGetCount") == 0:
        raise SystemExit("the CUDA driver finds no device")
    device = driver.number("cuDeviceGet", 0)
    name = ctypes.create_string_buffer(256)
    driver("cuDeviceGetName", name, 255, device)
    memory = ctypes.c_size_t()
    driver("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
    version = driver.number("cuDriverGetVersion")
    attribute = lambda number: driver.number("cuDeviceGetAttribute", number, device)
    facts = {
        "device": name.value.decode(),
        "compute_capability": f"{attribute(75)}.{attribute(76)}",
        "multiprocessors": attribute(16),
        "memory_bytes": memory.value,
        "cuda_of_driver": f"{version // 1000}.{version % 1000 // 10}",
    }
    kernel_module = Path("/sys/module/nvidia/version")
    facts["driver"] = kernel_module.read_text().strip() if kernel_module.exists() else None
    return facts


def copy_rate(count, rounds):
    """Bytes a second, read and written, of copies inside of the device's memory: the ceiling of what moves bytes."""
    driver = Driver()
    context, stream = ctypes.c_void_p(), ctypes.c_void_p()
    driver("cuDevicePrimaryCtxRetain", ctypes.byref(context), driver.number("cuDeviceGet", 0))
    driver("cuCtxSetCurrent", context)
    driver("cuStreamCreate", ctypes.byref(stream), 1)
    places = [ctypes.c_uint64(), ctypes.c_uint64()]
    for place in places:
        driver("cuMemAlloc_v2", ctypes.byref(place), ctypes.c_size_t(count))
        driver("cuMemsetD8Async", place, ctypes.c_ubyte(1), ctypes.c_size_t(count), stream)
    events = [ctypes.c_void_p(), ctypes.c_void_p()]
    for event in events:
        driver("cuEventCreate", ctypes.byref(event), 0)
    rates = []
    # The first copy does not count.
    for _ in range(rounds + 1):
        driver("cuEventRecord", events[0], stream)
        for _ in range(4):
            driver("cuMemcpyDtoDAsync_v2", places[1], places[0], ctypes.c_size_t(count), stream)
        driver("cuEventRecord", events[1], stream)
        driver("cuStreamSynchronize", stream)
        milliseconds = ctypes.c_float()
        driver("cuEventElapsedTime", ctypes.byref(milliseconds), *events)
        rates.append(4 * 2 * count / max(milliseconds.value, 1e-6) * 1e3)
    rates = sorted(rates[1:])
    return {"copy_bytes_per_second": rates[len(rates) // 2], "slowest": rates[0], "fastest": rates[-1], "buffer_bytes": count, "rounds": rounds}


def release_of(nvrtc):
    """Of a library: (13, 0). In a process of its own, as it may be anything."""
    program = (
        "import ctypes, sys\n"
        "a, b = ctypes.c_int(), ctypes.c_int()\n"
        "assert ctypes.CDLL(sys.argv[1]).nvrtcVersion(ctypes.byref(a), ctypes.byref(b)) == 0\n"
        "print(a.value, b.value)"
    )
    try:
        done = subprocess.run([sys.executable, "-c", program, str(nvrtc)], capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return None
    return tuple(map(int, done.stdout.split())) if done.returncode == 0 else None


def packages():
    """Where this Python, and those of active environments, have their packages."""
    found = [sysconfig.get_path("purelib"), site.getusersitepackages()]
    for prefix in (os.environ.get("VIRTUAL_ENV"), os.environ.get("CONDA_PREFIX")):
        found += sorted(glob.glob(f"{prefix}/lib/python3*/site-packages")) if prefix else []
    return list(dict.fromkeys(found))


def nvrtc_candidates(folders):
    yield from ("libnvrtc.so.13", "libnvrtc.so.12")
    for folder in folders:
        for below in NVRTC_FOLDERS:
            yield from sorted(glob.glob(f"{folder}/{below}/libnvrtc.so.*"), reverse=True)
    yield from sorted(glob.glob("/usr/local/cuda*/lib64/libnvrtc.so.*"), reverse=True)


def find_nvrtc(told, newest, work, may_install):
    """(file or name, release, how it was found); `newest` is the driver's release of CUDA, which code must not be newer than.

    Gives None and the reason where there is none.
    """
    if told:
        release = release_of(told)
        return (str(told), release, "as it was told") if release else (None, None, f"{told} is no NVRTC that can be loaded")
    fits = lambda release: release and 12 <= release[0] <= newest
    for candidate in nvrtc_candidates(packages()):
        release = release_of(candidate)
        if fits(release):
            return candidate, release, "on this machine"
    wheel = "nvidia-cuda-nvrtc" if newest >= 13 else "nvidia-cuda-nvrtc-cu12"
    # Where the driver is of release 13, any minor release of the compiler will do.
    wanted = f"{wheel}<14" if newest >= 13 else wheel
    reason = install(wanted, work / "nvrtc", may_install)
    if reason:
        return None, None, f"NVRTC is not on this machine, and {reason}"
    for candidate in nvrtc_candidates([work / "nvrtc"]):
        if os.sep in candidate and str(work) in candidate and fits(release := release_of(candidate)):
            return candidate, release, f"installed by pip: {wheel}"
    return None, None, f"{wheel} was installed, but what it has cannot be loaded"


def install(package, folder, may_install):
    """Installs a package into a folder of its own. Gives the reason where that fails."""
    if not may_install:
        return f"--no-install keeps {package} from being fetched"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(folder), package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        return f"pip did not fetch {package} within 300 s"
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return f"pip does not fetch {package}: {said[-1].strip() if said else 'it says nothing'}"
    return None


def find_sanitizer(told, newest, work, may_install):
    """(compute-sanitizer, None), or None and the reason where there is none."""
    if told:
        path = told / "compute-sanitizer"
        return (str(path), None) if os.access(path, os.X_OK) else (None, f"there is no compute-sanitizer in {told}")
    found = [shutil.which("compute-sanitizer")]
    for prefix in ("CUDA_HOME", "CUDA_PATH", "CONDA_PREFIX"):
        if os.environ.get(prefix):
            found.append(f"{os.environ[prefix]}/bin/compute-sanitizer")
    found += sorted(glob.glob("/usr/local/cuda*/bin/compute-sanitizer"), reverse=True)
    found += [f"{folder}/{below}/compute-sanitizer" for folder in packages() for below in SANITIZER_FOLDERS]
    for path in found:
        if path and os.path.isfile(path):
            return path, None
    wheel = "nvidia-cuda-sanitizer-api<14" if newest >= 13 else "nvidia-cuda-sanitizer-api-cu12"
    reason = install(wheel, work / "sanitizer", may_install)
    if reason:
        return None, f"compute-sanitizer is not on this machine, and {reason}"
    for below in SANITIZER_FOLDERS:
        path = work / "sanitizer" / below / "compute-sanitizer"
        if path.is_file():
            for program in path.parent.iterdir():
                if program.is_file():
                    program.chmod(program.stat().st_mode | 0o755)
            return str(path), None
    return None, f"{wheel} was installed, but has no compute-sanitizer"


if __name__ == "__main__":
    if sys.argv[1] == "device":
        print(json.dumps(device_facts()))
    else:
        print(json.dumps(copy_rate(int(sys.argv[2]), int(sys.argv[3]))))
