"""How each role's checkpoint is loaded and asked, in the terms of its library.

Owns the four pairs of functions: vlm, asr, clip, encoder. Prompts come from the checkpoint's own
chat template, decoders are padded on the left, decoding is greedy. Knows nothing of suites,
tenants, batches larger than one call, or of how good an answer is.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lab import checkpoints, memory
from lab.checkpoints import Checkpoint
from lab.errors import ModelError, NumberError, ParameterError, message, printable
from lab.queries import SAMPLING_RATE_HZ, Answer, Generation, Query

if TYPE_CHECKING:
    import torch

Role = Literal["vlm", "asr", "clip", "encoder"]

ROLES: tuple[Role, ...] = ("vlm", "asr", "clip", "encoder")
_WRITERS = ("vlm", "asr")
_TRANSLATIONS = 64  # of one function by torch.compile
_SAFE = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True, eq=False)
class Engine:
    """A loaded checkpoint in its library's terms.

    ``module`` is the torch module (of encoder the whole SentenceTransformer), ``processor`` what
    turns queries into its inputs.
    """

    role: Role
    checkpoint: Checkpoint
    module: Any
    processor: Any


def load(role: Role, checkpoint: Checkpoint, options: dict[str, Any]) -> Engine:
    """Load a checkpoint with the options of ``from_pretrained``.

    Raises: ModelError if it does not load, or a weight is missing or of another shape: what is
        missing would be random.
    """
    with _worded(checkpoint):
        module, processor = _LOADERS[role](checkpoint, options)
    module.eval()
    return Engine(role, checkpoint, module, processor)


def ask(engine: Engine, queries: Sequence[Query], generation: Generation) -> list[Answer]:
    """Answer queries that have no `problem`, as one batch of each kind.

    Args:
        engine: loaded.
        queries: those without an image before those with one.
        generation: of vlm and asr.
    """
    return _ASKERS[engine.role](engine, queries, generation)


@contextmanager
def finite(engine: Engine) -> Iterator[None]:
    """Refuse logits that are no finite numbers while a model writes.

    Nobody else notices them: of NaN the greedy choice is some token, of every step the same.
    Looking takes no memory of its own, but a moment: nothing should be timed meanwhile.

    Args:
        engine: of any role; those that do not write have no logits, see `finite_vectors`.
    Raises: NumberError from the call that gave them.
    """

    def look(_module: Any, _given: Any, out: Any) -> None:
        logits = getattr(out, "logits", None)
        if logits is not None:  # the last are those that a token is chosen by
            last, place = logits[:, -1], f"a batch of {len(logits)}"
            _refuse_not_finite(engine, "logits", last, place=place)

    hook = engine.module.register_forward_hook(look)
    try:
        yield
    finally:
        hook.remove()


def finite_vectors(engine: Engine, queries: Sequence[Query], answers: Sequence[Answer]) -> None:
    """Refuse vectors that are no finite numbers.

    Args:
        engine: of the role that answered.
        queries: that were asked.
        answers: to them.
    Raises: NumberError that names the first query.
    """
    import torch

    for query, answer in zip(queries, answers, strict=True):
        if answer.vector is not None:
            place = query.text or "an image"
            _refuse_not_finite(engine, "vectors", torch.from_numpy(answer.vector), place=place)


def _refuse_not_finite(engine: Engine, what: str, values: torch.Tensor, *, place: str) -> None:
    import torch

    ends = torch.stack(torch.aminmax(values))  # NaN is both
    if not torch.isfinite(ends).all():
        raise NumberError(
            message(
                f"the {what} of {engine.role} must be finite",
                got=next(one for one in ends.tolist() if not math.isfinite(one)),
                place=printable(place),
                remedy="prune less, or compute in a dtype of wider range",
            )
        )


# --- how it is run --------------------------------------------------------------------------------


def fix_cache(engine: Engine) -> None:
    """Let a model that writes keep keys and values in room of a fixed length, not a growing one.

    The room is that of the longest prompt and answer so far.

    Raises: ParameterError for a role that does not write.
    """
    if engine.role not in _WRITERS:
        raise ParameterError(
            message(
                f"a static cache is for {' and '.join(_WRITERS)}, which write step by step",
                got=engine.role,
                remedy="set runtime.static_cache to false",
            )
        )
    config = engine.module.generation_config
    config.cache_implementation = "static"
    config.disable_compile = True  # else transformers compiles on a GPU, asked or not


def compile_steps(engine: Engine) -> None:
    """Let torch.compile translate what a model does most, when it first does it.

    Of a model that writes that is the step that writes one token: prompts differ in length and
    each would be translated anew. Of the others it is each tower as a whole.
    """
    import torch

    # Every model of the process counts, and so does every batch size; then eager, silently.
    torch._dynamo.config.recompile_limit = _TRANSLATIONS
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    parts = {
        "vlm": lambda: [engine.module],
        "asr": lambda: [engine.module],
        "clip": lambda: [engine.module.text_model, engine.module.vision_model],
        "encoder": lambda: [engine.module[0].auto_model],
    }
    for part in parts[engine.role]():
        part.forward = _compiled(engine, part.forward)


def _compiled(engine: Engine, plain: Any) -> Any:
    import torch

    fast = torch.compile(plain)
    failures = (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit)

    @wraps(plain)  # generate reads its signature
    def forward(*given: Any, **named: Any) -> Any:
        ids = named.get("decoder_input_ids", named.get("input_ids"))
        if engine.role in _WRITERS and (ids is None or ids.shape[1] != 1):
            return plain(*given, **named)
        try:
            return fast(*given, **named)
        except failures as error:
            if memory.ran_out(error):
                raise
            lines = [line.strip() for line in str(error).splitlines()]
            lines = [line for line in lines if line and not line.endswith(":")]  # heads of others
            raise ModelError(
                message(
                    f"torch.compile must be able to translate {engine.role}",
                    got=printable(next(iter(lines), type(error).__name__)),
                    remedy="install a C++ compiler such as gcc, or set runtime.compiled to false",
                )
            ) from error

    return forward


def compiling_s() -> float:
    """Return for how many seconds torch.compile has been at work in this process so far."""
    known = sys.modules.get("torch._dynamo.utils")
    return 0.0 if known is None else known.calculate_time_spent()["total_wall_time"]


# --- what a role can take -------------------------------------------------------------------------


def problem(engine: Engine, query: Query) -> str:
    """Return why a query cannot be answered, or nothing."""
    if engine.role == "asr":
        if query.audio is None:
            return message("a speech model needs a recording", got="none")
        # Models that take recordings of any length have no such thing.
        most = getattr(engine.processor.feature_extractor, "chunk_length", math.inf)
        if not 0 < query.seconds <= most:
            return message(
                f"a recording must last at most {most} s for this model",
                got=round(query.seconds, 2),
                remedy="cut it, or take a model with a longer window",
            )
        return ""
    if query.image is not None and not sees(engine):
        return message("the model must take images", got=engine.checkpoint.architecture)
    if any("\ud800" <= char <= "\udfff" for char in query.text + query.system):
        return message("words must be valid Unicode", got=query.text, remedy="mend the corpus")
    if not query.text.strip() and (query.image is None or engine.role != "clip"):
        return message("a query must hold words", got=query.text)
    return ""


def sees(engine: Engine) -> bool:
    """Whether a model takes images."""
    return engine.role == "clip" or (
        engine.role == "vlm" and getattr(engine.processor, "image_processor", None) is not None
    )


def sizes(engine: Engine, queries: Sequence[Query]) -> list[tuple[bool, float]]:
    """Return what queries are sorted by, so that batches need little padding.

    A recording has its seconds, words have their tokens: sorted by characters a Chinese question
    would stand beside English ones of half its tokens. An image is not looked at, which is exact
    where all take as many tokens.

    Args:
        engine: loaded, or a `reader`.
        queries: without a `problem`.
    Returns: whether there is an image, and the length, of each.
    """
    if engine.role == "asr":
        return [(False, query.seconds) for query in queries]
    counts = _lengths(engine, queries) if queries else []
    return [(query.image is not None, count) for query, count in zip(queries, counts, strict=True)]


def _lengths(engine: Engine, queries: Sequence[Query]) -> list[int]:
    """Return the tokens of each query's words, of vlm within its prompt."""
    tokenizer = getattr(engine.processor, "tokenizer", engine.processor)
    options: dict[str, Any] = {"truncation": True}
    texts = [query.text for query in queries]
    if engine.role == "vlm":
        texts = [prompt(engine, query) for query in queries]
        options = framing(engine, texts)
    return [len(ids) for ids in tokenizer(texts, **options)["input_ids"]]


