from __future__ import annotations

import copy
import math
import random
import subprocess
import sys
import unicodedata

import jiwer
import numpy as np
import pytest
import sacrebleu
from rapidfuzz.distance import Levenshtein
from scipy import stats

from lab import normalisation
from lab.errors import ParameterError, ShapeError
from lab.quality import (
    INTERVAL_RULE,
    RULE,
    UNITS,
    Difference,
    Item,
    Score,
    cer,
    chrf,
    compare,
    exact_match,
    recall_at_k,
    score_text,
    spelled,
    summarise,
    token_f1,
    tokens,
    wer,
)
from lab.stats import proportion_interval

SENTENCES = {
    "en": ["How do I return it?", "Don't panic: it's 1.5 km.", "The B12 order, 10% off!", "", "ok"],
    "zh": ["如何退货？", "请登录账户，进入订单页面。", "用 iPhone 15 登录", "", "库存B12还有吗"],
    "ja": ["返品できますか？", "ガラスのコップ、1.5リットル", "ﾊﾞｯｸﾞは USB-C です", "", "か"],
}
PAIRS = [(one, two) for texts in SENTENCES.values() for one in texts for two in texts]


def item(number, *, group=None, language="en", query="text", **scores):
    made = {
        name: score if isinstance(score, Score) else Score(score) for name, score in scores.items()
    }
    return Item(f"q{number:05}", group or f"g{number}", language, query, made)


def only(figures, *, metric, query=None, language=None):
    key = (metric, query, language)
    (found,) = (one for one in figures if (one.metric, one.query, one.language) == key)
    return found


# --- wording --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("How do I RETURN it?", "how do i return it"),
        ("yes,no - maybe", "yes no maybe"),
        ("Don't, don’t, don´t", "dont dont dont"),
        ("'quoted' users' guide", "quoted users guide"),
        ("1.5 km at 10:30, 2-3 days", "1.5 km at 10:30 2-3 days"),
        ("1, 2", "1 2"),
        ("C++ C# 10% R&D", "c++ c# 10% r&d"),
        ("snake_case", "snake case"),
        ("line\nbreak\ttab\u3000wide", "line break tab wide"),
        ("Straße ＦＵＬＬ", "strasse full"),
        ("ok👍ok", "ok 👍 ok"),
        ("❤️", "❤"),
        ("a\u200bb\x00c\ufeff", "abc"),
        ("e\u200b\u0301", "é"),
        ("25℃ №7", "25 ° c no7"),
        ("\u1100'\u1161", "\uac00"),
        ("한국어 текст", "한국어 текст"),
        ("如何退货？", "如 何 退 货"),
        ("订单 B12，请查", "订 单 b12 请 查"),
        ("用iPhone 15登录", "用 iphone 15 登 录"),
        ("１２３円", "123 円"),
        ("ｶﾞﾗｽ", "ガ ラ ス"),
        ("か゛ ア゙ ｱﾞ", "が ア゙ ア゙"),
        ("カー・々〇", "カ ー 々 〇"),
        ("𠮟る", "𠮟 る"),
        ("葛󠄀", "葛"),
        ("\ud800好\udfff", "好"),
    ],
)
def test_tokens_are_words_cjk_characters_and_emoji(text, expected):
    assert tokens(text) == tuple(expected.split())


@pytest.mark.parametrize("text", ["", " \n\u3000", "?!…。", "\u200b\ufe0f", "\ud800"])
def test_a_text_that_says_nothing_has_no_tokens(text):
    assert tokens(text) == ()
    assert spelled(text) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello,  world!", "hello world"),
        ("用 iPhone 15 登录。", "用iphone 15登录"),
        ("如 何\n退 货", "如何退货"),
        ("好的 👍", "好的👍"),
    ],
)
def test_white_space_counts_between_words_and_not_beside_cjk(text, expected):
    assert spelled(text) == expected


