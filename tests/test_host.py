"""What a result says of the machine it comes from."""

from __future__ import annotations

import torch

from galaxysd import host


def test_the_cpu_has_a_name(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor : 0\nmodel name\t: A Fine: CPU\n")
    assert host.cpu_name(info) == "A Fine: CPU"
    assert host.cpu_name(tmp_path / "none")


def test_versions_are_those_installed():
    assert host.machine()["versions"]["torch"] == torch.__version__
    assert host.version("no-such-distribution") is None
