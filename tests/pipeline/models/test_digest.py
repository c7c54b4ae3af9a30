"""The digest of a network covers the user's code that it runs."""

import sys

import pytest
import torch
from torch import nn

from pipeline.models import build_model
from pipeline.models.digest import network_digest, state_digest
from tests.support.networks import forget_modules, tiny_network

NETS = """
from torch import nn
{imports}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        {building}

    def forward(self, x):
        return x
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    (tmp_path / "lib").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    before = set(sys.modules)

    def digest(imports="", building="pass"):
        for name in set(sys.modules) - before:
            if name.startswith("digested"):
                del sys.modules[name]
        (tmp_path / "digested_nets.py").write_text(NETS.format(imports=imports, building=building))
        network = build_model("digested_nets:Net", 2)
        network.fc.weight.data.fill_(1)
        network.fc.bias.data.fill_(1)
        return network_digest("digested_nets:Net", network)

    yield tmp_path, digest
    forget_modules(tmp_path)


def test_the_same_code_has_the_same_digest(own):
    _, digest = own
    assert digest() == digest()


@pytest.mark.parametrize(
    ("place", "imports", "building"),
    [
        ("digested_helper.py", "import digested_helper", "pass"),
        ("digested_helper.py", "from digested_helper import CONSTANT", "pass"),
        ("digested_helper.py", "", "import digested_helper"),
        ("digested_helper.py", "import importlib", "importlib.import_module('digested_helper')"),
        ("lib/digested_library.py", "import digested_library", "pass"),
        ("digested_package/deep/inner.py", "import digested_package.deep.inner", "pass"),
        ("quant.py", "from quant import CONSTANT", "pass"),
    ],
)
def test_a_module_that_the_network_imports_counts(own, place, imports, building):
    folder, digest = own
    file = folder / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("CONSTANT = 1\n")
    before = digest(imports, building)
    assert digest(imports, building) == before
    file.write_text("CONSTANT = 22\n")
    assert digest(imports, building) != before


def test_a_module_of_a_module_counts(own):
    folder, digest = own
    (folder / "digested_first.py").write_text("import digested_second\n")
    (folder / "digested_second.py").write_text("X = 1\n")
    before = digest("import digested_first")
    (folder / "digested_second.py").write_text("X = 33\n")
    assert digest("import digested_first") != before


def test_installed_and_standard_modules_do_not_count():
    before = network_digest("x", tiny_network())
    import imaplib  # a module that nothing else imports

    import sklearn.isotonic

    assert imaplib
    assert sklearn.isotonic
    assert network_digest("x", tiny_network()) == before


class Tables(nn.Linear):
    """Its extra state is a large table, in a tensor or an array, whose text leaves out the middle."""

    def __init__(self, table):
        super().__init__(1, 1)
        nn.init.ones_(self.weight)
        nn.init.ones_(self.bias)
        self.table = table

    def get_extra_state(self):
        return {"table": self.table, "version": 2}


@pytest.mark.parametrize("convert", [torch.Tensor.clone, torch.Tensor.numpy])
def test_every_value_of_extra_state_counts(convert):
    table = torch.zeros(5000)
    changed = table.clone()
    changed[2500] = 1
    digests = [state_digest(Tables(convert(each))) for each in (table, table.clone(), changed)]
    assert digests[0] == digests[1] != digests[2]
