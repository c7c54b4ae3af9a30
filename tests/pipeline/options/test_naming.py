"""Names of files, folders and metrics of configs with many stages."""

from pipeline.options.grid import Target, variants
from pipeline.options.options import Options
from pipeline.stages.report import artifact_path
from pipeline.tracking.figures import final_metrics
from tests.pipeline.tracking.conftest import REPORT

MANY = [",".join(["3"] * 300), ",".join(["3"] * 299 + ["2"])]


def test_the_file_of_a_long_config_has_a_short_name_of_its_own():
    runs = variants(Options(config=[*MANY, "3,2"], model="nets:make", out="o"))
    names = [artifact_path(each, "cosine", Target(drop=0.123456789012)) for each in runs]
    assert names[2] == "artifacts/cosine-3,2-drop0.123456789012.safetensors"
    assert len(set(names)) == 3
    for name in names[:2]:
        assert name.startswith("artifacts/cosine-3,3,3,")
        assert len(name) < 180, "a suffix of export and a temporary name must fit into 255 bytes too"


def test_the_metrics_of_a_long_config_have_short_names_of_their_own():
    rows = [REPORT["rows"][0] | {"config": text} for text in MANY]
    first, second = list(final_metrics(REPORT | {"rows": rows}))[1:]
    assert not set(first) & set(second)
    assert max(map(len, first)) < 250, "MLflow's longest name"
