"""Asking the Hugging Face hub, without minutes of waiting for one that cannot be reached."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import Thread

_ANSWER_SECONDS = 5
_REMEMBERED_SECONDS = 60  # a run asks for data, tokenizer and network one after the other


@contextmanager
def asking_hub() -> Iterator[str]:
    """Let a block ask the hub; where no network leads to it, only its cache on this machine.

    Each package of Hugging Face goes on trying for up to a minute. So the hub is asked for a sign
    of life first. Where none comes they are told that they are offline: they take what was
    downloaded earlier, or fail at once.

    Yields:
        Why the hub cannot be asked, for an error message, or an empty string.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        yield "HF_HUB_OFFLINE is set"
    elif _answers(constants.ENDPOINT, int(time.monotonic() // _REMEMBERED_SECONDS)):
        yield ""
    else:
        constants.HF_HUB_OFFLINE = True
        try:
            yield f"no network leads to {constants.ENDPOINT}"
        finally:
            constants.HF_HUB_OFFLINE = False


@lru_cache(maxsize=1)
def _answers(endpoint: str, _minute: int) -> bool:
    """Whether anybody answers there; ``_minute`` is there to ask again some time later."""
    answers = []

    def ask() -> None:
        from huggingface_hub import get_session

        try:  # by the hub's own client: the user may have given it a proxy or a certificate
            get_session().head(endpoint, timeout=_ANSWER_SECONDS)
        except Exception:
            return
        answers.append(endpoint)

    # A thread, because no timeout bounds the look-up of a name; it may be left behind.
    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_ANSWER_SECONDS + 1)
    return bool(answers)


def one_line(error: Exception) -> str:
    """What an error of Hugging Face says, which is often several lines."""
    return " ".join(str(error).split())
