"""Checkpoints by hand: a few bytes each, sound ones and every way in which one can be unsound."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from safetensors.numpy import save_file

from lab import checkpoints
from lab.errors import LabError, MissingError, ModelError, ParameterError, PathError, ShapeError

BERT = {
    "embeddings.word_embeddings.weight": (50, 8),
    "encoder.layer.0.attention.output.dense.weight": (8, 8),
    "encoder.layer.1.attention.output.dense.weight": (8, 8),
}
SHAPES = {
    "vlm": {
        "language_model.model.embed_tokens.weight": (40, 16),
        "language_model.model.layers.0.self_attn.q_proj.weight": (16, 16),
        "language_model.model.layers.1.self_attn.q_proj.weight": (16, 16),
        "multi_modal_projector.layers.0.weight": (16, 8),
        "vision_tower.vision_model.embeddings.patch_embedding.weight": (8, 3, 4, 4),
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight": (8, 8),
    },
    "asr": {
        "model.encoder.conv1.weight": (16, 80, 3),
        "model.encoder.layers.0.fc1.weight": (16, 16),
        "model.encoder.layers.1.fc1.weight": (16, 16),
        "model.decoder.embed_tokens.weight": (60, 16),
        "model.decoder.layers.0.fc1.weight": (16, 16),
    },
    "clip": {
        "text_model.embeddings.token_embedding.weight": (50, 8),
        "text_model.encoder.layers.0.mlp.fc1.weight": (8, 8),
        "vision_model.embeddings.patch_embedding.weight": (4, 3, 4, 4),
        "vision_model.encoder.layers.0.mlp.fc1.weight": (4, 4),
    },
    "encoder": BERT,
}
CONFIGS = {
    "vlm": {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "text_config": {
            "model_type": "llama",
            "vocab_size": 40,
            "hidden_size": 16,
            "num_hidden_layers": 2,
        },
        "vision_config": {"hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 32000},
    },
    "asr": {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "vocab_size": 60,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "num_hidden_layers": 2,
    },
    "clip": {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "text_config": {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1},
        "vision_config": {"hidden_size": 4, "num_hidden_layers": 1},
    },
    "encoder": {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "vocab_size": 50,
        "hidden_size": 8,
        "num_hidden_layers": 2,
    },
}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    {"idx": 3, "name": "3", "path": "3_Norm", "type": "sentence_transformers.models.Normalize"},
]


@pytest.fixture
def make(tmp_path):
    """Make a checkpoint of a role: its config (with changes), weights and a tokenizer."""

    def make(role, name="model", *, dtype="float32", **changes):
        folder = tmp_path / name
        folder.mkdir()
        write_json(folder / "config.json", {**CONFIGS[role], **changes})
        save_file(arrays(SHAPES[role], dtype), folder / "model.safetensors", {"format": "pt"})
        write_json(folder / "tokenizer.json", {"version": "1.0"})
        (folder / "vocab.txt").write_text("a\nb\n")
        (folder / "README.md").write_text("# A model card")
        if role == "encoder":
            write_json(folder / "modules.json", MODULES)
            (folder / "1_Pooling").mkdir()
            write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
            (folder / "2_Dense").mkdir()
            write_json(folder / "2_Dense" / "config.json", {"in_features": 8, "out_features": 4})
            save_file(arrays({"linear.weight": (4, 8)}), folder / "2_Dense" / "model.safetensors")
        return folder

    return make


def arrays(shapes, dtype="float32"):
    return {name: np.ones(shape, dtype) for name, shape in shapes.items()}


def slug(value):
    """Name a case by its expectation: raw bytes make names that no terminal likes."""
    return re.sub(r"\W+", "-", value)[:50] if isinstance(value, str) else ""


def write_json(path, value):
    path.write_text(json.dumps(value), "utf-8")


def header(entries, data=b"", *, length=None):
    raw = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def tensor(dtype="F32", shape=(2,), begin=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def problem(folder, role="asr", kind=LabError):
    with pytest.raises(kind) as caught:
        checkpoints.inspect(folder, role=role)
    text = str(caught.value)
    assert "\x1b" not in text
    return text


# --- what is sound -------------------------------------------------------------------------------


@pytest.mark.parametrize("role", checkpoints.ROLES)
def test_a_sound_checkpoint_tells_what_it_is(make, role):
    folder = make(role)
    found = checkpoints.inspect(folder, role=role)
    shapes = [*SHAPES[role].values(), *([(4, 8)] if role == "encoder" else [])]
    assert found.architecture == CONFIGS[role]["architectures"][0]
    assert found.model_type == CONFIGS[role]["model_type"]
    assert found.parameters == sum(int(np.prod(shape)) for shape in shapes)
    assert found.stored_bytes == sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    assert found.dtypes == ("float32",)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", found.digest)


def test_only_floating_point_tensors_count_as_parameters(make):
    folder = make("asr")
    save_file(
        {
            **arrays(SHAPES["asr"], "float16"),
            "model.encoder.layer_norm.weight": np.ones(16, "float32"),
            "model.encoder.position_ids": np.arange(1500),
        },
        folder / "model.safetensors",
    )
    found = checkpoints.inspect(folder, role="asr")
    assert found.dtypes == ("float16", "float32")
    assert found.parameters == sum(int(np.prod(shape)) for shape in SHAPES["asr"].values()) + 16


def test_a_language_model_without_images_serves_as_vlm(make):
    folder = make("vlm", architectures=["LlamaForCausalLM"], vision_config=None)
    assert checkpoints.inspect(folder, role="vlm").architecture == "LlamaForCausalLM"


def test_an_encoders_transformer_may_have_its_own_folder(make):
    folder = make("encoder")
    (folder / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).rename(folder / "0_Transformer" / name)
    modules = [{**MODULES[0], "path": "0_Transformer"}, *MODULES[1:]]
    write_json(folder / "modules.json", modules)
    assert checkpoints.inspect(folder, role="encoder").parameters == 560


def test_a_hubs_snapshot_of_links_is_like_its_files(make, tmp_path):
    folder = make("asr")
    repository = tmp_path / "models--a--b"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots" / ("ab" * 20)
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        blob = hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copy(path, repository / "blobs" / blob)
        (snapshot / path.name).symlink_to(f"../../blobs/{blob}")
    (snapshot / "model.msgpack").symlink_to("../../blobs/none")  # not downloaded, not needed
    here, there = (checkpoints.inspect(one, role="asr") for one in (folder, snapshot))
    assert (here.digest, here.stored_bytes) == (there.digest, there.stored_bytes)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Tiny models of each role as transformers and sentence-transformers write them."""
    folder = tmp_path_factory.mktemp("saved")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers as of

    text = {"vocab_size": 50, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2}
    text["num_attention_heads"] = 2
    image = {**text, "hidden_size": 4, "num_hidden_layers": 1, "image_size": 8, "patch_size": 4}
    del image["vocab_size"]
    ends = dict.fromkeys(
        ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1
    )
    sound = {"d_model": 8, "encoder_layers": 2, "decoder_layers": 1, "max_source_positions": 8}
    sound |= {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    sound |= {f"{side}_ffn_dim": 8 for side in ("encoder", "decoder")}
    models = {
        "llava": of.LlavaForConditionalGeneration(
            of.LlavaConfig(
                text_config=of.LlamaConfig(**text), vision_config=of.CLIPVisionConfig(**image)
            )
        ),
        "llama": of.LlamaForCausalLM(of.LlamaConfig(**text)),
        "gpt2": of.GPT2LMHeadModel(of.GPT2Config(vocab_size=50, n_embd=8, n_layer=2, n_head=2)),
        "whisper": of.WhisperForConditionalGeneration(
            of.WhisperConfig(vocab_size=60, **sound, **ends)
        ),
        "clip": of.CLIPModel(of.CLIPConfig(text_config=text, vision_config=image)),
        "siglip": of.SiglipModel(of.SiglipConfig(text_config=text, vision_config=image)),
        "bert": of.BertModel(of.BertConfig(**text)),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
    write_json(folder / "bert" / "modules.json", MODULES[:1])
    return folder


@pytest.mark.parametrize(
    ("name", "role", "key", "more"),
    [
        ("llava", "vlm", "text_config.num_hidden_layers", 1),
        ("llava", "vlm", "vision_config.hidden_size", 1),
        ("llama", "vlm", "vocab_size", 1),
        ("gpt2", "vlm", "n_layer", -1),
        ("whisper", "asr", "d_model", 8),
        ("whisper", "asr", "decoder_layers", 1),
        ("clip", "clip", "text_config.vocab_size", -1),
        ("siglip", "clip", "vision_config.num_hidden_layers", 1),
        ("bert", "encoder", "num_hidden_layers", 2),
    ],
)
def test_what_transformers_saves_is_sound_until_its_config_lies(
    saved, tmp_path, name, role, key, more
):
    checkpoint = checkpoints.inspect(saved / name, role=role)
    assert checkpoint.dtypes == ("float32",)
    folder = tmp_path / name
    shutil.copytree(saved / name, folder)
    config = json.loads((folder / "config.json").read_text())
    *sections, last = key.split(".")
    inner = config[sections[0]] if sections else config
    inner[last] += more
    write_json(folder / "config.json", config)
    text = problem(folder, role, ShapeError)
    assert text.startswith(f"{key} must be {inner[last] - more}, ")
    assert f"got {inner[last]} ({folder}/config.json); config and weights belong to" in text


def test_the_roles_architectures_are_those_of_transformers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.models.auto import modeling_auto as auto

    images = set(auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values())
    for architecture in ("LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration"):
        assert architecture in images
    hearing = {
        name
        for name in auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES.values()
        if checkpoints.fits("asr", {"architectures": [name]})
    }
    assert {"WhisperForConditionalGeneration", "SpeechT5ForSpeechToText"} <= hearing
    texts = list(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    speaking = [name for name in texts if checkpoints.fits("vlm", {"architectures": [name]})]
    assert len(speaking) > 0.9 * len(texts)


# --- the config ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (
            "vocab_size",
            61,
            "vocab_size must be 60, for the tensor 'model.decoder.embed_tokens.weight' has the "
            "shape [60, 16], got 61",
        ),
        ("d_model", 32, "d_model must be 16, for the tensor 'model.decoder.embed_tokens.weight'"),
        ("d_model", "16", "d_model must be 16, for the tensor"),
        ("d_model", True, "d_model must be 16, for the tensor"),
        (
            "encoder_layers",
            1,
            "encoder_layers must be 2, the number of layers stored as 'model.encoder.layers.N', "
            "got 1",
        ),
        ("decoder_layers", 10**12, "decoder_layers must be 1, the number of layers stored"),
        ("decoder_layers", -1, "decoder_layers must be 1, the number of layers stored"),
    ],
    ids=slug,
)
def test_a_config_that_lies_about_sizes_is_told_key_tensor_and_shape(make, key, value, expected):
    assert expected in problem(make("asr", **{key: value}), kind=ShapeError)


