from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cli.arguments import read_flags
from pipeline.errors import OptionsError
from pipeline.options.file import write_options_file
from pipeline.options.options import Options, load_options_file, options_from

ODD_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(str.strip)


def again(options: Options, path: Path) -> Options:
    return options_from({}, write_options_file(path, options.model_dump(mode="json")))


@given(
    st.fixed_dictionaries(
        {"config": st.sampled_from(["6,3,3,2,2", ["3,3,3,2", "dense"], "7x3,7×2", ["3", "2"]]), "model": ODD_TEXT},
        optional={
            "bits": st.lists(st.integers(2, 8), min_size=1, unique=True),
            "dense_bits": st.sampled_from([(), 4, "4,3"]),
            "basis": st.sampled_from(["cosine", "chebyshev,cosine"]),
            "weights": ODD_TEXT,
            "data": ODD_TEXT | st.sampled_from(["yes", "null", "1e3", "~", "- a", "a: b", "# a", "0x1F", "2024-01-01"]),
            "max_drop": st.none() | st.floats(0, 100),
            "max_size_mb": st.floats(1e-9, 1e9),
            "lr": st.none() | st.floats(1e-12, 10),
            "seed": st.integers(0, 2**32 - 1),
            "distill": st.booleans(),
            "onnx": st.booleans(),
            "fresh": st.booleans(),
            "out": st.none() | ODD_TEXT,
        },
    )
)
def test_what_is_written_is_read_back(tmp_path_factory, values) -> None:
    options = Options(**values)
    assert again(options, tmp_path_factory.getbasetemp() / "round trip.yaml") == options


def test_every_option_is_in_the_file_one_a_line(tmp_path) -> None:
    path = write_options_file(tmp_path / "o.yaml", Options(config="6,3,3,2,2").model_dump(mode="json"))
    comment, *lines = path.read_text().splitlines()
    assert comment.startswith("# ")
    assert [line.partition(":")[0] for line in lines] == list(Options.model_fields)
    assert {"config: ['6,3,3,2,2']", "bits: [8, 4]", "model: resnet18", "lr: null", "distill: true"} < set(lines)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("o.yaml", "bits: 4\nbits: 8\n", r"cannot be parsed \(bits is given twice\)"),
        ("o.toml", "bits = 4\nbits = 8\n", "cannot be parsed .*overwrite"),
        ("o.yaml", "training:\n  epochs: 3\n", "'training' .* group.*allowed"),
        ("o.toml", "[run]\nepochs = 3\n", "'run' .* group"),
        ("o.yaml", "epochs: {few: 3}\nconfig: 3,3,3,2\n", "--epochs: got {'few': 3}; allowed: a whole number"),
        ("o.yaml", "3: 4\n", "unknown option '3'"),
        ("o.yaml", "? [a]\n: 4\n", "cannot be parsed"),
        ("o.yaml", "a: *nothing\n", "cannot be parsed"),
        ("o.yaml", "a: !!python/object:os.system {}\n", "cannot be parsed"),
        ("o.yaml", "a: 1\n---\nb: 2\n", "cannot be parsed"),
        ("o.yaml", "max_size: 4\n", "unknown option 'max_size'; did you mean 'max_size_mb'"),
        ("o.yaml", "log-formt: json\n", "unknown option 'log-formt'; did you mean 'log_format'"),
    ],
)
def test_wrong_files(tmp_path, name, content, words) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(OptionsError, match=words) as caught:
        Options(**load_options_file(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["o.yaml", "o.toml"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_editors_of_other_systems_write_is_read(tmp_path, name, encoding, end) -> None:
    lines = ["epochs: 3", "experiment: 'Größe 7×3'"] if name == "o.yaml" else ["epochs = 3", "experiment = 'Größe 7×3'"]
    (tmp_path / name).write_bytes("".join(f"{line}{end}" for line in lines).encode(encoding))
    assert load_options_file(tmp_path / name) == {"epochs": 3, "experiment": "Größe 7×3"}


@pytest.mark.parametrize("name", ["o.yaml", "o.toml"])
@pytest.mark.parametrize("content", ["epochs: 3".encode("utf-16-le"), b"data: caf\xe9\n", b"\xff\xfee"])
def test_a_file_that_is_no_text_is_refused(tmp_path, name, content) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OptionsError, match=name) as caught:
        load_options_file(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_yaml_anchors_are_no_repetition(tmp_path) -> None:
    (tmp_path / "o.yaml").write_text("epochs: &n 3\nqat_epochs: *n\n")
    assert load_options_file(tmp_path / "o.yaml") == {"epochs": 3, "qat_epochs": 3}


def test_a_yaml_merge_key_gives_way_to_the_names_beside_it(tmp_path) -> None:
    (tmp_path / "o.yaml").write_text("<<: {epochs: 3, bits: 4}\nepochs: 5\n")
    assert load_options_file(tmp_path / "o.yaml") == {"epochs": 5, "bits": 4}


@pytest.mark.parametrize("value", ["3:2:2", "10:20", "1:30.5", "012", "-010", "2026-01-01", "2026-01-01 10:20:30"])
def test_values_that_yaml_would_recode_are_text(tmp_path, value) -> None:
    """`config: 3:2:2` was the number 10922, `epochs: 010` was 8, and a date no path."""
    (tmp_path / "o.yaml").write_text(f"config: {value}\nout: [{value}]\n")
    assert load_options_file(tmp_path / "o.yaml") == {"config": value, "out": [value]}


def test_values_of_a_yaml_file_keep_their_types(tmp_path) -> None:
    (tmp_path / "o.yaml").write_text("epochs: 3\nseed: 0\nlr: 1.0e-3\nmax_drop: 0.5\nworkers: 0x10\nfresh: true\n")
    expected = {"epochs": 3, "seed": 0, "lr": 1e-3, "max_drop": 0.5, "workers": 16, "fresh": True}
    assert load_options_file(tmp_path / "o.yaml") == expected


@pytest.mark.parametrize(("option", "flag"), [("fresh", "--no-fresh"), ("distill", "--no-distill")])
def test_a_flag_turns_off_what_the_file_turns_on(tmp_path, option, flag) -> None:
    (tmp_path / "o.yaml").write_text(f"config: 3,3,3,2\n{option}: true\n")
    for words, expected in (([], True), ([flag], False)):
        flags = read_flags(["--options", str(tmp_path / "o.yaml"), *words], Options.model_fields)
        assert flags is not None
        assert getattr(options_from(flags.values, flags.options_file), option) is expected
