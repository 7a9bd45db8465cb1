"""Teacher and student: parameter counts, expansion, exBERT, capture."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import tiny_config, tiny_corpus, tiny_teacher
from torch.autograd.graph import saved_tensors_hooks
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from edad_fast.batches import BatchStream, build_shards
from edad_fast.batches.loader import _sequences
from edad_fast.errors import InputError
from edad_fast.losses import DistillationLoss
from edad_fast.methods.adapt import Execution
from edad_fast.models import (
    add_extension,
    build_pretraining_model,
    count_parameters,
    encode,
    exbert_config,
    expand_embeddings,
    load_masked_lm,
    load_pretraining_model,
    load_token_classifier,
    prepare_for_training,
    save_model,
    set_dropout,
    student_config,
    varlen_attention,
)
from edad_fast.models.cpu_attention import LONGEST_MATERIALISED, half_attention
from edad_fast.vocabulary import load_tokenizer

PAPER_PIECES = 48_180


def _ready(model: BertForPreTraining) -> BertForPreTraining:
    set_dropout(model, 0.0)
    return prepare_for_training(model)


def test_parameter_counts_of_the_paper() -> None:
    """Section 1 of the methods: tied heads once, the student with its shared fit_dense 312 -> 768."""
    fit_dense = 312 * 768 + 768
    with torch.device("meta"):
        teacher = build_pretraining_model(
            exbert_config(BertConfig(vocab_size=PAPER_PIECES), (252, 1024), 0.0)
        )
        student = student_config("tinybert4", vocab_size=PAPER_PIECES, max_positions=128)
        counts = [
            count_parameters(build_pretraining_model(BertConfig())),
            count_parameters(teacher),
            count_parameters(build_pretraining_model(student)) + fit_dense,
            count_parameters(build_pretraining_model(exbert_config(student, (120, 512), 0.0))) + fit_dense,
        ]
    assert counts == [110_106_428, 151_935_410, 20_247_014, 22_136_234]


def test_expansion_keeps_old_rows_and_averages_new_ones() -> None:
    model = BertForPreTraining(tiny_config(20))
    with torch.no_grad():
        model.cls.predictions.bias.normal_()
    weight, bias = (
        model.get_input_embeddings().weight.detach().clone(),
        model.cls.predictions.bias.detach().clone(),
    )
    expand_embeddings(model, [[3], [4, 5, 5]])
    new = model.get_input_embeddings().weight
    assert new.shape[0] == 22 == model.config.vocab_size
    torch.testing.assert_close(new[:20], weight, rtol=0, atol=0)
    torch.testing.assert_close(new[20:], torch.stack([weight[3], (weight[4] + 2 * weight[5]) / 3]))
    torch.testing.assert_close(
        model.cls.predictions.bias[20:], torch.stack([bias[3], (bias[4] + 2 * bias[5]) / 3])
    )
    assert model.cls.predictions.decoder.weight is new
    assert model.cls.predictions.decoder.bias is model.cls.predictions.bias


def test_random_expansion_follows_the_generator() -> None:
    rows = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        model = BertForPreTraining(tiny_config(20))
        expand_embeddings(model, [[3], [4]], init="random", generator=torch.Generator().manual_seed(seed))
        rows.append(model.get_input_embeddings().weight[20:].detach())
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


@pytest.mark.parametrize("extension", [None, (8, 16)])
def test_capture_equals_the_eager_model(extension: tuple[int, int] | None) -> None:
    """Outputs, scores and gradients of the capturing SDPA model against Hugging Face's eager attention."""
    torch.manual_seed(0)
    base = tiny_config(50)
    model = build_pretraining_model(base if extension is None else exbert_config(base, extension, 0.0))
    ids = torch.randint(5, 50, (3, 17))
    weights = torch.randn(3, 17, base.hidden_size, dtype=torch.float64)
    model.double()

    set_dropout(model, 0.0)
    model.set_attn_implementation("eager")
    expected = model.bert(ids, output_attentions=extension is None)
    (expected.last_hidden_state * weights).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    prepare_for_training(model)
    layers = range(1, base.num_hidden_layers + 1)
    output = encode(model, ids, hidden_states=True, score_layers=layers)
    torch.testing.assert_close(output.last_hidden, expected.last_hidden_state)
    (output.last_hidden * weights).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, gradients[name], msg=name)
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(gradients)
    if extension is None:
        for layer, probabilities in zip(layers, expected.attentions, strict=True):
            query, key = output.queries[layer - 1], output.keys[layer - 1]
            scores = query @ key.mT * query.shape[-1] ** -0.5
            torch.testing.assert_close(scores.softmax(-1), probabilities)
    assert len(output.hidden_states) == base.num_hidden_layers + 1