def test_every_lie_is_told_at_once(make):
    text = {**CONFIGS["vlm"]["text_config"], "vocab_size": 41, "num_hidden_layers": 3}
    image = {"hidden_size": 9, "num_hidden_layers": 5}
    told = problem(make("vlm", text_config=text, vision_config=image), "vlm", ShapeError)
    keys = [line.split(" must")[0] for line in told.splitlines()]
    assert sorted(keys) == [
        "text_config.num_hidden_layers",
        "text_config.vocab_size",
        "vision_config.hidden_size",
        "vision_config.num_hidden_layers",
    ]


def test_a_layer_that_is_missing_between_others_is_seen(make):
    folder = make("asr", encoder_layers=3)
    shapes = {**SHAPES["asr"], "model.encoder.layers.3.fc1.weight": (16, 16)}
    save_file(arrays(shapes), folder / "model.safetensors")
    assert "encoder_layers must be 3, the number of layers stored" in problem(folder)


def test_layers_that_only_predict_ahead_are_no_lie(make):
    text = {**CONFIGS["vlm"]["text_config"], "num_hidden_layers": 1, "num_nextn_predict_layers": 1}
    assert checkpoints.inspect(make("vlm", text_config=text), role="vlm").parameters


def test_what_the_config_leaves_to_defaults_is_not_guessed(make):
    assert checkpoints.inspect(make("vlm", text_config={}, vision_config={"a": 1}), role="vlm")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"{\n  'a': 1}", r"must be JSON, got 'Expecting property name .*/config\.json:2:3\)"),
        (b"", r"must be JSON, got 'Expecting value' \(.*config\.json:1:1\)"),
        (b'{"a": "\x00"}', r"must be JSON, got 'Invalid control character at' \(.*:1:8\)"),
        ('{"a": "医疗"}'.encode("gb18030"), r"must be UTF-8, got 'byte 9' \(.*config\.json\)"),
        (b"[" * 100_000 + b"]" * 100_000, r"must be JSON that can be read, got maximum recursion"),
        (b'{"a": ' + b"1" * 10_000 + b"}", r"must be JSON that can be read, got Exceeds the limit"),
        (b"[1]", r"must hold keys and values, got 'list'"),
        (b" " * (checkpoints.MAX_JSON_BYTES + 1), r"must be at most 5000000 bytes, got 'more'"),
        (b"{}", r"architectures must name the model's class, got None \(.*config\.json\)"),
        (b'{"architectures": "CLIPModel"}', r"architectures must name the model's class"),
        (b'{"architectures": [["a"]]}', r"architectures must name the model's class, got \[\['a'"),
        (b'{"architectures": ["A"]}', r"model_type must name the kind of model, got None"),
    ],
    ids=slug,
)
def test_a_config_that_cannot_be_read_is_told_with_its_place(make, raw, expected):
    folder = make("asr")
    (folder / "config.json").write_bytes(raw)
    assert re.search(expected, problem(folder, kind=ModelError))


