"""Makes (or with --check compares) the Unicode tables of the WordPiece core, unicode_tables_*.inc.

hf: what the installed `tokenizers` does to every code point, found by asking it.
slow: what Python's `unicodedata` and `str` say, the data of Google's original BERT tokenizer. Pinned to the
Unicode version recorded in the file: under a Python with another one the table at hand is kept.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tokenizers
from tokenizers import normalizers
from tokenizers.pre_tokenizers import BertPreTokenizer

HERE = Path(__file__).parent
CODE_POINTS = 0x110000
SURROGATES = range(0xD800, 0xE000)
HANGUL = range(0xAC00, 0xD7A4)
SIGMA = 0x3A3
# Bits of a code point's properties; unicode.hpp has the same. The combining class follows from bit 8 on.
REMOVED, CLEANED, SPACE, PUNCTUATION, CHINESE, DROPPED, IGNORABLE, CASED = (1 << bit for bit in range(8))
CLASS_SHIFT = 8
Map = dict[int, tuple[int, ...]]


@dataclass
class Table:
    """One mode: properties of every code point, canonical decompositions (no Hangul) and lower case."""

    version: str
    properties: list[int] = field(default_factory=lambda: [0] * CODE_POINTS)
    decomposed: Map = field(default_factory=dict)
    lower: Map = field(default_factory=dict)


# Probing tokenizers: many code points per call, each between two bars, which nothing else turns into.


def _blocks(code_points: Sequence[int]) -> Iterator[Sequence[int]]:
    for begin in range(0, len(code_points), 4096):
        yield code_points[begin : begin + 4096]


def _map_each(function: Callable[[str], str], texts: Sequence[str]) -> list[str]:
    result: list[str] = []
    for begin in range(0, len(texts), 4096):
        block = texts[begin : begin + 4096]
        parts = function("|".join(block)).split("|")
        if len(parts) != len(block):
            raise RuntimeError(f"probing failed between {block[0]!a} and {block[-1]!a}")
        result += parts
    return result


def _classes(code_points: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yields (code point, SPACE or PUNCTUATION) for those that are no letters to BertPreTokenizer."""
    split = BertPreTokenizer()
    for block in _blocks(code_points):
        words = split.pre_tokenize_str(" ".join(f"a{chr(code)}a" for code in block))
        at_second = {offsets[0]: offsets[1] for _, offsets in words}
        for index, code in enumerate(block):
            begin = 4 * index
            if at_second[begin] == begin + 1:  # the first "a" stands alone
                yield code, PUNCTUATION if at_second.get(begin + 1) == begin + 2 else SPACE


def _combining_classes(code_points: list[int]) -> dict[int, int]:
    """Combining classes as NFD's order shows them; numbers (only their order matters) from unicodedata."""
    nfd = normalizers.NFD().normalize_str

    def swapped(pairs: list[str]) -> list[bool]:
        return [pair != after for pair, after in zip(pairs, _map_each(nfd, pairs), strict=True)]

    texts = [chr(code) for code in code_points if code >= 0x80]  # the bar is one below
    below_240 = swapped(["\u0345" + text for text in texts])
    above_1 = swapped([text + "\u0334" for text in texts])
    marks = [text for text, low, high in zip(texts, below_240, above_1, strict=True) if low or high]
    representatives = {unicodedata.combining(mark): mark for mark in reversed(marks)}
    representatives.pop(0, None)  # a mark that unicodedata knows nothing of
    found: dict[int, int] = {}
    for value, mark in sorted(representatives.items()):
        lower = swapped([mark + text for text in marks])
        higher = swapped([text + mark for text in marks])
        found |= {
            ord(text): value
            for text, low, high in zip(marks, lower, higher, strict=True)
            if not (low or high)
        }
    if len(found) != len(marks):
        raise RuntimeError(f"no combining class for {sorted(set(marks) - {chr(code) for code in found})!a}")
    return found


