"""Settings: ``params/*.yaml`` read into frozen models, each value with the place it came from.

Owns the files' form and the order of precedence: notebook default < lab.yaml < profile < tenant <
``--set``. Knows nothing of what the values are used for; the parameters of a notebook are passed
through and checked against the notebook by whoever runs it.
"""

from __future__ import annotations

import difflib
import io
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
)
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, ReusedAnchorWarning

from lab.errors import MissingError, ParameterError, UsageError, message, printable, shown
from lab.slo import Limit
from lab.tenants import Tenant, find_root, known_tenants

Language = Literal["zh", "en", "ja"]
LimitField = Annotated[
    Limit, BeforeValidator(Limit.parse), PlainSerializer(str, return_type=str, when_used="always")
]
Positive = Annotated[int, Field(gt=0)]
PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]

MAX_FILE_BYTES = 1_000_000  # settings are written by hand; more is a mistake or an attack
_MAX_DEPTH = 20
_MAX_VALUES = 10_000

_LEDGERS = ("sqlite:///", "sqlite+pysqlite:///", "postgresql+psycopg://")
_REFERENCE = re.compile(r"\$\{\w+\}")  # ${NAME}, to an environment variable
_PASSWORD = re.compile(r"://[^:/]*:(.*)@", re.DOTALL)  # as SQLAlchemy finds it, or more
_NOTEBOOK = re.compile(r"\d\d_\w+")  # a file's name without .ipynb
_SECRETS = ("password", "secret")


def _no_repeats(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("must not repeat a value")
    return values


def _notebook_names(values: tuple[str, ...]) -> tuple[str, ...]:
    """Check the form alone: a notebook need not be there yet."""
    for value in values:
        if not _NOTEBOOK.fullmatch(value):
            raise ValueError(f"must name notebooks in full, as 02_quantization, got {shown(value)}")
    return _no_repeats(values)


def _ledger_url(value: object) -> str:
    """Check a ledger's URL; settings are shown and stored, so that it must not hold a password.

    No message repeats the value: it may be one that holds a password.
    """
    if not isinstance(value, str):
        raise ValueError(f"must be a text, got {type(value).__name__}")
    if _REFERENCE.fullmatch(value):
        return value
    if not value.startswith(_LEDGERS):
        kind = shown(value.partition(":")[0])
        raise ValueError(
            f"must begin with sqlite:/// or postgresql+psycopg://, or be ${{NAME}}, got {kind}"
        )
    secrets = [
        *_PASSWORD.findall(value),
        *(given for name, given in parse_qsl(value.partition("?")[2]) if name.endswith(_SECRETS)),
    ]
    if not all(_REFERENCE.fullmatch(one) for one in secrets):
        raise ValueError(
            "must not hold a password in clear, got one; write ${LAB_LEDGER_PASSWORD} in its place "
            "and set that environment variable"
        )
    return value


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True
    )


class Slo(_Section):
    """Limits of the service; units as in lab.yaml."""

    latency_p95: LimitField
    throughput: LimitField
    error_rate: LimitField
    consistency: LimitField
    isolation: LimitField
    quality_delta: LimitField


class DataSettings(_Section):
    """Where a corpus is and what it may hold."""

    folder: Annotated[str, Field(min_length=1)] | None
    max_rows: Positive
    max_classes: Positive
    max_field_chars: Positive
    image_width: Positive
    image_height: Positive
    max_image_bytes: Positive
    max_image_pixels: Positive
    sampling_rate: Positive
    max_audio_bytes: Positive
    max_audio_s: PositiveSeconds
    quarantine: bool


class CheckLimits(_Section):
    """Limits of the data analysis, one per check."""

    exact_duplicates: LimitField
    near_duplicates: LimitField
    contradictions: LimitField
    language_mismatch: LimitField
    group_coverage: LimitField
    class_imbalance: LimitField
    image_defects: LimitField
    image_duplicates: LimitField
    label_mismatch: LimitField
    audio_defects: LimitField
    quarantined: LimitField


class SampleSizes(_Section):
    """Rows of each table that a profile looks at; None is all of them."""

    faq: Positive | None
    images: Positive | None
    speech: Positive | None


class Scale(_Section):
    """Size of a demo corpus: FAQ rows, images, spoken queries, joint items."""

    faq: Positive
    images: Positive
    speech: Positive
    joint: Positive


class Synthesis(_Section):
    """How demo corpora are made."""

    defect_share: Share
    scales: dict[Literal["demo", "full"], Scale]