def test_values_nested_almost_too_deep_are_told_too(make):
    folder = make("asr")
    seen = set()
    for depth in range(800, 1000, 10):
        nest = "[" * depth + "]" * depth
        (folder / "config.json").write_text(f'{{"architectures": [{nest}]}}')
        seen.add(problem(folder, kind=ModelError).split(",")[0])
    assert "architectures must name the model's class" in seen


# --- roles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "role", "expected"),
    [
        (
            "clip",
            "asr",
            "the role asr needs a speech-to-text model such as WhisperForConditionalGeneration, "
            "got 'CLIPModel' ({folder}/config.json); it fits the role clip",
        ),
        (
            "asr",
            "encoder",
            "the role encoder needs a sentence-transformers folder with modules.json, got "
            "'WhisperForConditionalGeneration' ({folder}/config.json); it fits the role asr",
        ),
        ("vlm", "clip", "the role clip needs a model of image and text vectors such as CLIPModel"),
        ("asr", "vlm", "the role vlm needs a model that answers in text, with images such as"),
        ("encoder", "vlm", "got 'BertModel' ({folder}/config.json); it fits the role encoder"),
    ],
    ids=slug,
)
def test_a_role_given_another_architecture_is_told_which_it_fits(make, made, role, expected):
    folder = make(made)
    assert expected.format(folder=folder) in problem(folder, role, ModelError)


