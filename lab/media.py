"""Images and recordings: the bytes of one file turned into facts.

Owns how a tenant's file is opened (regular files only, nothing that links or blocks, never more
bytes than the cap), decoding, and what is measured of a JPEG and of a WAV. Knows nothing of tables,
rows or languages, and nothing of which figures are good or bad.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import stat
import struct
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from lab.errors import CorpusError, printable, shown
from lab.tenants import path_problem

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from lab.params import DataSettings

SILENCE_DBFS = -60.0  # a frame below this is silent: room tone of a headset lies around -55
FRAME_S = 0.02
_WORKERS = 2  # the decoder lets go of the interpreter for a part of its time only
_FULL_SCALE = 32768.0
_CLIPPED = 32767  # the largest magnitude that both signs of 16 bits can hold
_PCM, _EXTENSIBLE = 1, 0xFFFE
_PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")
_AUDIO_REMEDY = "convert it: ffmpeg -i IN -ac 1 -ar {rate} -c:a pcm_s16le OUT.wav"


class MediaError(CorpusError):
    """A file that cannot serve as the image or the recording it is named as.

    ``kind`` is a slug for counting; ``rule``, ``got`` (fit to be printed) and ``remedy`` are the
    parts of the message.
    """

    def __init__(self, kind: str, rule: str, got: str, remedy: str) -> None:
        super().__init__(kind, rule, got, remedy)
        self.kind, self.rule, self.got, self.remedy = kind, rule, got, remedy

    def __str__(self) -> str:
        return f"{self.rule}, got {self.got}; {self.remedy}"


_Facts = TypeVar("_Facts")


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What was measured of one image; luma is ITU-R 601, 0 (black) to 255.

    brightness: mean luma. contrast: standard deviation of luma. sharpness: variance of the
    four-neighbour Laplacian of luma (low where an image is blurred). dhash: 64-bit
    difference hash, of which few bits differ between an image and its re-encoded or resized copy.
    digest: BLAKE2b-128 of the file, equal for byte-identical files only.
    """

    width: int
    height: int
    bytes: int
    brightness: float
    contrast: float
    sharpness: float
    dhash: int
    digest: str


