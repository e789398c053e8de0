"""A study: configurations of one service, measured side by side in one process.

Owns what is done to each configuration and in which order: load it, ask it everything once and
judge the answers, then time it in blocks, in turns with all the others. Keeps each result before it
is shown. Knows nothing of how results are compared, or of where else they could be measured.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from lab import (
    locks,
    machine,
    matching,
    measurement,
    memory,
    quality,
    quantization,
    requests,
    roles,
    services,
)
from lab.errors import LabError, NumberError, ParameterError, message
from lab.memory import Peak
from lab.queries import Answer, Generation
from lab.requests import Drawn, Request
from lab.roles import Role
from lab.services import Service
from lab.trials import Block, Quality, Runtime, Setting, Status, Trial, TrialResult, digest, key

if TYPE_CHECKING:
    from lab.corpus import Corpus
    from lab.ledger import Ledger
    from lab.params import Settings

CALIBRATION = 16  # queries that a pruning method listens to
_WARM_UP = 8  # calls at most
_TIMES = 2  # that a disturbed block is measured, at most
_OF_LOADING = ("load_s", "stored_bytes", "loaded_bytes", "first_request_s")
_LOOKED_AT = 2  # tokens written while it is looked what does the work
_AGAIN = "again"  # the baseline's second part, as if it were another configuration
_WRITTEN = "torch._inductor.runtime.compile_tasks."
_TOKENS = 16  # written while timing, if the baseline has no answer to go by
Progress = Callable[[str, int, int], None]
Working = Callable[[Trial], None]


@dataclass(frozen=True)
class Study:
    """What is compared with what.

    Attributes:
        trials: the first is the baseline; all have the same tenant, kind, suite, items, seed and
            turns. They are in memory together; those that differ only in batch size or load share
            their models.
    Raises: ParameterError if they are not about the same, or one is there twice.
    """

    trials: tuple[Trial, ...]

    def __post_init__(self) -> None:
        if not self.trials:
            raise ParameterError(message("a study must have a trial", got=0))
        twice = [one for at, one in enumerate(self.trials) if one in self.trials[:at]]
        if twice:
            rule = "trials of a study must differ"
            raise ParameterError(message(rule, got=f"{twice[0]} twice"))
        for name in ("tenant", "kind", "suite", "items", "seed", "turns"):
            values = sorted({getattr(one, name) for one in self.trials}, key=str)
            if len(values) > 1:
                rule = f"trials of a study must have the same {name}"
                raise ParameterError(message(rule, got=", ".join(map(str, values))))


@dataclass
class _Subject:
    """A configuration while it is measured."""

    trial: Trial
    service: Service | None = None
    status: Status = "ok"
    problem: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    loading: Peak = field(default_factory=Peak)
    answers: list[Answer] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)
    again: list[Block] = field(default_factory=list)


def run(
    study: Study,
    *,
    corpus: Corpus,
    settings: Settings,
    folders: Mapping[Role, Path],
    digests: Mapping[Role, str],
    ledger: Ledger,
    device: str = "cpu",
    threads: int | None = None,
    cache: Path | None = None,
    progress: Progress,
) -> list[TrialResult]:
    """Return the study's results, in the order of its trials; only those unknown are measured.

    The baseline is measured along with whatever is new, as its partner in each block.

    Args:
        study: what is compared.
        corpus: the tenant's.
        settings: the tenant's.
        folders: checkpoint by role.
        digests: of those checkpoints.
        ledger: where results are kept.
        device: cpu, cuda or cuda:N.
        threads: of torch; None: as lab.machine.threads has it.
        cache: where digests of large checkpoints are remembered.
        progress: called with (stage, done, total).
    Raises: CorpusError and ParameterError as of lab.requests.draw, LedgerError. A configuration
        that cannot be loaded or runs out of memory is a result.
    """
    threads = threads or machine.threads()
    setting = setting_of(
        study,
        corpus=corpus,
        settings=settings,
        digests=digests,
        hardware=hardware(device, threads),
        software=software(),
    )
    if asked := unknown(study, setting, ledger):
        for result in measure(
            asked,
            draw(asked.trials, corpus, settings),
            setting=setting,
            folders=folders,
            device=device,
            threads=threads,
            cache=cache,
            progress=progress,
        ):
            ledger.add(result)
    return known(study, setting, ledger)


def setting_of(
    study: Study,
    *,
    corpus: Corpus,
    settings: Settings,
    digests: Mapping[Role, str],
    hardware: str,
    software: str,
) -> Setting:
    """Return what a study's results will bear.

    Args:
        study: what is compared.
        corpus: the tenant's.
        settings: the tenant's.
        digests: of the checkpoints, by role.
        hardware: of the process that measures, see `hardware`.
        software: likewise, see `software`.
    """
    baseline = study.trials[0]
    return Setting(
        data=corpus.fingerprint,
        models={role: digests[role] for role in services.ROLES[baseline.kind] if role in digests},
        code=code_digest(),
        hardware=hardware,
        software=software,
        settings=_settings_digest(settings),
        partner=digest(baseline),
    )


def unknown(study: Study, setting: Setting, ledger: Ledger) -> Study | None:
    """Return what of a study the ledger lacks, and the baseline with it; None if it has all."""
    missing = set(ledger.missing(key(one, setting) for one in study.trials))
    if not missing:
        return None
    new = (one for one in study.trials[1:] if key(one, setting) in missing)
    return replace(study, trials=(study.trials[0], *new))


def known(study: Study, setting: Setting, ledger: Ledger) -> list[TrialResult]:
    """Return a study's results from the ledger, in the order of its trials.

    Raises: KeyError if one is not there.
    """
    keys = [key(trial, setting) for trial in study.trials]
    found = ledger.find(keys, tenant=study.trials[0].tenant)
    return [found[one] for one in keys]


def measure(
    study: Study,
    drawn: Drawn,
    *,
    setting: Setting,
    folders: Mapping[Role, Path],
    device: str = "cpu",
    threads: int,
    cache: Path | None = None,
    progress: Progress,
    working: Working = lambda _: None,
) -> list[TrialResult]:
    """Measure a study's trials side by side.

    Each result has, beside its own blocks, those of the baseline in the same turns; the baseline's
    has its own once more, which tells how far apart equal configurations lie. Waits as long as
    another process of the user measures on the device.

    Args:
        study: what is compared.
        drawn: what is asked.
        setting: that the results bear.
        folders: checkpoint by role.
        device: cpu, cuda or cuda:N.
        threads: of torch.
        cache: as of `run`.
        progress: called with (stage, done, total).
        working: called with a trial before something is done with it that may take long or fail.
    Raises: PathError if the device cannot be locked.
    """
    blocks = study.trials[0].turns
    total = len(study.trials) + blocks
    with (
        locks.measuring(device, waiting=lambda stage: progress(stage, 0, total)),
        _on_threads(threads),
    ):
        began = perf_counter()
        subjects = [_Subject(trial) for trial in study.trials]
        heard = {}  # all that are calibrated listen to the same
        for at, subject in enumerate(subjects):
            progress(f"asking {subject.trial}", at, total)
            working(subject.trial)
            with _compiling(subject):
                _meet(subject, subjects[:at], drawn, folders, heard, device=device, cache=cache)
            _judge(subject, drawn, subjects[0].answers)
        tokens = subjects[0].facts.pop("usual_tokens", _TOKENS)
        work = Generation(least=tokens, most=tokens)
        for subject in subjects:
            subject.facts.pop("usual_tokens", None)
            working(subject.trial)
            with _compiling(subject):
                _warm(subject, drawn.measured, work, device=device)
        for number, order in enumerate(_order(subjects, study)):
            progress("timing", len(subjects) + number, total)
            _take_turns(number, order, drawn.measured, work, blocks, working)
        progress("timing", total, total)
    took = perf_counter() - began
    environment = {
        "device": device,
        "threads": threads,
        "tokens_while_timing": 0 if study.trials[0].kind == "match" else tokens,
        "versions": machine.versions(),
        "study_s": took,
        "measuring_s": took - sum(one.environment.get("loading_s", 0.0) for one in subjects),
    }
    baseline = subjects[0]
    return [
        TrialResult(
            key=key(subject.trial, setting),
            trial=subject.trial,
            setting=setting,
            status=subject.status,
            finished=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            problem=subject.problem,
            blocks=tuple(subject.blocks),
            baseline=tuple(baseline.again if subject is baseline else baseline.blocks),
            environment={**environment, **subject.environment},
            **subject.facts,
        )
        for subject in subjects
    ]


@contextmanager
def _on_threads(count: int) -> Iterator[None]:
    """Give torch so many threads, and the tokenizers none of their own.

    Those would want cores that torch's threads wait on: with two cores and batches of 8 some thread
    waited for a core a fifth of the time, without them a hundredth.
    """
    import torch

    name = "TOKENIZERS_PARALLELISM"
    threads, parallel = torch.get_num_threads(), os.environ.get(name)
    torch.set_num_threads(count)
    os.environ[name] = "false"
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if parallel is None:
            del os.environ[name]
        else:
            os.environ[name] = parallel


def draw(trials: Sequence[Trial], corpus: Corpus, settings: Settings) -> Drawn:
    """Draw what is asked, and what a method listens to if one does."""
    first = trials[0]
    options = {"settings": settings, "seed": first.seed}
    calibration = CALIBRATION if any(one.pruning in services.CALIBRATED for one in trials) else 0
    drawn = requests.draw(corpus, first.kind, items=first.items, calibration=calibration, **options)
    if calibration and first.kind == "text" and "joint" in corpus.tables:
        # Words alone would not reach the eyes of a model that has some.
        there = min(calibration, len(corpus.tables["joint"]))
        measured = {one.group for one in drawn.measured}
        seen = [
            one
            for one in requests.draw(corpus, "image_text", items=there, **options).measured
            if one.group not in measured
        ]
        return replace(drawn, calibration=(*drawn.calibration, *seen))
    return drawn


def code_digest() -> str:
    """Return the digest of the modules that shape what is measured."""
    folder = Path(__file__).parent
    whole = hashlib.sha256()
    for name in (
        *("assistants", "layers", "machine", "matching", "measurement", "media", "memory"),
        *("models", "normalisation", "pruning", "quality", "quantization", "queries", "requests"),
        *("roles", "services", "slimming", "stats", "studies", "trials"),
    ):
        whole.update(name.encode() + b"\0" + (folder / f"{name}.py").read_bytes())
    return f"sha256:{whole.hexdigest()}"


def _settings_digest(settings: Settings) -> str:
    """Return the digest of the settings that shape what is asked."""
    shaping = [settings.system_prompt, settings.languages, settings.data.model_dump(mode="json")]
    return f"sha256:{hashlib.sha256(json.dumps(shaping).encode()).hexdigest()}"


def hardware(device: str, threads: int) -> str:
    """Return the class of what measures here: machine, device and threads."""
    return f"{machine.description()}, {_device(device)}, {threads} threads"


def software() -> str:
    """Return the versions here that can move a result."""
    return ", ".join(f"{name} {one}" for name, one in sorted(machine.versions().items()))


def _device(device: str) -> str:
    """Return the device, a GPU by its name."""
    if not device.startswith("cuda"):
        return device
    import torch

    return torch.cuda.get_device_name(device)


# --- one configuration ----------------------------------------------------------------------------


def _meet(
    subject: _Subject,
    earlier: Sequence[_Subject],
    drawn: Drawn,
    folders: Mapping[Role, Path],
    heard: MutableMapping[Runtime, services.Norms],
    *,
    device: str,
    cache: Path | None,
) -> None:
    """Load a configuration, or take the models of an earlier one, and ask it everything once."""
    trial, facts = subject.trial, subject.facts
    with _failing(subject):
        twin = _twin(trial, earlier)
        if twin is None:
            begun = perf_counter()
            try:
                _load(subject, drawn, folders, heard, device=device, cache=cache)
            finally:
                subject.environment["loading_s"] = perf_counter() - begun
        else:
            subject.service, subject.loading = twin.service, twin.loading
            facts |= {name: twin.facts[name] for name in _OF_LOADING}
        queries = [one.query for one in drawn.measured]
        try:
            with memory.watch(device) as asking:
                subject.answers = services.ask_once(
                    subject.service,
                    queries,
                    batch_size=trial.batch_size,
                    generation=Generation(),
                )
        finally:
            facts["peak_bytes"] = _highest(subject.loading, asking, facts["loaded_bytes"])
        usual = float(np.median([one.tokens_out for one in subject.answers]))
        facts |= {
            "answers": _digest(trial, drawn, subject.answers),
            "usual_tokens": max(1, round(usual)),
        }


def _twin(trial: Trial, earlier: Sequence[_Subject]) -> _Subject | None:
    """Return an earlier configuration with the same models in memory, if there is one.

    Raises: MemoryError if the same ran out of memory at a batch that is no larger.
    """
    alike = [
        one
        for one in earlier
        if replace(one.trial, batch_size=trial.batch_size, rate=trial.rate) == trial
    ]
    for one in alike:
        if one.status == "out_of_memory" and one.trial.batch_size <= trial.batch_size:
            raise MemoryError(f"it ran out of memory at batch {one.trial.batch_size}")
    return next((one for one in alike if one.service is not None), None)


def _load(
    subject: _Subject,
    drawn: Drawn,
    folders: Mapping[Role, Path],
    heard: MutableMapping[Runtime, services.Norms],
    *,
    device: str,
    cache: Path | None,
) -> None:
    """Load a configuration's models, pruned and quantized, and ask them one thing."""
    trial, facts = subject.trial, subject.facts
    with tempfile.TemporaryDirectory(prefix="lab-pruned-") as aside:
        folders = services.prepare(
            trial,
            folders,
            aside=Path(aside),
            calibration=[one.query for one in drawn.calibration],
            heard=heard,
            device=device,
        )
        known, compiled = -1, roles.compiling_s()
        # Once more if libraries were loaded on the way, which is no part of loading a model.
        while known < _libraries():
            known = _libraries()
            service = subject.service = None  # the one before must not be there as well
            try:
                with memory.watch(device) as subject.loading:
                    service = services.load(trial, folders, device=device, cache=cache)
                    facts |= {
                        "load_s": service.load_s,
                        "stored_bytes": service.stored_bytes,
                        "loaded_bytes": service.loaded_bytes,
                    }
                    # What torch.compile did the first time it need not do again: it counts as well.
                    begun = perf_counter() - (roles.compiling_s() - compiled)
                    service.ask([drawn.measured[0].query], batch_size=1, generation=Generation())
                    facts["first_request_s"] = perf_counter() - begun
            finally:
                facts["peak_bytes"] = subject.loading.taken
        subject.service = service


