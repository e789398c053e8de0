from __future__ import annotations

import numpy as np
import pytest

from lab.inspection import audio_defects, image_defects, odd_pace


def images(n=50, **special):
    facts = {
        "brightness": np.full(n, 120.0),
        "contrast": np.full(n, 40.0),
        "sharpness": np.full(n, 150.0),
    }
    for name, values in special.items():
        facts[name][: len(values)] = values
    return image_defects(**facts)


@pytest.mark.parametrize(
    ("special", "expected"),
    [
        ({}, {}),
        ({"brightness": [19.9]}, {0: "too dark (mean luma 19.9)"}),
        ({"brightness": [20.0, 250.0]}, {}),
        ({"brightness": [252.0]}, {0: "too bright (mean luma 252)"}),
        ({"contrast": [3.9]}, {0: "blank (contrast 3.9)"}),
        ({"sharpness": [14.9, 15.0]}, {0: "blurred (sharpness 14.9)"}),
        (
            {"brightness": [1.0], "contrast": [0.0], "sharpness": [0.0]},
            {0: "too dark (mean luma 1)"},
        ),
    ],
)
def test_image_rules(special, expected):
    assert images(**special) == expected


def test_a_tenant_whose_images_are_all_soft_has_no_blurred_ones():
    flat = np.full(20, 120.0)
    assert image_defects(flat, flat, np.full(20, 10.0)) == {}
    assert image_defects(flat, flat, np.r_[0.5, np.full(19, 10.0)]) == {
        0: "blurred (sharpness 0.5)"
    }


def test_no_images_and_one_image():
    none = np.zeros(0)
    assert image_defects(none, none, none) == {}
    assert image_defects(np.array([120.0]), np.array([40.0]), np.array([3.0])) == {}


@pytest.mark.parametrize(
    ("rms_dbfs", "clipped", "silent", "expected"),
    [
        (-25.0, 0.0, 0.1, None),
        (-25.0, 0.001, 0.94, None),
        (-50.0, 0.0, 0.0, None),
        (-50.1, 0.0, 0.0, "far too quiet (-50.1 dBFS)"),
        (-6.0, 0.12, 0.0, "clipped (12.0% of the samples)"),
        (-75.0, 0.0, 1.0, "silent (100% of the time)"),
        (-np.inf, 0.0, 1.0, "silent (100% of the time)"),
        (-np.inf, 0.0, 0.0, "far too quiet (-inf dBFS)"),
    ],
)
def test_audio_rules(rms_dbfs, clipped, silent, expected):
    found = audio_defects(np.array([rms_dbfs]), np.array([clipped]), np.array([silent]))
    assert found == ({} if expected is None else {0: expected})


def test_a_recording_far_longer_than_its_text_is_of_an_odd_pace():
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 30, size=200)
    duration = 0.5 + 0.2 * tokens + rng.normal(0, 0.1, size=200)
    assert not odd_pace(duration, tokens).any()
    duration[[3, 50]] += [6.0, -3.0]
    assert np.flatnonzero(odd_pace(duration, tokens)).tolist() == [3, 50]


def test_too_few_recordings_or_one_length_tell_no_pace():
    assert not odd_pace(np.r_[np.ones(18), 99.0], np.arange(19)).any()
    assert not odd_pace(np.r_[np.ones(30), 99.0], np.full(31, 5)).any()
    assert odd_pace(np.zeros(0), np.zeros(0)).tolist() == []
