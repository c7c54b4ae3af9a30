"""List the trainings of a report: the epoch whose weights were kept, and the loss on held-out training images."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from reports.model import Report, Row
from reports.rows import unique_rows
from reports.text import row_name, settings_name


class _Training(NamedTuple):
    row: Row
    name: str
    undone: bool
    fault: str | None
    epoch: int | None
    epochs: int
    before: float | None
    after: float | None


def kept_trainings(report: Report) -> list[str]:
    """Describe every training whose weights were kept; rows that share one have one sentence."""
    kept = [each for each in _trainings(report) if each.epoch]
    return _described(kept, lambda each: f"{each.name} kept epoch {each.epoch} of {each.epochs}{_losses(each)}.")


def rolled_back_trainings(report: Report) -> list[str]:
    """Describe every training that was rolled back; rows that share one have one sentence."""
    return _described(
        [each for each in _trainings(report) if each.undone],
        lambda each: (
            f"{each.name} {each.fault or 'did not lower the loss on held-out training images enough'}, so it "
            f"was rolled back{_losses(each)}. The figures are of the network before it."
        ),
    )


def _described(trainings: Sequence[_Training], words: Callable[[_Training], str]) -> list[str]:
    """Return the words on each training after the names of its rows, which differ only in bits or target."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for each in trainings:
        row = each.row
        found.setdefault((row.basis, row.config, settings_name(row.settings), words(each)), []).append(row)
    return [f"{row_name(*rows)}: {key[-1]}" for key, rows in found.items()]


def _trainings(report: Report) -> Iterator[_Training]:
    for row in unique_rows(report):
        yield _Training(
            row,
            "training through the rounding" if row.has_target else "fine-tuning",
            row.finetune_undone,
            row.finetune_fault,
            row.finetune_epoch,
            row.epochs,
            row.finetune_loss_before,
            row.finetune_loss_after,
        )
        yield _Training(
            row,
            "quantization-aware training",
            row.qat_undone,
            None,
            row.qat_epoch,
            row.qat_epochs,
            row.qat_loss_before,
            row.qat_loss_after,
        )


def _losses(training: _Training) -> str:
    if training.before is None or training.after is None:
        return ""
    if training.undone:
        return f" (held-out loss {training.before:.4f})"
    return f" (held-out loss {training.before:.4f} before, {training.after:.4f} after)"
