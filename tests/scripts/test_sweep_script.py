"""The command line of sweeps."""

import pytest

from jaxgpt.commands import sweep

SMALL = "--stories-bytes 20000 --steps 2 --warmup-steps 1 --batch-size 8 --evaluation-batches 2"
SHAPE = "--context-length 16 --num-layers 1 --embed-dim 16 --dropout 0.1"


@pytest.mark.whole_run
def test_a_sweep_ends_with_its_table(tmp_path, capsys):
    path = tmp_path / "table.csv"
    flags = f"tiny --seeds 4,5 --learning-rates 1e-3 --csv {path} {SMALL} {SHAPE}"
    sweep.main(flags.split())
    head, *lanes = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["seed", "learning", "rate"]
    assert [line.split()[:3] for line in lanes] == [["4", "0.001", "2"], ["5", "0.001", "2"]]
    assert [line.split(",")[0] for line in path.read_text().splitlines()] == ["seed", "4", "5"]
