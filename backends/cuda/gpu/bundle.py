"""What goes to the machine with a GPU: two executables, these scripts, the peers, and a list of it all."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent

#: The test program that runs on a device, and the command.
EXECUTABLES = ("device", "levelfold")
SCRIPTS = ("gpu.py", "bundle.py", "stages.py", "machine.py", "report.py")
PEERS = "gpu_peers.py"
MANIFEST = "bundle.json"
FOLDER = "levelfold-gpu"


class Failed(Exception):
    """What went wrong, in one sentence."""


def checkout():
    root = HERE.parent.parent.parent
    if not (root / "Cargo.lock").exists():
        raise Failed("`pack` needs a checkout of Levelfold around it: this looks like a bundle, which is for `run`")
    return root


def told(command, folder):
    """What a command says on one line; nothing where it cannot be run."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def build(root, profile):
    """The executables, as cargo says where they are."""
    command = ["cargo", "test", "--no-run", "--message-format=json-render-diagnostics", "-p", "levelfold-cli", "--test", "device"]
    command += ["--release"] if profile == "release" else []
    print("$ " + " ".join(command), file=sys.stderr)
    try:
        done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise Failed(f"cargo cannot be run: {error}") from error
    if done.returncode:
        raise Failed("cargo builds no tests: see above")
    found = {}
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message.get("executable") and message["target"]["name"] in EXECUTABLES:
            found[message["target"]["name"]] = Path(message["executable"])
    return found


def pack(arguments):
    root = checkout()
    found = dict(arguments.built)
    if set(found) != set(EXECUTABLES):
        found = build(root, arguments.profile) | found
    missing = [name for name in EXECUTABLES if not found.get(name, Path("/nowhere")).is_file()]
    if missing:
        raise Failed(f"there is no executable {' and none '.join(missing)}")
    out = arguments.out or root / "target" / f"{FOLDER}.tar.gz"
    out.parent.mkdir(parents=True, exist_ok=True)
    strip = shutil.which("strip")
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder) / FOLDER
        (to / "bin").mkdir(parents=True)
        for name in EXECUTABLES:
            shutil.copy(found[name], to / "bin" / name)
            if strip:
                subprocess.run([strip, str(to / "bin" / name)], check=True)
        for script in SCRIPTS:
            shutil.copy(HERE / script, to / script)
        shutil.copy(root / "benches" / "peers" / PEERS, to / PEERS)
        files = {}
        for path in sorted(to.rglob("*")):
            if path.is_file():
                files[str(path.relative_to(to))] = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest = {
            "format": "levelfold gpu bundle",
            "version": 1,
            "packed": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "commit": told(["git", "rev-parse", "HEAD"], root),
            "changed": bool(told(["git", "status", "--porcelain", "--untracked-files=no"], root)),
            "rustc": told(["rustc", "--version"], root),
            "profile": "as it was built" if arguments.built else arguments.profile,
            "stripped": bool(strip),
            "machine": f"{platform.machine()} {platform.system()}, glibc {platform.libc_ver()[1]}",
            "files": files,
        }
        (to / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        # Whole, or not there.
        unfinished = out.with_name(out.name + ".unfinished")
        with tarfile.open(unfinished, "w:gz", compresslevel=1) as tar:
            tar.add(to, FOLDER)
        os.replace(unfinished, out)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB; unpack it where a GPU is, and run {FOLDER}/gpu.py run")
    return 0


def unpacked(here):
    """The list of a bundle.

    Fails where a file is not the one that was packed.
    """
    manifest = json.loads((here / MANIFEST).read_text())
    for name, digest in manifest["files"].items():
        path = here / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise Failed(f"{name} of the bundle is damaged or missing: unpack it again")
    return manifest