def _libraries() -> int:
    """Return how many modules are loaded; what torch.compile writes looks like one, and is none."""
    return sum(not name.startswith(_WRITTEN) for name in list(sys.modules))


@contextmanager
def _compiling(subject: _Subject) -> Iterator[None]:
    """Tell for how long torch.compile was at work for a configuration before it is timed."""
    before = roles.compiling_s()
    try:
        yield
    finally:
        if subject.trial.runtime.compiled:
            took = subject.environment.get("compile_s", 0.0) + roles.compiling_s() - before
            subject.environment["compile_s"] = took


def _highest(loading: Peak, asking: Peak, weights: int) -> int | None:
    """Return the most memory that a configuration took, if the system tells.

    Loading may have filled memory that the process had before; the weights count all the same.
    """
    if None in (loading.taken, loading.kept, asking.taken):
        return None
    return max(loading.taken, max(loading.kept, weights) + asking.taken)


def _judge(subject: _Subject, drawn: Drawn, baseline: Sequence[Answer]) -> None:
    """Score a configuration's answers; one that did not come is an empty one."""
    if not subject.answers:
        return
    if subject.trial.kind == "match":
        subject.facts["quality"] = _matched(subject.answers, drawn, baseline)
        return
    told = ["" if one.error else one.text for one in subject.answers]
    usual = ["" if one.error else one.text for one in baseline] or [None] * len(told)
    subject.facts["quality"] = tuple(
        Quality(
            asked.id,
            asked.group,
            asked.language,
            quality.score_text(asked.wanted, text, language=asked.language),
            None if before is None else quality.token_f1(before, text),
        )
        for asked, text, before in zip(drawn.measured, told, usual, strict=True)
    )


