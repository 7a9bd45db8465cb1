from __future__ import annotations

from pathlib import Path

import pytest

from edad_fast.corpus import DemoData, iter_documents, write_demo_data
from edad_fast.errors import InputError
from edad_fast.vocabulary import WordCounts, extend_vocabulary, learn_wordpieces, piece_counts

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoData:
    folder = tmp_path_factory.mktemp("demo")
    return write_demo_data(folder, general_words=30_000, domain_words=60_000)


def read_tags(path: Path) -> list[list[tuple[str, str]]]:
    blocks = path.read_text(encoding="utf-8").strip("\n").split("\n\n")
    return [[(row.split("\t")[0], row.split("\t")[1]) for row in block.split("\n")] for block in blocks]


def files(data: DemoData) -> dict[str, bytes]:
    paths = [data.general, data.domain, data.valid, *sorted(data.ner.iterdir())]
    return {path.name: path.read_bytes() for path in paths}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first, again, other = (
        files(write_demo_data(tmp_path / name, seed=seed, general_words=2000, domain_words=2000))
        for name, seed in [("a", 3), ("b", 3), ("c", 4)]
    )
    assert sorted(first) == ["devel.tsv", "domain.txt", "general.txt", "test.tsv", "train.tsv", "valid.txt"]
    assert first == again
    assert all(first[name] != other[name] for name in first)


def test_sizes_and_documents(demo: DemoData) -> None:
    for path, words in [(demo.general, 30_000), (demo.domain, 60_000), (demo.valid, 2400)]:
        documents = list(iter_documents([path]))
        counted = sum(len(document.text.split()) for document in documents)
        assert words <= counted < words + 400
        assert all(3 <= document.text.count(". ") + 1 <= 15 for document in documents)
        assert max(document.text.count(". ") + 1 for document in documents) > 12
    assert not set(demo.valid.read_text().split("\n\n")) & set(demo.domain.read_text().split("\n\n")) - {""}


def test_labels_are_valid_iob_and_some_entities_are_new(demo: DemoData) -> None:
    sentences = {name: read_tags(demo.ner / f"{name}.tsv") for name in ("train", "devel", "test")}
    assert [len(value) for value in sentences.values()] == [300, 300, 300]
    words: dict[str, set[str]] = {}
    for name, value in sentences.items():
        for sentence in value:
            previous = "O"
            for word, tag in sentence:
                assert tag in ("O", "B-Disease", "I-Disease", "B-Drug", "I-Drug")
                assert not tag.startswith("I-") or previous[2:] == tag[2:]
                previous = tag
                if tag == "B-Drug":
                    words.setdefault(name, set()).add(word)
    new = len(words["test"] - words["train"]) / len(words["test"])
    assert 0.1 < new < 0.7
    assert all(any(tag != "O" for s in value for _, tag in s) for value in sentences.values())


def test_the_context_predicts(demo: DemoData) -> None:
    """Within a document, the drugs are those of its disease: far fewer than among all documents."""

    def drugs(text: str) -> set[str]:
        return {
            word for word in text.lower().replace(".", "").split() if word.endswith(("mab", "olol", "pril"))
        }

    documents = [document.text for document in iter_documents([demo.domain])]
    assert len(set().union(*map(drugs, documents))) > 80
    assert max(len(drugs(text)) for text in documents) <= 2


def test_learned_pieces_pay(demo: DemoData) -> None:
    general_counts = WordCounts.from_documents(iter_documents([demo.general]), lowercase=True)
    counts = WordCounts.from_documents(iter_documents([demo.domain]), lowercase=True)
    general = SPECIAL + learn_wordpieces(general_counts, 1000)
    merged = extend_vocabulary(general, counts, len(general) + 500)
    before = piece_counts(general, counts).sum() / counts.total_words
    after = piece_counts(merged.pieces, counts).sum() / counts.total_words
    assert after < 0.6 * before


def test_no_words_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="domain_words 0"):
        write_demo_data(tmp_path, general_words=10, domain_words=0)
