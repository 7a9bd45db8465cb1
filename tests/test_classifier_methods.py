"""The losses of the methods on classifiers against plain PyTorch, and who gets gradients."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification

from edad_fast.batches import DomainBatch, EncodedTexts, TextBatch, TextStream
from edad_fast.errors import InputError
from edad_fast.losses import information_maximisation
from edad_fast.methods.aad import AdversarialAdaptation
from edad_fast.methods.classifier_distillation import ClassifierDistillation, FrozenTeacher
from edad_fast.methods.edad import loss_weights
from edad_fast.methods.fine_tune import FineTuning
from edad_fast.methods.pseudo_labels import PseudoLabels, centroid_labels
from edad_fast.methods.source_free import SourceFree, TargetAdaptation, TargetLoss
from edad_fast.models import copy_layers, prepare_for_training, set_dropout

CLASSES, HEADS, PAIRS = 3, 2, [(1, 2), (2, 4)]


def _model(layers: int, seed: int, width: int = 16) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=50,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        intermediate_size=24,
        max_position_embeddings=40,
        num_labels=CLASSES,
        initializer_range=0.3,
    )
    model = prepare_for_training(BertForSequenceClassification(config))
    set_dropout(model, 0.0)
    return model


TEXTS = EncodedTexts(
    [np.random.default_rng(n).integers(1, 50, 3 + 3 * n) for n in range(9)], 0, np.arange(9) % CLASSES
)


@pytest.fixture
def batch() -> TextBatch:
    return TEXTS.batch(np.array([7, 2, 5, 0]))


def _plain(
    model: BertForSequenceClassification, batch: TextBatch
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Logits, hidden states and pre-softmax scores of a copy of `model`, by transformers' own eager code."""
    copied = BertForSequenceClassification(copy.deepcopy(model.config)).eval()
    copied.load_state_dict(model.state_dict())
    copied.set_attn_implementation("eager")
    with torch.no_grad():
        output = copied(
            input_ids=batch.input_ids, attention_mask=batch.mask.long(), output_hidden_states=True
        )
        scores = []
        for layer, states in zip(copied.bert.encoder.layer, output.hidden_states, strict=False):
            split = [
                getattr(layer.attention.self, name)(states).unflatten(-1, (HEADS, -1)).transpose(1, 2)
                for name in ("query", "key")
            ]
            scores.append(split[0] @ split[1].mT / math.sqrt(split[0].shape[-1]))
    return output.logits, list(output.hidden_states), scores