# --- vlm ------------------------------------------------------------------------------------------


def _load_vlm(checkpoint: Checkpoint, options: dict[str, Any]) -> tuple[Any, Any]:
    import transformers

    kind = (
        transformers.AutoModelForCausalLM
        if _only_reads(checkpoint)
        else transformers.AutoModelForImageTextToText
    )
    return _from_pretrained(kind, checkpoint, options), _vlm_processor(checkpoint)


def _vlm_processor(checkpoint: Checkpoint) -> Any:
    import transformers

    auto = transformers.AutoTokenizer if _only_reads(checkpoint) else transformers.AutoProcessor
    processor = auto.from_pretrained(checkpoint.folder, **_SAFE)
    tokenizer = getattr(processor, "tokenizer", processor)
    tokenizer.padding_side = "left"  # so that what is generated follows what was given
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return processor


def reader(checkpoint: Checkpoint) -> Engine:
    """Return a vlm without its weights: it can count tokens, and cannot answer.

    Raises: ModelError.
    """
    with _worded(checkpoint):
        return Engine("vlm", checkpoint, None, _vlm_processor(checkpoint))


def _only_reads(checkpoint: Checkpoint) -> bool:
    return checkpoint.architecture.endswith(("ForCausalLM", "LMHeadModel"))


def token_counts(checkpoint: Checkpoint, queries: Sequence[Query]) -> list[int]:
    """Return the tokens of each query's prompt, those of its image included, without the weights.

    Args:
        checkpoint: of a vlm.
        queries: such as it can take.
    """
    with _worded(checkpoint):
        engine = reader(checkpoint)
        counts = []
        for query in queries:
            text = [prompt(engine, query)]
            image = {"images": [query.image]} if query.image is not None else {}
            given = engine.processor(text=text, **image, **framing(engine, text))
            counts.append(len(given["input_ids"][0]))
    return counts