@dataclass(frozen=True, slots=True)
class AudioFacts:
    """What was measured of one recording.

    peak: largest magnitude, 1.0 is full scale. rms_dbfs: 20 log10 of the root mean square over
    full scale, so that a full-scale sine is at -3.01; minus infinity if every sample is 0.
    clipped_share: share of samples at full scale. silent_share: share of frames of 20 ms whose RMS
    is below -60 dBFS; a remainder shorter than a frame counts only if it is all there is.
    digest: BLAKE2b-128 of the file.
    """

    duration_s: float
    sampling_rate: int
    bytes: int
    peak: float
    rms_dbfs: float
    clipped_share: float
    silent_share: float
    digest: str


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading if it is a regular file; links, folders, pipes and devices are not.

    Never blocks on a pipe. Raises: MediaError.
    """
    problem = path_problem(path.parent, path.name)
    if problem:
        raise MediaError("path", problem, shown(path.name), "put the file itself there")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise MediaError(
            "missing-file",
            "the file must exist",
            shown(path.name),
            "add the file or correct the path",
        ) from None
    except OSError as error:
        raise MediaError(
            "unreadable", "the file must be readable", str(error.strerror), "check its permissions"
        ) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise MediaError(
            "not-a-file",
            "must be a regular file",
            what.get(stat.S_IFMT(mode), "a device"),
            "put the file itself there",
        )
    return os.fdopen(descriptor, "rb")


def probe_image(path: Path, *, data: DataSettings) -> ImageFacts:
    """Decode a JPEG completely and measure it.

    Args:
        path: the file; the caller has checked that it is inside the tenant's folder.
        data: size that the image must have, caps on bytes and pixels.
    Raises: MediaError with the first rule that the file breaks.
    """
    raw = _read(path, data.max_image_bytes, what="an image")
    luma = _decoded(raw, data, "L")
    values = _array(luma)  # (height, width)
    return ImageFacts(
        width=luma.width,
        height=luma.height,
        bytes=len(raw),
        brightness=float(values.mean()),
        contrast=float(values.std()),
        sharpness=_laplacian_variance(values),
        dhash=difference_hash(_array(luma.resize((9, 8), resample=4))),  # 4: box filter
        digest=_digest(raw),
    )


def probe_audio(path: Path, *, data: DataSettings) -> AudioFacts:
    """Read a 16-bit mono PCM WAV completely and measure it.

    The header is read here and not by ``wave``, which believes it: what the header says is held
    against the bytes that are there.

    Args:
        path: the file; the caller has checked that it is inside the tenant's folder.
        data: sampling rate that the recording must have, caps on bytes and seconds.
    Raises: MediaError with the first rule that the file breaks.
    """
    raw = _read(path, data.max_audio_bytes, what="a recording")
    samples = _samples(raw, data)
    return AudioFacts(
        duration_s=samples.size / data.sampling_rate,
        sampling_rate=data.sampling_rate,
        bytes=len(raw),
        digest=_digest(raw),
        **loudness(samples, sampling_rate=data.sampling_rate),
    )


def load_image(path: Path, *, data: DataSettings) -> Image.Image:
    """Return an image in RGB; arguments and errors as of `probe_image`."""
    return _decoded(_read(path, data.max_image_bytes, what="an image"), data, "RGB")


def load_audio(path: Path, *, data: DataSettings) -> np.ndarray:
    """Return a recording in float32, [-1, 1]; arguments and errors as of `probe_audio`."""
    raw = _read(path, data.max_audio_bytes, what="a recording")
    return _samples(raw, data).astype("float32") / _FULL_SCALE


def probe_all(
    probe: Callable[..., _Facts], paths: Sequence[Path], *, data: DataSettings
) -> list[_Facts | MediaError]:
    """Probe many files in a few threads; a file that fails gives its error in its place.

    Not to be called from several threads at once: it silences warnings about odd EXIF data, which
    is not used, and Python keeps one list of warning filters for all threads.
    """

    def attempt(path: Path) -> _Facts | MediaError:
        try:
            return probe(path, data=data)
        except MediaError as error:
            return MediaError(*error.args)  # a fresh one: a traceback keeps the file in memory

    if not paths:
        return []
    with warnings.catch_warnings(), ThreadPoolExecutor(_WORKERS) as pool:
        warnings.simplefilter("ignore")
        return list(pool.map(attempt, paths))


def difference_hash(thumbnail: np.ndarray) -> int:
    """Return the 64 bits ``left < right`` of an (8, 9) thumbnail, row by row, first bit highest."""
    import numpy as np

    bits = thumbnail[:, :-1] < thumbnail[:, 1:]  # (8, 8)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def loudness(samples: np.ndarray, *, sampling_rate: int) -> dict[str, float]:
    """Measure 16-bit samples (n,), n > 0: peak, rms_dbfs, clipped_share, silent_share."""
    import numpy as np

    magnitude = np.abs(samples.astype(np.int32))
    squares = np.square(samples.astype(np.float64))
    frame = max(1, round(FRAME_S * sampling_rate))
    if samples.size >= frame:
        framed = squares[: samples.size // frame * frame].reshape(-1, frame).mean(axis=1)
    else:
        framed = squares.mean(keepdims=True)
    rms = math.sqrt(squares.mean()) / _FULL_SCALE
    silence = (10 ** (SILENCE_DBFS / 20) * _FULL_SCALE) ** 2
    return {
        "peak": float(magnitude.max() / _FULL_SCALE),
        "rms_dbfs": 20 * math.log10(rms) if rms > 0 else -math.inf,
        "clipped_share": float((magnitude >= _CLIPPED).mean()),
        "silent_share": float((framed < silence).mean()),
    }


def _read(path: Path, cap: int, *, what: str) -> bytes:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        raw = b"" if size > cap else file.read(cap + 1)
    if max(size, len(raw)) > cap:
        raise MediaError(
            "too-large",
            f"{what} must be at most {cap} bytes",
            str(max(size, len(raw))),
            "make it smaller, or raise the cap in params",
        )
    if not raw:
        raise MediaError("empty-file", f"{what} must not be empty", "0 bytes", "replace it")
    return raw


def _digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def _array(image: Image.Image) -> np.ndarray:
    import numpy as np

    return np.asarray(image)


def _laplacian_variance(luma: np.ndarray) -> float:
    """Variance of the four-neighbour Laplacian over the inner pixels; 0 if there are none."""
    import numpy as np

    if min(luma.shape) < 3:
        return 0.0
    wide = luma.astype(np.int16)  # |4 * 255| fits
    response = wide[1:-1, :-2] + wide[1:-1, 2:] + wide[:-2, 1:-1] + wide[2:, 1:-1]
    response -= 4 * wide[1:-1, 1:-1]
    return float(response.var(dtype=np.float64))


def _decoded(raw: bytes, data: DataSettings, mode: str) -> Image.Image:
    """Decode a JPEG to a Pillow image of a mode, or raise MediaError."""
    # The decoder itself and not Image.open: that one tries other formats, reads a second image
    # behind the first (MPO), and warns or raises by a pixel cap of its own instead of ours.
    from PIL.JpegImagePlugin import JpegImageFile

    remedy = "replace it with a sound JPEG"
    width, height = data.image_width, data.image_height
    try:
        image = JpegImageFile(io.BytesIO(raw))
    except Exception as error:
        raise MediaError("not-jpeg", "must be a JPEG file", _start(raw), remedy) from error
    size = f"{image.width}x{image.height}"
    if image.width * image.height > data.max_image_pixels:
        raise MediaError(
            "too-many-pixels",
            f"an image must have at most {data.max_image_pixels} pixels",
            size,
            "make it smaller",
        )
    if (image.width, image.height) != (width, height):
        raise MediaError(
            "image-size",
            f"an image must be {width}x{height} pixels",
            size,
            "resize it, or change data.image_width and data.image_height",
        )
    # The decoder is content without the last bytes; the end mark cannot occur inside a scan.
    if raw.rfind(b"\xff\xd9") < raw.rfind(b"\xff\xda"):
        raise MediaError(
            "broken-image",
            "a JPEG must be whole",
            f"{len(raw)} bytes without an end mark",
            remedy,
        )
    try:
        return image.convert(mode)
    except Exception as error:
        raise MediaError(
            "broken-image", "a JPEG must be whole", printable(str(error)), remedy
        ) from error


def _samples(raw: bytes, data: DataSettings) -> np.ndarray:
    """Return a WAV's samples as they are stored, or raise MediaError."""
    import numpy as np

    samples = np.frombuffer(_pcm(raw, data), dtype="<i2")
    duration_s = samples.size / data.sampling_rate
    if duration_s > data.max_audio_s:
        raise MediaError(
            "audio-length",
            f"a recording must last at most {data.max_audio_s:g} s",
            f"{duration_s:.2f} s",
            "cut it, or raise data.max_audio_s",
        )
    return samples


