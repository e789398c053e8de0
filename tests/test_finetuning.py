"""Fine-tuning: every role learns, adapters merge away, kills lose nothing, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lab import (
    checkpoints,
    demo_asr,
    demo_clip,
    demo_encoder,
    demo_vlm,
    models,
    roles,
    vocabularies,
)
from lab.errors import ModelError, ParameterError, PathError
from lab.finetuning import (
    LARGE_PARAMETERS,
    LORA_RANK,
    Example,
    FineTuning,
    fine_tune,
    proposed_rank,
)
from lab.queries import Generation, Query

DESCRIPTIONS = {"red": "赤い絵", "lime": "绿色的图", "blue": "a blue picture", "gray": "灰色"}
SAID = [
    ("How do I return it?", "Log in, then choose the order.", "en"),
    ("如何退货?", "请登录账户。", "zh"),
    ("返品できますか?", "はい、できます。", "ja"),
    ("Is B12 in stock?", "Yes, three are left.", "en"),
]
KINDS = ("llama", "llava", "asr", "clip", "siglip", "encoder")
ROLES = {"llama": "vlm", "llava": "vlm", "siglip": "clip"}
FAST = FineTuning(learning_rate=0.02, batch_size=4, epochs=12, bf16=False)
SLOW = replace(FAST, learning_rate=1e-9, epochs=1, warmup=0.0)  # so that nothing is learnt
_SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
_SPREAD = 0.3  # of untrained weights, so that words differ enough to be told apart by adapters
_HEADS = {"num_attention_heads": 2}
_SEES = {**_SMALL, **_HEADS, "image_size": 64, "patch_size": 8}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with a tiny untrained checkpoint of each kind."""
    root = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    for kind in KINDS:
        globals()[f"make_{kind}"](root / kind)
    return root


def words(special, **options):
    texts = [text for row in SAID for text in row[:2]] + list(DESCRIPTIONS.values())
    return vocabularies.learn(texts, size=330, special=special, single_kana=True, **options)


def framed():
    learnt = words(["<pad>", "<s>", "</s>"], lowercase=True)
    return vocabularies.framed(learnt, begin="<s>", end="</s>", pad="<pad>", most=16)


def llama_words():
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<image>", "<|system|>", "<|user|>", "<|assistant|>"]
    return PreTrainedTokenizerFast(
        tokenizer_object=words(special).backend_tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )


def llama_config(tokenizer):
    from transformers import LlamaConfig

    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return LlamaConfig(
        **_SMALL,
        **_HEADS,
        **ends,
        vocab_size=len(tokenizer),
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=_SPREAD,
    )


def make_llama(folder):
    from transformers import LlamaForCausalLM

    tokenizer = llama_words()
    tokenizer.chat_template = demo_vlm.CHAT_TEMPLATE
    LlamaForCausalLM(llama_config(tokenizer)).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_llava(folder):
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    tokenizer = llama_words()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_SEES),
        text_config=llama_config(tokenizer),
        image_token_index=3,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=demo_vlm.IMAGE_TOKENS,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = 2
    demo_vlm.save(model, tokenizer, folder)


def make_asr(folder):
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    special = ["<|endoftext|>", "<|startoftranscript|>", "<|zh|>", "<|en|>", "<|ja|>"]
    tokenizer = words([*special, "<|translate|>", "<|transcribe|>", "<|notimestamps|>"])
    tokenizer.pad_token = tokenizer.eos_token = tokenizer.bos_token = special[0]
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        init_std=_SPREAD,
        max_source_positions=demo_asr.POSITIONS,
        max_target_positions=48,
        dropout=0.0,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=1,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        max_length=48,
        is_multilingual=True,
        lang_to_id={"<|zh|>": 2, "<|en|>": 3, "<|ja|>": 4},
        task_to_id={"translate": 5, "transcribe": 6},
        no_timestamps_token_id=7,
        return_timestamps=False,
    )
    demo_asr.save(model, tokenizer, folder)


