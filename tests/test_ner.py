from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from transformers import BertConfig, BertForTokenClassification

from edad_fast.errors import InputError
from edad_fast.tasks.fine_tuning import QuickDropout, keep_used_embeddings, use_quick_dropout
from edad_fast.tasks.ner import NerSettings, NerTask, score_tags, token_macro_f1
from edad_fast.tasks.ner_data import (
    NerData,
    Sentence,
    bucketed_batches,
    collate,
    encode_sentences,
    load_ner,
    read_ner,
    sorted_batches,
)
from edad_fast.tasks.ner_runs import finished_runs, run_seeds, summarise
from edad_fast.vocabulary import load_tokenizer

CPU = torch.device("cpu")
WORDS = ["the", "of", "cured", "gout", "flu", "polio", "aspirin"]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s", "##x", *"abcdefghijklmnopqrstuvwxyz"]
PIECES += [f"##{c}" for c in "abcdefghijklmnopqrtuvwyz"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    file = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    file.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return load_tokenizer(file)


def tiny_model(labels: int, layers: int = 2, dropout: float = 0.1) -> BertForTokenClassification:
    torch.manual_seed(11)
    config = BertConfig(
        vocab_size=len(PIECES),
        hidden_size=24,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        num_labels=labels,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return BertForTokenClassification(config)


def toy_sentences(count: int, seed: int) -> list[Sentence]:
    """Diseases are named by the word itself, so that a tiny model learns the task."""
    rng = random.Random(seed)
    sentences = []
    for line in range(count):
        words = [rng.choice(WORDS) for _ in range(rng.randint(2, 9))]
        tags = ["B-Disease" if w in ("gout", "flu", "polio") else "O" for w in words]
        sentences.append(Sentence(words, tags, line + 1))
    return sentences


@pytest.fixture(scope="module")
def toy_data() -> NerData:
    splits = {"train": toy_sentences(96, 1), "devel": toy_sentences(24, 2), "test": toy_sentences(24, 3)}
    return NerData(splits, ["O", "B-Disease"], {})


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
    file = write(tmp_path / "a.tsv", "a\tI-X\nb\tI-X\n\nc\tB-Y\nd\tI-X\n")
    sentences = read_ner(file)
    assert "2 I- tags without a B- before them (first in line 1)" in caplog.text
    assert sentences[0].tags == ["I-X", "I-X"]


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


# --- scores


def test_entity_scores_against_counts_by_hand():
    gold = [["B-X", "I-X", "O", "B-Y"], ["O", "B-X"]]
    predicted = [["B-X", "I-X", "O", "B-X"], ["O", "B-X"]]
    scores = score_tags(gold, predicted)
    # 3 gold, 3 predicted, 2 right.
    assert scores["entity_f1"] == pytest.approx(2 / 3)
    assert scores["precision"] == pytest.approx(2 / 3)
    assert scores["per_type"]["X"] == pytest.approx(
        {"precision": 2 / 3, "recall": 1.0, "f1": 0.8, "entities": 2}
    )
    assert scores["per_type"]["Y"]["f1"] == 0.0


def test_inside_that_continues_nothing_begins_an_entity():
    assert score_tags([["B-X", "O"]], [["I-X", "O"]])["entity_f1"] == 1.0


def test_scores_without_any_entity():
    assert score_tags([["O", "O"]], [["O", "O"]])["entity_f1"] == 0.0
    assert score_tags([["O", "O"]], [["O", "O"]])["per_type"] == {}


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_token_macro_f1_is_that_of_sklearn(data):
    tags = st.sampled_from(["O", "B-X", "I-X", "B-Y"])
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    gold = [data.draw(st.lists(tags, min_size=n, max_size=n)) for n in shape]
    predicted = [data.draw(st.lists(tags, min_size=n, max_size=n)) for n in shape]
    flat = [[tag for tags in rows for tag in tags] for rows in (gold, predicted)]
    expected = f1_score(*flat, average="macro", zero_division=0)
    assert token_macro_f1(gold, predicted) == pytest.approx(expected)


# --- the two savings of time are exact


def test_keeping_used_embeddings_changes_no_output_and_no_update():
    full, cut = tiny_model(2, dropout=0.0), tiny_model(2, dropout=0.0)
    ids = np.array([2, 9, 5, 30, 3])
    rows = keep_used_embeddings(cut, [ids], pad_id=0)
    assert rows is not None
    assert cut.bert.embeddings.word_embeddings.weight.shape[0] == 6
    labels = torch.tensor([0, 1, 0, 1, 0])
    for _ in range(3):
        losses = []
        for model, inputs in ((full, ids), (cut, rows[ids])):
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
            loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(inputs)[None]).logits[0], labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            losses.append(loss.detach())
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-7)


