"""A training on the screen: bars, or where there is no terminal a line now and then.

Workers draw nothing, and say how far they are to who draws for them.
"""

from time import monotonic
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lightning_adls.callbacks.progress import progress_of
from lightning_adls.devices import StaysHere
from lightning_adls.engines import Channel

_LINE_SECONDS = 10.0  # from one line to the next
_TELL_SECONDS = 0.5


class TrainingBar(StaysHere, L.Callback):
    """Shows how many steps of a training are done, and the accuracy of the last validation.

    Lightning's own bars count epochs, which a budget in steps has not.

    Args:
        name: What is trained.
        console: Where it is drawn.
    """

    def __init__(self, name: str, console: Console | None = None) -> None:
        self._name = name
        self._console = console or Console()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TextColumn("{task.fields[accuracy]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the bar."""
        self._task = self._bar.add_task(self._name, total=progress_of(trainer)[1], accuracy="")
        self._bar.start()
        self._said = monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Move it on."""
        self._bar.update(self._task, completed=progress_of(trainer)[0])

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show the accuracy."""
        if trainer.sanity_checking:
            return
        accuracy = f"val acc. {float(trainer.callback_metrics['val/accuracy']):.4f}"
        self._bar.update(self._task, accuracy=accuracy)
        if not self._console.is_terminal and monotonic() - self._said >= _LINE_SECONDS:
            self._said = monotonic()
            done, total = progress_of(trainer)
            line = f"{self._name}: {done:.0f} of {total:.0f} steps, {accuracy}"
            self._console.print(line, highlight=False)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the bar away."""
        self._bar.stop()

    def on_exception(self, *_: Any) -> None:
        """Take the bar away."""
        self._bar.stop()


class TellsProgress(StaysHere, L.Callback):
    """Says which share of a training is done, 0 to 1, not more often than anyone can see.

    Args:
        channel: From the worker that trains to who shows it.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel, self._said = channel, monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Say it."""
        if (now := monotonic()) - self._said >= _TELL_SECONDS:
            self._said = now
            done, total = progress_of(trainer)
            self._channel.tell(done / total)


class EpochBar(RichProgressBar):
    """Lightning's bar without the last letters of the run's name, and without an epoch -2."""

    def get_metrics(self, *args: Any) -> dict[str, Any]:
        """What stands beside the bar."""
        return {
            name: value for name, value in super().get_metrics(*args).items() if name != "v_num"
        }

    def _get_train_description(self, current_epoch: int) -> str:
        # Where max_steps is the limit, it takes max_epochs=-1 for a number.
        return super()._get_train_description(current_epoch).replace("/-2", "")
