from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Features, Value
from PIL import Image, ImageDraw

from lab import params
from lab.analysis import ADVICE, RULES, SEVERITY, TABLES, analyse
from lab.corpus import Corpus
from lab.errors import ParameterError
from lab.stats import proportion_interval, proportion_needed

ROOT = Path(__file__).parents[1]
FACTS = {
    "images": {
        "brightness": 120.0,
        "contrast": 40.0,
        "sharpness": 150.0,
        "dhash": 0,
        "digest": "",
    },
    "speech": {
        "duration_s": 2.0,
        "rms_dbfs": -25.0,
        "clipped_share": 0.0,
        "silent_share": 0.1,
    },
}
FIELDS = {
    "faq": ("question", "answer"),
    "images": ("image_path", "description"),
    "speech": ("audio_path", "text"),
}
NAMES = [
    ("退货", "Return", "返品"),
    ("换货", "Exchange", "交換"),
    ("发票", "Invoice", "領収書"),
    ("优惠券", "Coupon", "クーポン"),
]
QUESTIONS = {
    "zh": "请问{thing}要怎么申请{what}手续呢？",
    "en": "How do I ask for the {what} of a {thing}?",
    "ja": "{thing}の{what}はどうすればできますか？",
}
ANSWERS = {
    "zh": "请在订单页面选择{thing}，再点击{what}按钮提交申请。",
    "en": "Open the order of the {thing}, choose {what} and send the form.",
    "ja": "注文ページで{thing}を選び、{what}ボタンを押してお申し込みください。",
}
THINGS = {
    "zh": "台灯 书桌 雨伞 相机 耳机 键盘 背包 毛巾 水壶 拖鞋 围巾 手表 闹钟 沙发 窗帘 地毯 枕头 "
    "花瓶 镜子 梯子",
    "en": "lamp desk umbrella camera headset keyboard backpack towel kettle slipper scarf watch "
    "clock sofa curtain carpet pillow vase mirror ladder",
    "ja": "ランプ 机 傘 カメラ イヤホン キーボード リュック タオル やかん スリッパ マフラー 腕時計 "
    "目覚まし時計 ソファ カーテン じゅうたん 枕 花瓶 鏡 はしご",
}
THINGS = {language: names.split() for language, names in THINGS.items()}
LANGUAGES = ("zh", "en", "ja")


def faq(groups=80):
    """Return clean rows: ``groups`` items in three languages, 4 classes of 20 things."""
    rows = []
    for number in range(groups):
        kind, thing = number % 4, number // 4 % 20
        for at, language in enumerate(LANGUAGES):
            filling = {"thing": THINGS[language][thing], "what": NAMES[kind][at].lower()}
            rows.append(
                {
                    "question": QUESTIONS[language].format(**filling),
                    "answer": ANSWERS[language].format(**filling),
                    "language": language,
                    "annotation": NAMES[kind][at],
                    "group": f"item-{number}",
                }
            )
    return rows


def corpus(folder=Path(), **tables):
    """Return a corpus of rows given as dicts; missing fields get harmless values."""
    made = {}
    for table, rows in tables.items():
        kinds = {name: "string" for name in (*FIELDS[table], "language", "annotation", "group")}
        facts = FACTS.get(table, {})
        kinds |= {name: "float64" for name in facts}
        kinds |= {
            name: kind
            for name, kind in (("dhash", "uint64"), ("digest", "string"))
            if name in facts
        }
        columns = {"row": list(range(1, len(rows) + 1))}
        for name in kinds:
            default = facts.get(name)
            columns[name] = [row.get(name, default) for row in rows]
        features = Features(
            {"row": Value("int32"), **{name: Value(kind) for name, kind in kinds.items()}}
        )
        made[table] = Dataset.from_dict(columns, features=features)
    return Corpus(
        tenant="medical",
        folder=folder,
        fingerprint="sha256:0",
        tables=made,
        problems=(),
        rows_read={table: len(rows) for table, rows in tables.items()},
        absent=tuple(table for table in TABLES if table not in tables),
    )


def settings(*overrides):
    limits = ["checks.contradictions='<= 0.01'"]
    return params.load("medical", overrides=[*limits, *overrides], root=ROOT).settings


def look(made, *overrides, seed=0, near_duplicate=0.8, worst_rows=20):
    return analyse(
        made,
        settings=settings(*overrides),
        seed=seed,
        near_duplicate=near_duplicate,
        worst_rows=worst_rows,
    )


def flagged(analysis, check, table="faq"):
    rows = analysis.flagged
    return set(rows.loc[(rows["check"] == check) & (rows["table"] == table), "row"])


