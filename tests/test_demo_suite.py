"""The recipes of the demo suite, each on a sliver: the loss falls, and what is written loads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lab import (
    demo_asr,
    demo_clip,
    demo_encoder,
    demo_suite,
    demo_vlm,
    lessons,
    models,
    params,
)
from lab.errors import MissingError
from lab.queries import Generation, Query
from lab.training import Schedule

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("recipes")]


def quiet(*_):
    """Say nothing of the progress."""


def sliver(steps=12, learning_rate=2e-3):
    return Schedule(steps=steps, learning_rate=learning_rate, bf16=False)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    trained = demo_clip.train(
        folder / "clip",
        work=folder / "work",
        schedule=sliver(),
        words=sliver(),
        pictures=48,
        batch=24,
        progress=quiet,
    )
    return folder, trained


def test_clip(clip):
    folder, trained = clip
    assert len(trained.losses) == 24
    assert sum(trained.losses[9:12]) < sum(trained.losses[:3])
    model = models.load("clip", folder / "clip")
    shown = lessons.picture(0, part="train")
    image, text = model.ask([Query(image=shown.draw()), Query(text=shown.describe("ja"))])
    assert image.vector.shape == text.vector.shape == (demo_clip.TEXT_WIDTH,)
    # The text is read off its end: else a word behind another one would go unheard.
    config = model.engine.module.config.text_config
    assert config.eos_token_id == model.engine.processor.tokenizer.eos_token_id != 2


def test_vlm(clip, root):
    folder, _ = clip
    trained = demo_vlm.train(
        folder / "vlm",
        work=folder / "work",
        clip=folder / "clip",
        prompts=lessons.prompts(root),
        schedule=sliver(steps=12),
        pictures=48,
        batch=8,
        read=400,
        progress=quiet,
    )
    assert trained.mean_loss(-0.25) < 0.9 * trained.mean_loss(0.25)
    model = models.load("vlm", folder / "vlm")
    queries = [
        Query(text="where is it?", system="You answer for the hospital."),
        Query(text="これは何色ですか？", image=lessons.picture(0, part="train").draw()),
    ]
    plain, seen = model.ask(queries, generation=Generation(most=3))
    assert not plain.error
    assert seen.tokens_in > demo_vlm.IMAGE_TOKENS > plain.tokens_in
    eyes = model.engine.module.model.vision_tower.state_dict()
    theirs = models.load("clip", folder / "clip").engine.module.vision_model.state_dict()
    assert all(torch.equal(eyes[name], theirs[name]) for name in theirs)


def test_asr(tmp_path):
    trained = demo_asr.train(
        tmp_path / "asr",
        work=tmp_path / "work",
        schedule=sliver(steps=8, learning_rate=5e-4),
        upper=sliver(steps=4, learning_rate=5e-4),
        utterances=8,
        batch=4,
        read=400,
        progress=quiet,
    )
    assert len(trained.losses) == 12
    assert sum(trained.losses[6:8]) < sum(trained.losses[:2])
    assert sum(trained.losses[10:]) < sum(trained.losses[:2])
    model = models.load("asr", tmp_path / "asr")
    before = demo_asr.build(demo_asr.learn_vocabulary(400), seed=0).model.encoder.layers
    after = model.engine.module.model.encoder.layers
    for at, (one, other) in enumerate(zip(before, after, strict=True)):
        same = torch.equal(one.fc1.weight.bfloat16(), other.fc1.weight.bfloat16())
        assert same == (at < demo_asr._LOWER)
    said = lessons.utterance(0, part="train")
    known, guessed = model.ask(
        [Query(audio=said.speak(), language=said.language), Query(audio=said.speak())],
        generation=Generation(most=5),
    )
    assert not known.error
    assert not guessed.error


def test_utterances_of_one_length_are_drawn_together_and_none_that_does_not_fit():
    seconds = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, lessons.MAX_SECONDS + 0.05])
    drawn = {tuple(demo_asr._alike(seconds, 2, np.random.default_rng(seed))) for seed in range(200)}
    # Seven fit, for three lengths of two: one is left out at a time.
    assert {at for pair in drawn for at in pair} == set(range(7))
    assert all(seconds[second] - seconds[first] <= 2 for first, second in drawn)


def test_silence_is_left_out_unless_the_whole_window_is_asked_for(tmp_path):
    states = torch.arange(4.0).bfloat16()[:, None, None].expand(4, demo_asr.POSITIONS, 384)
    states.contiguous().view(torch.int16).numpy().tofile(tmp_path / "heard")
    heard = demo_asr._Heard(tmp_path / "heard", np.array([1.0, 2.0]))
    assert heard.batch([0, 1], lower=False, whole=True).shape == (2, demo_asr.POSITIONS, 384)
    assert heard.batch([0, 1], lower=False, whole=False).shape[1] == 100 + demo_asr._SILENCE_KEPT
    assert heard.batch([0], lower=False, whole=False).shape[1] == 50 + demo_asr._SILENCE_KEPT
    for lower, values in ((True, [0, 2]), (False, [1, 3])):
        assert heard.batch([0, 1], lower=lower, whole=True)[:, 0, 0].tolist() == values


def test_each_exchange_is_laid_out_once_and_some_steps_are_about_pictures(root):
    tokenizer = demo_vlm.learn_vocabulary(["You answer."], questions=300)
    shown = [lessons.picture(number, part="train") for number in range(20)]
    desk = demo_vlm._Desk(tokenizer, lessons.prompts(root), shown)
    steps = [desk.batch(step, 8) for step in range(9)]
    assert [about for about, _ in steps] == [True, False, False] * 3
    texts = [item for about, items in steps if not about for item in items]
    one_by_one = [desk.item(number, about_picture=False) for number in range(48)]
    assert sorted(map(repr, texts)) == sorted(map(repr, one_by_one))
    # Picked up in the middle, it goes on with the same.
    assert demo_vlm._Desk(tokenizer, lessons.prompts(root), shown).batch(5, 8) == steps[5]
    kinds = [desk.asked[item.asked] for item in texts]
    assert all("/" in kind or kind == lessons.REFUSED for kind in kinds)


def test_padding_does_not_change_what_the_encoder_says():
    pool = [demo_encoder.group(number) for number in range(40)]
    tokenizer = demo_encoder.learn_vocabulary(pool)
    student = demo_encoder.build(tokenizer).eval()
    texts = [text for one in pool for text in one.texts]
    rows = [tokenizer(text, truncation=True).input_ids for text in texts]
    assert len(rows) > 3 * demo_encoder._PADDED_TOGETHER
    with torch.inference_mode():
        together = demo_encoder._encode(
            rows, student[0].auto_model, student[2], tokenizer.pad_token_id
        )
        alone = student.encode(texts, batch_size=1, convert_to_tensor=True)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_encoder(tmp_path):
    trained = demo_encoder.train(
        tmp_path / "encoder",
        work=tmp_path / "work",
        schedule=sliver(steps=12),
        groups=64,
        batch=16,
        progress=quiet,
    )
    assert trained.mean_loss(-0.25) < 0.95 * trained.mean_loss(0.25)
    model = models.load("encoder", tmp_path / "encoder")
    (answer,) = model.ask([Query(text="如何退货？")])
    assert answer.vector.shape == (demo_encoder.OUTPUT,)


def test_a_recipe_is_told_by_all_that_shapes_it(monkeypatch):
    known = lessons.recipe("demo_asr", 10, 4)
    assert known == lessons.recipe("demo_asr", 10, 4)
    assert known != lessons.recipe("demo_asr", 11, 4)
    assert known != lessons.recipe("demo_vlm", 10, 4)
    monkeypatch.setattr(lessons.synthesis, "code_digest", lambda: "other grammars")
    assert known != lessons.recipe("demo_asr", 10, 4)


def test_other_sentences_are_not_taken_for_those_the_teacher_was_asked(tmp_path):
    first, second = (
        demo_encoder._teach([text], tmp_path, quiet) for text in ("a red sofa", "exam fees")
    )
    assert not torch.equal(first, second)
    assert torch.equal(first, demo_encoder._teach(["a red sofa"], tmp_path, quiet))


def test_a_vlm_needs_the_clip_of_its_suite(root, tmp_path):
    with pytest.raises(MissingError, match="train-demo clip first"):
        demo_suite.train("vlm", root=root, to=tmp_path, progress=quiet)


def test_system_prompts_are_those_of_the_tenants(root):
    prompts = lessons.prompts(root)
    assert set(prompts) == {"ecommerce", "education", "medical"}
    assert all(prompts.values())
    assert prompts["medical"] == params.load("medical", root=root).settings.system_prompt


def test_groups_of_the_encoder_mean_the_same():
    for number in range(40):
        group = demo_encoder.group(number)
        assert len(group.texts) == len(lessons.LANGUAGES)
        assert group.english.isascii() or "é" in group.english
        assert group.texts[1].isascii() or "é" in group.texts[1]
