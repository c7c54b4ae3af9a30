"""What a run would do, without doing it: its stages, what the store holds of them, and what it would write."""

from collections.abc import Sequence

import torch
from tabulate import tabulate
from torch import nn

from basis.swap import swap_convolutions
from pipeline.artifact import serialize
from pipeline.artifact.record import NetworkRecord, record_network
from pipeline.artifact.summary import tensor_bytes
from pipeline.data.sources import load_dataset
from pipeline.models.layer_orders import LayerPlan, orders_of, plan_layers, shape_text
from pipeline.models.registry import build_model
from pipeline.options.grid import Variant, variants
from pipeline.options.options import Options
from pipeline.runtime.device import make_accelerator
from pipeline.runtime.progress import SilentProgress
from pipeline.runtime.randomness import RandomStream
from pipeline.runtime.signals import Interruption
from pipeline.stages.baseline import Start, start_baseline
from pipeline.stages.context import Bench, check_configs, make_bench, open_store
from pipeline.stages.keys import variant_steps
from pipeline.store.store import Store
from quant.backends import get_backend
from quant.counting import count_params
from quant.network import quantize_network
from quant.schemes import get_format

# What a stage's state in the store means for the run.
_WORDS = {"stored": "in the store", "begun": "goes on from a checkpoint", "to do": "to do"}


def plan_text(options: Options) -> str:
    """The plan of a run: every stage and whether its result is stored, and every layer's size at every width.

    Nothing is trained, fitted or written. A network of random weights has the sizes of the trained one.

    Raises:
        CompressionError: The options do not fit the model or the data.
    """
    data = load_dataset(options.data, limit_train=options.limit_train, limit_test=options.limit_test, workers=0)
    check_configs(options, data)
    accelerator = make_accelerator(options.device)
    store = open_store(options, accelerator)
    start = start_baseline(
        options.model, options.weights, data, accelerator=accelerator, seed=options.seed, store=store
    )
    network = _as_stored(start, store)
    bench = make_bench(options, data, network, accelerator, store, SilentProgress(), Interruption())
    lines = [f"{options.model} on {data.name}: {len(data.train)} training and {len(data.test)} test images"]
    for variant in variants(options):
        lines += ["", *_sizes(options, variant, bench)]
    return "\n".join([*lines, "", *_stages(options, start, bench)])


def _as_stored(start: Start, store: Store) -> nn.Module:
    """The baseline if it can be had without training; if not, one that no stored result belongs to."""
    entry = store.find(start.training.key) if start.training else None
    if entry is not None:
        start.model.load_state_dict(entry.tensors)
    return start.model.eval()


def _stages(options: Options, start: Start, bench: Bench) -> list[str]:
    steps = [start.training] if start.training else []
    steps.append(bench.baseline_step)
    for variant in variants(options):
        steps += variant_steps(options, variant, bench)
    rows = [(step.name, _WORDS[bench.store.state(step)]) for step in steps]
    stored = sum(words == _WORDS["stored"] for _, words in rows)
    table = tabulate(rows, ("Stage", "State"), disable_numparse=True)
    return [table, "", f"{stored} of {len(rows)} stages are in the store {bench.store.folder}"]


def _sizes(options: Options, variant: Variant, bench: Bench) -> list[str]:
    """A line for every width, and a table of the layers."""
    with RandomStream(0, torch.device("cpu")).drawn_from():
        model = build_model(options.model, bench.data.classes)
    plan = plan_layers(model, variant.config, options.model)
    orders = orders_of(plan)
    if orders:
        model = swap_convolutions(model, orders, variant.bases[0])
    lines, records = [], {}
    for bits in variant.bits:
        format = get_format(options.scheme, bits)
        record = record_network(model, quantize_network(model, format, get_backend(options.backend)))
        size = len(serialize(record, bench.identity)) / 1e6
        facts = f"{len(orders)} layers as series, {count_params(model):,} parameters, {size:.3f} MB"
        lines += [f"{basis} {variant.config.text}, {format}: {facts}" for basis in variant.bases]
        records[f"MB, {format}"] = record
    return [*lines, _layer_table(plan, records)]


def _layer_table(plan: Sequence[LayerPlan], records: dict[str, NetworkRecord]) -> str:
    """One line per layer; what the file holds besides, normalization and biases first, is in the whole only."""
    sizes = [{layer.name: sum(tensor_bytes(layer.values)) for layer in record.layers} for record in records.values()]
    rows = [
        (
            layer.name,
            shape_text(layer.kernel),
            shape_text(layer.order),
            *(f"{size[layer.name] / 1e6:.6f}" for size in sizes),
        )
        for layer in plan
    ]
    align = ("left",) * 3 + ("right",) * len(sizes)
    return tabulate(rows, ("Layer", "Kernel", "Order", *records), disable_numparse=True, colalign=align)
