from __future__ import annotations

import numpy as np

from lab.pairing import odd_ones, words_of

COLOURS = [
    ("红色", "Red", "赤い"),
    ("蓝色", "Blue", "青い"),
    ("绿色", "Green", "緑色の"),
    ("黑色", "Black", "黒い"),
]
OBJECTS = [
    ("连衣裙", "dress", "ドレス", ("服装类", "Clothing", "服")),
    ("衬衫", "shirt", "シャツ", ("服装类", "Clothing", "服")),
    ("台灯", "lamp", "ランプ", ("家居类", "Home", "家具")),
    ("雨伞", "umbrella", "傘", ("家居类", "Home", "家具")),
    ("相机", "camera", "カメラ", ("电子类", "Electronics", "家電")),
]
LANGUAGES = ("zh", "en", "ja")


def items(n, seed=0):
    rng = np.random.default_rng(seed)
    drawn = [(int(rng.integers(len(OBJECTS))), int(rng.integers(len(COLOURS)))) for _ in range(n)]
    texts = {
        name: [
            COLOURS[colour][at] + (" " if name == "en" else "") + OBJECTS[thing][at]
            for thing, colour in drawn
        ]
        for at, name in enumerate(LANGUAGES)
    }
    classes = {
        name: [OBJECTS[thing][3][at] for thing, _ in drawn] for at, name in enumerate(LANGUAGES)
    }
    return texts, classes


def marked(texts, classes):
    return {
        (name, int(at))
        for name, odd in odd_ones(texts, classes).items()
        for at in np.flatnonzero(odd)
    }


def test_consistent_labels_are_not_marked():
    assert marked(*items(200)) == set()


def test_the_language_with_another_items_label_is_the_odd_one():
    texts, classes = items(200)
    texts["en"][7], classes["en"][7] = "Blue camera", "Electronics"
    texts["zh"][7], classes["zh"][7] = "红色连衣裙", "服装类"
    texts["ja"][7], classes["ja"][7] = "赤いドレス", "服"
    assert marked(texts, classes) == {("en", 7)}


def test_a_wrong_class_alone_is_marked():
    texts, classes = items(200)
    texts["zh"][3], texts["en"][3], texts["ja"][3] = "红色连衣裙", "Red dress", "赤いドレス"
    classes["zh"][3], classes["en"][3], classes["ja"][3] = "服装类", "Clothing", "家電"
    assert marked(texts, classes) == {("ja", 3)}


def test_of_two_languages_both_are_marked_since_neither_can_be_told_wrong():
    texts, classes = items(200)
    texts["zh"][5], texts["en"][5] = "红色连衣裙", "Blue camera"
    classes["zh"][5], classes["en"][5] = "服装类", "Electronics"
    two = ({name: column[name] for name in ("zh", "en")} for column in (texts, classes))
    assert marked(*two) == {("zh", 5), ("en", 5)}


def test_a_label_that_is_wrong_in_every_language_agrees_with_itself():
    texts, classes = items(200)
    for name in LANGUAGES:
        texts[name][9], classes[name][9] = texts[name][10], classes[name][10]
    assert marked(texts, classes) == set()


def test_rare_words_and_synonyms_prove_nothing():
    texts, classes = items(200)
    texts["en"] = [
        text.replace("shirt", "blouse") if at % 2 else text for at, text in enumerate(texts["en"])
    ]
    texts["zh"][0] = "稀世珍宝"
    assert marked(texts, classes) <= {("zh", 0)}


def test_missing_languages_are_left_alone():
    texts, classes = items(100)
    for name in LANGUAGES:
        texts[name][4], classes[name][4] = None, None
    texts["ja"][5], classes["ja"][5] = None, None
    assert marked(texts, classes) == set()


def test_boundaries():
    assert odd_ones({}, {}) == {}
    empty = {name: [] for name in LANGUAGES}
    assert {name: odd.tolist() for name, odd in odd_ones(empty, empty).items()} == empty
    one = {name: ["红色 dress"] for name in LANGUAGES}
    assert not any(odd.any() for odd in odd_ones(one, one).values())


def test_words_and_their_weights():
    assert words_of("Red dress, 2 pieces") == {"red": 1, "dress": 1, "pieces": 1}
    assert words_of("连衣裙") == {"连衣": 0.5, "衣裙": 0.5}
    assert words_of("赤いドレス") == {"赤": 1, "ドレス": 1}
    assert words_of("") == words_of(None) == {}