def probe_hf() -> Table:
    """Returns the table of the installed `tokenizers`."""
    table = Table(tokenizers.__version__)
    properties = table.properties
    off = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}

    def normalizer(option: str) -> Callable[[str], str]:
        one_on: dict[str, bool] = off | {option: True}
        return normalizers.BertNormalizer(**one_on).normalize_str

    def each(function: Callable[[str], str], code_points: list[int]) -> Iterator[tuple[int, str, str]]:
        ascii_texts = [chr(code) for code in code_points if code < 0x80]
        texts = [chr(code) for code in code_points if code >= 0x80]
        images = [function(text) for text in ascii_texts] + _map_each(function, texts)
        for before, after in zip(ascii_texts + texts, images, strict=True):
            if before != after:
                yield ord(before), before, after

    code_points = [code for code in range(CODE_POINTS) if code not in SURROGATES]
    for code, before, after in each(normalizer("clean_text"), code_points):
        if after not in ("", " "):
            raise RuntimeError(f"clean_text turns {before!a} into {after!a}")
        properties[code] |= CLEANED if after else REMOVED
    for code, before, after in each(normalizer("handle_chinese_chars"), code_points):
        if after != f" {before} ":
            raise RuntimeError(f"handle_chinese_chars turns {before!a} into {after!a}")
        properties[code] |= CHINESE
    for code, _, after in each(normalizer("lowercase"), code_points):
        table.lower[code] = tuple(map(ord, after))
    for code, _, after in each(normalizers.NFD().normalize_str, code_points):
        table.decomposed[code] = tuple(map(ord, after))
    closed = [code for code in code_points if code not in table.decomposed]
    for code, before, after in each(normalizer("strip_accents"), closed):
        if after:
            raise RuntimeError(f"strip_accents turns {before!a} into {after!a}")
        properties[code] |= DROPPED
    for code, value in _classes(code_points):
        properties[code] |= value
    for code, value in _combining_classes(closed).items():
        properties[code] |= value << CLASS_SHIFT
    return table


# Python's own data


def derive_slow() -> Table:
    """Returns the table of Google's original rules by the unicodedata and str methods of this Python."""
    table = Table(unicodedata.unidata_version)
    chinese = [
        range(0x4E00, 0xA000),
        range(0x3400, 0x4DC0),
        range(0x20000, 0x2A6E0),
        range(0x2A700, 0x2B740),
        range(0x2B740, 0x2B820),
        range(0x2B820, 0x2CEB0),
        range(0xF900, 0xFB00),
        range(0x2F800, 0x2FA20),
    ]
    for code in range(CODE_POINTS):
        text = chr(code)
        category = unicodedata.category(text)
        value = 0
        if text in "\t\n\r" or category == "Zs":
            value |= CLEANED
        elif category[0] == "C" or code == 0xFFFD:
            value |= REMOVED
        value |= SPACE if text.isspace() else 0
        punctuation = category[0] == "P" or (code < 0x7F and text.isprintable() and not text.isalnum())
        value |= PUNCTUATION if punctuation and not text.isspace() else 0
        value |= DROPPED if category == "Mn" else 0
        # str.lower() shows both by the sigma it makes final: after a cased character, ignorable ones skipped.
        cased = (text + "\u03a3").lower()[-1] == "\u03c2"
        value |= CASED if cased else 0
        value |= IGNORABLE if not cased and ("A" + text + "\u03a3").lower()[-1] == "\u03c2" else 0
        table.properties[code] = value | unicodedata.combining(text) << CLASS_SHIFT
        if text.lower() != text:
            table.lower[code] = tuple(map(ord, text.lower()))
        decomposed = unicodedata.normalize("NFD", text)
        if decomposed != text:
            table.decomposed[code] = tuple(map(ord, decomposed))
    for code in (code for block in chinese for code in block):
        table.properties[code] |= CHINESE
    return table


