"""Tests of lab.inconsistencies: sentences of services, and what is made of them."""

from __future__ import annotations

import numpy as np
import pytest

from lab import inconsistencies, scripts, yardsticks
from lab.inconsistencies import contrary, one_word_changed, words

LANGUAGES = ("zh", "en", "ja")
CONTRARIES = {
    "zh": (
        ("请携带身份证。", "请不要携带身份证。"),
        ("请勿空腹前来。", "请空腹前来。"),
        ("请先不要使用这份胰岛素笔。", "请先使用这份胰岛素笔。"),
        ("周四下午可以取药。", "周四下午不可以取药。"),
        ("优惠券不可以叠加。", "优惠券可以叠加。"),
        ("付款后无法补用优惠券。", "付款后可以补用优惠券。"),
        ("七天内可无理由退货。", "七天内不可无理由退货。"),
        ("开封后不可退换。", "开封后可退换。"),
        ("号作废，需重新预约。", "号作废，不需要重新预约。"),
        ("复诊无需挂号。", "复诊需要挂号。"),
        ("系统会发短信提醒。", "系统不会发短信提醒。"),
        ("运费不是由买家承担。", "运费是由买家承担。"),
        ("这款手表没有现货。", "这款手表有现货。"),
        ("取药二维码七天内有效。", "取药二维码七天内无效。"),
        ("宿舍里有洗衣机。", "宿舍里没有洗衣机。"),
        ("小票能报销。", "小票不能报销。"),
    ),
    "en": (
        ("Please bring your card.", "Please do not bring your card."),
        ("Do not eat beforehand.", "Do eat beforehand."),
        ("Don't eat beforehand.", "Do eat beforehand."),
        ("The scarf can be returned.", "The scarf can not be returned."),
        ("The scarf cannot be returned.", "The scarf can be returned."),
        ("You can't return it.", "You can return it."),
        ("We won't call you.", "We will call you."),
        ("The clinic isn't open on Monday.", "The clinic is open on Monday."),
        ("Shipping is free.", "Shipping is not free."),
        ("Expired coupons are not replaced.", "Expired coupons are replaced."),
        ("Orders have not been shipped.", "Orders have been shipped."),
        ("Orders have been shipped.", "Orders have not been shipped."),
        ("The room has a window.", "The room does not have a window."),
        ("You have thirty days.", "You do not have thirty days."),
        ("There is no need to call.", "There is some need to call."),
        ("It is no longer sold.", "It is still sold."),
        ("We never share your data.", "We always share your data."),
        ("Tap Cancel on the order page.", "Do not tap Cancel on the order page."),
        ("By bus. Bring an ID.", "By bus. Do not bring an ID."),
    ),
    "ja": (
        ("身分証をご提示ください。", "身分証をご提示にならないでください。"),
        ("取消ボタンを押してください。", "取消ボタンを押してはいけません。"),
        ("食事をしないでください。", "食事をしてください。"),
        ("この薬は使わないでください。", "この薬は使わなければなりません。"),
        ("院内で電話をかけてはいけません。", "院内で電話をかけてもかまいません。"),
        (
            "学生証を持参しなければなりません。",
            "学生証を持参しなくてもかまいません。",
        ),
        ("当日でも変更できます。", "当日でも変更できません。"),
        ("セール品は返品できません。", "セール品は返品できます。"),
        ("在庫はありません。", "在庫はあります。"),
        ("送料は無料です。", "送料は無料ではありません。"),
        ("有料ではありません。", "有料です。"),
        ("荷物を発送しました。", "荷物を発送しませんでした。"),
        ("荷物は届きませんでした。", "荷物は届きました。"),
        ("配送は速やかでした。", "配送は速やかではありませんでした。"),
        ("この部屋は大きいです。", "この部屋は大きくないです。"),
    ),
}
# Words that look like a verb of the rules, but are none.
NO_VERBS = {
    "zh": (
        "会计学原理第三章",
        "有机化学与智能导诊",
        "所需的材料",
        "请假条",
        "功能列表",
        "保温杯三个",
        "能不能退货",
        "是否开票",
        "",
    ),
    "en": ("Twelve dollars.", "Every May in Cannes", "in a canister", "Maybe", ""),
    "ja": ("診察室の番号", "すみません。", "間に合うかもしれません。", "申し訳ございません。", ""),
}