def _ask_vlm(engine: Engine, queries: Sequence[Query], generation: Generation) -> list[Answer]:
    """Queries with and without an image are two batches: their inputs differ in kind."""
    answers: list[Answer] = []
    for with_image in (False, True):  # sorted so by `ask`
        some = [query for query in queries if (query.image is not None) == with_image]
        if some:
            answers += _generate(engine, some, generation)
    return answers


def _generate(engine: Engine, queries: Sequence[Query], generation: Generation) -> list[Answer]:
    tokenizer = getattr(engine.processor, "tokenizer", engine.processor)
    texts = [prompt(engine, query) for query in queries]
    images = [query.image for query in queries if query.image is not None]
    inputs = engine.processor(
        text=texts,
        **({"images": images} if images else {}),
        return_tensors="pt",
        padding=True,
        **framing(engine, texts),
    )
    lengths = inputs["attention_mask"].sum(1).tolist()
    config = engine.module.config.get_text_config()
    room = getattr(config, "max_position_embeddings", None)
    longest = inputs["input_ids"].shape[1]
    if room is not None and longest + generation.most > room:
        if len(queries) == 1:
            return [
                Answer(
                    tokens_in=longest,
                    error=message(
                        f"prompt and answer must fit {room} tokens",
                        got=f"{longest} + {generation.most}",
                        remedy="shorten the text or ask for fewer new tokens",
                    ),
                )
            ]
        return [answer for query in queries for answer in _generate(engine, [query], generation)]
    inputs.pop("token_type_ids", None)
    inputs = _to_device(inputs, engine.module)
    out = engine.module.generate(
        **inputs,
        do_sample=False,
        num_beams=1,
        max_new_tokens=generation.most,
        min_new_tokens=generation.least,
        pad_token_id=tokenizer.pad_token_id,
    )
    written = out[:, longest:]
    counts = _written(written, _ends(engine.module), most=generation.most)
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    return [
        Answer(text=text.strip(), tokens_in=length, tokens_out=count)
        for text, length, count in zip(texts, lengths, counts, strict=True)
    ]


def prompt(engine: Engine, query: Query) -> str:
    """Return a query as the checkpoint's own chat template writes it; its words if it has none.

    Templates differ in the form they take words in: as text, or as a list of parts, as LLaVA's do;
    in the wrong form the words are silently lost, so the form that keeps them is taken.
    """
    owner = template_owner(engine)
    if owner is None:
        return f"{query.system}\n{query.text}" if query.system else query.text
    text = harmless(engine, query.text)
    image = [{"type": "image"}] if query.image is not None else []
    written = ""
    for in_parts in (bool(image), True):
        content = [*image, {"type": "text", "text": text}] if in_parts else text
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if query.system:
            whole = [{"type": "text", "text": query.system}] if in_parts else query.system
            messages.insert(0, {"role": "system", "content": whole})
        written = owner.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if text in written and query.system in written:
            break
    return written


def template_owner(engine: Engine) -> Any:
    """Return who has the chat template, processor or tokenizer; None if there is none."""
    owners = (engine.processor, getattr(engine.processor, "tokenizer", None))
    return next((one for one in owners if getattr(one, "chat_template", None)), None)


