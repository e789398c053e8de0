"""lab.labels: images whose label disagrees with the pixels or with the other languages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from lab import labels
from lab.errors import PathError, ShapeError

LANGUAGES = ("en", "ja", "zh")
COLOURS = {
    (200, 40, 40): ("Red", "赤い", "红色"),
    (40, 90, 200): ("Blue", "青い", "蓝色"),
    (30, 150, 60): ("Green", "緑色の", "绿色"),
    (240, 210, 40): ("Yellow", "黄色い", "黄色"),
    (110, 60, 150): ("Purple", "紫色の", "紫色"),
}
SHAPES = {
    "ring": (("ring", "指輪", "戒指"), ("Jewellery", "宝飾品", "首饰")),
    "box": (("box", "箱", "盒子"), ("Storage", "収納", "收纳")),
    "kite": (("kite", "凧", "风筝"), ("Toys", "おもちゃ", "玩具")),
    "star": (("star", "星", "星星"), ("Toys", "おもちゃ", "玩具")),
}
KINDS = [(colour, shape) for colour in range(len(COLOURS)) for shape in range(len(SHAPES))]


@dataclass(frozen=True)
class Shop:
    """The files of a small corpus, and what each of them shows."""

    folder: Path
    paths: Sequence[str]
    kinds: Sequence[tuple[int, int]]

    def table(
        self, wrong: Mapping[int, tuple[tuple[int, int], Sequence[str]]] | None = None
    ) -> pd.DataFrame:
        """Label every image; ``wrong`` gives image -> (what its label says, in which languages)."""
        rows = []
        for number, (path, kind) in enumerate(zip(self.paths, self.kinds, strict=True)):
            said, spoiled = (wrong or {}).get(number, (kind, ()))
            for language in LANGUAGES:
                description, annotation = label(said if language in spoiled else kind, language)
                rows.append((path, description, language, annotation))
        frame = pd.DataFrame(rows, columns=["image_path", "description", "language", "annotation"])
        return frame.assign(row=range(1, len(frame) + 1), group="")


def label(kind: tuple[int, int], language: str) -> tuple[str, str]:
    at = LANGUAGES.index(language)
    colour = list(COLOURS.values())[kind[0]][at]
    name, category = (words[at] for words in list(SHAPES.values())[kind[1]])
    return (f"{colour} {name}" if language == "en" else colour + name), category


def row_of(image: int, language: str) -> int:
    return image * len(LANGUAGES) + LANGUAGES.index(language) + 1


def picture(
    kind: tuple[int, int],
    *,
    at: tuple[float, float] = (64, 64),
    size: float = 36,
    turn: float = 0.0,
    grey: int = 225,
) -> Image.Image:
    """Draw one object at four times the size and reduce it, so that its edge is smooth."""
    points = {
        "box": [(-1, -0.6), (1, -0.6), (1, 0.6), (-1, 0.6)],
        "kite": [(0, -1), (0.6, -0.3), (0, 1), (-0.6, -0.3)],
        "star": [
            (np.sin(k * np.pi / 5) * (1, 0.4)[k % 2], -np.cos(k * np.pi / 5) * (1, 0.4)[k % 2])
            for k in range(10)
        ],
    }
    shape, rgb = list(SHAPES)[kind[1]], list(COLOURS)[kind[0]]
    image = Image.new("RGB", (512, 512), (grey, grey, grey))
    draw = ImageDraw.Draw(image)
    x, y, side = 4 * at[0], 4 * at[1], 4 * size
    if shape == "ring":
        draw.ellipse((x - side, y - side, x + side, y + side), fill=rgb)
        hole = side * 0.6
        draw.ellipse((x - hole, y - hole, x + hole, y + hole), fill=(grey, grey, grey))
    else:
        cos, sin = np.cos(turn), np.sin(turn)
        corners = [
            (x + side * (a * cos - b * sin), y + side * (a * sin + b * cos))
            for a, b in points[shape]
        ]
        draw.polygon(corners, fill=rgb)
    return image.resize((128, 128), Image.Resampling.BOX)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Sixty images: each of 20 kinds three times, at different places, sizes and angles."""
    folder = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(5)
    kinds = [KINDS[at] for at in rng.permutation(3 * len(KINDS)) % len(KINDS)]
    paths = []
    for number, kind in enumerate(kinds):
        image = picture(
            kind,
            at=tuple(rng.uniform(52, 76, size=2)),
            size=rng.uniform(22, 40),
            turn=rng.uniform(-0.4, 0.4),
            grey=int(rng.integers(215, 245)),
        )
        noisy = np.asarray(image, dtype=float) + rng.normal(0, 3, size=(128, 128, 3))
        paths.append(f"{number}.jpg")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / paths[-1], quality=90)
    return Shop(folder, paths, kinds)