def test_apart_from_white_space_the_rule_is_that_of_the_normalisation():
    for texts in SENTENCES.values():
        for text in texts:
            assert "".join(tokens(text)) == normalisation.normalise(text)


def test_tokens_of_anything_are_nfkc_without_white_space_and_their_spelling_keeps_them():
    rng = random.Random(0)
    ranges = [
        (0x20, 0x500),
        (0x2000, 0x3200),
        (0x4E00, 0x4F00),
        (0xFE00, 0xFFEF),
        (0x1F300, 0x1FAFF),
    ]
    for _ in range(3000):
        text = "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(8))
        found = tokens(text)
        assert all(unicodedata.is_normalized("NFKC", token) and token for token in found), text
        assert not any(char.isspace() for token in found for char in token), text
        assert tokens(spelled(text)) == tokens(" ".join(found)), text


def test_huge_text():
    text = "退货，return 👍 " * 20_000
    assert len(tokens(text)) == 80_000
    assert token_f1(text, text) == 1


def test_the_rules_are_stated():
    for word in ("NFKC", "case", "punctuation", "CJK", "articles"):
        assert word in RULE
    assert "Wilson" in INTERVAL_RULE


# --- scores of one item ---------------------------------------------------------------------------


def squad_f1(reference, answer):
    """The loop of SQuAD's script, over our tokens."""
    theirs, common = list(tokens(reference)), 0
    for token in tokens(answer):
        if token in theirs:
            theirs.remove(token)
            common += 1
    if not tokens(reference) or not tokens(answer):
        return float(tokens(reference) == tokens(answer))
    if not common:
        return 0.0
    precision, recall = common / len(tokens(answer)), common / len(tokens(reference))
    return 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        ("the red dress", "red dress", 0.8),
        ("a a b", "a c", 0.4),
        ("退货流程", "退货", 2 / 3),
        ("订单 B12", "订单 B21", 2 / 3),
        ("返品できますか？", "返品できますか", 1),
        ("How?", "如何", 0),
        ("", "", 1),
        ("?", "…", 1),
        ("", "x", 0),
        ("x", "", 0),
    ],
)
def test_token_f1_by_hand(reference, answer, expected):
    assert token_f1(reference, answer) == pytest.approx(expected)


def test_scores_are_those_of_independent_implementations():
    for reference, answer in PAIRS:
        ours, theirs = spelled(reference), spelled(answer)
        assert token_f1(reference, answer) == pytest.approx(squad_f1(reference, answer))
        assert cer(reference, answer) == (Levenshtein.distance(ours, theirs), len(ours))
        words = tokens(reference), tokens(answer)
        assert wer(reference, answer) == (Levenshtein.distance(*words), len(words[0]))
        if ours:
            assert cer(reference, answer)[0] / len(ours) == pytest.approx(jiwer.cer(ours, theirs))
        if ours and theirs:
            expected = sacrebleu.sentence_chrf(theirs, [ours]).score / 100
            assert chrf(reference, answer) == pytest.approx(expected)


def test_an_exact_match_is_perfect_in_every_other_score():
    for language, texts in SENTENCES.items():
        for text in texts:
            scores = score_text(text, f"  {text.upper()} !", language=language)
            assert scores["exact_match"] == scores["token_f1"] == scores["chrf"] == (1, 1)
            assert scores["cer"][0] == 0
            assert scores.get("wer", (0, 0))[0] == 0


def test_words_count_only_where_white_space_parts_them():
    assert "wer" in score_text("a", "b", language="en")
    assert "wer" not in score_text("一", "二", language="zh")
    assert "wer" not in score_text("か", "き", language="ja")


def test_every_score_has_a_unit():
    assert {"recall_at_k", *score_text("a", "b", language="en")} == set(UNITS)


