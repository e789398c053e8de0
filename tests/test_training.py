"""The training loop: schedule, learning, going on after a kill, and what is refused."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lab.errors import ParameterError
from lab.training import CHECKPOINT, Schedule, fit

FAST = Schedule(steps=40, learning_rate=0.05, bf16=False, weight_decay=0.0)


def line(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Linear(3, 1)


def loss_of(model):
    def loss(step):
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(step))
        y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 3
        return ((model(torch.nn.functional.dropout(x, 0.1)) - y) ** 2).mean()

    return loss


class TestSchedule:
    def test_rises_then_falls_to_a_hundredth(self):
        schedule = Schedule(steps=100, learning_rate=1.0, warmup=0.1)
        assert schedule.rate(0) == pytest.approx(0.1)
        assert schedule.rate(9) == pytest.approx(1.0)
        assert schedule.rate(55) == pytest.approx(0.01 + 0.99 * 0.5)  # half of the cosine
        assert schedule.rate(99) < 0.02

    @pytest.mark.parametrize(
        "wrong", [{"steps": 0}, {"learning_rate": 2.0}, {"learning_rate": float("nan")}]
    )
    def test_is_refused_out_of_range(self, wrong):
        with pytest.raises(ParameterError, match=f"{next(iter(wrong))} must be between"):
            Schedule(**{"steps": 10, "learning_rate": 0.1, **wrong})


class TestFit:
    def test_learns_a_line(self, tmp_path):
        model = line()
        trained = fit(
            [model],
            loss_of(model),
            Schedule(steps=300, learning_rate=0.1, bf16=False, weight_decay=0.0),
            tmp_path,
        )
        assert len(trained.losses) == 300
        assert trained.mean_loss(-0.1) < 0.1 * trained.mean_loss(0.1)
        assert model.bias.item() == pytest.approx(3, abs=0.3)

    def test_is_the_same_for_a_seed(self, tmp_path):
        first, second = line(), line()
        losses = [
            fit([model], loss_of(model), FAST, tmp_path / str(at)).losses
            for at, model in enumerate((first, second))
        ]
        assert losses[0] == losses[1]
        assert torch.equal(first.weight, second.weight)

    def test_goes_on_where_it_was(self, tmp_path):
        whole, broken = line(), line()
        expected = fit([whole], loss_of(whole), FAST, tmp_path / "whole")

        def until_25(step):
            if step == 25:
                raise KeyboardInterrupt
            return loss_of(broken)(step)

        with pytest.raises(KeyboardInterrupt):
            fit([broken], until_25, FAST, tmp_path / "broken", save_every_s=0)
        again = line(seed=9)  # another process knows nothing of the weights
        gone_on = fit([again], loss_of(again), FAST, tmp_path / "broken")
        assert gone_on.losses == expected.losses
        assert torch.equal(again.weight, whole.weight)
        assert gone_on.seconds > 0

    def test_survives_kill_9(self, tmp_path):
        code = f"""
import sys, time; sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_training import FAST, fit, line, loss_of
model = line()
def slow(step):
    time.sleep(0.02); print(step, flush=True)
    return loss_of(model)(step)
fit([model], slow, FAST, Path({str(tmp_path)!r}), save_every_s=0)
"""
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while process.stdout.readline().strip() != "12":
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        steps = []

        def counted(step):
            steps.append(step)
            return loss_of(model)(step)

        model, whole = line(seed=3), line()
        trained = fit([model], counted, FAST, tmp_path)
        assert 10 <= steps[0] <= 13
        assert trained.losses == fit([whole], loss_of(whole), FAST, tmp_path / "whole").losses

    def test_another_recipe_starts_afresh(self, tmp_path):
        model = line()
        fit([model], loss_of(model), FAST, tmp_path, recipe="one")
        steps = []

        def counted(step):
            steps.append(step)
            return loss_of(model)(step)

        fit([model], counted, FAST, tmp_path, recipe="two")
        assert steps[0] == 0

    def test_a_torn_checkpoint_cannot_arise(self, tmp_path):
        model = line()
        fit([model], loss_of(model), FAST, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]

    def test_what_needs_no_gradient_stays(self, tmp_path):
        model, frozen = line(), line(seed=1)
        frozen.requires_grad_(False)
        before = frozen.weight.clone()
        fit([model, frozen], loss_of(model), FAST, tmp_path)
        assert torch.equal(frozen.weight, before)

    def test_a_loss_that_is_not_finite_is_said(self, tmp_path):
        model = line()
        with pytest.raises(ParameterError, match=r"the loss must stay finite, got nan \(step 3\)"):
            fit(
                [model],
                lambda step: loss_of(model)(step) * (float("nan") if step == 3 else 1),
                FAST,
                tmp_path,
            )

    def test_progress_ends_at_the_end(self, tmp_path):
        model, told = line(), []
        fit([model], loss_of(model), FAST, tmp_path, progress=lambda *words: told.append(words))
        stage, done, total = told[-1]
        assert (done, total) == (40, 40)
        assert stage.startswith("loss ")