class Execution(_Section):
    """How notebooks are run."""

    jobs: Positive
    alone: Annotated[tuple[str, ...], AfterValidator(_notebook_names)]
    last: Annotated[tuple[str, ...], AfterValidator(_notebook_names)]
    cell_timeout_s: PositiveSeconds
    notebook_timeout_s: PositiveSeconds
    kernel_start_s: PositiveSeconds


class RaySettings(_Section):
    """Where studies are measured."""

    mode: Literal["ray", "inline"]
    address: Annotated[str, Field(min_length=1)] | None
    deadline_s: PositiveSeconds


class Title(_Section):
    """A tenant's name as its readers write it."""

    zh: str
    en: str
    ja: str


class Settings(_Section):
    """Everything that is set for one tenant under one profile."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    languages: Annotated[tuple[Language, ...], Field(min_length=1), AfterValidator(_no_repeats)]
    suite: str | None
    system_prompt: str | None
    ledger: Annotated[str, BeforeValidator(_ledger_url)]
    slo: Slo
    data: DataSettings
    checks: CheckLimits
    sample: SampleSizes
    synthesis: Synthesis
    execution: Execution
    ray: RaySettings
    notebooks: dict[str, dict[str, Any]]
    title: Title | None = None


@dataclass(frozen=True)
class Resolved:
    """Settings with their history.

    ``origins`` maps each key path, such as ``data.max_rows``, to where its value stands, such as
    ``params/tenants/medical.yaml:4``.
    """

    tenant: Tenant
    profile: str
    settings: Settings
    origins: Mapping[str, str]
    overrides: tuple[str, ...] = ()

    @property
    def data_folder(self) -> Path:
        """Where the tenant's corpus is; set by the lab's own files, so it may lie anywhere."""
        return self.tenant.root / (self.settings.data.folder or f"data/{self.tenant.slug}")


@dataclass(frozen=True)
class _Layer:
    """One source of settings: its values, and the place of each of its key paths."""

    values: dict[str, Any]
    places: dict[str, str]


def load(
    tenant: str,
    *,
    profile: str = "demo",
    overrides: Iterable[str] = (),
    root: Path | None = None,
) -> Resolved:
    """Resolve what is set for a tenant under a profile.

    Args:
        tenant: slug, a file under params/tenants.
        profile: a key of ``profiles`` in params/lab.yaml.
        overrides: ``key.path=value`` texts, values written as in YAML; the last one wins.
        root: project folder; found from the working directory if not given.
    Raises: ParameterError that lists every problem of the files read, or MissingError.
    """
    root = root or find_root()
    owner = _known(tenant, root)
    overrides = tuple(overrides)
    base, profiles = _split_profiles(_read_layer(root / "params" / "lab.yaml", root))
    if profile not in profiles:
        raise UsageError(
            message(
                f"profile must be one of {', '.join(profiles)}",
                got=profile,
                place="params/lab.yaml: profiles",
            )
        )
    own = _read_layer(owner.params_file, root)
    # Other profiles are validated too: a mistake in `full` should not wait for the long run.
    problems: dict[str, None] = {}
    for name in [*(other for other in profiles if other != profile), profile]:
        merged = _merge([base, profiles[name], own, _overrides_layer(overrides)])
        settings, found = _validate(merged)
        problems.update(dict.fromkeys(found))
    if problems or settings is None:
        asked = all(problem.startswith("--set") for problem in problems)
        raise (UsageError if asked else ParameterError)("\n".join(problems))
    if settings.suite is not None and not (root / f"params/models/{settings.suite}.yaml").is_file():
        raise MissingError(
            message(
                "suite must name a file in params/models",
                got=settings.suite,
                place=merged.places["suite"],
            )
        )
    return Resolved(
        tenant=owner,
        profile=profile,
        settings=settings,
        origins=MappingProxyType(merged.places),
        overrides=overrides,
    )


def notebook_parameters(resolved: Resolved, notebook: str) -> dict[str, Any]:
    """Return what a notebook is run with: the common parameters, then those of its own section."""
    return {
        "tenant": resolved.tenant.slug,
        "profile": resolved.profile,
        "seed": resolved.settings.seed,
        "overrides": list(resolved.overrides),
        **resolved.settings.notebooks.get(notebook, {}),
    }


def read_plain(
    path: Path, *, shown_as: str, max_bytes: int = MAX_FILE_BYTES
) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a YAML 1.2 file as plain Python, and where each of its key paths stands.

    Returns: the values, and of each path, such as ``data.max_rows``, its place, ``file:line``.
    Raises: as `read_yaml`; ParameterError also if it nests too deep or holds too many values, which
        aliases can make of a small file, or one that is neither text, number, true, false nor null.
    """
    places: dict[str, str] = {}
    document = read_yaml(path, shown_as=shown_as, max_bytes=max_bytes)
    return _plain(document, (), shown_as, places), places