def _matched(
    answers: Sequence[Answer], drawn: Drawn, baseline: Sequence[Answer]
) -> tuple[Quality, ...]:
    """Score which description each image was matched with, and the other way.

    Configurations agree on a match if they choose the same: that is what a service would show. How
    far the vectors lie apart tells nothing of it, for close ones may change places.
    """
    found = matching.matches(drawn.measured, answers)
    usual = [one.chosen for one in matching.matches(drawn.measured, baseline)] if baseline else None
    return tuple(
        Quality(
            one.item,
            one.group,
            one.language,
            {"recall_at_1": quality.Score(float(one.right))},
            None if usual is None else float(one.chosen == usual[at]),
        )
        for at, one in enumerate(found)
    )


def _digest(trial: Trial, drawn: Drawn, answers: Sequence[Answer]) -> str:
    """Return the digest of what was said, or of a match chosen."""
    if trial.kind == "match":
        told = [[one.chosen] for one in matching.matches(drawn.measured, answers)]
    else:
        told = [[one.text, one.error] for one in answers]
    return f"sha256:{hashlib.sha256(json.dumps(told).encode()).hexdigest()}"


@contextmanager
def _failing(subject: _Subject) -> Iterator[None]:
    """Turn what a configuration may fail of into its status; everything else is a defect.

    RuntimeError is also a kernel that is not there; AssertionError a shape that it does not take:
    4-bit layers of bitsandbytes must have a multiple of 32 rows on a CPU, which pruned ones lack.
    What is no number is an error, not invalid: the configuration can be had, and does not work.
    """
    try:
        yield
    except (MemoryError, LabError, RuntimeError, AssertionError) as error:
        if memory.ran_out(error):
            subject.status = "out_of_memory"
        else:
            refused = isinstance(error, LabError) and not isinstance(error, NumberError)
            subject.status = "invalid" if refused else "error"
        words = str(error).strip().splitlines() or [type(error).__name__]
        subject.problem, subject.service = words[0], None


