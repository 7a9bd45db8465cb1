"""vocab.txt, the whole step that builds a vocabulary, and its entry point."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from toy_vocabulary import CASED_TEXT, HARD, TEXT, TINY, check_merged, counts_of, same_ids, write_base
from transformers import AutoTokenizer

from edad_fast import vocab
from edad_fast.errors import InputError
from edad_fast.vocabulary import (
    build_tokenizer,
    build_vocabulary,
    decompose,
    load_tokenizer,
    read_vocab,
    save_tokenizer,
    vocabulary_of,
    write_vocab,
)


@pytest.fixture
def base_dir(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


# vocab.txt


def test_vocab_file_round_trip(tmp_path: Path) -> None:
    pieces = ["[UNK]", "a", "\u2028", "\x85", "##é", "½", "#"]
    write_vocab(tmp_path / "vocab.txt", pieces)
    assert read_vocab(tmp_path / "vocab.txt") == pieces
    (tmp_path / "crlf.txt").write_bytes(b"a\r\nb\r\n")
    assert read_vocab(tmp_path / "crlf.txt") == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\na\n", r"'a' is on line 1 and again on line 3"),
        (b"a\n\nb\n", r"line 2 is empty"),
        (b"a\n\n", r"line 2 is empty"),
        (b"", r"line 1 is empty"),
        (b"a\n\xff\n", r"invalid UTF-8 at byte 2"),
    ],
)
def test_bad_vocab_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_vocab(path)
    assert str(path) in str(error.value)


def test_absent_vocab_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.txt: cannot be read"):
        read_vocab(tmp_path / "nowhere.txt")


# The whole step, and the entry point


def test_build_vocabulary(base_dir: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "c.jsonl"
    corpus.write_text(json.dumps({"body": TEXT}) + "\n")
    base = load_tokenizer(base_dir)
    size = len(TINY) + 10
    merged = build_vocabulary(base, [corpus], size=size, text_field="body")
    check_merged(merged, TINY, counts_of(TEXT), size)
    assert build_vocabulary(base, [corpus]).added == []
    assert build_vocabulary(base, [corpus], size=len(TINY)).pieces == TINY
    with pytest.raises(InputError, match="below the general"):
        build_vocabulary(base, [tmp_path / "not read.txt"], size=3)
    with pytest.raises(InputError, match="more than the corpus supports"):
        build_vocabulary(base, [corpus], size=100_000, text_field="body")


def test_ready_vocabulary_starts_with_the_teachers(base_dir: Path, tmp_path: Path) -> None:
    base = load_tokenizer(base_dir)
    path = tmp_path / "v.txt"
    write_vocab(path, [*TINY, "hepatitis", "##)."])
    merged = build_vocabulary(base, [], vocab_file=path)
    assert merged.added == ["hepatitis", "##)."]
    write_vocab(path, [*TINY[:6], "odd", *TINY[7:]])
    with pytest.raises(
        InputError, match=rf"v\.txt: line 7 is 'odd', the teacher's vocabulary has {TINY[6]!r}"
    ):
        build_vocabulary(base, [], vocab_file=path)
    write_vocab(path, TINY[:-1])
    with pytest.raises(InputError, match=r"fewer than the teacher's"):
        build_vocabulary(base, [], vocab_file=path)


def test_entry_point_reports_and_writes(
    base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = tmp_path / "c.txt"
    corpus.write_text(TEXT)
    size = len(TINY) + 16
    flags = ["--base", str(base_dir), "--corpus", str(corpus), "--output_dir", str(tmp_path / "out")]
    assert vocab.main([*flags, "--size", str(size)]) == 0
    shown = capsys.readouterr().out
    assert "16 new" in shown
    assert "unreachable pieces  0 " in shown
    assert "hepatitis" in shown
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == size
    shutil.rmtree(tmp_path / "out")
    for bad, message in [
        ("10", "below the general"),
        ("auto", "such as 40000"),
        ("99999", "corpus supports"),
    ]:
        assert vocab.main([*flags, "--size", bad]) == 2
        assert message in capsys.readouterr().err
    assert vocab.main([*flags[:2], "--corpus", "no*.txt", *flags[4:], "--size", str(size)]) == 2
    assert "no file matches" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_real_teacher(shared: Path, tmp_path: Path) -> None:
    base = load_tokenizer(shared / "data/models/minilm-l6-h384-uncased")
    general = read_vocab(shared / "data/vocab/bert_base_uncased_vocab.txt")
    assert vocabulary_of(base) == general
    merged = build_vocabulary(base, [shared / "data/corpus/valid.txt.xz"], size=32_000)
    assert len(merged.pieces) == 32_000
    tokenizer = build_tokenizer(base, merged.pieces)
    save_tokenizer(tokenizer, tmp_path)
    same_ids(tokenizer, AutoTokenizer.from_pretrained(tmp_path), [CASED_TEXT, *HARD])
    splits = decompose(merged.added, general)
    assert all(splits)
    # The published list has an empty line between the general pieces and its own.
    published = shared / "data/vocab/exbert_vocab.txt"
    with pytest.raises(InputError, match=r"line 30523 is empty.*\[unused30522\]"):
        build_vocabulary(base, [], vocab_file=published)
    text = published.read_text(encoding="utf-8").replace("\n\n", "\n[unused30522]\n")
    (tmp_path / "exbert.txt").write_text(text, encoding="utf-8")
    ready = build_vocabulary(base, [], vocab_file=tmp_path / "exbert.txt")
    assert (len(ready.pieces), len(ready.added)) == (48_180, 17_658)
