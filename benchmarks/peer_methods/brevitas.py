"""Brevitas' GPTQ with scales of least squared error: its ONNX file, and the same integers packed by this project.

ONNX's QCDQ files hold every integer in 8 bits. The packed file is not one of Brevitas: it shows the size without that.
"""

import copy
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from quant.packing import pack

from .job import Job, Run

METHOD, PACKED = "Brevitas GPTQ, ONNX", "Brevitas GPTQ, packed"
BATCH = 250  # of calibration and of the exported graph; it divides both numbers of images


def runs(job: Job) -> Iterator[Run]:
    """Yield 4, 3 and 2 bits, each as ONNX and packed; rounding is timed with the ONNX file."""
    import brevitas  # noqa: F401 - a missing library is found before the first run

    for bits in (4, 3, 2):
        rounded: list[nn.Module] = []
        yield Run(METHOD, f"{bits} bits", _onnx_writer(job, bits, rounded), lambda path: OnnxNetwork(path))
        if rounded:
            yield Run(PACKED, f"{bits} bits", _packed_writer(rounded[0], bits), _packed_reader(job))


def _onnx_writer(job: Job, bits: int, rounded: list[nn.Module]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        from brevitas.export import export_onnx_qcdq

        rounded.append(gptq(job.original, job.images, bits))
        export_onnx_qcdq(rounded[0], args=job.images[:BATCH], export_path=str(path), dynamo=False)

    return write


def gptq(original: nn.Module, images: Tensor, bits: int) -> nn.Module:
    """Round every convolution and linear layer by GPTQ; the original is not changed."""
    from brevitas.graph.gptq import gptq_mode
    from brevitas.graph.quantize import layerwise_quantize
    from brevitas.nn import QuantConv2d, QuantLinear
    from brevitas.quant import Int8WeightPerChannelFloatMSE

    options = {
        "weight_quant": Int8WeightPerChannelFloatMSE,
        "weight_bit_width": bits,
        "return_quant_tensor": False,
    }
    layers = {nn.Conv2d: (QuantConv2d, options), nn.Linear: (QuantLinear, options)}
    # Without an error, gptq_mode leaves weights in channels_last as they are (0.13.4).
    plain = copy.deepcopy(original).to(memory_format=torch.contiguous_format)
    model: nn.Module = layerwise_quantize(plain, compute_layer_map=layers).eval()
    with torch.no_grad():
        model(images[:1])  # its quantizers get their scales
    with torch.no_grad(), gptq_mode(model, use_quant_activations=False) as mode:
        for _ in range(mode.num_layers):
            for batch in images.split(BATCH):
                mode.model(batch)
            mode.update()
    return model


class OnnxNetwork(nn.Module):
    """An ONNX file as a network; onnxruntime uses one thread."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options)

    def forward(self, x: Tensor) -> Tensor:
        """Map (250, C, H, W) to logits (250, classes)."""
        name = self.session.get_inputs()[0].name
        return torch.from_numpy(self.session.run(None, {name: x.contiguous().numpy()})[0])


def _packed_writer(model: nn.Module, bits: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "quant_weight")}
        state, shapes = {}, {}
        for name, layer in layers.items():
            weight = layer.quant_weight()
            shapes[name] = list(weight.value.shape)
            state[f"{name}.integers"] = pack(weight.int().to(torch.int8), bits)
            state[f"{name}.scale"] = weight.scale.detach().flatten()
        for key, value in model.state_dict().items():
            owner, leaf = key.rsplit(".", 1)
            plain = not any(owner == name or owner.startswith(f"{name}.") for name in layers)
            if (plain and leaf != "num_batches_tracked") or (owner in layers and leaf == "bias"):
                state[key] = value.contiguous()
        save_file(state, path, {"bits": str(bits), "shapes": json.dumps(shapes)})

    return write


def _packed_reader(job: Job) -> Callable[[Path], nn.Module]:
    def read(path: Path) -> nn.Module:
        with safe_open(path, "pt") as file:
            bits, shapes = int(file.metadata()["bits"]), json.loads(file.metadata()["shapes"])
        state = load_file(path)
        for name, shape in shapes.items():
            integers = unpacked(state.pop(f"{name}.integers"), bits, math.prod(shape)).reshape(shape).float()
            scale = state.pop(f"{name}.scale").reshape(-1, *[1] * (len(shape) - 1))
            state[f"{name}.weight"] = integers * scale
        network = job.network()
        network.load_state_dict(state, strict=False)
        return network

    return read


def unpacked(stored: Tensor, bits: int, count: int) -> Tensor:
    """Invert `quant.packing.pack`.

    Returns:
        int64, (count,).
    """
    digits = np.unpackbits(stored.numpy(), bitorder="little")[: count * bits].reshape(count, bits)
    codes = digits @ (1 << np.arange(bits))
    return torch.from_numpy(codes - ((codes >> (bits - 1)) << bits))
