"""lab.media: facts against hand-computed and independent references, and files that are refused."""

import io
import math
import os
import socket
import struct
import warnings

import numpy as np
import pytest
from PIL import Image
from scipy.signal import convolve2d

from lab import media
from lab.params import DataSettings

DATA = DataSettings(
    folder=None,
    max_rows=1000,
    max_classes=50,
    max_field_chars=1000,
    image_width=32,
    image_height=32,
    max_image_bytes=100_000,
    max_image_pixels=2_000,
    sampling_rate=16000,
    max_audio_bytes=200_000,
    max_audio_s=5.0,
    quarantine=False,
)


def jpeg(*, size=(32, 32), seed=0, mode="RGB", **options):
    """The bytes of a JPEG of coloured noise, smooth enough to survive compression."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size).convert(mode)
    to = io.BytesIO()
    image.save(to, "JPEG", quality=90, **options)
    return to.getvalue()


def wav(samples, *, rate=16000, channels=1, bits=16, tag=1, said=None, riff=None, extra=b""):
    """The bytes of a WAV, written by hand so that its header can lie."""
    body = np.asarray(samples, dtype="<i2").tobytes()
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, bits)
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + extra
    chunks += b"data" + struct.pack("<I", len(body) if said is None else said) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks) if riff is None else riff) + b"WAVE" + chunks


def tone(seconds=0.5, *, amplitude=0.5, rate=16000):
    moments = np.arange(round(seconds * rate)) / rate
    return np.round(amplitude * 32767 * np.sin(2 * np.pi * 440 * moments)).astype(np.int16)


def put(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


def refused(probe, path, *, data=DATA):
    with pytest.raises(media.MediaError) as caught:
        probe(path, data=data)
    return caught.value


# --- facts ---------------------------------------------------------------------------------------


def test_grey_image_has_no_contrast_and_no_edges(tmp_path):
    to = io.BytesIO()
    Image.new("RGB", (32, 32), (128, 128, 128)).save(to, "JPEG")
    facts = media.probe_image(put(tmp_path, "a.jpg", to.getvalue()), data=DATA)
    assert (facts.width, facts.height, facts.bytes) == (32, 32, len(to.getvalue()))
    assert (facts.brightness, facts.contrast, facts.sharpness, facts.dhash) == (128, 0, 0, 0)


def test_image_figures_agree_with_an_independent_reckoning(tmp_path):
    content = jpeg(seed=3)
    facts = media.probe_image(put(tmp_path, "a.jpg", content), data=DATA)
    luma = np.asarray(Image.open(io.BytesIO(content)).convert("L"), dtype=float)
    kernel = [[0, 1, 0], [1, -4, 1], [0, 1, 0]]
    assert facts.brightness == pytest.approx(luma.mean())
    assert facts.contrast == pytest.approx(luma.std())
    assert facts.sharpness == pytest.approx(convolve2d(luma, kernel, mode="valid").var())


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_every_kind_of_jpeg_is_read(tmp_path, mode, options):
    path = put(tmp_path, "a.jpg", jpeg(mode=mode, **options))
    assert media.probe_image(path, data=DATA).width == 32


def test_blurring_lowers_sharpness(tmp_path):
    from PIL import ImageFilter

    sharp = Image.open(io.BytesIO(jpeg(seed=1)))
    to = io.BytesIO()
    sharp.filter(ImageFilter.GaussianBlur(3)).save(to, "JPEG", quality=90)
    facts = [
        media.probe_image(put(tmp_path, name, content), data=DATA)
        for name, content in (("a.jpg", jpeg(seed=1)), ("b.jpg", to.getvalue()))
    ]
    assert facts[1].sharpness < facts[0].sharpness / 2


def test_difference_hash_by_hand():
    thumbnail = np.zeros((8, 9), dtype=np.uint8)
    assert media.difference_hash(thumbnail) == 0
    thumbnail[0, 1] = 1  # row 0: only 0 < 1 at the first place
    assert media.difference_hash(thumbnail) == 1 << 63
    rising = np.tile(np.arange(9, dtype=np.uint8), (8, 1))
    assert media.difference_hash(rising) == 2**64 - 1
    rising[7] = rising[7, ::-1]
    assert media.difference_hash(rising) == 2**64 - 256


def test_difference_hash_survives_re_encoding_and_tells_images_apart(tmp_path):
    again = io.BytesIO()
    Image.open(io.BytesIO(jpeg(seed=5))).save(again, "JPEG", quality=60)
    contents = [jpeg(seed=5), again.getvalue(), jpeg(seed=6)]
    facts = [
        media.probe_image(put(tmp_path, f"{place}.jpg", content), data=DATA)
        for place, content in enumerate(contents)
    ]
    distances = [(facts[0].dhash ^ other.dhash).bit_count() for other in facts]
    assert distances[1] <= 4
    assert distances[2] >= 16
    assert len({fact.digest for fact in facts}) == 3


def test_equal_files_have_equal_digests(tmp_path):
    paths = [put(tmp_path, name, jpeg()) for name in ("a.jpg", "b.jpg")]
    digests = {media.probe_image(path, data=DATA).digest for path in paths}
    assert len(digests) == 1


def test_full_scale_sine_is_at_minus_three_decibels(tmp_path):
    path = put(tmp_path, "a.wav", wav(tone(1.0, amplitude=1.0)))
    facts = media.probe_audio(path, data=DATA)
    assert facts.duration_s == 1.0
    assert facts.sampling_rate == 16000
    assert facts.rms_dbfs == pytest.approx(-3.01, abs=0.01)
    assert facts.peak == pytest.approx(1, abs=1e-4)
    assert facts.silent_share == 0


def test_digital_silence(tmp_path):
    facts = media.probe_audio(put(tmp_path, "a.wav", wav(np.zeros(1600))), data=DATA)
    assert (facts.peak, facts.rms_dbfs, facts.silent_share) == (0, -math.inf, 1)


def test_loudness_by_hand():
    # 4 frames of 4 samples: silent, full scale (both signs), -32768 and 0, quiet but not silent.
    samples = np.array([0] * 4 + [32767, -32767] * 2 + [-32768, 0, 0, 0] + [40, -40] * 2)
    found = media.loudness(samples.astype(np.int16), sampling_rate=200)
    assert found["peak"] == 1
    assert found["clipped_share"] == 5 / 16
    assert found["silent_share"] == 1 / 4  # 32.768 is -60 dBFS
    squares = 4 * 32767**2 + 32768**2 + 4 * 40**2
    assert found["rms_dbfs"] == pytest.approx(10 * math.log10(squares / 16 / 32768**2))


def test_a_remainder_shorter_than_a_frame_counts_only_alone():
    assert media.loudness(np.ones(3, np.int16), sampling_rate=16000)["silent_share"] == 1
    loud_rest = np.r_[np.zeros(320), np.full(10, 9000)].astype(np.int16)
    assert media.loudness(loud_rest, sampling_rate=16000)["silent_share"] == 1


def test_one_sample_is_a_recording(tmp_path):
    facts = media.probe_audio(put(tmp_path, "a.wav", wav([-32768])), data=DATA)
    assert (facts.duration_s, facts.peak, facts.rms_dbfs) == (1 / 16000, 1, 0)


def test_other_chunks_and_the_extensible_form_are_read(tmp_path):
    note = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # of odd length, hence padded
    assert media.probe_audio(put(tmp_path, "a.wav", wav(tone(), extra=note)), data=DATA)
    body = tone().tobytes()
    form = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 16000, 32000, 2, 16, 22, 16, 4)
    form += bytes.fromhex("0100000000001000800000aa00389b71")
    chunks = b"WAVEfmt " + struct.pack("<I", 40) + form + b"data" + struct.pack("<I", len(body))
    content = b"RIFF" + struct.pack("<I", len(chunks) + len(body)) + chunks + body
    facts = media.probe_audio(put(tmp_path, "b.wav", content), data=DATA)
    assert facts.duration_s == 0.5


# --- images that are refused ---------------------------------------------------------------------


def test_wrong_size(tmp_path):
    error = refused(media.probe_image, put(tmp_path, "a.jpg", jpeg(size=(40, 32))))
    assert error.kind == "image-size"
    assert str(error).startswith("an image must be 32x32 pixels, got 40x32; resize it")


def test_other_formats_under_the_name_of_a_jpeg(tmp_path):
    for kind, got in (("PNG", "a PNG"), ("GIF", "a GIF"), ("BMP", "a BMP")):
        to = io.BytesIO()
        Image.new("RGB", (32, 32)).save(to, kind)
        error = refused(media.probe_image, put(tmp_path, "a.jpg", to.getvalue()))
        assert str(error) == f"must be a JPEG file, got {got}; replace it with a sound JPEG"
    error = refused(media.probe_image, put(tmp_path, "a.jpg", b"<script>alert(1)</script>"))
    assert error.kind == "not-jpeg"
    assert error.got == "a file that starts with 3c 73 63 72 69 70 74 3e"


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_cut_at_any_byte_is_refused(tmp_path, progressive):
    content = jpeg(progressive=progressive)
    for length in range(len(content)):
        error = refused(media.probe_image, put(tmp_path, "a.jpg", content[:length]))
        assert error.kind in ("empty-file", "not-jpeg", "broken-image"), length


def test_a_cut_jpeg_with_an_end_mark_is_refused(tmp_path):
    content = jpeg()
    error = refused(media.probe_image, put(tmp_path, "a.jpg", content[:-40]))
    assert str(error).startswith("a JPEG must be whole, got ")
    error = refused(media.probe_image, put(tmp_path, "a.jpg", content[:330] + b"\xff\xd9"))
    assert error.kind in ("broken-image", "not-jpeg")


def test_flipped_bytes_never_escape_as_another_error(tmp_path):
    rng = np.random.default_rng(0)
    for content, probe in ((jpeg(), media.probe_image), (wav(tone(0.01)), media.probe_audio)):
        for _ in range(200):
            spoilt = bytearray(content)
            for place in rng.integers(0, len(content), rng.integers(1, 5)):
                spoilt[place] = rng.integers(0, 256)
            try:
                probe(put(tmp_path, "x", bytes(spoilt)), data=DATA)
            except media.MediaError as error:
                assert error.remedy  # noqa: PT017 (either outcome is right)


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path):
    content = bytearray(jpeg())
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    error = refused(media.probe_image, put(tmp_path, "a.jpg", bytes(content)))
    assert error.kind == "too-many-pixels"
    assert str(error).startswith("an image must have at most 2000 pixels, got 65500x65500;")


def test_file_of_too_many_bytes_is_not_read(tmp_path):
    path = tmp_path / "a.jpg"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: nothing could hold it
    error = refused(media.probe_image, path)
    assert str(error).startswith("an image must be at most 100000 bytes, got 1099511627776;")
    assert refused(media.probe_audio, path).kind == "too-large"


def test_odd_exif_data_is_nobodys_business(tmp_path):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\xff\xff\0\0\0\0"
    path = put(tmp_path, "a.jpg", jpeg(exif=exif))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (facts,) = media.probe_all(media.probe_image, [path], data=DATA)
    assert isinstance(facts, (media.ImageFacts))


# --- recordings that are refused -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "got"),
    [
        ({"rate": 44100}, "16-bit PCM, 1 channel, 44100 Hz"),
        ({"channels": 2}, "16-bit PCM, 2 channels, 16000 Hz"),
        ({"bits": 8}, "8-bit PCM, 1 channel, 16000 Hz"),
        ({"tag": 3, "bits": 32}, "32-bit coding 0x0003, 1 channel, 16000 Hz"),
    ],
)
def test_another_format(tmp_path, form, got):
    error = refused(media.probe_audio, put(tmp_path, "a.wav", wav(tone(), **form)))
    assert error.kind == "audio-format"
    assert str(error) == (
        f"a recording must be 16-bit PCM, mono, 16000 Hz, got {got}; "
        "convert it: ffmpeg -i IN -ac 1 -ar 16000 -c:a pcm_s16le OUT.wav"
    )


@pytest.mark.parametrize("said", [0, 10_000_000, 0xFFFFFFFF, 16002])
def test_a_header_that_lies_about_its_sound(tmp_path, said):
    error = refused(media.probe_audio, put(tmp_path, "a.wav", wav(tone(0.5), said=said)))
    assert error.kind == "lying-header"
    assert f"got {said} bytes of sound in the header, 16000 in the file" in str(error)


def test_other_lies(tmp_path):
    error = refused(media.probe_audio, put(tmp_path, "a.wav", wav(tone(0.5), riff=100)))
    assert error.got == "108 bytes in the header, 16044 in the file"
    lying = bytearray(wav(tone()))
    lying[28:32] = struct.pack("<I", 64000)  # bytes per second
    error = refused(media.probe_audio, put(tmp_path, "a.wav", bytes(lying)))
    assert error.got == "2 bytes a sample and 64000 bytes/s at 16000 Hz"


def test_a_wav_cut_at_any_byte_is_refused(tmp_path):
    content = wav(tone(0.005))
    for length in range(len(content)):
        error = refused(media.probe_audio, put(tmp_path, "a.wav", content[:length]))
        assert error.kind in ("empty-file", "not-wav", "broken-wav", "lying-header"), length


def test_no_sound(tmp_path):
    error = refused(media.probe_audio, put(tmp_path, "a.wav", wav([])))
    assert str(error).startswith("a recording must hold sound, got 0 samples;")


def test_too_long(tmp_path):
    error = refused(media.probe_audio, put(tmp_path, "a.wav", wav(np.zeros(80_160))))
    assert str(error).startswith("a recording must last at most 5 s, got 5.01 s;")
    assert media.probe_audio(put(tmp_path, "b.wav", wav(np.zeros(80_000))), data=DATA)


def test_other_files_under_the_name_of_a_wav(tmp_path):
    for content, got in (
        (b"ID3\x04rest", "an MP3"),
        (b"OggSrest", "an Ogg file"),
        (b"RIFX\0\0\0\0WAVE", "a big-endian WAV"),
        (b"RIFF\0\0\0\0WEBP", "a RIFF file of another kind"),
    ):
        assert refused(media.probe_audio, put(tmp_path, "a.wav", content)).got == got
    no_form = b"RIFF\x10\0\0\0WAVEdata\x02\0\0\0\0\0"
    assert refused(media.probe_audio, put(tmp_path, "a.wav", no_form)).kind == "broken-wav"


# --- what is not a file --------------------------------------------------------------------------


def test_links_folders_pipes_and_sockets_are_refused_without_waiting(tmp_path):
    put(tmp_path, "real.jpg", jpeg())
    (tmp_path / "link").symlink_to("real.jpg")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()  # noqa: PTH109 (a socket's path must be short)
        os.chdir(tmp_path)
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
        kinds = {
            name: refused(media.probe_image, tmp_path / name).kind
            for name in ("link", "folder", "pipe", "socket", "nothing")
        }
    assert kinds == {
        "link": "path",
        "folder": "not-a-file",
        "pipe": "not-a-file",
        "socket": "unreadable",
        "nothing": "missing-file",
    }
    assert refused(media.probe_image, tmp_path / "pipe").got == "a pipe"


def test_probe_all_keeps_order_and_gives_errors_in_place(tmp_path):
    paths = [put(tmp_path, f"{seed}.jpg", jpeg(seed=seed)) for seed in range(5)]
    paths[2].write_bytes(b"")
    found = media.probe_all(media.probe_image, paths, data=DATA)
    assert [type(one).__name__ for one in found] == [
        *["ImageFacts"] * 2,
        "MediaError",
        *["ImageFacts"] * 2,
    ]
    assert found[4] == media.probe_image(paths[4], data=DATA)
    assert media.probe_all(media.probe_image, [], data=DATA) == []