@pytest.mark.parametrize(
    ("reference", "answer", "match"),
    [("Red dress", "red  dress.", True), ("red dress", "reddress", False), ("红 裙", "红裙", True),
     ("iPhone 15", "iPhone15", False), ("10%", "10", False), ("１０", "10", True), ("", "!", True)],
)  # fmt: skip
def test_exact_match(reference, answer, match):
    assert exact_match(reference, answer) is match


def test_an_empty_reference_has_only_insertions_and_no_length():
    assert cer("", "abc") == (3, 0)
    assert wer("?", "a b") == (2, 0)
    assert cer("", "") == (0, 0)
    assert chrf("", "") == 1
    assert chrf("", "a") == chrf("a", "") == 0


def test_error_rates_may_exceed_one():
    assert cer("a", "abcd") == (3, 1)


# --- recall ---------------------------------------------------------------------------------------


def plain_recall(similarity, relevant, k):
    """Sort each row with the relevant candidates last among equals, NaN first if not relevant."""
    found = []
    for row, right in zip(similarity.tolist(), relevant.tolist(), strict=True):
        order = []
        for close, good in zip(row, right, strict=True):
            if good and not math.isnan(close):
                order.append((-close, 1, True))
            elif not good:
                order.append((-math.inf if math.isnan(close) else -close, 0, False))
        found.append(any(good for *_, good in sorted(order)[:k]))
    return found


def test_recall_by_hand():
    similarity = np.array([[0.9, 0.1, 0.5], [0.9, 0.1, 0.5], [0.2, 0.2, 0.1]])
    relevant = np.eye(3, dtype=bool)
    assert recall_at_k(similarity, relevant, k=1).tolist() == [True, False, False]
    assert recall_at_k(similarity, relevant, k=2).tolist() == [True, False, False]
    assert recall_at_k(similarity, relevant, k=3).tolist() == [True, True, True]
    assert recall_at_k(similarity.T, relevant.T, k=1).tolist() == [False, False, False]


def test_one_of_several_relevant_is_enough():
    similarity = np.array([[0.1, 0.5, 0.9]])
    assert recall_at_k(similarity, np.array([[True, False, True]]), k=1).tolist() == [True]


def test_equal_similarities_count_against_the_model():
    relevant = np.eye(4, dtype=bool)
    constant = np.zeros((4, 4))
    assert not recall_at_k(constant, relevant, k=3).any()
    assert recall_at_k(constant, relevant, k=4).all()


def test_nan_is_never_found_and_goes_before_others():
    relevant = np.eye(2, dtype=bool)
    assert not recall_at_k(np.full((2, 2), np.nan), relevant, k=2).any()
    assert recall_at_k([[0.9, np.nan], [np.nan, 0.9]], relevant, k=1).tolist() == [False, False]
    assert recall_at_k([[0.9, np.nan], [np.nan, 0.9]], relevant, k=2).tolist() == [True, True]
    assert recall_at_k([[-np.inf, -np.inf], [0, np.inf]], relevant, k=1).tolist() == [False, True]


def test_recall_is_that_of_a_plain_sort():
    rng = np.random.default_rng(0)
    for _ in range(100):
        shape = tuple(rng.integers(1, 8, size=2))
        similarity = rng.integers(0, 4, size=shape).astype(np.float32)
        similarity[rng.random(shape) < 0.1] = np.nan
        relevant = rng.random(shape) < 0.3
        relevant[np.arange(shape[0]), rng.integers(shape[1], size=shape[0])] = True
        before = similarity.copy()
        for k in range(1, shape[1] + 1):
            expected = plain_recall(similarity, relevant, k)
            assert recall_at_k(similarity, relevant, k=k).tolist() == expected
        np.testing.assert_array_equal(similarity, before)


def test_no_queries_have_no_recall():
    assert recall_at_k(np.zeros((0, 3)), np.zeros((0, 3), dtype=bool), k=1).shape == (0,)


