"""The demo's text: a small grammar with a general and a medical-sounding vocabulary, and entity labels.

Every drug treats some diseases and every gene is expressed in some tissues, so that the words around a masked
word predict it; domain words are built of recurring morphemes, so that learned WordPieces pay.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from ..errors import InputError
from ..files import atomic_dir, atomic_write

NER_SENTENCES = {"train": 300, "devel": 300, "test": 300}
VALIDATION_SHARE = 0.04
# Every so many-th disease and drug is never named in NER training, only in devel and test.
_HOLD_BACK = 4


def _list(words: str, separator: str = " ") -> list[str]:
    return words.split(separator)


_NAMES = _list(
    "Anna Ben Clara David Emma Frank Grace Henry Irene Jack Kate Leo Maria Noah Olga Paul Rose Simon Tina"
)
_PLACES = _list(
    "garden kitchen school market library station river village office harbour museum park castle farm"
)
_THINGS = _list(
    "book letter picture table lamp bicycle coat basket window guitar bottle map clock chair blanket box"
)
_FOODS = _list("bread soup apples cheese rice fish tea cake honey potatoes beans butter")
_ADJECTIVES = _list(
    "old new small large red green quiet heavy cheap broken clean empty famous beautiful strange"
)
_MOTIONS = _list("walked ran drove went travelled returned hurried")
_TRANSFERS = _list("bought sold found lost borrowed repaired painted carried hid brought")
_TIMES = _list(
    "in the morning|last summer|every evening|on Monday|after dinner|in winter|yesterday|at noon",
    separator="|",
)
_WEATHERS = _list("rain snow wind sunshine fog thunder")
_MOODS = _list("happy tired angry surprised hungry worried cheerful calm")

_DISEASE_STARTS = ["", "", *_list("hyper hypo poly peri endo macro micro pseudo dys neo")]
_STEMS = _list(
    "cardi hepat nephr neur gastr derm oste arthr encephal my pneumon rhin col cyst aden angi chondr "
    "bronch pancreat splen thyr vascul kerat retin mening lymph periton tendon mast ot"
)
_DISEASE_ENDS = _list("itis osis oma opathy algia emia ectasia osclerosis omalacia otrophy")
_DRUG_STARTS = _list(
    "zol vax mer trel quin dapro sel brev clav fen lumi nor pax rido sul tavi velo xan cefo bena kori "
    "mito oxa prav ibro gluc halo jent amlo wex"
)
_MIDDLES = _list("ta ri mo ve lu pi da xi ne so ba ko")
_DRUG_ENDS = _list("mab olol pril statin azole mycin cillin tinib sartan idine oxacin parin")
_GENE_STARTS = _list("kin lig phos trans glob synth reduct cyclo mannos prote ferr calm tubul integr collag")
_GENE_ENDS = _list("ase ogen actin olin ectin idase")
_TISSUES = _list("liver kidney heart brain lung skin muscle bone stomach spleen retina thyroid")
_SYMPTOMS = _list(
    "fever|nausea|fatigue|chronic pain|weight loss|dizziness|swelling|headache|high blood pressure|"
    "insomnia|vomiting",
    separator="|",
)

_Part = str | tuple[str, str]  # plain words, or (entity class, words)


@dataclass(frozen=True)
class DemoData:
    """Paths of the demo's text: three .txt files, and a folder with train.tsv, devel.tsv and test.tsv."""

    general: Path
    domain: Path
    valid: Path
    ner: Path


def _sampler(rng: random.Random, items: Sequence[str]) -> Callable[[], str]:
    """Draw items with Zipf-like frequencies: some are common, most are rare."""
    bounds = list(accumulate(1.0 / (rank + 5) for rank in range(len(items))))
    return lambda: items[bisect(bounds, rng.random() * bounds[-1])]