def metric(analysis, name, **labels):
    found = [
        one
        for one in analysis.metrics
        if one.name == name and labels.items() <= dict(one.labels).items()
    ]
    assert len(found) == 1, found
    return found[0]


@pytest.fixture(scope="module")
def clean():
    return look(corpus(faq=faq()))


# --- clean data ----------------------------------------------------------------------------------


def test_nothing_is_found_in_clean_rows(clean):
    assert len(clean.flagged) == len(clean.worst) == 0
    assert clean.rows == {"faq": 240}


def test_figures_of_clean_rows(clean):
    found = metric(clean, "near_duplicates", language="zh")
    assert (found.value, found.n, found.unit, found.limit) == (0.0, 80, "share", "<= 0.02")
    assert found.ci == (0.0, 0.0)  # every row was looked at: nothing is left to infer
    assert found.verdict == "pass"
    balance = metric(clean, "class_imbalance", language="ja")
    assert (balance.value, balance.n) == (1.0, 80)
    coverage = metric(clean, "group_coverage")
    assert (coverage.value, coverage.n, dict(coverage.labels)) == (1.0, 80, {"table": "faq"})
    assert metric(clean, "quarantined").ci == (0.0, 0.0)


def test_figures_of_a_sample_have_an_interval_for_the_whole_table():
    found = metric(look(corpus(faq=faq()), "sample.faq=90"), "near_duplicates", language="zh")
    assert (found.value, found.n) == (0.0, 30)
    assert found.ci == proportion_interval(0, 30, population=80)
    assert found.verdict == "insufficient"
    assert found.needed == proportion_needed(0.0, 0.02, population=80)
    assert 30 < found.needed <= 80


def test_each_check_has_its_rule_and_advice(clean):
    names = {one.name for one in clean.metrics}
    assert names <= set(RULES)
    assert names <= set(ADVICE)
    assert set(SEVERITY) <= set(RULES)


def test_lengths_by_hand():
    rows = [
        {"question": "退货a1 b", "answer": "好", "language": "zh", "annotation": "退货"},
        {"question": "退", "answer": "好的", "language": "zh", "annotation": "退货"},
    ]
    frame = look(corpus(faq=rows)).frames["lengths"].set_index(["field", "unit"])
    assert frame.loc[("question", "characters"), ["n", "p0", "p100"]].tolist() == [2, 1, 6]
    assert frame.loc[("question", "tokens"), ["p0", "p100"]].tolist() == [1, 4]
    assert set(frame["language"]) == {"zh"}


def test_balance_and_imbalance_by_hand():
    rows = [
        {**row, "annotation": "甲" if number < 30 else "乙"}
        for number, row in enumerate(row for row in faq(40) if row["language"] == "zh")
    ]
    found = look(corpus(faq=rows), "languages=[zh]")
    assert found.frames["balance"][["annotation", "rows"]].values.tolist() == [
        ["甲", 30],
        ["乙", 10],
    ]
    one = metric(found, "class_imbalance")
    assert one.value == 3.0
    assert one.ci == pytest.approx((3.0, 3.0))
    part = look(corpus(faq=rows), "languages=[zh]", "sample.faq=20")
    one, sizes = metric(part, "class_imbalance"), part.frames["balance"]["rows"]
    low, high = proportion_interval(sizes.max(), sizes.sum(), population=40)
    assert one.ci == pytest.approx((max(1.0, low / (1 - low)), high / (1 - high)))
    assert one.ci[0] < one.value < one.ci[1]


# --- findings ------------------------------------------------------------------------------------


def test_exact_duplicates_and_which_row_is_the_copy():
    rows = faq()
    copy = {**rows[0], "question": rows[0]["question"].replace("？", " ?"), "group": None}
    found = look(corpus(faq=[copy, *rows]))
    assert flagged(found, "exact_duplicates") == {1}  # the copy belongs to no group
    assert found.flagged["reason"].tolist() == ["says the same as row 2"]
    assert metric(found, "exact_duplicates", language="zh").value == pytest.approx(1 / 81)


def test_contradictory_answers():
    rows = faq()
    rows.append({**rows[1], "answer": "No, we do not do that at all.", "group": "other"})
    rows.append({**rows[2], "language": "ja", "answer": rows[2]["answer"] + "。", "group": "other"})
    found = look(corpus(faq=rows))
    assert flagged(found, "contradictions") == {2, 241}
    assert flagged(found, "exact_duplicates") == {242}  # a full stop is no other answer
    assert metric(found, "contradictions", language="en").value == pytest.approx(2 / 81)
    assert metric(found, "contradictions", language="zh").value == 0


