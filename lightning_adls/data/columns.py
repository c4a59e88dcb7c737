"""One split as it was read, and its columns of texts and labels, checked."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from lightning_adls.errors import InputValueError

UNLABELLED = -1  # in place of the class of a text that has none, as data sets of the hub write it


@dataclass(frozen=True)
class Table:
    """One split as it was read.

    Args:
        rows: A ``pyarrow.Table``.
        where: Its name in messages.
        class_names: Names of the classes of integer columns, where the source knows them.
    """

    rows: Any
    where: str
    class_names: dict[str, list[str]] = field(default_factory=dict)


def plain(rows: Any) -> Any:
    """A ``pyarrow.Table`` of the same values, all of whose strings are of one kind.

    Arrow has ``string``, ``large_string`` and ``string_view``, and columns may be encoded as
    dictionaries or runs of them. Few of its functions know all of that, and tables whose columns
    differ in it cannot be put together.
    """
    columns = [
        pa.chunked_array([_plain(chunk) for chunk in column.chunks], _plain_type(column.type))
        for column in rows.columns
    ]
    return pa.table(columns, names=rows.column_names)


def _plain_type(kind: Any) -> Any:
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_string_view(kind):
        return pa.large_string()
    return kind


def _plain(values: Any) -> Any:
    if pa.types.is_run_end_encoded(values.type):
        values = pc.run_end_decode(values)
    if pa.types.is_dictionary(values.type):
        # The entries first: a dictionary of string views has no way to be decoded.
        return _plain(values.dictionary).take(values.indices)
    return values.cast(_plain_type(values.type))


def _column(table: Table, argument: str, column: str) -> Any:
    names = table.rows.column_names
    if column not in names:
        raise InputValueError(
            f"TextData: {argument}={column!r} is no column of {table.where}; its columns are "
            f"{names}."
        )
    if names.count(column) > 1:
        raise InputValueError(
            f"TextData: {argument}={column!r} is the name of {names.count(column)} columns of "
            f"{table.where}; its columns are {names}, so rename all but one."
        )
    if not table.rows.num_rows:
        raise InputValueError(f"TextData: dataset={table.where} has no rows.")
    try:
        values = plain(table.rows.select([column]))[column].combine_chunks()
        values.validate(full=True)
    except pa.ArrowInvalid as error:  # not in UTF-8, which Arrow takes the writer's word for
        raise InputValueError(
            f"TextData: {argument}={column!r} of {table.where} is damaged or not in UTF-8 "
            f"({error}); write the file anew."
        ) from error
    return values


def _refuse_missing(missing: Any, table: Table, argument: str, column: str) -> None:
    if pc.any(missing).as_py():
        raise InputValueError(
            f"TextData: {argument}={column!r} is missing in row {missing.index(True).as_py()} of "
            f"{table.where}, counted from 0; fill it in or leave the row out."
        )


def text_column(table: Table, column: str) -> Any:
    """Get the texts of a split as an Arrow array of ``large_string``.

    Raises:
        ValueError: If the column or a text is missing, or the column does not hold strings.
    """
    values = _column(table, "text", column)
    _refuse_missing(pc.is_null(values), table, "text", column)
    if not pa.types.is_large_string(values.type):
        raise InputValueError(
            f"TextData: text={column!r} of {table.where} holds {values.type}, not strings; "
            f"the columns are {table.rows.column_names}."
        )
    return values


def label_column(
    table: Table, column: str, trained: list[str] | None = None, *, needed: bool = True
) -> tuple[Tensor, list[str]]:
    """Get the classes of a split, numbered from 0, and their names.

    Args:
        table: The split.
        column: Integers 0 to classes - 1, or strings, which are numbered in sorted order; blanks
            around them do not count.
        trained: Names of the classes in the training split, if this is another one; none where
            there is no such split, so that nobody knows the number of a class.
        needed: Whether every row must have a label. Else the column may be missing, and so may
            single labels.

    Returns:
        Labels, int64, shape ``(rows,)``, with ``UNLABELLED`` where there is none, and the class
        names.

    Raises:
        ValueError: If a label is none of the classes, or one that is needed is missing.
    """
    if not needed and (trained == [] or column not in table.rows.column_names):
        return torch.full((table.rows.num_rows,), UNLABELLED), trained or []
    values = _column(table, "label", column)
    if pa.types.is_large_string(values.type):
        values = pc.utf8_trim_whitespace(values)
        missing = pc.or_kleene(pc.is_null(values), pc.equal(values, ""))
    else:
        missing = pc.is_null(values, nan_is_null=True)
    if needed:
        _refuse_missing(missing, table, "label", column)
    elif pa.types.is_signed_integer(values.type) or pa.types.is_floating(values.type):
        missing = pc.or_(missing, pc.fill_null(pc.equal(values, UNLABELLED), False))
    labels = torch.full((len(values),), UNLABELLED)
    present = pc.invert(missing)
    there = torch.tensor(present.to_numpy(zero_copy_only=False))
    if not there.any():
        return labels, trained or []
    found, names = _classes(values.filter(present), table, column, trained)
    labels[there] = torch.from_numpy(found)
    return labels, names


def _classes(
    values: Any, table: Table, column: str, trained: list[str] | None
) -> tuple[Any, list[str]]:
    """Number labels none of which is missing, and name their classes."""
    where = f"TextData: label={column!r} of {table.where}"
    if pa.types.is_large_string(values.type):
        names = trained or sorted(set(values.to_pylist()))
        if unseen := sorted(set(values.to_pylist()) - set(names)):
            raise InputValueError(f"{where} has {unseen[:5]}, which train lacks; it has {names}.")
        labels = pc.index_in(values, pa.array(names, pa.large_string())).to_numpy()
    else:
        labels = values.to_numpy(zero_copy_only=False)
        names = _integer_classes(labels, table.class_names.get(column), trained, where)
    if len(names) < 2:
        raise InputValueError(
            f"{where} is {names[0]!r} in every row; a classifier needs two classes."
        )
    return labels.astype(np.int64), names


def _integer_classes(
    labels: Any, declared: list[str] | None, trained: list[str] | None, where: str
) -> list[str]:
    """Check labels that are numbers, and name their classes."""
    if labels.dtype.kind not in "iubf" or (labels != labels.astype(np.int64)).any():
        raise InputValueError(f"{where} holds {labels.dtype} values; use whole numbers or strings.")
    found = np.unique(labels.astype(np.int64)).tolist()
    if found == [UNLABELLED]:
        raise InputValueError(
            f"{where} is -1 in every row: the split seems to be unlabelled. Name another one, "
            "such as test_split='validation'."
        )
    names = declared or trained or [str(value) for value in range(len(found))]
    if trained and not declared and trained != [str(value) for value in range(len(trained))]:
        raise InputValueError(f"{where} holds numbers, but train holds the strings {trained}.")
    if outside := [value for value in found if not 0 <= value < len(names)]:
        raise InputValueError(
            f"{where} has {outside[:5]}, outside 0..{len(names) - 1}; number the "
            f"{len(names)} classes from 0 without gaps, or use strings."
        )
    return names
