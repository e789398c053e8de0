"""Speech for the demo corpora: text in, 16 kHz samples out, the same for the same seed.

Owns the catalogue of voice settings, the two speech engines, and what is done to their sound: the
silence around it, the room, the loudness, the noise. Knows nothing of tenants, questions or files
beyond writing one WAV.

The engines are the optional extra ``demo``; the lab ships neither them nor their voices:

- Chinese and English: eSpeak NG (GPL-3.0-or-later), from the package espeakng-loader.
- Japanese: Open JTalk with HTS Engine (Modified BSD), from the package pyopenjtalk-plus (MIT). Its
  voice is HTS Voice "Mei", (c) 2009-2013 Nagoya Institute of Technology, released by the MMDAgent
  Project Team under CC BY 3.0: who publishes recordings made with it names it.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import math
import re
import sys
import threading
import unicodedata
import warnings
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from numbers import Integral
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from lab.errors import MissingError, ParameterError, message, shown

LANGUAGES = ("zh", "en", "ja")
SAMPLING_RATE_HZ = 16_000
MAX_SECONDS = 30.0
MAX_CHARS = 1_000  # more cannot be said in MAX_SECONDS, and is refused before it is synthesised

_PAD_S = (0.1, 0.2)  # silence left before and after the speech, drawn per utterance
_FRAME_S = 0.01
_SILENCE_DB = -45.0  # a frame this far below the loudest one counts as silence
_REVERB_DB = -10.0  # energy of the room's tail relative to the direct sound
_PEAK = 0.99

_ESPEAK_RATE_WPM = 175  # eSpeak's own defaults: a Voice varies from these
_ESPEAK_PITCH = 50
_ESPEAK_SEMITONES = 12 / 50  # one step of eSpeak's pitch: its scale of 0..100 spans two octaves
_ESPEAK_ASKED = {"zh": "sit/cmn", "en": "gmw/en-US"}  # the voice asked how a character is read
_MAX_PITCH = {"zh": 8.0, "en": 8.0, "ja": 14.0}  # eSpeak's scale has no room for more
_NAMES = {
    "zh": re.compile(r"sit/cmn(\+\w+)?"),
    "en": re.compile(r"gmw/en(-[\w-]+)?(\+\w+)?"),
    "ja": re.compile("mei"),
}

# eSpeak 1.52 has no rule for these three syllables and reads them out as English letters, so they
# are handed over as phonemes; the vowel is that of 用 (yong).
_ZH_PHONEMES = {
    char: phonemes
    for phonemes, chars in {
        "S;j'ong55": "兄凶匈胸汹芎",
        "S;j'ong35": "雄熊",
        "tS;hj'ong35": "穷琼穹邛茕",
        "tS;j'ong214": "窘炯迥",
    }.items()
    for char in chars
}
# Words that an engine misreads, and what it is handed instead: another spelling of the right sound.
_READINGS = {
    "zh": (
        (re.compile("便宜"), "骈宜"),  # read biàn, should be pián
        (re.compile("重(?=[做置考发启读拍学看听寄])"), "虫"),  # zhòng, should be chóng
        (re.compile("角色"), "决色"),  # jiǎo, should be jué
    ),
    "en": (),
    "ja": (
        (re.compile("何分間"), "なんぷんかん"),
        (re.compile("何分"), "なんぷん"),  # read ナンフン
        (re.compile("何色(?=[がはをにのもで])"), "なに色"),  # ナンショク: how many colours
    ),
}
# 何 is なん before a sound of these rows (何ですか, 何でも, 何なら), なに elsewhere (何が, 何を).
_JA_NAN_BEFORE = tuple("タテトダデドナノ")
_READ_ALOUD = frozenset("%‰&@#*/~〜")  # punctuation that a person would say, not pause at

_engine_lock = threading.RLock()  # both engines keep their state in globals

_SynthCallback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True)
class Voice:
    """One setting of everything that is varied between recordings.

    Attributes:
        language: zh, en or ja.
        name: the engine's voice: an eSpeak voice file with a variant after ``+``, or ``mei``.
        speed: rate of speech; 1 is the engine's own.
        pitch: semitones above the engine's own pitch; eSpeak moves its lowest tone by so much and
            keeps the distance in Hz to the highest.
        tract: scale of all resonances, as of a shorter (> 1) or longer vocal tract.
        level_dbfs: RMS of the speech, in dB relative to full scale.
        snr_db: speech above the room's noise, in dB.
        reverb_s: time in which the room's echo falls by 60 dB; 0 for none.
    """

    language: str
    name: str
    speed: float = 1.0
    pitch: float = 0.0
    tract: float = 1.0
    level_dbfs: float = -23.0
    snr_db: float = 30.0
    reverb_s: float = 0.0

    def __post_init__(self) -> None:
        _require_language(self.language)
        if not _NAMES[self.language].fullmatch(self.name):
            raise _unknown_voice(self.name)
        for field, low, high in (
            ("speed", 0.5, 2.0),
            ("pitch", -_MAX_PITCH[self.language], _MAX_PITCH[self.language]),
            ("tract", 0.8, 1.25),
            ("level_dbfs", -50.0, -15.0),
            ("snr_db", 0.0, 100.0),
            ("reverb_s", 0.0, 1.0),
        ):
            value = getattr(self, field)
            if not low <= value <= high:  # also refuses NaN
                raise ParameterError(
                    message(
                        f"{field} must be between {low:g} and {high:g}",
                        got=value,
                        place=f"voice {self.name}",
                        remedy="take a voice of the catalogue, lab.voices.voices(language)",
                    )
                )

    @property
    def id(self) -> str:
        """The setting in words, the same for equal settings only; safe as a label or file name."""
        name = self.name.rpartition("/")[2].replace("+", "-")
        return (
            f"{name}-speed{self.speed:g}-pitch{self.pitch:+g}-tract{self.tract:g}"
            f"-level{self.level_dbfs:g}-snr{self.snr_db:g}-room{self.reverb_s:g}"
        )


def voices(language: str) -> tuple[Voice, ...]:
    """Return the catalogue of a language: 14 settings, always the same and in the same order."""
    _require_language(language)
    return tuple(Voice(language, *setting) for setting in _CATALOGUE[language])


# name, speed, pitch, tract, level_dbfs, snr_db, reverb_s
_CATALOGUE: dict[str, tuple[tuple[str, float, float, float, float, float, float], ...]] = {
    "zh": (
        ("sit/cmn", 1.00, 0.0, 1.00, -23.0, 40.0, 0.00),
        ("sit/cmn+f2", 0.95, 0.0, 1.00, -22.0, 30.0, 0.15),
        ("sit/cmn+m3", 1.05, -0.5, 1.00, -25.0, 25.0, 0.20),
        ("sit/cmn+f4", 1.00, 0.5, 1.00, -27.0, 35.0, 0.00),
        ("sit/cmn+m1", 0.90, 0.0, 1.00, -21.0, 20.0, 0.10),
        ("sit/cmn+f1", 1.10, 0.0, 1.00, -24.0, 22.0, 0.25),
        ("sit/cmn+m7", 0.95, 1.0, 1.00, -26.0, 30.0, 0.15),
        ("sit/cmn+f3", 0.90, -1.0, 1.00, -23.0, 28.0, 0.10),
        ("sit/cmn+m6", 1.15, 0.0, 1.00, -28.0, 32.0, 0.30),
        ("sit/cmn", 0.88, 1.5, 1.05, -22.0, 18.0, 0.20),
        ("sit/cmn+m2", 1.00, -1.5, 0.97, -24.0, 26.0, 0.00),
        ("sit/cmn+f2", 1.12, 1.0, 1.04, -29.0, 24.0, 0.10),
        ("sit/cmn+m4", 1.08, 0.5, 1.00, -21.0, 36.0, 0.25),
        ("sit/cmn+f4", 0.92, -0.5, 0.97, -25.0, 21.0, 0.15),
    ),
    "en": (
        ("gmw/en-US", 1.00, 0.0, 1.00, -23.0, 40.0, 0.00),
        ("gmw/en+f2", 0.95, 0.0, 1.00, -22.0, 30.0, 0.15),
        ("gmw/en-US+m3", 1.05, -0.5, 1.00, -25.0, 25.0, 0.20),
        ("gmw/en-US+f4", 1.00, 0.5, 1.00, -27.0, 35.0, 0.00),
        ("gmw/en+m1", 0.90, 0.0, 1.00, -21.0, 20.0, 0.10),
        ("gmw/en-US+f1", 1.10, 0.0, 1.00, -24.0, 22.0, 0.25),
        ("gmw/en-GB-x-rp+m7", 0.95, 1.0, 1.00, -26.0, 30.0, 0.15),
        ("gmw/en-US+f3", 0.90, -1.0, 1.00, -23.0, 28.0, 0.10),
        ("gmw/en+m6", 1.15, 0.0, 1.00, -28.0, 32.0, 0.30),
        ("gmw/en", 0.88, 1.5, 1.05, -22.0, 18.0, 0.20),
        ("gmw/en-US+m2", 1.00, -1.5, 0.97, -24.0, 26.0, 0.00),
        ("gmw/en-US+f2", 1.12, 1.0, 1.04, -29.0, 24.0, 0.10),
        ("gmw/en-US+m4", 1.08, 0.5, 1.00, -21.0, 36.0, 0.25),
        ("gmw/en-GB-x-rp+f4", 0.92, -0.5, 0.97, -25.0, 21.0, 0.15),
    ),
    "ja": (
        ("mei", 1.00, -3.0, 1.00, -23.0, 40.0, 0.00),
        ("mei", 0.95, -12.0, 0.86, -22.0, 30.0, 0.15),
        ("mei", 1.05, -1.0, 1.04, -25.0, 25.0, 0.20),
        ("mei", 1.00, -13.0, 0.84, -27.0, 35.0, 0.00),
        ("mei", 0.90, -5.0, 0.97, -21.0, 20.0, 0.10),
        ("mei", 1.10, -10.0, 0.88, -24.0, 22.0, 0.25),
        ("mei", 0.95, 0.0, 1.07, -26.0, 30.0, 0.15),
        ("mei", 0.90, -11.5, 0.87, -23.0, 28.0, 0.10),
        ("mei", 1.15, -2.0, 1.02, -28.0, 32.0, 0.30),
        ("mei", 0.88, -6.5, 0.94, -22.0, 18.0, 0.20),
        ("mei", 1.00, -9.0, 0.91, -24.0, 26.0, 0.00),
        ("mei", 1.12, -4.0, 1.00, -29.0, 24.0, 0.10),
        ("mei", 1.08, -12.5, 0.85, -21.0, 36.0, 0.25),
        ("mei", 0.92, -5.5, 0.96, -25.0, 21.0, 0.15),
    ),
}


def speak(
    text: str,
    language: str,
    voice: Voice,
    *,
    seed: int,
    sampling_rate: int = SAMPLING_RATE_HZ,
) -> NDArray[np.float32]:
    """Say a text.

    The speech lies between two pads of 0.1 to 0.2 s in which only the room is heard. Its RMS is
    ``voice.level_dbfs``, unless a peak would clip: then the whole is that much quieter.
    The same arguments give the same samples, in any process and after any other utterance.

    Args:
        text: what is said, at most 1,000 characters.
        language: zh, en or ja; the voice's own.
        voice: one setting, usually of the catalogue.
        seed: 0 or more; of the pads, the voice's breath, the room and the noise.
        sampling_rate: of the result, in Hz, 8,000 to 48,000.

    Returns: (samples,), in [-1, 1].
    Raises: ParameterError if an argument breaks its rule, nothing in the text can be said, or it
        takes more than 30 s; MissingError without the extra ``demo``.
    """
    _require_language(language)
    _require_text(text)
    if voice.language != language:
        raise ParameterError(
            message(
                f"the voice must speak {language}",
                got=voice.id,
                remedy=f"take one of lab.voices.voices({language!r})",
            )
        )
    seed = _whole("seed", seed, 0, 2**63)
    sampling_rate = _whole("sampling_rate", sampling_rate, 8_000, 48_000)
    spoken = text
    for written, read in _READINGS[language]:
        spoken = written.sub(read, spoken)
    rng = np.random.default_rng(seed)
    # Playing the engine's sound `tract` times faster scales the resonances; the engine is asked
    # for the pitch and the speed that then come out as wanted.
    speed = voice.speed / voice.tract
    pitch = voice.pitch - 12 * math.log2(voice.tract)
    if language == "ja":
        raw, raw_rate = _open_jtalk(spoken, speed=speed, pitch=pitch)
    else:
        raw, raw_rate = _espeak(
            spoken, name=voice.name, speed=speed, pitch=pitch, seed=int(rng.integers(1, 2**31))
        )
    if not raw.any():
        raise ParameterError(
            message(
                f"the text must hold something that can be said in {language}",
                got=text,
                remedy="see lab.voices.unspeakable(text, language)",
            )
        )
    seconds = len(raw) / raw_rate / voice.tract
    if seconds > MAX_SECONDS:
        raise ParameterError(
            message(
                f"speech must last at most {MAX_SECONDS:g} s",
                got=round(seconds, 1),
                place=f"the text {shown(text)}",
                remedy="shorten the text or raise the voice's speed",
            )
        )
    clean = _resample(raw, Fraction(sampling_rate, raw_rate) / Fraction(str(voice.tract)))
    before, after = (round(pad * sampling_rate) for pad in rng.uniform(*_PAD_S, size=2))
    padded = _pad(clean, before, after, sampling_rate=sampling_rate)
    wet = _reverberate(padded, voice.reverb_s, rng, sampling_rate=sampling_rate)
    wet *= _gain(voice.level_dbfs) / _rms(wet[before : len(wet) - after])
    noisy = wet + _pink_noise(len(wet), rng) * _gain(voice.level_dbfs - voice.snr_db)
    noisy *= min(1.0, _PEAK / np.abs(noisy).max())
    return noisy.astype(np.float32)


def write_wav(
    samples: NDArray[np.floating], path: Path | str, sampling_rate: int = SAMPLING_RATE_HZ
) -> None:
    """Write mono samples as a 16-bit PCM WAV file; equal samples give equal bytes.

    Args:
        samples: (samples,), finite and in [-1, 1]; 1 becomes 32,767.
        path: the file, replaced if it is there.
        sampling_rate: in Hz.

    Raises: ParameterError for samples of another shape or range.
    """
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise ParameterError(
            message(
                "samples must be one channel, of shape (samples,)",
                got=samples.shape,
                place=str(path),
                remedy="write one channel",
            )
        )
    wrong = ~(np.abs(samples) <= 1)  # also true for NaN
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ParameterError(
            message(
                "samples must be finite and in [-1, 1]",
                got=float(samples[at]),
                place=f"{path}, sample {at}",
                remedy="scale the samples",
            )
        )
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sampling_rate)
        file.writeframes(np.round(samples * 32767).astype("<i2").tobytes())


def unspeakable(text: str, language: str) -> list[str]:
    """Return the characters that the engine leaves out, or reads as something else.

    Such as ``℃`` in Chinese (left out), ``%`` in Chinese ("percent", in English), a Chinese
    character in English ("Chinese letter") or a simplified one in Japanese (left out). Punctuation
    that is only a pause is no fault. Characters are judged one by one: which of its readings a
    character gets inside a word is not looked at.

    Returns: each character once, in order of appearance; empty if all is well.
    Raises: as ``speak``.
    """
    _require_language(language)
    _require_text(text)
    asked = [
        char
        for char in dict.fromkeys(text)
        if char in _READ_ALOUD or unicodedata.category(char)[0] in "LNS"
    ]
    if language == "ja":
        return [char for char in asked if not _is_read_in_japanese(char)]
    with _espeak_library() as library:
        _set_espeak_voice(library, _ESPEAK_ASKED[language])
        judge = _is_read_in_chinese if language == "zh" else _is_read_in_english
        return [
            char
            for char in asked
            if not (char.isascii() and char.isalnum())
            and not judge(char, _espeak_phonemes(library, char))
        ]


# --- the sound -----------------------------------------------------------------------------------


def _gain(db: float) -> float:
    return 10 ** (db / 20)


def _rms(samples: NDArray[np.float64]) -> float:
    return math.sqrt(float(np.mean(np.square(samples))))


def _resample(samples: NDArray[np.float64], ratio: Fraction) -> NDArray[np.float64]:
    from scipy.signal import resample_poly

    # The filter is as long as the larger term; 1/1000 of a semitone is not worth a longer one.
    ratio = ratio.limit_denominator(600)
    return resample_poly(samples, ratio.numerator, ratio.denominator)


def _pad(
    samples: NDArray[np.float64], before: int, after: int, *, sampling_rate: int
) -> NDArray[np.float64]:
    """Return the speech with exactly so many samples around it: the engine's own, then zeros."""
    frame = round(_FRAME_S * sampling_rate)
    frames = np.append(samples, np.zeros(-len(samples) % frame)).reshape(-1, frame)
    power = np.square(frames).mean(axis=1)  # (frames,)
    loud = np.flatnonzero(power > power.max() * 10 ** (_SILENCE_DB / 10))
    start = loud[0] * frame
    end = min((loud[-1] + 1) * frame, len(samples))
    padded = np.zeros(before + end - start + after)
    first, last = max(0, start - before), min(len(samples), end + after)
    padded[first - start + before : last - start + before] = samples[first:last]
    return padded