def check_assumptions(table: Table) -> None:
    """Raises AssertionError where the core's shortcuts (normalize.cpp) would not hold."""
    properties = table.properties
    for code, parts in table.decomposed.items():
        marks = [properties[part] >> CLASS_SHIFT for part in parts]
        assert all(marks[marks.index(next(filter(None, marks))) :]) if any(marks) else True, hex(code)
        assert all(part not in table.decomposed for part in parts), hex(code)
        assert not properties[code] & CHINESE or not any(marks), hex(code)
    for code in HANGUL:
        index, tail = code - 0xAC00, (code - 0xAC00) % 28
        parts = (0x1100 + index // 588, 0x1161 + index % 588 // 28) + ((0x11A7 + tail,) if tail else ())
        assert table.decomposed[code] == parts, hex(code)
        assert not any(properties[part] or part in table.lower for part in parts), hex(code)
    for code in range(CODE_POINTS):
        value = properties[code]
        assert not value & SPACE or not value & PUNCTUATION, hex(code)
        assert not value >> CLASS_SHIFT or not value & (SPACE | PUNCTUATION | CHINESE), hex(code)
        lower = table.lower.get(code, ())
        assert len(lower) < 2 or code == 0x130, hex(code)
        assert not value & REMOVED or not (value & CLEANED or value >> CLASS_SHIFT), hex(code)
        assert value & (SPACE | REMOVED) or not value & CLEANED, hex(code)


# The files: lists of whole numbers. unicode.cpp reads them.


def _zigzag(number: int) -> int:
    return 2 * number if number >= 0 else -2 * number - 1


def _unzigzag(number: int) -> int:
    return number // 2 if number % 2 == 0 else -(number + 1) // 2


def pack_properties(properties: list[int]) -> tuple[list[int], list[int]]:
    """Returns the distinct values, and runs (length, index of the value) over all code points."""
    palette = sorted(set(properties))
    index = {value: place for place, value in enumerate(palette)}
    runs: list[int] = []
    begin = 0
    for code in range(1, CODE_POINTS + 1):
        if code == CODE_POINTS or properties[code] != properties[begin]:
            runs += [code - begin, index[properties[begin]]]
            begin = code
    return palette, runs


def pack_decompositions(mapping: Map) -> list[int]:
    """Returns per entry: gap, number of parts, every part less that of the entry before."""
    numbers: list[int] = []
    last, parts_before = 0, [0] * 4
    for code, parts in sorted(mapping.items()):
        numbers += [code - last, len(parts)]
        for place, part in enumerate(parts):
            numbers.append(_zigzag(part - parts_before[place]))
            parts_before[place] = part
        last = code
    return numbers


def pack_lower(mapping: Map) -> list[int]:
    """Returns runs (gap, count, step, image less code point); images of two parts are no business of runs."""
    runs: list[list[int]] = []
    for code, (image, *more) in sorted(mapping.items()):
        if more:
            continue
        if runs:
            first, count, step, delta = runs[-1]
            reach = code - (first + (count - 1) * step) if count > 1 else code - first
            if delta == image - code and (reach == step if count > 1 else reach in (1, 2)):
                runs[-1] = [first, count + 1, reach, delta]
                continue
        runs.append([code, 1, 1, image - code])
    numbers: list[int] = []
    last = 0
    for first, count, step, delta in runs:
        numbers += [first - last, count, step, _zigzag(delta)]
        last = first
    return numbers


def _array(name: str, numbers: Sequence[int]) -> str:
    body = textwrap.fill(", ".join(map(str, numbers or [0])), 109)  # no entry at all: a lone 0
    return f"inline constexpr std::uint32_t {name}[] = {{\n{body}}};\n"


def render(hf: Table, slow: Table) -> dict[str, str]:
    """Returns the text of the three files by name."""

    def common(one: Map, other: Map) -> Map:
        return {code: image for code, image in one.items() if other.get(code) == image}

    def rest(one: Map, shared: Map) -> Map:
        return {code: image for code, image in one.items() if code not in shared}

    def without_hangul(mapping: Map) -> Map:
        return {code: image for code, image in mapping.items() if code not in HANGUL}

    decomposed = common(without_hangul(hf.decomposed), without_hangul(slow.decomposed))
    lower = common(hf.lower, slow.lower)
    head = "// Made by make_unicode_tables.py, which describes the format; do not edit. "
    files = {
        "unicode_tables_shared.inc": f"{head}What both modes share.\n"
        + _array("kSharedDecompositions", pack_decompositions(decomposed))
        + _array("kSharedLower", pack_lower(lower))
    }
    for mode, table, source in (("hf", hf, "tokenizers"), ("slow", slow, "Unicode")):
        prefix = mode.capitalize()
        palette, runs = pack_properties(table.properties)
        own = without_hangul(table.decomposed)
        files[f"unicode_tables_{mode}.inc"] = (
            f"{head}Source: {source} {table.version}\n"
            + f'inline constexpr char k{prefix}Version[] = "{table.version}";\n'
            + _array(f"k{prefix}Palette", palette)
            + _array(f"k{prefix}Runs", runs)
            + _array(f"k{prefix}Decompositions", pack_decompositions(rest(own, decomposed)))
            + _array(f"k{prefix}Lower", pack_lower(rest(table.lower, lower)))
        )
    return files


def load(mode: str) -> Table:
    """Returns the table that the files at hand describe ("hf" or "slow")."""
    text = "".join((HERE / f"unicode_tables_{part}.inc").read_text("ascii") for part in ("shared", mode))
    arrays = {
        name: [int(number) for number in re.findall(r"\d+", body)]
        for name, body in re.findall(r"uint32_t k(\w+)\[\] = \{([^}]*)\}", text)
    }
    version = re.search(r'Version\[\] = "([^"]*)"', text)
    if version is None:
        raise RuntimeError(f"unicode_tables_{mode}.inc names no version")
    prefix = mode.capitalize()
    table = Table(version[1], [])
    palette, runs = arrays[f"{prefix}Palette"], arrays[f"{prefix}Runs"]
    for length, place in zip(runs[::2], runs[1::2], strict=True):
        table.properties += [palette[place]] * length
    for part in ("Shared", prefix):
        numbers = arrays[f"{part}Decompositions"]
        code, parts, place = 0, [0] * 4, 0
        while place + 1 < len(numbers):
            code, count = code + numbers[place], numbers[place + 1]
            for index in range(count):
                parts[index] += _unzigzag(numbers[place + 2 + index])
            table.decomposed[code] = tuple(parts[:count])
            place += 2 + count
        numbers = arrays[f"{part}Lower"]
        code = 0
        for place in range(0, len(numbers) - 3, 4):
            gap, count, step, delta = numbers[place : place + 4]
            code += gap
            for index in range(count):
                table.lower[code + index * step] = (code + index * step + _unzigzag(delta),)
    table.lower[0x130] = (0x69, 0x307)  # the only image of two parts
    for code in HANGUL:
        lead, vowel, tail = (code - 0xAC00) // 588, (code - 0xAC00) % 588 // 28, (code - 0xAC00) % 28
        jamo = (0x1100 + lead, 0x1161 + vowel, 0x11A7 + tail)
        table.decomposed[code] = jamo if tail else jamo[:2]
    return table


def differences(expected: Table, actual: Table) -> list[str]:
    """Returns a line for every code point that the tables describe differently; surrogates do not count."""
    lines = []
    for code in range(CODE_POINTS):
        one, other = (
            (table.properties[code], table.decomposed.get(code), table.lower.get(code))
            for table in (expected, actual)
        )
        if one != other and code not in SURROGATES:
            lines.append(f"U+{code:04X}: expected {one}, the table has {other}")
    return lines


def main() -> int:
    """Writes the files, or with --check says where they are out of date (exit status 1)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    hf = probe_hf()
    pinned = (HERE / "unicode_tables_slow.inc").exists() and load(
        "slow"
    ).version != unicodedata.unidata_version
    slow = load("slow") if pinned else derive_slow()
    if pinned:
        print(f"unicode_tables_slow.inc stays at Unicode {slow.version}: this Python has no such data")
    for table in (hf, slow):
        check_assumptions(table)
    status = 0
    for name, text in render(hf, slow).items():
        path = HERE / name
        if not check:
            path.write_text(text, "ascii")
        elif not path.exists() or path.read_text("ascii") != text:
            print(f"{path} is out of date: run {Path(__file__).name}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
