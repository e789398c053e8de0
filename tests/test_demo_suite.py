"""The recipes of the demo suite, each on a sliver: the loss falls, and what is written loads."""

from __future__ import annotations

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
        utterances=8,
        batch=4,
        read=400,
        progress=quiet,
    )
    assert trained.mean_loss(-0.25) < trained.mean_loss(0.25)
    model = models.load("asr", tmp_path / "asr")
    said = lessons.utterance(0, part="train")
    known, guessed = model.ask(
        [Query(audio=said.speak(), language=said.language), Query(audio=said.speak())],
        generation=Generation(most=5),
    )
    assert not known.error
    assert not guessed.error


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
