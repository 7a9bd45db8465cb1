"""A vocabulary of the domain alone: how it is learned, whose rows it has, and what is saved with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import tiny_teacher
from toy_runs import arguments_of, write_inputs
from toy_vocabulary import SPECIAL, greedy
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertForMaskedLM, BertForPreTraining

from edad_fast import train, vocab
from edad_fast.errors import InputError
from edad_fast.methods.prepare import build_student, build_teacher, load_data
from edad_fast.models import load_masked_lm, load_pretraining_model, replace_vocabulary, save_model
from edad_fast.options import parse_config
from edad_fast.vocabulary import (
    Learning,
    WordCounts,
    build_domain_vocabulary,
    learn_domain_vocabulary,
    load_tokenizer,
    read_vocab,
    vocabulary_of,
    write_vocab,
)

COUNTS = WordCounts(
    {"kinase": 50, "kinases": 20, "liver": 9, "livers": 4, "cell": 100, "cells": 30, "olol": 5}
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


def test_special_tokens_characters_and_then_pieces_of_the_words() -> None:
    merged = learn_domain_vocabulary(SPECIAL, COUNTS, 22)
    assert merged.pieces[:5] == SPECIAL
    assert len(merged.pieces) == len(set(merged.pieces)) == 22
    firsts = {word[0] for word in COUNTS}
    others = {f"##{c}" for word in COUNTS for c in word[1:]}
    start = 5 + len(firsts | others)
    assert set(merged.pieces[5:start]) == firsts | others, "other words of the domain can be spelled"
    known = set(merged.pieces)
    produced = {piece for word in COUNTS for piece in greedy(word, known)}
    assert set(merged.pieces[start:]) <= produced
    assert "kinase" in known
    with pytest.raises(InputError, match=rf"size 12 is below the 5 special tokens.*give {start} or more"):
        learn_domain_vocabulary(SPECIAL, COUNTS, 12)
    with pytest.raises(InputError, match="more than the corpus supports"):
        learn_domain_vocabulary(SPECIAL, COUNTS, 200)


def test_the_command_learns_what_a_run_learns(inputs: Path, tmp_path: Path) -> None:
    """--scope domain of edad_fast.vocab is --vocab_scope domain of edad_fast.train."""
    flags = ["--base", str(inputs / "teacher"), "--corpus", str(inputs / "corpus.txt"), "--size", "70"]
    assert vocab.main([*flags, "--scope", "domain", "--output_dir", str(tmp_path / "domain")]) == 0
    base = load_tokenizer(inputs / "teacher")
    expected = build_domain_vocabulary(base, [inputs / "corpus.txt"], size=70).pieces
    assert read_vocab(tmp_path / "domain/vocab.txt") == expected
    assert vocabulary_of(load_tokenizer(tmp_path / "domain")) == expected
    assert expected[:20] != vocabulary_of(base)[:20]
    report = json.loads((tmp_path / "domain/report.json").read_text())
    assert report["pieces"]["all"] == 70
    assert (
        vocab.main([*flags, "--scope", "domain", "--reuse_unused", "--output_dir", str(tmp_path / "x")]) == 2
    )


def test_the_automatic_size_begins_at_the_characters() -> None:
    """From special tokens alone every word is [UNK], P(D) is 0 and growth would end at once."""
    learning = Learning(interval=4, threshold=0.05, max_size=40)
    merged = learn_domain_vocabulary(SPECIAL, COUNTS, "auto", learning=learning)
    assert merged.steps is not None
    assert len(merged.steps.size) > 1
    assert merged.steps.tokens[-1] < merged.steps.tokens[0] == sum(len(w) * n for w, n in COUNTS.items())


def _domain_arguments(inputs: Path, out: Path, **changes: object) -> list[str]:
    return arguments_of(inputs, out, **{"vocab_scope": "domain", "vocab_size": 60, "dropout": 0, **changes})


def _expected_rows(table: torch.Tensor, general: list[str], pieces: list[str]) -> list[torch.Tensor]:
    known, ids = set(general), {piece: i for i, piece in enumerate(general)}
    rows = []
    for piece in pieces:
        if piece in known:
            rows.append(table[ids[piece]])
            continue
        word = piece.removeprefix("##")
        split = greedy(word, known)
        if piece.startswith("##"):  # spelled as the inside of a word: greedy sees it behind a letter
            split = greedy("a" + word, {p for p in known if p == "a" or p.startswith("##")})[1:]
        rows.append(torch.stack([table[ids[p]] for p in split]).double().mean(0).float())
    return rows


@pytest.mark.parametrize("reading", ["learned", "ready"])
def test_rows_of_shared_pieces_are_copied_and_others_averaged(
    inputs: Path, tmp_path: Path, reading: str
) -> None:
    general = vocabulary_of(load_tokenizer(inputs / "teacher"))
    options: dict[str, object] = {}
    if reading == "ready":  # ids in another order, [PAD] not the first
        listed = [
            "kinase",
            "the",
            "[MASK]",
            "[PAD]",
            "##ase",
            "cell",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "k",
            "a",
            "##b",
        ]
        write_vocab(tmp_path / "list.txt", listed)
        options = {"vocab": tmp_path / "list.txt", "vocab_size": None}
    config = parse_config(_domain_arguments(inputs, tmp_path / "run", **options))
    data = load_data(config, tmp_path / "run")
    pieces = vocabulary_of(data.tokenizer)
    assert len(pieces) == (12 if reading == "ready" else 60)
    assert data.added == [piece for piece in pieces if piece not in general]
    assert len(data.added) > 1
    assert set(pieces) & set(general) - set(SPECIAL)
    old, new = load_pretraining_model(inputs / "teacher"), build_teacher(config, data)
    with torch.no_grad():
        old.cls.predictions.bias.normal_(generator=torch.Generator().manual_seed(0))
    replaced = load_pretraining_model(inputs / "teacher")
    replaced.load_state_dict(old.state_dict())
    assert new.get_input_embeddings().weight.shape == (len(pieces), 24)
    for row, expected in enumerate(_expected_rows(old.get_input_embeddings().weight, general, pieces)):
        exact = {"rtol": 0.0, "atol": 0.0} if pieces[row] in general else {"rtol": 1e-6, "atol": 1e-8}
        torch.testing.assert_close(new.get_input_embeddings().weight[row], expected, **exact)
    # Biases go the same way; the encoder is what it was.
    ids = {piece: i for i, piece in enumerate(general)}
    groups = [[ids[p]] if p in ids else [ids["a"], ids["##b"]] for p in pieces]
    kept = [p in ids for p in pieces]
    replace_vocabulary(replaced, groups, kept=kept, pad_id=data.tokenizer.pad_token_id)
    bias = old.cls.predictions.bias
    for row, group in enumerate(groups):
        torch.testing.assert_close(replaced.cls.predictions.decoder.bias[row], bias[group].mean())
    for name, tensor in old.state_dict().items():
        if tensor.shape[:1] != (len(general),):
            assert torch.equal(new.state_dict()[name], tensor), name
    for model in (new, build_student(config, data)):
        assert model.config.vocab_size == len(pieces)
        assert model.config.pad_token_id == data.tokenizer.pad_token_id == pieces.index("[PAD]")
        assert model.get_input_embeddings().padding_idx == pieces.index("[PAD]")
        assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_random_rows_are_the_new_ones_alone(inputs: Path) -> None:
    old, new = (load_pretraining_model(inputs / "teacher") for _ in range(2))
    generator = torch.Generator().manual_seed(3)
    groups, kept = [[0], [7, 8], [5], [9, 9]], [True, False, True, False]
    replace_vocabulary(new, groups, kept=kept, pad_id=0, init="random", generator=generator)
    table, rows = old.get_input_embeddings().weight, new.get_input_embeddings().weight
    assert torch.equal(rows[[0, 2]], table[[0, 5]])
    drawn = torch.normal(0.0, 0.02, (2, 24), generator=torch.Generator().manual_seed(3))
    assert torch.equal(rows[[1, 3]], drawn)


@pytest.mark.parametrize("method", ["edad", "adapt_and_distill"])
def test_a_run_with_a_vocabulary_of_its_own(inputs: Path, tmp_path: Path, method: str) -> None:
    out = tmp_path / "run"
    arguments = _domain_arguments(inputs, out, method=method, max_steps=2)
    if method == "adapt_and_distill":
        arguments += ["--general_corpus", str(inputs / "valid.txt")]
    assert train.main(arguments) == 0
    report = json.loads((out / "report.json").read_text())
    general = vocabulary_of(load_tokenizer(inputs / "teacher"))
    pieces = read_vocab(out / "vocabulary" / "vocab.txt")
    assert report["vocabulary"] == {
        "size": 60, "added": len(set(pieces) - set(general)), "scope": "domain",
    }  # fmt: skip
    for name in ("student", "teacher"):
        assert report["mlm_loss"][name]["before"] is None, "of other tokens: nothing to compare with"
        assert 0 < report["mlm_loss"][name]["after"] < 10
        model, info = AutoModelForMaskedLM.from_pretrained(out / name, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(out / name)
        assert not info["missing_keys"]
        assert model.config.vocab_size == len(tokenizer) == 60
        assert (tokenizer.pad_token_id, tokenizer.cls_token_id) == (
            pieces.index("[PAD]"),
            pieces.index("[CLS]"),
        )
        assert model.config.pad_token_id == tokenizer.pad_token_id
        assert read_vocab(out / name / "vocab.txt") == pieces
        again = load_masked_lm(out / name)
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[key]), key
        text = "the kinase acts in the liver"
        ids = tokenizer(text, return_tensors="pt").input_ids
        assert [pieces[i] for i in ids[0].tolist()[1:-1]] == [
            p for word in text.split() for p in greedy(word, set(pieces))
        ]
        assert model(ids).logits.shape == (1, ids.shape[1], 60)
    assert "not comparable" in report["mlm_loss_note"]
    described = json.loads((out / "vocabulary" / "report.json").read_text())
    assert described["pieces"]["new"] == report["vocabulary"]["added"]
    assert described["pieces"]["general"] == 60 - report["vocabulary"]["added"]
    assert described["tokens"]["after"] < described["tokens"]["before"], "against the teacher's pieces"


def test_a_student_with_weights_gets_the_domains_pieces(inputs: Path, tmp_path: Path) -> None:
    student = tiny_teacher(tmp_path / "student", layers=2)
    config = parse_config(_domain_arguments(inputs, tmp_path / "run", student=student))
    data = load_data(config, tmp_path / "run")
    pieces, general = vocabulary_of(data.tokenizer), data.general
    rows = build_student(config, data).get_input_embeddings().weight
    table = load_pretraining_model(student).get_input_embeddings().weight
    shared = [p for p in pieces if p in general]
    assert len(shared) > 10
    for piece in shared:
        assert torch.equal(rows[pieces.index(piece)], table[general.index(piece)])


def test_saved_and_loaded_again(inputs: Path, tmp_path: Path) -> None:
    model = load_pretraining_model(inputs / "teacher")
    replace_vocabulary(model, [[3], [0], [5, 6]], kept=[True, True, False], pad_id=1)
    tmp_path.joinpath("m").mkdir()
    save_model(model, tmp_path / "m", keep_sentence_head=True)
    again = BertForPreTraining.from_pretrained(tmp_path / "m")
    assert again.config.pad_token_id == again.get_input_embeddings().padding_idx == 1
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert isinstance(load_masked_lm(tmp_path / "m"), BertForMaskedLM)


def test_ready_lists_are_checked(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "list.txt"
    write_vocab(file, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the"])
    options = {"vocab": file, "vocab_size": None, "max_steps": 1}
    assert train.main(_domain_arguments(inputs, tmp_path / "run", **options)) == 2
    assert (
        "lacks [MASK]; a vocabulary of the domain holds the teacher's special tokens"
        in capsys.readouterr().err
    )
    # The text is lower-cased first.
    write_vocab(file, [*SPECIAL, "the", "a", "##a", "Kinase"])
    with caplog.at_level("WARNING", "edad_fast"):
        assert train.main(_domain_arguments(inputs, tmp_path / "run", **options)) == 0
    assert "no text produces 1 of the 4 new pieces, such as 'Kinase' on line 9" in caplog.text
    assert train.main(_domain_arguments(inputs, tmp_path / "low", vocab_size=20)) == 2
    assert "below the 5 special tokens" in capsys.readouterr().err


def test_the_teachers_own_vocabulary_is_kept_without_a_size(inputs: Path, tmp_path: Path) -> None:
    """oiBioBERT_GD: adaptation and distillation over the general pieces."""
    out = tmp_path / "run"
    arguments = arguments_of(inputs, out, method="adapt_then_distill", vocab_size=None, max_steps=1)
    assert train.main(arguments) == 0
    report = json.loads((out / "report.json").read_text())
    general = (inputs / "teacher" / "vocab.txt").read_text()
    assert report["vocabulary"] == {"size": len(general.split()), "added": 0, "scope": "merged"}
    assert (out / "student" / "vocab.txt").read_text() == general


def test_a_run_goes_on_with_the_scope_it_was_started_with(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train.main(_domain_arguments(inputs, out, vocab_size=78, max_steps=1)) == 0
    changed = _domain_arguments(inputs, out, vocab_size=78, max_steps=1, vocab_scope="merged")
    assert train.main([*changed, "--resume"]) == 2
    assert "--vocab_scope was 'domain', is 'merged'" in capsys.readouterr().err
    data = load_data(parse_config(changed), out)
    general = read_vocab(inputs / "teacher" / "vocab.txt")
    assert vocabulary_of(data.tokenizer)[: len(general)] == general, "learned anew"
