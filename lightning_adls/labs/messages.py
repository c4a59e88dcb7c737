"""What jsonargparse says of a command line, in the words of who wrote it."""

import re
import sys
from collections.abc import Iterator
from inspect import signature
from typing import Any

from jsonargparse import ArgumentParser

from lightning_adls.errors import InputValueError, did_you_mean
from lightning_adls.labs.network import imported

_KEY = re.compile(r'Parser key "([\w.]+)": ?')
_NO_PATH = re.compile(r"- Expected a path but .*? either not accessible or invalid - ")
_KIND = re.compile(r"Expected an? <class '(\w+)'>\. Got value: (.*)")
_KINDS = {"int": "whole number", "float": "number", "bool": "truth value (true or false)"}
_CHOICE = re.compile(r"Expected a typing\.Literal\[(.*?)\]")
_LITERAL = re.compile(r"Expected a typing\.Literal\[(.*?)\]\. Got value: (.*)")
# What makes an object, where a function of the class would do.
_FACTORY = re.compile(
    r"Type <class '[\w.]+'> expects a function or a callable class: (.*?)\. "
    r"Got value: Namespace\(class_path='([\w.]+)'.*"
)
# What makes an object, where nothing has the name.
_NOTHING = re.compile(
    r"Type <class '[\w.]+'> expects a function or a callable class: module '([\w.]+)' has no "
    r"attribute '(\w+)'\. Got value: \S+"
)
_UNION = re.compile(
    r"Does not validate against any of the Union subtypes Subtypes: \[(?P<kinds>.*?)\] "
    r"Errors: (?P<errors>.*) Given value type: <class '[\w.]+'> Given value: (?P<value>.*)$"
)
_EXPECTED = re.compile(r"- Expected (a )?<class '\w+'> ?")
# A class that refuses an argument, and names that nothing has.
_CLASS = re.compile(r"Problem with given class_path '([\w.]+)': ?")
_UNKNOWN = re.compile(r"(unrecognized arguments: --|[Oo]ption ')([\w.]+)")


def readable(message: str, parser: ArgumentParser) -> str:
    """The message in one line, with what was probably meant.

    Args:
        message: Of an error of the parser.
        parser: Whose options there are.
    """
    text = _NO_PATH.sub("", " ".join(message.split()))
    text = _FACTORY.sub(r"Problem with given class_path '\2': \1", text)
    if union := _UNION.search(text):
        kinds = union["kinds"].replace("<class 'NoneType'>", "null").replace(", ", " or ")
        others = _EXPECTED.sub("", union["errors"]).strip(" -")
        if choice := _CHOICE.fullmatch(others):
            others = _none_of(choice[1], union["value"])
        text = text[: union.start()] + (others or f"{union['value']!r} is not {kinds}")
        if kinds.startswith("list[") and not others:
            text += f"; write '[{union['value']}]'"
    text = _NOTHING.sub(_no_such_class, text)
    text = _LITERAL.sub(
        lambda found: _none_of(*found.groups()), _KIND.sub(_no_such_kind, _KEY.sub(r"--\1: ", text))
    )
    if unknown := _UNKNOWN.search(text):
        dashes = "--" if "unrecognized" in unknown[1] else ""
        known = [dashes + name for name in _names(parser, text, unknown[2])]
        text += did_you_mean(dashes + unknown[2], known)
    if "dot import path" in text:
        # It says what it tried, and not what would be right.
        text += "; a class is named by its path, such as optuna.samplers.TPESampler"
    text = _CLASS.sub(r"\1: ", text)
    return text if text.endswith(("?", ".")) else f"{text}."


def _no_such_kind(found: re.Match[str]) -> str:
    kind, value = found.groups()
    text = f"{value!r} is no {_KINDS.get(kind, kind)}"
    return f"{text}; write '[{value.strip('[]')}]' in quotes" if kind == "list" else text


def _none_of(known: str, value: str) -> str:
    meant = did_you_mean(value, known.replace("'", "").split(", "))
    return f"{value!r} is none of {known}{meant}"


def _no_such_class(found: re.Match[str]) -> str:
    module, name = found.groups()
    meant = did_you_mean(name, dir(sys.modules.get(module)))
    return f"{module} has no {name}{meant}"


def _names(parser: Any, text: str, wrong: str) -> Iterator[str]:
    """What may have been meant: parameters of the class that refuses, or options."""
    for class_path in _CLASS.findall(text):
        try:
            yield from signature(imported(class_path)).parameters
        except (InputValueError, TypeError, ValueError):
            continue
    options = [action.dest for action in parser._actions]
    for subparser in getattr(parser._subcommands_action, "choices", None) or {}:
        options += [a.dest for a in parser._subcommands_action.choices[subparser]._actions]
    yield from options
    if "." not in wrong:
        yield from (option.rpartition(".")[2] for option in options)
