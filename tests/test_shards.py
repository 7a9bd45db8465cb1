from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_corpus import toy_shards, toy_tokenizer, write_text

from edad_fast.batches import TokenShards, build_shards, shards
from edad_fast.errors import InputError


def build(folder: Path, **options: Any) -> TokenShards:
    return build_shards(
        options.pop("tokenizer", toy_tokenizer()),
        [folder / "text.txt"],
        folder / "shards",
        progress=False,
        **options,
    )


@pytest.fixture
def no_tokenising(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(shards, "encode_documents", fail)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=20),
    tokens_per_file=st.integers(1, 200),
    documents_per_block=st.integers(1, 9),
)
def test_documents_come_back(lengths: list[int], tokens_per_file: int, documents_per_block: int) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "TOKENS_PER_FILE", tokens_per_file)
        patch.setattr(shards, "_BLOCK_DOCUMENTS", documents_per_block)
        made, documents = toy_shards(Path(folder), lengths, tails=(0, 2))
        n_tokens = sum(map(len, documents))
        assert (made.n_documents, made.n_tokens) == (len(documents), n_tokens)
        assert [made.document(i).tolist() for i in range(made.n_documents)] == documents
        assert len(list(Path(folder, "shards").glob("tokens-*"))) == -(-n_tokens // tokens_per_file)
        everything = np.concatenate(documents)
        order = np.random.default_rng(0).permutation(n_tokens // 2 * 2).reshape(2, -1)
        np.testing.assert_array_equal(made.read(order), everything[order])


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents are taken from the text no more than a block ahead of the tokeniser."""
    write_text(tmp_path / "text.txt", [3] * 100)
    taken, encoded = [], []
    read, encode = shards.iter_documents, shards.encode_documents

    def reading(*arguments: Any, **options: Any) -> Any:
        for document in read(*arguments, **options):
            taken.append(document.line)
            yield document

    def encoding(tokenizer: Any, texts: list[str]) -> Any:
        assert len(taken) - len(encoded) <= 7
        encoded.extend(texts)
        return encode(tokenizer, texts)

    monkeypatch.setattr(shards, "iter_documents", reading)
    monkeypatch.setattr(shards, "encode_documents", encoding)
    monkeypatch.setattr(shards, "_BLOCK_DOCUMENTS", 7)
    assert build(tmp_path).n_documents == len(encoded) == 100


@pytest.mark.usefixtures("no_tokenising")
class TestReuse:
    @pytest.fixture(autouse=True)
    def _made(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.MonkeyPatch.context() as patch:
            from edad_fast.vocabulary import encode_documents

            patch.setattr(shards, "encode_documents", encode_documents)
            toy_shards(tmp_path, [20, 30, 40])

    def test_same_input(self, tmp_path: Path) -> None:
        assert build(tmp_path).n_tokens == 90

    def test_moved_folder(self, tmp_path: Path) -> None:
        (tmp_path / "shards").rename(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").rename(tmp_path / "shards")
        os.utime(tmp_path / "text.txt", (0, 0))
        assert build(tmp_path).n_tokens == 90

    def test_other_held_out_fraction(self, tmp_path: Path) -> None:
        assert len(build(tmp_path, held_out_fraction=0.5).held_out) > 0
        assert len(build(tmp_path).held_out) == 0

    def test_progress_stays_silent(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        build(tmp_path)
        assert capsys.readouterr() == ("", "")

    @pytest.mark.parametrize("change", ["text", "vocabulary", "encoding_errors", "text_field", "format"])
    def test_another_input_is_not_reused(
        self, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options: dict[str, Any] = {}
        if change == "text":
            write_text(tmp_path / "text.txt", [20, 30, 41])
        elif change == "vocabulary":
            options = {"tokenizer": toy_tokenizer(2999)}
        elif change == "format":
            monkeypatch.setattr(shards, "FORMAT", shards.FORMAT + 1)
        else:
            options = {change: "replace"}
        with pytest.raises(AssertionError, match="tokenised again"):
            build(tmp_path, **options)
        monkeypatch.undo()
        assert TokenShards(tmp_path / "shards").n_tokens == 90, "a failed rebuild must leave the old shards"


def test_changed_text_is_rebuilt(tmp_path: Path) -> None:
    first, _ = toy_shards(tmp_path, [20, 30])
    second, documents = toy_shards(tmp_path, [5, 6, 7])
    assert first.fingerprint != second.fingerprint
    assert [second.document(i).tolist() for i in range(3)] == documents
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards", "text.txt"]


def damage_cut(folder: Path) -> str:
    path = folder / "tokens-00000.int32"
    os.truncate(path, path.stat().st_size - 4)
    return path.name


def damage_bit(folder: Path) -> str:
    path = folder / "tokens-00000.int32"
    data = bytearray(path.read_bytes())
    data[17] ^= 1
    path.write_bytes(data)
    return path.name


def damage_offsets(folder: Path) -> str:
    path = folder / "offsets.int64"
    path.write_bytes(path.read_bytes()[8:] + bytes(8))
    return path.name


def damage_missing(folder: Path) -> str:
    (folder / "offsets.int64").unlink()
    return "offsets.int64"


def damage_index(folder: Path) -> str:
    path = folder / "index.json"
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    return path.name


def damage_index_field(folder: Path) -> str:
    path = folder / "index.json"
    path.write_text(json.dumps({"format": shards.FORMAT, "fingerprint": 3}), encoding="utf-8")
    return path.name


@pytest.mark.parametrize(
    "damage", [damage_cut, damage_bit, damage_offsets, damage_missing, damage_index, damage_index_field]
)
def test_damage_is_named_with_the_way_out(tmp_path: Path, damage: Any) -> None:
    toy_shards(tmp_path, [20, 30])
    name = damage(tmp_path / "shards")
    with pytest.raises(InputError, match=rf"{name}.*delete .*shards"):
        build(tmp_path)


def test_folder_without_index(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no token shards"):
        TokenShards(tmp_path)


def test_folder_of_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    write_text(tmp_path / "text.txt", [20])
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match="holds something else"):
        build(tmp_path)
    assert (tmp_path / "shards" / "thesis.tex").is_file()


def test_text_without_a_token(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\x01\x02\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"text\.txt.*no token"):
        build(tmp_path)
    assert not (tmp_path / "shards").exists()


def test_documents_without_a_token_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\x01\n\nw1 w2\n\n\x02\n\nw3\n\n\x03\n", encoding="utf-8")
    made = build(tmp_path)
    assert [made.document(i).tolist() for i in range(made.n_documents)] == [[7, 8], [9]]


def _build_until(folder: Path, stop: Any) -> None:
    """Tokenise block by block and call `stop` at the third."""
    calls = []
    encode = shards.encode_documents

    def encoding(tokenizer: Any, texts: list[str]) -> Any:
        calls.append(len(texts))
        if len(calls) == 3:
            stop()
        return encode(tokenizer, texts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_BLOCK_DOCUMENTS", 1)
        patch.setattr(shards, "encode_documents", encoding)
        build(folder)


def _interrupt() -> None:
    raise KeyboardInterrupt


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("before", ["nothing", "other shards"])
@pytest.mark.parametrize("stop", ["interrupted", "killed"])
def test_half_a_build_is_never_taken_for_a_whole_one(tmp_path: Path, before: str, stop: str) -> None:
    if before == "other shards":
        toy_shards(tmp_path, [9, 9, 9])
    documents = write_text(tmp_path / "text.txt", [10] * 8)
    if stop == "interrupted":
        with pytest.raises(KeyboardInterrupt):
            _build_until(tmp_path, _interrupt)
    else:
        process = multiprocessing.get_context("fork").Process(target=_build_until, args=(tmp_path, _kill))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    if before == "nothing":
        assert not (tmp_path / "shards").exists()
    else:
        assert TokenShards(tmp_path / "shards").n_tokens == 27
    made = build(tmp_path)
    assert [made.document(i).tolist() for i in range(made.n_documents)] == documents


def test_held_out_documents(tmp_path: Path) -> None:
    made, _ = toy_shards(tmp_path, [1] * 2000, held_out_fraction=0.1)
    assert sorted([*made.train, *made.held_out]) == list(range(2000))
    assert 140 < len(made.held_out) < 260  # 200 +- 4.5 standard deviations
    more = TokenShards(made.directory, held_out_fraction=0.2)
    assert set(made.held_out) < set(more.held_out)
    assert len(TokenShards(made.directory, held_out_fraction=1e-9).held_out) == 1
    assert len(TokenShards(made.directory).held_out) == 0
    assert len(TokenShards(made.directory, held_out_fraction=1.0).train) == 0


def test_the_only_document_is_not_held_out(tmp_path: Path) -> None:
    made, _ = toy_shards(tmp_path, [50], held_out_fraction=1e-9)
    assert made.train.tolist() == [0]


def test_copy_for_another_process_reopens_the_files(tmp_path: Path) -> None:
    made, documents = toy_shards(tmp_path, [1000, 1500], held_out_fraction=0.01)
    data = pickle.dumps(made)
    assert len(data) < 1000
    copy = pickle.loads(data)
    assert copy.document(1).tolist() == documents[1]
    assert copy.held_out.tolist() == made.held_out.tolist()


def test_progress_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_text(tmp_path / "text.txt", [10, 12])
    build_shards(toy_tokenizer(), [tmp_path / "text.txt"], tmp_path / "shards")
    assert "tokenising" in capsys.readouterr().err


def test_real_text(shared: Path, tmp_path: Path) -> None:
    from edad_fast.vocabulary import load_tokenizer

    source = shared / "data" / "corpus" / "valid.txt.xz"
    tokenizer = load_tokenizer(shared / "data" / "models" / "minilm-l6-h384-uncased")
    made = build_shards(tokenizer, [source], tmp_path / "shards", progress=False)
    assert made.n_tokens > 100_000
    text = next(iter(shards.iter_documents([source]))).text
    expected = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert made.document(0).tolist() == expected