def harmless(engine: Engine, text: str) -> str:
    """Return text in which no special token stands: else a user could speak as somebody else."""
    tokenizer = getattr(engine.processor, "tokenizer", engine.processor)
    for token in tokenizer.added_tokens_decoder.values():
        if token.special and token.content in text:
            text = text.replace(token.content, f"{token.content[:1]} {token.content[1:]}")
    return text


def framing(engine: Engine, prompts: Sequence[str]) -> dict[str, bool]:
    """Return whether the tokenizer still has to add its special tokens to prompts.

    As transformers decides it: not if the chat template wrote the first of them already.
    """
    begin = getattr(engine.processor, "tokenizer", engine.processor).bos_token
    return {"add_special_tokens": not (begin and prompts[0].startswith(begin))}


def _written(ids: torch.Tensor, ends: set[int], *, most: int) -> list[int]:
    """Return how many tokens of each row were generated, the one that ends it included.

    Whisper cuts the end off where no longer row of the batch needs the place: a row that stopped
    before ``most`` had one all the same.
    """
    before = [
        next((at for at, token in enumerate(row) if token in ends), len(row))
        for row in ids.tolist()
    ]
    return [min(count + 1, most) for count in before]


def _ends(module: Any) -> set[int]:
    end = module.generation_config.eos_token_id
    return set(end) if isinstance(end, list) else {end}


# --- asr ------------------------------------------------------------------------------------------


def _load_asr(checkpoint: Checkpoint, options: dict[str, Any]) -> tuple[Any, Any]:
    import transformers

    module = _from_pretrained(transformers.AutoModelForSpeechSeq2Seq, checkpoint, options)
    return module, transformers.AutoProcessor.from_pretrained(checkpoint.folder, **_SAFE)


def _ask_asr(engine: Engine, queries: Sequence[Query], generation: Generation) -> list[Answer]:
    """Recordings of known and of unknown language are two batches."""
    known = [bool(query.language) for query in queries]
    if len(set(known)) == 2:
        parts = {
            side: iter(
                _ask_asr(
                    engine,
                    [q for q, k in zip(queries, known, strict=True) if k == side],
                    generation,
                )
            )
            for side in (True, False)
        }
        return [next(parts[side]) for side in known]
    inputs = engine.processor(
        audio=[query.audio for query in queries],
        sampling_rate=SAMPLING_RATE_HZ,
        return_tensors="pt",
        return_attention_mask=True,
    )
    inputs = _to_device(inputs, engine.module)
    options: dict[str, Any] = {}
    config = engine.module.generation_config
    if getattr(config, "is_multilingual", False):
        options["task"] = "transcribe"
        if known[0]:
            options["language"] = [query.language for query in queries]
    # Start, language, task and "no timestamps" take four of its places.
    most = min(generation.most, engine.module.config.max_target_positions - 4)
    out = engine.module.generate(
        **inputs,
        **options,
        do_sample=False,
        num_beams=1,
        max_new_tokens=most,
        min_new_tokens=generation.least,
        return_timestamps=False,
    )
    counts = _written(out, _ends(engine.module), most=most)
    texts = engine.processor.batch_decode(out, skip_special_tokens=True)
    return [
        Answer(text=text.strip(), tokens_out=count, audio_s=query.seconds)
        for text, count, query in zip(texts, counts, queries, strict=True)
    ]


# --- clip -----------------------------------------------------------------------------------------


def _load_clip(checkpoint: Checkpoint, options: dict[str, Any]) -> tuple[Any, Any]:
    import transformers

    module = _from_pretrained(transformers.AutoModel, checkpoint, options)
    return module, transformers.AutoProcessor.from_pretrained(checkpoint.folder, **_SAFE)


def _ask_clip(engine: Engine, queries: Sequence[Query], generation: Generation) -> list[Answer]:
    """A query with an image is about the image; its words, if any, are left aside."""
    import torch

    images = [query.image for query in queries if query.image is not None]
    texts = [query.text for query in queries if query.image is None]
    vectors: list[NDArray[np.float32]] = []
    counts: list[int] = []
    if texts:
        # SigLIP is trained on texts padded to the full length.
        whole = engine.module.config.model_type.startswith("siglip")
        inputs = engine.processor.tokenizer(
            texts,
            padding="max_length" if whole else True,
            truncation=True,
            return_tensors="pt",
        )
        whole_length = torch.ones_like(inputs["input_ids"])  # SigLIP masks nothing
        counts += inputs.get("attention_mask", whole_length).sum(1).tolist()
        inputs = _to_device(inputs, engine.module)
        vectors += _unit(engine.module.get_text_features(**inputs))
    if images:
        inputs = engine.processor.image_processor(images, return_tensors="pt")
        inputs = _to_device(inputs, engine.module)
        vectors += _unit(engine.module.get_image_features(pixel_values=inputs["pixel_values"]))
        counts += [0] * len(images)
    return [
        Answer(vector=vector, tokens_in=count)
        for vector, count in zip(vectors, counts, strict=True)
    ]


