"""How often each word occurs: all that learning and proving a vocabulary needs to know of a corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tqdm import tqdm

from ..corpus import Document

# Distinct white-space chunks held before they are turned into words: some 200 MB.
_MAX_CHUNKS = 2_000_000


class WordCounts(Mapping[str, int]):
    """Counts of BERT pre-tokens (words) after BERT's normalisation: a mapping from word to count.

    `counts` is the dictionary itself. Counts of several corpora add up with `update`.
    """

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self.counts: dict[str, int] = dict(counts or {})

    def __getitem__(self, word: str) -> int:
        return self.counts[word]

    def __iter__(self) -> Iterator[str]:
        return iter(self.counts)

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def total_words(self) -> int:
        """Words counted, repetitions included."""
        return sum(self.counts.values())

    def update(self, other: Mapping[str, int]) -> None:
        """Add the counts of `other`."""
        for word, count in other.items():
            self.counts[word] = self.counts.get(word, 0) + count

    def most_common(self) -> list[tuple[str, int]]:
        """Words and counts by falling count, ties in alphabetical order."""
        return sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document | str],
        *,
        lowercase: bool,
        normalizer: BertNormalizer | None = None,
        progress: bool = False,
    ) -> WordCounts:
        """Count the words of `documents` exactly as `tokenizers` splits them.

        Normalisation and pre-tokenisation never look across ASCII white space, so distinct chunks between
        white space are counted first and split into words once each.

        Args:
            lowercase: BERT's uncased (True, accents are stripped too) or cased normalisation.
            normalizer: used instead of the one that `lowercase` stands for.
            progress: show a bar in characters.
        """
        result = cls()
        normalizer = normalizer or BertNormalizer(lowercase=lowercase)
        chunks: Counter[str] = Counter()
        with tqdm(desc="counting words", unit="ch", unit_scale=True, disable=not progress) as bar:
            for document in documents:
                text = document if isinstance(document, str) else document.text
                chunks.update(text.replace("\n", " ").replace("\t", " ").replace("\r", " ").split(" "))
                if len(chunks) > _MAX_CHUNKS:
                    result._add_chunks(chunks, normalizer)
                bar.update(len(text))
        result._add_chunks(chunks, normalizer)
        return result

    def _add_chunks(self, chunks: Counter[str], normalizer: BertNormalizer) -> None:
        split = BertPreTokenizer().pre_tokenize_str
        counts = self.counts
        for chunk, count in chunks.items():
            for word, _ in split(normalizer.normalize_str(chunk)):
                counts[word] = counts.get(word, 0) + count
        chunks.clear()
