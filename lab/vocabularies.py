"""Tokenizers of the demo suite, learnt from the sentences it is trained on.

Owns how text is cut: words of English into subwords, Chinese and Japanese into characters or, where
short answers matter more, kana into frequent runs; a character that was never seen becomes bytes,
so that nothing is lost. Knows nothing of models or tenants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_CJK = r"[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f]"
_HAN = r"[\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
_KANA = (r"[\u3041-\u309f]+", r"[\u30a0-\u30ff\u31f0-\u31ff\uff66-\uff9f]+")
_BYTES = [f"<0x{value:02X}>" for value in range(256)]


def learn(
    texts: Iterable[str],
    *,
    size: int,
    special: Sequence[str],
    single_kana: bool,
    lowercase: bool = False,
    alphabet: int = 100_000,
) -> PreTrainedTokenizerFast:
    """Learn a byte-pair vocabulary (Sennrich et al. 2016) with byte fallback.

    Args:
        texts: what to learn from.
        size: entries, the special tokens and 256 bytes included.
        special: tokens that stand for themselves; their numbers are 0, 1, ...
        single_kana: cut kana into single characters; else into frequent runs, which are fewer to
            write, hiragana and katakana apart. Chinese characters always stand alone: what is
            named in a question has then the same tokens when the answer names it, whatever stands
            beside it.
        lowercase: fold case.
        alphabet: characters at most, the most frequent; the others become bytes. What is left of
            ``size`` goes to subwords.
    Returns: a tokenizer without any special role set; decoding restores NFKC text.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=False))
    steps = [normalizers.NFC(), *([normalizers.Lowercase()] if lowercase else [])]
    tokenizer.normalizer = normalizers.Sequence(steps)
    cuts = [
        pre_tokenizers.Metaspace(prepend_scheme="never"),
        pre_tokenizers.Split(Regex(r"[[\p{P}\p{S}\d]&&[^▁]]"), "isolated"),
    ]
    for pattern in (_CJK,) if single_kana else (_HAN, *_KANA):
        cuts.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Metaspace(prepend_scheme="never"),
            decoders.Fuse(),
        ]
    )
    texts = list(texts)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(tokenizer.normalizer.normalize_str(text).replace(" ", "\u2581"))
    # Of characters that are as rare as one another the trainer would keep others in every process,
    # and what was learnt before a kill would be about other words than after it.
    kept = sorted(counts, key=lambda char: (-counts[char], char))[:alphabet]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*special, *_BYTES],
        show_progress=False,
        min_frequency=2,
        initial_alphabet=kept,
        limit_alphabet=len(kept),
    )
    tokenizer.train_from_iterator(texts, trainer)
    # The bytes are ordinary entries of the vocabulary, so that text cannot be mistaken for them.
    return PreTrainedTokenizerFast(tokenizer_object=_without_special_bytes(tokenizer, special))


def with_last(tokenizer: PreTrainedTokenizerFast, token: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer in which a token has the highest number, the others moving up.

    Whisper takes every number above that of ``<|notimestamps|>`` for a point in time.
    """
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    old, last = vocabulary[token], len(vocabulary) - 1

    def moved(number: int) -> int:
        return last if number == old else number - (number > old)

    state["model"]["vocab"] = {name: moved(number) for name, number in vocabulary.items()}
    for added in state["added_tokens"]:
        added["id"] = moved(added["id"])
    state["added_tokens"].sort(key=lambda added: added["id"])
    backend = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def _without_special_bytes(tokenizer: object, special: Sequence[str]) -> object:
    import json

    from tokenizers import Tokenizer

    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [one for one in state["added_tokens"] if one["content"] in special]
    return Tokenizer.from_str(json.dumps(state))


def framed(
    tokenizer: PreTrainedTokenizerFast, *, begin: str, end: str, pad: str, most: int
) -> PreTrainedTokenizerFast:
    """Return a tokenizer that puts each text, at most ``most`` tokens, into a frame."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    backend = tokenizer.backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        special_tokens=[(name, backend.token_to_id(name)) for name in (begin, end)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=begin,
        eos_token=end,
        pad_token=pad,
        model_max_length=most,
    )
