from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from lab.duplicates import (
    Copies,
    contradicting,
    exact_copies,
    image_copies,
    near_copies,
    question_similarity,
)
from lab.errors import ParameterError, ShapeError
from lab.media import MediaError
from lab.normalisation import digest

HAN = [chr(code) for code in range(0x4E00, 0x4E00 + 600)]


def keys(*texts):
    return np.array([digest(text) for text in texts], dtype=np.uint64)


def pairs(copies: Copies):
    return list(zip(copies.rows.tolist(), copies.originals.tolist(), strict=True))


def near(texts, answers=None, *, similarity=0.8, preference=None, seed=0):
    answers = answers if answers is not None else ["同"] * len(texts)
    return near_copies(
        pa.array(texts, type=pa.large_string()),
        keys(*answers),
        preference=np.arange(len(texts)) if preference is None else np.array(preference),
        similarity=similarity,
        seed=seed,
    )


# --- exact copies and contradictions -------------------------------------------------------------


def test_rows_equal_in_question_and_answer_are_copies_of_the_first():
    questions = keys("a", "b", "a", "a", "a")
    answers = keys("1", "1", "1", "2", "1")
    found = exact_copies(questions, answers, preference=np.arange(5))
    assert pairs(found) == [(2, 0), (4, 0)]
    assert found.similarity.tolist() == [1.0, 1.0]


def test_the_preferred_row_is_the_original_wherever_it_stands():
    same = keys("a", "a", "a")
    assert pairs(exact_copies(same, same, preference=np.array([2, 1, 0]))) == [(0, 2), (1, 2)]


def test_two_answers_to_one_question_contradict_within_their_scope():
    questions = keys("a", "a", "a", "b", "b", "c", "a")
    answers = keys("1", "2", "1", "1", "1", "3", "9")
    scope = np.array([0, 0, 0, 0, 0, 0, 1])
    expected = [True, True, True, False, False, False, False]
    assert contradicting(questions, answers, scope).tolist() == expected


def test_no_rows_and_one_row():
    none, one = keys(), keys("a")
    assert pairs(exact_copies(none, none, preference=np.arange(0))) == []
    assert pairs(exact_copies(one, one, preference=np.arange(1))) == []
    assert contradicting(none, none, np.arange(0)).tolist() == []
    assert contradicting(one, one, np.arange(1)).tolist() == [False]
    assert pairs(near([])) == pairs(near(["如何退货"])) == []


def test_columns_of_different_length_are_refused():
    with pytest.raises(ShapeError, match=r"must have one length, got \[2, 1, 2\]"):
        exact_copies(keys("a", "b"), keys("a"), preference=np.arange(2))


# --- near copies ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("怎么办理退货手续", "怎么办理退货手续", 1.0),
        ("怎么办理退货手续", "怎么办里退货手续", 7 / 8),  # changed
        ("怎么办理退货手续", "怎么办理退货续", 7 / 8),  # dropped
        ("怎么办理退货手续", "怎么办理理退货手续", 8 / 9),  # doubled
        ("怎么办理退货手续", "怎么理办退货手续", 7 / 8),  # swapped
        ("怎么办理退货手续", "请问怎么办理退货手续", 1.0),  # lead-in
        ("返品の方法は", "お尋ねします返品の方法は", 1.0),  # as long as the rest
        ("返品の方法は", "大変お尋ねします返品の方法は", 6 / 14),  # longer than the rest
        ("如何退货", "多久发货", 1 / 4),
        ("", "", 1.0),
        ("", "退", 0.0),
    ],
)
def test_similarity_of_two_questions(one, other, expected):
    assert question_similarity(one, other) == pytest.approx(expected)
    assert question_similarity(other, one) == pytest.approx(expected)


def test_alike_questions_are_copies_only_with_the_same_answer():
    texts = ["怎么办理退货手续", "怎么办理退货续", "怎么办里退货手续", "多久可以发货"]
    assert pairs(near(texts, ["a", "a", "b", "a"])) == [(1, 0)]


def test_similarity_at_the_limit_counts():
    texts = ["abcde", "abcdx"]
    assert pairs(near(texts, similarity=0.8)) == [(1, 0)]
    assert pairs(near(texts, similarity=0.81)) == []


def test_a_low_similarity_may_join_texts_of_very_different_length():
    texts = ["abcd", "xabycdzzzzzz"]  # 8 edits of 12 characters
    assert pairs(near(texts, similarity=0.33)) == [(1, 0)]
    assert pairs(near(texts, similarity=0.34)) == []


def test_a_chain_of_small_edits_keeps_what_differs_from_all_that_is_kept():
    texts = ["abcdefghij", "abcdefghiX", "abcdefghYX", "abcdefgZYX"]
    assert pairs(near(texts, similarity=0.9)) == [(1, 0), (3, 2)]


def test_the_less_preferred_row_is_the_copy():
    assert pairs(near(["怎么办理退货手续", "怎么办理退货续"], preference=[1, 0])) == [(0, 1)]


