"""Progress into a pipe: a line per quarter and stage, not one for each change of a figure."""

from __future__ import annotations

from lab import terminal


def lines(capsys, *told):
    with terminal.bar("training asr") as progress:
        for one in told:
            progress(*one)
    return capsys.readouterr().err.splitlines()


def test_a_loss_that_changes_is_not_a_stage_of_its_own(capsys):
    told = [(f"loss {3 - step / 100:.3f}", step, 100) for step in range(101)]
    assert lines(capsys, *told) == [
        "training asr: loss 3.000 0 %",
        "training asr: loss 2.750 25 %",
        "training asr: loss 2.500 50 %",
        "training asr: loss 2.250 75 %",
        "training asr: loss 2.000 100 %",
    ]


def test_each_stage_is_told(capsys):
    told = [("speaking zh", 1, 20), ("speaking en", 1, 20), ("looking", 0, 0)]
    assert lines(capsys, *told) == [
        "training asr: speaking zh 0 %",
        "training asr: speaking en 0 %",
        "training asr: looking",
    ]