@pytest.mark.parametrize(
    ("similarity", "relevant", "k", "error", "text"),
    [
        (np.zeros((2, 3)), np.ones((3, 2), bool), 1, ShapeError, r"\(2, 3\) and \(3, 2\)"),
        (np.zeros(3), np.ones(3, bool), 1, ShapeError, "2-D"),
        (np.zeros((2, 3)), np.ones((2, 3), bool), 0, ParameterError, "between 1 and 3"),
        (np.zeros((2, 3)), np.ones((2, 3), bool), 4, ParameterError, "got 4"),
        (np.zeros((2, 0)), np.ones((2, 0), bool), 1, ParameterError, "0 candidates"),
        (np.zeros((2, 3)), np.ones((2, 3)), 1, ParameterError, "bool, got float64"),
        (np.zeros((2, 3)), np.eye(2, 3, 1) > 1, 1, ParameterError, r"got \[0, 1\] \(2 without"),
    ],
)
def test_what_cannot_be_ranked_is_refused(similarity, relevant, k, error, text):
    with pytest.raises(error, match=text):
        recall_at_k(similarity, relevant, k=k)


# --- summaries ------------------------------------------------------------------------------------


def sample(count, *, seed=0, per_group=3):
    rng = np.random.default_rng(seed)
    return [
        item(
            number,
            group=f"g{number // per_group}",
            language=("zh", "en", "ja")[number % 3],
            query=("text", "speech")[number // per_group % 2],
            exact_match=float(rng.random() < 0.7),
            token_f1=float(rng.beta(4, 2)),
            cer=Score(float(rng.integers(0, 6)), float(rng.integers(5, 30))),
        )
        for number in range(count)
    ]


def test_a_summary_by_hand():
    figures = summarise(
        [
            item(1, language="zh", query="speech", cer=Score(1, 4), exact_match=0),
            item(2, language="zh", query="speech", cer=Score(0, 16), exact_match=1),
            item(3, language="en", query="text", cer=Score(4, 4), exact_match=0, wer=Score(2, 2)),
        ],
        seed=0,
    )
    zh = only(figures, metric="cer", query="speech", language="zh")
    assert (zh.value, zh.n, zh.groups, zh.unit) == (1 / 20, 2, 2, "edits per character")
    assert not zh.higher_is_better
    match = only(figures, metric="exact_match", query="speech", language="zh")
    assert (match.value, match.interval) == (0.5, proportion_interval(1, 2))
    assert match.higher_is_better
    assert only(figures, metric="cer").value == 5 / 24
    assert only(figures, metric="wer").n == 1
    alone = only(figures, metric="cer", query="text", language="en")
    assert alone.interval is None
    assert all(math.isnan(end) for end in alone.ci)
    cells = {(one.query, one.language) for one in figures if one.metric == "cer"}
    both = {("speech", "zh"), ("text", "en")}
    margins = {("speech", None), ("text", None), (None, "zh"), (None, "en"), (None, None)}
    assert cells == both | margins
    assert not [one for one in figures if one.metric == "wer" and one.language == "zh"]
    assert figures[-1].query is figures[-1].language is None


def test_shares_of_independent_items_have_wilsons_interval_and_tied_items_do_not():
    scores = [1.0] * 30 + [0.0] * 10
    apart = [item(number, recall_at_5=score) for number, score in enumerate(scores)]
    assert only(summarise(apart, seed=0), metric="recall_at_5").interval == proportion_interval(
        30, 40
    )
    tied = [
        item(number, group=f"g{number // 10}", recall_at_5=s) for number, s in enumerate(scores)
    ]
    low, high = only(summarise(tied, seed=0), metric="recall_at_5").interval
    assert high - low > 0.5  # four groups that agree within tell little


def test_one_group_gives_no_interval_however_many_items_it_has():
    figure = only(
        summarise([item(n, group="g", token_f1=0.5) for n in range(9)], seed=0), metric="token_f1"
    )
    assert (figure.n, figure.groups, figure.interval) == (9, 1, None)
    assert summarise([item(1, exact_match=1.0)], seed=0)[-1].interval is None


def test_the_same_seed_gives_the_same_interval_in_whatever_order():
    items = sample(200)
    before = copy.deepcopy(items)
    first = summarise(items, seed=3, resamples=300)
    shuffled = items[:]
    random.Random(1).shuffle(shuffled)
    assert summarise(iter(shuffled), seed=3, resamples=300) == first
    assert items == before
    other = summarise(items, seed=4, resamples=300)
    assert [one.value for one in other] == [one.value for one in first]
    assert [one.interval for one in other] != [one.interval for one in first]


def test_a_cell_is_as_if_it_were_summarised_alone():
    items = sample(120)
    zh = [one for one in items if one.language == "zh" and one.query == "text"]
    whole = only(summarise(items, seed=0), metric="cer", query="text", language="zh")
    assert whole == only(summarise(zh, seed=0), metric="cer", query="text", language="zh")


def test_the_interval_is_about_scipys_where_there_are_many_groups():
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 40, size=400).astype(float)
    edits = rng.binomial(lengths.astype(int), 0.2).astype(float)
    items = [
        item(n, cer=Score(e, length))
        for n, (e, length) in enumerate(zip(edits, lengths, strict=True))
    ]
    low, high = only(summarise(items, seed=0), metric="cer").interval
    expected = stats.bootstrap(
        (edits, lengths),
        lambda e, length: e.sum() / length.sum(),
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.1 * (high - low))


