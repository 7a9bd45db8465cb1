"""Hugging Face WordPiece tokenizers: load, extend, save; and plain vocab.txt files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ..errors import InputError
from ..files import atomic_write, write_json
from .checks import as_pieces

_SPECIAL_NAMES = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
SPECIAL_DEFAULTS = {name: f"[{name.removesuffix('_token').upper()}]" for name in _SPECIAL_NAMES}
_RESERVED = re.compile(r"\[(PAD|UNK|CLS|SEP|MASK|unused\d+)\]")


def read_vocab(path: str | os.PathLike[str], *, fill_empty: bool = False) -> list[str]:
    """Read a vocab.txt: one piece a line, id = line number - 1.

    CRLF, a final newline and a byte-order mark at the start are accepted.

    Args:
        fill_empty: an empty line n counts as [unused(n-1)] instead of being an error.

    Raises:
        InputError: unreadable, not UTF-8, no piece at all, an empty line or a duplicate (line numbers are
            named).
    """
    pieces = _lines(path)
    seen: dict[str, int] = {}
    for number, piece in enumerate(pieces, start=1):
        if not piece and fill_empty:
            pieces[number - 1] = piece = f"[unused{number - 1}]"
        if not piece:
            raise InputError(
                f"{path}: line {number} is empty; every line of a vocabulary holds one piece: "
                f"remove the line, or write [unused{number - 1}] there to keep the ids of the lines below"
            )
        if piece in seen:
            raise InputError(
                f"{path}: {piece!r} is on line {seen[piece]} and again on line {number}; remove one of them"
            )
        seen[piece] = number
    return pieces


def empty_lines(path: str | os.PathLike[str]) -> list[int]:
    """Numbers, from 1, of the empty lines of a vocab.txt."""
    return [number for number, piece in enumerate(_lines(path), start=1) if not piece]


def _lines(path: str | os.PathLike[str]) -> list[str]:
    try:
        text = Path(path).read_bytes().decode("utf-8").removeprefix("\ufeff")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); check the path of the vocabulary"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: invalid UTF-8 at byte {error.start}; a vocabulary is a UTF-8 text file"
        ) from error
    # Not splitlines(): a piece may be a character that it takes for a line end, such as U+2028.
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def write_vocab(path: str | os.PathLike[str], pieces: Sequence[str] | Mapping[str, int]) -> None:
    """Write a vocab.txt, atomically."""
    text = "".join(f"{piece}\n" for piece in as_pieces(pieces))
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _definition(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The tokenizer.json of `tokenizer` as a dictionary, without truncation and padding."""
    definition: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    definition["truncation"] = definition["padding"] = None
    return definition


def _wrap(definition: dict[str, Any], special: dict[str, str], max_length: int) -> PreTrainedTokenizerFast:
    backend = Tokenizer.from_str(json.dumps(definition, ensure_ascii=False))
    normalizer = definition["normalizer"]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        do_lower_case=normalizer["lowercase"],
        **special,
    )
    return wrapped


def special_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """The special tokens of a tokenizer by name (`cls_token` ...), the usual ones where it names none."""
    return {name: str(getattr(tokenizer, name) or SPECIAL_DEFAULTS[name]) for name in _SPECIAL_NAMES}