def test_text_copied_into_another_language_of_its_group():
    rows = faq()
    rows[2] = {**rows[2], "question": rows[0]["question"], "answer": rows[0]["answer"]}
    rows[5] = {**rows[5], "answer": rows[3]["answer"]}
    found = look(corpus(faq=rows))
    assert flagged(found, "exact_duplicates") == {3, 6}
    assert flagged(found, "language_mismatch") >= {3}
    assert not flagged(found, "group_coverage")


def test_a_name_that_is_the_same_in_all_languages_is_no_copy():
    rows = faq()
    for row in rows[:3]:
        row["answer"] = "Wi-Fi 6E: 2400"
    found = look(corpus(faq=rows))
    assert not flagged(found, "exact_duplicates")


def test_wrong_tags_are_found_and_do_not_count_as_classes():
    rows = faq()
    rows[0]["language"], rows[1]["language"] = "ja", "zh"
    found = look(corpus(faq=rows))
    assert flagged(found, "language_mismatch") == {1, 2}
    assert found.worst["reasons"].tolist() == [
        "tagged ja, written in Chinese; its group lacks en",
        "tagged zh, written in English",
    ]
    assert metric(found, "class_imbalance", language="ja").value == 1.0
    languages = found.frames["languages"]
    assert languages[languages["tag"] != languages["characters"]]["rows"].tolist() == [1, 1]


def test_items_that_lack_a_language():
    rows = [row for row in faq(20) if (row["group"], row["language"]) != ("item-3", "en")]
    rows += [{**row, "group": None} for row in faq(40)[90:93]]
    found = look(corpus(faq=rows))
    assert found.frames["incomplete"].values.tolist() == [["faq", "item-3", 10, "en"]]
    assert flagged(found, "group_coverage") == {10}
    coverage = metric(found, "group_coverage")
    assert (coverage.value, coverage.n) == (19 / 20, 20)
    assert any("3 of 62 faq rows belong to no group" in line for line in found.conclusion())
    shares = found.frames["coverage"].set_index("language")["share"].to_dict()
    assert shares == {"zh": 1.0, "en": 0.95, "ja": 1.0}


def test_planted_defects_are_found_and_little_else():
    rng = np.random.default_rng(5)
    rows = faq()
    planted_near, planted_tag = [], []
    for number in range(30):
        row = rows[int(rng.integers(240))]
        text, at = row["question"], int(rng.integers(1, len(row["question"]) - 3))
        edited = (
            text[:at] + text[at + 1 :],
            text[:at] + text[at] + text[at:],
            {"zh": "您好，", "en": "Hello, ", "ja": "お尋ねしますが、"}[row["language"]] + text,
        )[number % 3]
        rows.append({**row, "question": edited, "group": None})
        planted_near.append(len(rows))
    for at in rng.choice(240, size=20, replace=False):
        others = [name for name in LANGUAGES if name != rows[at]["language"]]
        rows[at] = {**rows[at], "language": others[int(rng.integers(2))]}
        planted_tag.append(int(at) + 1)
    order = rng.permutation(len(rows))
    place = {int(old) + 1: new + 1 for new, old in enumerate(order)}
    found = look(corpus(faq=[rows[at] for at in order]))
    near = {place[row] for row in planted_near}
    tags = {place[row] for row in planted_tag}
    copies = flagged(found, "near_duplicates") | flagged(found, "exact_duplicates")
    assert len(copies & near) >= 0.95 * len(near)
    assert len(copies - near) <= 0.01 * len(rows)
    assert flagged(found, "language_mismatch") >= tags
    assert len(flagged(found, "language_mismatch") - tags) <= 0.01 * len(rows)
    assert not flagged(found, "contradictions")


# --- images and speech ---------------------------------------------------------------------------

COLOURS = [
    ("红色", "Red", "赤い", "red"),
    ("蓝色", "Blue", "青い", "blue"),
    ("绿色", "Green", "緑色の", "green"),
]


