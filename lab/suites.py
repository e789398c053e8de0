"""Model suites: which checkpoint serves which role, and where it is.

Owns the form of ``params/models/*.yaml``, the pinning of hub revisions in them and the way from a
source to a folder on this machine. Knows nothing of what is in a checkpoint (``lab.checkpoints``)
or of how it is used.
"""

from __future__ import annotations

import difflib
import io
import os
import re
import stat
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from lab.errors import LabError, MissingError, ParameterError, UsageError, message, printable, shown
from lab.files import write_whole
from lab.params import read_yaml

if TYPE_CHECKING:
    from huggingface_hub import HfApi

WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")  # all that is ever downloaded
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_ID = re.compile(r"(?!.*(?:--|\.\.|\.git$))\w(?:[\w.-]{0,94}\w)?/\w(?:[\w.-]{0,94}\w)?", re.A)
_REF = re.compile(r"(?!.*\.\.)\w[\w./-]{0,99}", re.A)


def _matching(pattern: re.Pattern[str], rule: str) -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(rule)
        return text

    return AfterValidator(check)


def _visible(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("must be a text without control characters")
    return text


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Entry(_Section):
    """One role's line."""

    memory: Annotated[str, AfterValidator(_visible)]
    folder: Annotated[str, AfterValidator(_visible)] | None = None
    hub: Annotated[str, _matching(_HUB_ID, "must be owner/name as the hub has it")] | None = None
    revision: (
        Annotated[
            str, _matching(_COMMIT, "must be a commit hash of 40 hex digits, or null until pinned")
        ]
        | None
    ) = None
    ref: Annotated[str, _matching(_REF, "must be a branch, a tag or refs/pr/N")] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> _Entry:
        if (self.folder is None) == (self.hub is None):
            raise ValueError("must name either a folder or a hub id")
        given = self.model_fields_set
        if self.folder is not None and given & {"revision", "ref"}:
            raise ValueError("must not give a folder a revision or a ref; its digest tells it")
        if self.hub is not None and "revision" not in given:
            raise ValueError("must give a hub id its revision; write null until it is pinned")
        return self


class _Roles(_Section):
    """The roles that a suite fills, in the order in which they are shown."""

    vlm: _Entry | None = None
    asr: _Entry | None = None
    clip: _Entry | None = None
    encoder: _Entry | None = None

    @model_validator(mode="after")
    def _at_least_one(self) -> _Roles:
        if not any(entry for _, entry in self):
            raise ValueError(f"must fill at least one of {', '.join(_Roles.model_fields)}")
        return self


class _Form(_Section):
    roles: _Roles


@dataclass(frozen=True)
class Source:
    """Where one role's checkpoint comes from: a folder, or a repository of the hub.

    Attributes:
        role: vlm, asr, clip or encoder.
        folder: relative to the project or absolute; None for a hub's.
        hub: ``owner/name``; None for a folder.
        revision: commit hash, or None for a folder and for what is not pinned yet.
        ref: branch, tag or ``refs/pr/N`` that is pinned; None is the repository's default branch.
        memory: what it needs and in which dtype, a text for people.
        place: ``file:line``.
    """

    role: str
    folder: str | None
    hub: str | None
    revision: str | None
    ref: str | None
    memory: str
    place: str

    @property
    def is_pinned(self) -> bool:
        """Whether the same files come each time, as far as a name can promise that."""
        return self.hub is None or self.revision is not None

    def __str__(self) -> str:
        if self.hub is None:
            return str(self.folder)
        return f"{self.hub}@{self.revision[:12] if self.revision else self.ref or 'unpinned'}"


@dataclass(frozen=True)
class Suite:
    """A set of checkpoints that serve together: a source for each role that is filled."""

    name: str
    sources: Mapping[str, Source]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a report must repeat: a sentence for each source that is not pinned."""
        return tuple(
            f"The role {role} of suite {self.name} is not pinned: {source.hub} is taken as it is "
            f"on the hub today, and a later run may get other weights; pin it with "
            f"`lab models pin {self.name}`."
            for role, source in self.sources.items()
            if not source.is_pinned
        )


@dataclass(frozen=True)
class Pin:
    """What came of pinning one source; ``problem`` is empty if ``after`` was written."""

    role: str
    hub: str
    before: str | None
    after: str | None
    problem: str = ""


def known(root: Path) -> list[str]:
    """Return the names of the suites under ``params/models``, sorted."""
    return sorted(path.stem for path in (root / "params" / "models").glob("*.yaml"))


def load(name: str, *, root: Path) -> Suite:
    """Read a suite; nothing is looked up or downloaded.

    Raises: UsageError if there is no such suite, ParameterError that lists every problem.
    """
    path, shown_as = _file(name, root)
    document = read_yaml(path, shown_as=shown_as)
    try:
        roles = _Form.model_validate(document).roles
    except ValidationError as error:
        problems = [_problem(detail, document, shown_as) for detail in error.errors()]
        raise ParameterError("\n".join(problems)) from None
    sources = {
        role: Source(
            role=role,
            folder=entry.folder,
            hub=entry.hub,
            revision=entry.revision,
            ref=entry.ref,
            memory=entry.memory,
            place=_place(document, ["roles", role], shown_as),
        )
        for role, entry in roles
        if entry is not None
    }
    return Suite(name, MappingProxyType(sources))


def locate(source: Source, *, root: Path) -> Path:
    """Return the folder of a source's checkpoint; a hub's is downloaded if it is not here yet.

    Only safetensors, JSON and tokenizer files are downloaded, into the hub's own cache (HF_HOME).
    With HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE set nothing is asked of the network.

    Raises: MissingError with what went wrong and what to do.
    """
    if source.hub is None:
        folder = root / Path(str(source.folder)).expanduser()
        if not folder.is_dir():
            raise MissingError(
                message(
                    f"the checkpoint of the role {source.role} must be a folder",
                    got=source.folder,
                    place=source.place,
                    remedy="put it there, or correct the path",
                )
            )
        return folder
    if source.revision:  # a commit does not change, so what is here need not be asked for
        here = cached(source, root=root)
        if here is not None and any(here.rglob("*.safetensors")):
            return here
    try:
        return _snapshot(source, local_only=is_offline())
    except Exception as error:  # the hub's client raises a dozen kinds; each is told by one message
        raise MissingError(_failure(error, source)) from error


def cached(source: Source, *, root: Path) -> Path | None:
    """Return the folder of a source's checkpoint if it is on this machine; asks no network.

    Raises: MissingError for a local folder that is not there.
    """
    if source.hub is None:
        return locate(source, root=root)
    try:
        return _snapshot(source, local_only=True)
    except (OSError, ValueError):
        return None


def pin(name: str, *, root: Path, api: HfApi | None = None, update: bool = False) -> list[Pin]:
    """Write the commit hashes that the hub gives for a suite's sources into its file.

    Comments and order stay. A hash is written only if the hub gave it just now, for a commit that
    holds safetensors; a source for which that fails stays as it is.

    Args:
        name: suite.
        root: project folder.
        api: who is asked; the hub if not given.
        update: ask for the pinned ones too.
    Returns: an entry for each source that was changed, or could not be.
    """
    suite = load(name, root=root)
    path, _ = _file(name, root)
    pins = []
    for source in suite.sources.values():
        if source.hub is None or (source.revision and not update):
            continue
        try:
            after = _resolve(source, api)
        except Exception as error:  # see locate
            problem = str(error) if isinstance(error, LabError) else _failure(error, source)
            pins.append(Pin(source.role, source.hub, source.revision, None, problem))
            continue
        if after != source.revision:
            pins.append(Pin(source.role, source.hub, source.revision, after))
    hashes = {one.role: one.after for one in pins if one.after}
    if hashes:
        _write_hashes(path, hashes)
    return pins


def is_offline() -> bool:
    """Whether the environment forbids to ask the hub (HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE)."""
    told = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return told.strip().upper() in ("1", "ON", "YES", "TRUE")


def digest_cache(root: Path) -> Path:
    """Return the folder in which the digests of checkpoints are remembered; safe to delete."""
    return root / ".cache" / "_checkpoints"  # no tenant's name begins like that


# --- file ----------------------------------------------------------------------------------------


def _file(name: str, root: Path) -> tuple[Path, str]:
    names = known(root)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        raise UsageError(
            message(
                f"a suite must be one of {', '.join(names) or 'none yet'}",
                got=name,
                remedy=f"did you mean {near[0]}?" if near else "add its file to params/models",
            )
        )
    shown_as = f"params/models/{name}.yaml"
    return root / shown_as, shown_as


def _problem(detail: Any, document: CommentedMap, shown_as: str) -> str:
    """Word one of pydantic's findings as ``file:line: key: rule, got value; remedy``."""
    parts = [str(part) for part in detail["loc"]]
    where = f"{_place(document, parts, shown_as)}: {'.'.join(map(printable, parts))}"
    if detail["type"] == "extra_forbidden":
        model = {1: _Form, 2: _Roles}.get(len(parts), _Entry)
        near = difflib.get_close_matches(parts[-1], model.model_fields, n=1)
        listed = f"known: {', '.join(model.model_fields)}"
        return f"{where}: unknown key; {f'did you mean {near[0]}?' if near else listed}"
    if detail["type"] == "missing":
        return f"{where}: must be set, but is missing"
    rule = detail["msg"].removeprefix("Value error, ")
    rule = (rule[0].lower() + rule[1:]).replace("input should", "must")
    rule = re.sub(r"must be a valid dictionary.*", "must hold keys and values", rule)
    got = detail["input"]
    if isinstance(got, dict | BaseModel):  # of many values; the rule says what is amiss
        return f"{where}: {rule}"
    # A list is not printed: aliases can make a small one endless.
    what = "a list" if isinstance(got, list) else shown(got)
    remedy = "; quote it" if isinstance(got, int | float) and "string" in rule else ""
    return f"{where}: {rule}, got {what}{remedy}"


def _place(document: CommentedMap, parts: list[str], shown_as: str) -> str:
    line, node = 0, document
    for part in parts:
        try:
            line, node = node.lc.key(part)[0] + 1, node[part]
        except (AttributeError, KeyError, TypeError):
            break
    return f"{shown_as}:{line}" if line else shown_as


def _write_hashes(path: Path, hashes: Mapping[str, str]) -> None:
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = 10_000
    yaml.representer.add_representer(
        type(None), lambda to, _: to.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    document = yaml.load(path.read_text("utf-8-sig"))
    for role, revision in hashes.items():
        document["roles"][role]["revision"] = revision
    text = io.StringIO()
    yaml.dump(document, text)
    write_whole(path, text.getvalue(), mode=stat.S_IMODE(path.stat().st_mode))


# --- hub -----------------------------------------------------------------------------------------


def _snapshot(source: Source, *, local_only: bool) -> Path:
    with warnings.catch_warnings():
        # In a notebook without ipywidgets tqdm warns that it draws its bars as text.
        warnings.filterwarnings("ignore", message="IProgress not found")
        from huggingface_hub import snapshot_download

    folder = snapshot_download(
        str(source.hub),
        revision=source.revision or source.ref,
        allow_patterns=list(WANTED),
        local_files_only=local_only,
    )
    return Path(folder)


def _resolve(source: Source, api: HfApi | None) -> str:
    """Return the commit hash of a source's branch as the hub gives it."""
    if api is None:
        if is_offline():
            raise MissingError(
                message(
                    "the hub must be asked for a revision",
                    got="HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set",
                    place=source.place,
                    remedy="unset it where there is a network",
                )
            )
        from huggingface_hub import HfApi

        api = HfApi()
    branch = {"revision": source.ref} if source.ref else {}
    found = api.model_info(str(source.hub), **branch)
    if not isinstance(found.sha, str) or not _COMMIT.fullmatch(found.sha):
        raise MissingError(
            message("the hub must give a commit hash", got=found.sha, place=source.place)
        )
    files = getattr(found, "siblings", None)
    if files and not any(file.rfilename.endswith(".safetensors") for file in files):
        raise MissingError(
            message(
                "a revision must hold safetensors",
                got=f"{source.hub} at {source.ref or 'its default branch'} without any",
                place=source.place,
                remedy="set ref to a branch or pull request (refs/pr/N) of it that does",
            )
        )
    return found.sha


def _failure(error: Exception, source: Source) -> str:
    """Word what the hub's client raised."""
    from huggingface_hub import errors as hub

    at = source.revision or source.ref or "its default branch"
    if isinstance(error, hub.GatedRepoError):
        rule = "the hub must grant access"
        got: object = source.hub
        remedy = f"accept its terms on https://huggingface.co/{source.hub}, then `hf auth login`"
    elif isinstance(error, hub.RepositoryNotFoundError):
        rule, got = "a hub id must name a repository that can be seen", source.hub
        remedy = "correct it; if it is private, `hf auth login`"
    elif isinstance(error, hub.RevisionNotFoundError):
        rule, got = f"a revision must be a commit of {source.hub}", at
        remedy = "correct it, or write null and pin it anew with `lab models pin`"
    elif is_offline() or isinstance(error, hub.OfflineModeIsEnabled):
        rule = "offline (HF_HUB_OFFLINE), a checkpoint must be in the local cache whole"
        got = f"{source.hub} at {at}"
        remedy = (
            "run once with a network, bring the cache from another machine (HF_HOME), or name a "
            "local folder"
        )
    else:
        cause = error.__cause__ or error  # the client's own error tells of its cache first
        lines = str(cause).strip().splitlines()
        rule = f"the hub must deliver {source.hub}"
        got = f"{type(cause).__name__}: {lines[0] if lines else 'no reason'}"
        remedy = "check the network, HF_ENDPOINT and the disk; or name a local folder"
    return message(rule, got=got, place=source.place, remedy=remedy)