def test_one_long_reference_outweighs_many_short_ones():
    items = [item(n, cer=Score(0, 1)) for n in range(20)] + [item(20, cer=Score(900, 1000))]
    figure = summarise(items, seed=0)[-1]
    assert figure.value == 900 / 1020
    assert figure.interval[0] < 0.1  # it may as well not have been drawn
    assert figure.interval[1] >= figure.value
    lengths = [1] * 20 + [1000]
    clean = summarise([item(n, cer=Score(0, length)) for n, length in enumerate(lengths)], seed=0)
    told = 1020**2 / (20 + 1000**2)  # references of one length that tell as much
    assert clean[-1].interval == pytest.approx((0, proportion_interval(0, told)[1]))


def test_the_interval_of_an_error_rate_may_exceed_one():
    items = [item(n, cer=Score(6 * (n % 2), 2)) for n in range(20)]
    low, high = summarise(items, seed=0)[-1].interval
    assert low < 1 < 1.5 < high < 3


def test_resampling_draws_whole_groups():
    rng = np.random.default_rng(0)
    levels = np.repeat(rng.random(40), 25)
    items = [item(n, group=f"g{n // 25}", token_f1=float(level)) for n, level in enumerate(levels)]
    tied = only(summarise(items, seed=0), metric="token_f1").interval
    one_each = [item(n, token_f1=float(level)) for n, level in enumerate(levels[::25])]
    assert tied == pytest.approx(only(summarise(one_each, seed=0), metric="token_f1").interval)


@pytest.mark.parametrize(("score", "end"), [(0.0, 1), (1.0, 0)])
def test_a_constant_at_its_end_leaves_room_for_what_was_not_seen(score, end):
    figures = summarise([item(n, token_f1=score) for n in range(30)], seed=0)
    expected = proportion_interval(int(30 * score), 30)
    assert only(figures, metric="token_f1").interval == pytest.approx(expected)


def test_a_constant_in_between_leaves_room_on_both_sides():
    figure = only(summarise([item(n, token_f1=0.5) for n in range(30)], seed=0), metric="token_f1")
    room = proportion_interval(0, 30)[1] / 2
    assert figure.interval == pytest.approx((0.5 - room, 0.5 + room))


