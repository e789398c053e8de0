"""Tokenizers of the demo suite: nothing is lost, and text cannot pose as bytes."""

from __future__ import annotations

import pytest

from lab import vocabularies

TEXTS = ["Red sofa, 3.5 kg", "红色沙发多少钱？", "赤いソファはいくらですか？"] * 5
SPECIAL = ["<pad>", "<s>", "</s>"]


@pytest.fixture(scope="module", params=[True, False], ids=["single", "runs"])
def tokenizer(request):
    return vocabularies.learn(TEXTS, size=420, special=SPECIAL, single_kana=request.param)


@pytest.mark.parametrize(
    "text",
    [
        *TEXTS[:3],
        "",
        " ",
        "  two  spaces ",
        "never seen: 鸟🐦 ﾊﾝｶｸ é",
        "<0x41> stays as it is",
        "line\nbreak\ttab",
        "▁",
    ],
)
def test_what_is_cut_can_be_put_together(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text.replace("▁", " ")  # the mark of a space is a space


def test_special_tokens_come_first(tokenizer):
    assert tokenizer.convert_tokens_to_ids(SPECIAL) == [0, 1, 2]
    assert tokenizer("a</s>b", add_special_tokens=False).input_ids.count(2) == 1


def test_kana_stand_alone_or_in_runs_of_one_script():
    single, runs = (
        vocabularies.learn(TEXTS, size=420, special=SPECIAL, single_kana=choice)
        for choice in (True, False)
    )
    for one in (single, runs):
        assert one.tokenize("红色沙发") == list("红色沙发")
        assert one.tokenize("Red sofa") == ["Red", "▁sofa"]
    assert single.tokenize("ソファは") == list("ソファは")
    assert runs.tokenize("赤いソファはいくらですか") == ["赤", "い", "ソファ", "はいくらですか"]


@pytest.mark.parametrize("around", ["{}が", "赤い{}", "《{}》", "红{}沙"])
def test_a_name_has_the_same_tokens_whatever_stands_beside_it(tokenizer, around):
    cut = tokenizer.tokenize(around.format("ソファ"))
    name = tokenizer.tokenize("ソファ")
    assert any(cut[at : at + len(name)] == name for at in range(len(cut)))


def test_numbers_and_punctuation_stand_alone(tokenizer):
    assert tokenizer.tokenize("3.5") == ["3", ".", "5"]


def test_a_token_can_be_put_last():
    before = vocabularies.learn(TEXTS, size=420, special=SPECIAL, single_kana=True)
    after = vocabularies.with_last(before, "<s>")
    assert after.convert_tokens_to_ids(["<pad>", "</s>", "<s>"]) == [0, 1, len(before) - 1]
    for text in (*TEXTS[:3], "鸟<s>🐦"):
        one, other = before(text).input_ids, after(text).input_ids
        assert before.convert_ids_to_tokens(one) == after.convert_ids_to_tokens(other)
        assert before.decode(one) == after.decode(other)


def test_case_is_folded_on_request():
    tokenizer = vocabularies.learn(
        TEXTS, size=420, special=SPECIAL, single_kana=True, lowercase=True
    )
    assert tokenizer("RED").input_ids == tokenizer("red").input_ids


def test_a_frame_is_put_around_and_text_is_cut(tokenizer):
    framed = vocabularies.framed(tokenizer, begin="<s>", end="</s>", pad="<pad>", most=6)
    both = framed(["红", "红色沙发" * 9], padding=True, truncation=True).input_ids
    assert [row[0] for row in both] == [1, 1]
    assert [len(row) for row in both] == [6, 6]
    assert both[0][-1] == 0
    assert both[1][-1] == 2


def test_the_same_texts_give_the_same_vocabulary():
    first, second = (
        vocabularies.learn(TEXTS, size=420, special=SPECIAL, single_kana=False) for _ in range(2)
    )
    assert first.get_vocab() == second.get_vocab()


def test_of_characters_that_are_as_rare_the_same_are_kept_every_time():
    texts = ["".join(chr(0x4E00 + at) for at in range(400)), "abc"] * 2
    learnt = {
        vocabularies.learn(
            texts, size=460, special=SPECIAL, single_kana=True, alphabet=150
        ).backend_tokenizer.to_str()
        for _ in range(3)
    }
    assert len(learnt) == 1
