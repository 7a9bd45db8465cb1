"""Counts of words, as BERT's pre-tokenizer cuts them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from toy_vocabulary import CASED_TEXT, TEXT, counts_of

from edad_fast.vocabulary import counts as counts_module


@pytest.mark.parametrize("lowercase", [True, False])
@settings(max_examples=200)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_counts_equal_berts_pre_tokens(lowercase: bool, text: str) -> None:
    # Spaces, marks and controls are rare in random text: put some in.
    for joiner in ("", " ", "\u0301", "\x1f", "\u2028", "\n"):
        whole = f"A{joiner}{text}{joiner}é中.{joiner}{text}"
        normalised = BertNormalizer(lowercase=lowercase).normalize_str(whole)
        expected = Counter(word for word, _ in BertPreTokenizer().pre_tokenize_str(normalised))
        assert counts_of(whole, lowercase=lowercase).counts == dict(expected)


def test_counts_equal_berts_pre_tokens_on_real_text(shared: Path) -> None:
    from edad_fast.corpus import iter_documents

    lines = [d.text for d in iter_documents([shared / "data/corpus/valid.txt.xz"])][:40]
    for lowercase in (True, False):
        expected: Counter[str] = Counter()
        for line in lines:
            normalised = BertNormalizer(lowercase=lowercase).normalize_str(line)
            expected.update(word for word, _ in BertPreTokenizer().pre_tokenize_str(normalised))
        assert counts_of(*lines, lowercase=lowercase).counts == dict(expected)


def test_counts_merge_and_do_not_depend_on_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = counts_of(TEXT, CASED_TEXT)
    parts = counts_of(TEXT)
    parts.update(counts_of(CASED_TEXT))
    assert parts.counts == whole.counts
    assert parts.total_words == whole.total_words == sum(whole.values())
    monkeypatch.setattr(counts_module, "_MAX_CHUNKS", 3)
    assert counts_of(TEXT, CASED_TEXT).counts == whole.counts
    ranked = whole.most_common()
    assert ranked == sorted(ranked, key=lambda item: (-item[1], item[0]))
    assert ranked[0][1] == max(whole.values())
