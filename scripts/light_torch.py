"""Makes a virtual environment with one release of torch for the CPU, from the wheels that everybody gets.

    light_torch.py DIRECTORY VERSION [PACKAGE …]

On Linux those wheels are built for CUDA and ask for gigabytes of libraries, of which torch on a CPU calls nothing. So
the wheel is installed alone, with its other requirements, and every library that its own libraries do not find is
written beside them as an empty one: each function in it answers "no device". Needs gcc, ldd, nm and readelf. Elsewhere
the wheels are for the CPU already, and pip alone does it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

# A version that is asked for here is not chosen by a cap of the machine.
FREE = {**os.environ, "PIP_CONSTRAINT": "", "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
OF_CUDA = re.compile(r"nvidia|cuda|triton")
NO_DEVICE = 100  # cudaErrorNoDevice
NAME = re.compile(r"[A-Za-z_]\w*")


def make(directory: Path, version: str, packages: Sequence[str] = ()) -> Path:
    """Makes the environment and returns its Python; raises `CalledProcessError` where a step fails."""
    venv.create(directory, with_pip=True, clear=True, symlinks=os.name != "nt")
    python = directory / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    alone = ["--no-deps"] if sys.platform == "linux" else []
    _pip(python, *alone, f"torch=={version}")
    site = Path(_printed(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    if alone:
        required = _printed(python, "import importlib.metadata as m; print(*m.requires('torch'), sep='\\n')").split(
            "\n"
        )
        _pip(python, *(line for line in required if "extra ==" not in line and not OF_CUDA.match(line)))
        write_empty_libraries(site / "torch" / "lib")
    if packages:
        _pip(python, *packages)
    _printed(python, "import torch; assert torch.ones(2).sum() == 2; print(torch.__version__)")
    return python


def write_empty_libraries(folder: Path) -> None:
    """Writes, beside the libraries in `folder`, an empty one for each that they need and that is nowhere found."""
    libraries = sorted(folder.glob("*.so*"))
    missing = {name for library in libraries for name in re.findall(r"(\S+) => not found", _output("ldd", library))}
    if not missing:
        return
    wanted: dict[str, dict[str, set[str]]] = {name: defaultdict(set) for name in missing}
    for library in libraries:
        for name, version, file in _wanted(library):
            if file in wanted:
                wanted[file][version].add(name)
    first, *others = sorted(missing)
    for file in (first, *others):
        _write(folder / file, wanted[file])
    # What has no version says not which library it belongs to: any will do.
    defined = {name for library in libraries for name in _symbols(library, "--defined-only")}
    unbound = {
        name
        for library in libraries
        for name in re.findall(r"undefined symbol: (\w+)", _output("ldd", "-r", library))
        if name not in defined and not name.lstrip("_").startswith("Py")
    }
    _write(folder / first, wanted[first], unbound)


def _wanted(library: Path) -> Iterable[tuple[str, str, str]]:
    """Yields name, version and file of each symbol that a library wants from another in a version."""
    file, files = "", {}
    for line in _output("readelf", "-VW", library).splitlines():
        if found := re.search(r"Version: \d+ +File: (\S+)", line):
            file = found[1]
        elif found := re.search(r"Name: (\S+) +Flags", line):
            files[found[1]] = file
    for symbol in _symbols(library, "--undefined-only"):
        name, _, version = symbol.partition("@")
        if version in files:
            yield name, version, files[version]


def _symbols(library: Path, which: str) -> set[str]:
    return {line.split()[-1] for line in _output("nm", "-D", which, library).splitlines() if line.strip()}


def _write(path: Path, versions: dict[str, set[str]], others: Iterable[str] = ()) -> None:
    """Writes a shared library that defines these names, those of `versions` under their version."""
    wanted = {*others}.union(*versions.values())
    # Code that runs when a library is loaded registers with CUDA and is handed a pointer; all else is asked later.
    lines = ["static long memory[64];"]
    for name in sorted(filter(NAME.fullmatch, wanted)):
        pointer = name.startswith("__cuda")
        lines.append(
            f"{'void *' if pointer else 'long '}{name}(void) {{ return {'memory' if pointer else NO_DEVICE}; }}"
        )
    with tempfile.TemporaryDirectory() as folder:
        source, script = Path(folder, "empty.c"), Path(folder, "versions.map")
        source.write_text("\n".join(lines) + "\n")
        blocks = (f"{version} {{ {'; '.join(sorted(names))}; }};\n" for version, names in versions.items())
        script.write_text("".join(blocks))
        command = ["gcc", "-w", "-shared", "-fPIC", "-fno-builtin", f"-Wl,-soname,{path.name}", "-o", path, source]
        subprocess.run(command + ([f"-Wl,--version-script,{script}"] if versions else []), check=True)


def _pip(python: Path, *what: str) -> None:
    subprocess.run([python, "-m", "pip", "install", "--quiet", *what], check=True, env=FREE)


def _printed(python: Path, code: str) -> str:
    return _output(python, "-c", code, check=True).strip()


def _output(*command: str | Path, check: bool = False) -> str:
    """Returns what a command prints, on both streams: `ldd` says on the second what it does not find."""
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if check and done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout)
    return done.stdout


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
