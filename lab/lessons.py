"""What the demo suite learns from, and what it is examined on: questions, pictures, recordings.

Owns the line between the two. What is held out is held out entirely: each intent's last phrasing,
a tenth of its slot fillings, a tenth of the pairs of object and colour, the last voices of each
language, some off-topic subjects. An exam item is new in every one of these ways at once. The n-th
item of a seed is always the same. Knows nothing of models or tokens.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lab import drawing, grammar, params, synthesis, voices

Part = Literal["train", "exam"]
Progress = Callable[[str, int, int], None]

LANGUAGES = grammar.LANGUAGES
REFUSED = "off_topic"
SIDE = 64  # pixels of the demo suite's images; a silhouette is still plain at this size
MAX_SECONDS = 7.9  # a recording must fit the 8 s window of the demo suite's speech model

_OFF_TOPIC_SHARE = 0.1
_QUESTIONS_SPOKEN = 0.6  # of the recordings; the rest widens what can be written down
_MAX_SPOKEN_CHARS = {"zh": 28, "en": 90, "ja": 40}
_CLAUSES = re.compile(r"(?<=[。！？；，、!?;])|(?<=[.,]) ")
_CHUNK = 100


@dataclass(frozen=True)
class Question:
    """A question in words, with the answer that the tenant asked gives to it.

    ``kind`` is the intent's id, or ``off_topic/`` and the subject's.
    """

    tenant: str
    kind: str
    filling: int
    language: str
    text: str
    answer: str

    @property
    def meaning(self) -> tuple[str, str, int]:
        """What is asked, in whatever words and language."""
        return (self.tenant, self.kind, self.filling)


@dataclass(frozen=True)
class Picture:
    """An image to be drawn: a tenant's object in a colour, by their places in the catalogue."""

    tenant: str
    kind: int
    colour: int
    seed: int

    @property
    def object_kind(self) -> drawing.ObjectKind:
        """The object, as the tenant names it."""
        return drawing.load_objects().of_tenant(self.tenant).kinds[self.kind]

    @property
    def shade(self) -> drawing.Colour:
        """The colour."""
        return drawing.load_objects().colours[self.colour]

    @property
    def look(self) -> tuple[str, str]:
        """Icon and colour: what the pixels tell, whatever a tenant calls it."""
        return (self.object_kind.icon, self.shade.id)

    def describe(self, language: str) -> str:
        """Return its description, such as "Red sofa"."""
        return drawing.describe(self.shade, self.object_kind, language)

    def draw(self) -> Image.Image:
        """Return the image, (512, 512) RGB."""
        return drawing.draw(self.object_kind, self.shade, seed=self.seed)


@dataclass(frozen=True)
class VisualQuestion:
    """A question about a picture, with the answer that the picture gives; ``what`` it asks for."""

    picture: Picture
    what: str
    language: str
    text: str
    answer: str


@dataclass(frozen=True)
class Utterance:
    """Something said by somebody."""

    text: str
    language: str
    voice: voices.Voice
    seed: int

    def speak(self) -> NDArray[np.float32]:
        """Return the recording, (samples,) at 16 kHz."""
        return voices.speak(self.text, self.language, self.voice, seed=self.seed)


def prompts(root: Path) -> dict[str, str]:
    """Return the system prompt of each demo tenant, as its settings have it."""
    return {
        tenant: params.load(tenant, root=root).settings.system_prompt or ""
        for tenant in grammar.tenants()
    }


def recipe(module: str, *facts: object) -> str:
    """Return a digest of all that shapes a recipe of the demo suite.

    A checkpoint of another recipe must not be gone on with: its words have other numbers.

    Args:
        module: the recipe's, such as ``demo_asr``.
        facts: what else decides the outcome; their repr must be the same in every process.
    """
    folder = Path(__file__).parent
    files = [folder / f"{name}.py" for name in (module, "lessons", "vocabularies")]
    files += sorted((folder / "grammars" / "paraphrases").glob("*.yaml"))
    digest = hashlib.sha256(repr((synthesis.code_digest(), *facts)).encode())
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


# --- questions ------------------------------------------------------------------------------------


def question(number: int, *, part: Part, seed: int = 0, language: str | None = None) -> Question:
    """Return the ``number``-th question that a tenant can answer."""
    rng = _rng("question", part, seed, number)
    language = language or _one_of(LANGUAGES, rng)
    tables = grammar.load(_one_of(grammar.tenants(), rng))
    intent = _one_of(tables.intents, rng)
    filling = _filling(tables, intent, part, rng)
    return _worded(tables, intent, filling, language, part, rng)


