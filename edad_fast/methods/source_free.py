"""Source-free domain adaptation with distillation: a classifier and unlabelled target text, nothing else.

After Tian et al. (CSCWD 2023), of which only the abstract is public; the losses are those of SHOT (Liang et
al. 2020) for the teacher and of TinyBERT for the student, under EDAD's schedule.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import BertForSequenceClassification

from ..batches import TextBatch
from ..losses import information_maximisation
from ..training import LossTerms, ParameterGroup
from .adapt import trainable
from .classifier_distillation import ClassifierDistillation
from .edad import Scope, loss_weights
from .forward import forward_classifier
from .pseudo_labels import PseudoLabels


class TargetLoss(nn.Module):
    """L_DA on unlabelled target text: L_IM + 0.3 CE(p, y_hat), L_IM = mean H(p(x)) - H(mean p).

    The mean p is over a micro-batch of one process: keep 64 texts or so in each.

    Args:
        pseudo_labels: y_hat and its weight.
    """

    def __init__(self, pseudo_labels: PseudoLabels) -> None:
        super().__init__()
        self.pseudo_labels = pseudo_labels

    def forward(self, logits: Tensor, batch: TextBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum and its terms (of `pseudo_labels` the weighted one), shares of the step."""
        entropy, diversity = (batch.shares.rows * term for term in information_maximisation(logits))
        pseudo = self.pseudo_labels(logits, batch)
        terms = {"entropy": entropy, "diversity": diversity, "pseudo_labels": pseudo}
        return entropy - diversity + pseudo, {name: term.detach() for name, term in terms.items()}


class TargetAdaptation(nn.Module):
    """Objective: L_DA of the teacher, whose head h is frozen and whose encoder and pooler g adapt.

    Args:
        teacher: a source-trained classifier. loss: see `TargetLoss`.
        learning_rate: peak of the schedule. recompute: gradient checkpointing.
    """

    def __init__(
        self,
        teacher: BertForSequenceClassification,
        loss: TargetLoss,
        learning_rate: float,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.teacher, self.loss = freeze_head(teacher), loss
        self.learning_rate, self.recompute = learning_rate, recompute

    def forward(self, batch: TextBatch, alpha: float) -> LossTerms:
        """The loss of `batch`."""
        self.loss.pseudo_labels.refresh(self.teacher, batch.epoch)
        logits = forward_classifier(self.teacher, batch, recompute=self.recompute).logits
        total, terms = self.loss(logits, batch)
        return LossTerms(total, {f"teacher_{name}": value for name, value in terms.items()})

    def parameter_groups(self) -> list[ParameterGroup]:
        """One group, the teacher without its head."""
        return [ParameterGroup("teacher", trainable(self.teacher, "teacher"), self.learning_rate)]


class SourceFree(nn.Module):
    """Objective: the teacher adapts while the student is distilled from it, in one pass.

    L_DA is `TargetLoss`; L_DT is `ClassifierDistillation` + 0.3 CE(p_S, y_hat); alpha weighs them as in EDAD
    (`loss_weights`). y_hat are the teacher's. A term of weight 0 is not computed.

    Args:
        teacher: source-trained; its head is frozen. student: over the same vocabulary.
        adaptation: L_DA. distillation: L_DT without the pseudo-labels.
        scope: what alpha weighs. recompute: gradient checkpointing.
        teacher_learning_rate, student_learning_rate: peaks of the schedules.
    """

    def __init__(
        self,
        teacher: BertForSequenceClassification,
        student: BertForSequenceClassification,
        adaptation: TargetLoss,
        distillation: ClassifierDistillation,
        *,
        scope: Scope,
        teacher_learning_rate: float,
        student_learning_rate: float,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.teacher, self.student, self.distillation = freeze_head(teacher), student, distillation
        self.adaptation, self.scope, self.recompute = adaptation, scope, recompute
        self.learning_rates = {"teacher": teacher_learning_rate, "student": student_learning_rate}

    def forward(self, batch: TextBatch, alpha: float) -> LossTerms:
        """The loss of `batch`."""
        teacher_da, student_da, student_dt = loss_weights(self.scope, alpha)
        pseudo_labels = self.adaptation.pseudo_labels
        pseudo_labels.refresh(self.teacher, batch.epoch)
        teacher = self.distillation.run(self.teacher, batch, "teacher", self.recompute)
        loss, found = self.adaptation(teacher.logits, batch)
        total = teacher_da * loss
        terms = {f"teacher_{name}": value for name, value in found.items()}
        student = self.distillation.run(self.student, batch, "student", self.recompute)
        if student_da > 0.0:
            loss, found = self.adaptation(student.logits, batch)
            total = total + student_da * loss
            terms |= {f"student_{name}": value for name, value in found.items()}
        if student_dt > 0.0:
            loss, found = self.distillation(student, teacher.detach(), batch)
            pseudo = pseudo_labels(student.logits, batch)
            total = total + student_dt * (loss + pseudo)
            terms |= found | {"student_pseudo_labels": pseudo.detach()}
        return LossTerms(total, terms)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The teacher without its head, and the student with its projection."""
        student = trainable(self.student, "student") | trainable(self.distillation, "distillation")
        return [
            ParameterGroup("teacher", trainable(self.teacher, "teacher"), self.learning_rates["teacher"]),
            ParameterGroup("student", student, self.learning_rates["student"]),
        ]


def freeze_head(model: BertForSequenceClassification) -> BertForSequenceClassification:
    """Train all of `model` but its head h."""
    model.requires_grad_(True)
    model.classifier.requires_grad_(False)
    return model