def _unit(features: Any) -> list[NDArray[np.float32]]:
    import torch

    tensor = getattr(features, "pooler_output", features)
    return [*torch.nn.functional.normalize(tensor.float(), dim=-1).cpu().numpy()]


# --- encoder --------------------------------------------------------------------------------------


def _load_encoder(checkpoint: Checkpoint, options: dict[str, Any]) -> tuple[Any, Any]:
    from sentence_transformers import SentenceTransformer

    device = options.pop("device_map")
    module = SentenceTransformer(
        str(checkpoint.folder),
        device=device,
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={**options, "use_safetensors": True},
    )
    body = module[0].auto_model
    stored = checkpoints.tensor_names(checkpoint.folder)
    # Sentence-transformers only logs what transformers had to make up.
    names = [name for name, _ in body.named_parameters()]
    _refuse_some(
        [name for name in names if not {name, f"{body.base_model_prefix}.{name}"} & stored],
        _EVERY_WEIGHT,
        checkpoint,
    )
    return module, module.tokenizer


def _ask_encoder(engine: Engine, queries: Sequence[Query], generation: Generation) -> list[Answer]:
    texts = [query.text for query in queries]
    vectors = engine.module.encode(
        texts,
        batch_size=len(texts),
        normalize_embeddings=True,
        convert_to_numpy=True,
        show_progress_bar=False,
    ).astype(np.float32)
    most = engine.module.max_seq_length
    counts = [
        len(ids) for ids in engine.processor(texts, truncation=True, max_length=most)["input_ids"]
    ]
    return [
        Answer(vector=vector, tokens_in=count)
        for vector, count in zip(vectors, counts, strict=True)
    ]


# --- shared ---------------------------------------------------------------------------------------

# They tell which kernels of other machines they cannot load here, and of each cast in each layer.
_TALKATIVE = (
    *("bitsandbytes", "torchao"),
    *("torch.utils._pytree", "torch._dynamo", "torch._inductor"),
)
_EVERY_WEIGHT = "a checkpoint must hold every weight of its model, got none for"
_LOADERS = {"vlm": _load_vlm, "asr": _load_asr, "clip": _load_clip, "encoder": _load_encoder}
_ASKERS = {"vlm": _ask_vlm, "asr": _ask_asr, "clip": _ask_clip, "encoder": _ask_encoder}


def _from_pretrained(kind: Any, checkpoint: Checkpoint, options: dict[str, Any]) -> Any:
    """Load a model; weights that are missing would be random, so they are an error."""
    module, info = kind.from_pretrained(
        checkpoint.folder, use_safetensors=True, output_loading_info=True, **_SAFE, **options
    )
    # What is left over does no harm: old checkpoints hold buffers that are computed today.
    for found, rule in (
        ("missing_keys", _EVERY_WEIGHT),
        ("mismatched_keys", "weights must have the shapes that config.json says"),
    ):
        _refuse_some(sorted(map(str, info.get(found) or ())), rule, checkpoint)
    return module


def _refuse_some(names: Sequence[str], rule: str, checkpoint: Checkpoint) -> None:
    if names:
        raise ModelError(
            message(
                rule,
                got=f"{names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else ""),
                place=str(checkpoint.folder),
                remedy=f"save it again with save_pretrained of {checkpoint.architecture}",
            )
        )


def _to_device(inputs: Any, module: Any) -> dict[str, Any]:
    """Return inputs on the module's device, floating ones in its dtype."""
    import torch

    moved = {}
    for name, value in inputs.items():
        value = value.to(module.device)
        moved[name] = value.to(module.dtype) if torch.is_floating_point(value) else value
    return moved


@contextmanager
def _worded(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn what the libraries raise while loading into one message."""
    from safetensors import SafetensorError

    _hush()
    try:
        yield
        _hush()  # once more: libraries that were imported on the way have set levels of their own
    except ModelError:
        raise
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        SafetensorError,
    ) as error:
        if memory.ran_out(error):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            message(
                "a checkpoint must load as its config.json says",
                got=printable(first),
                place=str(checkpoint.folder),
                remedy="save it again with save_pretrained",
            )
        ) from error


def _hush() -> None:
    """Keep the libraries' advice away, which each call repeats: the settings are explicit.

    From here on: to change a level makes every logger of the process forget what it knew, which a
    request should not wait for.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
