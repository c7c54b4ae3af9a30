"""Networks of a user: names of modules, paths of files, and modules with names of our packages."""

import sys
from pathlib import Path

import pytest
import torch

import quant
from pipeline.errors import OptionsError
from pipeline.models import build_model
from pipeline.models.imported import import_folder, reference
from tests.support.networks import forget_modules

NETS = """
from torch import nn
from {helper} import width

class Net(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x):
        import late_{helper}
        return self.fc(x * late_{helper}.factor)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a module, one in a subfolder, and one in a package; each imports helpers beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    write(tmp_path, "imported_nets", "imported_helper", 2)
    write(tmp_path / "sub", "imported_sub", "sub_helper", 4)
    yield tmp_path
    forget_modules(tmp_path)


def write(folder, module, helper, width):
    folder.mkdir(exist_ok=True)
    (folder / f"{module}.py").write_text(NETS.format(helper=helper))
    (folder / f"{helper}.py").write_text(f"width = {width}\n")
    (folder / f"late_{helper}.py").write_text("factor = 1\n")


@pytest.mark.parametrize(
    "name", ["imported_nets:Net", "imported_nets.py:Net", "./imported_nets.py:Net", "./imported_nets:Net"]
)
def test_a_module_or_its_file(own, name):
    network = build_model(name, 5)
    assert network.fc.weight.shape == (5, 2)
    assert network(torch.ones(1, 2)).shape == (1, 5), "the module that it imports when it runs is found too"


def test_a_file_in_another_folder(own, tmp_path_factory, monkeypatch):
    assert build_model("sub/imported_sub.py:Net", 5)(torch.ones(1, 4)).shape == (1, 5)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    name = f"{own}/sub/imported_sub.py:Net"
    assert build_model(name, 5).fc.weight.shape == (5, 4)
    assert import_folder(name) == own / "sub"


def test_a_file_in_a_package_is_a_part_of_it(own, monkeypatch):
    package = own / "sub" / "imported_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "parts.py").write_text("from torch import nn\n")
    (package / "nets.py").write_text("from .parts import nn\nclass Net(nn.Identity): pass\n")
    assert type(build_model("sub/imported_package/nets.py:Net", 5)).__module__ == "imported_package.nets"
    assert import_folder("sub/imported_package/nets.py:Net") == own / "sub"
    (package / "scripts").mkdir()
    monkeypatch.chdir(package / "scripts")
    assert type(build_model("../nets.py:Net", 5)).__module__ == "imported_package.nets"


def test_two_files_of_one_name(own):
    for folder, width in (("one", 3), ("two", 7)):
        (own / folder).mkdir()
        (own / folder / "same_name.py").write_text(f"from torch import nn\ndef make(): return nn.Linear({width}, 1)\n")
    assert [build_model(f"{folder}/same_name.py:make", 2).in_features for folder in ("one", "two")] == [3, 7]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.py:Net", r"missing\.py.*file\.py:callable"),
        ("./missing:Net", r"missing\.py.*file\.py:callable"),
        ("imported_nets.py", r"imported_nets\.py.*imported_nets\.py:CALLABLE"),
        ("imported_nets.py:", "module:callable"),
        (":Net", "module:callable"),
        ("imported_nets.py:Absent", "Absent"),
        ("https://x/nets.py:Net", "'https://x/nets.py:Net' is an address.*file.py:callable"),
        ("s3://bucket/nets", "'s3://bucket/nets' is an address"),
    ],
)
def test_wrong_names(own, name, words):
    with pytest.raises(OptionsError, match=words):
        build_model(name, 5)


def test_a_script_that_ends_the_process_is_named(own):
    """As one that parses its own command line does."""
    (own / "script_nets.py").write_text("import sys\ndef make(): sys.exit('no licence')\n")
    (own / "script.py").write_text("import argparse\nargparse.ArgumentParser().parse_args(['--ours'])\n")
    with pytest.raises(OptionsError, match=r"could not be built.*SystemExit: no licence"):
        build_model("script_nets:make", 5)
    with pytest.raises(OptionsError, match=r"could not be imported.*SystemExit: 2"):
        build_model("script:make", 5)


def test_a_module_with_the_name_of_our_package(own):
    """And one that it imports: both are the user's, and our packages are in their places afterwards."""
    write(own, "quant", "reports", 6)
    network = build_model("quant:Net", 5)
    assert network.fc.weight.shape == (5, 6)
    assert type(build_model("quant:Net", 5)) is type(network)
    assert sys.modules["quant"] is quant
    assert import_folder("quant:Net") == own
    from reports.files import PART

    assert PART


def test_a_package_with_the_name_of_ours(own):
    (own / "pipeline").mkdir()
    (own / "pipeline" / "__init__.py").touch()
    (own / "pipeline" / "nets.py").write_text(
        "from torch import nn\nfrom pipeline import nets\nclass Net(nn.Identity): pass\n"
    )
    assert type(build_model("pipeline.nets:Net", 5)).__module__ == "pipeline.nets"
    import pipeline.models.registry as again

    assert again.build_model is build_model


def test_a_colon_in_a_folder(own):
    (own / "a:b").mkdir()
    (own / "a:b" / "colon_nets.py").write_text("from torch import nn\nclass Net(nn.Identity): pass\n")
    assert reference("a:b/colon_nets.py:Net").module == "colon_nets"
    build_model("a:b/colon_nets.py:Net", 2)


def test_what_a_module_sets_for_the_whole_process_is_restored(own):
    (own / "imported_settings.py").write_text(
        "import os, torch\n"
        "torch.set_grad_enabled(False)\n"
        "torch.set_default_dtype(torch.float64)\n"
        "torch.set_default_device('meta')\n"
        "def net():\n"
        "    os.chdir('sub')\n"
        "    return torch.nn.Conv2d(1, 1, 3)\n"
    )
    network = build_model("imported_settings:net", 3)
    assert network.weight.dtype == torch.float64, "the module itself computes as it wants"
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    assert torch.empty(1).device.type == "cpu"
    assert own == Path.cwd()
