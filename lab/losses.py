"""The loss of each role on examples of what it should answer.

Owns what counts: of answers in words the answer's tokens only, of pairs each partner against the
rest of the batch. Inputs are made as lab.roles makes them to ask. Knows nothing of how a model
learns from it.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab import roles
from lab.errors import ParameterError, message
from lab.queries import SAMPLING_RATE_HZ, Query
from lab.roles import Engine

if TYPE_CHECKING:
    import torch

Losses = tuple["torch.Tensor", int]  # their sum, and how many they are
Loss = Callable[[Sequence["Example"]], Losses]
_COSINE_SCALE = 20.0  # as in MultipleNegativesRankingLoss of sentence-transformers
_MOST_SCALE = 100.0  # of CLIP (Radford et al. 2021, arXiv:2103.00020)


@dataclass(frozen=True, eq=False)
class Example:
    """What is asked, and what should come back.

    Attributes:
        query: of vlm words, with or without image and system prompt; of asr a recording and its
            language; of clip an image; of encoder a text.
        target: the answer; what is said; the image's description; a text that means the same.
    """

    query: Query
    target: str


def of(engine: Engine) -> Loss:
    """Return the loss of an engine's role: examples -> sum of the losses, and how many they are."""
    return _LOSSES[engine.role](engine)


def looks(query: Query) -> str:
    """Return a digest of an image; nothing if there is none."""
    if query.image is None:
        return ""
    about = f"{query.image.mode} {query.image.size} ".encode()
    return hashlib.sha256(about + query.image.tobytes()).hexdigest()


# --- losses of words: vlm and asr -----------------------------------------------------------------


def _vlm(engine: Engine) -> Loss:
    import torch

    processor = engine.processor
    tokenizer = getattr(processor, "tokenizer", processor)
    lead, end = _turn(engine)
    room = getattr(engine.module.config.get_text_config(), "max_position_embeddings", math.inf)

    def of_a_kind(examples: Sequence[Example]) -> Losses:
        prompts = [roles.prompt(engine, one.query) for one in examples]
        special = roles.framing(engine, prompts)  # as lab.roles asks
        texts = [
            f"{prompt}{lead}{roles.harmless(engine, one.target).strip()}{end}"
            for prompt, one in zip(prompts, examples, strict=True)
        ]
        images = [one.query.image for one in examples if one.query.image is not None]
        inputs = processor(
            text=texts,
            **({"images": images} if images else {}),
            return_tensors="pt",
            padding=True,
            padding_side="right",
            **special,
        )
        ids, lengths = inputs["input_ids"], inputs["attention_mask"].sum(1, keepdim=True)
        if int(lengths.max()) > room:
            raise ParameterError(
                message(
                    f"prompt and answer must fit {room} tokens",
                    got=int(lengths.max()),
                    place=examples[int(lengths.argmax())].target,
                    remedy="shorten the text, or leave the example out",
                )
            )
        # Counted from the end: in the processor's prompt an image has become many tokens.
        asked, whole = (tokenizer(some, **special)["input_ids"] for some in (prompts, texts))
        answers = torch.tensor([[len(b) - len(a)] for a, b in zip(asked, whole, strict=True)])
        places = torch.arange(ids.shape[1])
        wanted = (places >= lengths - answers) & (places < lengths)
        out = engine.module(**_taken(inputs, engine.module), use_cache=False)
        return _of_words(out.logits[:, :-1], ids[:, 1:], wanted[:, 1:])

    def losses(examples: Sequence[Example]) -> Losses:
        # With and without an image, their inputs differ in kind.
        seen = [one for one in examples if one.query.image is not None]
        unseen = [one for one in examples if one.query.image is None]
        sums = [of_a_kind(some) for some in (seen, unseen) if some]
        return sum(total for total, _ in sums), sum(count for _, count in sums)

    return losses


def _turn(engine: Engine) -> tuple[str, str]:
    """Return what the chat template writes between prompt and answer, and what ends an answer."""
    tokenizer = getattr(engine.processor, "tokenizer", engine.processor)
    lead = rest = ""
    if (owner := roles.template_owner(engine)) is not None:
        for wrap in (str, lambda text: [{"type": "text", "text": text}]):  # not all take both
            said = [
                {"role": role, "content": wrap(word)}
                for role, word in (("user", "question"), ("assistant", "answer"))
            ]
            asked = owner.apply_chat_template(said[:1], tokenize=False, add_generation_prompt=True)
            whole = owner.apply_chat_template(said, tokenize=False)
            if whole.startswith(asked) and "answer" in whole[len(asked) :]:
                lead, _, rest = whole[len(asked) :].partition("answer")
                break
    ends = engine.module.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    ids = tokenizer(rest, add_special_tokens=False)["input_ids"] if rest else []
    end = next((one for one in ids if one in ends), tokenizer.eos_token_id)
    return lead, tokenizer.convert_ids_to_tokens(end)


def _asr(engine: Engine) -> Loss:
    import torch

    module = engine.module

    def losses(examples: Sequence[Example]) -> Losses:
        with torch.autocast("cpu", enabled=False):  # the spectrum must reach numpy, in float32
            inputs = engine.processor(
                audio=[one.query.audio for one in examples],
                sampling_rate=SAMPLING_RATE_HZ,
                return_tensors="pt",
                return_attention_mask=True,
            )
        rows = [dictation(engine, one) for one in examples]
        ids, wanted = (
            torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in some], batch_first=True)
            for some in (
                [[*given, *said] for given, said in rows],
                [[False] * len(given) + [True] * len(said) for given, said in rows],
            )
        )
        out = module(
            **_taken(inputs, module),
            decoder_input_ids=ids[:, :-1].to(module.device),
            use_cache=False,
        )
        return _of_words(out.logits, ids[:, 1:], wanted[:, 1:])

    return losses