def test_an_architecture_that_fits_no_role_is_told(make):
    text = problem(make("clip", architectures=["T5ForConditionalGeneration"], vision_config=None))
    assert text.endswith("config.json); choose another checkpoint")


def test_a_role_that_there_is_not_is_told(make):
    assert problem(make("asr"), "ocr", ParameterError).startswith(
        "role must be one of vlm, asr, clip, encoder, got 'ocr'"
    )


@pytest.mark.parametrize(
    ("modules", "kind", "expected"),
    [
        ([], ModelError, "a model must have at least one module, got 'none'"),
        ({}, ModelError, "must hold a list, got 'dict'"),
        ([1], ModelError, "a module must have a type and a path, got 1"),
        (
            [{**MODULES[0], "type": "modeling.Own"}],
            ModelError,
            "a module must be one of sentence-transformers' own, got 'modeling.Own'",
        ),
        (
            [{**MODULES[0], "type": "sentence_transformers.models.BoW"}],
            ModelError,
            "the first module must be a Transformer, got 'sentence_transformers.models.BoW'",
        ),
        (
            [MODULES[0], {**MODULES[1], "path": "../../etc"}],
            PathError,
            "a module's path must stay inside the folder, got '../../etc'",
        ),
        ([{**MODULES[0], "path": "/etc"}], PathError, "must stay inside the folder, got '/etc'"),
        ([{**MODULES[0], "path": "a\x00b"}], PathError, r"must stay inside the folder, got 'a\x00"),
        ([{**MODULES[0], "path": "0_None"}], MissingError, "must hold config.json"),
    ],
    ids=slug,
)
def test_an_encoders_modules_keep_their_rules(make, modules, kind, expected):
    folder = make("encoder")
    write_json(folder / "modules.json", modules)
    if expected == "must hold config.json":
        (folder / "0_None").mkdir()
    assert expected in problem(folder, "encoder", kind)


