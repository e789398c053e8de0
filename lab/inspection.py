"""Images that show nothing, and recordings that say nothing.

Owns the rules on what was measured of the files (lab.media), figures in, findings out. Knows
nothing of tables or files. Bounds are where a person could make nothing of it, so that a tenant's
own style (white backgrounds, quiet voices) is no defect.
"""

from __future__ import annotations

import numpy as np

TOO_DARK, TOO_BRIGHT = 20.0, 250.0  # mean luma, 0-255
LEAST_CONTRAST = 4.0  # standard deviation of luma: a blank picture
BLURRED, BLURRED_FLOOR = 0.1, 15.0  # of the median sharpness; a sharpness that is never blur
CLIPPED_SHARE = 0.001  # of the samples; speech recorded with headroom has none
SILENT_SHARE = 0.95  # of the time: nobody speaks
QUIET_DBFS = -50.0  # speech at a normal level lies around -25
PACE_SPREADS = 6.0  # robust standard deviations; 1 in 500 million if paces were normal

IMAGE_RULE = (
    f"mean luma below {TOO_DARK:g} or above {TOO_BRIGHT:g} of 255, contrast below "
    f"{LEAST_CONTRAST:g}, or sharpness below {BLURRED_FLOOR:g} and {BLURRED:.0%} of the median"
)
AUDIO_RULE = (
    f"more than {CLIPPED_SHARE:.1%} of the samples at full scale, silent {SILENT_SHARE:.0%} of "
    f"the time, or below {QUIET_DBFS:g} dBFS"
)
PACE_RULE = (
    f"duration {PACE_SPREADS:g} robust standard deviations away from what as many tokens take in "
    "that language"
)

_LEAST_PACED = 20  # recordings, to know the usual pace
_LEAST_SPREAD_S = 0.05  # lest among recordings of exactly one pace every other one is odd


def image_defects(
    brightness: np.ndarray, contrast: np.ndarray, sharpness: np.ndarray
) -> dict[int, str]:
    """Return position -> what is wrong with the image, by ``IMAGE_RULE``; all inputs are (n,)."""
    if len(sharpness) == 0:
        return {}
    blurred = min(BLURRED_FLOOR, BLURRED * float(np.median(sharpness)))
    found: dict[int, str] = {}
    # What explains more comes later and stays: a black image is blurred and blank, too.
    for bad, words, values in (
        (sharpness < blurred, "blurred (sharpness {:.3g})", sharpness),
        (contrast < LEAST_CONTRAST, "blank (contrast {:.3g})", contrast),
        (brightness > TOO_BRIGHT, "too bright (mean luma {:.3g})", brightness),
        (brightness < TOO_DARK, "too dark (mean luma {:.3g})", brightness),
    ):
        found.update({at: words.format(values[at]) for at in np.flatnonzero(bad).tolist()})
    return found


def audio_defects(
    rms_dbfs: np.ndarray, clipped_share: np.ndarray, silent_share: np.ndarray
) -> dict[int, str]:
    """Return position -> what is wrong with the recording, by ``AUDIO_RULE``; inputs are (n,)."""
    found: dict[int, str] = {}
    for bad, words, values in (
        (rms_dbfs < QUIET_DBFS, "far too quiet ({:.3g} dBFS)", rms_dbfs),
        (clipped_share > CLIPPED_SHARE, "clipped ({:.1%} of the samples)", clipped_share),
        (silent_share >= SILENT_SHARE, "silent ({:.0%} of the time)", silent_share),
    ):
        found.update({at: words.format(values[at]) for at in np.flatnonzero(bad).tolist()})
    return found


def odd_pace(duration_s: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Mark recordings of one language by ``PACE_RULE``: (n,), (n,) -> (n,) bool.

    Fewer than 20 recordings, or texts of one length, tell no pace: then none is marked.
    """
    if len(duration_s) < _LEAST_PACED or len(np.unique(tokens)) < 2:
        return np.zeros(len(duration_s), dtype=bool)
    rest, spread = _off_the_line(duration_s, tokens, duration_s >= 0)
    # Once more without what is far off, which has bent the line.
    rest, spread = _off_the_line(duration_s, tokens, np.abs(rest) <= 3 * spread)
    return np.abs(rest) > PACE_SPREADS * spread


def _off_the_line(
    duration_s: np.ndarray, tokens: np.ndarray, used: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return each recording's distance from the line through those used, and their spread."""
    lengths, counts = np.unique(tokens[used], return_counts=True)
    if len(lengths) < 2:
        return _off_the_line(duration_s, tokens, np.ones_like(used))
    # Through the median of each length, so that a single wild recording does not tilt it.
    middles = [np.median(duration_s[used & (tokens == length)]) for length in lengths]
    slope, start = np.polyfit(lengths, middles, 1, w=np.sqrt(counts))
    rest = duration_s - (slope * tokens + start)
    rest -= np.median(rest)
    spread = 1.4826 * np.median(np.abs(rest[used]))  # the standard deviation, if normal
    return rest, max(float(spread), _LEAST_SPREAD_S)