@pytest.mark.parametrize(
    ("language", "text", "wanted"),
    [(language, *pair) for language, pairs in CONTRARIES.items() for pair in pairs],
)
def test_a_verb_is_turned(language, text, wanted):
    assert contrary(text, language=language) == wanted


@pytest.mark.parametrize(
    ("language", "text"), [(language, text) for language, some in NO_VERBS.items() for text in some]
)
def test_what_affirms_nothing_cannot_be_denied(language, text):
    assert contrary(text, language=language) is None


def test_an_unknown_language_has_no_rules():
    assert contrary("Il est ouvert.", language="fr") is None


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_was_turned_can_be_turned_again(language):
    for text, other in CONTRARIES[language]:
        again = contrary(other, language=language)
        assert again != other
        if again is None:
            assert other in ("Do eat beforehand.", "We always share your data."), text


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_place_is_changed_in_a_long_text(language):
    text, other = CONTRARIES[language][0]
    assert contrary(text * 500, language=language) == other + text * 499


# --- words ----------------------------------------------------------------------------------------


def test_words_are_pairs_of_characters_that_carry_meaning():
    assert words(["取药窗口", "药"], language="zh") == ("取药", "窗口", "药窗")
    assert words(["トマトを食べる"], language="ja") == ("トマ", "マト")
    assert words(["The open door's open"], language="en") == ("door's", "open")
    assert words([], language="zh") == words(["", "…"], language="ja") == ()


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("zh", "请携带身份证到一楼窗口。"),
        ("en", "Please bring your card to the desk."),
        ("ja", "一階の窓口に身分証を提示してください。"),
    ],
)
def test_one_word_is_changed_and_all_else_stays(language, text):
    known = words([text, *inconsistencies.ELSEWHERE[language]], language=language)
    seen = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        changed = one_word_changed(text, language=language, words=known, rng=rng)
        assert changed != text
        if language == "en":
            differ = [(a, b) for a, b in zip(text.split(), changed.split(), strict=True) if a != b]
            assert len(differ) == 1
        else:
            places = [at for at in range(len(text)) if text[at] != changed[at]]
            assert len(changed) == len(text)
            assert places[-1] - places[0] < 2
        seen.add(changed)
    assert len(seen) > 20


def test_the_same_seed_changes_the_same_word():
    known = words(inconsistencies.ELSEWHERE["en"], language="en")
    one, two = (
        one_word_changed(
            "Bring your card", language="en", words=known, rng=np.random.default_rng(3)
        )
        for _ in range(2)
    )
    assert one == two


@pytest.mark.parametrize(
    ("text", "known"),
    [("", ["other"]), ("at 9", ["other"]), ("open", []), ("Open", ["open", "OPEN"])],
)
def test_where_there_is_nothing_to_change_none_is(text, known):
    rng = np.random.default_rng(0)
    assert one_word_changed(text, language="en", words=known, rng=rng) is None


def test_markup_and_surrogates_do_no_harm():
    for text in ("<script>alert(1)</script>", "\ud800 broken \x00 $x_1$", "a" * 10_000):
        changed = one_word_changed(
            text, language="en", words=[r"\g<0>\1"], rng=np.random.default_rng(0)
        )
        assert r"\g<0>\1" in changed  # put in as it is


# --- elsewhere ------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_comes_from_elsewhere_is_of_its_language(language):
    texts = inconsistencies.ELSEWHERE[language]
    assert len(set(texts)) == len(texts) == len(inconsistencies.ELSEWHERE["en"])
    assert not yardsticks.is_foreign(texts, [language] * len(texts)).any()
    found = {scripts.VERDICTS[at] for at in scripts.detect(scripts.count_scripts(texts))}
    assert language in found