# --- what is not loaded --------------------------------------------------------------------------


def test_a_missing_folder_config_or_weight_is_told(make, tmp_path):
    assert problem(tmp_path / "none", kind=MissingError).startswith(
        f"a checkpoint must be a folder, got '{tmp_path}/none'"
    )
    folder = make("asr")
    (folder / "model.safetensors").unlink()
    text = problem(folder, kind=MissingError)
    assert "must hold model.safetensors or model.safetensors.index.json, got" in text
    assert text.endswith("(a hub may hold safetensors in another revision only)")
    (folder / "config.json").unlink()
    assert f"a checkpoint must hold config.json, got 'README.md and 2 more' ({folder})" in problem(
        folder, kind=MissingError
    )
    save_file({}, folder / "model.safetensors")
    write_json(folder / "config.json", CONFIGS["asr"])
    assert "weights must hold at least one tensor, got 'none'" in problem(folder, kind=MissingError)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pickle", "model.onnx"])
def test_pickled_weights_are_refused(make, name):
    folder = make("asr")
    (folder / "model.safetensors").rename(folder / name)
    assert problem(folder, kind=ModelError) == (
        f"weights must be safetensors, got '{name}' ({folder}); convert with from_pretrained and "
        "save_pretrained of transformers, where you trust the file"
    )


def test_pickled_weights_of_one_module_are_refused(make):
    folder = make("encoder")
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    text = problem(folder, "encoder", ModelError)
    assert f"weights must be safetensors, got 'pytorch_model.bin' ({folder}/2_Dense)" in text


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_its_own_is_refused(make, file):
    own = {"auto_map": {"AutoModel": "modeling.Own"}}
    folder = make("asr", **(own if file == "config.json" else {}))
    if file != "config.json":
        write_json(folder / file, own)
    text = problem(folder, kind=ModelError)
    assert f"must not need code of its own, got 'auto_map' ({folder}/{file})" in text
    folder = make("vlm", "nested", text_config={**CONFIGS["vlm"]["text_config"], **own})
    assert "config.json: text_config)" in problem(folder, "vlm", ModelError)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"quantization_config": {"load_in_4bit": True}}, "weights must be stored unquantized"),
        ({"transformers_weights": "/etc/passwd"}, "weights must be in model.safetensors or its"),
    ],
)
def test_weights_that_are_not_the_plain_ones_are_refused(make, changes, expected):
    assert expected in problem(make("asr", **changes), kind=ModelError)


def test_an_adapter_is_refused(make):
    folder = make("asr")
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": "a/b"})
    assert "an adapter must be merged into its model" in problem(folder, kind=ModelError)