@pytest.fixture(scope="module")
def image_corpus(tmp_path_factory):
    """60 images: a colour and a thing each, in three languages; some spoilt, see the tests."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "images").mkdir()
    rows = []
    for number in range(60):
        colour, thing = COLOURS[number % 3], number % 5
        path = f"images/product{number}.jpg"
        image = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(image).ellipse((8, 8, 20 + number % 40, 30 + number // 2), fill=colour[3])
        image.save(folder / path, "JPEG")
        for at, language in enumerate(LANGUAGES):
            space = " " if language == "en" else ""
            rows.append(
                {
                    "image_path": path,
                    "description": colour[at] + space + THINGS[language][thing],
                    "language": language,
                    "annotation": NAMES[thing % 4][at],
                    "dhash": number * 0x0101_0101_0101_0101,
                    "digest": str(number),
                }
            )
    for row in rows[9:12]:  # image 3
        row["brightness"] = 5.0
    for row in rows[15:18]:  # image 5 is image 4 again
        row |= {"digest": "4", "dhash": rows[12]["dhash"]}
    rows[22] |= {"description": "Green headset", "annotation": "Coupon"}  # image 7, in English only
    del rows[-1]  # the last image lacks Japanese
    return corpus(folder, images=rows)


def test_image_checks(image_corpus):
    found = look(image_corpus)
    assert flagged(found, "image_defects", "images") == {10, 11, 12}
    assert flagged(found, "image_duplicates", "images") == {16, 17, 18}
    assert flagged(found, "label_mismatch", "images") == {23}
    assert flagged(found, "group_coverage", "images") == {178}
    for name, hits in (("image_defects", 1), ("image_duplicates", 1), ("label_mismatch", 1)):
        one = metric(found, name)
        assert (one.value, one.n, dict(one.labels)) == (hits / 60, 60, {"table": "images"})
    findings = found.frames["images"].set_index("row")["finding"].to_dict()
    assert findings[10].startswith("too dark")
    assert findings[16] == "shows the same as images/product4.jpg"


def test_an_image_stands_once_among_the_worst_rows(image_corpus):
    worst = look(image_corpus).worst
    assert worst["row"].tolist() == [23, 10, 16, 178]
    assert worst["severity"].tolist() == [3, 2, 1, 1]
    assert worst["text"].tolist()[0] == "Green headset"


def test_audio_checks():
    rows = [
        {
            "audio_path": f"audio/{at}.wav",
            "text": row["question"],
            "duration_s": 1.0 + 0.05 * len(row["question"]),
        }
        | {name: row[name] for name in ("language", "annotation", "group")}
        for at, row in enumerate(faq(40))
    ]
    rows[4]["clipped_share"] = 0.1
    rows[5] |= {"silent_share": 1.0, "rms_dbfs": -math.inf}
    rows[6]["duration_s"] = 60.0  # the others all keep one pace
    found = look(corpus(speech=rows))
    assert flagged(found, "audio_defects", "speech") == {5, 6}
    assert flagged(found, "audio_pace", "speech") == {7}
    assert metric(found, "audio_defects", language="en").value == pytest.approx(1 / 40)
    assert not [one for one in found.metrics if one.name == "audio_pace"]
    shown = found.frames["audio"].set_index("row")
    assert shown.loc[7, "finding"] == "odd pace"
    assert shown.loc[6, "finding"] == "silent (100% of the time)"


# --- worst rows, conclusion, samples -------------------------------------------------------------


def test_worst_rows_take_each_kind_in_turn_and_do_not_change():
    rows = faq()
    for at in (0, 3, 6, 9):
        rows[at]["language"] = "ja"
    rows.append({**rows[1], "answer": "No, we do not do that at all.", "group": "item-0"})
    rows.append({**rows[4], "group": None})
    made = corpus(faq=rows)
    found = look(made, worst_rows=4)
    assert found.worst["row"].tolist() == [2, 1, 241, 4]
    assert found.worst["reasons"][1] == "tagged ja, written in Chinese; its group lacks zh"
    assert found.worst.equals(look(made, worst_rows=4).worst)
    assert look(made, worst_rows=100).worst["row"].tolist()[-1] == 242


def test_conclusion_says_what_fails_and_what_to_do():
    rows = faq()
    rows += [{**row, "group": None} for row in rows if row["language"] == "en"]
    lines = look(corpus(faq=rows)).conclusion()
    assert (
        lines[0]
        == "The data of medical are not fit to tune on yet: 1 of 17 figures miss their limit."
    )
    assert lines[1] == (
        "Exact duplicates in faq: en 50 % (exact, n = 160); limit <= 2 %; "
        "delete the copies, else they leak from training into evaluation."
    )
    assert "There is no images table: its checks were not made." in lines
    assert "There is no speech table: its checks were not made." in lines


def test_conclusion_of_data_that_pass():
    wide = [
        f"checks.{name}='{limit}'"
        for name, limit in {
            **dict.fromkeys(
                ("exact_duplicates", "near_duplicates", "contradictions", "language_mismatch"),
                "<= 0.2",
            ),
            "group_coverage": ">= 0.5",
        }.items()
    ]
    lines = look(corpus(faq=faq()), *wide).conclusion()
    assert (
        lines[0]
        == "The data of medical are fit to tune on: all 17 figures are within their limits."
    )


def test_conclusion_counts_what_is_open():
    lines = look(corpus(faq=faq()), "sample.faq=90").conclusion()
    assert lines[0].startswith("Whether the data of medical are fit to tune on is open")
    needed = proportion_needed(0.0, 0.02, population=80)
    assert any(f"about n = {needed} in each language would settle it" in line for line in lines)


def test_a_sample_keeps_groups_whole_and_follows_the_seed():
    made = corpus(faq=faq())
    found = look(made, "sample.faq=31", seed=1)
    assert found.rows == {"faq": 30}
    assert metric(found, "group_coverage").value == 1.0
    assert any("A sample of 30 of 240 faq rows" in line for line in found.conclusion())
    again, other = (look(made, "sample.faq=31", seed=seed).frames["map"] for seed in (1, 2))
    assert again.equals(found.frames["map"])
    assert not again["row"].equals(other["row"])


def test_a_sample_may_be_one_group_that_is_larger_than_asked_for():
    assert look(corpus(faq=faq(4)), "sample.faq=1").rows == {"faq": 3}


def test_quarantined_rows_are_counted():
    made = corpus(faq=faq())
    made.rows_read["faq"] = 250
    one = metric(look(made), "quarantined")
    assert (one.value, one.n, one.verdict) == (0.04, 250, "fail")


# --- boundaries ----------------------------------------------------------------------------------


def test_an_empty_table_is_not_fit():
    found = look(corpus(faq=[], images=[], speech=[]))
    assert {one.verdict for one in found.metrics} == {"insufficient"}
    assert all(math.isnan(one.value) for one in found.metrics)
    assert any("zh no rows" in line for line in found.conclusion())
    assert all(len(frame) == 0 for name, frame in found.frames.items() if name != "rows")


def test_no_tables_at_all():
    found = look(corpus())
    assert found.metrics == ()
    assert found.conclusion()[0] == "There is nothing to judge in the data of medical."


def test_one_row():
    found = look(corpus(faq=faq(1)[:1]))
    assert found.rows == {"faq": 1}
    assert metric(found, "exact_duplicates", language="zh").value == 0
    assert metric(found, "exact_duplicates", language="en").n == 0
    assert flagged(found, "group_coverage") == {1}


def test_identical_rows():
    found = look(corpus(faq=[{**faq(1)[0], "group": None} for _ in range(500)]), "languages=[zh]")
    assert flagged(found, "exact_duplicates") == set(range(2, 501))
    assert metric(found, "exact_duplicates").verdict == "fail"
    assert not [one for one in found.metrics if one.name == "group_coverage"]


def test_no_groups_at_all_is_no_failure():
    found = look(corpus(faq=[{**row, "group": None} for row in faq()]))
    assert not [one for one in found.metrics if one.name == "group_coverage"]
    assert any("240 of 240 faq rows belong to no group" in line for line in found.conclusion())


def test_emoji_blank_markup_and_huge_texts():
    texts = [
        "😀",
        "😂",
        "👍👍👍👍👍👍",
        "<script>alert(1)</script>",
        "\u202eabc",
        "?",
        "退" * 100_000,
        "\x1b[31m",
    ]
    rows = [
        {"question": text, "answer": text, "language": "zh", "annotation": "退货"} for text in texts
    ]
    found = look(corpus(faq=rows))
    assert not flagged(found, "exact_duplicates")
    assert not flagged(found, "contradictions")
    assert found.worst["text"].str.len().max() <= 200


def test_one_language_only():
    rows = [row for row in faq() if row["language"] == "ja"]
    found = look(corpus(faq=rows), "languages=[ja]")
    assert {one.labels.get("language", "ja") for one in found.metrics} == {"ja"}
    assert not len(found.flagged)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"near_duplicate": 0.0}, r"near_duplicate must be in \(0, 1\], got 0.0"),
        ({"near_duplicate": 1.5}, r"near_duplicate must be in \(0, 1\], got 1.5"),
        ({"worst_rows": 0}, "worst_rows must be at least 1, got 0"),
    ],
)
def test_parameters_out_of_range(given, rule):
    with pytest.raises(ParameterError, match=rule):
        look(corpus(faq=faq(1)), **given)


def test_progress_is_told_by_stage():
    calls = []
    analyse(
        corpus(faq=faq(10)),
        settings=settings(),
        seed=0,
        near_duplicate=0.8,
        worst_rows=1,
        progress=lambda *call: calls.append(call),
    )
    assert ("reading faq", 30, 30) in calls
    assert calls[-1] == ("map of the questions", 1, 1)
