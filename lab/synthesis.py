"""Demo corpora: a tenant's FAQ, images, spoken queries and joint items, the same for a seed.

Owns what a demo corpus consists of, its side files (``splits.csv``, ``defects.csv``,
``made.json``), and writing it so that a kill leaves either the old corpus or the new one. Knows
nothing of checking or using a corpus.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import io
import json
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from lab import defects, drawing, grammar, voices
from lab.defects import Defect
from lab.errors import CorpusError, ParameterError, message
from lab.params import Scale

Row = dict[str, str]
Progress = Callable[[str, int, int], None]

TABLES = ("faq.json", "images.csv", "speech.json", "joint.json")
MADE = "made.json"
# Splits: what the demo suite may have been trained on, and what is new to it, and why.
TRAIN, HELD_OUT_PHRASING, HELD_OUT_VOICE = "train", "heldout_phrasing", "heldout_voice"
HELD_OUT_FILLING, HELD_OUT_LOOK = "heldout_filling", "heldout_look"
HELD_OUT_VOICES = 2  # the last settings of each language's catalogue
VISUAL_SHARE = 0.1  # of the recordings ask about a picture
_CHUNK = 25
# A recording should stay below about six seconds, the window of a small speech model.
_SPOKEN_CHARS = {"zh": 24, "en": 80, "ja": 36}


@dataclass(frozen=True)
class Recipe:
    """All that decides what a demo corpus contains."""

    tenant: str
    scale: Scale
    seed: int
    defect_share: float = 0.0

    def identity(self) -> dict[str, Any]:
        """Return the recipe with the digest of the code that follows it, as ``made.json`` does."""
        return {
            "tenant": self.tenant,
            "scale": self.scale.model_dump(),
            "seed": self.seed,
            "defect_share": self.defect_share,
            "code": code_digest(),
        }


@dataclass(frozen=True)
class Made:
    """What became of a request: whether anything was done, and how much is there."""

    folder: Path
    redone: bool
    counts: Mapping[str, int]


@dataclass(frozen=True)
class _Utterance:
    """One group of parallel sentences to be spoken."""

    group: str
    text: Mapping[str, str]
    annotation: Mapping[str, str]
    split: str


@dataclass(frozen=True)
class _Picture:
    """One image to be drawn: numbers into the catalogue, so that it travels cheaply."""

    path: str
    kind: int
    colour: int


@dataclass(frozen=True)
class _Clip:
    """One recording to be made."""

    path: str
    text: str
    language: str
    voice: int
    spoiled: str = ""


@dataclass
class _Corpus:
    """A corpus in the making: the rows of every table, and the media they need."""

    faq: list[Row]
    images: list[Row]
    speech: list[Row]
    joint: list[Row]
    pictures: list[_Picture]
    clips: list[_Clip]
    splits: list[tuple[str, int, str, str]]
    planted: list[Defect]


def make(
    recipe: Recipe,
    folder: Path,
    *,
    jobs: int,
    force: bool = False,
    progress: Progress | None = None,
) -> Made:
    """Make a demo corpus in ``folder``, unless the same one is there already.

    It is made in a neighbouring folder that takes the old one's place when it is whole. Stopped
    half-way, the next call goes on with the media that were finished.

    Args:
        recipe: what to make.
        folder: usually ``data/<tenant>``.
        jobs: processes that draw and speak.
        force: replace data that was not made here, or was changed since.
        progress: called with (stage, done, total).
    Raises: CorpusError if ``folder`` holds data of somebody else; MissingError without the extra
        ``demo``; ParameterError if the grammar cannot give as many rows as asked for.
    """
    progress = progress or (lambda stage, done, total: None)
    identity = recipe.identity()
    if folder.exists() and not force:
        old = _made_of(folder)
        if old is not None and old["recipe"] == identity:
            return Made(folder, redone=False, counts=old["counts"])
    corpus = _plan(recipe)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    making = folder.parent / f".making-{folder.name}-{digest}"
    for stale in folder.parent.glob(f".making-{folder.name}-*"):
        if stale != making:
            shutil.rmtree(stale, ignore_errors=True)
    (making / "images").mkdir(parents=True, exist_ok=True)
    (making / "audio").mkdir(exist_ok=True)
    _make_media(corpus, recipe, making, jobs, progress)
    counts = _write_tables(corpus, identity, making)
    _take_place(making, folder)
    return Made(folder, redone=True, counts=counts)


# --- planning: rows and what they need, all from the seed ----------------------------------------


def _plan(recipe: Recipe) -> _Corpus:
    tables = grammar.load(recipe.tenant)
    corpus = _Corpus([], [], [], [], [], [], [], [])
    utterances = _plan_faq(recipe, tables, corpus)
    _plan_images(recipe, corpus)
    asked = _plan_speech(recipe, utterances, corpus)
    _plan_joint(recipe, asked, corpus)
    return corpus


def _plan_faq(recipe: Recipe, tables: grammar.Grammar, corpus: _Corpus) -> list[_Utterance]:
    """Plan the FAQ; return its groups that are short enough to be spoken."""
    rng = _rng(recipe, "faq")
    languages = grammar.LANGUAGES
    spoiled = round(recipe.scale.faq * recipe.defect_share)
    copies, wrong = spoiled // 2, spoiled - spoiled // 2
    groups, left = divmod(recipe.scale.faq - copies, len(languages))
    rows: list[tuple[Row, str, str]] = []  # row, split, phrasing
    utterances = []
    for number, (intent, number_of_filling, phrasing) in enumerate(
        _draw_groups(tables, groups + (left > 0), rng)
    ):
        group = f"{intent.id}-{number:05d}"
        split = _split(tables, intent, number_of_filling, phrasing)
        filling = tables.filling(intent, number_of_filling)
        texts = {
            lang: grammar.fill(intent.questions[lang][phrasing], filling, lang)
            for lang in languages
        }
        whole = number < groups
        for lang in languages if whole else languages[:left]:
            row = {
                "question": texts[lang],
                "answer": grammar.fill(intent.answers[lang], filling, lang),
                "language": lang,
                "annotation": intent.annotation[lang],
            }
            # The last few rows have no counterpart in every language, hence no group.
            rows.append(({**row, "group": group} if whole else row, split, str(phrasing)))
        if whole and all(len(texts[lang]) <= _SPOKEN_CHARS[lang] for lang in languages):
            utterances.append(_Utterance(group, texts, intent.annotation, split))
    for at in rng.choice(len(rows), size=copies, replace=False):
        original, split, phrasing = rows[at]
        copy, detail = defects.near_duplicate(original, rng)
        rows.append(({**copy, "_defect": f"near_duplicate|{detail}"}, split, phrasing))
    plain = [at for at, (row, _, _) in enumerate(rows) if "group" in row]
    for at in rng.choice(plain, size=wrong, replace=False) if wrong else []:
        row, split, phrasing = rows[at]
        swapped, detail = defects.wrong_language(row, languages, rng)
        rows[at] = ({**swapped, "_defect": f"wrong_language|{detail}"}, split, phrasing)
    for place in rng.permutation(len(rows)):
        row, split, phrasing = rows[place]
        _append(corpus, "faq.json", corpus.faq, row)
        corpus.splits.append(("faq.json", len(corpus.faq), split, f"phrasing {phrasing}"))
    return utterances


def _draw_groups(
    tables: grammar.Grammar, count: int, rng: np.random.Generator
) -> Iterator[tuple[grammar.Intent, int, int]]:
    """Yield intents with the numbers of a filling and a phrasing, none twice.

    Some intents are asked more often, as in life.
    """
    ranks = rng.permutation(len(tables.intents))
    weights = (ranks + 10.0) ** -0.7
    most = np.array([tables.combinations(intent) for intent in tables.intents])
    counts = _apportion(count, weights, most)
    for intent, wanted in zip(tables.intents, counts, strict=True):
        fillings = rng.choice(tables.combinations(intent), size=wanted, replace=False)
        order = rng.permutation(intent.phrasings)
        for index, filling in enumerate(fillings):
            phrasing = int(order[index % intent.phrasings])
            yield intent, int(filling), phrasing


def _split(tables: grammar.Grammar, intent: grammar.Intent, filling: int, phrasing: int) -> str:
    if phrasing == intent.phrasings - 1:
        return HELD_OUT_PHRASING
    return HELD_OUT_FILLING if tables.held_out(intent, filling) else TRAIN


def _apportion(count: int, weights: np.ndarray, most: np.ndarray) -> list[int]:
    """Share ``count`` out by weight: at least one each while it lasts, at most ``most`` each."""
    if count > most.sum():
        raise ParameterError(
            message(
                f"the grammar gives at most {most.sum()} groups",
                got=count,
                place="params/lab.yaml: synthesis.scales",
                remedy="ask for fewer FAQ rows",
            )
        )
    shares = np.zeros(len(weights), dtype=int)
    for _ in range(count):
        # The one furthest below its share comes next (Webster's method, 1832).
        need = np.where(shares < most, weights / (2 * shares + 1), -1.0)
        shares[int(need.argmax())] += 1
    return shares.tolist()


def _plan_images(recipe: Recipe, corpus: _Corpus) -> None:
    rng = _rng(recipe, "images")
    catalogue = drawing.load_objects()
    kinds = catalogue.of_tenant(recipe.tenant).kinds
    pairs = [
        (kind, colour) for kind in range(len(kinds)) for colour in range(len(catalogue.colours))
    ]
    labels: list[tuple[int, int]] = []
    while len(labels) < recipe.scale.images:  # every pair once before any comes again
        labels += [pairs[at] for at in rng.permutation(len(pairs))]
    labels = labels[: recipe.scale.images]
    wrong = _mislabelled(labels, round(len(labels) * recipe.defect_share), rng)
    for number, (kind, colour) in enumerate(labels):
        path = f"images/product{number + 1}.jpg"
        corpus.pictures.append(_Picture(path, kind, colour))
        swapped, spoiled_languages = wrong.get(number, ((kind, colour), ()))
        for lang in grammar.LANGUAGES:
            shown_kind, shown_colour = swapped if lang in spoiled_languages else (kind, colour)
            row = {
                "image_path": path,
                "description": drawing.describe(
                    catalogue.colours[shown_colour], kinds[shown_kind], lang
                ),
                "language": lang,
                "annotation": kinds[shown_kind].category.names.in_language(lang),
                "group": f"image-{number + 1:05d}",
            }
            if lang in spoiled_languages:
                reach = "one language" if len(spoiled_languages) == 1 else "all languages"
                row["_defect"] = f"mislabelled_image|{reach}"
            _append(corpus, "images.csv", corpus.images, row)
            corpus.splits.append(
                (
                    "images.csv",
                    len(corpus.images),
                    HELD_OUT_LOOK
                    if drawing.held_out(kinds[kind], catalogue.colours[colour])
                    else TRAIN,
                    f"{kinds[kind].id} {catalogue.colours[colour].id}",
                )
            )


def _mislabelled(
    labels: Sequence[tuple[int, int]], count: int, rng: np.random.Generator
) -> dict[int, tuple[tuple[int, int], tuple[str, ...]]]:
    """Choose images whose label comes from another one that differs in object and in colour.

    Every second one is wrong in a single language only, as when a translator slips a line.
    """
    wrong = {}
    for turn, at in enumerate(rng.choice(len(labels), size=count, replace=False)):
        others = [one for one in labels if one[0] != labels[at][0] and one[1] != labels[at][1]]
        languages = grammar.LANGUAGES
        if turn % 2:
            languages = (languages[rng.integers(len(languages))],)
        wrong[int(at)] = (others[rng.integers(len(others))], languages)
    return wrong


def _plan_speech(
    recipe: Recipe, utterances: list[_Utterance], corpus: _Corpus
) -> list[tuple[Row, str]]:
    """Plan the recordings; return those that ask about a picture, with what they ask for."""
    rng = _rng(recipe, "speech")
    languages = grammar.LANGUAGES
    groups, left = divmod(recipe.scale.speech, len(languages))
    wanted = groups + (left > 0)
    visual = max(1, round(wanted * VISUAL_SHARE))
    questions = _visual_utterances(visual, rng)
    order = rng.permutation(len(utterances))
    # Short of different questions, some are spoken again, by other voices.
    said = [utterances[order[at % len(order)]] for at in range(wanted - visual)] + questions
    catalogue = {lang: len(voices.voices(lang)) for lang in languages}
    spoiled = rng.choice(
        recipe.scale.speech, size=round(recipe.scale.speech * recipe.defect_share), replace=False
    )
    fault = {int(at): ("clipped", "silent")[turn % 2] for turn, at in enumerate(spoiled)}
    asked = []
    for number, at in enumerate(rng.permutation(len(said))):
        utterance = said[at]
        whole = number < groups
        for lang in languages if whole else languages[:left]:
            index = len(corpus.speech)
            voice = int(rng.integers(catalogue[lang]))
            path = f"audio/query{index + 1}.wav"
            corpus.clips.append(
                _Clip(path, utterance.text[lang], lang, voice, fault.get(index, ""))
            )
            row = {
                "audio_path": path,
                "text": utterance.text[lang],
                "language": lang,
                "annotation": utterance.annotation[lang],
            }
            if whole:
                row["group"] = f"{utterance.group}-spoken-{number + 1:04d}"
            if index in fault:
                row["_defect"] = f"{fault[index]}_audio|"
            _append(corpus, "speech.json", corpus.speech, row)
            held_out = voice >= catalogue[lang] - HELD_OUT_VOICES
            split = HELD_OUT_VOICE if held_out else utterance.split
            setting = voices.voices(lang)[voice].id
            corpus.splits.append(("speech.json", len(corpus.speech), split, setting))
            if at >= len(said) - visual and index not in fault:
                asked.append((corpus.speech[-1], utterance.group.split("-")[1]))
    return asked


def _visual_utterances(count: int, rng: np.random.Generator) -> list[_Utterance]:
    questions = grammar.load_visual()
    every = [
        (kind, phrasing)
        for kind in questions.kinds
        for phrasing in range(len(kind.questions[grammar.LANGUAGES[0]]))
    ]
    # Each kind at least once, however few are wanted.
    firsts = [
        (kind, int(rng.integers(len(every) // len(questions.kinds)))) for kind in questions.kinds
    ]
    more = [every[at % len(every)] for at in rng.permutation(max(count, len(every)))]
    return [
        _Utterance(
            f"picture-{kind.id}-{phrasing}",
            {lang: kind.questions[lang][phrasing] for lang in grammar.LANGUAGES},
            questions.annotation,
            HELD_OUT_PHRASING
            if phrasing == len(kind.questions[grammar.LANGUAGES[0]]) - 1
            else TRAIN,
        )
        for kind, phrasing in (firsts + more)[:count]
    ]


def _plan_joint(recipe: Recipe, asked: Sequence[tuple[Row, str]], corpus: _Corpus) -> None:
    """Tie recordings that ask about a picture to pictures, with the answer the picture gives."""
    rng = _rng(recipe, "joint")
    catalogue = drawing.load_objects()
    kinds = catalogue.of_tenant(recipe.tenant).kinds
    if not asked:
        return
    pictures = rng.permutation(len(corpus.pictures))
    for number in range(recipe.scale.joint):
        question, what = asked[number % len(asked)]
        picture = corpus.pictures[pictures[number % len(pictures)]]
        answer = visual_answer(
            what, kinds[picture.kind], catalogue.colours[picture.colour], question["language"]
        )
        corpus.joint.append(
            {
                "text": question["text"],
                "image_path": picture.path,
                "audio_path": question["audio_path"],
                "language": question["language"],
                "answer": answer,
                "group": f"joint-{number + 1:05d}",
            }
        )


def visual_answer(
    what: str, kind: drawing.ObjectKind, colour: drawing.Colour, language: str
) -> str:
    """Return what a picture answers to a question about its object, colour or category."""
    if what == "object":
        return drawing.describe(colour, kind, language)
    if what == "category":
        return kind.category.names.in_language(language)
    name = colour.names.in_language(language)
    if language == "ja":  # names of colours are attributive: 緑色の, 赤い
        return f"{name.removesuffix('の')}です"
    return name.capitalize()


# --- making: media in parallel, then the tables ---------------------------------------------------


def _make_media(
    corpus: _Corpus, recipe: Recipe, folder: Path, jobs: int, progress: Progress
) -> None:
    """Draw and speak what is not there yet, in ``jobs`` processes; memory stays flat."""
    tasks: list[tuple[Any, ...]] = [
        (_draw_some, recipe, corpus.pictures[at : at + _CHUNK], folder, at)
        for at in range(0, len(corpus.pictures), _CHUNK)
    ]
    tasks += [
        (_speak_some, recipe, corpus.clips[at : at + _CHUNK], folder, at)
        for at in range(0, len(corpus.clips), _CHUNK)
    ]
    total, done = len(corpus.pictures) + len(corpus.clips), 0
    progress("media", 0, total)
    if jobs == 1:
        for function, *arguments in tasks:
            done += function(*arguments)
            progress("media", done, total)
        return
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
    try:
        running: set[Future[int]] = {pool.submit(*task) for task in tasks}
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            done += sum(future.result() for future in finished)
            progress("media", done, total)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _draw_some(recipe: Recipe, pictures: Sequence[_Picture], folder: Path, first: int) -> int:
    catalogue = drawing.load_objects()
    kinds = catalogue.of_tenant(recipe.tenant).kinds
    for number, picture in enumerate(pictures, start=first):
        with _once(folder / picture.path) as aside:
            if aside is not None:
                image = drawing.draw(
                    kinds[picture.kind],
                    catalogue.colours[picture.colour],
                    seed=_rng(recipe, "picture", number),
                )
                drawing.save_jpeg(image, aside)
    return len(pictures)


def _speak_some(recipe: Recipe, clips: Sequence[_Clip], folder: Path, first: int) -> int:
    for number, clip in enumerate(clips, start=first):
        with _once(folder / clip.path) as aside:
            if aside is not None:
                rng = _rng(recipe, "clip", number)
                samples = voices.speak(
                    clip.text,
                    clip.language,
                    voices.voices(clip.language)[clip.voice],
                    seed=int(rng.integers(2**31)),
                )
                if clip.spoiled == "clipped":
                    samples = defects.clipped(samples, rng)
                elif clip.spoiled == "silent":
                    samples = defects.silent(samples, rng)
                voices.write_wav(samples, aside)
    return len(clips)


class _once:  # noqa: N801 (reads as a statement)
    """Write a file only if it is not there, and only whole: gives the path to write to, or None."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.aside = path.with_name(f".{path.name}.part")

    def __enter__(self) -> Path | None:
        return None if self.path.exists() else self.aside

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and self.aside.exists():
            self.aside.replace(self.path)
        else:
            self.aside.unlink(missing_ok=True)