class _General:
    """Sentences about people, things and places: who does what where follows from who it is."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._name = _sampler(rng, _NAMES)
        self._places = {name: rng.sample(_PLACES, 3) for name in _NAMES}
        self._things = {place: rng.sample(_THINGS, 4) for place in _PLACES}
        self._adjectives = {thing: rng.sample(_ADJECTIVES, 3) for thing in _THINGS}
        self._foods = {name: rng.sample(_FOODS, 2) for name in _NAMES}
        self._moods = {weather: rng.sample(_MOODS, 2) for weather in _WEATHERS}

    def document(self, sentences: int) -> Iterator[list[_Part]]:
        """Yield the sentences of a document about two people."""
        people = [self._name(), self._name()]
        for _ in range(sentences):
            yield [self._sentence(self._rng.choice(people))]

    def _sentence(self, name: str) -> str:
        pick = self._rng.choice
        place = pick(self._places[name])
        thing = pick(self._things[place])
        kind = pick(self._adjectives[thing])
        food, other = self._foods[name]
        match self._rng.randrange(8):
            case 0:
                return f"{name} {pick(_MOTIONS)} to the {place} {pick(_TIMES)} ."
            case 1:
                return f"in the {place} {name} {pick(_TRANSFERS)} a {kind} {thing} ."
            case 2:
                return f"the {thing} in the {place} was {kind} , so {name} {pick(_TRANSFERS)} it ."
            case 3:
                return f"{name} likes {food} and {other} , and eats them {pick(_TIMES)} ."
            case 4:
                weather = pick(_WEATHERS)
                return f"because of the {weather} {name} was {pick(self._moods[weather])} {pick(_TIMES)} ."
            case 5:
                return f"{self._rng.randrange(2, 60)} people {pick(_MOTIONS)} from the {place} with {name} ."
            case 6:
                return f"{name} said that the {kind} {thing} belongs to the {place} ."
            case _:
                return f"there is a {kind} {thing} near the {place} , but {name} wants some {food} ."


def _invent(count: int, make: Callable[[], str]) -> list[str]:
    words: dict[str, None] = {}
    while len(words) < count:
        words.setdefault(make())
    return list(words)


class _Domain:
    """Sentences about invented diseases, drugs and genes; the entity classes are Disease and Drug."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        pick = rng.choice
        self._diseases = _invent(800, lambda: pick(_DISEASE_STARTS) + pick(_STEMS) + pick(_DISEASE_ENDS))
        self._drugs = _invent(600, lambda: pick(_DRUG_STARTS) + pick(_MIDDLES) + pick(_DRUG_ENDS))
        genes = _invent(300, lambda: pick(_GENE_STARTS) + pick(_MIDDLES) + pick(_GENE_ENDS))
        self._treatments = {disease: rng.sample(self._drugs, 2) for disease in self._diseases}
        self._symptoms = {disease: rng.sample(_SYMPTOMS, 2) for disease in self._diseases}
        self._tissue = {disease: pick(_TISSUES) for disease in self._diseases}
        self._gene = {disease: pick(genes) for disease in self._diseases}
        self._expressed = {gene: rng.sample(_TISSUES, 2) for gene in genes}
        self._held_back = {*self._diseases[::_HOLD_BACK], *self._drugs[::_HOLD_BACK]}
        # Which names are common has nothing to do with which are held back.
        self._disease = _sampler(rng, rng.sample(self._diseases, len(self._diseases)))

    def document(self, sentences: int) -> Iterator[list[_Part]]:
        """Yield the sentences of a document about one disease, its drugs and its gene."""
        disease = self._disease()
        for _ in range(sentences):
            yield self._sentence(disease, self._rng.choice(self._treatments[disease]))

    def labelled(self, *, held_back: bool) -> Iterator[list[_Part]]:
        """Yield sentences for ever, each about a disease; `held_back`: also those kept from training."""
        while True:
            disease = self._disease()
            drug = self._rng.choice(self._treatments[disease])
            if held_back or self._held_back.isdisjoint((disease, drug)):
                yield self._sentence(disease, drug)

    def _sentence(self, disease_word: str, drug_word: str) -> list[_Part]:
        rng = self._rng
        symptom, other_symptom = rng.sample(self._symptoms[disease_word], 2)
        tissue = self._tissue[disease_word]
        gene = self._gene[disease_word]
        form = rng.random()
        disease = ("Disease", disease_word)
        if form < 0.12:
            disease = ("Disease", f"{rng.choice(('acute', 'chronic', 'juvenile'))} {disease_word}")
        elif form < 0.2:
            disease = ("Disease", f"{disease_word} of the {tissue}")
        drug = ("Drug", f"{drug_word} sodium" if form > 0.93 else drug_word)
        match rng.randrange(10):
            case 0:
                return [
                    "patients with",
                    disease,
                    f"were treated with {rng.randrange(1, 10) * 10} mg of",
                    drug,
                    "daily .",
                ]
            case 1:
                return [drug, "reduced the", symptom, "of patients with", disease, "."]
            case 2:
                return [disease, f"is a disease of the {tissue} that causes {symptom} and {other_symptom} ."]
            case 3:
                return [f"the gene {gene} is expressed in the {' and the '.join(self._expressed[gene])} ."]
            case 4:
                return [f"mutations of {gene} are associated with", disease, f"and damage of the {tissue} ."]
            case 5:
                return ["treatment with", drug, f"lowers the level of {gene} in the {tissue} ."]
            case 6:
                return [
                    f"{symptom} and {other_symptom} are the first signs of",
                    disease,
                    "in most patients .",
                ]
            case 7:
                return ["in this trial", drug, "was more effective against", disease, "than placebo ."]
            case 8:
                dose = rng.randrange(1, 10) * 10
                return [f"the dose of {dose} mg did not cause {rng.choice(_SYMPTOMS)} in healthy people ."]
            case _:
                return [f"the {tissue} was normal , and no sign of", disease, "was found after", drug, "."]


