import numpy as np
import pytest

from lab import defects, normalisation

ROW = {
    "question": "红色连衣裙怎么退货？",
    "answer": "请登录账户。",
    "language": "zh",
    "annotation": "退货流程",
    "group": "g1",
}


@pytest.mark.parametrize(
    ("language", "question"),
    [
        ("zh", "红色连衣裙怎么退货？"),
        ("en", "How do I return the red dress?"),
        ("ja", "赤いドレスの返品方法は？"),
    ],
)
def test_a_near_duplicate_differs_a_little_and_only_in_the_question(language, question):
    kinds = set()
    for seed in range(60):
        row = {**ROW, "language": language, "question": question}
        copy, kind = defects.near_duplicate(row, np.random.default_rng(seed))
        kinds.add(kind)
        assert copy["question"] != question
        assert abs(len(copy["question"]) - len(question)) <= 12
        assert {key: copy[key] for key in ("answer", "language", "annotation")} == {
            key: row[key] for key in ("answer", "language", "annotation")
        }
        assert "group" not in copy
        assert row["question"] == question
    assert len(kinds) == 5


def test_other_punctuation_is_the_same_question_after_normalisation():
    for seed in range(60):
        copy, kind = defects.near_duplicate(ROW, np.random.default_rng(seed))
        if kind == "punctuation":
            assert normalisation.normalise(copy["question"]) == normalisation.normalise(
                ROW["question"]
            )
            return
    pytest.fail("no seed gave this kind")


def test_a_wrong_language_is_another_of_the_tenants():
    tags = {
        defects.wrong_language(ROW, ("zh", "en", "ja"), np.random.default_rng(seed))[0]["language"]
        for seed in range(20)
    }
    assert tags == {"en", "ja"}


def test_clipped_speech_sits_at_full_scale():
    samples = (np.sin(np.linspace(0, 300, 16000)) * 0.1).astype(np.float32)
    spoiled = defects.clipped(samples, np.random.default_rng(0))
    assert 0.05 < np.mean(np.abs(spoiled) >= 1) < 0.3
    assert np.abs(spoiled).max() <= 1
    assert np.abs(samples).max() <= 0.11


def test_silence_is_as_long_and_has_no_voice():
    samples = np.ones(16000, dtype=np.float32) * 0.5
    spoiled = defects.silent(samples, np.random.default_rng(0))
    assert len(spoiled) == 16000
    assert 20 * np.log10(np.sqrt(np.mean(spoiled**2))) == pytest.approx(-75, abs=0.5)