def other(kind: tuple[int, int], *, colour: int = 1, shape: int = 1) -> tuple[int, int]:
    return (kind[0] + colour) % len(COLOURS), (kind[1] + shape) % len(SHAPES)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_right_labels_are_not_suspect(shop: Shop, seed: int) -> None:
    found = labels.suspects(shop.table(), shop.folder, seed=seed)
    assert found.empty
    assert list(found.columns) == ["row", "score", "reason"]
    assert found.attrs["judged"] == 180
    assert found.attrs["notes"] == []
    assert min(found.attrs["power"].values()) > 0.8


def test_wrong_labels_are_found_and_nothing_else(shop: Shop) -> None:
    wrong = {
        4: (other(shop.kinds[4]), LANGUAGES),
        17: (other(shop.kinds[17], colour=2, shape=3), LANGUAGES),
        30: (other(shop.kinds[30]), ("zh",)),
        41: (other(shop.kinds[41], colour=3, shape=2), ("en",)),
    }
    found = labels.suspects(shop.table(wrong), shop.folder, seed=0)
    expected = {row_of(at, lang) for at, (_, spoiled) in wrong.items() for lang in spoiled}
    assert set(found["row"]) == expected
    assert len(found) == len(expected)
    assert (found["score"] > labels.SUSPECT).all()
    assert found["score"].is_monotonic_decreasing
    reasons = found.set_index("row")["reason"]
    assert reasons[row_of(4, "en")] == (
        "the label does not go with the image, judging by its colour and outline"
    )
    assert reasons[row_of(30, "zh")] == (
        "the label goes neither with the image nor with its labels in other languages"
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_wrong_colour_alone_is_found_in_any_language(shop: Shop, language: str) -> None:
    wrong = {9: (other(shop.kinds[9], shape=0), (language,))}
    found = labels.suspects(shop.table(wrong), shop.folder, seed=0)
    assert found["row"].tolist() == [row_of(9, language)]


def test_a_wrong_colour_in_all_languages_is_not_hidden_by_the_right_object(shop: Shop) -> None:
    wrong = {at: (other(shop.kinds[at], shape=0), LANGUAGES) for at in (3, 11, 24, 38, 52)}
    found = labels.suspects(shop.table(wrong), shop.folder, seed=0)
    assert set(found["row"]) == {row_of(at, name) for at in wrong for name in LANGUAGES}


def test_many_wrong_labels_do_not_hide_each_other(shop: Shop) -> None:
    wrong = {at: (other(shop.kinds[at], colour=1 + at % 4), LANGUAGES) for at in range(0, 60, 6)}
    found = labels.suspects(shop.table(wrong), shop.folder, seed=0)
    assert set(found["row"]) == {row_of(at, name) for at in wrong for name in LANGUAGES}


def test_without_pixels_the_languages_are_compared(shop: Shop, tmp_path: Path) -> None:
    wrong = {
        4: (other(shop.kinds[4]), LANGUAGES),
        30: (other(shop.kinds[30]), ("zh",)),
    }
    found = labels.suspects(shop.table(wrong), tmp_path, seed=0)
    assert found["row"].tolist() == [row_of(30, "zh")]
    assert found["reason"].tolist() == [
        "the label does not go with the image's labels in other languages"
    ]
    notes = found.attrs["notes"]
    assert notes[0].startswith("60 of 60 images cannot be read")
    assert sum("against the pixels: 0% of" in note for note in notes) == 3


def test_of_two_languages_without_pixels_both_are_suspect(shop: Shop, tmp_path: Path) -> None:
    table = shop.table({30: (other(shop.kinds[30]), ("zh",))})
    found = labels.suspects(table[table["language"] != "ja"], tmp_path, seed=0)
    assert set(found["row"]) == {row_of(30, "zh"), row_of(30, "en")}
    assert set(found["reason"]) == {
        "the label and another language's do not go together; which is wrong is open"
    }


def test_of_two_languages_the_pixels_decide(shop: Shop) -> None:
    table = shop.table({30: (other(shop.kinds[30]), ("zh",))})
    found = labels.suspects(table[table["language"] != "ja"], shop.folder, seed=0)
    assert found["row"].tolist() == [row_of(30, "zh")]


def test_one_language_is_held_against_the_pixels(shop: Shop) -> None:
    table = shop.table({30: (other(shop.kinds[30]), ("zh",))})
    found = labels.suspects(table[table["language"] == "zh"], shop.folder, seed=0)
    assert found["row"].tolist() == [row_of(30, "zh")]
    assert found.attrs["judged"] == 60


def test_missing_languages_are_no_finding(shop: Shop) -> None:
    table = shop.table({4: (other(shop.kinds[4]), LANGUAGES)})
    gone = [row_of(at, LANGUAGES[at % 3]) for at in range(0, 60, 4)]
    kept = table[~table["row"].isin(gone)]
    found = labels.suspects(kept, shop.folder, seed=0)
    assert set(found["row"]) == {row_of(4, name) for name in LANGUAGES} - set(gone)
    assert found.attrs["judged"] == len(kept)


def test_a_repeated_row_is_judged_for_itself(shop: Shop) -> None:
    table = shop.table()
    description, annotation = label(other(shop.kinds[7]), "zh")
    copy = table[table["row"] == row_of(7, "zh")].assign(
        row=999, description=description, annotation=annotation
    )
    found = labels.suspects(pd.concat([table, copy]), shop.folder, seed=0)
    assert found["row"].tolist() == [999]


@pytest.mark.parametrize("count", [0, 1, labels.LEAST_IMAGES - 1])
def test_too_few_images_are_not_judged(shop: Shop, count: int) -> None:
    table = shop.table({0: (other(shop.kinds[0]), LANGUAGES)}).head(3 * count)
    found = labels.suspects(table, shop.folder, seed=0)
    assert found.empty
    assert found.dtypes.astype(str).to_dict() == {
        "row": "int64",
        "score": "float64",
        "reason": "str",
    }
    assert found.attrs["judged"] == 0
    assert found.attrs["notes"] == [
        f"Labels were not checked: 30 images are needed, there are {count}."
    ]


def test_as_few_images_as_allowed_are_judged(shop: Shop) -> None:
    table = shop.table({0: (other(shop.kinds[0], colour=2), ("ja",))}).head(3 * labels.LEAST_IMAGES)
    found = labels.suspects(table, shop.folder, seed=0)
    assert found["row"].tolist() == [row_of(0, "ja")]


def test_labels_that_are_all_the_same_say_nothing(shop: Shop) -> None:
    table = shop.table().assign(description="Red ring", annotation="Toys")
    found = labels.suspects(table, shop.folder, seed=0)
    assert found.empty
    assert found.attrs["judged"] == 0
    assert len(found.attrs["notes"]) == 9  # 3 languages, each against the pixels and 2 others


def test_labels_that_are_all_different_say_nothing(shop: Shop) -> None:
    names = [hashlib.sha256(str(at).encode()).hexdigest() for at in range(180)]
    table = shop.table().assign(description=names, annotation=names)
    found = labels.suspects(table, shop.folder, seed=0)
    assert found.empty
    assert found.attrs["judged"] == 0


def test_labels_that_have_nothing_to_do_with_the_pixels_are_not_held_against_them(
    shop: Shop,
) -> None:
    order = np.random.default_rng(3).permutation(60)
    mixed = Shop(shop.folder, shop.paths, [shop.kinds[at] for at in order])
    found = labels.suspects(mixed.table(), shop.folder, seed=0)
    assert found.empty
    against_pixels = [power for (view, _), power in found.attrs["power"].items() if view == "image"]
    assert len(against_pixels) == 3
    assert max(against_pixels) < labels.LEAST_POWER
    assert found.attrs["judged"] == 180  # the languages do agree


def test_unreadable_images_are_counted_and_compared_across_languages(
    shop: Shop, tmp_path: Path
) -> None:
    for path in shop.paths:
        (tmp_path / path).write_bytes((shop.folder / path).read_bytes())
    whole = (tmp_path / "4.jpg").read_bytes()
    (tmp_path / "4.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "5.jpg").write_bytes(b"no image at all")
    (tmp_path / "6.jpg").unlink()
    Image.new("RGB", (128, 128), (90, 90, 90)).save(tmp_path / "7.jpg")  # nothing stands out
    wrong = {at: (other(shop.kinds[at]), ("zh",)) for at in (4, 6)}
    found = labels.suspects(shop.table(wrong), tmp_path, seed=0)
    assert set(found["row"]) == {row_of(4, "zh"), row_of(6, "zh")}
    assert found.attrs["notes"] == [
        "4 of 60 images cannot be read or nothing stands out in them: "
        "their labels were compared across languages only."
    ]


def test_a_path_out_of_the_folder_is_refused(shop: Shop) -> None:
    table = shop.table().replace({"image_path": {"3.jpg": "../3.jpg"}})
    with pytest.raises(PathError, match=r"must not contain \.\."):
        labels.suspects(table, shop.folder, seed=0)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ShapeError, match=r"none named annotation, row|none named row, annotation"):
        labels.suspects(
            pd.DataFrame({"image_path": [], "description": [], "language": []}), Path(), seed=0
        )


def test_same_seed_same_answer_and_the_table_is_left_alone(shop: Shop) -> None:
    table = shop.table({4: (other(shop.kinds[4]), LANGUAGES)})
    before = table.copy(deep=True)
    first = labels.suspects(table, shop.folder, seed=3)
    again = labels.suspects(table, lambda path: shop.folder / path, seed=3)
    pd.testing.assert_frame_equal(first, again)
    assert first.attrs == again.attrs
    pd.testing.assert_frame_equal(table, before)


def test_reasons_hold_no_text_of_the_tenant(shop: Shop) -> None:
    table = shop.table({4: (other(shop.kinds[4]), LANGUAGES)})
    table["description"] = table["description"] + " <script>alert(1)</script>"
    found = labels.suspects(table, shop.folder, seed=0)
    assert len(found) == 3
    assert not found["reason"].str.contains("script").any()


def test_progress_reaches_its_end(shop: Shop) -> None:
    heard: list[tuple[str, int, int]] = []
    labels.suspects(shop.table(), shop.folder, seed=0, progress=lambda *step: heard.append(step))
    assert heard[0] == ("looking at images", 0, 60)
    assert ("looking at images", 60, 60) in heard
    assert heard[-1] == ("comparing labels", 1, 1)


def test_many_images_are_judged_in_parts(shop: Shop) -> None:
    count = 1560
    many = Shop(
        shop.folder,
        [f"{at}.jpg" for at in range(count)],
        [shop.kinds[at % 60] for at in range(count)],
    )
    wrong = {at: (other(many.kinds[at]), LANGUAGES) for at in (3, 777, 1500)}
    table = many.table(wrong)
    heard: list[tuple[str, int, int]] = []
    found = labels.suspects(
        table,
        lambda path: shop.folder / f"{int(path.removesuffix('.jpg')) % 60}.jpg",
        seed=0,
        progress=lambda *step: heard.append(step),
    )
    assert set(found["row"]) == {row_of(at, name) for at in wrong for name in LANGUAGES}
    assert heard[-1] == ("comparing labels", 2, 2)
    assert found.attrs["judged"] == len(table)


# --- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ("Red T-shirt", {"red", "t", "shirt"}),
        ("红色T恤", {"红", "色", "红色", "t", "恤"}),
        ("赤いドレス", {"赤", "い", "ド", "レ", "ス", "赤い", "いド", "ドレ", "レス"}),
        ("ﾄﾞﾚｽ", {"ド", "レ", "ス", "ドレ", "レス"}),  # half width
        ("ＲＥＤ", {"red"}),  # full width
        ("Straße 12_x", {"strasse", "x"}),
        ("", set()),
        ("!? 12", set()),
        ("漢", {"漢"}),
    ],
)
def test_words_by_hand(description: str, words: set[str]) -> None:
    assert labels.words_of(description, "服") == words | {"annotation 服"}


