"""A checkpoint's folder, looked at without loading it: what it is, how large, whether it is sound.

Owns the reading of config.json and of the safetensors headers, the rules that a folder must keep
before anything is loaded from it (safetensors only, no code of its own, the architecture of its
role, a config that agrees with the tensors), and the digest. Knows nothing of suites and hubs, or
of how a model is loaded and used; imports neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lab.errors import (
    LabError,
    MissingError,
    ModelError,
    ParameterError,
    PathError,
    ShapeError,
    message,
    printable,
    shown,
)
from lab.files import write_whole

ROLES = {  # role -> what it needs
    "vlm": "a model that answers in text, with images such as LlavaForConditionalGeneration or "
    "without such as LlamaForCausalLM",
    "asr": "a speech-to-text model such as WhisperForConditionalGeneration",
    "clip": "a model of image and text vectors such as CLIPModel or SiglipModel",
    "encoder": "a sentence-transformers folder with modules.json",
}
MAX_JSON_BYTES = 5_000_000
MAX_HEADER_BYTES = 10_000_000  # some 80,000 tensors
_CONFIG, _MODULES = "config.json", "modules.json"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_OTHER_WEIGHTS = re.compile(r"\.(bin|pt|pth|pickle|pkl|ckpt|h5|msgpack|gguf|onnx|npz)$", re.I)
_MAY_NAME_CODE = ("tokenizer_config.json", "processor_config.json", "preprocessor_config.json")

_SPEAKS = re.compile(r"\w+(ForCausalLM|LMHeadModel)")
_SEES = re.compile(r"\w+(ForConditionalGeneration|ForImageTextToText|ForVisionText2Text)")
_HEARS = re.compile(
    r"(Moonshine|Speech2Text|Whisper)ForConditionalGeneration|SpeechEncoderDecoderModel|"
    r"(SeamlessM4T|SeamlessM4Tv2|SpeechT5)ForSpeechToText"
)
_PAIRS = re.compile(r"(Alt|Chinese)?CLIPModel|MetaClip2Model|Siglip2?Model")

_BITS = (
    dict.fromkeys(("F64", "I64", "U64", "C64"), 64)
    | dict.fromkeys(("F32", "I32", "U32"), 32)
    | dict.fromkeys(("F16", "BF16", "I16", "U16"), 16)
    | dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8)
    | dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
    | {"F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}
)
_FLOATS = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}

# The tensors that a config's plain facts can be held against. Only paths made of these parts are
# looked at: a projector or a resampler has layers too, which the config counts elsewhere.
_TEXT = (
    r"(?:(?:base_model|bert|decoder|distilbert|embeddings|encoder|gpt_neox|language_model|model|"
    r"mpnet|roberta|text_model|transformer|xlm_roberta)\.)*"
)
_VISION = (
    r"(?:model\.)?vision_(?:model|tower)\."
    r"(?:(?:embeddings|encoder|model|transformer|vision_model)\.)*"
)
_EMBEDDING = re.compile(
    rf"{_TEXT}(?:embed_tokens|shared|tok_embeddings|token_embedding|word_embeddings|wte)\.weight"
)
_PATCHES = re.compile(rf"{_VISION}patch_embedding\.weight")
_LAYER = re.compile(
    rf"(?P<stack>(?:{_TEXT}|(?P<vision>{_VISION}))(?:blocks?|h|layers?))\.(?P<number>\d{{1,6}})\."
)
_WIDTH_KEYS = ("embedding_size", "word_embed_proj_dim", "hidden_size", "d_model", "n_embd", "dim")
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_EXTRA_ROWS = {"mllama": 8, "mllama_text_model": 8}  # its embedding is that much longer, always

_MOST_SHOWN = 20

_DECIDING = frozenset([".jinja", ".json", ".model", ".safetensors", ".spm", ".tiktoken", ".txt"])
_LEFT_OUT = re.compile(r"\..*|checkpoint-\d+|coreml|onnx|openvino", re.I)  # folders nothing loads
_MAX_FILES = 2_000
_MAX_DEPTH = 5
_RACY_NS = 2_000_000_000  # a file touched this shortly before hashing may change unnoticed


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint's files tell.

    Attributes:
        folder: where it is.
        architecture: the class that its config names, such as ``LlavaForConditionalGeneration``.
        model_type: such as ``llava``.
        stored_bytes: size of the safetensors files that are loaded.
        parameters: numbers in their floating-point tensors.
        dtypes: of those tensors, as torch names them, the most frequent first.
        digest: of everything that decides answers, see `digest`.
    """

    folder: Path
    architecture: str
    model_type: str
    stored_bytes: int
    parameters: int
    dtypes: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class _Tensor:
    dtype: str
    shape: tuple[int, ...]