def parse_plain(text: str, *, shown_as: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Do as `read_plain` with what stands in a file, or is to."""
    places: dict[str, str] = {}
    return _plain(_parse(text, shown_as), (), shown_as, places), places


def read_yaml(path: Path, *, shown_as: str, max_bytes: int = MAX_FILE_BYTES) -> CommentedMap:
    """Read a YAML 1.2 mapping with line numbers; nothing in it can run code.

    Raises: MissingError, or ParameterError (not UTF-8, too large, not YAML, a repeated key, an
    alias, a tag, not a mapping).
    """
    try:
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise MissingError(
            message("a settings file must exist", got=shown_as, remedy="create it")
        ) from error
    if len(raw) > max_bytes:
        raise ParameterError(
            message(f"a settings file must be at most {max_bytes} bytes", got=shown_as)
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ParameterError(
            message("a settings file must be UTF-8", got=shown_as, place=f"byte {error.start}")
        ) from error
    return _parse(text, shown_as)


def _parse(text: str, shown_as: str) -> CommentedMap:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ReusedAnchorWarning)  # the latest counts, as in YAML
            document = YAML(typ="rt", pure=True).load(io.StringIO(text))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        first = (error.problem or error.context or "not YAML").strip().splitlines()[0]
        raise ParameterError(f"{shown_as}:{line}: not valid YAML: {printable(first)}") from error
    except Exception as error:  # ruamel lets through whatever it stumbles over in odd files
        told = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ParameterError(f"{shown_as}: not valid YAML: {printable(told)}") from error
    if document is None:
        return CommentedMap()
    if not isinstance(document, CommentedMap):
        raise ParameterError(
            message("a settings file must hold keys and values", got=document, place=shown_as)
        )
    return document


def _known(slug: str, root: Path) -> Tenant:
    tenant = Tenant(slug, root)
    known = known_tenants(root)
    if slug not in known:
        near = difflib.get_close_matches(slug, known, n=1)
        raise UsageError(
            message(
                f"tenant must be one of {', '.join(known) or 'none yet'}",
                got=slug,
                remedy=f"did you mean {near[0]}?" if near else f"add params/tenants/{slug}.yaml",
            )
        )
    return tenant


def _read_layer(path: Path, root: Path) -> _Layer:
    shown_as = path.relative_to(root).as_posix()
    return _Layer(*read_plain(path, shown_as=shown_as))


def _plain(node: Any, path: tuple[str, ...], file: str, places: dict[str, str]) -> Any:
    """Turn ruamel's node into plain Python, noting the line of every key path."""
    if len(path) > _MAX_DEPTH:
        raise ParameterError(f"{file}: settings must nest at most {_MAX_DEPTH} deep")
    if len(places) > _MAX_VALUES:  # aliases can make a small file endless
        raise ParameterError(f"{file}: settings must hold at most {_MAX_VALUES} values")
    if getattr(getattr(node, "tag", None), "value", None) is not None:
        dotted = ".".join(path)
        raise ParameterError(
            message(
                "a value must not bear a tag",
                got=node.tag.value,
                place=f"{places.get(dotted, file)}: {dotted}",
                remedy="quote it if it is a text that begins with !",
            )
        )
    if isinstance(node, CommentedMap):
        result = {}
        for key, value in node.items():
            # A key that << brings along stands elsewhere; it is told where the mapping is.
            line = (node.lc.key(key)[0] if key in (node.lc.data or ()) else node.lc.line) + 1
            if not isinstance(key, str):
                raise ParameterError(message("a key must be text", got=key, place=f"{file}:{line}"))
            places[".".join((*path, key))] = f"{file}:{line}"
            result[key] = _plain(value, (*path, key), file, places)
        return result
    if isinstance(node, CommentedSeq):
        for index in range(len(node)):
            places[".".join((*path, str(index)))] = f"{file}:{node.lc.item(index)[0] + 1}"
        return [_plain(item, (*path, str(index)), file, places) for index, item in enumerate(node)]
    if node is None or isinstance(node, bool):
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    raise ParameterError(
        message(
            "a value must be text, a number, true, false, null or a list",
            got=node,
            place=f"{places.get('.'.join(path), file)}: {'.'.join(path)}",
            remedy="quote it",
        )
    )


def _split_profiles(layer: _Layer) -> tuple[_Layer, dict[str, _Layer]]:
    values = dict(layer.values)
    profiles = values.pop("profiles", None)
    if not isinstance(profiles, dict) or not profiles:
        raise ParameterError(
            message(
                "params/lab.yaml must name at least one profile", got=profiles, place="profiles"
            )
        )
    layers = {}
    for name, own in profiles.items():
        prefix = f"profiles.{name}."
        if not isinstance(own, dict):
            raise ParameterError(
                message(
                    "a profile must hold keys and values",
                    got=own,
                    place=f"{layer.places[prefix[:-1]]}: profiles.{name}",
                    remedy="write {} for none",
                )
            )
        places = {
            path.removeprefix(prefix): f"{place} (profile {name})"
            for path, place in layer.places.items()
            if path.startswith(prefix)
        }
        layers[name] = _Layer(own, places)
    places = {
        path: place
        for path, place in layer.places.items()
        if path != "profiles" and not path.startswith("profiles.")
    }
    return _Layer(values, places), layers


def _overrides_layer(overrides: Sequence[str]) -> _Layer:
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for text in overrides:
        key, sign, raw = text.partition("=") if isinstance(text, str) else ("", "", "")
        parts = key.strip().split(".")
        if not sign or not all(re.fullmatch(r"[A-Za-z0-9_-]+", part) for part in parts):
            raise UsageError(
                message(
                    "--set must be key=value with the key path of params/lab.yaml",
                    got=text,
                    remedy="for example --set data.quarantine=true",
                )
            )
        value = _plain(_parse(f"value: {raw}", "--set"), (), "--set", {})["value"]
        here = values
        for part in parts[:-1]:
            here = here.setdefault(part, {})
            if not isinstance(here, dict):
                raise UsageError(message("--set must not set a key and a part of it", got=text))
        here[parts[-1]] = value
        path = ".".join(parts)
        places.update({".".join(parts[:end]): "--set" for end in range(1, len(parts) + 1)})
        places.update(dict.fromkeys(_leaves(value, path), "--set"))
    return _Layer(values, places)


def _leaves(value: Any, path: str) -> Iterator[str]:
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in items:
        yield f"{path}.{key}"
        yield from _leaves(item, f"{path}.{key}")


def _merge(layers: Sequence[_Layer]) -> _Layer:
    """Lay later layers over earlier ones: mappings merge, everything else is replaced whole."""
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for layer in layers:
        _lay_over(values, layer.values, (), places, layer.places)
    return _Layer(values, places)


def _lay_over(
    under: dict[str, Any],
    over: dict[str, Any],
    path: tuple[str, ...],
    places: dict[str, str],
    over_places: Mapping[str, str],
) -> None:
    for key, value in over.items():
        here = (*path, key)
        dotted = ".".join(here)
        place = over_places.get(dotted, "")
        if isinstance(value, dict) and isinstance(under.get(key, {}), dict):
            places.setdefault(dotted, place)
            under[key] = dict(under.get(key, {}))
            _lay_over(under[key], value, here, places, over_places)
            continue
        for stale in [known for known in places if known.startswith(f"{dotted}.")]:
            del places[stale]
        under[key] = value
        places[dotted] = place
        for leaf in _leaves(value, dotted):
            places[leaf] = over_places.get(leaf, place)


def _validate(merged: _Layer) -> tuple[Settings | None, list[str]]:
    try:
        text = json.dumps(merged.values)
        return Settings.model_validate_json(text), []
    except ValidationError as error:
        return None, [_problem(detail, merged.places) for detail in error.errors()]


def _problem(detail: Any, places: Mapping[str, str]) -> str:
    """Word one of pydantic's findings as ``file:line: key: rule, got value; remedy``."""
    parts = [str(part) for part in detail["loc"]]
    path = ".".join(parts)
    known = parts
    while known and ".".join(known) not in places:
        known = known[:-1]
    place = places.get(".".join(known), "params/lab.yaml")
    if detail["type"] == "extra_forbidden":
        siblings = _fields_at(parts[:-1])
        near = difflib.get_close_matches(parts[-1], siblings, n=1)
        remedy = f"did you mean {near[0]}?" if near else f"known: {', '.join(siblings)}"
        return f"{place}: {path}: unknown key; {remedy}"
    if detail["type"] == "missing":
        return f"{place}: {path}: must be set, but is missing; see the form of params/lab.yaml"
    rule = detail["msg"].removeprefix("Value error, ")
    rule = rule[0].lower() + rule[1:]
    got = "" if ", got " in rule else f", got {shown(detail['input'])}"
    return f"{place}: {path}: {rule.replace('input should', 'must')}{got}"


def _fields_at(path: Sequence[str]) -> list[str]:
    """Return the names allowed under a key path, for suggestions."""
    model: Any = Settings
    for part in path:
        field = model.model_fields.get(part) if hasattr(model, "model_fields") else None
        annotation = field.annotation if field else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next((one for one in options if hasattr(one, "model_fields")), None)
        if model is None:
            return []
    return list(model.model_fields)