def _write_tables(corpus: _Corpus, identity: Mapping[str, Any], folder: Path) -> dict[str, int]:
    tables = {
        "faq.json": corpus.faq,
        "images.csv": corpus.images,
        "speech.json": corpus.speech,
        "joint.json": corpus.joint,
    }
    for name, rows in tables.items():
        text = _as_csv(rows) if name.endswith(".csv") else _as_json(rows)
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    splits = [
        dict(zip(("file", "row", "split", "setting"), entry, strict=True))
        for entry in corpus.splits
    ]
    (folder / "splits.csv").write_text(_as_csv(splits), encoding="utf-8", newline="\n")
    if identity["defect_share"]:
        planted = [asdict(defect) for defect in corpus.planted]
        (folder / "defects.csv").write_text(_as_csv(planted), encoding="utf-8", newline="\n")
    counts = {
        "FAQ rows": len(corpus.faq),
        "images": len(corpus.pictures),
        "recordings": len(corpus.clips),
        "joint items": len(corpus.joint),
        "planted defects": len(corpus.planted),
    }
    made = {"recipe": identity, "counts": counts, "tables": _table_digests(folder)}
    (folder / MADE).write_text(json.dumps(made, indent=1), encoding="utf-8")
    return counts


def _take_place(making: Path, folder: Path) -> None:
    """Put the finished folder where the old one was; a kill between leaves the finished one."""
    old = folder.parent / f".old-{folder.name}"
    shutil.rmtree(old, ignore_errors=True)
    with suppress(FileNotFoundError):
        folder.rename(old)
    making.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _made_of(folder: Path) -> dict[str, Any] | None:
    """Return the ``made.json`` of a demo corpus that nobody has changed; None for an empty folder.

    Raises: CorpusError if there is other data: it is not ours to replace.
    """
    if not any(folder.iterdir()):
        return None
    try:
        made = json.loads((folder / MADE).read_text("utf-8"))
        if made["tables"] == _table_digests(folder):
            return made
        what = "tables that were changed after they were made"
    except (OSError, ValueError, KeyError, TypeError):
        what = "files that were not made by lab data make"
    raise CorpusError(
        message(
            "a demo corpus may only replace a demo corpus",
            got=what,
            place=str(folder),
            remedy="move the folder away, or use --force to lose its content",
        )
    )