def inspect(folder: Path, *, role: str, cache: Path | None = None) -> Checkpoint:
    """Look at a checkpoint; nothing is loaded and no code of it runs.

    Links among its files are followed, for the hub's cache is made of them.

    Args:
        folder: as ``save_pretrained`` writes it.
        role: a key of ROLES.
        cache: folder that remembers digests, see `digest`.
    Raises: MissingError (folder, config, weights or a shard), ModelError (not safetensors,
        damaged, wants code of its own, of another role), PathError (leads out of the folder),
        ShapeError (the config contradicts the tensors; every contradiction), ParameterError (role).
    """
    if role not in ROLES:
        raise ParameterError(message(f"role must be one of {', '.join(ROLES)}", got=role))
    if not folder.is_dir():
        raise MissingError(message("a checkpoint must be a folder", got=str(folder)))
    has_modules = os.path.lexists(folder / _MODULES)
    # Only the encoder is loaded by modules.json, in which the transformer may have its own folder.
    modules = _modules(folder) if has_modules and role == "encoder" else [""]
    home = folder / modules[0]
    config = _config(home)
    _refuse_other_role(role, config, has_modules, home)
    _refuse_what_is_not_dense(config, home)
    _refuse_code(home, config)
    weights, tensors = _weights(home)
    if not tensors:
        raise MissingError(_told("weights must hold at least one tensor", "none", weights[0]))
    _hold_against(config, tensors, home / _CONFIG)
    for module in modules[1:]:
        files, own = _weights(folder / module, needed=False)
        weights += files
        tensors |= {f"{module}.{name}": tensor for name, tensor in own.items()}
    counts: Counter[str] = Counter()
    for tensor in tensors.values():
        if tensor.dtype in _FLOATS:
            counts[_FLOATS[tensor.dtype]] += math.prod(tensor.shape)
    return Checkpoint(
        folder=folder,
        architecture=config["architectures"][0],
        model_type=config["model_type"],
        stored_bytes=sum(path.stat().st_size for path in weights),
        parameters=counts.total(),
        dtypes=tuple(name for name, _ in counts.most_common()),
        digest=digest(folder, cache=cache),
    )


def tensor_names(folder: Path) -> frozenset[str]:
    """Return the names of the tensors that a folder stores; of an encoder, its transformer's."""
    modules = _modules(folder) if os.path.lexists(folder / _MODULES) else [""]
    return frozenset(_weights(folder / modules[0])[1])


def files(folder: Path) -> list[str]:
    """Return the paths, relative to the folder, of the files that `digest` covers.

    Raises: as of `digest`.
    """
    return sorted(_deciding(folder))


def digest(folder: Path, *, cache: Path | None = None) -> str:
    """Return a digest of what decides a checkpoint's answers: ``sha256:`` and 64 hex digits.

    Covers names and contents of all safetensors, JSON and tokenizer files (txt, model, jinja, spm,
    tiktoken), those in sub-folders too. Not covered: the model card, pickled weights, hidden
    folders and those of other runtimes or of a training (``onnx``, ``checkpoint-500``). Rather a
    file too many, at which a digest changes without need, than one too few.

    Args:
        folder: the checkpoint.
        cache: folder for what was read when; a file whose size, times and inode are as they were
            is not read again, unless it was touched within two seconds before. Made if need be, and
            not needed if it cannot be written.
    Raises: MissingError, ModelError or PathError if a file cannot be read.
    """
    store = cache and cache / f"{_sha256(os.path.realpath(folder))[:32]}.json"
    known = _read_stamps(store) if store else {}
    stamps: dict[str, list[Any]] = {}
    whole = hashlib.sha256()
    for name in sorted(_deciding(folder), key=os.fsencode):
        content, stamp = _content_digest(folder / name, known.get(name))
        if stamp:
            stamps[name] = stamp
        raw_name = os.fsencode(name)
        whole.update(b"%d:%s=%s;" % (len(raw_name), raw_name, content.encode()))
    if store and stamps != known:
        # Without the stamps the next call is slower, not wrong.
        with contextlib.suppress(OSError):
            store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(store, json.dumps({"files": stamps}), mode=0o600)
    return f"sha256:{whole.hexdigest()}"