def test_empty_references_count_in_the_whole_and_have_no_rate_of_their_own():
    bare = [item(n, cer=Score(2, 0)) for n in range(3)]
    figure = only(summarise(bare, seed=0), metric="cer")
    assert math.isnan(figure.value)
    assert figure.interval is None
    mixed = bare + [item(n, cer=Score(0, 10)) for n in range(3, 40)]
    figure = only(summarise(mixed, seed=0), metric="cer")
    assert figure.value == 6 / 370
    assert figure.interval[0] <= figure.value <= figure.interval[1]


def test_ten_thousand_items():
    figures = summarise(sample(10_000), seed=0, resamples=200)
    assert only(figures, metric="token_f1").n == 10_000
    assert only(figures, metric="token_f1").value == pytest.approx(2 / 3, abs=0.01)


def test_nothing_gives_nothing():
    assert summarise([], seed=0) == ()
    assert compare([], [], seed=0) == ()
    assert summarise([item(1)], seed=0) == ()


def test_every_problem_of_the_items_is_listed_at_once():
    bad = [
        item(1, token_f1=math.nan),
        item(1, exact_match=0.5),
        item(2, chrf=86.0),
        item(3, bleu=0.3),
        item(4, cer=Score(math.inf, 3)),
        item(5, cer=Score(1, math.nan)),
        item(6, cer=Score(-1, 2)),
    ]
    with pytest.raises(ParameterError) as caught:
        summarise(bad, seed=0)
    lines = str(caught.value).splitlines()
    assert "an id must occur once, got ['q00001'] (items, 1 in all)" in lines
    assert any(line.startswith("a metric must be one of exact_match") for line in lines)
    assert any("finite" in line and "4 in all" in line for line in lines)
    assert "a share must be 0 or 1, over 1, got ['q00001: exact_match'] (items, 1 in all)" in lines
    assert any("at most 1" in line and "q00002: chrf" in line for line in lines)


@pytest.mark.parametrize("metric", ["recall", "recall_at_0", "recall_at_", "F1", "recall_at_5x"])
def test_a_metric_that_is_not_known_is_refused(metric):
    with pytest.raises(ParameterError, match="a metric must be one of"):
        summarise([item(1, **{metric: 1.0})], seed=0)


def test_too_few_resamples_are_refused():
    with pytest.raises(ParameterError, match="resamples must be at least 100, got 99"):
        summarise([], seed=0, resamples=99)


# --- comparisons ----------------------------------------------------------------------------------


def test_a_comparison_by_hand():
    old = [item(1, cer=Score(1, 4)), item(2, cer=Score(0, 16))]
    new = [item(2, cer=Score(4, 16)), item(1, cer=Score(2, 4))]
    figure = only(compare(old, new, seed=0), metric="cer")
    assert isinstance(figure, Difference)
    assert (figure.baseline, figure.candidate, figure.value) == (1 / 20, 6 / 20, 5 / 20)
    assert (figure.n, figure.groups, figure.higher_is_better) == (2, 2, False)


def test_the_values_are_those_of_the_two_summaries():
    old = sample(90)
    new = [
        Item(a.id, a.group, a.language, a.query, {**b.scores, "cer": Score(2, a.scores["cer"][1])})
        for a, b in zip(old, sample(90, seed=1), strict=True)
    ]
    before, after = summarise(old, seed=0), summarise(new, seed=0)
    for a, b, change in zip(before, after, compare(old, new, seed=0), strict=True):
        assert (a.metric, a.query, a.language) == (change.metric, change.query, change.language)
        assert (a.n, a.groups, a.unit) == (change.n, change.groups, change.unit)
        assert (change.baseline, change.candidate) == pytest.approx((a.value, b.value))
        assert change.value == pytest.approx(b.value - a.value)


def test_swapping_the_two_turns_the_difference_around():
    rng = np.random.default_rng(0)
    old = [item(n, token_f1=float(rng.random())) for n in range(200)]
    new = [item(n, token_f1=float(rng.random())) for n in range(200)]
    there, back = compare(old, new, seed=0)[-1], compare(new, old, seed=0)[-1]
    assert there.value == pytest.approx(-back.value)
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]), abs=0.01)