def test_no_score_map_is_stored() -> None:
    """With capture and L_DT, nothing of the shape L x L outlives the forward pass of teacher and student."""
    length = 37
    teacher, student = (
        _ready(BertForPreTraining(tiny_config(50))),
        _ready(BertForPreTraining(tiny_config(50, width=12))),
    )
    loss = DistillationLoss(12, 24, [(1, 1), (2, 2), (3, 3), (4, 4)])
    ids = torch.randint(5, 50, (2, length))
    shapes: list[torch.Size] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        shapes.append(tensor.shape)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = [encode(m, ids, hidden_states=True, score_layers=(1, 2, 3, 4)) for m in (student, teacher)]
        total = loss(outputs[0], outputs[1].detach(), torch.ones(2, length, dtype=torch.int32)).total
    total.backward()
    assert any(length in shape for shape in shapes)
    assert not [shape for shape in shapes if sum(size == length for size in shape) >= 2]
    assert student.bert.encoder.layer[3].attention.self.query.weight.grad.abs().sum() > 0


def test_capture_leaves_nothing_behind() -> None:
    model = _ready(BertForPreTraining(tiny_config(50)))
    encode(model, torch.ones(1, 4, dtype=torch.long), score_layers=(2,))
    attention = model.bert.encoder.layer[1].attention.self
    assert not hasattr(attention, "_capture_sink")
    assert not attention.query._forward_hooks
    assert encode(model, torch.ones(1, 4, dtype=torch.long), score_layers=()).queries == ()


