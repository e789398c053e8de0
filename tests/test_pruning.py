from __future__ import annotations

import pytest
import torch
from conftest import small_llama
from torch.nn.utils import prune as theirs

from lab.errors import ParameterError, ShapeError
from lab.layers import linear
from lab.pruning import input_norms, prune, prune_l1, prune_wanda


def weights(rows=12, columns=20, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.3, 0.5, 0.999])
def test_l1_is_that_of_torch(sparsity):
    layer = torch.nn.Linear(20, 12)
    theirs.l1_unstructured(layer, "weight", amount=sparsity)
    assert torch.equal(prune_l1(layer.weight_orig, sparsity=sparsity), layer.weight)


def test_wanda_by_hand():
    weight = torch.tensor([[1.0, -2.0, 3.0], [-3.0, 2.0, 1.0]])
    norm = torch.tensor([6.0, 1.0, 1.0])
    # Scores: 6 2 3 and 18 2 1; one of three goes from each row.
    pruned = prune_wanda(weight, norm, sparsity=1 / 3)
    assert pruned.tolist() == [[1, 0, 3], [-3, 2, 0]]


def test_wanda_with_equal_norms_is_magnitude_row_by_row():
    weight = weights()
    pruned = prune_wanda(weight, torch.full((20,), 2.0), sparsity=0.4)
    for row, kept in zip(weight, pruned, strict=True):
        alone = prune_l1(row[None], sparsity=0.4)
        assert torch.equal(kept[None], alone)


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 0.7])
def test_the_sparsity_is_exact_and_the_rest_as_it_was(sparsity):
    weight = weights()
    before = weight.clone()
    for pruned in (
        prune_l1(weight, sparsity=sparsity),
        prune_wanda(weight, weights(1)[0].abs(), sparsity=sparsity),
    ):
        assert int((pruned == 0).sum()) == round(sparsity * weight.numel())
        assert torch.equal(pruned[pruned != 0], weight[pruned != 0])
    assert torch.equal(weight, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_weights_are_not_all_taken(dtype):
    pruned = prune_l1(torch.ones(4, 5, dtype=dtype), sparsity=0.5)
    assert int((pruned == 0).sum()) == 10
    assert pruned.dtype == dtype


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.2, float("nan")])
def test_a_sparsity_out_of_range_is_refused(sparsity):
    with pytest.raises(ParameterError, match=r"sparsity must be in \[0, 1\)"):
        prune_l1(weights(), sparsity=sparsity)
    with pytest.raises(ParameterError, match=r"sparsity must be in \[0, 1\)"):
        prune_wanda(weights(), weights(1)[0], sparsity=sparsity)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="a weight must be a matrix"):
        prune_l1(torch.ones(3), sparsity=0.1)
    with pytest.raises(ShapeError, match=r"each input of the weight, got '\(12,\) for \(12, 20\)"):
        prune_wanda(weights(), torch.ones(12), sparsity=0.1)


# --- a model --------------------------------------------------------------------------------------


def ask(model, seed=0):
    ids = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_words_are_not_pruned():
    model = small_llama()
    assert len(linear(model)) == 2 * 7
    assert all("lm_head" not in name and "embed" not in name for name in linear(model))
    before = model.lm_head.weight.clone()
    prune(model, method="l1", sparsity=0.5)
    assert torch.equal(model.lm_head.weight, before)


@pytest.mark.parametrize("method", ["l1", "wanda"])
def test_a_pruned_model_has_that_share_of_zeros_and_still_answers(method):
    model = small_llama()
    before = ask(model)
    norms = input_norms(model, lambda: ask(model, seed=1))
    assert torch.equal(ask(model), before)  # listening changes nothing
    done = prune(model, method=method, sparsity=0.5, norms=norms)
    assert done.sparsity == 0.5
    assert done.weights == sum(layer.weight.numel() for layer in linear(model).values())
    assert done.zeros == sum(int((one.weight == 0).sum()) for one in linear(model).values())
    assert set(done.layers.values()) == {0.5}
    assert not torch.equal(ask(model), before)
    assert torch.isfinite(ask(model)).all()


def test_no_pruning_changes_nothing():
    model = small_llama()
    before = ask(model)
    assert prune(model, method="l1", sparsity=0.0).zeros == 0
    assert torch.equal(ask(model), before)


def test_the_norms_are_those_of_all_tokens_of_all_calls():
    model, seen = small_llama(), []
    name, layer = next(iter(linear(model).items()))
    handle = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))

    def run():
        ask(model, seed=1)
        ask(model, seed=2)

    norms = input_norms(model, run)
    handle.remove()
    together = torch.cat([one.flatten(0, 1) for one in seen])
    assert together.shape == (2 * 3 * 7, 16)
    torch.testing.assert_close(norms[name], together.norm(dim=0))
    assert not layer._forward_pre_hooks


def test_wanda_keeps_the_answers_closer_than_magnitude_where_inputs_differ():
    torch.manual_seed(0)
    scale = torch.logspace(-1.5, 1.5, 32)
    given = torch.randn(500, 32) * scale
    errors = {}
    for method in ("l1", "wanda"):
        torch.manual_seed(1)
        model = torch.nn.Sequential(torch.nn.Linear(32, 32))
        wanted = model(given)
        norms = input_norms(model, lambda model=model: model(given))
        prune(model, method=method, sparsity=0.5, norms=norms)
        errors[method] = float((model(given) - wanted).norm().detach())
    assert errors["wanda"] < 0.5 * errors["l1"]


def test_a_layer_that_was_not_calibrated_is_told():
    model = small_llama()
    with pytest.raises(ParameterError, match=r"none for model.layers.0.* and 13 more"):
        prune(model, method="wanda", sparsity=0.5)


def test_an_unknown_method_is_refused():
    with pytest.raises(ParameterError, match="l1 or wanda, got 'magic'"):
        prune(small_llama(), method="magic", sparsity=0.5)
