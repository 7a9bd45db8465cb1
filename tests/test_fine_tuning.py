"""The two savings of time in fine-tuning are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toy_ner import tiny_model

from edad_fast.errors import InputError
from edad_fast.tasks.fine_tuning import QuickDropout, keep_used_embeddings, use_quick_dropout


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
