# ruff: noqa: RUF001 (letters that look alike are the point)
"""Hostile text: ids, offsets and word numbers are those of the named mode, and nothing crashes.

`benchmarks/fuzz_wordpiece.py` does the same with as many strings as one likes.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from itertools import chain, product
from typing import Any

import numpy as np
import pytest
from encoding_oracles import (
    Encode,
    Encoded,
    differing,
    native,
    shortest_difference,
    slow_oracle,
    tokenizers_oracle,
)
from hostile import SPECIAL, hostile_bytes, hostile_strings, witness_pieces
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from edad_fast._native import Encoder, WordCounter

OPTIONS = [
    dict(zip(("lowercase", "strip_accents", "handle_chinese_chars", "clean_text"), values, strict=True))
    for values in product((True, False), (None, True, False), (True, False), (True, False))
]
# Other strings in every run; a failure names the seed, and with it in this variable the strings come again.
SEED = int(os.environ.get("EDAD_FAST_FUZZ_SEED") or secrets.randbelow(2**32))
WITNESS = witness_pieces()
# Parts of words, so that greedy matching has choices; most hostile words are [UNK] here.
_PARTS_TEXT = """
a b c d e f g h i k l m n o p r s t u v w x y z 0 1 2 3 4 5 6 7 8 9 . , - ( ) [ ] # _ / ? = & µ σ ς ß
the treat treatment hepat unaff inter un aff str ang mull cafe naive mask cls sep ##ment ##it ##itis ##is
##able ##leukin ##aße ##asse ##strom ##stanbul ##ter ##ing ##affa ##ff 各 日 本 語 中 文 字
한 하 ᄒ ##ᅡ ##ᆫ क ##ि हि हन
##न ##् ก ท ##ี ا ##ل ש ##ל 👩 🇪 ｆ ##ｕ ##ﾞ
"""
SYLLABLES = [*SPECIAL, *_PARTS_TEXT.split(), *(f"##{c}" for c in "abcdefghiklmnoprstuvwxyz0123456789#σςß")]


def assert_same(texts: list[str], ours: Encode, oracle: Encode) -> None:
    wrong = differing(texts, ours(texts), oracle(texts))
    if wrong:
        text = shortest_difference(texts[wrong[0]], ours, oracle)
        shown = ours([text]).row(0), oracle([text]).row(0)
        pytest.fail(
            f"EDAD_FAST_FUZZ_SEED={SEED}: {len(wrong)} of {len(texts)} differ; "
            f"{text!a}: {shown[0]}, not {shown[1]}"
        )


@pytest.mark.parametrize("pieces", [WITNESS, SYLLABLES], ids=["spelling", "syllables"])
def test_ids_offsets_and_words_are_those_of_tokenizers(pieces: list[str]) -> None:
    # 26 sets of options, 2,000 strings each: with both vocabularies 10^5 strings.
    for seed, options in enumerate([*OPTIONS, {"lowercase": True}, {"lowercase": False}]):
        texts = hostile_strings(2000, [SEED, seed, len(pieces)])
        assert_same(texts, native(pieces, **options), tokenizers_oracle(pieces, **options))


@pytest.mark.parametrize("pieces", [WITNESS, SYLLABLES], ids=["spelling", "syllables"])
def test_ids_offsets_and_words_are_those_of_googles_rules(pieces: list[str]) -> None:
    for seed, options in enumerate([*OPTIONS, {"lowercase": True}, {"lowercase": False}]):
        texts = hostile_strings(2000 if len(options) == 1 else 200, [SEED, seed, len(pieces)])
        ours = native(pieces, literals=False, compat="slow", **options)
        assert_same(texts, ours, slow_oracle(pieces, **options))


def test_the_two_modes_differ_where_they_are_known_to() -> None:
    """Else one of them is compared with the wrong oracle."""
    texts = ["\U0002b900x", "ΑΣ", "\U0001fae0"]
    hf, slow = native(WITNESS), native(WITNESS, compat="slow")
    assert differing(texts, hf(texts), Encoded(slow(texts).ids, slow(texts).row_offsets))


_CHARACTERS = sorted({c for text in hostile_strings(3000, 1) for c in text})
_TEXTS = st.lists(st.text(st.sampled_from(_CHARACTERS), max_size=12), min_size=1, max_size=8)


@settings(max_examples=600, deadline=None, derandomize=False, print_blob=True)
@given(
    texts=_TEXTS, options=st.sampled_from(OPTIONS), joiner=st.sampled_from(["", " ", "a", "\u0301", "[MASK]"])
)
def test_any_text_is_encoded_as_by_tokenizers(texts: list[str], options: dict[str, Any], joiner: str) -> None:
    texts = [*texts, joiner.join(texts)]
    key = tuple(options.values())
    if key not in _PAIRS:
        _PAIRS[key] = native(WITNESS, **options), tokenizers_oracle(WITNESS, **options)
    ours, oracle = _PAIRS[key]
    mine, its = ours(texts), oracle(texts)
    assert [mine.row(n) for n in range(len(texts))] == [its.row(n) for n in range(len(texts))]


_PAIRS: dict[tuple[Any, ...], tuple[Encode, Encode]] = {}


@pytest.mark.parametrize("compat", ["hf", "slow"])
def test_threads_batches_and_long_texts_change_nothing(compat: str) -> None:
    # One text longer than any block that is worked on at once.
    texts = [*hostile_strings(20_000, 7), " ".join(hostile_strings(100_000, 8)), "x" * 300_000, "é" * 300_000]
    one = native(SYLLABLES, compat=compat)(texts)
    for n_threads in (2, 7):
        assert native(SYLLABLES, compat=compat, n_threads=n_threads)(texts).matches(one)
    ours = native(SYLLABLES, compat=compat)
    for number in (*range(0, 20_000, 1999), 20_000):
        assert ours([texts[number]]).row(0) == one.row(number)


@pytest.mark.parametrize("compat", ["hf", "slow"])
def test_any_bytes_count_as_python_decodes_them(compat: str) -> None:
    chunks = hostile_bytes(10_000, 3)
    bounds = np.cumsum([0, *map(len, chunks)])
    encoder = Encoder(WITNESS, unk_id=WITNESS.index("[UNK]"), compat=compat)
    found = Encoded(*encoder.encode_utf8_with_offsets(b"".join(chunks), bounds))
    texts = [chunk.decode(errors="replace") for chunk in chunks]
    expected = Encoded(*encoder.encode_with_offsets(texts))
    assert [texts[n] for n in differing(texts, found, expected)] == []
    plain = Encoded(*encoder.encode_utf8(b"".join(chunks), bounds, n_threads=2))
    assert plain.matches(Encoded(expected.ids, expected.row_offsets))


@pytest.mark.parametrize("half", ["\ud800", "a\udc00b", "\ud83d \ude00"])
def test_half_of_a_surrogate_pair(half: str) -> None:
    """`tokenizers` cannot take it; to Google's rules it is a control character, which goes."""
    for encode in (Encoder.encode, Encoder.encode_with_offsets):
        with pytest.raises(ValueError, match=r"texts\[1\]"):
            encode(Encoder(SYLLABLES, unk_id=1), ["fine", half])
    with pytest.raises(ValueError, match=r"texts\[1\]"):
        WordCounter().add(["fine", half])
    slow = native(SYLLABLES, compat="slow")
    without = "".join(c for c in half if not 0xD800 <= ord(c) <= 0xDFFF)
    assert slow([half]).ids.tolist() == slow([without]).ids.tolist()


