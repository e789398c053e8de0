"""Tests of lab.slimming: what is really gone, what a config tells of it, and what stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from lab import demo_asr, demo_encoder, lessons, models
from lab.errors import ModelError, ParameterError
from lab.layers import linear
from lab.pruning import input_norms
from lab.queries import Generation, Query
from lab.slimming import slim

SHIPPED = Path(__file__).resolve().parent.parent / "params" / "models" / "demo"
SHORT = Generation(most=8)


def small_llama(heads=4, groups=2, neurons=64, seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=neurons,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        attention_bias=True,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).eval()
    for layer in linear(model).values():  # else all units are about as important, biases nothing
        torch.nn.init.normal_(layer.weight, std=0.3)
        layer.weight.data *= torch.rand(len(layer.weight), 1)
        if layer.bias is not None:
            torch.nn.init.normal_(layer.bias)
    return model


def ask(model, seed=0):
    ids = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of each role: those that ship, the others small and untrained."""
    folder = tmp_path_factory.mktemp("suite")
    words = demo_asr.learn_vocabulary(3)
    demo_asr.save(small_whisper(words), words, folder / "asr")
    words = demo_encoder.learn_vocabulary([demo_encoder.group(n) for n in range(60)])
    demo_encoder.save(demo_encoder.build(words), folder / "encoder")
    return {role: (SHIPPED if role in ("vlm", "clip") else folder) / role for role in models.ROLES}


def small_whisper(words):
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(words),
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=128,
        decoder_ffn_dim=64,
        max_source_positions=demo_asr.POSITIONS,
        max_target_positions=demo_asr.MAX_TOKENS,
        pad_token_id=words.eos_token_id,
        bos_token_id=words.eos_token_id,
        eos_token_id=words.eos_token_id,
        decoder_start_token_id=words.convert_tokens_to_ids("<|startoftranscript|>"),
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return WhisperForConditionalGeneration(config)


def queries_of(role, part="exam", count=3):
    if role == "asr":
        noise = np.random.default_rng(0).normal(size=(count, 16_000)).astype(np.float32)
        return [Query(audio=one / 10) for one in noise]
    seen = [lessons.picture(n, part=part) for n in range(count)]
    asked = [lessons.asked_about(one, n, part=part) for n, one in enumerate(seen)]
    texts = [Query(text=one.text) for one in asked]
    if role == "encoder":
        return texts
    return texts + [
        Query(text=one.text if role == "vlm" else "", image=one.picture.draw()) for one in asked
    ]


def equal(answers, others):
    assert not any(one.error for one in answers)
    for one, other in zip(answers, others, strict=True):
        assert one.text == other.text
        assert np.array_equal(one.vector, other.vector)
    return True


# --- which go -------------------------------------------------------------------------------------


def test_it_is_as_if_the_least_important_neurons_and_heads_were_zero():
    model, masked = small_llama(), small_llama()
    for layer in masked.model.layers:
        mlp, attention = layer.mlp, layer.self_attn
        with torch.no_grad():
            rows = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight.T], 1)
            mlp.down_proj.weight[:, rows.norm(dim=1).argsort()[:16]] = 0
            groups = [
                torch.cat(
                    [
                        attention.q_proj.weight[16 * n : 16 * (n + 1)].flatten(),
                        attention.k_proj.weight[8 * n : 8 * (n + 1)].flatten(),
                        attention.v_proj.weight[8 * n : 8 * (n + 1)].flatten(),
                        attention.o_proj.weight[:, 16 * n : 16 * (n + 1)].flatten(),
                    ]
                ).norm()
                for n in range(2)
            ]
            least = int(torch.stack(groups).argmin())
            attention.o_proj.weight[:, 16 * least : 16 * (least + 1)] = 0
    done = slim(model, neurons=0.25, heads=0.5)
    assert set(done.neurons.values()) == {48}
    assert set(done.heads.values()) == {2}
    torch.testing.assert_close(ask(model), ask(masked), rtol=1e-4, atol=1e-4)


def test_calibrated_counts_what_reaches_the_stream():
    model, masked = small_llama(), small_llama()
    norms = input_norms(model, lambda: ask(model, seed=1))
    for n, layer in enumerate(masked.model.layers):
        out = layer.mlp.down_proj.weight.data
        adds = out.norm(dim=0) * norms[f"model.layers.{n}.mlp.down_proj"]
        out[:, adds.argsort()[:32]] = 0
    slim(model, neurons=0.5, norms=norms)
    torch.testing.assert_close(ask(model), ask(masked), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("neurons", "share", "left"),
    [(64, 0.25, 48), (64, 0.3, 48), (64, 0.32, 40), (64, 0.99, 8), (20, 0.2, 16), (12, 0.25, 9)],
)
def test_widths_are_multiples_of_eight_where_they_can_be(neurons, share, left):
    done = slim(small_llama(neurons=neurons), neurons=share)
    assert set(done.neurons.values()) == {left}


@pytest.mark.parametrize(("share", "left"), [(0.25, 4), (0.4, 2), (0.5, 2), (0.9, 1)])
def test_heads_are_as_many_as_the_config_admits(share, left):
    model = small_llama(heads=4, groups=4)  # three heads would not divide the width of 32
    assert set(slim(model, heads=share).heads.values()) == {left}
    LlamaConfig(**model.config.to_dict())


