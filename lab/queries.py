"""What is asked of a model, and what comes back, whatever its role.

Owns the records: a query, an answer with the counts that throughput needs, how much is to be
written. Knows nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lab.errors import ParameterError, message

if TYPE_CHECKING:
    from PIL.Image import Image

SAMPLING_RATE_HZ = 16_000


@dataclass(frozen=True, eq=False)
class Query:
    """What is asked: any of words, an image and a recording.

    Attributes:
        text: the words, or nothing.
        image: RGB.
        audio: (samples,) float32 in [-1, 1] at 16 kHz.
        language: zh, en or ja where it is known; else a speech model finds out.
        system: system prompt of a model that answers in words.
    """

    text: str = ""
    image: Image | None = None
    audio: NDArray[np.float32] | None = None
    language: str = ""
    system: str = ""

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return 0.0 if self.audio is None else len(self.audio) / SAMPLING_RATE_HZ


@dataclass(frozen=True, eq=False)
class Answer:
    """What came back; ``error`` says why there is none, for a query that a model cannot take.

    Attributes:
        text: the words, of vlm and asr.
        vector: (width,) float32 of unit length, of clip and encoder; of an image together with its
            description (2, width).
        tokens_in: tokens given, images and special tokens included.
        tokens_out: tokens generated, the one that ends the answer included.
        audio_s: seconds of recording heard.
        error: rule, value and remedy; empty if all went well.
    """

    text: str = ""
    vector: NDArray[np.float32] | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    audio_s: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Generation:
    """How much is written: greedy, at least and at most so many new tokens.

    A speech model without room for ``most`` stops where its room ends. The same number twice is
    fixed work, for timing; ``least=0`` stops where the model stops, for judging quality.
    """

    least: int = 0
    most: int = 96

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most or self.most < 1:
            raise ParameterError(
                message(
                    "least must be between 0 and most, most at least 1", got=(self.least, self.most)
                )
            )
