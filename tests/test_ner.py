"""Named entity recognition: scores, and the fine-tuning with one seed."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score
from toy_ner import WORDS, ner_tokenizer, tiny_model

from edad_fast.errors import InputError
from edad_fast.tasks.ner import NerSettings, NerTask, score_tags, token_macro_f1
from edad_fast.tasks.ner_data import NerData, Sentence

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return ner_tokenizer(tmp_path_factory.mktemp("tokenizer"))


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


def toy_settings(**changes: object) -> NerSettings:
    values: dict[str, object] = {"epochs": 4, "learning_rates": (5e-3,), "batch_size": 8}
    return NerSettings.of_protocol("standard", **{**values, **changes})


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


# --- fine-tuning


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