# --- judge ---------------------------------------------------------------------------------------


def test_labels_that_go_together_by_chance_only_have_no_power() -> None:
    rng = np.random.default_rng(0)
    words = {
        name: [labels.words_of(str(colour), "") for colour in rng.choice(list("abcdef"), 200)]
        for name in ("en", "zh")
    }
    verdicts = labels.judge(words, [None] * 200, seed=0)
    assert not verdicts.score.any()
    assert max(verdicts.power.values()) < labels.LEAST_POWER
    assert not verdicts.judged.any()


def test_a_view_that_would_miss_most_errors_is_not_used() -> None:
    # Of two labels at random, 1 - 0.8**2 - 0.2**2 = 32 % differ: no more can be noticed.
    kinds = np.arange(100) % 5 == 0
    words = {
        "en": [labels.words_of("blue" if kind else "red", "") for kind in kinds],
        "zh": [labels.words_of("蓝" if kind else "红", "") for kind in kinds],
    }
    words["zh"][7] = labels.words_of("蓝", "")
    verdicts = labels.judge(words, [None] * 100, seed=0)
    assert 0.1 < max(verdicts.power.values()) < 0.35
    assert not verdicts.score.any()
    assert not verdicts.judged.any()


@pytest.mark.parametrize(("images", "languages"), [(0, 2), (3, 0), (0, 0)])
def test_nothing_to_judge(images: int, languages: int) -> None:
    words = {name: [None] * images for name in LANGUAGES[:languages]}
    verdicts = labels.judge(words, [None] * images, seed=0)
    assert verdicts.score.shape == (images, languages)
    assert not verdicts.judged.any()
    assert verdicts.undecided.shape == (images,)


