from __future__ import annotations

import re

import numpy as np
import pytest

from lab import grammar, scripts
from lab.scripts import VERDICTS, count_scripts, detect, tokens


def verdicts(*texts):
    return [VERDICTS[index] for index in detect(count_scripts(texts))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("如何退货?请登录账户,进入订单页面。", "zh"),
        ("請問優惠券要怎麼使用？請您在結帳頁面輸入。", "zh"),  # traditional
        ("iPhone 15 Pro Max 怎么退货", "zh"),
        ("优の良品的退货流程是什么", "zh"),  # a brand with one kana
        ("返品プロセスを教えてください", "ja"),
        ("ﾍﾝﾋﾟﾝﾎｳﾎｳ", "ja"),  # half-width kana
        ("赤いドレス 服", "ja"),
        ("会員登録手続", "ja"),  # Han only, but written as in Japan only
        ("How do I return it?", "en"),
        (
            "Is the café at 王府 open on a Sunday, and can I go by bus or by train or on foot now?",
            "en",
        ),
        ("배송은 언제 되나요", "other"),
        ("Где мой заказ", "other"),
        ("电话", "undecided"),  # too short
        ("白色帽子", "undecided"),  # Han that both write alike
        ("電話番号", "undecided"),  # traditional Chinese or Japanese
        ("「ありがとう」是什么意思？", "undecided"),  # one language quotes the other
        ("「谢谢」はどういう意味ですか", "undecided"),
        ("What does 谢谢 mean?", "undecided"),
        ("OK", "undecided"),
        ("12345 67890", "undecided"),
        ("😀😀😀😀😀", "undecided"),
        ("", "undecided"),
    ],
)
def test_language_of_a_text(text, expected):
    assert verdicts(text) == [expected]


def test_a_text_is_judged_by_itself_whatever_stands_beside_it():
    texts = ["如何退货?请登录账户", "", "How do I return it?", "返品を教えてください"]
    assert (
        verdicts(*texts) == [verdicts(text)[0] for text in texts] == ["zh", "undecided", "en", "ja"]
    )


@pytest.mark.parametrize("tenant", ["ecommerce", "education", "medical"])
def test_every_sentence_of_the_demo_grammars_is_read_right_or_not_at_all(tenant):
    tables = grammar.load(tenant)
    for language in grammar.LANGUAGES:
        texts = [
            grammar.fill(question, tables.filling(intent, 7), language)
            + grammar.fill(intent.answers[language], tables.filling(intent, 7), language)
            for intent in tables.intents
            for question in intent.questions[language]
        ]
        found = np.array(verdicts(*texts))
        assert set(found) <= {language, "undecided"}
        assert (found == language).mean() >= 0.95


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("如何退货?", 4),
        ("How do I return it?", 5),
        ("iPhone 15怎么退", 5),
        ("返品プロセス", 6),
        ("a,b", 2),
        ("café", 1),
        ("cafe\u0301 noir", 2),  # an accent of its own does not end the word
        ("안녕 세상", 2),
        ("！？…", 0),
        ("𠮷野家", 3),  # beyond the basic plane
    ],
)
def test_tokens(text, expected):
    assert tokens(count_scripts([text])).tolist() == [expected]


def test_tokens_against_a_plain_loop():
    cjk = "\u3041-\u3096\u30a1-\u30fa\u30fc\u4e00-\u9fff"
    plain = re.compile(rf"[{cjk}]|(?:(?![{cjk}])[^\W_])+")
    texts = ["退货a1 b", "a", "", "x退", "返品はA4用紙2枚", "one two-three 4,5", "語 word語word"]
    assert tokens(count_scripts(texts)).tolist() == [len(plain.findall(text)) for text in texts]


def test_counts_sum_to_the_characters():
    texts = ["退货 abc 123 ドレス \u0301", "\n\t", "😀é"]
    counts = count_scripts(texts)
    assert counts.shape == (3, scripts.COLUMNS)
    assert counts[:, : scripts.WORDS].sum(axis=1).tolist() == [len(text) for text in texts]


def test_no_texts_and_huge_text():
    assert count_scripts([]).shape == (0, scripts.COLUMNS)
    assert detect(count_scripts([])).tolist() == []
    assert verdicts("退货吗" * 100_000) == ["zh"]


def test_lone_surrogates_are_counted_as_other_characters():
    assert verdicts("\ud800如何退货吗") == ["zh"]


def test_characters_of_one_country_only():
    zh = count_scripts(["们"])[0, scripts.HAN_ZH]
    ja = count_scripts(["働"])[0, scripts.HAN_JA]
    both = count_scripts(["中"])[0]
    assert zh == ja == 1
    assert both[scripts.HAN] == 1