def off_topic(number: int, *, part: Part, seed: int = 0, language: str | None = None) -> Question:
    """Return the ``number``-th question that no tenant answers."""
    rng = _rng("off_topic", part, seed, number)
    language = language or _one_of(LANGUAGES, rng)
    tenant = _one_of(grammar.tenants(), rng)
    tables = grammar.load_off_topic(held_out=part == "exam")
    topic = _one_of(tables.intents, rng)
    filling = int(rng.integers(tables.combinations(topic)))
    text = grammar.fill(
        _one_of(topic.questions[language], rng), tables.filling(topic, filling), language
    )
    return Question(
        tenant, f"{REFUSED}/{topic.id}", filling, language, text, topic.answers[language]
    )


def asked_again(
    known: Question, language: str, *, number: int, part: Part, seed: int = 0
) -> Question:
    """Return the same question in another language, or in other words of the same part."""
    tables = grammar.load(known.tenant)
    intent = next(one for one in tables.intents if one.id == known.kind)
    rng = _rng("again", part, seed, number)
    return _worded(tables, intent, known.filling, language, part, rng)


def neighbour(known: Question, number: int, *, part: Part, seed: int = 0) -> Question:
    """Return the ``number``-th question of the same intent about something else, reworded."""
    tables = grammar.load(known.tenant)
    intent = next(one for one in tables.intents if one.id == known.kind)
    rng = _rng("neighbour", part, seed, number)
    filling = _filling(tables, intent, part, rng)
    return _worded(tables, intent, filling, known.language, part, rng)


def _filling(
    tables: grammar.Grammar, intent: grammar.Intent, part: Part, rng: np.random.Generator
) -> int:
    while True:
        filling = int(rng.integers(tables.combinations(intent)))
        if tables.held_out(intent, filling) == (part == "exam"):
            return filling


def _worded(
    tables: grammar.Grammar,
    intent: grammar.Intent,
    filling: int,
    language: str,
    part: Part,
    rng: np.random.Generator,
) -> Question:
    *known, last = intent.questions[language]
    more = grammar.paraphrases(tables.tenant)[intent.id][language]
    template = last if part == "exam" else _one_of((*known, *more), rng)
    words = tables.filling(intent, filling)
    return Question(
        tables.tenant,
        intent.id,
        filling,
        language,
        grammar.fill(template, words, language),
        grammar.fill(intent.answers[language], words, language),
    )


# --- pictures -------------------------------------------------------------------------------------


def picture(number: int, *, part: Part, seed: int = 0, tenant: str | None = None) -> Picture:
    """Return the ``number``-th picture."""
    rng = _rng("picture", part, seed, number)
    catalogue = drawing.load_objects()
    objects = catalogue.of_tenant(tenant or _one_of(grammar.tenants(), rng))
    while True:
        kind = int(rng.integers(len(objects.kinds)))
        colour = int(rng.integers(len(catalogue.colours)))
        held_out = drawing.held_out(objects.kinds[kind], catalogue.colours[colour])
        if held_out == (part == "exam"):
            return Picture(objects.tenant, kind, colour, int(rng.integers(2**31)))


def asked_about(
    shown: Picture, number: int, *, part: Part, seed: int = 0, language: str | None = None
) -> VisualQuestion:
    """Return the ``number``-th question, about a picture."""
    rng = _rng("visual", part, seed, number)
    language = language or _one_of(LANGUAGES, rng)
    kind = _one_of(grammar.load_visual().kinds, rng)
    *known, last = kind.questions[language]
    answer = synthesis.visual_answer(kind.id, shown.object_kind, shown.shade, language)
    more = grammar.paraphrases("visual")[kind.id][language]
    text = last if part == "exam" else _one_of((*known, *more), rng)
    return VisualQuestion(shown, kind.id, language, text, answer)


def icons() -> list[str]:
    """Return the different icons that pictures are made of, sorted."""
    catalogue = drawing.load_objects()
    return sorted({kind.icon for tenant in catalogue.tenants for kind in tenant.kinds})


def draw_all(
    pictures: Sequence[Picture], folder: Path, *, jobs: int, progress: Progress
) -> NDArray[np.uint8]:
    """Return the pictures as the demo suite sees them, (pictures, SIDE, SIDE, 3).

    Arguments as of `in_parts`.
    """
    files = in_parts(_draw_some, pictures, folder, jobs=jobs, what="drawing", progress=progress)
    return np.concatenate([np.load(file) for file in files])


