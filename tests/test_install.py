from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import edad_fast

CHECKOUT = Path(__file__).resolve().parents[1]


def build(kind: str, source: Path, target: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the build backend as pip does, with the build requirements of this environment."""
    script = f"from setuptools import build_meta; build_meta.build_{kind}({str(target)!r})"
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=source,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def modules(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}


@pytest.fixture(scope="module")
def unpacked_sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("sdist")
    done = build("sdist", CHECKOUT, target)
    assert done.returncode == 0, done.stderr
    with tarfile.open(next(target.glob("*.tar.gz"))) as archive:
        archive.extractall(target, filter="data")
    return next(path for path in target.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def installed(unpacked_sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel built from the sdist installs."""
    target = tmp_path_factory.mktemp("wheel")
    # Unoptimised: builds in a third of the time.
    done = build("wheel", unpacked_sdist, target, CMAKE_ARGS="-DCMAKE_BUILD_TYPE=Debug")
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(target.glob("*.whl"))) as archive:
        archive.extractall(target / "site")
    return target / "site"


def test_sdist_holds_the_sources_and_nothing_built(unpacked_sdist: Path) -> None:
    for name in [
        "LICENSE",
        "README.md",
        "CMakeLists.txt",
        "csrc/bindings/module.cpp",
        "csrc/wordpiece/trie.hpp",
    ]:
        assert (unpacked_sdist / name).is_file(), name
    assert modules(unpacked_sdist / "kernels") == modules(CHECKOUT / "kernels")
    assert not (unpacked_sdist / "edad_fast" / "kernels").exists()
    assert not list(unpacked_sdist.rglob("*.so"))


def test_wheel_holds_every_module(installed: Path) -> None:
    kernels = {f"kernels/{name}" for name in modules(CHECKOUT / "kernels")}
    package = {name for name in modules(CHECKOUT / "edad_fast") if not name.startswith("kernels/")}
    assert modules(installed / "edad_fast") == package | kernels
    assert {path.name for path in installed.glob("*") if path.suffix != ".dist-info"} == {"edad_fast"}
    assert (installed / "edad_fast/comparison/suites/table_1.yaml").is_file()
    assert (installed / "edad_fast/comparison/paper_figures.yaml").is_file()
    assert {"py.typed", "_native.pyi"} <= {path.name for path in (installed / "edad_fast").iterdir()}


def test_wheel_works_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    script = f"""
import importlib.util, sys
sys.path.insert(0, {str(installed)!r})
sys.modules["torch"] = None
import edad_fast
from edad_fast._native import Segmenter
ids, _ = Segmenter(["[UNK]", "a", "##b"], 0).segment(["ab"])
kernels = importlib.util.find_spec("edad_fast.kernels").origin
print(edad_fast.__version__, ids.tolist(), kernels, sep="|")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kernels = installed / "edad_fast" / "kernels" / "__init__.py"
    assert done.stdout.split("|") == [edad_fast.__version__, "[1, 2]", str(kernels) + "\n"]


def test_without_a_compiler_the_losses_still_install(unpacked_sdist: Path, tmp_path: Path) -> None:
    shutil.rmtree(unpacked_sdist / "build", ignore_errors=True)  # what an earlier build left
    done = build("wheel", unpacked_sdist, tmp_path, CXX="no-such-compiler")
    assert done.returncode == 0, done.stderr
    for words in ("WITHOUT its native core", "no-such-compiler", "apt-get install g++"):
        assert words in done.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert "edad_fast/losses/__init__.py" in names
    assert not [name for name in names if "_native" in name and not name.endswith(".pyi")]


def test_a_missing_native_core_says_what_to_do() -> None:
    code = (
        "import sys; sys.modules['edad_fast._native'] = None; import edad_fast.losses\n"
        "try: import edad_fast.vocabulary\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "install a C++20 compiler and install edad-fast again" in done.stdout