# --- headers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", "the header must end inside the file, got '0 in a file of 0 bytes'"),
        (b"\x05\0\0", "the header must end inside the file, got '5 in a file of 3 bytes'"),
        (
            header({}, length=2**63),
            "the header must end inside the file, got '9223372036854775808 in a file of 10 bytes'",
        ),
        (header({}, length=2**64 - 1), "the header must end inside the file"),
        (
            header(b" " * (checkpoints.MAX_HEADER_BYTES + 1)),
            "a safetensors header must be at most 10000000 bytes, got 10000001",
        ),
        (header(b"{"), "must be JSON, got 'Expecting property name"),
        (header(b"[]"), "must hold keys and values, got 'list'"),
        (header(b'{"a":' * 50_000), "must be JSON that can be read, got maximum recursion"),
        (
            header(b'{"a":{"dtype":"U8","dtype":"F32"}}'),
            "must be JSON that can be read, got a key that is there twice",
        ),
        (header({"a": 1}), "tensor 'a': dtype must be one of safetensors', got None"),
        (header({"a": tensor(dtype="F99")}), "tensor 'a': dtype must be one of safetensors', got"),
        (header({"a": tensor(dtype=[])}), "tensor 'a': dtype must be one of safetensors', got []"),
        (header({"a": tensor(shape=(-1,))}), "tensor 'a': shape must be a list of sizes, got [-1]"),
        (header({"a": tensor(shape=(2.0,))}), "tensor 'a': shape must be a list of sizes"),
        (header({"a": tensor(shape=(True,))}), "tensor 'a': shape must be a list of sizes"),
        (header({"a": tensor(shape=[1] * 17)}), "tensor 'a': shape must be a list of sizes"),
        (header({"a": tensor(begin=8, end=0)}), "tensor 'a': data_offsets must be a begin and an"),
        (header({"a": tensor(end=2**70)}), "tensor 'a': data_offsets must be a begin and an end"),
        (
            header({"a": tensor(end=4)}, bytes(4)),
            "tensor 'a': a F32 of shape [2] must take its size in bytes, got 4",
        ),
        (
            header({"a": tensor(shape=[2**62] * 16)}, bytes(8)),
            "must take its size in bytes, got 8",
        ),
        (
            header({"a": tensor(begin=8, end=16)}, bytes(16)),
            "tensors must follow one another without a gap or an overlap, got",
        ),
        (
            header({"a": tensor(), "b": tensor(begin=4, end=12)}, bytes(12)),
            "without a gap or an overlap, got \"'b' from 4 where 8 was due\"",
        ),
        (
            header({"a": tensor()}, bytes(7)),
            "the tensors must lie inside the file and fill it, got '8 bytes of tensors in 7'",
        ),
        (header({"a": tensor()}, bytes(9)), "got '8 bytes of tensors in 9'"),
        (
            header({"__metadata__": {"format": "tf"}, "a": tensor()}, bytes(8)),
            "weights must be saved for PyTorch (pt), got 'tf'",
        ),
        (header({"\x1b[31m\u202e": tensor(end=1)}), r"tensor '\x1b[31m\u202e': a F32"),
    ],
    ids=slug,
)
def test_a_header_that_is_not_sound_is_told(make, raw, expected):
    folder = make("asr")
    (folder / "model.safetensors").write_bytes(raw)
    text = problem(folder, kind=ModelError)
    assert expected in text
    assert f"{folder}/model.safetensors" in text
    assert "\x1b" not in text


def test_a_download_that_was_cut_short_is_told(make):
    folder = make("asr")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "the file is damaged or cut short: get it again" in problem(folder, kind=ModelError)


def test_numbers_smaller_than_a_byte_and_empty_tensors_are_measured(make):
    folder = make("asr")
    entries = {
        "a": tensor("F4", (4,), 0, 2),
        "none": tensor("F32", (0, 3), 2, 2),
        "b": tensor("F8_E4M3", (3,), 2, 5),
        "__metadata__": {"format": "pt"},
    }
    (folder / "model.safetensors").write_bytes(header(entries, bytes(5)))
    found = checkpoints.inspect(folder, role="asr")
    assert (found.parameters, found.dtypes) == (3, ("float8_e4m3fn", "float32"))


# --- shards --------------------------------------------------------------------------------------


def shard(folder):
    """Split the weights in two; return the index."""
    shapes = list(SHAPES["asr"].items())
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    shards = {}
    for name, part in zip(names, (shapes[:2], shapes[2:]), strict=True):
        save_file(arrays(dict(part)), folder / name)
        shards |= {tensor: name for tensor, _ in part}
    (folder / "model.safetensors").unlink()
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": shards})
    return shards


