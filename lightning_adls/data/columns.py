"""One split as it was read, and its columns of texts and labels, checked."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from lightning_adls.errors import InputValueError


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


def _column(table: Table, argument: str, column: str) -> Any:
    if column not in table.rows.column_names:
        raise InputValueError(
            f"TextData: {argument}={column!r} is no column of {table.where}; "
            f"its columns are {table.rows.column_names}."
        )
    if not table.rows.num_rows:
        raise InputValueError(f"TextData: dataset={table.where} has no rows.")
    values = table.rows[column].combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    missing = pc.is_null(values, nan_is_null=True)
    if _is_text(values) and argument == "label":  # a csv file has no other way to leave it out
        missing = pc.or_(missing, pc.equal(values, ""))
    if pc.any(missing).as_py():
        raise InputValueError(
            f"TextData: {argument}={column!r} is missing in row {missing.index(True).as_py()} of "
            f"{table.where}, counted from 0; fill it in or leave the row out."
        )
    return values


def _is_text(values: Any) -> bool:
    return bool(pa.types.is_string(values.type) or pa.types.is_large_string(values.type))


def text_column(table: Table, column: str) -> Any:
    """Get the texts of a split as an Arrow array, or say what is wrong with them.

    Raises:
        ValueError: If the column or a text is missing, or the column does not hold strings.
    """
    values = _column(table, "text", column)
    if not _is_text(values):
        raise InputValueError(
            f"TextData: text={column!r} of {table.where} holds {values.type}, not strings; "
            f"the columns are {table.rows.column_names}."
        )
    return values


def label_column(
    table: Table, column: str, trained: list[str] | None = None
) -> tuple[Tensor, list[str]]:
    """Get the classes of a split, numbered from 0, and their names.

    Args:
        table: The split.
        column: Integers 0 to classes - 1, or strings, which are numbered in sorted order.
        trained: Names of the classes in the training split, if this is another one.

    Returns:
        Labels, int64, shape ``(rows,)``, and the class names.

    Raises:
        ValueError: If the column or a label is missing, or a label is none of the classes.
    """
    values = _column(table, "label", column)
    where = f"TextData: label={column!r} of {table.where}"
    if _is_text(values):
        names = trained or sorted(set(values.to_pylist()))
        if unseen := sorted(set(values.to_pylist()) - set(names)):
            raise InputValueError(f"{where} has {unseen[:5]}, which train lacks; it has {names}.")
        labels = pc.index_in(values, pa.array(names)).to_numpy()
    else:
        labels = values.to_numpy(zero_copy_only=False)
        names = _integer_classes(labels, table.class_names.get(column), trained, where)
    if len(names) < 2:
        raise InputValueError(
            f"{where} is {names[0]!r} in every row; a classifier needs two classes."
        )
    return torch.from_numpy(labels.astype(np.int64)), names


def _integer_classes(
    labels: Any, declared: list[str] | None, trained: list[str] | None, where: str
) -> list[str]:
    """Check labels that are numbers, and name their classes."""
    if labels.dtype.kind not in "iubf" or (labels != labels.astype(np.int64)).any():
        raise InputValueError(f"{where} holds {labels.dtype} values; use whole numbers or strings.")
    found = np.unique(labels.astype(np.int64)).tolist()
    if found == [-1]:
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
