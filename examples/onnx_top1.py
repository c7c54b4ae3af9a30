"""Measure Top-1 of an ONNX file of seriesquant, with onnxruntime and numpy alone.

    python onnx_top1.py runs/example/artifacts/cosine-3,3,2,2-4.onnx cifar10.npz [IMAGES]

The data are the .npz that the report was made with: x_test, uint8 (N, H, W, C) or (N, H, W), and y_test (N,), with the
network's number of channels or one. IMAGES limits the evaluation to the first images of the file. The report's
--limit-test takes a random sample instead. The two figures are equal only without IMAGES and without --limit-test.
"""

import json
import sys

import numpy as np
import onnxruntime

BATCH = 250


def main(network: str, data: str, limit: int | None = None) -> None:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # compute the filters once, not in every call
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["seriesquant"])
    mean, std = (np.array(facts[name], dtype=np.float32) * 255 for name in ("mean", "std"))
    arrays = np.load(data)
    images, labels = arrays["x_test"][:limit], arrays["y_test"][:limit].reshape(-1)
    images = images[..., None] if images.ndim == 3 else images  # gray; numpy repeats it for a network of 3 channels
    right = 0
    for start in range(0, len(images), BATCH):
        x = (images[start : start + BATCH].astype(np.float32) - mean) / std
        logits = session.run(None, {"input": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})[0]
        right += int((logits.argmax(axis=1) == labels[start : start + BATCH]).sum())
    print(f"Top-1 {100 * right / len(images):.2f} on {len(images)} images")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