def test_shards_count_together(make):
    whole, split = make("asr", "whole"), make("asr", "split")
    shard(split)
    one, two = (checkpoints.inspect(folder, role="asr") for folder in (whole, split))
    assert one.parameters == two.parameters
    assert two.stored_bytes == sum(path.stat().st_size for path in split.glob("*.safetensors"))
    config = {**CONFIGS["asr"], "decoder_layers": 2}
    write_json(split / "config.json", config)
    assert "decoder_layers must be 1" in problem(split, kind=ShapeError)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("../../etc/passwd", PathError, "a shard must be a safetensors file beside the index"),
        ("/etc/passwd.safetensors", PathError, "got '/etc/passwd.safetensors'"),
        ("..\\x.safetensors", PathError, "beside the index"),
        ("sub/x.safetensors", PathError, "beside the index"),
        ("x\x00.safetensors", PathError, r"got 'x\x00.safetensors'"),
        ("pytorch_model.bin", PathError, "a shard must be a safetensors file"),
        (["x"], PathError, "a shard must be a safetensors file"),
        (
            "model-00003-of-00002.safetensors",
            MissingError,
            "every shard that the index names must be there, got 'no model-00003-of-00002.safetens",
        ),
    ],
    ids=slug,
)
def test_an_index_names_only_shards_beside_it(make, name, kind, expected):
    folder = make("asr")
    shards = shard(folder)
    shards["model.encoder.conv1.weight"] = name
    write_json(folder / "model.safetensors.index.json", {"weight_map": shards})
    assert expected in problem(folder, kind=kind)


def test_an_index_and_its_shards_agree(make):
    folder = make("asr")
    shards = shard(folder)
    index = folder / "model.safetensors.index.json"
    write_json(index, {"weight_map": {**shards, "more": "model-00001-of-00002.safetensors"}})
    assert "the shards must hold what the index names, got 'more'" in problem(folder)
    write_json(index, {"weight_map": {}})
    assert "weight_map must name the file of each tensor, got {}" in problem(folder)
    write_json(index, {"weight_map": shards})
    second = folder / "model-00002-of-00002.safetensors"
    save_file(arrays(SHAPES["asr"]), second)
    assert "a tensor must be stored once, got 'model.encoder.conv1.weight'" in problem(folder)


# --- odd files -----------------------------------------------------------------------------------


def test_links_in_a_circle_and_to_nowhere_are_told(make, tmp_path):
    folder = make("asr")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("model.safetensors")
    assert "must be readable, got 'Too many levels of symbolic links'" in problem(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("gone")
    assert "must be there, got 'a link that leads nowhere'" in problem(folder, kind=MissingError)
    (tmp_path / "loop").symlink_to("loop")
    assert "a checkpoint must be a folder" in problem(tmp_path / "loop", kind=MissingError)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_pipe_or_folder_in_a_files_place_is_told_and_does_not_block(make, name):
    folder = make("asr")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert f"must be a regular file, got '{name}'" in problem(folder, kind=ModelError)
    (folder / name).unlink()
    if name != "tokenizer.json":
        (folder / name).mkdir()
        assert f"must be a regular file, got '{name}'" in problem(folder, kind=ModelError)


def test_a_linked_folder_and_a_folder_too_full_are_refused(make, monkeypatch):
    folder = make("asr")
    (folder / "loop").symlink_to(folder)
    assert "a folder inside a checkpoint must not be a link, got 'loop'" in problem(
        folder, kind=PathError
    )
    (folder / "loop").unlink()
    deep = folder.joinpath(*"abcdefghij")
    deep.mkdir(parents=True)
    assert "a checkpoint must hold at most 2000 files, 5 folders deep" in problem(folder)


# --- digest --------------------------------------------------------------------------------------


@pytest.fixture
def later(monkeypatch):
    """Let the clock be ten seconds on, so that no file looks as if touched just now."""
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 10**10)


def changed(folder, change):
    before = checkpoints.digest(folder)
    change()
    return checkpoints.digest(folder) != before


def test_the_digest_changes_with_whatever_decides_answers(make):
    folder = make("encoder")
    weights = folder / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    assert changed(folder, lambda: weights.write_bytes(raw))
    for name in ("config.json", "tokenizer.json", "vocab.txt", "2_Dense/config.json"):
        path = folder / name
        assert changed(folder, lambda path=path: path.write_text(path.read_text() + " ")), name
    for name in ("chat_template.jinja", "spiece.model", "generation_config.json"):
        assert changed(folder, lambda name=name: (folder / name).write_text("{}")), name
    assert changed(folder, (folder / "spiece.model").unlink)
    assert changed(folder, lambda: (folder / "vocab.txt").rename(folder / "other.txt"))