@pytest.mark.parametrize("similarity", [0.0, -1.0, 1.01, float("nan")])
def test_a_similarity_out_of_range_is_refused(similarity):
    with pytest.raises(ParameterError, match=r"near_duplicate must be in \(0, 1\]"):
        near(["a"], similarity=similarity)


def test_small_buckets_against_all_pairs():
    rng = np.random.default_rng(1)
    texts = ["".join(rng.choice(HAN[:6], size=8)) for _ in range(60)]
    answers = [str(number) for number in rng.integers(3, size=60)]
    kept, expected = [], []
    for at in range(60):
        alike = [
            to
            for to in kept
            if answers[to] == answers[at] and question_similarity(texts[to], texts[at]) >= 0.6
        ]
        if alike:
            expected.append(at)
        else:
            kept.append(at)
    assert near(texts, answers, similarity=0.6).rows.tolist() == expected
    assert len(expected) > 5


def test_one_answer_to_thousands_of_questions():
    rng = np.random.default_rng(2)
    base = ["".join(rng.choice(HAN, size=10)) for _ in range(3000)]
    copies = []
    for number in range(200):
        text, at = base[number * 3], int(rng.integers(1, 8))
        copies.append(
            (
                text[:at] + text[at + 1 :],
                text[:at] + text[at] + text[at:],
                text[:at] + text[at + 1] + text[at] + text[at + 2 :],
                "您好请问" + text,
            )[number % 4]
        )
    found = near(base + copies)
    planted = set(range(3000, 3200))
    assert len(planted & set(found.rows.tolist())) >= 195
    assert set(found.rows.tolist()) <= planted
    assert near(base + copies).rows.tolist() == found.rows.tolist()


def test_work_is_bounded_where_thousands_of_rows_are_all_alike():
    texts = [f"订单{number:06d}什么时候可以发货呢" for number in range(20_000)]
    found = near(texts)
    assert len(found.rows) > 10_000
    alike = [question_similarity(texts[r], texts[o]) for r, o in pairs(found)[:200]]
    assert min(alike) >= 0.8


def test_huge_texts_are_compared_by_their_start():
    start = "退" * 499
    texts = [start + "甲" + "乙" * 100_000, start + "丙" + "丁" * 100_000]
    assert pairs(near(texts, similarity=0.99)) == [(1, 0)]


def test_progress_comes_to_its_end():
    calls = []
    near_copies(
        pa.array(["a", "b", "c", *(str(n) for n in range(100))], type=pa.large_string()),
        keys("1", "1", "2", *["3"] * 100),
        preference=np.arange(103),
        similarity=0.8,
        seed=0,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls[-1][0] == calls[-1][1]


# --- images --------------------------------------------------------------------------------------


def picture(colour="red", shape=(100, 100, 400, 400), *, quality=92):
    image = Image.new("RGB", (512, 512), "white")
    ImageDraw.Draw(image).ellipse(shape, fill=colour)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def compare(tmp_path, contents, hashes):
    files = []
    for number, content in enumerate(contents):
        files.append(tmp_path / f"{number}.jpg")
        files[-1].write_bytes(content)
    digests = np.array([str(hash(content)) for content in contents], dtype=object)
    return pairs(image_copies(digests, np.array(hashes, dtype=np.uint64), files))


def test_the_same_file_and_its_recoded_copy_are_copies(tmp_path):
    contents = [picture(), picture("blue"), picture(), picture(quality=60)]
    assert compare(tmp_path, contents, [0b1111, 2**40, 0b1111, 0b1110]) == [(2, 0), (3, 0)]


def test_icons_that_share_a_hash_are_told_apart_by_their_pixels(tmp_path):
    contents = [picture("red"), picture("blue"), picture("red", (100, 100, 400, 300))]
    assert compare(tmp_path, contents, [7, 7, 7]) == []


def test_images_with_distant_hashes_are_not_read(tmp_path):
    assert compare(tmp_path, [b"not read", b"nor this"], [0, 0xF]) == []


def test_a_file_that_is_gone_is_named(tmp_path):
    gone = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    with pytest.raises(MediaError, match="must exist"):
        image_copies(np.array(["1", "2"], dtype=object), np.zeros(2, dtype=np.uint64), gone)


@pytest.mark.parametrize("bits", [0, 1, 2, 3])
def test_hashes_up_to_three_bits_apart_are_alike_wherever_the_bits_are(tmp_path, bits):
    rng = np.random.default_rng(bits)
    for _ in range(20):
        one = int(rng.integers(2**63))
        flips = sum(1 << int(bit) for bit in rng.choice(64, size=bits, replace=False))
        assert compare(tmp_path, [picture(), picture(quality=60)], [one, one ^ flips]) == [(1, 0)]


def test_no_images():
    none = image_copies(np.array([], dtype=object), np.array([], dtype=np.uint64), [])
    assert pairs(none) == []