def _kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(p_T / T || p_S / T), written out."""
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    return temperature**2 * (p * (p.log() - q.log())).sum(-1).mean()


def _target_loss(logits: Tensor, labels: Tensor, weight: float = 0.3) -> Tensor:
    p = logits.softmax(-1)
    mean = p.mean(0)
    entropy = -(p * p.log()).sum(-1).mean() + (mean * mean.log()).sum()
    return entropy + weight * F.cross_entropy(logits, labels)


def _gradients(objective: torch.nn.Module, batch: object, alpha: float = 0.5) -> set[str]:
    objective.zero_grad()
    objective.train()
    objective(batch, alpha).total.backward()
    return {name for name, p in objective.named_parameters() if p.grad is not None and p.grad.any()}


def test_fine_tuning_is_cross_entropy_with_smoothing(batch: TextBatch) -> None:
    model = _model(2, 0)
    logits, _, _ = _plain(model, batch)
    smooth = 0.9 * F.one_hot(batch.labels, CLASSES) + 0.1 / CLASSES
    expected = -(smooth * logits.log_softmax(-1)).sum(-1).mean()
    objective = FineTuning(model, 1e-3, 0.1)
    torch.testing.assert_close(objective(batch, 0.0).total, expected, rtol=1e-4, atol=1e-5)
    half = dataclasses.replace(batch, shares=dataclasses.replace(batch.shares, rows=0.5))
    torch.testing.assert_close(objective(half, 0.0).total, expected / 2, rtol=1e-4, atol=1e-5)
    names = {name.removeprefix("model.") for name in _gradients(objective, batch)}
    assert {"classifier.weight", "bert.pooler.dense.weight"} < names


def test_information_maximisation_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    entropy, diversity = information_maximisation(logits)
    assert entropy.item() == pytest.approx(-(p * p.log()).sum(1).mean().item(), rel=1e-6)
    mean = p.mean(0)
    assert diversity.item() == pytest.approx(-(mean * mean.log()).sum().item(), rel=1e-6)
    sure = torch.tensor([[60.0, 0.0], [0.0, 60.0]])
    assert [v.item() for v in information_maximisation(sure)] == pytest.approx([0.0, math.log(2)], abs=1e-6)


def test_centroid_labels_by_hand() -> None:
    torch.manual_seed(0)
    features, p = torch.randn(40, 5, dtype=torch.float64), torch.randn(40, CLASSES).double().softmax(-1)
    labels = [0] * 40
    weights = p.tolist()
    for _ in range(2):
        centroids = []
        for k in range(CLASSES):
            total = sum(w[k] for w in weights)
            centroids.append(sum(w[k] * f for w, f in zip(weights, features, strict=True)) / total)
        for n, f in enumerate(features):
            cosines = [float(f @ c / f.norm() / c.norm()) for c in centroids]
            labels[n] = cosines.index(max(cosines))
        weights = [[float(label == k) for k in range(CLASSES)] for label in labels]
    assert centroid_labels(features, p).tolist() == labels


def test_a_class_without_texts_draws_none() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    p = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    assert centroid_labels(features, p).tolist() == [0, 0, 1]


def test_pseudo_labels_are_of_the_whole_target_and_kept_for_an_epoch() -> None:
    model = _model(2, 0)
    set_dropout(model, 0.5)
    model.train()
    pseudo = PseudoLabels(TEXTS, 0.3)
    pseudo.refresh(model, 0)
    assert model.training
    first = pseudo.labels.clone()
    everything = TEXTS.batch(np.arange(9))
    copied = copy.deepcopy(model)
    set_dropout(copied, 0.0)
    pooled = copied.bert(everything.input_ids, attention_mask=everything.mask.long()).pooler_output
    expected = centroid_labels(pooled, copied.classifier(pooled).softmax(-1))
    assert torch.equal(first, expected)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=1.0, generator=torch.Generator().manual_seed(3))
    pseudo.refresh(model, 0)
    assert torch.equal(pseudo.labels, first)
    pseudo.refresh(model, 1)
    assert pseudo.epoch == 1
    assert not torch.equal(pseudo.labels, first)


def _distillation(**options: object) -> ClassifierDistillation:
    torch.manual_seed(5)
    values = {"attention_weight": 0.7, "hidden_weight": 0.5, "prediction_weight": 1.0, "temperature": 2.0}
    return ClassifierDistillation(_model(2, 1), _model(4, 0), PAIRS, **{**values, **options})  # type: ignore[arg-type]


def _expected_distillation(
    loss: ClassifierDistillation,
    student: BertForSequenceClassification,
    teacher: BertForSequenceClassification,
    batch: TextBatch,
) -> Tensor:
    """Written out, over tokens and pairs of tokens (mode valid_pairs)."""
    logits_s, hidden_s, scores_s = _plain(student, batch)
    logits_t, hidden_t, scores_t = _plain(teacher, batch)
    mask = batch.mask
    pairs = (mask[:, None, :, None] & mask[:, None, None, :]).expand(-1, HEADS, -1, -1)
    assert loss.layers is not None
    dense = loss.layers.fit_dense
    hidden = sum((dense(hidden_s[m]) - hidden_t[g]).square()[mask].mean() for m, g in [(0, 0), *PAIRS])
    attention = sum((scores_s[m - 1] - scores_t[g - 1]).square()[pairs].mean() for m, g in PAIRS)
    return 0.7 * attention + 0.5 * hidden + _kl(logits_s, logits_t, 2.0)


def test_distillation_written_out(batch: TextBatch) -> None:
    student, teacher, loss = _model(2, 1), _model(4, 0), _distillation(mode="valid_pairs")
    objective = FrozenTeacher(teacher, student, loss, 1e-3)
    found = objective(batch, 0.0)
    expected = _expected_distillation(loss, student, teacher, batch)
    torch.testing.assert_close(found.total, expected.detach(), rtol=1e-4, atol=1e-4)
    assert set(found.terms) == {"attention", "hidden", "prediction"}
    assert {name.split(".")[0] for name in _gradients(objective, batch)} == {"student", "distillation"}
    assert objective.student.training
    assert not objective.teacher.training


def test_tinyberts_two_stages_have_their_own_terms(batch: TextBatch) -> None:
    student, teacher = _model(2, 1), _model(4, 0)
    intermediate = FrozenTeacher(teacher, student, _distillation(prediction_weight=0.0), 1e-3)
    assert set(intermediate(batch, 0.0).terms) == {"attention", "hidden"}
    assert not any("classifier" in name or "pooler" in name for name in _gradients(intermediate, batch))
    prediction = FrozenTeacher(teacher, student, _distillation(attention_weight=0.0, hidden_weight=0.0), 1e-3)
    found = prediction(batch, 0.0)
    assert set(found.terms) == {"prediction"}
    soft = -(_plain(teacher, batch)[0] / 2).softmax(-1) * (_plain(student, batch)[0] / 2).log_softmax(-1)
    own = -(_plain(teacher, batch)[0] / 2).softmax(-1) * (_plain(teacher, batch)[0] / 2).log_softmax(-1)
    expected = 4 * (soft.sum(-1).mean() - own.sum(-1).mean())  # soft cross-entropy less a constant
    torch.testing.assert_close(found.total, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("scope", "alpha"),
    [("student", 0.0), ("student", 0.25), ("student", 1.0), ("teacher_student", 0.25), ("per_model", 0.25)],
)
def test_one_pass_is_the_weighted_sum(batch: TextBatch, scope: str, alpha: float) -> None:
    student, teacher, loss = _model(2, 1), _model(4, 0), _distillation(mode="valid_pairs")
    pseudo = PseudoLabels(TEXTS, 0.3)
    objective = SourceFree(
        teacher,
        student,
        TargetLoss(pseudo),
        loss,
        scope=scope,  # type: ignore[arg-type]
        teacher_learning_rate=1e-3,
        student_learning_rate=1e-3,
    )
    found = objective(batch, alpha)
    labels = pseudo.labels[batch.numbers]
    teacher_da, student_da, student_dt = loss_weights(scope, alpha)  # type: ignore[arg-type]
    logits_s, logits_t = _plain(student, batch)[0], _plain(teacher, batch)[0]
    told = _expected_distillation(loss, student, teacher, batch) + 0.3 * F.cross_entropy(logits_s, labels)
    expected = teacher_da * _target_loss(logits_t, labels) + student_da * _target_loss(logits_s, labels)
    torch.testing.assert_close(
        found.total.detach(), (expected + student_dt * told).detach(), rtol=1e-4, atol=1e-4
    )
    assert any(name.startswith("student") for name in found.terms) == (student_da > 0 or student_dt > 0)


def test_the_students_loss_does_not_reach_the_teacher_nor_any_loss_its_head(batch: TextBatch) -> None:
    teacher, pseudo = _model(4, 0), PseudoLabels(TEXTS, 0.3)
    alone = TargetAdaptation(copy.deepcopy(teacher), TargetLoss(PseudoLabels(TEXTS, 0.3)), 1e-3)
    together = SourceFree(
        teacher,
        _model(2, 1),
        TargetLoss(pseudo),
        _distillation(),
        scope="student",
        teacher_learning_rate=1e-3,
        student_learning_rate=1e-3,
    )
    assert "teacher.classifier.weight" not in _gradients(alone, batch)
    reached = _gradients(together, batch)
    assert "teacher.classifier.weight" not in reached
    assert "student.classifier.weight" in reached
    grouped = {name for group in together.parameter_groups() for name in group.parameters}
    assert not any(name.startswith("teacher.classifier") for name in grouped)
    for (name, one), (_, other) in zip(
        alone.teacher.named_parameters(), together.teacher.named_parameters(), strict=True
    ):
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, msg=name)


@pytest.mark.parametrize("mode", ["tinybert", "valid_pairs"])
def test_micro_batches_make_up_the_step(mode: str) -> None:
    """In a step of rows of one width; L_IM looks at the mean of a micro-batch and is left out."""
    texts = EncodedTexts([ids[:20] for ids in TEXTS.ids], 0)
    student, teacher, loss = _model(2, 1), _model(4, 0), _distillation(mode=mode)
    objective = FrozenTeacher(teacher, student, loss, 1e-3, PseudoLabels(texts, 0.3))
    totals = [
        sum(objective(part, 0.0).total.item() for part in TextStream(texts, 6, accumulation_steps=n).step(0))
        for n in (1, 2, 3)
    ]
    assert totals[1:] == pytest.approx(totals[:1] * 2, rel=1e-4)


def test_adversarial_adaptation_written_out(batch: TextBatch) -> None:
    teacher = _model(2, 0)
    objective = AdversarialAdaptation(teacher, 1e-3, temperature=20.0)
    with torch.no_grad():  # as after some steps
        for parameter in teacher.bert.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    source = TEXTS.batch(np.array([1, 3, 4, 8]))
    found = objective(DomainBatch(source, batch), 1.0)

    def pooled(part: TextBatch) -> Tensor:
        return teacher.bert(part.input_ids, attention_mask=part.mask.long()).pooler_output

    judge = objective.discriminator
    features_s, features_t = pooled(source), pooled(batch)
    chosen = judge(torch.cat([features_s, features_t])).log_softmax(-1)
    discriminator = -torch.cat([chosen[:4, 1], chosen[4:, 0]]).mean()
    adversarial = -judge(features_t).log_softmax(-1)[:, 1].mean()
    kept = _kl(_plain(teacher, source)[0], _plain(objective.source, source)[0], 20.0)
    expected = {"discriminator": discriminator, "adversarial": adversarial, "prediction": kept}
    for name, value in expected.items():
        torch.testing.assert_close(found.terms[name], value.detach(), rtol=1e-3, atol=1e-5, msg=name)
    torch.testing.assert_close(found.total.detach(), sum(expected.values()).detach(), rtol=1e-4, atol=1e-4)

    objective.zero_grad()
    found.total.backward()
    own = torch.autograd.grad(discriminator, list(judge.parameters()), retain_graph=True)
    for parameter, gradient in zip(judge.parameters(), own, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)
    word = teacher.bert.embeddings.word_embeddings.weight
    (encoder,) = torch.autograd.grad(adversarial, [word])
    assert encoder.any()
    assert word.grad is not None
    assert all(p.grad is None for p in objective.source.parameters())
    assert teacher.classifier.weight.grad is None


def test_a_student_starts_as_the_teachers_layers(batch: TextBatch) -> None:
    teacher, student = _model(4, 0), _model(4, 1)
    copy_layers(student, teacher)
    assert torch.equal(_plain(student, batch)[0], _plain(teacher, batch)[0])
    half = _model(2, 1)
    copy_layers(half, teacher, [layer for _, layer in PAIRS])
    for mine, theirs in PAIRS:
        for a, b in zip(
            half.bert.encoder.layer[mine - 1].parameters(),
            teacher.bert.encoder.layer[theirs - 1].parameters(),
            strict=True,
        ):
            assert torch.equal(a, b)
    with pytest.raises(InputError, match="hidden_size is 8, the teacher's 16"):
        copy_layers(_model(2, 1, width=8), teacher)


def test_the_projection_of_such_a_student_starts_as_the_identity() -> None:
    loss = _distillation(same_space=True)
    assert loss.layers is not None
    assert torch.equal(loss.layers.fit_dense.weight, torch.eye(16))  # type: ignore[union-attr]