@pytest.mark.parametrize("options", OPTIONS[::5])
def test_counts_are_those_of_tokenizers_words(options: dict[str, Any]) -> None:
    texts = hostile_strings(4000, 11)
    normalizer, splitter = BertNormalizer(**options), BertPreTokenizer()
    words = chain.from_iterable(splitter.pre_tokenize_str(normalizer.normalize_str(text)) for text in texts)
    expected = Counter(word for word, _ in words)
    long_words = sum(count for word, count in expected.items() if len(word) > 100)
    stored = {word: count for word, count in expected.items() if len(word) <= 100}
    for n_threads in (1, 3):
        counter = WordCounter(**options)
        for start in range(0, len(texts), 1500):
            counter.add(texts[start : start + 1500], n_threads)
        counts = counter.finish()
        assert dict(zip(counts.words(0, len(counts)), counts.counts().tolist(), strict=True)) == stored
        assert counts.long_words == long_words > 0
        assert counts.total == sum(expected.values())
        assert len(counter.finish()) == 0


def test_the_strings_are_hostile_and_always_the_same() -> None:
    texts = hostile_strings(5000, 1)
    assert texts == hostile_strings(5000, 1) != hostile_strings(5000, 2)
    assert "" in texts
    characters = set("".join(texts))
    assert len(characters) > 5000
    assert characters.issuperset("\0\u2028\u0301İßς\U0002b920\ufffd[#")
    assert any(len(text) > 100 and " " not in text for text in texts)
    assert any("[MASK]" in text for text in texts)
    for text in texts:
        text.encode()  # no halves of surrogate pairs
