"""All that a run does with one variant of its grid, as a result that can be sent to where the report is written."""

from pathlib import Path

from pipeline.options.grid import Variant
from pipeline.options.options import Options
from pipeline.options.orders import Config
from pipeline.stages.approximate import Approximation, approximate
from pipeline.stages.context import Bench
from pipeline.stages.keys import WidthSteps, variant_steps
from pipeline.stages.quantize import Quantized, quantize
from pipeline.stages.report import VariantResult, kernel_figure, layer_rows, row
from pipeline.stages.verify import Measured
from quant.counting import count_params
from reports.files import write_atomically


def run_variant(options: Options, variant: Variant, bench: Bench) -> VariantResult:
    """Approximate and fine-tune a network once, and quantize it to every width.

    Args:
        options: The run's options.
        variant: The network: its config, basis and widths.
        bench: What the run's stages share.

    Raises:
        CompressionError: The config does not fit the network, or training diverged.
    """
    bench.progress.stage(f"{variant.name}: approximate")
    steps = variant_steps(options, variant, bench)
    network = approximate(bench, variant, options.fit, steps)
    bench.progress.result(f"{variant.name}: {_top1_words(network)}")
    written = {bits: _quantized(options, network, width, bench) for bits, width in steps.widths.items()}
    params = count_params(bench.baseline)
    rows, layers, files = [], [], {}
    for basis in variant.bases:
        for bits, each in written.items():
            artifact = artifact_path(variant.config, basis, bits)
            places = {"artifact": artifact, "baseline_top1": bench.top1, "baseline_params": params}
            rows.append(row(options, variant.config, basis, bits, network, each, **places))
            files[artifact] = each.artifact
            if each.portable is not None:
                files[rows[-1]["onnx"]] = each.portable
        layers += layer_rows(network, written, variant.config, basis)
    logits = {each.sha256: each.logits for each in written.values()}
    return VariantResult(rows, layers, kernel_figure(bench.baseline, network.layers), files, logits)


def write_files(result: VariantResult, folder: Path) -> list[Measured]:
    """Write a variant's files, each atomically, and give its rows the sizes of what was written.

    Args:
        result: Its rows get ``size_mb`` and ``onnx_size_mb``.
        folder: The output folder.

    Returns:
        Every artifact with the logits that it must give.

    Raises:
        OSError: A file cannot be written.
    """
    for path, content in result.files.items():
        write_atomically(folder / path, content)
    for each in result.rows:
        each["size_mb"] = (folder / each["artifact"]).stat().st_size / 1e6
        if each["onnx"] is not None:
            each["onnx_size_mb"] = (folder / each["onnx"]).stat().st_size / 1e6
        else:
            (folder / each["artifact"]).with_suffix(".onnx").unlink(missing_ok=True)  # of an earlier run
    paths = {each["sha256"]: folder / each["artifact"] for each in result.rows}
    return [Measured(digest, path, result.logits[digest]) for digest, path in paths.items()]


def artifact_path(config: Config, basis: str, bits: int) -> str:
    """Where in the output folder a combination's artifact is written."""
    return f"artifacts/{basis}-{config.text}-{bits}.safetensors"


def _quantized(options: Options, network: Approximation, steps: WidthSteps, bench: Bench) -> Quantized:
    written = quantize(bench, network.model, options.backend, options.rounding, steps)
    bench.progress.result(f"{steps.name}: Top-1 {written.top1:.2f}, {len(written.artifact) / 1e6:.3f} MB")
    return written


def _top1_words(network: Approximation) -> str:
    if network.top1_pre is None:
        return f"no series, Top-1 {network.top1_post:.2f}"
    return f"Top-1 {network.top1_pre:.2f} before and {network.top1_post:.2f} after fine-tuning"
