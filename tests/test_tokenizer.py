"""Tokenizers: loaded, built from a vocabulary, saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers.pre_tokenizers import BertPreTokenizer
from toy_vocabulary import CASED_TEXT, HARD, SPECIAL, TINY, counts_of, greedy, same_ids, write_base
from transformers import AutoTokenizer

from edad_fast.errors import InputError
from edad_fast.vocabulary import (
    build_tokenizer,
    encode_documents,
    extend_vocabulary,
    load_tokenizer,
    read_vocab,
    save_tokenizer,
    vocabulary_of,
    write_vocab,
)


@pytest.fixture
def base_dir(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base")


@pytest.mark.parametrize("lowercase", [True, False])
def test_saved_tokenizer_gives_the_same_ids_in_auto_tokenizer(tmp_path: Path, lowercase: bool) -> None:
    general = TINY if lowercase else [*TINY, "A", "B", "T"]
    write_vocab(tmp_path / "general.txt", general)
    base = load_tokenizer(tmp_path / "general.txt")
    assert base.backend_tokenizer.normalizer.lowercase is lowercase
    text = CASED_TEXT
    counts = counts_of(text, lowercase=lowercase)
    merged = extend_vocabulary(general, counts, len(general) + 15)
    tokenizer = build_tokenizer(base, merged.pieces)
    save_tokenizer(tokenizer, tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    same_ids(tokenizer, loaded, [text, *HARD])
    assert len(loaded) == len(merged.pieces)
    assert loaded.get_added_vocab().keys() <= set(SPECIAL)
    assert loaded.mask_token_id == merged.pieces.index("[MASK]")
    assert read_vocab(tmp_path / "saved/vocab.txt") == merged.pieces
    assert vocabulary_of(load_tokenizer(tmp_path / "saved")) == merged.pieces
    same_ids(tokenizer, load_tokenizer(tmp_path / "saved"), [text, *HARD])
    # Every id is the one that the published algorithm gives.
    known = set(merged.pieces)
    words = [
        word
        for word, _ in BertPreTokenizer().pre_tokenize_str(
            base.backend_tokenizer.normalizer.normalize_str(text)
        )
    ]
    expected = [merged.pieces.index(piece) for word in words for piece in greedy(word, known)]
    assert loaded(text, add_special_tokens=False)["input_ids"] == expected


def test_new_pieces_do_not_cut_words(base_dir: Path) -> None:
    base = load_tokenizer(base_dir)
    tokenizer = build_tokenizer(base, [*TINY, "ment"])
    assert tokenizer.tokenize("treatment ment") == ["treat", "##m", "##e", "##n", "##t", "ment"]


def test_truncation_and_padding_of_the_teacher_are_neutralised(base_dir: Path, tmp_path: Path) -> None:
    save_tokenizer(load_tokenizer(base_dir), tmp_path / "baked")
    path = tmp_path / "baked" / "tokenizer.json"
    definition = json.loads(path.read_text())
    definition["truncation"] = {
        "max_length": 8,
        "strategy": "LongestFirst",
        "stride": 0,
        "direction": "Right",
    }
    definition["padding"] = {
        "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    path.write_text(json.dumps(definition))
    text = "the treat " * 20
    for tokenizer in (
        load_tokenizer(tmp_path / "baked"),
        build_tokenizer(load_tokenizer(tmp_path / "baked"), TINY),
    ):
        assert len(tokenizer(text)["input_ids"]) == 42
        assert len(tokenizer("the")["input_ids"]) == 3
        assert len(tokenizer.backend_tokenizer.encode(text).ids) == 42
        save_tokenizer(tokenizer, tmp_path / "again")
        saved = json.loads((tmp_path / "again/tokenizer.json").read_text())
        assert saved["truncation"] is None
        assert saved["padding"] is None


def test_encode_documents(base_dir: Path) -> None:
    tokenizer = load_tokenizer(base_dir)
    # Leaves truncation and padding switched on in the backend.
    tokenizer(["the", "the the the"], truncation=True, max_length=3, padding=True)
    documents = ["the treating", "", "[MASK] the", "a" * 101] * 100
    ids, offsets = encode_documents(tokenizer, documents)
    assert ids.dtype == np.int32
    assert offsets.dtype == np.int64
    assert offsets.shape == (401,)
    rows = [[TINY[i] for i in ids[offsets[n] : offsets[n + 1]]] for n in range(400)]
    assert rows[:4] == [["the", "treat", "##ing"], [], ["[", "m", "##a", "##s", "##k", "]", "the"], ["[UNK]"]]
    assert rows == rows[:4] * 100
    # Encoding left the tokenizer as it was.
    assert tokenizer("[MASK]")["input_ids"] == [2, 4, 3]
    ids, offsets = encode_documents(tokenizer, [])
    assert (ids.size, offsets.tolist()) == (0, [0])


def test_vocabulary_order_decides_ids_and_specials_follow(base_dir: Path) -> None:
    base = load_tokenizer(base_dir)
    turned = build_tokenizer(base, TINY[::-1])
    assert turned("the")["input_ids"] == [TINY[::-1].index(piece) for piece in ("[CLS]", "the", "[SEP]")]
    with pytest.raises(InputError, match=r"lacks \[MASK\]"):
        build_tokenizer(base, [piece for piece in TINY if piece != "[MASK]"])
    with pytest.raises(InputError, match="'the' twice"):
        build_tokenizer(base, [*TINY, "the"])


def test_teacher_without_tokenizer_or_not_a_bert(base_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no tokenizer: neither tokenizer\.json nor vocab\.txt"):
        load_tokenizer(tmp_path / "empty")
    with pytest.raises(InputError, match="no such directory"):
        load_tokenizer(tmp_path / "nowhere")
    save_tokenizer(load_tokenizer(base_dir), tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    definition = json.loads(path.read_text())
    definition["pre_tokenizer"] = {"type": "Whitespace"}
    path.write_text(json.dumps(definition))
    (tmp_path / "other/tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(InputError, match="not a BERT tokenizer: its pre_tokenizer is Whitespace"):
        load_tokenizer(tmp_path / "other")
    path.write_text("{")
    with pytest.raises(InputError, match="no tokenizer could be loaded"):
        load_tokenizer(tmp_path / "other")
    write_vocab(tmp_path / "bare.txt", ["[UNK]", "a"])
    with pytest.raises(InputError, match=r"bare\.txt: no .*\[MASK\]"):
        load_tokenizer(tmp_path / "bare.txt")


def test_added_tokens_outside_the_model_are_refused(base_dir: Path) -> None:
    tokenizer = load_tokenizer(base_dir)
    tokenizer.add_tokens(["interleukin"])
    with pytest.raises(InputError, match=r"added token.*'interleukin'"):
        vocabulary_of(tokenizer)
