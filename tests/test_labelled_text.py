"""Readers of labelled texts and their splits."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
from toy_ner import ner_tokenizer
from toy_sentiment import domain_rows, write_csv

from edad_fast.errors import InputError
from edad_fast.tasks.labelled_text import SPLITS, class_ids, encode_texts, load_texts

ROWS = domain_rows("source", 200)


def _contents(data: object) -> dict[str, list[tuple[str, str | None]]]:
    return {split: [(t.text, t.label) for t in data.splits[split]] for split in SPLITS}  # type: ignore[attr-defined]


def _review(rows: list[tuple[str, str]], folder: Path) -> Path:
    for label in ("positive", "negative"):
        parts = [
            f"<review>\n<title>\nnot read\n</title>\n<review_text>\n{text}\n</review_text>\n</review>\n"
            for text, found in rows
            if found == label
        ]
        folder.mkdir(exist_ok=True)
        (folder / f"{label}.review").write_text("".join(parts), encoding="utf-8")
    return folder


def test_all_formats_give_the_same_splits(tmp_path: Path) -> None:
    comma = write_csv(tmp_path / "a.csv", ROWS)
    tab = tmp_path / "b.tsv"
    tab.write_text("labels\treviews\n" + "".join(f"{label}\t{text}\n" for text, label in ROWS))
    lines = tmp_path / "c.jsonl.gz"
    with gzip.open(lines, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"sentence": t, "sentiment": label}) + "\n" for t, label in ROWS)
    expected = load_texts(comma)
    assert expected.labels == ["negative", "positive"]
    assert sorted(row for part in _contents(expected).values() for row in part) == sorted(ROWS)
    for path in (tab, lines, _review(ROWS, tmp_path / "reviews")):
        assert _contents(load_texts(path)) == _contents(expected)


def test_the_shares_are_those_documented(tmp_path: Path) -> None:
    data = load_texts(write_csv(tmp_path / "a.csv", domain_rows("target", 2000)))
    sizes = [len(data.splits[split]) / 2000 for split in SPLITS]
    assert sizes == pytest.approx([0.7, 0.1, 0.2], abs=0.03)


def test_splits_and_order_depend_on_the_texts_alone(tmp_path: Path) -> None:
    shuffled = ROWS.copy()
    random.Random(1).shuffle(shuffled)
    first, second = write_csv(tmp_path / "a.csv", ROWS), write_csv(tmp_path / "b.csv", shuffled)
    assert _contents(load_texts(first)) == _contents(load_texts(second))
    half = load_texts(write_csv(tmp_path / "c.csv", ROWS[::2]))
    for split, items in _contents(half).items():
        assert set(items) <= set(_contents(load_texts(first))[split])


def test_repeated_texts_are_in_one_split_and_once(tmp_path: Path) -> None:
    loud = [(f"{text.upper()} !", label) for text, label in ROWS]
    data = load_texts(write_csv(tmp_path / "a.csv", [*ROWS, *loud, *ROWS]))
    texts = [t.text.lower().removesuffix(" !") for split in SPLITS for t in data.splits[split]]
    assert sorted(texts) == sorted(text for text, _ in ROWS)


def test_texts_with_two_classes_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = load_texts(write_csv(tmp_path / "a.csv", [*ROWS, (ROWS[0][0], "neutral")]))
    assert "1 texts have several classes" in caplog.text
    assert sum(len(part) for part in data.splits.values()) == len(ROWS) - 1
    assert data.labels == ["negative", "positive"]


def test_ready_splits_stay_and_the_test_split_wins(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", ROWS[:100])
    write_csv(tmp_path / "dev.csv", ROWS[100:120])
    write_csv(tmp_path / "test.csv", ROWS[120:150] + ROWS[:5])
    found = _contents(load_texts(tmp_path))
    assert sorted(found["train"]) == sorted(ROWS[5:100])
    assert sorted(found["devel"]) == sorted(ROWS[100:120])
    assert sorted(found["test"]) == sorted(ROWS[120:150] + ROWS[:5])


def test_classes_0_and_1_are_negative_and_positive(tmp_path: Path) -> None:
    rows = [(text, str(int(label == "positive"))) for text, label in ROWS]
    expected = load_texts(write_csv(tmp_path / "a.csv", ROWS))
    assert _contents(load_texts(write_csv(tmp_path / "b.csv", rows))) == _contents(expected)


def test_without_labels_no_class_is_looked_at(tmp_path: Path) -> None:
    expected = _contents(load_texts(write_csv(tmp_path / "a.csv", ROWS)))
    plain = tmp_path / "plain.txt"
    plain.write_text("\n".join(text for text, _ in ROWS), encoding="utf-8")
    files = [
        write_csv(tmp_path / "none.csv", [(text,) for text, _ in ROWS], header="text"),
        write_csv(tmp_path / "empty.csv", [(text, "") for text, _ in ROWS]),
        write_csv(tmp_path / "other.csv", [(text, str(n)) for n, (text, _) in enumerate(ROWS)]),
        plain,
    ]
    for file in files:
        data = load_texts(file, labels=False)
        assert data.labels == []
        assert {s: [t for t, _ in part] for s, part in _contents(data).items()} == {
            s: [t for t, _ in part] for s, part in expected.items()
        }
        assert {label for part in _contents(data).values() for _, label in part} == {None}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\nfine,x\n,y\n", r"a.csv:3: the text is empty"),
        ("a.csv", "text,label\nfine,x\nbad,\n", r"a.csv:3: no class"),
        ("a.csv", "text,label\nfine,x\nbad\n", r"a.csv:3: 1 columns, the header has 2"),
        ("a.csv", 'text,label\n"fine\nmore",x\nbad,x,y\n', r"a.csv:4: 3 columns"),
        ("a.csv", 'text,label\nfine,x\n"bad,y\n', r"a.csv:3: not a valid table"),
        (
            "a.csv",
            "words,label\nfine,x\n",
            r"a.csv:1: no field 'text' or .* there are words, label.*text_field",
        ),
        ("a.csv", "text,kind\nfine,x\n", r"a.csv:1: no field 'label' or .*--label_field"),
        (
            "a.jsonl",
            '{"text": "fine", "label": "x"}\n{"text": 3, "label": "x"}\n',
            r"a.jsonl:2: the text is int",
        ),
        ("a.jsonl", '{"text": "fine", "label": "x"}\nnot json\n', r"a.jsonl:2: not JSON"),
        ("a.jsonl", '{"text": "fine", "label": null}\n', r"a.jsonl:1: no class"),
        ("a.jsonl", "[1]\n", r"a.jsonl:1: no JSON object"),
        ("a.txt", "fine\n", r"a.txt: a .txt file has no classes"),
        ("a.parquet", "fine\n", r"a.parquet: unknown format"),
        ("positive.review", "<review_text>\nfine\n", r"positive.review:1: <review_text> is not closed"),
        ("positive.review", "</review_text>\n", r"positive.review:1: </review_text> without"),
        ("a.csv", "text,label\nfine,x\nmore,x\n", r"a single class, x"),
        ("a.csv", "", r"no text"),
    ],
)
def test_bad_files_are_named_with_the_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_texts(tmp_path / name)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,label\nfine,x\nb\xff,y\n")
    with pytest.raises(InputError, match=r"a\.csv: invalid UTF-8 .*line 3"):
        load_texts(tmp_path / "a.csv")


def test_a_folder_without_texts_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no .review"):
        load_texts(tmp_path)


def test_unknown_class_is_named_with_its_line(tmp_path: Path) -> None:
    data = load_texts(write_csv(tmp_path / "a.csv", ROWS))
    item = data.splits["train"][0]
    with pytest.raises(
        InputError, match=rf"a.csv:{item.line}: class '{item.label}' is not one of the model's: x"
    ):
        class_ids(data.splits["train"], ["x"])


def test_long_texts_are_cut_at_the_end(tmp_path: Path) -> None:
    tokenizer = ner_tokenizer(tmp_path)
    data = load_texts(write_csv(tmp_path / "a.csv", [("cured gout of the flu", "x"), ("aspirin", "y")]))
    items = [t for split in SPLITS for t in data.splits[split]]
    whole = {len(ids) for ids in encode_texts(tokenizer, items, 32)}
    assert whole == {7, 3}
    cut = encode_texts(tokenizer, items, 5)
    assert max(map(len, cut)) == 5
    assert all(ids[-1] == tokenizer.sep_token_id and ids.dtype == np.int64 for ids in cut)


@pytest.mark.parametrize(
    ("domain", "texts"),
    [
        *(("books", 1956), ("dvd", 1954), ("electronics", 1965), ("kitchen", 1977)),
        *(("airline", 2000), ("blog", 404), ("imdb", 1999)),
    ],
)
def test_the_seven_domains(shared: Path, domain: str, texts: int) -> None:
    data = load_texts(shared / "data" / "sentiment" / domain)
    assert data.labels == ["negative", "positive"]
    assert sum(len(part) for part in data.splits.values()) == texts
    for part in data.splits.values():
        assert 0.4 < np.mean([t.label == "positive" for t in part]) < 0.6
