"""The demo speech: the same everywhere, and of the loudness, noise and length asked for."""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys
import wave
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from lab.errors import MissingError, ParameterError
from lab.voices import LANGUAGES, Voice, speak, unspeakable, voices, write_wav

pytest.importorskip("espeakng_loader")
pytest.importorskip("pyopenjtalk")

TEXTS = {
    "zh": "这个产品有货吗?",
    "en": "Is this product in stock?",
    "ja": "この商品は在庫がありますか?",
}
RATE = 16_000


def quiet(language, index=0, **changes):
    """A voice of the catalogue with next to no room, so that the speech itself can be measured."""
    return replace(voices(language)[index], **({"snr_db": 100.0, "reverb_s": 0.0} | changes))


def rms(samples):
    return np.sqrt(np.mean(np.square(samples, dtype=np.float64)))


def db(ratio):
    return 20 * np.log10(ratio)


def digest(samples):
    return hashlib.sha256(samples.tobytes()).hexdigest()


def spans(samples):
    """Seconds before the first and after the last sample within 45 dB of the peak."""
    loud = np.flatnonzero(np.abs(samples) > np.abs(samples).max() * 10 ** (-45 / 20))
    return loud[0] / RATE, (len(samples) - 1 - loud[-1]) / RATE


# --- the catalogue


@pytest.mark.parametrize("language", LANGUAGES)
def test_catalogue_has_many_distinct_settings_and_never_changes(language):
    catalogue = voices(language)
    assert len(catalogue) >= 12
    assert len({voice.id for voice in catalogue}) == len(catalogue)
    assert {voice.language for voice in catalogue} == {language}
    assert voices(language) == catalogue


def test_no_id_is_shared_between_languages():
    ids = [voice.id for language in LANGUAGES for voice in voices(language)]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("field", "value"),
    [("speed", 1.01), ("pitch", 0.25), ("tract", 1.01), ("level_dbfs", -22.5), ("snr_db", 41.0)],
)
def test_the_id_names_every_setting(field, value):
    voice = voices("zh")[0]
    assert replace(voice, **{field: value}).id != voice.id


def test_an_id_can_be_a_file_name():
    for language in LANGUAGES:
        for voice in voices(language):
            assert not set(voice.id) & set('/\\:*?"<>| ')


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_voice_of_the_catalogue_speaks_at_its_level_and_unlike_the_others(language):
    said = [speak(TEXTS[language], language, voice, seed=1) for voice in voices(language)]
    assert len({digest(samples) for samples in said}) == len(said)
    for voice, samples in zip(voices(language), said, strict=True):
        spoken = samples[int(0.15 * RATE) : -int(0.15 * RATE)]  # without most of the pads
        assert db(rms(spoken)) == pytest.approx(voice.level_dbfs, abs=1.0), voice.id
        # 8 to 14 syllables, at some 3 to 8 a second
        assert 1.2 < len(samples) / RATE < 3.2, voice.id


# --- the samples


@pytest.mark.parametrize("language", LANGUAGES)
def test_samples_are_float32_mono_in_range_and_finite(language):
    samples = speak(TEXTS[language], language, voices(language)[2], seed=0)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() <= 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_sampling_rate_sets_the_number_of_samples(language):
    voice = voices(language)[0]
    at_8k = speak(TEXTS[language], language, voice, seed=0, sampling_rate=8_000)
    at_16k = speak(TEXTS[language], language, voice, seed=0)
    assert len(at_8k) / 8_000 == pytest.approx(len(at_16k) / 16_000, abs=0.02)


@pytest.mark.parametrize("language", LANGUAGES)
def test_silence_around_the_speech_is_a_tenth_to_a_fifth_of_a_second(language):
    for seed in (0, 1, 2):
        before, after = spans(speak(TEXTS[language], language, quiet(language), seed=seed))
        assert 0.09 <= before <= 0.23
        assert 0.09 <= after <= 0.23


def test_longer_texts_take_longer_in_proportion():
    one = speak("退货", "zh", quiet("zh"), seed=0)
    six = speak("退货" * 6, "zh", quiet("zh"), seed=0)
    assert 3 < (len(six) - 0.3 * RATE) / (len(one) - 0.3 * RATE) < 8


