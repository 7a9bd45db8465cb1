"""Builds edad_fast._native with CMake and ninja; everything else is in pyproject.toml."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pybind11
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import PlatformError

ROOT = Path(__file__).resolve().parent


def find_tool(name: str) -> str:
    """Path of a build tool: on PATH, else beside this Python (an environment that is not activated)."""
    found = shutil.which(name) or shutil.which(name, path=sysconfig.get_path("scripts"))
    if not found:
        raise PlatformError(f"EDAD-fast needs {name} to build its native core: pip install {name}")
    return found


def missing_compiler() -> str:
    """The names tried in vain when there is no C++ compiler, else nothing."""
    names = [os.environ["CXX"].split()[0]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return "" if os.name != "posix" or any(map(shutil.which, names)) else ", ".join(names)


class CMakeBuild(build_ext):
    """Hands the one extension to CMake."""

    def build_extension(self, ext: Extension) -> None:
        """Configure, build and copy the extension to where setuptools wants it."""
        if names := missing_compiler():
            print(
                f"warning: EDAD-fast is installed WITHOUT its native core: none of {names} is on PATH. The "
                "losses work; vocabularies and training do not. Install a C++20 compiler (Debian, Ubuntu: "
                "apt-get install g++; macOS: xcode-select --install) or name yours in CXX, "
                "and install again.",
                file=sys.stderr,
            )
            return
        cmake = find_tool("cmake")
        # One folder a Python: CMake remembers the interpreter it was configured for.
        build = Path(self.build_temp).resolve() / str(sys.implementation.cache_tag)
        configure = [
            *(cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja", "--fresh"),
            f"-DCMAKE_MAKE_PROGRAM={find_tool('ninja')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            *os.environ.get("CMAKE_ARGS", "").split(),
        ]
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(configure, check=True)
            subprocess.run([cmake, "--build", str(build)], check=True)
            subprocess.run([cmake, "--install", str(build), "--prefix", str(target.parent)], check=True)
        except subprocess.CalledProcessError as error:
            raise RuntimeError(  # a DistutilsError would pass as a warning, the extension being optional
                "EDAD-fast's native core did not build; the reason stands above. It needs a C++20 compiler "
                "(g++ 11, clang 16 or newer) and Python's headers (Debian, Ubuntu: python3-dev)."
            ) from error

    def copy_extensions_to_source(self) -> None:
        """For an editable install: the extension, and the libraries of the losses beside it."""
        super().copy_extensions_to_source()
        package = Path(self.get_finalized_command("build_py").get_package_dir("edad_fast"))
        for library in (Path(self.build_lib) / "edad_fast").glob("_losses_*.so"):
            self.copy_file(str(library), str(package / library.name))


setup(
    packages=[
        *find_packages(include=["edad_fast", "edad_fast.*"], exclude=["edad_fast.kernels*"]),
        "edad_fast.kernels",
        *(f"edad_fast.kernels.{name}" for name in find_packages("kernels")),
    ],
    package_dir={"edad_fast.kernels": "kernels"},
    package_data={"edad_fast": ["py.typed", "*.pyi"], "edad_fast.comparison": ["*.yaml", "suites/*.yaml"]},
    ext_modules=[Extension("edad_fast._native", sources=[], optional=True)],
    cmdclass={"build_ext": CMakeBuild},
)