def test_id_outside_the_embedding_table_is_an_input_error():
    with pytest.raises(InputError, match=r"id 500, but the model has \d+ embeddings"):
        keep_used_embeddings(tiny_model(2), [np.array([500])], pad_id=0)


@pytest.mark.parametrize(("p", "size"), [(0.1, 400_001), (0.5, 100_002), (0.9, 100_003)])
def test_quick_dropout_has_the_probability_and_keeps_the_mean(p, size):
    torch.manual_seed(0)
    layer = QuickDropout(p)
    out = layer(torch.ones(size))
    spread = (p * (1 - p) / size) ** 0.5
    assert float((out == 0).float().mean()) == pytest.approx(p, abs=5 * spread + 1e-5)
    assert out.max() == pytest.approx(1 / (1 - p), rel=1e-3)
    # Each of the four decisions that one random number makes has the same probability.
    for lane in range(4):
        assert float((out[lane::4] == 0).float().mean()) == pytest.approx(p, abs=12 * spread + 1e-5)
    layer.eval()
    assert torch.equal(layer(torch.ones(5)), torch.ones(5))


def test_quick_dropout_masks_the_gradient_and_replaces_every_layer():
    x = torch.ones(1000, requires_grad=True)
    out = QuickDropout(0.3)(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())
    model = tiny_model(2)
    use_quick_dropout(model)
    assert {type(m) for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {QuickDropout}


# --- fine-tuning


def toy_settings(**changes: object) -> NerSettings:
    values: dict[str, object] = {"epochs": 4, "learning_rates": (5e-3,), "batch_size": 8}
    return NerSettings.of_protocol("standard", **{**values, **changes})


def test_fine_tuning_learns_and_is_deterministic(tokenizer, toy_data):
    model = tiny_model(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    messages: list[tuple[str, float]] = []

    def run() -> dict:
        task = NerTask(model, tokenizer, toy_data, toy_settings(), CPU)
        return task.fine_tune(0, [5e-3], progress=lambda message, done: messages.append((message, done)))

    first, second = run(), run()
    assert first["test"]["entity_f1"] > 0.9
    assert [point["epoch"] for point in first["devel"]] == [1, 2, 3, 4]
    assert first["best_epoch"] == 1 + int(np.argmax([point["entity_f1"] for point in first["devel"]]))
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    assert [done for _, done in messages[:4]] == [0.25, 0.5, 0.75, 1.0]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_learning_rate_is_chosen_on_devel(tokenizer, toy_data):
    task = NerTask(tiny_model(2), tokenizer, toy_data, toy_settings(epochs=3), CPU)
    run = task.fine_tune(0, [1e-7, 5e-3])
    assert run["learning_rate"] == 5e-3
    assert run["learning_rate_devel_f1"]["0.005"] > run["learning_rate_devel_f1"]["1e-07"]


def test_untrained_replaces_the_weights(tokenizer, toy_data):
    model = tiny_model(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    task = NerTask(model, tokenizer, toy_data, toy_settings(untrained=True, epochs=1), CPU)
    assert np.isfinite(task.fine_tune(0, [1e-3])["devel"][0]["loss"])


def test_nan_loss_is_reported(tokenizer, toy_data):
    model = tiny_model(2)
    torch.nn.init.constant_(model.bert.encoder.layer[0].output.dense.weight, float("nan"))
    task = NerTask(model, tokenizer, toy_data, toy_settings(epochs=1), CPU)
    with pytest.raises(InputError, match=r"seed 0, epoch 1: the loss is nan.*--learning_rate"):
        task.fine_tune(0, [1e-3])


def test_exbert_protocol_trains_the_top_three_layers_alone(tokenizer, toy_data, monkeypatch):
    model = tiny_model(2, layers=4)
    task = NerTask(model, tokenizer, toy_data, NerSettings.of_protocol("exbert", epochs=1), CPU)
    trained: dict[str, bool] = {}
    monkeypatch.setattr(
        task,
        "predict",
        lambda tuned, split: (
            trained.update({n: p.requires_grad for n, p in tuned.named_parameters()})
            or [["O"] * len(s.words) for s in toy_data.splits[split]]
        ),
    )
    task.fine_tune(0, [1e-5])
    layers = [f"bert.encoder.layer.{n}." for n in (1, 2, 3)]
    for name, requires_grad in trained.items():
        assert requires_grad == name.startswith((*layers, "classifier.")), name


def test_words_without_pieces_and_cut_sentences_are_all_scored(tokenizer, toy_data):
    long = Sentence(["gout", "\u200b", *["the"] * 200], ["B-Disease", "O", *["O"] * 200], 1)
    data = NerData({**toy_data.splits, "test": [long, Sentence(["\u200b"], ["O"], 2)]}, toy_data.labels, {})
    task = NerTask(tiny_model(2), tokenizer, data, toy_settings(), CPU)
    assert task.settings.max_length == 64  # capped by the model's position table
    predicted = task.predict(task.model, "test")
    assert [len(tags) for tags in predicted] == [202, 1]
    assert predicted[1] == ["O"]


def test_bf16_autocast_runs(tokenizer, toy_data):
    task = NerTask(tiny_model(2), tokenizer, toy_data, toy_settings(precision="bf16", epochs=2), CPU)
    assert task.fine_tune(0, [5e-3])["test"]["entity_f1"] > 0.5


@pytest.mark.parametrize("changes", [{"epochs": 0}, {"learning_rates": (0.0,)}, {"batch_size": 0}])
def test_settings_out_of_range(changes):
    with pytest.raises(InputError, match="must be"):
        NerSettings.of_protocol("standard", **changes)


# --- several seeds


def fake_run(seed: int, f1: float, rate: float = 1e-4) -> dict:
    per_type = {"X": {"precision": f1, "recall": f1, "f1": f1, "entities": 3}}
    scores = dict.fromkeys(("entity_f1", "precision", "recall", "token_macro_f1"), f1)
    return {"seed": seed, "learning_rate": rate, "seconds": 1.0, "test": {**scores, "per_type": per_type}}


class FakeTask:
    def __init__(self) -> None:
        self.calls: list[tuple[int, list[float]]] = []

    def fine_tune(self, seed, learning_rates, *, progress=None):
        self.calls.append((seed, list(learning_rates)))
        progress("epoch", 1.0)
        return fake_run(seed, 0.5, rate=learning_rates[-1])


def test_first_seed_settles_the_learning_rate_and_finished_seeds_are_reused():
    task = FakeTask()
    runs = list(run_seeds(lambda: task, 3, [1e-4, 2e-4]))
    assert task.calls == [(0, [1e-4, 2e-4]), (1, [2e-4]), (2, [2e-4])]
    task.calls.clear()
    assert [run["seed"] for run in run_seeds(lambda: task, 4, [1e-4, 2e-4], runs)] == [3]
    assert task.calls == [(3, [2e-4])]
    assert list(run_seeds(lambda: pytest.fail("nothing to do"), 3, [1e-4], runs)) == []


def test_summary_is_mean_and_sample_deviation():
    summary = summarise([fake_run(0, 0.5), fake_run(1, 0.7)])
    assert summary["entity_f1"]["mean"] == pytest.approx(0.6)
    assert summary["entity_f1"]["std"] == pytest.approx(0.02**0.5)
    assert summary["per_type"]["X"]["f1"]["mean"] == pytest.approx(0.6)
    assert summarise([fake_run(0, 0.5)])["entity_f1"]["std"] is None


def test_results_of_other_settings_are_refused(tmp_path):
    file = tmp_path / "ner.json"
    assert finished_runs(file, {"a": 1}) == []
    file.write_text('{"a": 1, "runs": [{"seed": 0}]}')
    assert finished_runs(file, {"a": 1}) == [{"seed": 0}]
    with pytest.raises(InputError, match=r"ner\.json: holds results with another a;.*--overwrite"):
        finished_runs(file, {"a": 2})
    file.write_text("{")
    with pytest.raises(InputError, match="not a result of this program"):
        finished_runs(file, {"a": 1})
