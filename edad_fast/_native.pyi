"""The compiled core (csrc/): WordPiece segmentation in C++20."""

import numpy as np
from numpy.typing import NDArray

class Segmenter:
    """Greedy longest-match-first WordPiece segmentation of pre-tokens.

    A piece's id is its place in `pieces`. A word of more than `max_chars` characters, or one without a full
    segmentation, becomes the single id `unk_id`; an empty word becomes no id.

    Raises:
        ValueError: a piece is empty or appears twice, or `unk_id` is not a place in `pieces`.
    """

    def __init__(self, pieces: list[str], unk_id: int, prefix: str = "##", max_chars: int = 100) -> None: ...
    def segment(
        self, words: list[str], as_continuation: bool = False
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Segment `words`; the ids of word i are `ids[offsets[i]:offsets[i + 1]]`.

        Runs without the GIL. With `as_continuation` each word stands inside a longer one, so that its first
        piece, too, is a continuation ("##") piece.

        Returns:
            ids: int32, flat.
            offsets: int64 [len(words) + 1].

        Raises:
            TypeError: `words` is not a list, or one of its items is not a str.
            UnicodeEncodeError: a word holds a lone surrogate, which UTF-8 cannot hold.
        """