def test_pairing_tells_what_two_summaries_cannot():
    rng = np.random.default_rng(0)
    levels = rng.uniform(0.1, 0.9, 200)
    old = [item(n, token_f1=float(level)) for n, level in enumerate(levels)]
    new = [item(n, token_f1=float(level - rng.uniform(0, 0.04))) for n, level in enumerate(levels)]
    before, after = summarise(old, seed=0)[-1], summarise(new, seed=0)[-1]
    assert before.interval[0] < after.interval[1]
    assert compare(old, new, seed=0)[-1].interval[1] < 0


def test_equal_answers_leave_room_for_what_was_not_seen():
    items = [item(n, exact_match=1.0) for n in range(30)]
    figure = compare(items, items, seed=0)[-1]
    room = proportion_interval(0, 30)[1]
    assert figure.value == 0
    assert figure.interval == pytest.approx((-room, room))


@pytest.mark.parametrize("better", [False, True])
def test_a_few_worse_items_do_not_rule_out_that_others_get_better(better):
    old = [item(n, exact_match=1.0) for n in range(30)]
    new = [item(n, exact_match=float(n > 0)) for n in range(30)]
    low, high = compare(*((new, old) if better else (old, new)), seed=0)[-1].interval
    seen, unseen = 1 / 30, proportion_interval(0, 30)[1]
    assert (-low if better else high) == pytest.approx(unseen - seen)
    assert (high if better else -low) > seen


def test_the_interval_is_never_narrower_than_the_percentile_bootstrap():
    changes = np.array([-1.0] * 3 + [1.0] + [0.0] * 56)
    rng = np.random.default_rng(9)
    means = [changes[rng.integers(60, size=60)].mean() for _ in range(4000)]
    expected = np.quantile(means, (0.025, 0.975), method="nearest")
    old = [item(n, token_f1=0.5 - change / 2) for n, change in enumerate(changes)]
    new = [item(n, token_f1=0.5 + change / 2) for n, change in enumerate(changes)]
    low, high = compare(old, new, seed=0)[-1].interval
    assert low <= expected[0] + 1e-9
    assert high >= expected[1] - 1e-9


def test_error_rates_may_differ_by_more_than_one():
    old = [item(n, cer=Score(10, 2)) for n in range(30)]
    new = [item(n, cer=Score(0, 2)) for n in range(30)]
    figure = compare(old, new, seed=0)[-1]
    assert figure.value == -5
    assert figure.interval[0] <= -5 < figure.interval[1] < 0


def test_items_that_cannot_be_paired_are_listed_at_once():
    old = [item(n, token_f1=1.0) for n in range(9)]
    new = [item(n, token_f1=1.0, language="zh" if n == 7 else "en") for n in range(5, 10)]
    new[0] = item(5, chrf=1.0)
    new[1] = item(6, token_f1=Score(1, 2))
    with pytest.raises(ParameterError) as caught:
        compare(old, new, seed=0)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "every item of the baseline, got ['q00000', 'q00001', 'q00002']" in lines[0]
    assert "5 in all" in lines[0]
    assert "every item of the candidate, got ['q00009']" in lines[1]
    assert "got ['q00005', 'q00006', 'q00007'] (baseline and candidate, 3 in all)" in lines[2]


def test_hostile_names_are_shown_as_text():
    with pytest.raises(ParameterError) as caught:
        compare([Item("\x1b[31m", "g", "en", "text", {})], [], seed=0)
    assert "\x1b" not in str(caught.value)


def test_importing_the_module_loads_no_scorer():
    heavy = ("jiwer", "sacrebleu", "scipy", "pandas")
    code = f"import sys, lab.quality; print([m for m in {heavy} if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
