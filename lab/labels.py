"""Which images have a label that disagrees with their pixels or with their other languages.

Owns what is seen of an image (the colour and the outline of what stands out), what is read from a
label (its words), and the rule by which the two are held against each other. All of it is learnt
from the tenant's own images: no pretrained model, no dictionary, no list of colours or objects.
Knows nothing of how a table is loaded or judged.

From every view of an image (its colour, its outline, its label in each other language) the words
of its label are predicted by kernel ridge regression that has not seen this image. Words that are
predicted no better than shuffled ones are left out; for the rest one logistic curve per view turns
predictions into probabilities. The evidence against a label is how much less likely than usual the
view makes its words and the absence of others (logarithms, in nats; words that occur together share
one vote, and what the view makes likelier counts half, so that a right object does not hide a wrong
colour). Which languages are wrong is the explanation with the most evidence, and nothing below
``SUSPECT`` is reported. A second round learns without the labels that the first one doubted.

Limits: it sees one thing before a calm background, not a scene. A word that no other image has can
be held against nothing: if nearly every object occurs once, as in a small corpus, a wrong object
in the right colour is often missed (about a third of a hundred images, nearly none of a thousand).
Labels that are wrong in the same way everywhere look right.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lab.errors import ShapeError, message
from lab.media import MediaError, open_regular
from lab.tenants import contained

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

Progress = Callable[[str, int, int], None]  # (stage, done, total)
Words = frozenset[str]

RULE = (
    "an image whose description and annotation fit its colour, its outline or its other languages "
    "worse than chance would, as learnt from all images of the tenant"
)
LEAST_IMAGES = 30  # fewer teach nothing
LEAST_POWER = 0.5  # share of exchanged labels that a view would notice; below, it is not used
SUSPECT = 3.0  # nats of evidence from which a label is suspect

_DOUBTED = 1.0  # nats from which a label teaches nothing in the second round
_AGREEMENT = 0.5  # weight of words that fit, against those that do not: one wrong word is enough
_STRONGEST = 6.0  # nats that one view may give for or against
_CLOSE = 1.0  # nats within which two explanations are equally good
_SAID = 0.5  # nats from which a view is named in the reason

_TOGETHER = 1500  # images judged at a time: bounds the memory and makes the time linear
_MOST_WORDS = 1000  # of a language, the most frequent ones
_BANDWIDTH = 0.2  # of the kernels on pixels, in median distances
_RIDGE = 1.0
_CHANCE = 0.99  # quantile of the R2 of shuffled words that a word must exceed
_LEAST_R2 = 0.05
_EDGE = 1e-3  # no probability comes closer to 0 or 1

_SIDE = 96  # pixels that an image is reduced to
_RING = 0.9  # further out than this share of the half side there is background
_RADII, _ANGLES, _WAVES = 12, 64, 13  # of the outline in polar coordinates
_REACH = 2.1  # their outermost circle, in root mean square radii of the outline

_RUN = re.compile(r"[^\W\d_]+")
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+)")  # kana and Han


@dataclass(frozen=True)
class Look:
    """What is seen of one image.

    colour: (9,) CIELAB of what stands out: its median, the median of its core, its mean.
    outline: (156,) waves of its outline around its centre; place, size, turn and mirroring do not
        change them.
    """

    colour: np.ndarray
    outline: np.ndarray


@dataclass(frozen=True)
class Verdicts:
    """What was found out about the labels of n images in L languages.

    score: (n, L) nats of evidence that this label is wrong; 0 where it is not suspect.
    by_image, by_languages: (n, L) evidence from the pixels, and the mean from the languages that
        are not suspect; 0 where there is none.
    undecided: (n,) bool, two labels contradict each other and nothing tells which is wrong.
    judged: (n, L) bool, there was something that this label could be held against.
    power: (view, language) -> share of labels that the view would notice if each were exchanged
        for any other one; the view is ``image`` or another language.
    """

    score: np.ndarray
    by_image: np.ndarray
    by_languages: np.ndarray
    undecided: np.ndarray
    judged: np.ndarray
    power: Mapping[tuple[str, str], float]


def suspects(
    images: pd.DataFrame,
    media: Callable[[str], Path] | Path,
    *,
    seed: int,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """List the rows whose label goes neither with the image nor with its other languages.

    Args:
        images: one row per image and language with the columns row, image_path, description,
            language, annotation; other columns are not looked at. If an image has a language
            twice, each row is judged.
        media: turns an ``image_path`` into a path, or is the folder that it is relative to. The
            corpus has held the files against its caps before.
        seed: of the shuffled words that show what chance can do.
        progress: called with (stage, done, total).
    Returns: columns row, score (nats, higher is worse), reason; the worst first. Its ``attrs``
        hold ``judged``, the rows that could be held against something; ``power``, as in Verdicts;
        and ``notes``, what limits the findings, in sentences.
    Raises: ShapeError without one of the columns; PathError if an image_path leads out of the
        folder. A file that cannot be read is counted in the notes.
    """
    needed = ("row", "image_path", "description", "language", "annotation")
    absent = [name for name in needed if name not in images.columns]
    if absent:
        rule = f"the table of images must have the columns {', '.join(needed)}"
        raise ShapeError(message(rule, got=f"none named {', '.join(absent)}"))
    progress = progress or (lambda stage, done, total: None)
    paths, items = _items(images)
    if len(items) < LEAST_IMAGES:
        note = f"Labels were not checked: {LEAST_IMAGES} images are needed, there are {len(items)}."
        return _frame([], judged=0, power={}, notes=[note])
    looks = _look_at_all(paths, media, progress)
    unseen = sum(seen is None for seen in looks)
    notes = []
    if unseen:
        notes.append(
            f"{unseen} of {len(looks)} images cannot be read or nothing stands out in them: "
            "their labels were compared across languages only."
        )
    languages = sorted(set(images["language"]))
    labels = list(zip(images["description"], images["annotation"], strict=True))
    rows = images["row"].tolist()
    found, judged, powers = [], 0, defaultdict(list)
    blocks = _blocks(len(items), seed)
    for done, block in enumerate(blocks):
        progress("comparing labels", done, len(blocks))
        words = {
            name: [
                words_of(*labels[items[at][name]]) if name in items[at] else None for at in block
            ]
            for name in languages
        }
        verdicts = judge(words, [looks[at] for at in block], seed=seed)
        judged += int(verdicts.judged.sum())
        for pair, power in verdicts.power.items():
            powers[pair].append(power)
        for at, column in zip(*np.nonzero(verdicts.score), strict=True):
            row = rows[items[block[at]][languages[column]]]
            found.append((row, float(verdicts.score[at, column]), _reason(verdicts, at, column)))
    progress("comparing labels", len(blocks), len(blocks))
    power = {pair: float(np.mean(values)) for pair, values in powers.items()}
    return _frame(found, judged=judged, power=power, notes=notes + _limits(power))


def judge(
    words: Mapping[str, Sequence[Words | None]], looks: Sequence[Look | None], *, seed: int
) -> Verdicts:
    """Hold the labels of n images against what is seen of them and against each other.

    Args:
        words: language -> (n,) words of the label, None where there is none.
        looks: (n,) None where the image cannot be seen.
        seed: of the shuffled words.
    Raises: ShapeError if the lengths differ.
    """
    n, languages = len(looks), list(words)
    if any(len(labels) != n for labels in words.values()):
        got = ", ".join(str(len(labels)) for labels in words.values())
        raise ShapeError(message(f"there must be {n} labels in each language", got=got))
    there = np.zeros((n, len(languages)), dtype=bool)
    for column, name in enumerate(languages):
        there[:, column] = [label is not None for label in words[name]]
    seen = np.array([one is not None for one in looks], dtype=bool)
    tables = [_table(words[name]) for name in languages]
    colours = _pixel_kernel([one.colour for one in looks if one], seen)
    outlines = _pixel_kernel([one.outline for one in looks if one], seen)
    of_labels = [_label_kernel(table) for table in tables]
    trusted = there
    for _ in range(2):
        rng = np.random.default_rng(seed)
        image = _View((colours, outlines))
        labels = [_View((kernel,)) for kernel in of_labels]
        power = {}
        by_image = np.zeros((n, len(languages)))
        between = np.zeros((n, len(languages), len(languages)))
        for to, name in enumerate(languages):
            by_image[:, to], power["image", name] = _evidence(
                image, tables[to], there=seen & there[:, to], train=trusted[:, to], rng=rng
            )
            for source, other in enumerate(languages):
                if source != to:
                    both = there[:, source] & there[:, to]
                    against, power[other, name] = _evidence(
                        labels[source],
                        tables[to],
                        there=both,
                        train=trusted[:, source] & trusted[:, to],
                        rng=rng,
                    )
                    between[:, source, to] += against / 2
                    between[:, to, source] += against / 2
        score, by_languages, undecided = _explain(by_image, between, there)
        before, trusted = trusted, there & (score < _DOUBTED)
        if (before == trusted).all():
            break
    suspect = score > SUSPECT
    return Verdicts(
        score=np.where(suspect, score, 0.0),
        by_image=by_image,
        by_languages=by_languages,
        undecided=undecided & suspect.any(axis=1),
        judged=_judged(there, seen, power, languages),
        power=power,
    )


def words_of(description: str, annotation: str) -> Words:
    """Return what stands for the words of a label.

    Runs of letters, folded; of kana and Han, which are written without spaces, each character and
    each pair of neighbours. The annotation counts as one word of its own.
    """
    text = unicodedata.normalize("NFKC", description).casefold()
    found = {f"annotation {annotation}"}
    for run in _RUN.findall(text):
        for part in _UNSPACED.split(run):
            if _UNSPACED.fullmatch(part):
                found.update(part)
                found.update(part[at : at + 2] for at in range(len(part) - 1))
            elif part:
                found.add(part)
    return frozenset(found)


def look(image: Image.Image) -> Look | None:
    """See what stands out of an image; None if nothing does.

    The background is a smooth surface fitted to the edge of the image, then to all that does not
    stand out from it; what is far from it in CIELAB (Otsu's threshold) stands out.
    """
    from PIL import Image

    small = image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    pixels = _lab(np.asarray(small)).reshape(-1, 3)  # (p, 3)
    distance = _far_from(pixels, _SMOOTH[:, _SQUARES], _AT_EDGE)
    stands_out = distance > _otsu(distance)
    if stands_out.all() or not stands_out.any():
        return None
    distance = _far_from(pixels, _SMOOTH, ~stands_out)
    stands_out = distance > _otsu(distance)
    if not stands_out.any() or distance.max() < 1:  # one unit is about the least the eye can see
        return None
    inside, far = pixels[stands_out], distance[stands_out]
    core = inside[far >= np.median(far)]
    colour = np.concatenate([np.median(inside, axis=0), np.median(core, axis=0), inside.mean(0)])
    return Look(colour, _waves(stands_out.reshape(_SIDE, _SIDE)))


# --- the table -----------------------------------------------------------------------------------


def _items(images: pd.DataFrame) -> tuple[list[str], list[dict[str, int]]]:
    """Return the path of each image and its rows by language; a repeated row begins another one."""
    times: Counter[tuple[str, str]] = Counter()
    found: dict[tuple[str, int], dict[str, int]] = {}
    for at, (path, language) in enumerate(
        zip(images["image_path"], images["language"], strict=True)
    ):
        found.setdefault((path, times[path, language]), {})[language] = at
        times[path, language] += 1
    return [path for path, _ in found], list(found.values())


def _look_at_all(
    paths: Sequence[str], media: Callable[[str], Path] | Path, progress: Progress
) -> list[Look | None]:
    places = [contained(media, path) if isinstance(media, Path) else media(path) for path in paths]
    known: dict[Path, Look | None] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd EXIF data, which is not used
        for done, place in enumerate(places):
            progress("looking at images", done, len(places))
            if place not in known:
                known[place] = _look_at(place)
    progress("looking at images", len(places), len(places))
    return [known[place] for place in places]


def _look_at(path: Path) -> Look | None:
    from PIL import Image
    from PIL.JpegImagePlugin import JpegImageFile

    try:
        with open_regular(path) as file, JpegImageFile(file) as image:
            image.draft("RGB", (_SIDE, _SIDE))  # decodes a quarter or an eighth of the pixels
            return look(image)
    except (MediaError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _blocks(count: int, seed: int) -> list[list[int]]:
    """Share the items out at random, in as few parts of at most ``_TOGETHER`` as there can be."""
    order = np.random.default_rng(seed).permutation(count)
    return [sorted(part.tolist()) for part in np.array_split(order, -(-count // _TOGETHER))]


def _frame(
    found: Iterable[tuple[int, float, str]],
    *,
    judged: int,
    power: Mapping[tuple[str, str], float],
    notes: Sequence[str],
) -> pd.DataFrame:
    import pandas as pd

    worst_first = sorted(found, key=lambda one: (-one[1], one[0]))
    frame = pd.DataFrame(
        {
            "row": np.array([row for row, _, _ in worst_first], dtype=np.int64),
            "score": np.array([score for _, score, _ in worst_first], dtype=np.float64),
            "reason": pd.Series([reason for _, _, reason in worst_first], dtype="str"),
        }
    )
    frame.attrs = {"judged": judged, "power": dict(power), "notes": list(notes)}
    return frame


def _reason(verdicts: Verdicts, at: int, column: int) -> str:
    if verdicts.undecided[at]:
        return "the label and another language's do not go together; which is wrong is open"
    image = verdicts.by_image[at, column] > _SAID
    languages = verdicts.by_languages[at, column] > _SAID
    if image and languages:
        return "the label goes neither with the image nor with its labels in other languages"
    if languages:
        return "the label does not go with the image's labels in other languages"
    return "the label does not go with the image, judging by its colour and outline"


def _limits(power: Mapping[tuple[str, str], float]) -> list[str]:
    """Say what could not be judged."""
    notes = []
    for (view, language), share in sorted(power.items()):
        if share < LEAST_POWER:
            what = "the pixels" if view == "image" else f"labels in {view}"
            notes.append(
                f"Not enough data to hold labels in {language} against {what}: {share:.0%} of "
                f"exchanged labels would be noticed, and {LEAST_POWER:.0%} are needed."
            )
    return notes


# --- evidence ------------------------------------------------------------------------------------


def _table(labels: Sequence[Words | None]) -> np.ndarray:
    """Return (n, words) of 0 and 1; words that always occur together are one column."""
    counts = Counter(word for label in labels if label for word in label)
    usual = sorted(
        (word for word, count in counts.items() if count > 1), key=lambda w: (-counts[w], w)
    )
    place = {word: at for at, word in enumerate(usual[:_MOST_WORDS])}
    table = np.zeros((len(labels), len(place)), dtype=np.float32)
    for at, label in enumerate(labels):
        table[at, [place[word] for word in label or () if word in place]] = 1
    return np.unique(table, axis=1) if table.size else table


def _pixel_kernel(features: Sequence[np.ndarray], seen: np.ndarray) -> np.ndarray:
    """Return (n, n), Gaussian in the distance of the features; 0 where an image is not seen."""
    from scipy.spatial.distance import cdist

    kernel = np.zeros((len(seen), len(seen)), dtype=np.float32)
    if len(features) > 1:
        values = np.array(features)
        distance = cdist(values, values)
        usual = np.median(distance[np.triu_indices(len(values), 1)])
        width = _BANDWIDTH * (usual if usual > 0 else 1.0)
        kernel[np.ix_(seen, seen)] = np.exp(-0.5 * (distance / width) ** 2)
    return kernel


def _label_kernel(table: np.ndarray) -> np.ndarray:
    """Return (n, n), cosines of the labels; a rare word weighs more."""
    weighed = table * np.log(len(table) / np.maximum(table.sum(axis=0), 1))
    length = np.linalg.norm(weighed, axis=1, keepdims=True)
    weighed /= np.where(length > 0, length, 1)
    return weighed @ weighed.T


class _View:
    """Kernels (n, n) of one view, and what turns targets into predictions, made once."""

    def __init__(self, kernels: Sequence[np.ndarray]) -> None:
        self._kernels = kernels
        self._known: dict[bytes, list[np.ndarray]] = {}

    def hats(self, train: np.ndarray) -> list[np.ndarray]:
        """Return one hat (n, n) per kernel, learnt from ``train``, positions."""
        key = train.tobytes()
        if key not in self._known:
            self._known[key] = [_hat(kernel, train) for kernel in self._kernels]
        return self._known[key]


def _evidence(
    view: _View,
    table: np.ndarray,
    *,
    there: np.ndarray,
    train: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, float]:
    """Return how much less likely a view makes each label, nats (n,), and the view's power.

    Args:
        view: every word is predicted from the one of its kernels that predicts it best.
        table: (n, words).
        there: (n,) bool, the view and the label are there.
        train: (n,) bool, what may be learnt from.
        rng: shuffles the labels.
    """
    nothing = np.zeros(len(table)), 0.0
    train = np.flatnonzero(train & there)
    count = table[train].sum(axis=0)
    table = table[:, (count >= 2) & (count <= len(train) - 2)]
    if there.sum() < LEAST_IMAGES or table.shape[1] == 0:
        return nothing
    share = table[train].mean(axis=0)
    centred = table - share
    shuffled = centred.copy()
    shuffled[train] = centred[rng.permutation(train)]
    r2, chance, predicted = [], [], []
    for hat in view.hats(train):
        predicted.append(hat @ centred)
        r2.append(_r2(centred[train], predicted[-1][train]))
        chance.append(_r2(shuffled[train], (hat @ shuffled)[train]))
    best = np.argmax(r2, axis=0)
    kept = np.max(r2, axis=0) > max(np.quantile(np.max(chance, axis=0), _CHANCE), _LEAST_R2)
    if not kept.any():
        return nothing
    columns = np.arange(table.shape[1])[kept]
    table, share = table[:, kept], share[kept]
    raw = np.stack(predicted)[best[kept], :, columns].T + share  # (n, words)
    likely = _probability(raw, table, train, share)
    votes = 1 / (np.corrcoef(table[train].T).reshape(len(share), -1) ** 2).sum(axis=0)
    present = votes * _against(likely, share)
    missing = votes * _against(1 - likely, 1 - share)
    of_any = present @ table.T - missing @ table.T + missing.sum(axis=1, keepdims=True)
    others = of_any[np.ix_(train, train)][~np.eye(len(train), dtype=bool)]
    power = float((others > SUSPECT).mean())
    if power < LEAST_POWER:
        return nothing[0], power
    own = np.clip(np.diag(of_any), -_STRONGEST, _STRONGEST)
    return np.where(there, own, 0.0), power


def _against(likely: np.ndarray, usual: np.ndarray) -> np.ndarray:
    """Return how much less likely than usual something is, nats; what is likelier counts half."""
    nats = np.log(usual / likely)
    return np.where(nats > 0, nats, _AGREEMENT * nats)


def _hat(kernel: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return (n, n) that turns targets into ridge predictions; no row has learnt from itself.

    For what was learnt from, the prediction without it follows from the inverse in closed form.
    """
    inner = kernel[np.ix_(train, train)] + _RIDGE * np.eye(len(train), dtype=kernel.dtype)
    inverse = np.linalg.inv(inner)
    hat = np.zeros_like(kernel)
    hat[:, train] = kernel[:, train] @ inverse
    without = -inverse / np.diag(inverse)[:, None]
    np.fill_diagonal(without, 0)
    hat[np.ix_(train, train)] = without
    return hat


def _r2(wanted: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return 1 - ((wanted - predicted) ** 2).mean(axis=0) / wanted.var(axis=0)


def _probability(
    raw: np.ndarray, table: np.ndarray, train: np.ndarray, share: np.ndarray
) -> np.ndarray:
    """Return probabilities (n, words) from predictions: one logistic curve for all words.

    Three parameters (offset, prediction, how usual the word is), by Newton's method with a weak
    pull towards the curve that adds the prediction to the log odds of the word.
    """
    from scipy.special import expit, logit

    known = np.stack(np.broadcast_arrays(1.0, raw, logit(share)), axis=-1)  # (n, words, 3)
    inputs, wanted = known[train].reshape(-1, 3), table[train].ravel()
    start, pull = np.array([0.0, 1.0, 1.0]), 0.1
    curve = start
    for _ in range(30):
        likely = expit(inputs @ curve)
        curvature = (inputs * (likely * (1 - likely))[:, None]).T @ inputs + pull * np.eye(3)
        step = np.linalg.solve(curvature, inputs.T @ (wanted - likely) - pull * (curve - start))
        curve = curve + np.clip(step, -2, 2)  # a full step can overshoot where classes separate
        if np.abs(step).max() < 1e-5:
            break
    return np.clip(expit(known @ curve), _EDGE, 1 - _EDGE)


def _explain(
    by_image: np.ndarray, between: np.ndarray, there: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find which languages of each image are wrong, if any.

    An explanation is a set of languages: each disagrees with the image, and with each language
    outside. The one with the largest sum of evidence is taken, of equally good ones the smallest;
    if there are several of that size, all. Its score is a mean, since views repeat each other.

    Args:
        by_image: (n, L) evidence.
        between: (n, L, L) evidence, symmetric.
        there: (n, L) bool.
    Returns: score (n, L), 0 for languages that are right; evidence from the right languages
        (n, L); undecided (n,) bool.
    """
    n, count = there.shape
    sets = [s for size in range(1, count + 1) for s in combinations(range(count), size)]
    totals, means = np.full((n, len(sets)), -np.inf), np.zeros((n, len(sets)))
    across = np.zeros((n, len(sets), count))
    for at, wrong in enumerate(sets):
        right = [one for one in range(count) if one not in wrong]
        pairs = np.maximum(there[:, right].sum(axis=1), 1)
        across[:, at, wrong] = between[:, wrong][:, :, right].sum(axis=2) / pairs[:, None]
        whole = there[:, wrong].all(axis=1)
        from_image = by_image[:, wrong]
        from_others = across[:, at, wrong]
        totals[whole, at] = (from_image + from_others * pairs[:, None]).sum(axis=1)[whole]
        means[:, at] = from_image.mean(axis=1) + from_others.mean(axis=1)
    sizes = np.array([len(s) for s in sets])
    best = totals.max(axis=1, initial=-np.inf)
    close = totals >= np.where(best > 0, best - _CLOSE, np.inf)[:, None]
    smallest = np.where(close, sizes, count + 1).min(axis=1, initial=count + 1)
    chosen = close & (sizes == smallest[:, None])
    score, by_languages = np.zeros((n, count)), np.zeros((n, count))
    for at, wrong in enumerate(sets):
        for one in wrong:
            worse = chosen[:, at] & (means[:, at] > score[:, one])
            score[worse, one] = means[worse, at]
            by_languages[worse, one] = across[worse, at, one]
    return score, by_languages, chosen.sum(axis=1) > 1


def _judged(
    there: np.ndarray,
    seen: np.ndarray,
    power: Mapping[tuple[str, str], float],
    languages: Sequence[str],
) -> np.ndarray:
    judged = np.zeros_like(there)
    for (view, name), share in power.items():
        if share >= LEAST_POWER:
            to = languages.index(name)
            judged[:, to] |= seen if view == "image" else there[:, languages.index(view)]
    return judged & there


# --- seeing --------------------------------------------------------------------------------------

_X, _Y = (axis.ravel() for axis in np.meshgrid(*[np.linspace(-1, 1, _SIDE)] * 2))
_POWERS = [(i, j) for i in range(4) for j in range(4 - i)]
_SMOOTH = np.stack([_X**i * _Y**j for i, j in _POWERS], axis=1).astype(np.float32)  # (p, 10)
_SQUARES = [at for at, (i, j) in enumerate(_POWERS) if i + j <= 2]
_AT_EDGE = np.maximum(np.abs(_X), np.abs(_Y)) > _RING
_LEVELS = np.arange(256) / 255
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4).astype(
    np.float32
)
_XYZ = np.array(  # of linear sRGB, over the white point D65
    [
        [0.4124564 / 0.95047, 0.3575761 / 0.95047, 0.1804375 / 0.95047],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339 / 1.08883, 0.1191920 / 1.08883, 0.9503041 / 1.08883],
    ],
    dtype=np.float32,
)


def _lab(rgb: np.ndarray) -> np.ndarray:
    """Return CIELAB (h, w, 3) float32 of sRGB (h, w, 3) uint8."""
    xyz = _LINEAR[rgb] @ _XYZ.T
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _far_from(pixels: np.ndarray, surface: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return how far each pixel is from a surface fitted to the known ones: (p,)."""
    fit, *_ = np.linalg.lstsq(surface[known], pixels[known], rcond=None)
    return np.linalg.norm(pixels - surface @ fit, axis=1)


def _otsu(values: np.ndarray) -> float:
    """Return the threshold that parts values (p,) best into two classes (Otsu 1979)."""
    counts, edges = np.histogram(values, 64)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    sums = np.cumsum(counts * centres)
    total = counts.sum()
    spread = (sums[-1] * below / total - sums[:-1]) ** 2
    sizes = below * (total - below)
    between = np.divide(spread, sizes, out=np.zeros(len(sizes)), where=sizes > 0)
    # Across an empty gap all thresholds are equally good: take the middle.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    return float(edges[int(best.mean()) + 1])


def _waves(mask: np.ndarray) -> np.ndarray:
    """Return the amplitudes of the waves on circles around the centre: (radii * waves,)."""
    ys, xs = np.nonzero(mask)
    y, x = ys.mean(), xs.mean()
    radius = max(float(np.sqrt(((ys - y) ** 2 + (xs - x) ** 2).mean())), 1.0)
    circles = (np.arange(_RADII)[:, None] + 0.5) / _RADII * _REACH * radius
    angles = np.arange(_ANGLES) / _ANGLES * 2 * np.pi
    rows = np.rint(y + circles * np.sin(angles)).astype(int)
    columns = np.rint(x + circles * np.cos(angles)).astype(int)
    inside = (np.minimum(rows, columns) >= 0) & (np.maximum(rows, columns) < _SIDE)
    polar = inside & mask[rows.clip(0, _SIDE - 1), columns.clip(0, _SIDE - 1)]
    return np.abs(np.fft.rfft(polar, axis=1))[:, :_WAVES].ravel() / _ANGLES