def small(image: Image.Image) -> NDArray[np.uint8]:
    """Return an image as the demo suite sees it, (SIDE, SIDE, 3)."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _draw_some(pictures: Sequence[Picture]) -> NDArray[np.uint8]:
    return np.stack([small(one.draw()) for one in pictures])


# --- recordings -----------------------------------------------------------------------------------


def utterance(number: int, *, part: Part, seed: int = 0, language: str | None = None) -> Utterance:
    """Return the ``number``-th utterance that is short enough for the window.

    An exam is on questions only; for training, clauses of answers and descriptions of pictures
    widen what can be written down, and the voices vary around their settings.
    """
    rng = _rng("utterance", part, seed, number)
    language = language or _one_of(LANGUAGES, rng)
    text = _sayable(rng, part, language)
    known = voices.voices(language)
    ours = (
        known[-synthesis.HELD_OUT_VOICES :]
        if part == "exam"
        else known[: -synthesis.HELD_OUT_VOICES]
    )
    voice = _one_of(ours, rng)
    if part == "train":
        voice = _varied(voice, rng)
    return Utterance(text, language, voice, int(rng.integers(2**31)))


def _sayable(rng: np.random.Generator, part: Part, language: str) -> str:
    while True:
        number = int(rng.integers(2**31))
        draw = rng.random()
        if part == "exam" or draw < _QUESTIONS_SPOKEN:
            text = question(number, part=part, language=language).text
        elif draw < 0.7:
            text = off_topic(number, part=part, language=language).text
        elif draw < 0.76:
            text = picture(number, part=part).describe(language)
        elif draw < 0.8:
            text = asked_about(
                picture(number, part=part), number, part=part, language=language
            ).text
        else:
            clauses = _CLAUSES.split(question(number, part=part, language=language).answer)
            first = int(rng.integers(len(clauses)))
            joint = " " if language == "en" else ""
            text = joint.join(clauses[first : first + 1 + int(rng.integers(2))]).strip()
        if 1 < len(text) <= _MAX_SPOKEN_CHARS[language]:
            return text


def _varied(voice: voices.Voice, rng: np.random.Generator) -> voices.Voice:
    low, high = (-14.0, 1.0) if voice.language == "ja" else (-2.5, 2.5)
    return replace(
        voice,
        speed=float(np.clip(voice.speed * rng.uniform(0.95, 1.06), 0.86, 1.25)),
        pitch=float(np.clip(voice.pitch + rng.uniform(-1, 1), low, high)),
        tract=float(np.clip(voice.tract * rng.uniform(0.97, 1.03), 0.83, 1.08)),
        level_dbfs=voice.level_dbfs + float(rng.uniform(-3, 3)),
        snr_db=voice.snr_db + float(rng.uniform(-4, 6)),
        reverb_s=float(np.clip(voice.reverb_s + rng.uniform(-0.1, 0.1), 0, 0.35)),
    )


# --- making many, in parallel, so that a kill loses little ----------------------------------------


def in_parts(
    function: Callable[[Sequence], NDArray],
    items: Sequence,
    folder: Path,
    *,
    jobs: int,
    what: str,
    progress: Progress,
) -> list[Path]:
    """Apply a function to items in parts; each part's array is a file, made once.

    Args:
        function: part of the items -> array; importable, since other processes call it.
        items: all of them.
        folder: made if need be; the parts lie in a folder of it, named after all that shapes them.
        jobs: processes.
        what: the stage's name.
        progress: called with (stage, done, total).
    Returns: the parts' .npy files in order.
    """
    shaped_by = repr((function.__qualname__, items, synthesis.code_digest()))
    folder = folder / hashlib.sha256(shaped_by.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    parts = [items[at : at + _CHUNK] for at in range(0, len(items), _CHUNK)]
    files = [folder / f"{number:05d}.npy" for number in range(len(parts))]
    missing = [at for at, file in enumerate(files) if not file.exists()]
    done = len(parts) - len(missing)
    progress(what, done, len(parts))
    if not missing:
        return files
    calls = [(function, parts[at], files[at]) for at in missing]
    with ExitStack() as stack:
        spread = map
        if jobs > 1:
            pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
            spread = stack.enter_context(pool).map
        for _ in spread(_one_part, *zip(*calls, strict=True)):
            done += 1
            progress(what, done, len(parts))
    return files


def _one_part(function: Callable[[Sequence], NDArray], items: Sequence, file: Path) -> None:
    aside = file.with_suffix(".part")
    with aside.open("wb") as stream:
        np.save(stream, function(items))
    aside.replace(file)


def _one_of(values: Sequence, rng: np.random.Generator) -> object:
    return values[int(rng.integers(len(values)))]


def _rng(what: str, part: Part, seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(f"{what}/{part}".encode()), number])
