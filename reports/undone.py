"""Training that did harm and was undone."""

from reports import cells
from reports.rows import Report, unique_rows
from reports.text import row_name

_TRAININGS = {"finetune_undone": "fine-tuning", "qat_undone": "quantization-aware training"}


def undone_list(report: Report) -> str:
    """Every training that was undone, as markdown; empty where none was."""
    rows = unique_rows(report)
    lines = [
        f"- {cells.escape(row_name(row))}: {name} lost Top-1 on training images and was undone; the figures are those "
        "without it. Another --lr, or more --epochs, may help."
        for row in rows
        for field, name in _TRAININGS.items()
        if row.get(field)
    ]
    return "\n".join(lines)
