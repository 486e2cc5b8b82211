"""How the files of tests are shared out to several processes of pytest-xdist: ``pytest -p tests.sharing -n 2``.

Each file goes to one process, as with ``--dist loadfile``. Those of tests/integration come at the end, one after the
other in one process, when all others have ended: there are times in them, and things that a machine has once. Only
what ``BESIDE`` names has neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdist.scheduler import LoadFileScheduling

if TYPE_CHECKING:
    import pytest
    from xdist.remote import Producer
    from xdist.workermanage import WorkerController

ALONE = "tests/integration"
BESIDE = {
    "test_api.py",
    "test_archives_export.py",
    "test_archives_import.py",
    "test_bad_input.py",
    "test_btrfs_under_containerd.py",
    "test_command_completion.py",
    "test_command_images.py",
    "test_command_run.py",
    "test_compat.py",
    "test_containerd_as_plugin.py",
    "test_ctr_containers.py",
    "test_ctr_content.py",
    "test_ctr_images.py",
    "test_ctr_later.py",
    "test_ctr_leases.py",
    "test_ctr_more.py",
    "test_ctr_namespaces.py",
    "test_ctr_run.py",
    "test_ctr_snapshots.py",
    "test_ctr_tasks.py",
    "test_layers.py",
    "test_plugin_check.py",
    "test_plugin_new.py",
    "test_runtime.py",
    "test_suites_on_containerd.py",
    "test_umoci.py",
    "test_writing_a_plugin.py",
}


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    return Scheduling(config, log)


class Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """The last process left does what is ``ALONE``; the others are sent home before."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        folder, _, name = file.rpartition("/")
        return ALONE if folder == ALONE and name not in BESIDE else file

    def _assign_work_unit(self, node: WorkerController) -> None:
        if ALONE in self.workqueue:
            self.workqueue.move_to_end(ALONE)
        if not self._only_alone_is_left() or len(self.nodes) == 1:
            super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        if not self._only_alone_is_left() or len(self.nodes) == 1:
            super()._reschedule(node)
        elif not node.shutting_down and any(not other.shutting_down for other in self.nodes if other is not node):
            node.shutdown()

    def remove_node(self, node: WorkerController) -> str | None:
        crashed = super().remove_node(node)
        for other in self.nodes:
            self._reschedule(other)
        return crashed

    def _only_alone_is_left(self) -> bool:
        return list(self.workqueue) == [ALONE]