def _table_digests(folder: Path) -> dict[str, str]:
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in TABLES
        if (folder / name).is_file()
    }


def _append(corpus: _Corpus, file: str, table: list[Row], row: Row) -> None:
    """Add a row to its table; the mark of a defect goes to the list of what was planted."""
    mark = row.pop("_defect", None)
    table.append(row)
    if mark:
        kind, _, detail = mark.partition("|")
        corpus.planted.append(Defect(file, len(table), kind, detail))


def _as_json(rows: Sequence[Row]) -> str:
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    return f"[\n{lines}\n]\n"


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _rng(recipe: Recipe, what: str, number: int = 0) -> np.random.Generator:
    """Return the generator of one part, so that no part depends on another one's draws."""
    name = zlib.crc32(f"{recipe.tenant}/{what}".encode())
    return np.random.default_rng([recipe.seed, name, number])


def code_digest() -> str:
    """Return the digest of everything that shapes demo data: modules, grammars, engines."""
    folder = Path(__file__).parent
    digest = hashlib.sha256()
    modules = [
        folder / f"{name}.py" for name in ("defects", "drawing", "grammar", "synthesis", "voices")
    ]
    for path in [*modules, *sorted((folder / "grammars").glob("*.yaml"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    for package in ("espeakng-loader", "pyopenjtalk-plus", "qtawesome", "pillow", "numpy", "scipy"):
        with suppress(importlib.metadata.PackageNotFoundError):
            digest.update(f"{package}={importlib.metadata.version(package)}".encode())
    return digest.hexdigest()