def fits(role: str, config: Mapping[str, Any], *, has_modules: bool = False) -> bool:
    """Whether a model of a config's first architecture can serve in a role.

    ``has_modules``: whether modules.json lies beside it, as sentence-transformers leaves it.
    """
    architecture = config["architectures"][0]
    return {
        "vlm": bool(_SPEAKS.fullmatch(architecture))
        or bool(_SEES.fullmatch(architecture) and config.get("vision_config")),
        "asr": bool(_HEARS.fullmatch(architecture)),
        "clip": bool(_PAIRS.fullmatch(architecture)),
        "encoder": has_modules,
    }[role]


# --- config --------------------------------------------------------------------------------------


def _config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    if not os.path.lexists(path):
        raise MissingError(
            _told(f"a checkpoint must hold {_CONFIG}", _few(_names(folder)), folder)
            + "; point to the folder that save_pretrained wrote"
        )
    config = _read_json(path)
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise ModelError(_told("architectures must name the model's class", names, path))
    if not isinstance(config.get("model_type"), str):
        raise ModelError(
            _told("model_type must name the kind of model", config.get("model_type"), path)
        )
    return config


def _modules(folder: Path) -> list[str]:
    """Return the folders of a sentence-transformers model's modules, the transformer's first."""
    path = folder / _MODULES
    entries = _read_json(path, kind=list)
    folders = []
    for entry in entries:
        kind, below = (
            (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
        )
        if not isinstance(kind, str) or not isinstance(below, str):
            raise ModelError(_told("a module must have a type and a path", entry, path))
        if not kind.startswith("sentence_transformers."):
            raise ModelError(
                _told("a module must be one of sentence-transformers' own", kind, path)
                + "; code that comes with a checkpoint is never run"
            )
        if below and not all(_is_plain(part) for part in below.split("/")):
            raise PathError(_told("a module's path must stay inside the folder", below, path))
        if not folders and kind.rpartition(".")[2] != "Transformer":
            raise ModelError(_told("the first module must be a Transformer", kind, path))
        folders.append(below)
    if not folders:
        raise ModelError(_told("a model must have at least one module", "none", path))
    return list(dict.fromkeys(folders))


def _refuse_other_role(
    role: str, config: Mapping[str, Any], has_modules: bool, folder: Path
) -> None:
    architecture = config["architectures"][0]
    fitting = [one for one in ROLES if fits(one, config, has_modules=has_modules)]
    if role not in fitting:
        remedy = f"it fits the role {fitting[0]}" if fitting else "choose another checkpoint"
        rule = f"the role {role} needs {ROLES[role]}"
        raise ModelError(f"{_told(rule, architecture, folder / _CONFIG)}; {remedy}")


def _refuse_what_is_not_dense(config: Mapping[str, Any], folder: Path) -> None:
    if config.get("quantization_config"):
        raise ModelError(
            _told("weights must be stored unquantized", "quantization_config", folder / _CONFIG)
            + "; the trial quantizes them, so take the checkpoint that this one was made from"
        )
    if config.get("transformers_weights"):
        name = config["transformers_weights"]
        raise ModelError(
            _told(f"weights must be in {_WEIGHTS} or its shards", name, folder / _CONFIG)
            + "; remove transformers_weights and rename the file"
        )
    if os.path.lexists(folder / "adapter_config.json"):
        raise ModelError(
            _told("an adapter must be merged into its model", "adapter_config.json", folder)
            + "; call merge_and_unload() and save_pretrained()"
        )


def _refuse_code(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that asks for code of its own (``trust_remote_code``)."""
    asking = [(_CONFIG, config)]
    asking += [
        (f"{_CONFIG}: {key}", value) for key, value in config.items() if isinstance(value, dict)
    ]
    for name in _MAY_NAME_CODE:
        if os.path.lexists(folder / name):
            asking.append((name, _read_json(folder / name)))
    for name, values in asking:
        if values.get("auto_map"):
            raise ModelError(
                _told("a checkpoint must not need code of its own", "auto_map", folder / name)
                + "; code that comes with a checkpoint is never run: take one whose class "
                "transformers has itself"
            )


# --- weights -------------------------------------------------------------------------------------


def _weights(folder: Path, *, needed: bool = True) -> tuple[list[Path], dict[str, _Tensor]]:
    """Return the safetensors files that are loaded from a folder, and what their headers tell."""
    if os.path.lexists(folder / _WEIGHTS):
        return [folder / _WEIGHTS], _header(folder / _WEIGHTS)
    if os.path.lexists(folder / _INDEX):
        return _sharded(folder / _INDEX)
    names = _names(folder) if folder.is_dir() else []
    others = [name for name in names if _OTHER_WEIGHTS.search(name)]
    if others:
        raise ModelError(
            _told("weights must be safetensors", _few(others), folder)
            + "; convert with from_pretrained and save_pretrained of transformers, where you trust "
            "the file"
        )
    if needed:
        raise MissingError(
            _told(f"a checkpoint must hold {_WEIGHTS} or {_INDEX}", _few(names), folder)
            + "; get the whole checkpoint (a hub may hold safetensors in another revision only)"
        )
    return [], {}


def _sharded(index: Path) -> tuple[list[Path], dict[str, _Tensor]]:
    """Return the files that an index names, and what their headers tell, all together."""
    named = _read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise ModelError(_told("weight_map must name the file of each tensor", named, index))
    found: dict[str, _Tensor] = {}
    paths = [index.parent / name for name in dict.fromkeys(map(str, named.values()))]
    for path, name in zip(paths, dict.fromkeys(map(str, named.values())), strict=True):
        if not _is_plain(name) or not name.endswith(".safetensors"):
            rule = "a shard must be a safetensors file beside the index"
            raise PathError(_told(rule, name, index))
        if not os.path.lexists(path):
            rule = "every shard that the index names must be there"
            raise MissingError(f"{_told(rule, f'no {name}', index)}; get the whole checkpoint")
        own = _header(path)
        twice = found.keys() & own.keys()
        if twice:
            raise ModelError(_told("a tensor must be stored once", min(twice), path))
        found |= own
    lost = named.keys() - found.keys()
    if lost:
        raise ModelError(
            _told("the shards must hold what the index names", _few(sorted(lost)), index)
            + "; they belong to another model: get the whole checkpoint again"
        )
    return paths, found


def _header(path: Path) -> dict[str, _Tensor]:
    """Read a safetensors file's header: 8 bytes of length, JSON, then the tensors' bytes."""
    again = "; the file is damaged or cut short: get it again"
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            got = f"{length} in a file of {size} bytes"
            raise ModelError(_told("the header must end inside the file", got, path) + again)
        if length > MAX_HEADER_BYTES:
            rule = f"a safetensors header must be at most {MAX_HEADER_BYTES} bytes"
            raise ModelError(_told(rule, length, path))
        raw = file.read(length)
    entries = _parse_json(raw, path, unique=True)
    about = entries.pop("__metadata__", None)
    kind = about.get("format", "pt") if isinstance(about, dict) else "pt"
    if kind != "pt":
        raise ModelError(_told("weights must be saved for PyTorch (pt)", kind, path))
    tensors, at = {}, 0
    spans = []
    for name, entry in entries.items():
        begin, end, tensors[name] = _entry(name, entry, path)
        spans.append((begin, end, name))
    for begin, end, name in sorted(spans):
        if begin != at:
            got = f"{shown(name)} from {begin} where {at} was due"
            rule = "tensors must follow one another without a gap or an overlap"
            raise ModelError(_told(rule, got, path) + again)
        at = end
    if at != size - 8 - length:
        got = f"{at} bytes of tensors in {size - 8 - length}"
        rule = "the tensors must lie inside the file and fill it"
        raise ModelError(_told(rule, got, path) + again)
    return tensors


def _entry(name: str, entry: Any, path: Path) -> tuple[int, int, _Tensor]:
    """Return where a tensor begins and ends among the bytes, and what it is."""
    values = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = (values.get(key) for key in ("dtype", "shape", "data_offsets"))
    where = f"tensor {shown(name)}: "
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ModelError(_told(f"{where}dtype must be one of safetensors'", dtype, path))
    if not _are_sizes(shape) or len(shape) > 16:
        raise ModelError(_told(f"{where}shape must be a list of sizes", shape, path))
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ModelError(_told(f"{where}data_offsets must be a begin and an end", offsets, path))
    begin, end = offsets
    if (end - begin) * 8 != math.prod(shape) * _BITS[dtype]:
        rule = f"{where}a {dtype} of shape {list(shape)} must take its size in bytes"
        raise ModelError(_told(rule, end - begin, path))
    return begin, end, _Tensor(dtype, tuple(shape))


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 2**63 for value in values
    )


# --- config against weights -----------------------------------------------------------------------


def _hold_against(config: Mapping[str, Any], tensors: Mapping[str, _Tensor], place: Path) -> None:
    """Raise ShapeError if what the config says of sizes is not what is stored.

    Held against the tensors are the vocabulary, the width and the number of layers, of the text
    side and of the image side. What a config leaves to its class's defaults is not looked at, nor
    are tensors of a name that is not known: the loader has the last word.
    """
    problems = list(itertools.islice(_disagreements(config, tensors), _MOST_SHOWN))
    if problems:
        where = printable(str(place))
        remedy = "config and weights belong to different models: take both from one source"
        raise ShapeError("\n".join(f"{problem} ({where}); {remedy}" for problem in problems))


def _disagreements(config: Mapping[str, Any], tensors: Mapping[str, _Tensor]) -> Iterator[str]:
    text, vision = config.get("text_config"), config.get("vision_config")
    said = ("text_config.", text) if isinstance(text, dict) else ("", config)
    seen = ("vision_config.", vision) if isinstance(vision, dict) else ("", {})
    stacks: dict[str, set[int]] = {}
    of_images = set()
    for name, tensor in tensors.items():
        if _EMBEDDING.fullmatch(name) and len(tensor.shape) == 2:
            rows = tensor.shape[0] - _EXTRA_ROWS.get(str(said[1].get("model_type")), 0)
            yield from _unlike(*said, ["vocab_size"], rows, name, tensor)
            yield from _unlike(*said, _WIDTH_KEYS, tensor.shape[1], name, tensor)
        elif _PATCHES.fullmatch(name) and tensor.shape:
            yield from _unlike(*seen, ["hidden_size"], tensor.shape[0], name, tensor)
        elif layer := _LAYER.match(name):
            stacks.setdefault(layer["stack"], set()).add(int(layer["number"]))
            if layer["vision"]:
                of_images.add(layer["stack"])
    for stack, numbers in stacks.items():
        yield from _miscounted(*(seen if stack in of_images else said), stack, numbers)


def _unlike(
    prefix: str,
    section: Mapping[str, Any],
    keys: Iterable[str],
    stored: int,
    name: str,
    tensor: _Tensor,
) -> Iterator[str]:
    key = _key(section, keys)
    if key is not None and not (_is_size(section[key]) and section[key] == stored):
        yield (
            f"{prefix}{key} must be {stored}, for the tensor {shown(name)} has the shape "
            f"{list(tensor.shape)}, got {shown(section[key])}"
        )


def _miscounted(
    prefix: str, section: Mapping[str, Any], stack: str, numbers: set[int]
) -> Iterator[str]:
    side = next((part for part in stack.split(".") if part in ("encoder", "decoder")), "no")
    key = _key(section, (f"{side}_layers", f"num_{side}_layers", *_LAYER_KEYS))
    if key is None:
        return
    # Layers that predict further ahead stand behind the others; transformers leaves them out.
    ahead = section.get("num_nextn_predict_layers")
    most = max(numbers) + 1
    fewest = most - ahead if _is_size(ahead) else most
    whole = len(numbers) == most
    if not (whole and _is_size(section[key]) and fewest <= section[key] <= most):
        yield (
            f"{prefix}{key} must be {len(numbers)}, the number of layers stored as "
            f"{shown(f'{stack}.N')}, got {shown(section[key])}"
        )


def _key(section: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    return next((key for key in keys if section.get(key) is not None), None)


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


# --- digest --------------------------------------------------------------------------------------


def _deciding(folder: Path) -> list[str]:
    """Return the paths, relative to the folder, of the files that decide answers."""
    found: list[str] = []
    waiting = [""]
    folders = 0
    while waiting:
        below = waiting.pop()
        folders += 1
        with _reading(folder / below), os.scandir(folder / below) as entries:
            for entry in entries:
                name = f"{below}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if not _LEFT_OUT.fullmatch(entry.name):
                        waiting.append(f"{name}/")
                elif Path(entry.name).suffix.lower() in _DECIDING and entry.name[0] != ".":
                    found.append(name)
                elif entry.is_symlink() and entry.is_dir() and not _LEFT_OUT.fullmatch(entry.name):
                    raise PathError(
                        _told("a folder inside a checkpoint must not be a link", name, folder)
                        + "; put the folder itself there"
                    )
        if len(found) + folders > _MAX_FILES or below.count("/") > _MAX_DEPTH:
            rule = f"a checkpoint must hold at most {_MAX_FILES} files, {_MAX_DEPTH} folders deep"
            raise ModelError(_told(rule, "more", folder) + "; point to the checkpoint alone")
    return found


def _content_digest(path: Path, known: list[Any] | None) -> tuple[str, list[Any] | None]:
    """Return a file's digest, and the stamp under which it may be trusted, if it may."""
    with _opened(path) as file:
        stamp = _stamp(os.fstat(file.fileno()))
        if known and known[:-1] == stamp:
            return known[-1], known
        started = time.time_ns()
        content = hashlib.file_digest(file, "sha256").hexdigest()
        after = os.fstat(file.fileno())
    touched = max(after.st_mtime_ns, after.st_ctime_ns)
    if _stamp(after) != stamp or touched > started - _RACY_NS:
        return content, None
    return content, [*stamp, content]


def _stamp(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read_stamps(path: Path) -> dict[str, list[Any]]:
    try:
        files = json.loads(path.read_bytes())["files"]
        return {
            name: stamp
            for name, stamp in files.items()
            if len(stamp) == 5 and re.fullmatch(r"[0-9a-f]{64}", stamp[-1])
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _sha256(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()


# --- files ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file, or what a link leads to; never blocks on a pipe."""
    with _reading(path):
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ModelError(_told("must be a regular file", path.name, path.parent))
        with os.fdopen(descriptor, "rb") as file:
            yield file


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except LabError:
        raise
    except FileNotFoundError as error:
        got = "a link that leads nowhere" if path.is_symlink() else "no such file"
        raise MissingError(_told("a checkpoint's file must be there", got, path)) from error
    except OSError as error:
        raise ModelError(
            _told("a checkpoint's file must be readable", error.strerror, path)
        ) from error


def _read_json(path: Path, *, kind: type = dict) -> Any:
    with _opened(path) as file:
        raw = file.read(MAX_JSON_BYTES + 1)
    if len(raw) > MAX_JSON_BYTES:
        raise ModelError(
            _told(f"a settings file must be at most {MAX_JSON_BYTES} bytes", "more", path)
        )
    return _parse_json(raw, path, kind=kind)


def _parse_json(raw: bytes, path: Path, *, kind: type = dict, unique: bool = False) -> Any:
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_unique if unique else None)
    except UnicodeDecodeError as error:
        raise ModelError(_told("must be UTF-8", f"byte {error.start}", path)) from error
    except json.JSONDecodeError as error:
        place = f"{printable(str(path))}:{error.lineno}:{error.colno}"
        raise ModelError(message("must be JSON", got=error.msg, place=place)) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; too deep
        raise ModelError(_told("must be JSON that can be read", error, path)) from error
    if not isinstance(value, kind):
        what = "keys and values" if kind is dict else "a list"
        raise ModelError(_told(f"must hold {what}", type(value).__name__, path))
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key that is there twice")
    return values


def _is_plain(name: str) -> bool:
    """Whether a text is the name of a file or folder, and not a way to somewhere else."""
    return name not in ("", ".", "..") and name.isprintable() and not set(name) & set("/\\:")


def _names(folder: Path) -> list[str]:
    with _reading(folder):
        return sorted(path.name for path in folder.iterdir())


def _few(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}"


def _told(rule: str, got: object, path: Path) -> str:
    place = printable(str(path))
    try:
        return message(rule, got=got, place=place)
    except RecursionError:
        return message(rule, got="something nested too deep", place=place)