# --- timing ---------------------------------------------------------------------------------------


def _warm(subject: _Subject, asked: Sequence[Request], work: Generation, *, device: str) -> None:
    if subject.service is None:
        return
    some = _of_block(asked, 0, subject.trial.batch_size, 1)
    queries = [one.query for one in some[: subject.trial.batch_size]]
    service = subject.service
    with _failing(subject):
        warmed = measurement.warm_up(
            lambda: service.ask(queries, batch_size=len(queries), generation=work), most=_WARM_UP
        )
        subject.environment |= {"warm_up_s": warmed.took_s, "steady": warmed.steady}
        look = Generation(least=_LOOKED_AT, most=_LOOKED_AT)
        found = quantization.operators(
            lambda: service.ask(queries, batch_size=len(queries), generation=look), device=device
        )
        subject.environment["operators"] = [asdict(one) for one in found]


def _order(subjects: Sequence[_Subject], study: Study) -> list[list[tuple[_Subject, bool]]]:
    """Return for each block who is timed when; the baseline takes part twice."""
    by_name = {str(at): (subject, False) for at, subject in enumerate(subjects)}
    by_name[_AGAIN] = (subjects[0], True)
    return [
        [by_name[name] for name in order]
        for order in measurement.turns(
            list(by_name), blocks=study.trials[0].turns, seed=study.trials[0].seed
        )
    ]