def test_a_peak_that_would_clip_makes_the_whole_quieter():
    loud = speak(TEXTS["zh"], "zh", quiet("zh", 4, level_dbfs=-15.0), seed=0).astype(np.float64)
    soft = speak(TEXTS["zh"], "zh", quiet("zh", 4, level_dbfs=-30.0), seed=0).astype(np.float64)
    assert np.abs(loud).max() == pytest.approx(0.99, abs=1e-6)
    scale = rms(loud) / rms(soft)
    assert db(scale) < 14.9
    np.testing.assert_allclose(loud, soft * scale, atol=1e-4)  # a clipped peak would differ


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("snr_db", [10.0, 30.0])
def test_noise_is_as_far_below_the_speech_as_asked(language, snr_db):
    clean = speak(TEXTS[language], language, quiet(language), seed=5).astype(np.float64)
    noisy = speak(TEXTS[language], language, quiet(language, snr_db=snr_db), seed=5)
    before, after = (round(span * RATE) for span in spans(clean))
    speech = clean[before : len(clean) - after]
    assert db(rms(speech) / rms(noisy - clean)) == pytest.approx(snr_db, abs=0.3)


def test_noise_is_pink():
    text = TEXTS["en"] * 3
    clean = speak(text, "en", quiet("en"), seed=5).astype(np.float64)
    noise = speak(text, "en", quiet("en", snr_db=10.0), seed=5) - clean
    power = np.abs(np.fft.rfft(noise)) ** 2
    hertz = np.fft.rfftfreq(len(noise), 1 / RATE)
    octaves = [power[(hertz >= low) & (hertz < 2 * low)].sum() for low in (250, 500, 1000, 2000)]
    # the same in each octave; of white noise each would hold 3 dB more than the one below
    np.testing.assert_allclose(10 * np.log10(octaves / np.mean(octaves)), 0, atol=1.0)


def test_a_room_echoes_after_the_speech():
    dry = speak(TEXTS["en"], "en", quiet("en"), seed=5)
    wet = speak(TEXTS["en"], "en", quiet("en", reverb_s=0.5), seed=5)
    last = slice(-int(0.08 * RATE), None)
    assert len(wet) == len(dry)
    assert rms(wet[last]) > 10 * rms(dry[last])


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_shorter_vocal_tract_moves_the_resonances_up_and_not_the_duration(language):
    def centre_and_seconds(tract):
        samples = speak(TEXTS[language], language, quiet(language, tract=tract), seed=5)
        power = np.abs(np.fft.rfft(samples)) ** 2
        hertz = np.fft.rfftfreq(len(samples), 1 / RATE)
        return (power * hertz).sum() / power.sum(), len(samples) / RATE

    (low, long), (high, short) = centre_and_seconds(0.85), centre_and_seconds(1.15)
    assert high > low
    assert short == pytest.approx(long, rel=0.15)


@pytest.mark.parametrize("language", LANGUAGES)
def test_speed_shortens_the_speech(language):
    slow = speak(TEXTS[language], language, quiet(language, speed=0.8), seed=5)
    fast = speak(TEXTS[language], language, quiet(language, speed=1.25), seed=5)
    assert len(fast) < 0.85 * len(slow)


# --- the same, everywhere


@pytest.mark.parametrize("language", LANGUAGES)
def test_seed_decides_and_what_was_said_before_does_not(language):
    voice = voices(language)[1]
    first = speak(TEXTS[language], language, voice, seed=7)
    for other in LANGUAGES:  # eSpeak's flutter, phase and noise must not run on
        speak(TEXTS[other] * 2, other, voices(other)[5], seed=3)
    assert digest(speak(TEXTS[language], language, voice, seed=7)) == digest(first)
    assert digest(speak(TEXTS[language], language, voice, seed=np.int64(7))) == digest(first)
    assert digest(speak(TEXTS[language], language, voice, seed=8)) != digest(first)


def test_voices_that_draw_on_the_noise_of_the_c_library_repeat_too():
    voice = Voice("en", "gmw/en-US+caleb")
    first = speak(TEXTS["en"], "en", voice, seed=7)
    assert digest(speak(TEXTS["en"], "en", voice, seed=7)) == digest(first)


def test_a_fresh_process_says_the_same():
    program = (
        "import hashlib\n"
        "from lab.voices import speak, voices\n"
        f"for language, text in {TEXTS!r}.items():\n"
        "    said = speak(text, language, voices(language)[1], seed=7)\n"
        "    print(hashlib.sha256(said.tobytes()).hexdigest())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    here = [
        digest(speak(text, language, voices(language)[1], seed=7))
        for language, text in TEXTS.items()
    ]
    assert done.stdout.split() == here  # and the engines print nothing of their own
    assert done.stderr == ""