def test_lengths_must_agree() -> None:
    with pytest.raises(ShapeError, match="there must be 3 labels in each language, got '2'"):
        labels.judge({"en": [None, None]}, [None, None, None], seed=0)


# --- look ----------------------------------------------------------------------------------------


def seen(image: Image.Image) -> labels.Look:
    look = labels.look(image)
    assert look is not None
    return look


def test_colour_is_cielab() -> None:
    image = Image.new("RGB", (192, 192), (255, 255, 255))
    image.paste((255, 0, 0), (60, 60, 132, 132))
    colour = seen(image).colour
    # sRGB red under D65, as tabulated by Lindbloom.
    assert colour[:3] == pytest.approx([53.24, 80.09, 67.20], abs=0.05)
    assert colour[3:6] == pytest.approx(colour[:3])
    assert colour[6:] == pytest.approx(colour[:3], abs=0.5)


@pytest.mark.parametrize("shape", range(len(SHAPES)))
@pytest.mark.parametrize(
    "change",
    [
        lambda kind: picture(kind, at=(50, 70)),
        lambda kind: picture(kind, size=24),
        lambda kind: picture(kind, turn=1.0),
        lambda kind: picture(kind, turn=0.5).transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda kind: picture((1, kind[1]), grey=180),
    ],
    ids=["moved", "smaller", "turned", "mirrored", "other colour"],
)
def test_outline_is_nearer_to_the_same_shape_than_to_any_other(
    shape: int, change: Callable[[tuple[int, int]], Image.Image]
) -> None:
    changed = seen(change((0, shape))).outline
    distances = [
        np.linalg.norm(seen(picture((0, at))).outline - changed) for at in range(len(SHAPES))
    ]
    assert int(np.argmin(distances)) == shape
    assert sorted(distances)[0] < 0.5 * sorted(distances)[1]


def test_a_gradient_behind_the_object_is_background() -> None:
    ramp = np.linspace(150, 240, 128).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(ramp[None, :, None], (128, 128, 3)).copy())
    ImageDraw.Draw(image).ellipse((44, 44, 84, 84), fill=(30, 90, 200))
    plain = Image.new("RGB", (128, 128), (195, 195, 195))
    ImageDraw.Draw(plain).ellipse((44, 44, 84, 84), fill=(30, 90, 200))
    assert seen(image).colour[:3] == pytest.approx(seen(plain).colour[:3], abs=0.1)
    assert np.abs(seen(image).outline - seen(plain).outline).max() < 0.03


@pytest.mark.parametrize("size", [(1, 1), (96, 96), (512, 512)])
def test_nothing_stands_out_of_a_flat_image(size: tuple[int, int]) -> None:
    assert labels.look(Image.new("RGB", size, (120, 130, 140))) is None


def test_grey_and_palette_images_are_seen() -> None:
    image = picture((0, 1))
    assert labels.look(image.convert("L")) is not None
    assert labels.look(image.convert("P")) is not None