def _take_turns(
    number: int,
    order: Sequence[tuple[_Subject, bool]],
    asked: Sequence[Request],
    work: Generation,
    blocks: int,
    working: Working,
) -> None:
    """Time every configuration once; all of them again if something disturbed one."""
    for _ in range(_TIMES):
        disturbed = False
        for subject, is_again in order:
            if subject.service is None:
                continue
            working(subject.trial)
            with _failing(subject):
                block = _time(subject, number, asked, work, blocks)
                (subject.again if is_again else subject.blocks).append(block)
                disturbed = disturbed or bool(block.disturbed)
        if not disturbed:
            return


def _time(
    subject: _Subject, number: int, asked: Sequence[Request], work: Generation, blocks: int
) -> Block:
    trial, service, tokens = subject.trial, subject.service, 0

    def ask(some: Sequence[Request]) -> list[bool]:
        nonlocal tokens
        answers = service.ask(
            [one.query for one in some], batch_size=trial.batch_size, generation=work
        )
        tokens += sum(one.tokens_out for one in answers)
        return [not one.error for one in answers]

    before, compiled = measurement.look(), roles.compiling_s()
    if trial.rate is None:
        some = _of_block(asked, number, trial.batch_size, blocks)
        block = measurement.closed_loop(ask, some, batch_size=trial.batch_size, number=number)
    else:
        block = measurement.open_loop(
            ask,
            asked,  # all of them: a queue needs time to build up
            rate=trial.rate,
            batch_size=trial.batch_size,
            seed=trial.seed + number,
            number=number,
        )
    disturbed = measurement.disturbance(before, measurement.look())
    if roles.compiling_s() > compiled:
        disturbed = f"{disturbed}, torch.compile was at work".removeprefix(", ")
    return replace(block, tokens_out=tokens, disturbed=disturbed)


def _of_block(asked: Sequence[Request], number: int, batch_size: int, blocks: int) -> list[Request]:
    """Return a block's share of the requests, filled up with further ones to whole batches.

    The shares are the same for every configuration of one batch size. Each request is in one, or in
    more where blocks are many or batches large.
    """
    share = math.ceil(len(asked) / blocks)
    count = math.ceil(share / batch_size) * batch_size
    return [asked[(number * share + at) % len(asked)] for at in range(count)]
