"""The example Job: valid for Kubernetes, and true to the program's flags and exit codes."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pipeline.cli.arguments import read_flags
from pipeline.failure import EXIT_CODES, EXIT_DONE
from pipeline.options.options import Options, options_from

FILE = Path(__file__).parents[2] / "examples" / "kubernetes" / "job.yaml"
VERSIONS = ("1.31", "1.37")  # from the first whose Jobs have a stable podFailurePolicy


@pytest.fixture
def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(FILE.read_text(encoding="utf-8")))


@pytest.fixture
def job(manifests) -> dict[str, Any]:
    return manifests[-1]["spec"]


@pytest.fixture
def container(job) -> dict[str, Any]:
    (container,) = job["template"]["spec"]["containers"]
    return container


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_own_schema_takes_every_field(manifests, version) -> None:
    assert [manifest["kind"] for manifest in manifests] == ["PersistentVolumeClaim", "Job"]
    for manifest in manifests:
        assert kubernetes_validate.validate(manifest, version, strict=True) == version


def test_the_schema_would_refuse_a_slip(manifests) -> None:
    manifests[-1]["spec"]["podFailurePolicy"]["rules"][0]["onExitCode"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifests[-1], VERSIONS[-1], strict=True)


def test_the_program_takes_its_arguments(container) -> None:
    assert container["command"] == ["seriesquant"]
    flags = read_flags(container["args"], Options.model_fields)
    options = options_from(flags.values, flags.options_file)
    assert options.out.is_relative_to("/srv/seriesquant")
    assert (options.max_drop, options.max_size_mb, options.log_format) == (1, 0.25, "json")


def test_every_exit_code_is_mapped_once_and_as_documented(job, container) -> None:
    rules = job["podFailurePolicy"]["rules"]
    on_codes = [rule for rule in rules if "onExitCodes" in rule]
    actions = {code: rule["action"] for rule in on_codes for code in rule["onExitCodes"]["values"]}
    assert sum(len(rule["onExitCodes"]["values"]) for rule in on_codes) == len(actions)
    assert set(actions) == set(EXIT_CODES) - {EXIT_DONE}
    assert {code for code, action in actions.items() if action == "FailJob"} == {2, 3, 4, 5}
    assert {code for code, action in actions.items() if action == "Count"} == {1, 129, 130, 143}
    assert {rule["onExitCodes"]["containerName"] for rule in on_codes} == {container["name"]}


def test_what_the_schema_does_not_know(manifests, job, container) -> None:
    """The API server refuses a failure policy without Never; paths must lie in the volume that outlives the pod."""
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 15
    assert job["backoffLimit"] > 0
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == set(volumes)
    claim = next(name for name in volumes if "persistentVolumeClaim" in volumes[name])
    assert volumes[claim]["persistentVolumeClaim"]["claimName"] == manifests[0]["metadata"]["name"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment["SERIESQUANT_CACHE"].startswith(f"{mounts[claim]}/")
    assert environment["OMP_NUM_THREADS"] == container["resources"]["limits"]["cpu"]
    assert set(container["resources"]) == {"requests", "limits"}
