"""Where a fit is in its data, and how a resumed one goes on from exactly there.

Lightning (2.6) counts epochs wrong when it resumes at the end of one, leaves out the validation
that follows a step whose checkpoint it loads, and drops the state of dataloaders that somebody
asked for too early. This is mended here, once its loops are restored and before the first batch.
"""

from typing import Any

import lightning as L
from lightning.pytorch.loops.evaluation_loop import RestartStage as ValidationStage
from lightning.pytorch.loops.fit_loop import RestartStage as EpochStage
from lightning.pytorch.loops.training_epoch_loop import RestartStage as BatchStage


def place_of(loop: Any) -> tuple[int, int]:
    """The epoch and the batch within it that a fit takes next, both from 0."""
    epochs, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress
    unfinished, batch = _in_epoch(loop), batches.current.processed
    if _epoch_is_out_of_batches(loop):
        return epochs.processed + unfinished, 0
    # A fit that max_steps ended within an epoch counts it as processed, with the batches it took.
    return epochs.processed - (batch > 0 and not unfinished), batch


def settle(trainer: L.Trainer) -> None:
    """Let a resumed fit go on as it would have done without the interruption.

    Called in ``on_train_start``. A fit that is not resumed is left alone, as is one that was
    settled before. Afterwards ``trainer.fit_loop.is_resuming`` tells whether it goes on within an
    epoch.
    """
    loop: Any = trainer.fit_loop  # its counters are typed by their base class
    if not loop.is_resuming:
        return
    _undo_early_end(loop)
    if states := loop._combined_loader_states_to_load:
        # Somebody asked for `estimated_stepping_batches` before they were there, or an epoch is
        # over: samplers still go on with the generators that the states hold.
        assert loop._combined_loader is not None
        loop._combined_loader._load_state_dicts(states)
        loop._combined_loader_states_to_load = []
        iter(loop._data_fetcher or ())
    if _in_epoch(loop):
        _finish_step(loop)
    elif loop.epoch_loop.batch_idx < 0 or _epoch_is_out_of_batches(loop):
        _begin_next_epoch(loop)
    else:
        _reopen_epoch(loop)


class Settling(L.Callback):
    """Settles resumed fits; a data module brings it along."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Mend what Lightning restored."""
        settle(trainer)


def _in_epoch(loop: Any) -> bool:
    epochs = loop.epoch_progress.current
    return bool(epochs.started > epochs.processed)


def _epoch_is_out_of_batches(loop: Any) -> bool:
    batches = loop.epoch_loop.batch_progress
    return bool(batches.is_last_batch and batches.current.ready == batches.current.processed)


def _undo_early_end(loop: Any) -> None:
    """After the last step of an epoch Lightning would skip its validation and its end."""
    steps = loop.epoch_loop
    after_step = loop.restarted_mid_epoch and steps.restarted_on_train_batch_end
    if after_step and steps.batch_progress.is_last_batch and not _in_epoch(loop):
        for count in (loop.epoch_progress.total, loop.epoch_progress.current):
            count.processed -= 1
            count.completed -= 1


def _finish_step(loop: Any) -> None:
    """Do what was left to do after the last batch: a validation, the end of the epoch."""
    steps, last = loop.epoch_loop, _epoch_is_out_of_batches(loop)
    assert loop._data_fetcher is not None
    due = steps._should_check_val_fx(loop._data_fetcher)
    if steps.restarted_on_train_batch_end and (last or due):
        steps.batch_progress.increment_completed()
        steps._restart_stage = BatchStage.RESTARTED_ON_LAST
        if due:
            # "Go back and run the validation", from its beginning.
            steps.val_loop._restart_stage = ValidationStage.RESTARTED_MID_EVALUATION
            steps.val_loop.restarting = False
    if last and not due:
        # Else the loop would take one batch too many before it sees that the epoch is over.
        loop._data_fetcher.iterator = iter(())


def _begin_next_epoch(loop: Any) -> None:
    """Count all epochs that were begun as done; the next begins, iterators included, as ever."""
    for count in (loop.epoch_progress.total, loop.epoch_progress.current):
        count.ready = count.started = count.completed = count.processed
    loop.reset_restart_stage()
    loop.epoch_loop.restarting = False
    loop._resuming_from_checkpoint = False


def _reopen_epoch(loop: Any) -> None:
    """Go on within an epoch that the end of the fit cut short."""
    for count in (loop.epoch_progress.total, loop.epoch_progress.current):
        count.processed -= 1
        count.completed = count.processed
    loop._restart_stage = EpochStage.RESTARTED_MID_EPOCH
    loop._restarting = loop.epoch_loop.restarting = True
    loop.epoch_loop.update_restart_stage()
