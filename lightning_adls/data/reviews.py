"""The built-in data set: generated film reviews, each with its overall judgement.

It stands in for a downloaded data set where there is no network or no time: made in a fraction of
a second, the same everywhere. Single words do not settle the judgement; a model has to learn that

- a negation turns an opinion round: "The plot was not dull.",
- in a contrast one side wins: "Although the plot was dull, the acting was superb." is praise,
- another's opinion counts only if the writer shares it: "My aunt told me that the music was
  moving, but was wrong.",
- opinions about other things than the film do not count: "The popcorn was awful."

Three per cent of the labels are wrong, so that no model gets them all right.
"""

import random
import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SIZES = {"train": 8000, "test": 2000}
CLASS_NAMES = ["negative", "positive"]  # in the order of the labels

_LABEL_NOISE = 0.03
_VOCABULARY = 1000
_SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

_ASPECTS = (
    *("plot", "acting", "pacing", "music", "script", "ending", "dialogue"),
    *("camerawork", "cast", "editing", "humour", "opening", "scenery", "finale"),
)
_OTHERS = ("popcorn", "coffee", "parking", "seat", "queue", "weather", "heating", "hotel")
_FRIENDS = ("sister", "neighbour", "teacher", "aunt", "dentist", "colleague")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_ADJECTIVES = {
    True: ("brilliant", "moving", "gripping", "clever", "charming", "superb"),
    False: ("dull", "clumsy", "tedious", "awful", "predictable", "shallow"),
}
_VERBS = {
    True: ("admired", "enjoyed", "loved", "praised"),
    False: ("disliked", "hated", "despised", "resented"),
}
_INTENSIFIERS = ("", "", "", "very ", "really ", "truly ", "quite ", "utterly ", "remarkably ")
_NEGATIONS = ("not", "never", "hardly")

# How likely a judgement takes each form; {against} is an opinion that does not decide it. Most
# are plain, so that a few hundred steps of training already learn something.
_FORMS = {
    ("{verdict}",): 60,
    ("{verdict}, and {same}", "{verdict}; besides, {same}", "{verdict}, just as {same}"): 14,
    (
        "although {against}, {verdict}",
        "{verdict}, although {against}",
        "{against}, but {verdict}",
        "{against}; nevertheless, {verdict}",
    ): 20,
    (
        "my {friend} told me that {verdict}, and was right",
        "my {friend} told me that {against}, but was wrong",
        "as my {friend} said, {verdict}",
    ): 6,
}
_FACTS = (
    "it runs for {minutes} minutes",
    "{name} directed it",
    "the story is set in {name}",
    "we saw it on {day}",
    "the {other} was {intensifier}{adjective}",
)


def _name(rng: random.Random) -> str:
    """Make up a name, so that there are words that the tokenizer knows only in pieces."""
    syllables = (rng.choice("bdfgklmnrstv") + rng.choice("aeiou") for _ in range(rng.randint(2, 3)))
    return ("".join(syllables) + rng.choice("nrls")).capitalize()


def _opinion(rng: random.Random, aspect: str, good: bool) -> str:
    """Write a clause for or against one aspect of the film."""
    if rng.random() < 0.3:
        return f"I {rng.choice(_VERBS[good])} the {aspect}"
    if rng.random() < 0.25:
        return f"the {aspect} was {rng.choice(_NEGATIONS)} {rng.choice(_ADJECTIVES[not good])}"
    return f"the {aspect} was {rng.choice(_INTENSIFIERS)}{rng.choice(_ADJECTIVES[good])}"


def _judgement(rng: random.Random, good: bool) -> str:
    aspect, other = rng.sample(_ASPECTS, 2)
    (forms,) = rng.choices(list(_FORMS), list(_FORMS.values()))
    return rng.choice(forms).format(
        verdict=_opinion(rng, aspect, good),
        same=_opinion(rng, other, good),
        against=_opinion(rng, other, not good),
        friend=rng.choice(_FRIENDS),
    )


def _fact(rng: random.Random) -> str:
    """Write a clause that says nothing about how good the film is."""
    return rng.choice(_FACTS).format(
        minutes=rng.randint(75, 180),
        name=_name(rng),
        day=rng.choice(_DAYS),
        other=rng.choice(_OTHERS),
        intensifier=rng.choice(_INTENSIFIERS),
        adjective=rng.choice(_ADJECTIVES[rng.random() < 0.5]),
    )


def _review(rng: random.Random) -> tuple[str, int]:
    good = rng.random() < 0.5
    facts = [_fact(rng) for _ in range(rng.choice((0, 0, 0, 0, 1, 1, 2)))]
    judgement = _judgement(rng, good)
    sentences = [judgement, *facts] if rng.random() < 0.75 else [*facts, judgement]
    text = " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)
    return text, int(good != (rng.random() < _LABEL_NOISE))


def make(rows: int, seed: int) -> list[tuple[str, int]]:
    """Generate reviews, no two alike.

    Args:
        rows: How many; 10,000 take 0.3 s.
        seed: Decides all of them.

    Returns:
        Text and label of each; 0 is negative, 1 is positive.

    Example:
        >>> make(1, seed=37)
        [('Although the humour was brilliant, the editing was remarkably dull.', 0)]
    """
    rng = random.Random(seed)
    labels: dict[str, int] = {}
    while len(labels) < rows:
        labels.setdefault(*_review(rng))
    made = list(labels.items())
    rng.shuffle(made)  # short reviews are soon used up, so the later ones are longer
    return made


def split(name: str) -> list[tuple[str, int]]:
    """Generate the split ``"train"`` or ``"test"``; no text is in both."""
    made = make(sum(SIZES.values()), seed=0)
    return made[: SIZES["train"]] if name == "train" else made[SIZES["train"] :]


def tokenizer() -> "Tokenizer":
    """Train a lower-case word-piece tokenizer, with BERT's special tokens, on the training split.

    Returns:
        The same in every process, of 1000 tokens.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # The trainer numbers pieces in the order of a hash table and breaks ties by number. Naming
    # the pieces of one letter beforehand leaves nothing to chance.
    letters = list(string.ascii_lowercase + string.digits)
    trainer = trainers.WordPieceTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[*_SPECIAL_TOKENS, *(f"##{letter}" for letter in letters)],
        initial_alphabet=letters,
        show_progress=False,
    )
    made.train_from_iterator((text for text, _ in split("train")), trainer)
    # Made anew of the vocabulary, in which the pieces of one letter are no special tokens.
    pieces = Tokenizer(models.WordPiece(made.get_vocab(), unk_token="[UNK]"))
    pieces.normalizer, pieces.pre_tokenizer = made.normalizer, made.pre_tokenizer
    pieces.add_special_tokens(_SPECIAL_TOKENS)
    pieces.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return pieces