def dictation(engine: Engine, example: Example) -> tuple[list[int], list[int]]:
    """Return the tokens that a speech model is given, and those it is to write."""
    tokenizer, config = engine.processor.tokenizer, engine.module.generation_config
    given = [config.decoder_start_token_id]
    if is_multilingual(config):
        given.append(config.lang_to_id[f"<|{example.query.language}|>"])
        given.append(config.task_to_id["transcribe"])
    given.append(config.no_timestamps_token_id)
    said = tokenizer(roles.harmless(engine, example.target).strip(), add_special_tokens=False)[
        "input_ids"
    ]
    return given, [*said, tokenizer.eos_token_id]


def is_multilingual(config: Any) -> bool:
    """Whether a speech model is told the language: by its generation config."""
    return bool(getattr(config, "is_multilingual", False))


def _of_words(scores: torch.Tensor, target: torch.Tensor, wanted: torch.Tensor) -> Losses:
    """Return the losses of the tokens that are wanted.

    Args:
        scores: (items, tokens, vocabulary).
        target: (items, tokens).
        wanted: (items, tokens), whether a token belongs to the answer.
    """
    import torch

    wanted = wanted.to(scores.device)
    total = torch.nn.functional.cross_entropy(
        scores[wanted].float(), target.to(scores.device)[wanted], reduction="sum"
    )
    return total, int(wanted.sum())


# --- losses of pairs: clip and encoder ------------------------------------------------------------


def _clip(engine: Engine) -> Loss:
    import torch

    module, processor = engine.module, engine.processor
    # As lab.roles asks: SigLIP is trained on texts padded to the full length.
    padding = "max_length" if module.config.model_type.startswith("siglip") else True
    options = {"padding": padding, "truncation": True, "return_tensors": "pt"}

    def losses(examples: Sequence[Example]) -> Losses:
        images, texts = [one.query.image for one in examples], [one.target for one in examples]
        seen, read = (
            method(**_taken(inputs, module, method))
            for method, inputs in (
                (module.get_image_features, processor.image_processor(images, return_tensors="pt")),
                (module.get_text_features, processor.tokenizer(texts, **options)),
            )
        )
        same = _same([looks(one.query) for one in examples], texts).to(module.device)
        with torch.autocast(module.device.type, enabled=False):
            scale = module.logit_scale.float().exp()
            bias = getattr(module, "logit_bias", None)
            if bias is None:
                return _of_pairs(_cosines(seen, read) * scale.clamp(max=_MOST_SCALE), same)
            # SigLIP judges each pair alone (Zhai et al. 2023, arXiv:2303.15343).
            scores = _cosines(seen, read) * scale + bias.float()
            sign = 2 * torch.eye(len(scores), device=scores.device) - 1
            apart = -torch.nn.functional.logsigmoid(sign * scores)
            return apart.masked_fill(same, 0).sum(), len(scores)

    return losses


def _encoder(engine: Engine) -> Loss:
    import torch

    module = engine.module
    prompt = module.prompts.get(module.default_prompt_name)  # which `encode` puts before texts

    def vectors(texts: list[str]) -> torch.Tensor:
        features = module.preprocess(texts, prompt=prompt)
        for name, value in features.items():
            features[name] = value.to(module.device) if hasattr(value, "to") else value
        return module(features)["sentence_embedding"]

    def losses(examples: Sequence[Example]) -> Losses:
        texts, targets = [one.query.text for one in examples], [one.target for one in examples]
        one, other = vectors(texts), vectors(targets)
        with torch.autocast(module.device.type, enabled=False):
            scores = _cosines(one, other) * _COSINE_SCALE
            return _of_pairs(scores, _same(texts, targets).to(scores.device))

    return losses


def _of_pairs(scores: torch.Tensor, same: torch.Tensor) -> Losses:
    """Return the losses of finding each partner in the batch, the mean of both directions.

    Multiple negatives ranking (Henderson et al. 2017, arXiv:1705.00652), symmetric as in CLIP.

    Args:
        scores: (pairs, pairs), those that belong together on the diagonal.
        same: (pairs, pairs), see `_same`; these are left out.
    """
    import torch

    scores = scores.masked_fill(same, -math.inf)
    target = torch.arange(len(scores), device=scores.device)
    one, other = (
        torch.nn.functional.cross_entropy(side, target, reduction="sum")
        for side in (scores, scores.T)
    )
    return (one + other) / 2, len(scores)


def _same(one: Sequence[str], other: Sequence[str]) -> torch.Tensor:
    """Return which other pairs share a side with each, (pairs, pairs): no wrong answers to it."""
    import torch

    sides = [set(pair) for pair in zip(one, other, strict=True)]
    return torch.tensor([[a is not b and not a.isdisjoint(b) for b in sides] for a in sides])


def _cosines(one: Any, other: Any) -> torch.Tensor:
    import torch

    one, other = (
        torch.nn.functional.normalize(getattr(side, "pooler_output", side).float(), dim=-1)
        for side in (one, other)
    )
    return one @ other.T


def _taken(inputs: Any, module: Any, method: Any = None) -> dict[str, Any]:
    """Return the inputs that a method names, on the module's device, floating ones in its dtype."""
    names = inspect.signature(method or module.forward).parameters
    return {
        name: value.to(module.device, module.dtype if value.is_floating_point() else value.dtype)
        for name, value in inputs.items()
        if name in names
    }


_LOSSES: dict[str, Callable[[Engine], Loss]] = {
    "vlm": _vlm,
    "asr": _asr,
    "clip": _clip,
    "encoder": _encoder,
}
