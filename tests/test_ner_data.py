"""Reading labelled sentences, encoding them, putting them into batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_ner import ner_tokenizer

from edad_fast.errors import InputError
from edad_fast.tasks.ner_data import (
    Sentence,
    bucketed_batches,
    collate,
    encode_sentences,
    load_ner,
    read_ner,
    sorted_batches,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return ner_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


# --- reading


def test_reads_sentences_columns_and_line_ends(tmp_path):
    text = "\ufeffGout\tB-Disease\r\nis\tNN\tO\r\n\r\n \r\nbad\tO\r\n-DOCSTART-\tO\r\n\r\nlast\tO"
    sentences = read_ner(write(tmp_path / "a.tsv", text))
    assert [s.words for s in sentences] == [["Gout", "is"], ["bad"], ["last"]]
    assert [s.tags for s in sentences] == [["B-Disease", "O"], ["O"], ["O"]]
    assert [s.line for s in sentences] == [1, 5, 8]


def test_reads_space_separated_columns(tmp_path):
    assert read_ner(write(tmp_path / "a.conll", "Gout NNP B-Disease\n"))[0].tags == ["B-Disease"]


@pytest.mark.parametrize("row", ["gout", "gout\t", "New York", "gout\tDisease", "gout\tB-"])
def test_row_without_tag_names_file_and_line(tmp_path, row):
    file = write(tmp_path / "train.tsv", f"the\tO\n{row}\n")
    with pytest.raises(InputError, match=r"train\.tsv:2: .*has no tag") as error:
        read_ner(file)
    assert repr(row) in str(error.value)


def test_inside_without_begin_is_read_and_counted(tmp_path, caplog):
    for split in ("train", "devel", "test"):
        write(tmp_path / f"{split}.tsv", "a\tI-X\nb\tI-X\n\nc\tB-Y\nd\tI-X\n")
    data = load_ner(tmp_path)
    assert "train.tsv:1: 2 I- tags without a B- before them" in caplog.text
    assert [s.tags for s in data.splits["train"]] == [["B-X", "I-X"], ["B-Y", "B-X"]]
    with pytest.raises(InputError, match=r"train\.tsv:1: I-X cannot follow nothing in iob2"):
        load_ner(tmp_path, scheme="iob2")


def test_bad_bytes_and_absent_or_empty_files(tmp_path):
    (tmp_path / "bad.tsv").write_bytes(b"ok\tO\n\xff\tO\n")
    with pytest.raises(InputError, match=r"bad\.tsv: not UTF-8 at byte 5"):
        read_ner(tmp_path / "bad.tsv")
    with pytest.raises(InputError, match="no sentence"):
        read_ner(write(tmp_path / "empty.tsv", "\n\n"))
    with pytest.raises(InputError, match=r"absent\.tsv: cannot be read"):
        read_ner(tmp_path / "absent.tsv")


def test_load_names_missing_split_and_unknown_label(tmp_path):
    write(tmp_path / "train.tsv", "gout\tB-Disease\nis\tO\n")
    write(tmp_path / "dev.tsv", "gout\tB-Disease\n")
    with pytest.raises(InputError, match="no test file"):
        load_ner(tmp_path)
    write(tmp_path / "test.tsv", "is\tO\n\nis\tO\naspirin\tB-Drug\n")
    with pytest.raises(InputError, match=r"test\.tsv:4: label B-Drug.*--ignore_unknown_labels"):
        load_ner(tmp_path)
    data = load_ner(tmp_path, ignore_unknown_labels=True)
    assert data.labels == ["O", "B-Disease"]
    assert data.splits["test"][1].tags == ["O", "B-Drug"]


def test_reads_ncbi_disease(shared):
    data = load_ner(shared / "data/ner/NCBI-disease")
    assert data.labels == ["O", "B-Disease", "I-Disease"]
    assert [len(data.splits[name]) for name in ("train", "devel", "test")] == [5424, 923, 940]


# --- encoding and batches


def test_chunks_hold_every_word_with_a_piece_once(tokenizer):
    sentences = [
        Sentence(["the", "gouts", "\u200b", "of", "polio", "xyxyxyxy"], ["O"] * 6, 1),
        Sentence(["\u200b"], ["O"], 9),
    ]
    chunks = encode_sentences(tokenizer, sentences, max_length=6)
    assert all(len(chunk.ids) <= 6 for chunk in chunks)
    assert [word for chunk in chunks for word in chunk.words] == [0, 1, 3, 4, 5]
    for chunk in chunks:
        assert chunk.sentence == 0
        assert chunk.ids[0] == tokenizer.cls_token_id
        assert chunk.ids[-1] == tokenizer.sep_token_id
        firsts = [tokenizer.convert_ids_to_tokens(int(i)) for i in chunk.ids[chunk.positions]]
        assert all(
            sentences[0].words[w].startswith(piece) for w, piece in zip(chunk.words, firsts, strict=True)
        )


def test_encoding_ignores_truncation_baked_into_the_tokenizer(tokenizer):
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=4)
    chunks = encode_sentences(tokenizer, [Sentence(["the"] * 20, ["O"] * 20, 1)], max_length=64)
    assert len(chunks) == 1
    assert len(chunks[0].words) == 20


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=200),
    st.integers(1, 9),
    st.integers(0, 5),
    st.integers(0, 5),
)
def test_bucketed_batches_are_a_partition_and_a_pure_function(lengths, size, seed, epoch):
    batches = bucketed_batches(lengths, size, seed, epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert max(map(len, batches)) <= size
    assert batches == bucketed_batches(lengths, size, seed, epoch)
    assert sorted(i for batch in sorted_batches(lengths, size) for i in batch) == list(range(len(lengths)))


def test_bucketed_batches_differ_by_epoch_and_save_padding():
    lengths = np.random.default_rng(0).integers(5, 100, size=1000).tolist()
    batches = bucketed_batches(lengths, 16, 0, 0)
    assert batches != bucketed_batches(lengths, 16, 0, 1)
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)


def test_collate_labels_first_pieces_only(tokenizer):
    chunks = encode_sentences(
        tokenizer, [Sentence(["gouts", "of"], ["O"] * 2, 1), Sentence(["the"], ["O"], 2)], 10
    )
    batch = collate(chunks, 0, [np.array([1, 0]), np.array([2])])
    assert batch["labels"].tolist() == [[-100, 1, -100, 0, -100], [-100, 2, -100, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
