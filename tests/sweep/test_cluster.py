"""Sweeps on a Ray cluster of three nodes on this machine: every cell once, whatever happens to the nodes."""

from __future__ import annotations

import functools
import os
import socket
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest
from misbehaving import SOURCE as MISBEHAVING
from plugins import install_plugin, on_path
from ray_children import lose_worker, make_children
from timmx import registry
from timmx.base import Reporter, reporting
from timmx.errors import ConfigurationError, MissingRequirementError
from timmx.sweep.cell import CellStatus
from timmx.sweep.cluster import Cluster, ClusterDriver
from timmx.sweep.connection import check_address, connected
from timmx.sweep.driver import Limits
from timmx.sweep.models import SweepModel
from timmx.sweep.node import Setup, check_node
from timmx.sweep.plan import SweepPlan
from timmx.sweep.start import run_sweep
from timmx.sweep.todo import kept_cells, tasks_of

if TYPE_CHECKING:
    from collections.abc import Iterator

ray = pytest.importorskip("ray")

TARGETS = ("onnx", "torch-export", "coreml")
TESTS = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def cluster(process, tmp_path_factory) -> Iterator:
    """Three nodes with one CPU each; this process runs on the first. The format `fake` is installed on all."""
    from ray.cluster_utils import Cluster as Nodes

    site = tmp_path_factory.mktemp("site")
    install_plugin(site, "fake", MISBEHAVING, requires=("timmx-core",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # by default 15: on a busy machine, workers would hardly run
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # workers use this environment
        patch.setattr("ray._private.ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV", False)  # read at import
        patch.setenv("PYTHONPATH", os.pathsep.join((on_path(site), str(TESTS))))
        patch.syspath_prepend(str(site))
        registry.entries.cache_clear()
        nodes = Nodes()
        try:
            for _ in range(3):
                nodes.add_node(num_cpus=1, include_dashboard=False, object_store_memory=80 * 2**20)
            yield nodes
        finally:
            ray.shutdown()
            nodes.shutdown()
            registry.entries.cache_clear()


def plan_of(count: int) -> SweepPlan:
    return SweepPlan(
        models=tuple(SweepModel(f"hf-hub:o/{number}") for number in range(count)), targets=TARGETS
    )


def setup_of(plan: SweepPlan, **children) -> Setup:
    return Setup(
        plan=SweepPlan(models=(), targets=plan.targets),
        versions=tuple(plan.versions()),
        limits=Limits(),
        make_launcher=functools.partial(make_children, **children),
    )


def test_every_cell_comes_back_once_when_a_node_is_killed(cluster, tmp_path):
    plan = plan_of(12)
    victim, *_ = cluster.worker_nodes
    places = []

    def nodes_of(model: str) -> list[str]:
        return (tmp_path / model.removeprefix("hf-hub:").replace("/", "--")).read_text().split()

    with connected(cluster.address):
        driver = ClusterDriver(plan, setup_of(plan, folder=tmp_path), Cluster(address="auto"))
        with closing(driver.run(tasks_of(plan, tmp_path, (), threads=1))) as cells:
            for cell in cells:
                places.append(cell.place)
                if victim in cluster.worker_nodes and victim.node_id in nodes_of(cell.model):
                    cluster.remove_node(victim, allow_graceful=False)
                    interrupted = cell.model
                    (tmp_path / "unfinished").write_text(victim.node_id)
                    (tmp_path / "unfinished").rename(tmp_path / "killed")
    assert sorted(places) == sorted((model.label, target) for model in plan.models for target in TARGETS)
    assert len(nodes_of(interrupted)) == 2, "another node has repeated what the killed one was running"


def test_a_model_whose_workers_are_lost_fails_its_cells(cluster, tmp_path):
    plan = plan_of(1)
    setup = replace(setup_of(plan), make_launcher=lose_worker)
    with connected(cluster.address):
        driver = ClusterDriver(plan, setup, Cluster(address="auto"))
        cells = list(driver.run(tasks_of(plan, tmp_path, (), threads=1)))
    assert [cell.target for cell in cells] == list(TARGETS)
    assert {(cell.status, cell.kind) for cell in cells} == {(CellStatus.CRASHED, "LostNode")}
    assert "its node or worker was lost 4 times" in cells[0].message
    assert not kept_cells(plan, cells), "the next run repeats them"


def test_a_repeated_task_that_its_node_refuses_fails_its_cells(cluster, tmp_path):
    plan = plan_of(1)
    info = tmp_path / "other" / "timmx_core-9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: timmx-core\nVersion: 9.9\n")
    first, second = cluster.add_node(num_cpus=2), None
    cells = []
    try:
        with connected(cluster.address):
            driver = ClusterDriver(plan, setup_of(plan, folder=tmp_path), Cluster(address="auto", cpus=2))
            with closing(driver.run(tasks_of(plan, tmp_path, (), threads=1))) as run:
                for cell in run:
                    cells.append(cell)
                    if second is None:
                        second = cluster.add_node(num_cpus=2, env_vars={"PYTHONPATH": on_path(info.parent)})
                        cluster.remove_node(first, allow_graceful=False)
    finally:
        for node in (first, second):
            if node in cluster.worker_nodes:
                cluster.remove_node(node)
    assert [cell.target for cell in cells] == list(TARGETS)
    assert [cell.status for cell in cells] == [CellStatus.VERIFIED, CellStatus.CRASHED, CellStatus.CRASHED]
    assert "the node that repeated it cannot run the sweep" in cells[1].message
    assert len(kept_cells(plan, cells)) == 1, "the next run repeats those that failed"


def test_needs_that_no_node_has_are_reported(cluster):
    class Warnings(Reporter):
        texts: ClassVar[list[str]] = []

        def warn(self, text: str) -> None:
            self.texts.append(text)

    plan = plan_of(1)
    setup = replace(setup_of(plan), limits=Limits(memory_bytes=10**15))
    with connected(cluster.address), reporting(Warnings()):
        ClusterDriver(plan, setup, Cluster(address="auto", cpus=64, gpus=0.5))
    (text,) = Warnings.texts
    assert "no node of the cluster has 64 CPUs and 0.5 GPUs and 1,000,000 GB of memory" in text


def test_a_sweep_runs_each_format_in_children_of_the_nodes(cluster, tmp_path):
    summary = run_sweep(
        [SweepModel("test_resnet")],
        ["fake:do=crash", "fake:do=refuse", "fake"],
        tmp_path / "out",
        options={"awaken": True},
        limits=Limits(seconds=120),
        storage=f"file://{tmp_path}/store",
        cluster=Cluster(address=cluster.address),
    )
    crash, refuse, good = summary.cells.values()
    assert (crash.status, refuse.status, good.status) == (
        CellStatus.CRASHED,
        CellStatus.REFUSED,
        CellStatus.UNPROVEN,
    )
    assert "SIGSEGV" in crash.message
    assert good.node
    stored = sorted(path.relative_to(tmp_path / "store").as_posix() for path in tmp_path.rglob("store/*/*"))
    assert stored == ["test_resnet/test_resnet.fake", "test_resnet/timmx.json"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sweep.jsonl"]
    assert not ray.is_initialized()


def test_a_node_with_another_version_of_timmx_is_named(cluster, tmp_path):
    info = tmp_path / "other" / "timmx_core-9.9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: timmx-core\nVersion: 9.9\n")
    node = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": on_path(info.parent)})
    try:
        with pytest.raises(ConfigurationError, match=r"it has timmx-core 9\.9, and the machine that runs"):
            run_sweep(
                [SweepModel("test_resnet")],
                ["fake"],
                tmp_path / "out",
                cluster=Cluster(address=cluster.address),
            )
    finally:
        cluster.remove_node(node)


def test_a_node_without_timmx_is_named(cluster, tmp_path):
    (tmp_path / "timmx.py").write_text("raise ModuleNotFoundError(\"No module named 'timmx'\")\n")
    node = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": on_path(tmp_path)})
    plan = plan_of(1)
    try:
        with (
            connected(cluster.address),
            pytest.raises(ConfigurationError, match=r"cannot run timmx: .*timmx"),
        ):
            ClusterDriver(plan, setup_of(plan), Cluster(address="auto"))
    finally:
        cluster.remove_node(node)


def test_other_versions_of_ray_are_refused(cluster, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import ray\nray.__version__ = '2.0.0'\n")
    monkeypatch.setenv("PYTHONPATH", on_path(tmp_path))
    with (
        pytest.raises(ConfigurationError, match=r"Version mismatch: .* Ray: 2\.0\.0"),
        connected(cluster.address),
    ):
        pass


def test_an_address_without_a_cluster_is_one_error(run_timmx, process):
    done = run_timmx("sweep", "test_vit", "--to", "onnx", "-o", "out", "--ray", "127.0.0.1:9")
    assert done.exit_code == 2
    assert "--ray 127.0.0.1:9 does not answer: Connection refused" in done.stderr
    assert "give HOST:PORT of the head node" in done.stderr


def test_ray_client_is_refused():
    with pytest.raises(ConfigurationError, match="cannot stream results"), connected("ray://host:10001"):
        pass


def test_ray_that_is_not_installed_is_one_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingRequirementError, match="requires Ray") as caught, connected("auto"):
        pass
    assert "timmx-core[ray]" in caught.value.hint


def test_an_older_ray_is_one_error(tmp_path, monkeypatch):
    info = tmp_path / "ray-2.40.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 2.40.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MissingRequirementError, match=r"requires Ray <3,>=2\.60, and 2\.40\.0 is installed"):
        check_address("auto")


@pytest.mark.parametrize("address", ["local", "10.0.0.1", "host:port"])
def test_an_address_without_a_port_is_one_error(address):
    with pytest.raises(ConfigurationError, match=f"--ray {address} is neither HOST:PORT nor auto"):
        check_address(address)


def test_a_port_of_another_program_is_one_error(process):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match=f"--ray {address} does not answer"), connected(address):
            pass


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_folder_or_storage_that_a_node_does_not_see_is_refused(tmp_path, scheme):
    plan, place = plan_of(1), f"{scheme}{tmp_path}"
    setup = Setup(plan=plan, versions=tuple(plan.versions()), limits=Limits(), place=place, marker="marker")
    node = check_node(setup)
    assert node.problem == f"it does not see the same {place} as the machine that runs timmx sweep"
    assert "--storage URL" in node.hint
    (tmp_path / "marker").touch()
    assert not check_node(setup).problem