def reserved_tokens(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The pieces that a tokenizer cannot do without, in id order: special and other literal tokens."""
    literal = (str(token["content"]) for token in _definition(tokenizer)["added_tokens"])
    names = {*special_tokens(tokenizer).values(), *literal}
    return [piece for piece in vocabulary_of(tokenizer) if piece in names]


def check_bert(definition: dict[str, Any], source: str) -> None:
    """Raise InputError if a tokenizer.json is not that of a BERT; `source` names it."""
    kinds = {key: (definition.get(key) or {}).get("type") for key in ("model", "normalizer", "pre_tokenizer")}
    expected = {"model": "WordPiece", "normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer"}
    for key, kind in expected.items():
        if kinds[key] != kind:
            raise InputError(
                f"{source}: not a BERT tokenizer: its {key} is {kinds[key] or 'absent'}, not {kind}; "
                "take a BERT teacher, such as bert-base-uncased"
            )
    if (prefix := definition["model"]["continuing_subword_prefix"]) != "##":
        raise InputError(
            f"{source}: continuation pieces start with {prefix!r}, not '##'; take a BERT teacher"
        )


def is_cased(pieces: Iterable[str]) -> bool:
    """Whether some piece, special tokens aside, has a capital letter."""
    return any(piece != piece.lower() for piece in pieces if not _RESERVED.fullmatch(piece))


def _from_vocab(path: Path) -> PreTrainedTokenizerFast:
    """A BERT tokenizer of a bare vocab.txt: cased if some piece has a capital letter, uncased otherwise."""
    from tokenizers import decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece

    vocabulary = {piece: number for number, piece in enumerate(read_vocab(path))}
    if missing := [token for token in SPECIAL_DEFAULTS.values() if token not in vocabulary]:
        raise InputError(f"{path}: no {', '.join(missing)}; a BERT vocabulary holds these special tokens")
    cased = is_cased(vocabulary)
    backend = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=not cased)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_special_tokens(list(SPECIAL_DEFAULTS.values()))
    return _wrap(json.loads(backend.to_str()), dict(SPECIAL_DEFAULTS), 512)


def _hub_answers(name: str) -> bool:
    """Whether the hub can be asked: one attempt, where loading would try for a minute before it gave up."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().model_info(name, timeout=10)
    except HfHubHTTPError:
        return True  # loading says what is wrong
    except Exception:  # no connection, no such host, offline mode: kinds of several libraries
        return False
    return True


def load_tokenizer(source: str | os.PathLike[str]) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a BERT: a directory, a vocab.txt, or a hub id. No remote code is run.

    Truncation and padding that the files bring along are removed: they would cut documents short. Where the
    hub cannot be reached, its files in the local cache are taken.

    Raises:
        InputError: there is no tokenizer, or it is not BERT's WordPiece.
    """
    path = Path(source)
    if path.is_file():
        return _from_vocab(path)
    if path.is_dir():
        if not any((path / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
            raise InputError(
                f"{path}: no tokenizer: neither tokenizer.json nor vocab.txt is there; "
                "copy them from where the model came from"
            )
        if not any(
            (path / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "config.json")
        ):
            return _from_vocab(path / "vocab.txt")
    elif len(path.parts) > 2 or path.is_absolute() or str(source).startswith("."):
        raise InputError(
            f"{source}: no such directory; give a directory with a tokenizer or a Hugging Face hub id"
        )
    local = path.is_dir() or not _hub_answers(str(source))
    try:
        loaded: Any = AutoTokenizer.from_pretrained(
            str(source), trust_remote_code=False, use_fast=True, local_files_only=local
        )
    except Exception as error:  # The library raises many kinds: network, JSON, unknown classes.
        raise InputError(
            f"{source}: no tokenizer could be loaded ({type(error).__name__}: {str(error)[:300]}); "
            "give a directory with tokenizer.json, or the id of a BERT on the Hugging Face hub"
        ) from error
    if not getattr(loaded, "is_fast", False):
        raise InputError(
            f"{source}: not a BERT WordPiece tokenizer ({type(loaded).__name__}); take a BERT teacher"
        )
    definition = _definition(loaded)
    check_bert(definition, str(source))
    return _wrap(definition, special_tokens(loaded), loaded.model_max_length)


def vocabulary_of(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Return the pieces of the WordPiece model by id.

    Raises:
        InputError: ids with gaps, or added tokens outside the model (they would be cut out before WordPiece
            runs).
    """
    backend = tokenizer.backend_tokenizer
    ids: dict[str, int] = backend.get_vocab(with_added_tokens=False)
    pieces = sorted(ids, key=ids.__getitem__)
    if pieces and ids[pieces[-1]] != len(pieces) - 1:
        raise InputError("the tokenizer's ids have gaps; number its pieces from 0 without a gap")
    outside = [str(token) for token in backend.get_vocab(with_added_tokens=True) if token not in ids]
    if outside:
        raise InputError(
            f"the tokenizer has {len(outside)} added token(s) outside its WordPiece model, "
            f"such as {outside[0]!r}; append them to its vocab.txt and remove them from added_tokens"
        )
    return pieces


def build_tokenizer(
    base: PreTrainedTokenizerFast, pieces: Sequence[str] | Mapping[str, int]
) -> PreTrainedTokenizerFast:
    """Return a copy of `base` whose WordPiece model holds `pieces` (ids are places in the list).

    Normaliser, pre-tokeniser, post-processor and special tokens stay as they are. The pieces go into the
    model itself: tokens added with `add_tokens` would be cut out of the middle of words.

    Raises:
        InputError: `pieces` lacks a special token of `base`, or holds a piece twice.
    """
    pieces = as_pieces(pieces)
    ids = {piece: number for number, piece in enumerate(pieces)}
    if len(ids) != len(pieces):
        twice = next(piece for number, piece in enumerate(pieces) if ids[piece] != number)
        raise InputError(f"the vocabulary holds {twice!r} twice; remove one")
    definition = _definition(base)
    special = special_tokens(base)
    needed = {*special.values(), *(token["content"] for token in definition["added_tokens"])}
    if missing := sorted(needed - ids.keys()):
        raise InputError(
            f"the vocabulary lacks {', '.join(missing)}; keep the special tokens of the base vocabulary"
        )
    definition["model"]["vocab"] = ids
    for token in definition["added_tokens"]:
        token["id"] = ids[token["content"]]
    definition["added_tokens"].sort(key=lambda token: token["id"])
    processor = definition["post_processor"] or {}
    if processor.get("type") == "TemplateProcessing":
        for token in processor["special_tokens"].values():
            token["ids"] = [ids[content] for content in token["tokens"]]
    elif processor.get("type") == "BertProcessing":
        for end in ("sep", "cls"):
            processor[end][1] = ids[processor[end][0]]
    return _wrap(definition, special, base.model_max_length)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: str | os.PathLike[str]) -> None:
    """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json and vocab.txt into `directory`.

    The files name the class BertTokenizer, which `AutoTokenizer` knows in transformers 4 and 5 alike (the
    names that `save_pretrained` of transformers 5 writes are unknown to 4).
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    definition = _definition(tokenizer)
    special = special_tokens(tokenizer)
    normalizer = definition["normalizer"]
    write_vocab(folder / "vocab.txt", vocabulary_of(tokenizer))
    with atomic_write(folder / "tokenizer.json") as temporary:
        temporary.write_text(json.dumps(definition, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": normalizer["lowercase"],
            "strip_accents": normalizer["strip_accents"],
            "tokenize_chinese_chars": normalizer["handle_chinese_chars"],
            "model_max_length": min(tokenizer.model_max_length, 10**9),
            "clean_up_tokenization_spaces": False,
            **special,
        },
    )
