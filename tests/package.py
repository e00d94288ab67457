"""Wheel and sdist, installed as strangers install them; needs a package index.

    python -m tests.package                      # python3.11, 3.12, 3.13, if there
    python -m tests.package /usr/bin/python3.12  # these interpreters

Builds both with `python -m build`, looks at what they hold, and installs each into a
fresh environment of each interpreter: nothing may come along but what DESIGN says is
needed at run time (and what that needs), and the README's first snippet has to run,
away from this copy of the repository. Prints a table. `slots after` are the seconds
from the start of `pip install` to the snippet's end, start of Python and compilation
included.
"""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path


ROOT = Path(__file__).parents[1]
RUN_TIME = {"beartype", "einops", "equinox", "jax", "jaxtyping", "optax"}
BESIDE_THE_PACKAGE = {".gitignore", "LICENSE", "PKG-INFO", "README.md"}
BESIDE_THE_PACKAGE |= {"CHANGELOG.md", "CITATION.cff", "pyproject.toml"}
LARGEST = 3_000_000  # bytes of the wheel, trained models included
# Run inside an environment: what is installed, what was asked for, and what that needs.
ASK = """
import json
from importlib.metadata import distribution, distributions
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name as name

def needs(of, extras=()):
    for text in distribution(of).requires or ():
        one = Requirement(text)
        holds = lambda extra: one.marker.evaluate({"extra": extra})
        if not one.marker or any(map(holds, extras or [""])):
            yield name(one.name), tuple(one.extras)

direct = sorted({n for n, _ in needs("eqx-slots")})
seen, todo = set(), {("eqx-slots", ())}
while todo:
    seen |= todo
    todo = {one for of in todo for one in needs(*of)} - seen
installed = {name(one.name): one.version for one in distributions()}
print(json.dumps({"direct": direct, "needed": [n for n, _ in seen], "is": installed}))
"""


def output(*command, **options) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def build(folder: Path) -> list[Path]:
    """The sdist, and the wheel built from it, with nothing in them but the package."""
    output(sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT))
    output(sys.executable, "-m", "twine", "check", "--strict", *folder.glob("*"))
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "eqx_slots").rglob("*")
        if path.suffix in (".py", ".eqx", ".json") or path.name == "py.typed"
    }
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    extra = {name for name in in_wheel - package if ".dist-info/" not in name}
    assert package <= in_wheel and not extra, (package - in_wheel, extra)
    assert wheel.stat().st_size < LARGEST, f"{wheel.name}: {wheel.stat().st_size} bytes"
    with tarfile.open(sdist) as archive:
        names = [member.name.split("/", 1)[1] for member in archive if member.isfile()]
    assert set(names) == package | BESIDE_THE_PACKAGE, set(names) ^ package
    return [wheel, sdist]


def snippet() -> str:
    return re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S
    )[0]


def try_it(python: str, package: Path, folder: Path) -> str:
    """A row of the table: install, look at what came along, run the snippet."""
    output(python, "-m", "venv", str(folder))
    own = str(folder / "bin" / "python")
    start = time.monotonic()
    output(own, "-m", "pip", "install", "-q", str(package))
    installed_after = time.monotonic() - start
    # Neither this folder nor the user's own packages are on the path.
    printed = output(own, "-I", "-c", snippet(), cwd=folder).splitlines()
    slots_after = time.monotonic() - start
    promised = re.findall(r"^print\(.*\)  # (.*)$", snippet(), re.M)
    assert printed == promised, printed
    found = json.loads(output(own, "-I", "-c", ASK, cwd=folder))
    assert set(found["direct"]) == RUN_TIME, found["direct"]
    extra = found["is"].keys() - found["needed"] - {"pip", "setuptools"}
    assert not extra, extra
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    version = output(own, "-c", "import platform; print(platform.python_version())")
    kind = "wheel" if package.suffix == ".whl" else "sdist"
    return (
        f"| {version.strip()} | {kind} | {found['is']['jax']} | {len(found['needed'])}"
        f" | {size / 2**20:.0f} MiB | {installed_after:.0f} s | {slots_after:.0f} s |"
    )


def interpreters() -> list[str]:
    """Those that can be started: a shim may be there without its Python."""
    named = [shutil.which(f"python3.{minor}") for minor in (11, 12, 13)]
    run = lambda path: subprocess.run([path, "--version"], capture_output=True)
    return [path for path in named if path and run(path).returncode == 0]


def main(pythons: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        packages = build(folder / "dist")
        print("| Python | from | JAX | packages | size | installed | slots after |")
        print("|---|---|---|---|---|---|---|", flush=True)
        for python in pythons or interpreters():
            for package in packages:
                environment = folder / "environment"
                print(try_it(python, package, environment), flush=True)
                shutil.rmtree(environment)


if __name__ == "__main__":
    main(sys.argv[1:])
