"""The manifest for KubeRay: its structure, and the command in it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from vinr.cli.app import app

yaml = pytest.importorskip("yaml", reason="comes with the extra vinr[ray]")
PATH = Path(__file__).parents[2] / "docs" / "scale" / "rayjob.yaml"
# Fields of ray.io/v1, as the reference of KubeRay lists them, that the manifest may use.
JOB = {
    *("entrypoint", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit"),
    *("activeDeadlineSeconds", "runtimeEnvYAML", "metadata", "rayClusterSpec", "clusterSelector", "suspend"),
}
CLUSTER = {"rayVersion", "headGroupSpec", "workerGroupSpecs", "enableInTreeAutoscaling", "autoscalerOptions"}
HEAD = {"rayStartParams", "template", "serviceType", "headService", "enableIngress"}
WORKERS = {
    *("groupName", "replicas", "minReplicas", "maxReplicas"),
    "rayStartParams",
    "template",
    "numOfHosts",
}
GPU = "nvidia.com/gpu"


@pytest.fixture(scope="module")
def manifest() -> Any:
    (document,) = yaml.safe_load_all(PATH.read_text(encoding="utf-8"))
    return document


def containers(group: Any) -> Any:
    """Return the containers of a group; each mounts volumes that its pod has."""
    pod = group["template"]["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        assert {"name", "image", "resources"} <= container.keys()
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert all(mount["mountPath"].startswith("/") for mount in container["volumeMounts"])
    return pod["containers"]


def test_it_is_a_job_of_fields_that_kuberay_has(manifest: Any) -> None:
    assert manifest.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    spec = manifest["spec"]
    assert spec.keys() <= JOB
    assert spec["shutdownAfterJobFinishes"] is True
    cluster = spec["rayClusterSpec"]
    assert cluster.keys() <= CLUSTER
    assert cluster["headGroupSpec"].keys() <= HEAD
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        # Parameters of `ray start` are texts, numbers too.
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    (image,) = {container["image"] for group in groups for container in containers(group)}
    assert image.endswith(cluster["rayVersion"])  # Ray refuses nodes of other versions


def test_each_worker_has_a_gpu_and_the_head_runs_no_jobs(manifest: Any) -> None:
    cluster = manifest["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() <= WORKERS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        (container,) = containers(group)
        for kind in ("requests", "limits"):
            assert container["resources"][kind][GPU] == "1"


def test_its_command_is_one(manifest: Any) -> None:
    program, name, *words = shlex.split(manifest["spec"]["entrypoint"])
    assert program == "vinr"
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    context = command.make_context(name, words)
    assert context.params["ray"] == "auto"
    assert context.params["gpus_per_worker"] == 1.0
    mounted = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    (volume,) = mounted["volumeMounts"]
    assert all(path.startswith(volume["mountPath"]) for path in context.params["paths"])
