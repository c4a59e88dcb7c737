"""A database that may be away for a while: what a lost connection interrupts is done again."""

import copy
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from uuid import uuid4

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, _CachedStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from lightning_adls.errors import InputValueError

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError

RETRY_SECONDS = 300.0  # how long a database may be away
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 5.0
_MARK = "created"  # tells apart trials that one call has made
_logger = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class StorageLostError(InputValueError):
    """A database was away for too long."""


def _insisting(
    method: Callable[Concatenate[Any, Arguments], Result],
) -> Callable[Concatenate[Any, Arguments], Result]:
    """A method that may be called again, because doing the same twice is doing it once."""

    @wraps(method)
    def insist(self: Any, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        result: Result = self.insist(partial(method, self, *args, **kwargs))
        return result

    return insist


class ReconnectingStorage(_CachedStorage):
    """Optuna's storage in a database, which waits for a lost connection, five minutes at most.

    Each call is done again until it succeeds, with growing pauses. It may have succeeded before, if
    only the answer was lost: writing the same value or attribute twice changes nothing, a trial
    that was finished so is found finished, and a trial that was made twice is closed once.

    After five minutes in vain later calls are tried once: who ends by it, or by Ctrl-C, ends soon.

    Args:
        backend: The database.
        shown: Its URL without the password, for messages.

    Raises:
        StorageLostError: By each method, after five minutes.
        InputValueError: By each method, at once, if the database refuses it: rights are missing, or
            tables.
    """

    def __init__(self, backend: RDBStorage, shown: str) -> None:
        super().__init__(backend)
        self._shown = shown
        self._given_up = False
        self._away = False

    get_study_id_from_name = _insisting(_CachedStorage.get_study_id_from_name)
    get_study_name_from_id = _insisting(_CachedStorage.get_study_name_from_id)
    get_study_directions = _insisting(_CachedStorage.get_study_directions)
    get_study_user_attrs = _insisting(_CachedStorage.get_study_user_attrs)
    get_study_system_attrs = _insisting(_CachedStorage.get_study_system_attrs)
    get_all_studies = _insisting(_CachedStorage.get_all_studies)
    get_trial = _insisting(_CachedStorage.get_trial)
    get_all_trials = _insisting(_CachedStorage.get_all_trials)
    get_best_trial = _insisting(_CachedStorage.get_best_trial)
    get_trial_id_from_study_id_trial_number = _insisting(
        _CachedStorage.get_trial_id_from_study_id_trial_number
    )
    # A study that was made by the first attempt is a duplicate to the second, which who makes
    # studies has to expect anyway.
    create_new_study = _insisting(_CachedStorage.create_new_study)
    set_study_user_attr = _insisting(_CachedStorage.set_study_user_attr)
    set_study_system_attr = _insisting(_CachedStorage.set_study_system_attr)
    set_trial_param = _insisting(_CachedStorage.set_trial_param)
    set_trial_intermediate_value = _insisting(_CachedStorage.set_trial_intermediate_value)
    set_trial_user_attr = _insisting(_CachedStorage.set_trial_user_attr)
    set_trial_system_attr = _insisting(_CachedStorage.set_trial_system_attr)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Make one trial, whatever the number of attempts, of which Optuna makes some itself."""
        mark = uuid4().hex
        template = copy.deepcopy(template_trial) or create_trial(state=TrialState.RUNNING)
        template.system_attrs = {**template.system_attrs, _MARK: mark}
        made = self.insist(partial(super().create_new_trial, study_id, template))
        for trial in self.get_all_trials(study_id, deepcopy=False):
            again = trial.system_attrs.get(_MARK) == mark and trial._trial_id != made
            if again and not trial.state.is_finished():
                self.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        return made

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Finish a trial; that it was finished so by an earlier attempt is no error."""
        finish = partial(super().set_trial_state_values, trial_id, state, values)

        def again() -> bool:
            try:
                return finish()
            except UpdateFinishedTrialError:
                stored = self._backend.get_trial(trial_id)
                if stored.state != state or stored.values != (values and list(values)):
                    raise
                return True

        return self.insist(finish, again)

    def close(self) -> None:
        """Close the connections; whoever goes on gets new ones."""
        self._backend.engine.dispose()

    def insist(
        self, act: Callable[[], Result], again: Callable[[], Result] | None = None
    ) -> Result:
        """Do what a lost connection may interrupt until it is done.

        Args:
            act: The first attempt.
            again: The later ones, which may find it done already; ``act`` if None.

        Raises:
            StorageLostError: After five minutes.
            InputValueError: If the database refuses it.
        """
        begun = time.monotonic()
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                result = act()
            except Exception as error:
                cause = _cause(error)
                if cause is None:
                    raise
                if not _passes(cause):
                    raise InputValueError(
                        f"open_storage: {self._shown} refuses what is asked of it: "
                        f"{reason_of(cause)}."
                    ) from error
                self._wait(begun, pause, reason_of(cause), error)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                act = again or act
            except BaseException:  # Ctrl-C: nobody waits for what is yet to be written
                self._given_up = True
                raise
            else:
                if self._away:
                    self._away = False
                    _logger.warning("%s is back.", self._shown)
                return result

    def _wait(self, begun: float, pause: float, reason: str, error: Exception) -> None:
        if self._given_up or time.monotonic() - begun > RETRY_SECONDS:
            self._given_up = True
            raise StorageLostError(
                f"open_storage: {self._shown} has been away for {RETRY_SECONDS:g} s: {reason}; "
                "all that was stored is there when it is back, and the same command continues."
            ) from error
        if not self._away:
            self._away = True
            _logger.warning(
                "%s is away (%s); trying again for %g s.", self._shown, reason, RETRY_SECONDS
            )
        try:
            time.sleep(pause)
        except BaseException:
            self._given_up = True
            raise


def reason_of(error: BaseException) -> str:
    """What a database says, in one line."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    # The other lines are the statement, advice and links.
    return str(getattr(error, "orig", None) or error).strip().partition("\n")[0]


def _cause(error: Exception) -> "DBAPIError | None":
    """What is wrong with the database; None where it is with the values to be stored, or else."""
    from sqlalchemy.exc import DatabaseError, DataError, IntegrityError, InterfaceError

    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if isinstance(cause, DataError | IntegrityError):
        return None
    return cause if isinstance(cause, DatabaseError | InterfaceError) else None


def _passes(cause: "DBAPIError") -> bool:
    """Whether to try again; what is left are missing rights and missing tables."""
    from sqlalchemy.exc import InterfaceError, OperationalError

    if isinstance(cause.orig, sqlite3.Error):
        return "locked" in str(cause.orig)  # else the file itself is what is wrong
    # PEP 249: an operational error is not under the control of who wrote the program.
    return cause.connection_invalidated or isinstance(cause, OperationalError | InterfaceError)
