"""Puts export/, the other side of an export, into the wheel as galaxysd/export/runner: one source, of which every bundle has a copy.

Everything else is said in pyproject.toml. An editable installation finds export/ where it is, in the repository.
"""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent


class WithRunner(build_py):
    """The package's modules, and beside them the runner and the licence that goes into bundles."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "galaxysd" / "export" / "runner"
        self.mkpath(str(target))
        for path in (*sorted((HERE / "export").iterdir()), HERE / "LICENSE"):
            if path.is_file():
                self.copy_file(str(path), str(target / path.name))


setup(cmdclass={"build_py": WithRunner})
