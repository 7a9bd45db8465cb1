"""Every tagging scheme comes out as the same IOB2, wherever the words are from."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from edad_fast.errors import InputError
from edad_fast.tasks.ner import strict_entity_f1
from edad_fast.tasks.ner_data import load_ner
from edad_fast.tasks.ner_schemes import SCHEMES, SchemeError, detect_scheme, to_iob2

Entities = list[tuple[str, int]]  # (type, words); "" for words outside


def tagged(parts: Entities, scheme: str) -> list[str]:
    """An independent writer of tags, straight from the definition of each scheme."""
    tags: list[str] = []
    before = ""
    for name, words in parts:
        if not name:
            letters = ["O"] * words
        elif scheme in ("iob1", "iob2"):
            begin = "B" if scheme == "iob2" or before == name else "I"
            letters = [begin, *["I"] * (words - 1)]
        else:
            single, end = ("U", "L") if scheme == "bilou" else ("S", "E")
            letters = [single] if words == 1 else ["B", *["I"] * (words - 2), end]
        tags += ["O" if letter == "O" else f"{letter}-{name}" for letter in letters]
        before = name
    return tags


spans = st.tuples(st.sampled_from(["", "X", "Y"]), st.integers(1, 4))
sentences = st.lists(st.lists(spans, min_size=1, max_size=6), min_size=1, max_size=8)
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on busy machines


@relaxed
@given(sentences, st.sampled_from(SCHEMES))
def test_conversion_gives_the_same_entities(parts, scheme):
    for sentence in parts:
        converted = to_iob2(tagged(sentence, scheme), scheme)
        assert converted == tagged(sentence, "iob2")


@relaxed
@given(sentences, st.sampled_from(SCHEMES))
def test_detection_reads_the_same_entities(parts, scheme):
    written = [tagged(sentence, scheme) for sentence in parts]
    found = detect_scheme(written)
    # Without a tag that tells them apart, a file is valid in several schemes, whose readings are equal.
    if scheme in ("iob1", "iob2") or any(tag[0] in "ESLU" for tags in written for tag in tags):
        assert [to_iob2(tags, found) for tags in written] == [tagged(s, "iob2") for s in parts]


def test_detection():
    assert detect_scheme([["I-X", "O"], ["I-X", "B-X"]]) == "iob1"
    assert detect_scheme([["B-X", "I-X"], ["O", "I-X"]]) == "iob2"
    assert detect_scheme([["O"]]) == "iob2"
    assert detect_scheme([["B-X", "L-X"], ["U-X"]]) == "bilou"
    with pytest.raises(ValueError, match="two schemes"):
        detect_scheme([["S-X", "U-X"]])


@pytest.mark.parametrize(
    ("tags", "scheme", "position"),
    [
        (["O", "I-X"], "iobes", 1),
        (["B-X", "O"], "iobes", 1),
        (["B-X", "E-Y"], "bioes", 1),
        (["S-X", "B-X"], "iobes", 1),
        (["B-X", "E-X"], "bilou", 1),
        (["O", "B-X"], "iob1", 1),
        (["B-X", "I-X", "I-Y"], "iob2", 2),
        (["S-X"], "iob2", 0),
    ],
)
def test_a_tag_against_its_scheme_is_found(tags, scheme, position):
    with pytest.raises(SchemeError) as error:
        to_iob2(tags, scheme)
    assert error.value.position == position


def write_splits(folder: Path, rows: list[str]) -> Path:
    folder.mkdir()
    for split in ("train", "devel", "test"):
        (folder / f"{split}.conll").write_text("\n".join(rows) + "\n")
    return folder


def test_files_of_other_schemes_load_as_iob2(tmp_path):
    rows = ["New B-LOC", "York E-LOC", "sleeps O", "", "Oslo S-LOC"]
    data = load_ner(write_splits(tmp_path / "iobes", rows))
    assert (data.scheme, data.labels) == ("iobes", ["O", "B-LOC", "I-LOC"])
    assert [s.tags for s in data.splits["test"]] == [["B-LOC", "I-LOC", "O"], ["B-LOC"]]
    with pytest.raises(InputError, match=r"train\.conll:2: E-LOC is no tag of bilou"):
        load_ner(tmp_path / "iobes", scheme="bilou")
    broken = write_splits(tmp_path / "broken", [*rows, "", "the O", "end B-LOC"])
    with pytest.raises(InputError, match=r"train\.conll:8: B-LOC cannot end a sentence in iobes.*--scheme"):
        load_ner(broken)


def test_strict_score_knows_no_entity_without_its_begin():
    gold = [["B-X", "I-X", "O"]]
    assert strict_entity_f1(gold, gold) == 1.0
    assert get_entities(["I-X", "I-X", "O"]) == [("X", 0, 1)]  # the default mode would count it
    assert strict_entity_f1(gold, [["I-X", "I-X", "O"]]) == 0.0
    assert strict_entity_f1([["O"]], [["O"]]) == 0.0


# --- Hugging Face datasets


def test_a_dataset_loads_as_its_file_would(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the extra `datasets`")
    names = ["O", "B-LOC", "I-LOC"]
    sequence = getattr(datasets, "Sequence")  # noqa: B009
    features = datasets.Features(
        {"tokens": sequence(datasets.Value("string")), "ner_tags": sequence(datasets.ClassLabel(names=names))}
    )
    rows = {"tokens": [["New", "York"], [], ["sleeps"]], "ner_tags": [[1, 2], [], [0]]}
    part = datasets.Dataset.from_dict(rows, features=features)
    folder = tmp_path / "saved"
    datasets.DatasetDict({"train": part, "validation": part, "test": part}).save_to_disk(folder)
    data = load_ner(f"hf:{folder}")
    assert data.labels == names
    assert [(s.words, s.tags, s.line) for s in data.splits["devel"]] == [
        (["New", "York"], ["B-LOC", "I-LOC"], 1),
        (["sleeps"], ["O"], 3),
    ]
    with pytest.raises(InputError, match=r"no column 'pos'; there are tokens, ner_tags.*--tag_column"):
        load_ner(f"hf:{folder}", tag_column="pos")
    with pytest.raises(InputError, match=r"saved:train: row 1, token 1: B-LOC cannot follow nothing in iob1"):
        load_ner(f"hf:{folder}", scheme="iob1")
    datasets.DatasetDict({"train": part}).save_to_disk(tmp_path / "one")
    with pytest.raises(InputError, match="no devel split; there are train"):
        load_ner(f"hf:{tmp_path / 'one'}")


def test_a_dataset_with_text_tags_and_unequal_rows(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the extra `datasets`")

    def saved(name: str, words: list[list[str]], tags: list[list[str]]) -> str:
        part = datasets.Dataset.from_dict({"w": words, "t": tags})
        datasets.DatasetDict({"train": part, "dev": part, "test": part}).save_to_disk(tmp_path / name)
        return f"hf:{tmp_path / name}"

    columns = {"token_column": "w", "tag_column": "t"}
    assert load_ner(saved("a", [["Oslo"]], [["U-LOC"]]), **columns).labels == ["O", "B-LOC"]
    with pytest.raises(InputError, match=r"row 1 has 1 words and 2 tags"):
        load_ner(saved("b", [["Oslo"]], [["O", "O"]]), **columns)
    with pytest.raises(InputError, match=r"row 1, token 1: 'LOC' is no tag"):
        load_ner(saved("c", [["Oslo"]], [["LOC"]]), **columns)