def _start(raw: bytes) -> str:
    names = {
        b"\x89PNG": "a PNG",
        b"GIF8": "a GIF",
        b"RIFF": "a WebP or WAV",
        b"BM": "a BMP",
        b"%PDF": "a PDF",
        b"\xff\xd8": "a JPEG with a broken header",
        b"\xff\xfb": "an MP3",
        b"ID3": "an MP3",
        b"OggS": "an Ogg file",
        b"fLaC": "a FLAC",
        b"RIFX": "a big-endian WAV",
        b"RF64": "a 64-bit WAV",
    }
    for magic, name in names.items():
        if raw.startswith(magic):
            return name
    return f"a file that starts with {raw[:8].hex(' ')}"


def _pcm(raw: bytes, data: DataSettings) -> memoryview:
    """Return the samples' bytes of a WAV, or raise MediaError."""
    remedy = _AUDIO_REMEDY.format(rate=data.sampling_rate)

    def refuse(kind: str, rule: str, got: str) -> MediaError:
        return MediaError(kind, rule, got, remedy)

    if raw[:4] != b"RIFF" or raw[8:12] != b"WAVE":
        got = _start(raw) if raw[:4] != b"RIFF" else "a RIFF file of another kind"
        raise refuse("not-wav", "must be a WAV file", got)
    form: bytes | None = None
    position = 12
    while position + 8 <= len(raw):
        name, said = struct.unpack_from("<4sI", raw, position)
        start, there = position + 8, len(raw) - position - 8
        if name == b"data":
            if form is None:
                raise refuse("broken-wav", "fmt must come before data", "no fmt chunk")
            _check_form(form, data, refuse)
            riff_end = struct.unpack_from("<I", raw, 4)[0] + 8
            if said > there or (said == 0 and there > 0):
                raise refuse(
                    "lying-header",
                    "the header must give the true size",
                    f"{said} bytes of sound in the header, {there} in the file",
                )
            if said == 0:
                raise refuse("empty-audio", "a recording must hold sound", "0 samples")
            if riff_end < start + said:
                raise refuse(
                    "lying-header",
                    "the header must give the true size",
                    f"{riff_end} bytes in the header, {len(raw)} in the file",
                )
            if said % 2:
                raise refuse("broken-wav", "sound must be whole samples", f"{said} bytes")
            return memoryview(raw)[start : start + said]
        if said > there:
            raise refuse(
                "lying-header",
                "the header must give the true size",
                f"a chunk of {said} bytes where {there} are left",
            )
        if name == b"fmt ":
            form = raw[start : start + said]
        position = start + said + said % 2
    raise refuse("broken-wav", "a WAV must be whole", "no data chunk")


def _check_form(
    form: bytes, data: DataSettings, refuse: Callable[[str, str, str], MediaError]
) -> None:
    if len(form) < 16:
        raise refuse("broken-wav", "a WAV must be whole", f"a fmt chunk of {len(form)} bytes")
    tag, channels, rate, byte_rate, block, bits = struct.unpack_from("<HHIIHH", form)
    if tag == _EXTENSIBLE and form[24:40] == _PCM_GUID:
        tag = _PCM
    if (tag, channels, rate, bits) != (_PCM, 1, data.sampling_rate, 16):
        coding = "PCM" if tag == _PCM else f"coding {tag:#06x}"
        raise refuse(
            "audio-format",
            f"a recording must be 16-bit PCM, mono, {data.sampling_rate} Hz",
            f"{bits}-bit {coding}, {channels} channel{'s' * (channels != 1)}, {rate} Hz",
        )
    if block != 2 or byte_rate != rate * 2:
        raise refuse(
            "lying-header",
            "the header must agree with itself",
            f"{block} bytes a sample and {byte_rate} bytes/s at {rate} Hz",
        )