@pytest.mark.parametrize("model_class", [BertModel, BertForMaskedLM, BertForPreTraining])
def test_any_bert_can_be_captured_as_it_is(model_class: type) -> None:
    """No preparation: a model as loaded, with a padding mask as tokenizers give it."""
    torch.manual_seed(0)
    model = model_class(tiny_config(50)).eval()
    ids, mask = torch.randint(5, 50, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[1, 5:] = 0
    expected = getattr(model, "bert", model)(ids, attention_mask=mask).last_hidden_state
    output = encode(model, ids, attention_mask=mask)
    torch.testing.assert_close(output.last_hidden[mask.bool()], expected[mask.bool()])
    assert [q.shape for q in output.queries] == [(2, 4, 9, 6)] * 4
    with pytest.raises(ValueError, match=r"attention_mask is \(9,\)"):
        encode(model, ids, attention_mask=mask[0])


def test_packed_documents_do_not_see_each_other(tmp_path: Path) -> None:
    """A row of several documents gives each the hidden states that it has alone."""
    tokenizer = load_tokenizer(tiny_teacher(tmp_path / "teacher"))
    shards = build_shards(
        tokenizer, [tiny_corpus(tmp_path / "text.txt")], tmp_path / "shards", progress=False
    )
    stream = BatchStream.for_tokenizer(tokenizer, shards, seq_len=64, rows_per_step=8)
    (batch,) = stream.step(0)
    assert int(batch.segment_ids.max()) > 1
    model = _ready(BertForPreTraining(tiny_config(len(tokenizer)))).eval()
    packed = Execution().encode(model, batch).last_hidden
    for row in range(8):
        for segment in range(1, int(batch.segment_ids[row].max()) + 1):
            where = batch.segment_ids[row] == segment
            alone = encode(model, batch.input_ids[row, where][None]).last_hidden[0]
            torch.testing.assert_close(packed[row, where], alone)


def test_exbert_gate_mixes_the_two_modules() -> None:
    torch.manual_seed(0)
    plain = BertForPreTraining(tiny_config(50)).eval()
    ids = torch.randint(5, 50, (2, 9))
    extended = prepare_for_training(add_extension(plain, (8, 16), gate_bias=50.0)).eval()
    torch.testing.assert_close(encode(extended, ids).last_hidden, plain.bert(ids).last_hidden_state)
    for layer in extended.bert.encoder.layer:
        torch.nn.init.constant_(layer.gate.bias, -50.0)
    layer = extended.bert.encoder.layer[0]
    states = torch.randn(2, 9, 24)
    output = layer(states)  # a tuple in transformers 4
    output = output[0] if isinstance(output, tuple) else output
    torch.testing.assert_close(output, layer.extension(states, None))


def test_exbert_width_must_fit_the_heads() -> None:
    with pytest.raises(InputError, match=r"10 is not a multiple of the 4 attention heads.*that fits is 8"):
        exbert_config(tiny_config(50), (10, 16), 0.0)


@pytest.mark.parametrize("extension", [None, (8, 16)])
def test_saved_models_load_again(tmp_path: Path, extension: tuple[int, int] | None) -> None:
    torch.manual_seed(0)
    model = BertForPreTraining(tiny_config(50))
    if extension:
        model = add_extension(model, extension, 0.0)
    model = prepare_for_training(model).eval()
    save_model(model, tmp_path, keep_sentence_head=extension is not None)
    ids = torch.randint(5, 50, (2, 9))
    logits = model.cls.predictions(encode(model, ids).last_hidden)
    torch.testing.assert_close(load_masked_lm(tmp_path).eval()(ids).logits, logits)
    again = prepare_for_training(load_pretraining_model(tmp_path)).eval()
    torch.testing.assert_close(again.cls.predictions(encode(again, ids).last_hidden), logits)
    classifier = load_token_classifier(tmp_path, ["O", "B-X", "I-X"]).eval()
    assert classifier(ids, attention_mask=torch.ones_like(ids)).logits.shape == (2, 9, 3)
    assert "edad_capture" not in (tmp_path / "config.json").read_text()


def test_half_precision_weights_come_up_as_fp32(tmp_path: Path) -> None:
    folder = tiny_teacher(tmp_path / "teacher")
    state = load_file(folder / "model.safetensors")
    save_file(
        {k: v.half() for k, v in state.items()}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16", "torch_dtype": "float16"}))
    assert {p.dtype for p in load_pretraining_model(folder).parameters()} == {torch.float32}


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _truncated(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def _other_kind(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "roberta"}))


def _without_a_layer(folder: Path) -> None:
    state = {k: v for k, v in load_file(folder / "model.safetensors").items() if "encoder.layer.1." not in k}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_weights, r"no weights \(\*\.safetensors\)"),
        (_truncated, "cannot be read"),
        (_other_kind, "'roberta', not a BERT"),
        (_without_a_layer, "lacks 16 encoder weights"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    ],
)
def test_damaged_teachers_are_named(tmp_path: Path, damage: object, message: str) -> None:
    folder = tiny_teacher(tmp_path / "teacher")
    damage(folder)  # type: ignore[operator]
    with pytest.raises(InputError, match=message) as error:
        load_pretraining_model(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("length", [24, LONGEST_MATERIALISED + 8])
@pytest.mark.parametrize("masked", [False, True])
def test_16_bit_attention_on_cpus(length: int, masked: bool) -> None:
    """Forward and backward, no further from fp64 than twice what PyTorch's own bf16 attention is."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(2, 3, length, 8, generator=generator).bfloat16() for _ in range(4)]
    mask = torch.rand(2, 1, length, length, generator=generator) < 0.5 if masked else None
    if mask is not None:
        mask |= torch.eye(length, dtype=torch.bool)
    module = torch.nn.Identity()
    module.is_causal = False
    results = {}
    for name, dtype in (("exact", torch.float64), ("plain", torch.bfloat16), ("ours", torch.bfloat16)):
        q, k, v = (x.to(dtype).requires_grad_() for x in drawn[:3])
        if name == "ours":
            found = half_attention(module, q, k, v, mask).transpose(1, 2)
        else:
            found = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)
        results[name] = [found, *torch.autograd.grad(found, (q, k, v), drawn[3].to(dtype))]
    for ours, plain, exact in zip(results["ours"], results["plain"], results["exact"], strict=True):
        allowed = (plain.double() - exact).abs().max() + 4 * torch.finfo(
            torch.bfloat16
        ).eps * exact.abs().max()
        assert (ours.double() - exact).abs().max() <= 2 * allowed


def within_sequences(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts: torch.Tensor, *rest: object, scale: float
) -> torch.Tensor:
    """Stands for PyTorch's CUDA kernel, one sequence after the other."""
    assert q.shape[-1] % 8 == 0
    parts = []
    for begin, end in itertools.pairwise(starts.tolist()):
        one = [x[begin:end].transpose(0, 1) for x in (q, k, v)]
        attended = torch.nn.functional.scaled_dot_product_attention(*one, scale=scale)
        parts.append(attended.transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("extension", [None, (8, 16)])
def test_attention_over_sequences_is_that_behind_the_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: tuple[int, int] | None
) -> None:
    """Packed rows with padding: the same states and gradients; one width is no multiple of 8."""
    if int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip("transformers 4 has no attention interface for BERT")
    monkeypatch.setattr(varlen_attention, "_kernel", lambda: within_sequences)
    torch.manual_seed(0)
    base = tiny_config(50)
    base.hidden_size = 52  # heads of 13
    shape = base if extension is None else exbert_config(base, extension, 0.0)
    model = _ready(build_pretraining_model(shape)).double()
    segments = torch.tensor([[1, 1, 1, 2, 2, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1], [1, 2, 2, 3, 3, 3, 0, 0]])
    starts = torch.from_numpy(_sequences(np.array([0, 3, 5, 8, 16, 17, 19, 22]), segments.numel()))
    assert starts.tolist()[8:] == [24] * (len(starts) - 8)
    ids = torch.randint(model.config.vocab_size, segments.shape)
    mask = (segments[:, :, None] == segments[:, None, :])[:, None]
    found = []
    for cu_seqlens in (None, starts):
        model.zero_grad()
        output = encode(model, ids, attention_mask=mask, cu_seqlens=cu_seqlens)
        output.last_hidden.square().sum().backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append([output.last_hidden, *output.queries, *gradients])
    for masked, laid_out in zip(*found, strict=True):
        torch.testing.assert_close(laid_out, masked)


def test_a_model_that_is_no_bert_is_named() -> None:
    config = RobertaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(InputError, match=r"RobertaForMaskedLM is no BERT: .*`model\.bert`"):
        encode(RobertaForMaskedLM(config), torch.ones(1, 3, dtype=torch.long))
