"""vocab.txt, the whole step that builds a vocabulary, and its entry point."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from toy_vocabulary import CASED_TEXT, HARD, TEXT, TINY, check_merged, counts_of, greedy, same_ids, write_base
from transformers import AutoTokenizer

from edad_fast import vocab
from edad_fast.errors import InputError
from edad_fast.vocabulary import (
    Learning,
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
    (tmp_path / "mark.txt").write_bytes(b"\xef\xbb\xbfa\n\xef\xbb\xbf\n")
    assert read_vocab(tmp_path / "mark.txt") == ["a", "\ufeff"]


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
        ("many", "such as 40000"),
        ("99999", "corpus supports"),
    ]:
        assert vocab.main([*flags, "--size", bad]) == 2
        assert message in capsys.readouterr().err
    assert vocab.main([*flags[:2], "--corpus", "no*.txt", *flags[4:], "--size", str(size)]) == 2
    assert "no file matches" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_report_files(base_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text(TEXT)
    flags = [
        "--base",
        str(base_dir),
        "--corpus",
        str(tmp_path / "c.txt"),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    assert vocab.main([*flags, "--size", str(len(TINY) + 12)]) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    words = counts_of(TEXT)
    general, merged = set(TINY), set(read_vocab(tmp_path / "out/vocab.txt"))
    before = sum(count * len(greedy(word, general)) for word, count in words.items())
    after = sum(count * len(greedy(word, merged)) for word, count in words.items())
    assert report["tokens"] == {"before": before, "after": after}
    assert report["fertility"]["after"] == after / words.total_words
    assert report["unreachable_new_pieces"] == 0
    assert report["curve"]["tokens"][0] == before
    assert report["curve"]["tokens"][-1] == after
    sizes = report["curve"]["size"]
    assert (sizes[0], sizes[-1]) == (len(TINY), len(TINY) + 12)
    # A piece may take the last words of others, whose rows go: the size stays, or falls.
    assert set(sizes) == set(range(len(TINY), len(TINY) + 13))
    assert (np.diff(sizes) <= 1).all()
    best = report["most_valuable"][0]
    saved = best["count"] * (len(greedy(best["piece"], general)) - 1)
    assert best["tokens_saved"] == saved == max(m["tokens_saved"] for m in report["most_valuable"])
    assert best["piece"] in (tmp_path / "out/report.md").read_text()
    assert (tmp_path / "out/plots/curve.png").read_bytes().startswith(b"\x89PNG")


def test_counts_of_shards_are_added_up(
    base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [TEXT[: len(TEXT) // 2], TEXT[len(TEXT) // 2 :]]
    base = ["--base", str(base_dir)]
    for number, part in enumerate(parts):
        (tmp_path / f"{number}.txt").write_text(part)
        corpus = ["--corpus", str(tmp_path / f"{number}.txt")]
        assert vocab.main([*base, *corpus, "--save_counts", str(tmp_path / f"{number}.counts")]) == 0
        assert f"are in {tmp_path / f'{number}.counts'}" in capsys.readouterr().out
    size = ["--size", str(len(TINY) + 12)]
    tables = ["--counts", *(str(tmp_path / f"{number}.counts") for number in range(2))]
    assert vocab.main([*base, *tables, *size, "--output_dir", str(tmp_path / "one")]) == 0
    corpus = ["--corpus", *(str(tmp_path / f"{number}.txt") for number in range(2))]
    assert vocab.main([*base, *corpus, *size, "--output_dir", str(tmp_path / "two")]) == 0
    for name in ("vocab.txt", "tokenizer.json", "report.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    counts_of(TEXT, lowercase=False).save(tmp_path / "cased.counts")
    flags = [*base, "--counts", str(tmp_path / "cased.counts"), *size, "--output_dir", str(tmp_path / "out")]
    capsys.readouterr()
    assert vocab.main(flags) == 2
    assert "the words were made with compat hf, lowercase False" in capsys.readouterr().err
    (tmp_path / "1.counts").write_bytes(b"EDADWCNT")
    assert vocab.main([*base, *tables, *size, "--output_dir", str(tmp_path / "out")]) == 2
    assert "1.counts" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_automatic_size(base_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.txt").write_text(TEXT)
    flags = [
        "--base",
        str(base_dir),
        "--corpus",
        str(tmp_path / "c.txt"),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    assert vocab.main([*flags, "--size", "auto", "--interval", "4", "--threshold", "0.1"]) == 0
    assert "gain of P(D)" in capsys.readouterr().out
    report = json.loads((tmp_path / "out/report.json").read_text())
    gains = [step["gain"] for step in report["automatic"]]
    assert report["end"] == "threshold"
    assert gains[0] is None
    assert gains[-1] <= 0.1 < min(gains[1:-1], default=1.0)
    size = len(read_vocab(tmp_path / "out/vocab.txt"))
    assert size == report["automatic"][-1]["size"] == len(TINY) + 4 * (len(gains) - 1)


def test_reused_and_padded_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    general = [*TINY[:5], "[unused0]", "[unused1]", *TINY[5:]]
    write_vocab(tmp_path / "base.txt", general)
    (tmp_path / "c.txt").write_text(TEXT)
    flags = ["--base", str(tmp_path / "base.txt"), "--corpus", str(tmp_path / "c.txt"), "--output_dir"]
    size = [
        "--size",
        str(len(general) + 3),
        "--reuse_unused",
        "--pad_to_multiple",
        "64",
        "--criterion",
        "likelihood",
    ]
    assert vocab.main([*flags, str(tmp_path / "out"), *size]) == 0
    shown = capsys.readouterr().out
    pieces = read_vocab(tmp_path / "out/vocab.txt")
    assert len(pieces) == 128
    assert (
        f"128 = {len(general)} general + 3 new + {125 - len(general)} padding; 2 new ones in [unused] rows"
        in shown
    )
    assert pieces[5] != "[unused0]"
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == 128


@pytest.mark.parametrize("rows", [3, 200])
def test_unused_rows_are_filled_at_the_size_of_the_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: int
) -> None:
    """With 200 rows the text runs out first: the pieces there are go in, and the size is kept."""
    general = [*TINY[:5], *(f"[unused{number}]" for number in range(rows)), *TINY[5:]]
    write_vocab(tmp_path / "base.txt", general)
    (tmp_path / "c.txt").write_text(TEXT)
    flags = ["--base", str(tmp_path / "base.txt"), "--corpus", str(tmp_path / "c.txt"), "--reuse_unused"]
    size = ["--size", str(len(general)), "--output_dir", str(tmp_path / "out")]
    assert vocab.main([*flags, *size]) == 0
    pieces = read_vocab(tmp_path / "out/vocab.txt")
    assert [pieces[:5], pieces[5 + rows :]] == [general[:5], general[5 + rows :]]
    added = [piece for piece in pieces[5 : 5 + rows] if not piece.startswith("[unused")]
    assert added == pieces[5 : 5 + len(added)]
    assert len(added) == 3 if rows == 3 else 10 < len(added) < 200
    produced = {piece for word in counts_of(TEXT) for piece in greedy(word, set(pieces))}
    assert produced.issuperset(added)
    shown = capsys.readouterr().out
    assert f"{len(general)} = {len(general)} general + 0 new; {len(added)} new ones in [unused] rows" in shown
    assert f"size                {'size asked for' if rows == 3 else 'all useful pieces'}" in shown
    base = load_tokenizer(tmp_path / "base.txt")
    learning = Learning(reuse_unused=True)
    merged = build_vocabulary(base, [tmp_path / "c.txt"], size=len(general), learning=learning)
    assert merged.pieces == pieces


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--base", "b"], "--corpus, or saved word counts with --counts"),
        (["--corpus", "c"], "--base is missing"),
        (["--base", "b", "--corpus", "c", "--size", "9"], "give --size and --output_dir, or --save_counts"),
        (
            ["--base", "b", "--corpus", "c", "--size", "9", "--output_dir", "o", "--threshold", "2"],
            "threshold is 2.0",
        ),
        (
            ["--base", "b", "--corpus", "c", "--size", "9", "--output_dir", "o", "--criterion", "x"],
            "criterion 'x' is unknown",
        ),
    ],
)
def test_bad_flags(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert vocab.main(flags) == 2
    assert message in capsys.readouterr().err


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