@pytest.mark.parametrize(("family", "heads", "left"), [("Bert", 0.0, set()), ("Qwen3", 0.25, {3})])
def test_other_families_come_back_from_disk_the_same(family, heads, left, tmp_path):
    import transformers

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "vocab_size": 50}
    if left:  # a head's width is in its configuration, and any number of heads may be
        shape |= {"head_dim": 8, "num_key_value_heads": 4}
    config = getattr(transformers, f"{family}Config")(**shape, num_hidden_layers=2)
    kind = getattr(transformers, f"{family}Model")
    model = kind(config).eval()
    done = slim(model, neurons=0.25, heads=heads)
    assert (set(done.neurons.values()), set(done.heads.values())) == ({48}, left)
    model.save_pretrained(tmp_path)
    ids = torch.arange(1, 8)[None]
    with torch.no_grad():
        again = kind.from_pretrained(tmp_path)(input_ids=ids)
        assert torch.equal(again.last_hidden_state, model(input_ids=ids).last_hidden_state)


# --- real models ----------------------------------------------------------------------------------


@pytest.mark.parametrize("role", models.ROLES)
def test_a_slim_model_answers_and_comes_back_from_disk_the_same(role, folders, tmp_path):
    model = models.load(role, folders[role])
    module, queries = model.engine.module, queries_of(role)
    before = model.ask(queries, generation=SHORT)
    parameters = sum(one.numel() for one in module.parameters())
    same = slim(module)
    assert same.parameters == same.before == parameters
    assert equal(model.ask(queries, generation=SHORT), before)

    shapes = {name: layer.weight.shape for name, layer in linear(module).items()}
    done = slim(module, neurons=0.25, heads=0.5 if role == "vlm" else 0.0)
    assert done.parameters == sum(one.numel() for one in module.parameters())
    assert 0.05 < done.removed < 0.3
    for name, layer in linear(module).items():
        assert layer.weight.shape == (layer.out_features, layer.in_features)
        if name.endswith(("fc1", "lin1", "up_proj", "gate_proj")):
            assert layer.out_features == 0.75 * shapes[name][0]
            assert done.neurons[name.rpartition(".")[0]] == layer.out_features
    assert set(done.heads.values()) == ({2} if role == "vlm" else set())

    answers = model.ask(queries, generation=SHORT)
    assert equal(answers, model.ask(queries, generation=SHORT))
    module.save_pretrained(tmp_path / role)
    if role != "encoder":
        model.engine.processor.save_pretrained(tmp_path / role)
    again = models.load(role, tmp_path / role)
    assert again.loaded.loaded_bytes < 4.2 * done.parameters
    assert equal(again.ask(queries, generation=SHORT), answers)


def test_the_shipped_model_loses_less_by_importance_than_at_random():
    whole = models.load("vlm", SHIPPED / "vlm")
    told = whole.ask(queries_of("vlm"), generation=SHORT)
    with FlopCounterMode(display=False) as all_work:
        wanted = predictions(whole)
    train = queries_of("vlm", part="train", count=8)
    norms = input_norms(whole.engine.module, lambda: whole.ask(train, batch_size=1))
    far = {}
    for name, given in (("l2", None), ("calibrated", norms)):
        model = models.load("vlm", SHIPPED / "vlm")
        slim(model.engine.module, neurons=0.2, norms=given)
        with FlopCounterMode(display=False) as work:
            far[name] = divergence(predictions(model), wanted)
        assert work.get_total_flops() < 0.92 * all_work.get_total_flops()
    slimmed = model.ask(queries_of("vlm"), generation=SHORT)
    assert sum(one.text == other.text for one, other in zip(slimmed, told, strict=True)) >= 3
    chance = np.random.default_rng(0)
    for name, layer in linear(whole.engine.module).items():
        if name.endswith(("down_proj", "fc2")):
            gone = chance.permutation(layer.in_features)[: round(0.2 * layer.in_features)]
            layer.weight.data[:, gone] = 0
    far["random"] = divergence(predictions(whole), wanted)
    assert far["calibrated"] < 0.7 * far["l2"] < 0.6 * far["random"]


def predictions(model):
    """Log-probabilities of the next token, at every place of some questions with pictures."""
    found = []
    for query in queries_of("vlm", count=8)[8:]:
        text = models.roles.prompt(model.engine, query)
        given = model.engine.processor(text=[text], images=[query.image], return_tensors="pt")
        given.pop("token_type_ids", None)
        with torch.no_grad():
            found.append(model.engine.module(**given).logits[0].log_softmax(-1))
    return torch.cat(found)


def divergence(one, wanted):
    return float((wanted.exp() * (wanted - one)).sum(1).mean())


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["neurons", "heads"])
@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(kind, share):
    with pytest.raises(ParameterError, match=rf"sparsity of {kind} must be in \[0, 1\), got"):
        slim(small_llama(), **{kind: share})


def test_a_quantized_model_is_refused_and_left_alone():
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = small_llama()
    quantize_(model, Int8WeightOnlyConfig())
    before = ask(model)
    with pytest.raises(ModelError, match="prune first, then quantize"):
        slim(model, neurons=0.5)
    assert torch.equal(ask(model), before)


def test_heads_that_no_config_could_count_are_refused():
    model = models.load("clip", SHIPPED / "clip").engine.module
    with pytest.raises(ModelError, match=r"got 'CLIPModel'.*leave the sparsity of heads at 0"):
        slim(model, heads=0.5)


def test_a_block_that_was_not_calibrated_is_told_before_anything_goes():
    model = small_llama()
    before = ask(model)
    with pytest.raises(ParameterError, match=r"none for model\.layers\.0\.mlp\.down_proj"):
        slim(model, neurons=0.5, norms={})
    assert torch.equal(ask(model), before)
