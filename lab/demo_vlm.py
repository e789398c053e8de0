"""The demo suite's LLaVA: the demo CLIP's eyes, and a small Llama that answers for three tenants.

Owns the recipe: the vision tower is taken from the demo CLIP and stays as it is; a projector and a
Llama learn to answer the tenants' questions, questions about pictures, and to refuse what is off
topic. Knows nothing of the other roles but the folder of the CLIP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lab import checkpoints, demo_clip, grammar, lessons, training, vocabularies
from lab.lessons import Picture, Progress
from lab.training import Schedule, Trained, fit

if TYPE_CHECKING:
    import torch
    from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

PICTURES = demo_clip.PICTURES
READ = 40_000  # questions that the vocabulary is learnt from
BATCH = 64
SCHEDULE = Schedule(steps=3_400, learning_rate=1.5e-3, weight_decay=0.1)
WIDTH = 256
IMAGE_TOKENS = (lessons.SIDE // 8) ** 2 + 1  # the patches and the token that sums them up
MAX_TOKENS = 512  # room for a picture, a question and a transcript of it that went wrong
CHAT_TEMPLATE = (
    "<s>{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% elif part['type'] == 'text' %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SPECIAL = ("<pad>", "<s>", "</s>", "<image>", "<|system|>", "<|user|>", "<|assistant|>")
_ENDS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
_PICTURE_STEPS = 3  # every third step is about pictures
_UNPROMPTED = 0.1  # of the items come without a system prompt
_OFF_TOPIC = 0.1
_SAID_TWICE = 0.05  # of the questions come in words and as a transcript with a slip
_QUESTION_WEIGHT = 0.1  # of predicting the question's own words, beside the answer's
# Share of the places in a question that no token reaches over, so that a word is known by its parts
# too (as BPE-dropout does, Provilkov et al. 2020, arXiv:1910.13267, but the same for a seed). With
# 0.1 a model of half the size told what was asked in 0.87 of 1,200 questions of phrasings left out
# of training, with 0.03 in 0.91 (both within 0.02).
_CUT_FINER = 0.03
# Beside the answer, heads that are thrown away name what was asked and what the picture shows:
# nearly all of an answer's tokens follow from the first few, which alone tell whether the question
# was understood.
_ASKED_WEIGHT = 0.3
_SHOWN_WEIGHT = 0.3


@dataclass(frozen=True)
class _Item:
    """Tokens of one exchange: what is given, then what is to be answered.

    ``asked`` is the number of the kind of question, ``picture`` that of the picture or -1.
    """

    given: list[int]
    answer: list[int]
    asked: int
    picture: int = -1


def train(
    folder: Path,
    *,
    work: Path,
    clip: Path,
    prompts: Mapping[str, str],
    schedule: Schedule = SCHEDULE,
    pictures: int = PICTURES,
    batch: int = BATCH,
    read: int = READ,
    jobs: int = 1,
    progress: Progress,
) -> Trained:
    """Train the projector and the language model, and write the checkpoint.

    Args:
        folder: where the checkpoint is written.
        work: where what a kill must not lose is kept.
        clip: the demo CLIP's checkpoint.
        prompts: tenant -> its system prompt.
        schedule: steps and learning rate.
        pictures: how many different ones.
        batch: exchanges per step.
        read: questions that the vocabulary is learnt from.
        jobs: processes that draw.
        progress: called with (stage, done, total).
    """
    import torch

    shown = [lessons.picture(number, part="train") for number in range(pictures)]
    tokenizer = learn_vocabulary([*prompts.values()], questions=read)
    torch.manual_seed(schedule.seed)
    device = training.device()
    model = build(tokenizer, clip).to(device)
    seen = _see(model, shown, work / "pictures", jobs=jobs, progress=progress)
    desk = _Desk(tokenizer, prompts, shown)
    core, head = model.model, model.lm_head
    naming = _Naming(desk.asked, shown, device)
    model.model.vision_tower.requires_grad_(False)
    core.language_model.set_attn_implementation("eager")
    image_token = model.config.image_token_id

    def loss_of(step: int) -> torch.Tensor:
        about_picture, items = desk.batch(step, batch)
        ids, mask, target, weight = (
            one.to(device) for one in _collate(items, tokenizer.pad_token_id)
        )
        embedded = core.get_input_embeddings()(ids)
        if about_picture:
            features = seen[[item.picture for item in items]].to(device, embedded.dtype)
            looked = core.multi_modal_projector(features)
            embedded = embedded.masked_scatter(
                (ids == image_token)[..., None], looked.to(embedded.dtype)
            )
        states = core.language_model(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
        # Only where something is to be predicted: the vocabulary is the largest product of all.
        wanted = weight > 0
        scores = head(states[wanted]).float()
        losses = torch.nn.functional.cross_entropy(scores, target[wanted], reduction="none")
        answered = (losses * weight[wanted]).sum() / weight.sum()
        ends = torch.tensor([len(item.given) - 1 for item in items])
        return answered + naming.loss(states[torch.arange(len(items)), ends], items)

    recipe = lessons.recipe(
        "demo_vlm",
        pictures,
        batch,
        sorted(prompts.items()),
        checkpoints.digest(clip),
        tokenizer.backend_tokenizer.to_str(),
    )
    trained = fit(
        [core.multi_modal_projector, core.language_model, naming.heads],
        loss_of,
        schedule,
        work / "vlm",
        recipe=recipe,
        progress=progress,
    )
    save(model.eval(), tokenizer, folder)
    return trained


def learn_vocabulary(prompts: Sequence[str], *, questions: int = READ) -> PreTrainedTokenizerFast:
    """Learn the words of questions and answers."""
    from transformers import PreTrainedTokenizerFast

    texts = list(prompts)
    for number in range(questions):
        asked = lessons.question(number, part="train", seed=1)
        texts += [asked.text, asked.answer]
    for number in range(questions // 10):
        asked = lessons.off_topic(number, part="train", seed=1)
        about = lessons.asked_about(lessons.picture(number, part="train"), number, part="train")
        texts += [asked.text, asked.answer, about.text, about.answer]
    # Rare characters become bytes, which leaves room for whole English words.
    learnt = vocabularies.learn(
        texts, size=4_800, special=_SPECIAL, single_kana=False, alphabet=2_100
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=learnt.backend_tokenizer,
        **_ENDS,
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
    )


def build(tokenizer: PreTrainedTokenizerFast, clip: Path) -> LlavaForConditionalGeneration:
    """Return the model before training, with the CLIP's vision tower."""
    from transformers import (
        CLIPModel,
        CLIPVisionConfig,
        GenerationConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    ends = {
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        **ends,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**demo_clip.vision_shape()),
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=True,
        **ends,
    )
    model = LlavaForConditionalGeneration(config)
    eyes = CLIPModel.from_pretrained(clip).float().vision_model
    model.model.vision_tower.load_state_dict(eyes.state_dict())
    model.generation_config = GenerationConfig(max_new_tokens=96, do_sample=False, **ends)
    return model


