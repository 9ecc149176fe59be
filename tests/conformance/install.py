"""Gets the suites' programs: from Debian, PyPI, crates.io, or as Go modules."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from processes import ROOT

TOOLS = ROOT / "target" / "conformance" / "tools"


def debian(**packages):
    """Installs what is missing of `program="package"`."""
    missing = sorted({package for program, package in packages.items() if not shutil.which(program.replace("_", "-"))})
    if not missing:
        return
    if os.geteuid() != 0:
        sys.exit(f"{', '.join(missing)} missing; install them, or run this as root")
    apt = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=apt)
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    subprocess.run(install, check=True, env=apt, stdout=subprocess.DEVNULL)


def crate(name, version, program=None):
    """The program of a crate; not optimised, since it is built longer than it runs."""
    path = TOOLS / "bin" / (program or name)
    if not path.exists():
        command = ["cargo", "install", "--quiet", "--locked", "--debug", "--root", TOOLS, f"{name}@{version}"]
        subprocess.run(command, check=True, env={**os.environ, "CARGO_PROFILE_DEV_DEBUG": "0"})
    return path


def cargo(program, folder):
    """The program of a package that is among the sources here, but no part of Culvert."""
    target = TOOLS / program
    command = ["cargo", "build", "--quiet", "--locked", "--manifest-path", folder / "Cargo.toml", "--target-dir", target]
    subprocess.run(command, check=True)
    return target / "debug" / program


def go(module, version, package):
    """The program of a Go package, in a module of its own that only names it."""
    path = TOOLS / "bin" / package.rsplit("/", 1)[1]
    if not path.exists():
        folder = TOOLS / path.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "go.mod").write_text(f"module tools\n\ngo 1.21\n\nrequire {module} {version}\n")
        (folder / "tools.go").write_text(f'//go:build tools\n\npackage tools\n\nimport _ "{package}"\n')
        for command in (["go", "mod", "tidy"], ["go", "build", "-o", path, package]):
            subprocess.run(command, check=True, cwd=folder)
    return path


def pypi(name, *requirements, python=sys.executable):
    """A folder with Python packages, to be put into the path."""
    folder = TOOLS / name
    if not folder.exists():
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", folder]
        subprocess.run([*command, *requirements], check=True)
    return folder


def python27():
    """A Python 2.7, which only the oldest of the suites needs."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [*sorted(map(str, pyenv.glob("versions/2.7.*/bin/python2.7"))), shutil.which("python2.7")]
    return next(filter(None, candidates), None) or sys.exit("no Python 2.7 found; `pyenv install 2.7.18` gets one")