def _reverberate(
    samples: NDArray[np.float64],
    reverb_s: float,
    rng: np.random.Generator,
    *,
    sampling_rate: int,
) -> NDArray[np.float64]:
    """Return the samples in a room whose echo is noise that decays by 60 dB in ``reverb_s``."""
    if reverb_s == 0:
        return samples.copy()
    from scipy.signal import oaconvolve

    time = np.arange(1, round(reverb_s * sampling_rate)) / sampling_rate
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / reverb_s)
    tail *= _gain(_REVERB_DB) / np.linalg.norm(tail)
    return oaconvolve(samples, np.append(1.0, tail))[: len(samples)]


def _pink_noise(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return noise of RMS 1 whose power falls by 3 dB an octave."""
    spectrum = rng.standard_normal(count // 2 + 1) + 1j * rng.standard_normal(count // 2 + 1)
    spectrum[0] = 0
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    noise = np.fft.irfft(spectrum, n=count)
    return noise / _rms(noise)


# --- eSpeak NG: Chinese and English --------------------------------------------------------------


@contextlib.contextmanager
def _espeak_library() -> Iterator[ctypes.CDLL]:
    """Load eSpeak NG, and unload it at the end.

    Its pitch flutter, wave phase and noise run on from one utterance to the next in static
    variables that neither ``espeak_Terminate`` nor a voice change resets; only a library loaded
    afresh always says the same. That costs 3 ms, and where English letters stand in a Chinese text
    some 60 kB that eSpeak 1.52 does not give back. It presumes that nothing else in the process
    has the same library open, and that the platform really unloads it, as glibc does.
    """
    try:
        import espeakng_loader
    except ImportError as error:
        raise _missing("espeakng-loader") from error
    process = ctypes.CDLL(None)
    process.dlclose.argtypes = [ctypes.c_void_p]
    with _engine_lock:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
        library.espeak_Synth.argtypes = [
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        library.espeak_SetSynthCallback.argtypes = [_SynthCallback]
        library.espeak_SetSynthCallback.restype = None
        library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        try:
            synchronous, no_exit = 2, 0x8000
            folder = str(Path(espeakng_loader.get_data_path()).parent)
            if library.espeak_Initialize(synchronous, 200, folder.encode(), no_exit) <= 0:
                raise MissingError(
                    message(
                        "eSpeak NG must find its voice data",
                        got=espeakng_loader.get_data_path(),
                        remedy='reinstall it: pip install --force-reinstall "tuning-lab[demo]"',
                    )
                )
            try:
                yield library
            finally:
                library.espeak_Terminate()
        finally:
            process.dlclose(library._handle)


def _set_espeak_voice(library: ctypes.CDLL, name: str) -> None:
    import espeakng_loader

    # eSpeak silently drops a variant that it does not know.
    variant = name.partition("+")[2]
    known = (
        not variant or (Path(espeakng_loader.get_data_path()) / "voices" / "!v" / variant).is_file()
    )
    if not known or library.espeak_SetVoiceByName(name.encode()) != 0:
        raise _unknown_voice(name)


def _espeak(
    text: str, *, name: str, speed: float, pitch: float, seed: int
) -> tuple[NDArray[np.float64], int]:
    """Return eSpeak's samples, (samples,) in [-1, 1], and their rate in Hz."""
    chunks: list[bytes] = []

    def keep(samples: ctypes._Pointer, count: int, _events: int) -> int:
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    utf8, phonemes, by_character = 1, 0x100, 1
    flags = utf8
    chinese = _NAMES["zh"].match(name)
    two_languages = chinese and any(char.isascii() and char.isalpha() for char in text)
    if chinese and any(char in _ZH_PHONEMES for char in text):
        text = "".join(
            f"[[{_ZH_PHONEMES[char]}]]" if char in _ZH_PHONEMES else char
            for char in text.replace("[", " ")
        )
        flags |= phonemes
    with _espeak_library() as library:
        callback = _SynthCallback(keep)
        library.espeak_SetSynthCallback(callback)
        _set_espeak_voice(library, name)
        rate_parameter, pitch_parameter = 1, 3
        library.espeak_SetParameter(rate_parameter, round(_ESPEAK_RATE_WPM * speed), 0)
        library.espeak_SetParameter(
            pitch_parameter, round(_ESPEAK_PITCH + pitch / _ESPEAK_SEMITONES), 0
        )
        library.espeak_ng_SetRandSeed(seed)
        ctypes.CDLL(None).srand(seed)  # a few variants use the C library's noise
        data = text.encode()
        library.espeak_Synth(data, len(data) + 1, 0, by_character, 0, flags, None, None)
        library.espeak_Synchronize()
        rate = library.espeak_ng_GetSampleRate()
        if two_languages:
            # The dictionary of the second language is never freed at the end, only replaced: so
            # let Cherokee, the smallest, take the place of English.
            _espeak_phonemes(library, "\u13a0")
    return np.frombuffer(b"".join(chunks), dtype=np.int16) / 32768, rate


def _espeak_phonemes(library: ctypes.CDLL, text: str) -> str:
    """Return how eSpeak reads a text, in its own notation; ``(en)`` marks a switch to English."""
    buffer = ctypes.create_string_buffer(text.encode())
    pointer = ctypes.c_void_p(ctypes.addressof(buffer))
    clauses = []
    while pointer.value:
        clauses.append(library.espeak_TextToPhonemes(ctypes.byref(pointer), 1, 0).decode())
    return "".join(clauses)


def _is_read_in_chinese(char: str, phonemes: str) -> bool:
    if char in _ZH_PHONEMES:
        return True
    if char.isalpha() and not unicodedata.name(char, "").startswith("CJK "):
        return False
    # "(" switches to another language; "@:11" begins the code number of an unknown character.
    return any(tone in phonemes for tone in "12345") and not ("(" in phonemes or "@:11" in phonemes)


def _is_read_in_english(char: str, phonemes: str) -> bool:
    if char.isalpha():
        return unicodedata.normalize("NFKD", char)[0].isascii()
    # "l,Et#3" (letter) and "ImbL" (symbol) stand where eSpeak has no name for a character.
    return any(c.isalpha() for c in phonemes) and not ("l,Et#3" in phonemes or "ImbL" in phonemes)


# --- Open JTalk: Japanese ------------------------------------------------------------------------


def _open_jtalk(text: str, *, speed: float, pitch: float) -> tuple[NDArray[np.float64], int]:
    """Return Open JTalk's samples, (samples,) in about [-1, 1], and their rate in Hz."""
    with _engine_lock:
        pyopenjtalk = _pyopenjtalk()
        words = _japanese_words(text)
        if not _morae(words):
            return np.zeros(0), 48_000
        for word, following in pairwise(words):
            if word["string"] == "何" and following["pron"].startswith(_JA_NAN_BEFORE):
                word["pron"] = word["read"] = "ナン"
        labels = pyopenjtalk.make_label(words)
        samples, rate = pyopenjtalk.synthesize(labels, speed=speed, half_tone=pitch)
    return samples / 32768, rate


def _is_read_in_japanese(char: str) -> bool:
    name = unicodedata.name(char, "")
    if char == "々" or name.startswith(("HIRAGANA", "KATAKANA")):  # ー, っ: only after another
        return True
    context = "" if char.isalnum() else "1"  # % and ℃ are read after a number only
    return _morae(_japanese_words(context + char)) > _morae(_japanese_words(context))


def _morae(words: list[dict]) -> int:
    return sum(word["mora_size"] for word in words)


def _japanese_words(text: str) -> list[dict]:
    """Return the words that Open JTalk finds, each with its reading and its number of morae.

    Its model for 何 is off, as it works only where yet another package is installed: the same text
    must sound the same everywhere. Its second dictionary is used for unknown kanji alone: it costs
    90 MB, and changed nothing in the sentences we tried.
    """
    with _engine_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it calls that dictionary the old way
        return _pyopenjtalk().run_frontend(text, predict_nani=False, use_sudachi_kanji_yomi=False)


def _pyopenjtalk() -> ModuleType:
    first = "pyopenjtalk" not in sys.modules  # then it prints advice on what else to install
    try:
        with contextlib.redirect_stdout(io.StringIO()) if first else contextlib.nullcontext():
            import pyopenjtalk
    except ImportError as error:
        raise _missing("pyopenjtalk-plus") from error
    return pyopenjtalk


# --- what callers hand in ------------------------------------------------------------------------


def _missing(package: str) -> MissingError:
    return MissingError(
        message(
            f"speech needs the package {package}",
            got="no such package",
            remedy='run: pip install "tuning-lab[demo]"',
        )
    )


def _unknown_voice(name: str) -> ParameterError:
    return ParameterError(
        message(
            "the voice must be one that the language's engine has",
            got=name,
            remedy="take a voice of the catalogue, lab.voices.voices(language)",
        )
    )


def _require_language(language: str) -> None:
    if language not in LANGUAGES:
        raise ParameterError(
            message(
                "language must be one that the lab can speak",
                got=language,
                remedy=f"use one of {', '.join(LANGUAGES)}",
            )
        )


def _whole(name: str, value: int, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= value <= high:
        raise ParameterError(
            message(
                f"{name} must be a whole number from {low} to {high}",
                got=value,
                remedy="pass an int in that range",
            )
        )
    return int(value)


def _require_text(text: str) -> None:
    if not text.strip():
        raise ParameterError(
            message("text must not be empty", got=text, remedy="give at least one word")
        )
    if len(text) > MAX_CHARS:
        raise ParameterError(
            message(
                f"text must have at most {MAX_CHARS} characters",
                got=len(text),
                remedy="shorten the text",
            )
        )
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in text):
        raise ParameterError(
            message(
                "text must not hold control characters or lone surrogates",
                got=text,
                remedy="remove them",
            )
        )