def _plain(sentence: Sequence[_Part]) -> str:
    text = " ".join(part if isinstance(part, str) else part[1] for part in sentence)
    return text[0].upper() + text[1:].replace(" .", ".").replace(" ,", ",")


def _rows(sentence: Sequence[_Part]) -> Iterator[str]:
    """Token TAB tag lines, IOB2."""
    for part in sentence:
        label, words = ("", part) if isinstance(part, str) else part
        for place, word in enumerate(words.split()):
            tag = f"{'I' if place else 'B'}-{label}" if label else "O"
            yield f"{word}\t{tag}\n"


def _write_documents(path: Path, grammar: _General | _Domain, rng: random.Random, words: int) -> None:
    """Write documents of 3 to 15 sentences, separated by blank lines, of `words` words or a few more."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        written = 0
        while written < words:
            text = " ".join(map(_plain, grammar.document(rng.randint(3, 15))))
            file.write(text + "\n\n")
            written += text.count(" ") + 1


def write_demo_data(
    folder: Path, *, seed: int = 0, general_words: int = 300_000, domain_words: int = 300_000
) -> DemoData:
    """Write the demo's texts and its labelled sentences; the same seed gives the same bytes.

    Args:
        general_words, domain_words: words of the general and of the domain text (a few more, to end a
            document). The validation text has 4% of the domain's words, about the same diseases, in documents
            of its own.

    Raises:
        InputError: a number of words below 1, or no space left.
    """
    if min(general_words, domain_words) < 1:
        raise InputError(
            f"general_words {general_words}, domain_words {domain_words}: give at least 1 word of each"
        )
    data = DemoData(folder / "general.txt", folder / "domain.txt", folder / "valid.txt", folder / "ner")
    rng = random.Random(f"general {seed}")
    _write_documents(data.general, _General(rng), rng, general_words)
    rng = random.Random(f"domain {seed}")
    domain = _Domain(rng)
    _write_documents(data.domain, domain, rng, domain_words)
    _write_documents(data.valid, domain, rng, max(1, round(VALIDATION_SHARE * domain_words)))
    with atomic_dir(data.ner) as temporary_folder:
        for name, count in NER_SENTENCES.items():
            sentences = domain.labelled(held_back=name != "train")
            blocks = ["".join(_rows(next(sentences))) for _ in range(count)]
            (temporary_folder / f"{name}.tsv").write_text("\n".join(blocks), encoding="utf-8", newline="\n")
    return data
