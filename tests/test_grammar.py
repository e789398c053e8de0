"""The shipped grammars hold what a corpus needs, and read as sentences."""

import itertools
import re

import pytest

from lab import grammar
from lab.errors import MissingError, ParameterError

TENANTS = ("ecommerce", "education", "medical")


def test_there_is_a_grammar_for_every_shipped_tenant():
    assert tuple(grammar.tenants()) == TENANTS


@pytest.mark.parametrize("tenant", TENANTS)
def test_a_tenant_has_enough_intents_phrasings_and_fillings(tenant):
    tables = grammar.load(tenant)
    assert len(tables.intents) >= 40
    assert len({intent.id for intent in tables.intents}) == len(tables.intents)
    for intent in tables.intents:
        assert intent.phrasings >= 7, intent.id  # one of them is held out
        assert tables.combinations(intent) >= 60, intent.id
    for lang in grammar.LANGUAGES:
        names = [intent.annotation[lang] for intent in tables.intents]
        assert len(set(names)) == len(names), lang


@pytest.mark.parametrize("tenant", TENANTS)
def test_no_two_fillings_ask_the_same_or_answer_the_same(tenant):
    tables = grammar.load(tenant)
    for lang in grammar.LANGUAGES:
        questions, answers = set(), set()
        total_questions = total_answers = 0
        for intent in tables.intents:
            for number in range(tables.combinations(intent)):
                filling = tables.filling(intent, number)
                texts = [grammar.fill(text, filling, lang) for text in intent.questions[lang]]
                questions.update(texts)
                total_questions += len(texts)
                answers.add(grammar.fill(intent.answers[lang], filling, lang))
                total_answers += 1
        assert len(questions) == total_questions, lang
        assert len(answers) == total_answers, lang


@pytest.mark.parametrize("tenant", [*TENANTS, "visual"])
def test_chinese_and_japanese_are_typeset_as_such(tenant):
    if tenant == "visual":
        sentences = {
            lang: list(
                itertools.chain.from_iterable(
                    kind.questions[lang] for kind in grammar.load_visual().kinds
                )
            )
            for lang in grammar.LANGUAGES
        }
    else:
        tables = grammar.load(tenant)
        sentences = {
            lang: [
                text for one in tables.intents for text in (*one.questions[lang], one.answers[lang])
            ]
            for lang in grammar.LANGUAGES
        }
    for lang in ("zh", "ja"):
        for text in sentences[lang]:
            bare = re.sub(r"\{[a-z_0-9]+\}", "", text)
            assert not re.search(r"[,?!;:()]", bare), text
            assert " " not in bare, text
    assert not any(re.search(r"[ぁ-ヿ]", text) for text in sentences["zh"])
    assert all(text.isascii() for text in sentences["en"])
    # Every Japanese sentence shows by its kana that it is Japanese.
    assert all(re.search(r"[ぁ-ヿ]", text) for text in sentences["ja"])


def test_fillings_are_counted_out_completely():
    tables = grammar.load("medical")
    intent = tables.intents[0]
    seen = {
        tuple(value["en"] for value in tables.filling(intent, number).values())
        for number in range(tables.combinations(intent))
    }
    assert len(seen) == tables.combinations(intent)


def test_an_english_sentence_begins_with_a_capital():
    filling = {"drug": {"zh": "药", "en": "aspirin tablet", "ja": "薬"}}
    assert grammar.fill("{drug} in stock?", filling, "en") == "Aspirin tablet in stock?"
    assert grammar.fill("{drug}有货吗？", filling, "zh") == "药有货吗？"


@pytest.mark.parametrize("tenant", ["finance", "objects", "visual", "../medical", ""])
def test_a_tenant_without_grammar_is_refused_with_the_known_ones(tenant):
    with pytest.raises(MissingError, match="ecommerce, education, medical"):
        grammar.load(tenant)


@pytest.mark.parametrize(
    ("questions", "rule"),
    [
        ({"zh": ["{a}吗？"], "en": ["{a}?", "{a}!"], "ja": ["{a}？"]}, "as many phrasings"),
        ({"zh": ["吗？"], "en": ["{a}?"], "ja": ["{a}？"]}, "must use each of a once"),
        ({"zh": ["{a}{a}？"], "en": ["{a}?"], "ja": ["{a}？"]}, "must use each of a once"),
        ({"zh": ["{b}吗？"], "en": ["{a}?"], "ja": ["{a}？"]}, "must use each of a once"),
    ],
)
def test_a_faulty_intent_is_refused_with_its_place(questions, rule):
    entry = {
        "id": "x",
        "annotation": dict.fromkeys(grammar.LANGUAGES, "x"),
        "slots": ["a"],
        "questions": questions,
        "answers": dict.fromkeys(grammar.LANGUAGES, "{a}"),
    }
    with pytest.raises(ParameterError, match=rule) as caught:
        grammar._intent(entry, "toy")
    assert "toy.yaml: x" in str(caught.value)