def test_threads_do_not_disturb_one_another():
    jobs = [(language, index) for language in LANGUAGES for index in (0, 1, 4)]

    def say(job):
        language, index = job
        return digest(speak(TEXTS[language], language, voices(language)[index], seed=index))

    alone = [say(job) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(say, jobs)) == alone


# --- what is read, and how


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("这个产品有货吗?", "zh", []),
        ("红色T恤支持Wi-Fi吗?MRI检查要2小时。", "zh", []),
        ("胸口疼,英雄,贫穷,窘迫", "zh", []),
        ("体温37℃,打50%折,打50%折", "zh", ["℃", "%"]),
        ("アé𠮷", "zh", ["ア", "é", "𠮷"]),
        ("Is the café's T-shirt 50% off, at $5?", "en", []),
        ("红 37℃ α", "en", ["红", "℃", "α"]),
        ("MRI検査は37℃で50%、少々ーっ。", "ja", []),
        ("红色は9〜12㎡", "ja", ["红", "〜", "㎡"]),
    ],
)
def test_unspeakable_lists_what_the_engine_drops_or_misreads(text, language, expected):
    assert unspeakable(text, language) == expected


def test_syllables_that_espeak_lacks_are_as_long_as_their_rhymes():
    # read as English letters, 胸 took 0.4 s more
    for text, rhyme in (("胸口疼", "用口疼"), ("我是[熊]", "我是[永]")):
        said, like = (speak(words, "zh", quiet("zh"), seed=0) for words in (text, rhyme))
        assert abs(len(said) - len(like)) / RATE < 0.2


@pytest.mark.parametrize(
    ("language", "written", "spoken"),
    [
        ("zh", "这件能便宜吗", "这件能骈宜吗"),
        ("zh", "可以重考吗", "可以虫考吗"),
        ("zh", "我选角色", "我选决色"),
        ("ja", "検査は何分かかりますか", "検査はなんぷんかかりますか"),
        ("ja", "何色がありますか", "なに色がありますか"),
        ("ja", "薬の名前は何ですか", "薬の名前はなんですか"),
        ("ja", "何でもいいです", "なんでもいいです"),
        ("ja", "この色は何がいいですか", "この色はなにがいいですか"),
    ],
)
def test_words_are_read_as_a_person_would(language, written, spoken):
    voice = quiet(language)
    said, expected = (speak(text, language, voice, seed=0) for text in (written, spoken))
    assert digest(said) == digest(expected)


@pytest.mark.parametrize(
    ("language", "without", "with_latin"),
    [
        ("zh", "我要买恤", "我要买T恤"),
        ("zh", "检查", "MRI检查"),
        ("ja", "検査です", "MRI検査です"),
        ("ja", "の設定です", "Wi-Fiの設定です"),
    ],
)
def test_latin_words_are_not_dropped(language, without, with_latin):
    voice = quiet(language)
    longer = len(speak(with_latin, language, voice, seed=0))
    assert longer - len(speak(without, language, voice, seed=0)) > 0.1 * RATE


# --- files


def test_wav_is_16_bit_mono_pcm_with_a_true_header(tmp_path):
    path = tmp_path / "a.wav"
    write_wav(np.array([0, 1, -1, 0.5], dtype=np.float32), path)
    riff, size, kind, fmt, length, code, channels, rate, per_second, block, bits, tag, data = (
        struct.unpack("<4sI4s4sIHHIIHH4sI", path.read_bytes()[:44])
    )
    assert (riff, size, kind) == (b"RIFF", 36 + 8, b"WAVE")
    assert (fmt, length, code, channels) == (b"fmt ", 16, 1, 1)
    assert (rate, per_second, block, bits) == (16_000, 32_000, 2, 16)
    assert (tag, data) == (b"data", 8)
    assert struct.unpack("<4h", path.read_bytes()[44:]) == (0, 32767, -32767, 16384)


def test_wav_keeps_speech_to_half_a_step_and_has_the_same_bytes_twice(tmp_path):
    samples = speak(TEXTS["ja"], "ja", voices("ja")[0], seed=0)
    write_wav(samples, tmp_path / "a.wav")
    write_wav(samples, tmp_path / "b.wav")
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getnframes() == len(samples)
        stored = np.frombuffer(file.readframes(len(samples)), dtype="<i2") / 32767
    assert np.abs(stored - samples).max() <= 0.5 / 32767 + 1e-9