def make_clip(folder):
    from transformers import CLIPConfig, CLIPModel

    tokenizer = framed()
    text = {**_SMALL, **_HEADS, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = CLIPConfig(text_config={**text, **ends}, vision_config=_SEES, projection_dim=16)
    demo_clip.save(CLIPModel(config), tokenizer, folder)


def make_siglip(folder):
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    tokenizer = framed()
    text = {**_SMALL, **_HEADS, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    config = SiglipConfig(text_config={**text, "projection_size": 32}, vision_config=_SEES)
    from transformers import SiglipProcessor

    SiglipModel(config).save_pretrained(folder)
    size = {"height": 64, "width": 64}
    SiglipProcessor(SiglipImageProcessorPil(size=size), tokenizer).save_pretrained(folder)


def make_encoder(folder):
    import tempfile

    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Dense,
        Normalize,
        Pooling,
        Transformer,
    )
    from transformers import DistilBertConfig, DistilBertModel

    tokenizer = framed()
    config = DistilBertConfig(
        vocab_size=len(tokenizer),
        dim=16,
        hidden_dim=32,
        n_layers=1,
        n_heads=2,
        max_position_embeddings=16,
        dropout=0.0,
        attention_dropout=0.0,
    )
    with tempfile.TemporaryDirectory() as body:
        DistilBertModel(config).save_pretrained(body)
        tokenizer.save_pretrained(body)
        parts = [Transformer(body, max_seq_length=16), Pooling(16, pooling_mode="mean")]
    parts += [Dense(16, 8, bias=False, activation_function=torch.nn.Identity()), Normalize()]
    demo_encoder.save(SentenceTransformer(modules=parts, device="cpu"), folder)


def picture(colour):
    return Image.new("RGB", (64, 64), colour)


def tone(number, *, seconds=0.5):
    times = np.arange(int(16_000 * seconds)) / 16_000
    return np.sin(2 * np.pi * 220 * (1 + number) * times).astype(np.float32)


def lessons(kind):
    """Four examples for each kind."""
    if ROLES.get(kind, kind) == "clip":
        return [Example(Query(image=picture(name)), text) for name, text in DESCRIPTIONS.items()]
    if kind == "asr":
        return [
            Example(Query(audio=tone(at), language=language), answer)
            for at, (_, answer, language) in enumerate(SAID)
        ]
    shown = [picture("red"), None] if kind == "llava" else [None, None]
    return [
        Example(Query(text=text, image=shown[at % 2], system="Be brief." * (at < 3)), answer)
        for at, (text, answer, _) in enumerate(SAID)
    ]


def loaded(made, kind, **options):
    return models.load(ROLES.get(kind, kind), made / kind, **options)


def tune(model, tmp_path, settings=FAST, name="new", **options):
    options = {"folder": tmp_path / name, "work": tmp_path / f"{name}-work", **options}
    examples = options.pop("examples", None) or lessons(model.engine.checkpoint.folder.name)
    return fine_tune(model, examples, settings, **options)


def tensors(folder):
    return load_file(folder / "model.safetensors")


def answers(model, kind):
    given = model.ask([one.query for one in lessons(kind)], generation=Generation(most=8))
    assert not any(one.error for one in given)
    return [one.text if one.vector is None else one.vector.tolist() for one in given]


# --- every role -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [None, 4], ids=["whole", "lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_learns_and_writes_a_checkpoint_like_the_first(made, tmp_path, kind, rank):
    before = checkpoints.digest(made / kind)
    model = loaded(made, kind)
    learners = [value.requires_grad for value in model.engine.module.parameters()]
    settings = replace(FAST, lora_rank=rank, epochs=12 if rank is None else 20)
    tuned = tune(model, tmp_path, settings)
    assert tuned.steps == settings.epochs
    assert not tuned.stopped
    assert np.mean(tuned.losses[-2:]) < 0.9 * tuned.losses[0]
    assert checkpoints.digest(made / kind) == before
    again = models.load(model.role, tuned.folder)
    assert again.engine.checkpoint.dtypes == model.engine.checkpoint.dtypes
    assert answers(again, kind) == answers(model, kind)
    old, new = tensors(made / kind), tensors(tuned.folder)
    assert {name: value.shape for name, value in old.items()} == {
        name: value.shape for name, value in new.items()
    }
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed
    assert [value.requires_grad for value in model.engine.module.parameters()] == learners
    if rank is not None:
        assert not any("norm" in name or "embedding" in name for name in changed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "new-work"]


def reference(kind, model, examples):
    """The loss by another way: of transformers, one example at a time where that is possible."""
    module, processor = model.engine.module, model.engine.processor
    if ROLES.get(kind, kind) == "clip":
        inputs = processor(
            text=[one.target for one in examples],
            images=[one.query.image for one in examples],
            padding="max_length" if kind == "siglip" else True,
            return_tensors="pt",
        )
        return float(module(**inputs, return_loss=True).loss)
    if kind == "encoder":
        one, other = (
            module.encode(texts, normalize_embeddings=True).astype(np.float64)
            for texts in zip(*((one.query.text, one.target) for one in examples), strict=True)
        )
        scores = np.exp(20 * one @ other.T)
        right = np.diag(scores)
        return float(-np.log([right / scores.sum(0), right / scores.sum(1)]).mean())
    losses, counts = [], []
    for one in examples:
        if kind == "asr":
            tokenizer = processor.tokenizer
            audio = processor(audio=one.query.audio, sampling_rate=16_000, return_tensors="pt")
            given = tokenizer.convert_tokens_to_ids(
                [
                    "<|startoftranscript|>",
                    f"<|{one.query.language}|>",
                    "<|transcribe|>",
                    "<|notimestamps|>",
                ]
            )
            said = tokenizer(one.target, add_special_tokens=False).input_ids
            ids = torch.tensor([[*given, *said]])
            labels = torch.tensor([[-100, -100, -100, *said, 0]])
            out = module(**audio, decoder_input_ids=ids, labels=labels)
        else:
            asked = roles.prompt(model.engine, one.query)
            images = {"images": [one.query.image]} if one.query.image else {}
            words = {"return_tensors": "pt", "add_special_tokens": False}
            given = processor(text=[asked], **images, **words)
            inputs = processor(text=[f"{asked}{one.target}</s>"], **images, **words)
            inputs.pop("token_type_ids", None)
            labels = inputs["input_ids"].clone()
            labels[:, : given["input_ids"].shape[1]] = -100
            out = module(**inputs, labels=labels)
        losses.append(float(out.loss))
        counts.append(int((labels != -100).sum()))
    return float(np.average(losses, weights=counts))


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_answers(made, tmp_path, kind):
    model = loaded(made, kind)
    with torch.no_grad():
        expected = reference(kind, model, lessons(kind))
    tuned = tune(model, tmp_path, SLOW, held_out=lessons(kind))
    assert tuned.losses == (pytest.approx(expected, rel=1e-4),)
    assert tuned.held_out == (pytest.approx(expected, rel=1e-4),)


def test_an_image_with_two_descriptions_is_no_wrong_answer_to_either(made, tmp_path):
    examples = [
        Example(Query(image=picture("red")), "赤い絵"),
        Example(Query(image=picture("red")), "a red picture"),
        Example(Query(image=picture("blue")), "a blue picture"),
    ]
    model = loaded(made, "clip")
    images = np.array([one.vector for one in model.ask([one.query for one in examples])])
    texts = model.ask([Query(text=one.target) for one in examples])
    scale = float(model.engine.module.logit_scale.detach().exp())
    scores = np.exp(scale * images @ np.array([one.vector for one in texts]).T)
    scores[0, 1] = scores[1, 0] = 0
    right = np.diag(scores)
    expected = -np.log([right / scores.sum(0), right / scores.sum(1)]).mean()
    tuned = tune(model, tmp_path, replace(SLOW, batch_size=3), examples=examples)
    assert tuned.losses == (pytest.approx(expected, rel=1e-4),)


def test_an_answer_is_led_in_and_ended_as_the_chat_template_does_it(made, tmp_path):
    model = loaded(made, "llava")
    # In the manner of LLaVA 1.5, which takes no plain strings and writes no end.
    model.engine.processor.chat_template = (
        "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}<image>\n"
        "{% endfor %}{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}"
        "{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    example = Example(Query(text="What is it?", image=picture("red")), "Yes, three are left.")
    with torch.no_grad():
        spaced = replace(example, target=f" {example.target}")
        expected = reference("llava", model, [spaced])
    tuned = tune(model, tmp_path, replace(SLOW, batch_size=1), examples=[example])
    assert tuned.losses == (pytest.approx(expected, rel=1e-4),)


def test_a_target_cannot_speak_in_special_tokens(made, tmp_path):
    examples = [Example(Query(text="hi", image=picture("red")), "<image> </s><|user|> ok")]
    tuned = tune(loaded(made, "llava"), tmp_path, replace(SLOW, batch_size=1), examples=examples)
    assert tuned.steps == 1


def test_a_model_without_chat_template_goes_on_from_the_words(made, tmp_path):
    model = loaded(made, "llama")
    model.engine.processor.chat_template = None
    assert tune(model, tmp_path, SLOW).steps == 1


# --- precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [None, 4], ids=["whole", "lora"])
def test_a_model_in_bfloat16_learns_and_stays_in_it(made, tmp_path, rank):
    model = loaded(made, "llama", dtype="bfloat16")
    tuned = tune(model, tmp_path, replace(FAST, lora_rank=rank, bf16=True, epochs=20))
    assert np.mean(tuned.losses[-2:]) < 0.9 * tuned.losses[0]
    assert {value.dtype for value in model.engine.module.parameters()} == {torch.bfloat16}
    assert answers(models.load("vlm", tuned.folder, dtype="bfloat16"), "llama") == answers(
        model, "llama"
    )


def test_a_speech_model_computes_in_bfloat16_and_hears_in_float32(made, tmp_path):
    tuned = tune(loaded(made, "asr"), tmp_path, replace(SLOW, bf16=True))
    assert np.isfinite(tuned.losses).all()


@pytest.mark.parametrize("rank", [None, 4], ids=["whole", "lora"])
@pytest.mark.parametrize("method", ["nf4", "int8", "torchao_int8"])
def test_a_quantized_model_cannot_learn(made, tmp_path, rank, method):
    model = loaded(made, "llama", dtype="bfloat16", quantization=method)
    with pytest.raises(ModelError, match=r"must be loaded unquantized .* with a lora_rank such as"):
        tune(model, tmp_path, replace(FAST, lora_rank=rank))


def test_adapters_are_proposed_for_large_models(made):
    model = loaded(made, "llama")
    assert proposed_rank(model) is None
    large = replace(model.engine.checkpoint, parameters=LARGE_PARAMETERS)
    assert proposed_rank(replace(model, engine=replace(model.engine, checkpoint=large))) == (
        LORA_RANK
    )


# --- the course -----------------------------------------------------------------------------------


def test_an_epoch_takes_every_example_once(made, tmp_path):
    tuned = tune(loaded(made, "llama"), tmp_path, replace(SLOW, batch_size=1, epochs=3))
    epochs = np.array(tuned.losses).reshape(3, 4)
    assert len({tuple(epoch) for epoch in epochs.round(5)}) > 1
    for epoch in epochs[1:]:
        assert sorted(epoch) == pytest.approx(sorted(epochs[0]), rel=1e-5)


def test_the_last_batch_is_filled_up(made, tmp_path):
    settings = replace(SLOW, batch_size=3, epochs=2)
    tuned = tune(loaded(made, "llama"), tmp_path, settings, held_out=lessons("llama")[:1])
    assert tuned.steps == 3  # of 8 examples
    assert len(tuned.held_out) == 2


def test_a_report_after_each_epoch_can_stop_it(made, tmp_path):
    told = []

    def report(epoch, loss):
        told.append((epoch, loss))
        return epoch == 2

    model = loaded(made, "llama")
    tuned = tune(
        model, tmp_path, replace(FAST, batch_size=2), held_out=lessons("llama"), report=report
    )
    assert [epoch for epoch, _ in told] == [1, 2]
    assert tuned.held_out == tuple(loss for _, loss in told)
    assert tuned.held_out[1] < tuned.held_out[0]
    assert (tuned.steps, tuned.stopped) == (4, True)
    assert answers(models.load("vlm", tuned.folder), "llama") == answers(model, "llama")


def test_held_out_losses_do_not_hang_on_the_batch(made, tmp_path):
    held_out = lessons("clip")[:3]
    losses = [
        tune(
            loaded(made, "clip"),
            tmp_path,
            replace(SLOW, batch_size=size),
            name=str(size),
            held_out=held_out,
        ).held_out
        for size in (2, 4)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("kind", ["llava", "encoder"])
def test_is_the_same_for_a_seed(made, tmp_path, kind):
    settings = replace(FAST, batch_size=2, epochs=2, lora_rank=2)
    first, second, other = (
        tune(loaded(made, kind), tmp_path, replace(settings, seed=seed), name=name)
        for name, seed in (("first", 0), ("second", 0), ("other", 1))
    )
    assert first.losses == second.losses != other.losses
    assert checkpoints.digest(first.folder) == checkpoints.digest(second.folder)


@pytest.mark.parametrize("rank", [None, 2], ids=["whole", "lora"])
def test_goes_on_where_it_was(made, tmp_path, rank):
    settings = replace(FAST, batch_size=3, epochs=4, lora_rank=rank)
    some = {"held_out": lessons("llama")[:2], "save_every_s": 0}
    whole = tune(loaded(made, "llama"), tmp_path, settings, name="whole", **some)
    told = []

    def until_2(epoch, loss):
        told.append(loss)
        if epoch == 2:
            raise KeyboardInterrupt

    model = loaded(made, "llama")
    before = answers(model, "llama")
    with pytest.raises(KeyboardInterrupt):
        tune(model, tmp_path, settings, **some, report=until_2)
    assert not (tmp_path / "new").exists()
    assert rank is None or answers(model, "llama") == before
    again = []
    tuned = tune(
        loaded(made, "llama"),
        tmp_path,
        settings,
        **some,
        report=lambda epoch, loss: again.append(loss) or epoch == 3,
    )
    assert again[:2] == told
    assert tuned.stopped
    assert tuned.losses == whole.losses[:4]
    assert tuned.held_out == whole.held_out[:3]
    to_its_end = tune(loaded(made, "llama"), tmp_path, settings, name="new2", **some)
    assert checkpoints.digest(to_its_end.folder) == checkpoints.digest(whole.folder)


def test_what_was_lost_after_the_last_save_is_done_again(made, tmp_path):
    def until_3(epoch, loss):
        if epoch == 3:
            raise KeyboardInterrupt

    settings, held_out = replace(FAST, batch_size=2), lessons("llama")[:2]
    with pytest.raises(KeyboardInterrupt):
        tune(loaded(made, "llama"), tmp_path, settings, held_out=held_out, report=until_3)
    tuned = tune(
        loaded(made, "llama"), tmp_path, settings, held_out=held_out, report=lambda *_: True
    )
    assert (tuned.steps, len(tuned.held_out)) == (2, 1)


def test_does_not_go_on_with_other_examples(made, tmp_path):
    told = []
    for number, examples in enumerate((lessons("llama"), lessons("llama")[::-1])):
        tuned = tune(
            loaded(made, "llama"),
            tmp_path,
            replace(SLOW, batch_size=1),
            folder=tmp_path / str(number),
            work=tmp_path / "work",
            examples=examples,
            progress=lambda *words: told.append(words),
        )
        assert tuned.steps == 4
    assert [words[1:] for words in told] == [(4, 4), (4, 4)]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"batch_size": 0},
        {"batch_size": 2.0},
        {"epochs": 0},
        {"lora_rank": 0},
        {"warmup": 1.0},
        {"weight_decay": -0.1},
        {"seed": -1},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ParameterError, match=rf"^{name} must be .*, got {value}$"):
        replace(FAST, **wrong)


def test_what_cannot_be_learnt_from_is_named(made, tmp_path):
    examples = [
        *lessons("llama"),
        Example(Query(text="What is this?", image=picture("red")), "red"),
        Example(Query(text="  "), "yes"),
    ]
    held_out = [Example(Query(text="yes?"), " \n")]
    with pytest.raises(ParameterError) as caught:
        tune(loaded(made, "llama"), tmp_path, examples=examples, held_out=held_out)
    assert str(caught.value).splitlines() == [
        "examples[4]: the model must take images, got 'LlamaForCausalLM'",
        "examples[5]: a query must hold words, got '  '",
        r"held_out[0]: a target must hold words, got ' \n'",
    ]


@pytest.mark.parametrize(
    ("kind", "example", "rule"),
    [
        ("asr", Example(Query(text="hi"), "hi"), "a speech model needs a recording"),
        ("asr", Example(Query(audio=tone(1), language="fr"), "oui"), "must name a language .*'fr'"),
        ("asr", Example(Query(audio=tone(1), language="en"), "x " * 50), "must fit 48 tokens"),
        ("clip", Example(Query(text="red"), "red"), "must hold an image"),
        ("encoder", Example(Query(image=picture("red")), "red"), "must take images"),
    ],
)
def test_what_a_role_cannot_learn_from_is_refused(made, tmp_path, kind, example, rule):
    with pytest.raises(ParameterError, match=rf"^examples\[4\]: .*{rule}"):
        tune(loaded(made, kind), tmp_path, examples=[*lessons(kind), example])


def test_of_many_problems_the_first_are_told(made, tmp_path):
    examples = [Example(Query(text=""), "yes")] * 9
    with pytest.raises(ParameterError, match=r"examples\[4\]: .*\nand 4 more$"):
        tune(loaded(made, "llama"), tmp_path, examples=examples)


def test_a_text_longer_than_the_model_is_refused(made, tmp_path):
    examples = [Example(Query(text="long " * 200), "yes")]
    with pytest.raises(ParameterError, match=r"prompt and answer must fit 128 tokens, got \d+"):
        tune(loaded(made, "llama"), tmp_path, replace(SLOW, batch_size=1), examples=examples)


@pytest.mark.parametrize("examples", [[], lessons("llama")[:3]], ids=["none", "few"])
def test_fewer_examples_than_a_batch_are_refused(made, tmp_path, examples):
    with pytest.raises(ParameterError, match="at least as many examples as a batch has"):
        fine_tune(
            loaded(made, "llama"), examples, FAST, folder=tmp_path / "new", work=tmp_path / "work"
        )


def test_a_pair_needs_others_to_be_told_apart_from(made, tmp_path):
    with pytest.raises(ParameterError, match=r"must have at least 2 pairs .*batch_size 1"):
        tune(loaded(made, "clip"), tmp_path, replace(FAST, batch_size=1))
    with pytest.raises(ParameterError, match=r"must have at least 2 pairs .* 1 held out"):
        tune(loaded(made, "clip"), tmp_path, held_out=lessons("clip")[:1])


def test_a_model_that_reads_its_prompt_elsewhere_is_refused(made, tmp_path):
    model = loaded(made, "llama")
    model.engine.module.config.is_encoder_decoder = True
    with pytest.raises(ModelError, match="must go on writing where its prompt ends"):
        tune(model, tmp_path)


def test_a_report_needs_examples_held_out(made, tmp_path):
    with pytest.raises(ParameterError, match="a report needs examples that are held out"):
        tune(loaded(made, "llama"), tmp_path, report=lambda epoch, loss: None)


def test_a_folder_that_holds_something_is_not_written_to(made, tmp_path):
    (tmp_path / "new").mkdir()
    assert tune(loaded(made, "llama"), tmp_path, SLOW).folder == tmp_path / "new"
    with pytest.raises(PathError, match="must be empty or not there"):
        tune(loaded(made, "llama"), tmp_path, SLOW)


def test_a_loss_that_is_not_finite_is_said_and_nothing_written(made, tmp_path):
    model = loaded(made, "llama")
    with torch.no_grad():
        model.engine.module.lm_head.weight[5] = float("nan")
    with pytest.raises(ParameterError, match="the loss must stay finite, got nan"):
        tune(model, tmp_path, replace(FAST, lora_rank=2))
    assert not (tmp_path / "new").exists()


def test_a_held_out_loss_that_is_not_finite_is_said(made, tmp_path):
    silent = Example(Query(audio=np.full(8_000, np.nan, np.float32), language="en"), "hi")
    with pytest.raises(
        ParameterError, match=r"held-out loss must stay finite, got nan \(epoch 1\)"
    ):
        tune(loaded(made, "asr"), tmp_path, SLOW, held_out=[silent])
