"""Result rows: what is written comes back, what cannot be right is named by file and line; status and report follow from rows alone."""

from __future__ import annotations

import json

import pytest

from benchmarks import report, rows, status
from benchmarks.__main__ import main
from galaxysd.errors import BadInput
from galaxysd.kernels.cases import CASES


def kernel_row(case: str = "norm", **changes):
    """A row as a GPU would have written it."""
    found = {
        "kind": "kernel", "device": "cuda", "card": "a card", "machine": {"versions": {"torch": "2.11", "triton": "3.6"}},
        "commit": "0" * 40, "dirty": False, "time": "2026-01-02T03:04:05+00:00",
        "case": case, "shape": "32x16x16x64/8", "dtype": "bf16", "pass": "forward", "digest": rows.digest(CASES[case]), "green": True,
        "errors": {"y": [1e-3, 2e-3]}, "error_ratio": 0.5, "ratios": {"eager": {"median": 1.5, "p20": 1.4, "p80": 1.6}},
        "fraction_of_copy": 0.8, "seconds": {"ours": 1e-3, "eager": 1.5e-3, "copy": 8e-4}, "bytes": 4e6,
    }  # fmt: skip
    return found | changes


def test_rows_come_back_in_order_and_old_ones_stay_as_they_are(tmp_path):
    file = tmp_path / "made" / "kernels-gpu.jsonl"
    rows.append(file, kernel_row())
    before = file.read_bytes()
    rows.append(file, kernel_row(shape="2x8x8x16/2"))
    assert file.read_bytes().startswith(before)
    assert rows.read(file) == [kernel_row(), kernel_row(shape="2x8x8x16/2")]
    assert rows.read(tmp_path / "absent.jsonl") == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "list found, an object expected"),
        ('{"kind": "guess"}', "kind is 'guess'; one of kernel, headline"),
        (json.dumps({k: v for k, v in kernel_row().items() if k != "digest"}), "no field 'digest'"),
        (json.dumps(kernel_row(green="yes")), "green is str, bool expected"),
        (json.dumps(kernel_row(error_ratio="1")), "error_ratio is str, number expected"),
        (json.dumps(kernel_row(ratios={"eager": 1.5})), "ratios.eager has no median"),
        ("", "not JSON"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(tmp_path, line, words, capsys):
    file = tmp_path / "kernels-gpu.jsonl"
    file.write_text(json.dumps(kernel_row()) + "\n" + line + "\n")
    with pytest.raises(BadInput, match=words) as caught:
        rows.read(file)
    assert f"{file}:2: " in str(caught.value)
    assert main(["status", "--results", str(tmp_path)]) == 2
    assert f"{file}:2: " in capsys.readouterr().err


def test_what_is_not_a_row_is_never_written(tmp_path):
    file = tmp_path / "kernels-gpu.jsonl"
    with pytest.raises(BadInput, match="a new row: no field 'card'"):
        rows.append(file, {k: v for k, v in kernel_row().items() if k != "card"})
    with pytest.raises(ValueError, match="JSON compliant"):
        rows.append(file, kernel_row(error_ratio=float("nan")))
    assert not file.exists() or file.read_text() == ""


def test_a_row_says_where_it_comes_from():
    found = rows.provenance()
    assert found["device"] in ("cpu", "cuda")
    assert found["card"]
    assert found["machine"]["versions"]["torch"]
    assert len(found["commit"]) == 40 or found["commit"] == "unknown"


def test_a_digest_follows_every_file_of_its_case(tmp_path, monkeypatch):
    case = CASES["attention"]
    for name in case.sources:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(rows.cases, "__file__", str(tmp_path / "cases.py"))
    seen = {rows.digest(case)}
    for name in case.sources:
        (tmp_path / name).write_text(name + " ")
        seen.add(rows.digest(case))
    assert len(seen) == 1 + len(case.sources)


def test_status_lists_what_changed_since_a_gpu_measured_it(tmp_path, capsys, monkeypatch):
    file = tmp_path / "kernels-gpu.jsonl"
    rows.append(file, kernel_row("norm"))
    rows.append(file, kernel_row("norm-add", green=False, ratios={}))
    rows.append(file, kernel_row("attention", digest="0" * 64))
    rows.append(file, kernel_row("norm-cat", device="cpu"))
    assert main(["status", "--json", "--results", str(tmp_path)]) == 0
    found = {each["case"]: each for each in json.loads(capsys.readouterr().out)}
    assert list(found) == list(CASES)
    assert [name for name, each in found.items() if each["current"]] == ["norm"]
    assert "changed since a card, 2026-01-02" in found["attention"]["said"]
    assert all("not measured on a GPU yet" in found[name]["said"] for name in ("norm-add", "norm-cat"))
    monkeypatch.setattr(status.rows, "digest", lambda case: "changed")
    assert status.changed(rows.read(file)) == list(CASES)
    assert status.changed([kernel_row(case, digest="changed") for case in CASES]) == []
    assert status.changed([kernel_row(case, digest="changed") for case in CASES], card="another card") == list(CASES)


def test_without_rows_the_report_says_so(tmp_path, capsys):
    assert main(["report", "--results", str(tmp_path), "--out", str(tmp_path / "plots")]) == 0
    said = capsys.readouterr().out
    assert "GPU: not measured on a GPU yet." in said
    assert "nothing to draw" in said


def test_the_report_is_the_newest_green_rows(tmp_path, capsys):
    file = tmp_path / "kernels-gpu.jsonl"
    rows.append(file, kernel_row(ratios={"eager": {"median": 9.99, "p20": 9.9, "p80": 10.0}}))
    rows.append(file, kernel_row(ratios={"eager": {"median": 2.25, "p20": 2.0, "p80": 2.5}}))
    rows.append(file, kernel_row(green=False, ratios={}))
    rows.append(file, kernel_row("attention", shape="256x16x16x192/3", **{"pass": "forward+backward"}))
    ceiling = {k: kernel_row()[k] for k in rows.EVERY if k != "kind"} | {
        "kind": "ceiling",
        "name": "matmul",
        "value": 700.0,
        "unit": "TFLOP/s",
    }
    rows.append(file, ceiling)
    assert main(["report", "--results", str(tmp_path), "--out", str(tmp_path / "plots")]) == 0
    said = capsys.readouterr().out
    assert "| norm | 32x16x16x64/8 | bf16 | forward | 2.25 | 0.80 | 0.50 |" in said
    assert "9.99" not in said
    assert "torch 2.11, triton 3.6; commit 000000000; 2026-01-02" in said
    for kind in ("ratios", "roofline"):
        assert (tmp_path / "plots" / f"kernels-gpu-{kind}.png").stat().st_size > 10_000


def test_operations_of_a_pass():
    assert report.flops(kernel_row("attention", shape="2x8x8x128/2")) == 4 * 2 * 64 * 64 * 128
    assert report.flops(kernel_row(shape="2x8x8x16+8/3")) == report.NORM_FLOPS["forward"] * 2 * 64 * 24