@pytest.mark.parametrize(
    "samples",
    [[0.0, np.nan], [0.0, np.inf], [0.0, 1.001], [-1.001], [[0.0], [0.1]]],
    ids=["nan", "inf", "above", "below", "two-dimensional"],
)
def test_wav_refuses_what_pcm_cannot_hold(tmp_path, samples):
    path = tmp_path / "a.wav"
    with pytest.raises(ParameterError, match="samples must be"):
        write_wav(np.array(samples), path)
    assert not path.exists()


# --- errors


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "must not be empty"),
        (" \u3000", "must not be empty"),
        ("有\x00货", "control characters"),
        ("有\ud800货", "lone surrogates"),
        ("有" * 1001, "at most 1000 characters"),
    ],
    ids=["empty", "blank", "control", "surrogate", "long"],
)
def test_texts_that_cannot_be_said_are_refused(text, rule):
    with pytest.raises(ParameterError, match=rule):
        speak(text, "zh", voices("zh")[0], seed=0)
    with pytest.raises(ParameterError, match=rule):
        unspeakable(text, "zh")


@pytest.mark.parametrize(
    ("text", "language"), [("℃", "zh"), ("…", "en"), ("㎡", "ja"), ("。", "ja")]
)
def test_a_text_of_which_nothing_is_left_is_an_error(text, language, capfd):
    with pytest.raises(ParameterError, match="can be said"):
        speak(text, language, voices(language)[0], seed=0)
    assert capfd.readouterr() == ("", "")


def test_more_than_thirty_seconds_is_an_error():
    with pytest.raises(ParameterError, match=r"at most 30 s, got 5\d\.\d .*return policy.*shorten"):
        speak("return policy " * 70, "en", voices("en")[0], seed=0)


def test_unknown_languages_are_named_with_the_known_ones():
    for call in (voices, lambda language: speak("a", language, voices("en")[0], seed=0)):
        with pytest.raises(ParameterError, match="got 'fr'; use one of zh, en, ja"):
            call("fr")


def test_a_voice_of_another_language_is_refused():
    with pytest.raises(ParameterError, match="must speak zh"):
        speak("有货吗", "zh", voices("en")[0], seed=0)


@pytest.mark.parametrize("seed", [-1, 1.5, True, None])
def test_seeds_are_whole_numbers(seed):
    with pytest.raises(ParameterError, match="seed must be a whole number"):
        speak("有货吗", "zh", voices("zh")[0], seed=seed)


@pytest.mark.parametrize("sampling_rate", [7_999, 48_001, 16_000.0, float("nan")])
def test_sampling_rates_are_whole_and_of_speech(sampling_rate):
    with pytest.raises(ParameterError, match="sampling_rate must be a whole number"):
        speak("有货吗", "zh", voices("zh")[0], seed=0, sampling_rate=sampling_rate)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e9, 1e9])
@pytest.mark.parametrize("field", ["speed", "pitch", "tract", "level_dbfs", "snr_db", "reverb_s"])
def test_settings_out_of_range_or_not_finite_are_refused(field, value):
    with pytest.raises(ParameterError, match=f"{field} must be between"):
        replace(voices("en")[0], **{field: value})


@pytest.mark.parametrize(
    ("language", "name"), [("zh", "gmw/en"), ("en", "sit/cmn"), ("ja", "takumi"), ("zh", "../x")]
)
def test_names_of_another_engine_or_language_are_refused(language, name):
    with pytest.raises(ParameterError, match="must be one that the language's engine has"):
        Voice(language, name)


@pytest.mark.parametrize("name", ["gmw/en+nobody", "gmw/en-nowhere"])
def test_voices_that_espeak_lacks_are_not_replaced_silently(name):
    with pytest.raises(ParameterError, match="must be one that the language's engine has"):
        speak("hello", "en", Voice("en", name), seed=0)
    speak("hello", "en", voices("en")[0], seed=0)  # and the engine is usable after it


@pytest.mark.parametrize(
    ("language", "module"),
    [("zh", "espeakng_loader"), ("en", "espeakng_loader"), ("ja", "pyopenjtalk")],
)
def test_a_missing_engine_names_the_extra_to_install(monkeypatch, language, module):
    monkeypatch.setitem(sys.modules, module, None)
    remedy = r'pip install "tuning-lab\[demo\]"'
    with pytest.raises(MissingError, match=remedy):
        speak("a", language, voices(language)[0], seed=0)
    with pytest.raises(MissingError, match=remedy):
        unspeakable("a", language)
