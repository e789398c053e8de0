"""Conditions: what they mean, and where they stop being ones."""

from __future__ import annotations

import itertools

import pytest

from lab import conditions
from lab.conditions import Both, Either, Fact, Not
from lab.errors import ParameterError

A, B, C = (Fact(name, "present") for name in "abc")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.present", A),
        ("  a.present\t", A),
        ("a . present", A),
        ("a.completed", Fact("a", "completed")),
        ("文本输入.present", Fact("文本输入", "present")),
        ("テキスト-1.present", Fact("テキスト-1", "present")),
        ("a.present || b.present || c.present", Either((A, B, C))),
        ("a.present||b.present&&c.present", Either((A, Both((B, C))))),
        ("(a.present || b.present) && c.present", Both((Either((A, B)), C))),
        ("!a.present && b.present", Both((Not(A), B))),
        ("!(a.present && b.present)", Not(Both((A, B)))),
        ("!!a.present", Not(Not(A))),
        ("((a.present))", A),
        ("android.present", Fact("android", "present")),
    ],
)
def test_a_condition_is_read(text, expected):
    assert conditions.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "a.present || b.present && !c.present",
        "!(a.present || b.present) && c.present || a.present",
        "a.present && (b.present || !(c.present && !a.present))",
    ],
)
def test_it_means_what_python_takes_the_same_words_for(text):
    python = text.replace("||", " or ").replace("&&", " and ").replace("!", " not ")
    python = python.replace(".present", "")
    for values in itertools.product([False, True], repeat=3):
        world = dict(zip("abc", values, strict=True))
        found = conditions.holds(conditions.parse(text), lambda fact, of=world: of[fact.node])
        assert found == eval(python, {}, world), (text, world)


def test_the_facts_are_told_in_their_order():
    condition = conditions.parse("!(b.present || a.present) && b.completed")
    assert list(conditions.facts(condition)) == [B, A, Fact("b", "completed")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "must have a fact here, got 'the end' (character 1)"),
        ("a.present ||", "must have a fact here, got 'the end' (character 13)"),
        ("|| a.present", "must have a fact here, got '||' (character 1)"),
        ("a", "must be followed by .present or .completed, got 'the end' (character 2)"),
        ("a.there", "must be one of present, completed, got 'there' (character 3)"),
        ("a.present b.present", "go on with && or ||, got 'b' (character 11)"),
        ("a.present)", "got ')' (character 10); close it where it is opened"),
        ("(a.present", "must be closed, got 'the end' (character 11)"),
        ("a.present & b.present", "got '&' (character 11); write &&"),
        ("a.present | b.present", "got '|' (character 11); write ||"),
        ("a.present and b.present", "got 'and' (character 11); write &&"),
        ("not a.present", "got 'not' (character 1); write !"),
        ("a.present == true", "got '=' (character 11); write && or ||"),
        ("1a.present", "got '1' (character 1)"),
        ("__import__('os').system('true')", "got '(' (character 11)"),
        ("a.present\x1b[31m", r"got '\x1b' (character 10)"),
        ("!" * 100 + "a.present", "nest at most 20 deep"),
        ("(" * 100 + "a.present" + ")" * 100, "nest at most 20 deep"),
        ("a.present || " * 100, "at most 1000 characters long, got '1300 characters'"),
    ],
)
def test_where_it_is_none_is_told(text, told):
    with pytest.raises(ParameterError) as caught:
        conditions.parse(text)
    assert told in str(caught.value)


def test_a_long_one_is_read():
    text = " || ".join(["a.present"] * 70)
    assert conditions.parse(text) == Either((A,) * 70)
