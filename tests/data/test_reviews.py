"""The built-in data set."""

import os
import random
import re
import subprocess
import sys

import pytest

from lightning_adls.data import reviews


def test_the_seed_decides_every_review() -> None:
    assert reviews.make(300, seed=1) == reviews.make(300, seed=1)
    assert reviews.make(300, seed=1) != reviews.make(300, seed=2)


def test_no_two_reviews_are_alike_and_no_test_text_is_trained_on() -> None:
    train, test = ([text for text, _ in reviews.split(name)] for name in ("train", "test"))
    assert len({*train, *test}) == len(train) + len(test) == sum(reviews.SIZES.values())


def test_the_classes_are_balanced() -> None:
    for name in reviews.SIZES:
        labels = [label for _, label in reviews.split(name)]
        assert set(labels) == {0, 1}
        assert 0.47 < sum(labels) / len(labels) < 0.53


def test_both_splits_are_alike() -> None:
    words = [
        sum(len(text.split()) for text, _ in reviews.split(name)) / reviews.SIZES[name]
        for name in ("train", "test")
    ]
    assert abs(words[0] - words[1]) < 0.5


GOOD = {"brilliant", "moving", "gripping", "clever", "charming", "superb"} | {
    *("admired", "enjoyed", "loved", "praised")
}
BAD = {"dull", "clumsy", "tedious", "awful", "predictable", "shallow"} | {
    *("disliked", "hated", "despised", "resented")
}
BESIDE_THE_POINT = {"popcorn", "coffee", "parking", "seat", "queue", "weather", "heating", "hotel"}


def judge(text: str) -> bool:
    """Read a review as a person would, with a word list and the rules of English."""
    sentences = [sentence.lower() for sentence in re.findall(r"[^.]+", text)]
    (sentence,) = [s for s in sentences if opinions(s) and not set(s.split()) & BESIDE_THE_POINT]
    if sentence.endswith("was wrong"):
        return not opinion(sentence.split(" that ")[1].split(",")[0])
    if concession := re.match(r"although ([^,]+), (.+)", sentence):
        return opinion(concession[2])
    deciding = re.split(r", although |, and was right", sentence)[0]
    return opinion(re.split(r", but |; nevertheless, ", deciding)[-1])


def opinions(clause: str) -> list[bool]:
    return [word in GOOD for word in re.findall(r"\w+", clause) if word in GOOD | BAD]


def opinion(clause: str) -> bool:
    """The opinion in a clause; where there are two, they must agree."""
    parts = re.split(r", and |; besides, |, just as ", clause)
    judged = {
        opinions(part)[0] != any(word in part.split() for word in ("not", "never", "hardly"))
        for part in parts
    }
    assert len(judged) == 1, clause
    return judged.pop()


def test_labels_are_what_a_careful_reader_says_but_for_three_per_cent() -> None:
    rows = reviews.make(6000, seed=1)
    wrong = sum(judge(text) != label for text, label in rows) / len(rows)
    assert 0.02 < wrong < 0.04


def test_single_words_do_not_settle_the_label() -> None:
    rows = reviews.make(6000, seed=1)
    agreed = sum((sum(opinions(text)) * 2 > len(opinions(text))) == label for text, label in rows)
    assert 0.6 < agreed / len(rows) < 0.85


@pytest.mark.long
def test_the_tokenizer_is_the_same_in_every_process() -> None:
    code = "from lightning_adls.data import reviews; print(reviews.tokenizer().to_str())"
    # Another order of sets, whatever that of this process is.
    environment = {**os.environ, "PYTHONHASHSEED": str(random.randrange(2**32))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == reviews.tokenizer().to_str()


def test_the_tokenizer_knows_every_review_whole_or_in_pieces() -> None:
    tokenizer = reviews.tokenizer()
    unknown, pieces = tokenizer.token_to_id("[UNK]"), 0
    for text, _ in reviews.split("test"):
        encoded = tokenizer.encode(text)
        assert unknown not in encoded.ids
        assert (encoded.tokens[0], encoded.tokens[-1]) == ("[CLS]", "[SEP]")
        pieces += sum(token.startswith("##") for token in encoded.tokens)
    assert pieces > 500
    assert tokenizer.get_vocab_size() == 1000
    assert tokenizer.encode("##a").tokens[1] == "[UNK]"  # not taken for the piece
