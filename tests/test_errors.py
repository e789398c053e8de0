import pytest

from lab import errors


def test_every_error_is_of_the_family_and_of_a_builtin():
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, errors.LabError)
        and kind is not errors.LabError
    ]
    assert len(kinds) >= 6
    for kind in kinds:
        assert any(
            base.__module__ == "builtins" and base not in (Exception, object)
            for base in kind.__mro__[1:]
            if base not in (Exception, BaseException)
        )


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain", "plain"),
        ("退货流程 返品", "退货流程 返品"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb", "a\\nb"),
        ("\u202eevil", "\\u202eevil"),
        ("\ud800", "\\ud800"),
        ("😀", "😀"),
        ("\u2028", "\\u2028"),
    ],
)
def test_what_acts_is_written_as_its_escape(text, safe):
    assert errors.printable(text) == safe


def test_shown_is_one_short_line():
    assert errors.shown("x" * 500).endswith("…")
    assert len(errors.shown("x" * 500)) == 80
    assert errors.shown(1.5) == "1.5"


def test_a_message_has_rule_value_place_remedy():
    text = errors.message("n must be positive", got=-1, place="a.yaml:3", remedy="use 1")
    assert text == "n must be positive, got -1 (a.yaml:3); use 1"
