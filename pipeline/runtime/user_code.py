"""Run code of users without what it changes for the whole process."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from pipeline.runtime.products import product_precisions, set_product_precisions


@contextmanager
def restored_settings() -> Generator[None]:
    """Restore the folder, torch's gradient mode, default type and device, precision and threads after code of users.

    A module may set them for its own purpose when it is imported: other code would then compute in another way.
    """
    folder, gradients, dtype = Path.cwd(), torch.is_grad_enabled(), torch.get_default_dtype()
    device, threads = torch.get_default_device(), torch.get_num_threads()
    products = product_precisions()
    try:
        yield
    finally:
        os.chdir(folder)
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)
        set_product_precisions(products)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
