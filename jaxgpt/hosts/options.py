"""How a process finds the others of its run; standard library only, as of all settings."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from jaxgpt.fields import check, check_at_least, check_fields, check_range

AUTO = "auto"
_TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")  # as srun and mpirun set them
_TPU_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")


@dataclass(frozen=True)
class HostOptions:
    """The other processes of a run. Under srun and mpirun these are found without any flag."""

    coordinator: str = ""
    """HOST:PORT where process 0 waits for the others; auto asks the cluster, such as a TPU pod."""
    num_processes: int = 0
    """Processes of the run; the same flags go to all of them, but for --process-id."""
    process_id: int = -1
    """Which of them this is, from 0."""
    start_timeout: int = 300
    """Seconds in which all processes must have come."""
    peer_timeout: int = 30
    """Seconds without a sign of life after which a process counts as dead and the run ends."""

    def __post_init__(self):
        """Refuse one flag without the others, and what is no address."""
        check_fields(self)
        check_at_least(self, 0, "num_processes")
        check_at_least(self, 1, "start_timeout")
        check_range("peer_timeout", self.peer_timeout, 5, 3600)
        given = bool(self.num_processes), self.process_id != -1
        if self.coordinator in ("", AUTO):
            check(
                not any(given),
                "--num-processes and --process-id go with --coordinator HOST:PORT; add it",
            )
            return
        host, _, port = self.coordinator.rpartition(":")
        check(
            bool(host) and port.isdigit() and 0 < int(port) < 65536,
            f"--coordinator is {self.coordinator}; it must be HOST:PORT, such as 10.0.0.1:1234, "
            "or auto",
        )
        check(all(given), "--coordinator HOST:PORT goes with --num-processes and --process-id")
        check_range("process_id", self.process_id, 0, self.num_processes - 1)

    def are_several(self, environment: Mapping[str, str] = os.environ) -> bool:
        """Whether this process is one of several, by the flags or by what started it."""
        tasks = (environment.get(name, "") for name in _TASKS)
        hosts = (environment.get(name, "") for name in _TPU_HOSTS)
        started = any(text.isdigit() and int(text) > 1 for text in tasks)
        return bool(self.coordinator) or started or any("," in names for names in hosts)