def test_the_digest_does_not_change_with_what_does_not(make, tmp_path):
    folder = make("asr")
    git, cache = folder / ".git", folder / ".cache" / "huggingface"
    training = folder / "checkpoint-500"
    for path in (git, cache, training):
        path.mkdir(parents=True)
    for path in (
        folder / "README.md",
        folder / "pytorch_model.bin",
        folder / "training_args.bin",
        git / "HEAD.json",
        cache / "x.json",
        training / "config.json",
    ):
        assert not changed(folder, lambda path=path: path.write_text("new")), path.name
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    assert checkpoints.digest(copy) == checkpoints.digest(folder)


def test_names_and_contents_cannot_be_shifted_into_each_other(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "one" / "a.txt").write_text("x")
    (tmp_path / "one" / "b.txt").write_text("y")
    (tmp_path / "two" / "a.txt").write_text("y")
    (tmp_path / "two" / "b.txt").write_text("x")
    assert checkpoints.digest(tmp_path / "one") != checkpoints.digest(tmp_path / "two")


@pytest.mark.usefixtures("later")
def test_what_was_read_is_not_read_again_until_it_changes(make, tmp_path, monkeypatch):
    folder, cache = make("asr"), tmp_path / "cache" / "below"
    first = checkpoints.inspect(folder, role="asr", cache=cache).digest
    read = []
    real = hashlib.file_digest
    monkeypatch.setattr(
        checkpoints.hashlib, "file_digest", lambda file, how: read.append(file) or real(file, how)
    )
    assert checkpoints.digest(folder, cache=cache) == first == checkpoints.digest(folder)
    assert len(read) == 4  # those without a cache
    (folder / "vocab.txt").write_text("a\nc\n")
    assert checkpoints.digest(folder, cache=cache) != first
    assert len(read) == 5


def test_what_was_touched_just_now_is_read_again(make, tmp_path):
    folder, cache = make("asr"), tmp_path / "cache"
    first = checkpoints.digest(folder, cache=cache)
    path = folder / "vocab.txt"
    times = path.stat()
    path.write_text("a\nc\n")  # as long as before
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert checkpoints.digest(folder, cache=cache) != first


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize(
    "left", ["", "[]", '{"files": 3}', '{"files": {"vocab.txt": [1, 2, 3, 4, "x"]}}', "[" * 9999]
)
def test_a_damaged_cache_is_no_error(make, tmp_path, left):
    folder, cache = make("asr"), tmp_path / "cache"
    checkpoints.digest(folder, cache=cache)
    (stored,) = cache.iterdir()
    stored.write_text(left)
    assert checkpoints.digest(folder, cache=cache) == checkpoints.digest(folder)


def test_a_cache_that_cannot_be_written_is_no_error(make, tmp_path):
    folder = make("asr")
    (tmp_path / "file").write_text("")
    assert checkpoints.digest(folder, cache=tmp_path / "file") == checkpoints.digest(folder)


def test_two_processes_may_hash_at_once(make, tmp_path):
    folder, cache = make("asr"), tmp_path / "cache"
    code = (
        "import sys, time; from pathlib import Path; from lab import checkpoints;"
        "real = time.time_ns; time.time_ns = lambda: real() + 10**10;"
        "print(*{checkpoints.digest(Path(sys.argv[1]), cache=Path(sys.argv[2]))"
        " for _ in range(50)})"
    )
    words = [sys.executable, "-c", code, str(folder), str(cache)]
    running = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate()[0].strip() for process in running]
    assert answers == [checkpoints.digest(folder)] * 2
    (stored,) = cache.iterdir()
    assert set(json.loads(stored.read_text())["files"]) == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "vocab.txt",
    }


def test_neither_torch_nor_transformers_is_imported():
    code = (
        "import sys; from lab import checkpoints, suites, model_commands;"
        "print(*[m for m in ('torch', 'transformers', 'numpy', 'safetensors', 'huggingface_hub')"
        " if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == ""
