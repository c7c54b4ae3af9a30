"""Definitions of the terms in a report, and the notes that its tables need."""

from reports.model import Report
from reports.rows import baseline, fine_tuned
from reports.summary import SIGNIFICANT
from reports.verdict import baseline_interval

INFERENCE_NOTE = (
    "Median time for one image on the run's device and threads, measured in turns. A loaded artifact has ordinary "
    "dense convolutions, so it takes about as long as the original: the file is smaller, not the arithmetic."
)

_DEFINITIONS = (
    "**Top1** is the share of test images whose top prediction is correct, in percent. In the quantization table it is "
    "the Top-1 of the network before quantization. **Quant. Top1** is the Top-1 of the written file. **Top5** counts "
    "an image whose class is among the top five predictions.",
    "**Δ** is a difference in percentage points. **Δ baseline** is the change of the written file's Top-1 against the "
    "baseline. **Δ quant.** is the change by quantization alone, against the same network in float. In the table of "
    "networks in float, **Δ** is against the baseline.",
    "**Times smaller** is the size of the baseline's file divided by the size of the file.",
    "**#Params** counts every parameter outside normalization layers, with coefficients in place of kernels. **%** is "
    "the share of the baseline's #Params. **#Comp. params** counts only what the method can compress.",
    "**MB** is 10^6 bytes. **Model size** is the size of the written file; the baseline's values are 32-bit. "
    "**Poster's formula** is #Params x (bits + 8) / 8 / 10^6. It counts the poster's floating-point format and is not "
    "the size of a file.",
    "**Conv2D** or dense is the network without series. A **config** lists the order kept in each stage. FracSRF and "
    "Fractional have no orders, and **all** means every spatial convolution.",
    "A dash stands for a figure that was not measured. A slash separates the figures of several bases if they differ.",
)


def definitions(report: Report) -> list[str]:
    """Return one text for each term in the report; ``**`` encloses the term."""
    lines = [*_DEFINITIONS, *_tuning_note(report), *_paired_note(report), *_target_note(report)]
    return [*lines, *_stored_note(report), *_interval_note(report)]


def _tuning_note(report: Report) -> list[str]:
    return ["**Pre** is after the fit, **Post** after fine-tuning."] if fine_tuned(report) else []


def _paired_note(report: Report) -> list[str]:
    if all(row.agreement is None for row in report.rows):
        return []
    return [
        "**Same predictions** is the share of test images with the original's prediction. **Images lost** are "
        "those that only the original classifies correctly, **images gained** those that only the file does. "
        "**McNemar p** is the probability of a split between both at least as uneven if the file were as good as the "
        "original. Above "
        f"{SIGNIFICANT:g}, the test images do not show which one is better."
    ]


def _target_note(report: Report) -> list[str]:
    if not any(row.has_target for row in report.rows):
        return []
    return [
        "A row of a **target** has no fixed number of bits: its integers take as many bits as their entropy. Its size "
        "or its loss of Top-1 was chosen. It has no float network, so Top1 and Δ are not measured. **Order** is then "
        "the smallest order that contains the terms with a coefficient other than zero. **auto** sets no largest order."
    ]


def _stored_note(report: Report) -> list[str]:
    if all(row.stored_bits == row.bits for row in report.rows):
        return []
    return [
        "**Bits** followed by stored bits are the mantissa bits of minifloats, the poster's format. A value has "
        "one sign bit, seven exponent bits and that many mantissa bits, as the poster's formula counts. The file is "
        "smaller, because its values are entropy-coded."
    ]


def _interval_note(report: Report) -> list[str]:
    data, top1 = report.run.dataset, baseline(report).top1
    if data is None or top1 is None:
        return []
    ends = baseline_interval(report)
    own = "A mean over seeds has none."
    if ends:
        count, (low, high) = data.test_images, ends
        own = f"With {count:,} test images, the baseline's {top1:.2f} has the interval {low:.2f} to {high:.2f}."
    return [
        f"The **95 % interval** (Wilson) follows from the number of test images. {own} All rows are measured on the "
        "same images, so the interval is cautious for differences between rows. McNemar's test is the sharper "
        "comparison."
    ]