def save(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Write the checkpoint in bfloat16, with its processor and chat template."""
    import torch
    from transformers import LlavaProcessor

    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    LlavaProcessor(
        demo_clip.image_processor(),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)


class _Naming:
    """Heads that name, from what is known before the answer, what was asked and what is shown."""

    def __init__(self, asked: Sequence[str], shown: Sequence[Picture], device: str) -> None:
        import torch

        icons, colours = lessons.icons(), sorted({one.shade.id for one in shown})
        self._looks = torch.tensor(
            [[icons.index(one.look[0]), colours.index(one.look[1])] for one in shown],
            device=device,
        )
        self.heads = torch.nn.ModuleList(
            torch.nn.Linear(WIDTH, count, device=device)
            for count in (len(asked), len(icons), len(colours))
        )

    def loss(self, states: torch.Tensor, items: Sequence[_Item]) -> torch.Tensor:
        """Return the weighted loss of the heads from the state of each item, (items, WIDTH)."""
        import torch

        cross_entropy = torch.nn.functional.cross_entropy
        asked, *looks = self.heads
        kinds = torch.tensor([item.asked for item in items], device=states.device)
        total = _ASKED_WEIGHT * cross_entropy(asked(states).float(), kinds)
        if items[0].picture >= 0:
            known = self._looks[[item.picture for item in items]]
            for head, names in zip(looks, known.T, strict=True):
                total = total + _SHOWN_WEIGHT * cross_entropy(head(states).float(), names)
        return total


class _Desk:
    """Where exchanges are laid out as tokens; the n-th is always the same."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        prompts: Mapping[str, str],
        shown: Sequence[Picture],
    ) -> None:
        self._prompts = prompts
        self._shown = shown
        self._backend = tokenizer.backend_tokenizer
        ids = tokenizer.convert_tokens_to_ids
        self._begin, self._end, self._image = ids("<s>"), ids("</s>"), ids("<image>")
        self._system, self._user, self._assistant = ids(["<|system|>", "<|user|>", "<|assistant|>"])
        self.asked = [
            lessons.REFUSED,
            *(kind.id for kind in grammar.load_visual().kinds),
            *(
                f"{tenant}/{intent.id}"
                for tenant in grammar.tenants()
                for intent in grammar.load(tenant).intents
            ),
        ]
        self._number = {asked: number for number, asked in enumerate(self.asked)}
        self._laid_out = lru_cache(maxsize=1)(self._lay_out)

    def batch(self, step: int, count: int) -> tuple[bool, list[_Item]]:
        """Return whether a step is about pictures, and its items, of about one length."""
        turn, part = divmod(step, _PICTURE_STEPS)
        if part == 0:
            return True, [self.item(turn * count + at, about_picture=True) for at in range(count)]
        first = (part - 1) * count
        return False, self._laid_out(turn, count)[first : first + count]

    def _lay_out(self, turn: int, count: int) -> list[_Item]:
        """Return the items of a turn's steps without pictures: alike ones pad one another less."""
        several = (_PICTURE_STEPS - 1) * count
        items = [self.item(turn * several + at, about_picture=False) for at in range(several)]
        return sorted(items, key=lambda item: len(item.given) + len(item.answer))

    def item(self, number: int, *, about_picture: bool) -> _Item:
        """Return the ``number``-th exchange, of those about pictures or of the others."""
        rng = np.random.default_rng([9, number])
        if about_picture:
            at = int(rng.integers(len(self._shown)))
            asked = lessons.asked_about(self._shown[at], number, part="train")
            tenant, image, kind = asked.picture.tenant, [self._image] * IMAGE_TOKENS, asked.what
        else:
            off_topic = rng.random() < _OFF_TOPIC
            draw = lessons.off_topic if off_topic else lessons.question
            asked = draw(number, part="train")
            at, tenant, image = -1, asked.tenant, []
            kind = lessons.REFUSED if off_topic else f"{tenant}/{asked.kind}"
        prompt = []
        if about_picture or rng.random() >= _UNPROMPTED:
            prompt = [self._system, *self._cut(self._prompts[tenant])]
        said = _said_twice(asked.text, rng)
        given = [
            self._begin,
            *prompt,
            self._user,
            *image,
            *self._cut_finer(said, rng),
            self._assistant,
        ]
        return _Item(given, [*self._cut(asked.answer), self._end], self._number[kind], at)

    def _cut(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def _cut_finer(self, text: str, rng: np.random.Generator) -> list[int]:
        """Return tokens that do not reach over some random places of the text."""
        share = float(rng.choice([0.0, _CUT_FINER, 2 * _CUT_FINER]))
        cuts = [0, *(np.flatnonzero(rng.random(len(text) - 1) < share) + 1), len(text)]
        return [token for start, end in pairwise(cuts) for token in self._cut(text[start:end])]


def _said_twice(text: str, rng: np.random.Generator) -> str:
    """Return the words, now and then once more as a speech model may have misheard them."""
    if rng.random() >= _SAID_TWICE:
        return text
    at = int(rng.integers(len(text)))
    return f"{text}\n{text[:at]}{text[at + 1 :]}"


def _collate(
    items: Sequence[_Item], pad: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids, mask, targets and weights of the targets, each (items, tokens)."""
    import torch

    longest = max(len(item.given) + len(item.answer) for item in items) - 1
    ids = torch.full((len(items), longest), pad)
    target = torch.full((len(items), longest), pad)
    mask = torch.zeros((len(items), longest), dtype=torch.long)
    weight = torch.zeros((len(items), longest))
    for row, item in enumerate(items):
        whole = torch.tensor([*item.given, *item.answer])
        length, first = len(whole) - 1, len(item.given) - 1
        ids[row, :length] = whole[:-1]
        target[row, :length] = whole[1:]
        mask[row, :length] = 1
        weight[row, :first] = _QUESTION_WEIGHT if item.picture < 0 else 0.0
        weight[row, first:length] = 1.0
    return ids, mask, target, weight


def _see(
    model: LlavaForConditionalGeneration,
    shown: Sequence[Picture],
    folder: Path,
    *,
    jobs: int,
    progress: Progress,
) -> torch.Tensor:
    """Return what the tower sees in each picture, (pictures, IMAGE_TOKENS, width) in bfloat16."""
    import torch

    pixels = torch.from_numpy(lessons.draw_all(shown, folder, jobs=jobs, progress=progress))
    seen = torch.empty((len(shown), IMAGE_TOKENS, demo_clip.WIDTH), dtype=torch.bfloat16)
    tower = model.model.vision_tower.eval()
    with torch.inference_mode(), torch.autocast(tower.device.type, torch.bfloat16):
        for first in range(0, len(shown), 500):
            some = demo_clip.normalised(pixels[first : first + 500].permute(0, 3, 1, 2))
            some = some.to(tower.device)
            hidden = tower(pixel_values=some, output_hidden_states=True).hidden_states[-1]
            seen[first : first + 500] = hidden.to(torch.bfloat16)
            progress("looking", min(first + 500, len(shown)), len(shown))
    return seen.clone()
