"""How a process finds the others: what is taken, and what is refused."""

import re

import pytest

from jaxgpt.commands import launch, train
from jaxgpt.errors import ConfigError
from jaxgpt.hosts.join import explain_abort
from jaxgpt.hosts.options import HostOptions


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"num_processes": 2}, "go with --coordinator HOST:PORT"),
        ({"process_id": 0}, "go with --coordinator HOST:PORT"),
        ({"coordinator": "host"}, "--coordinator is host; it must be HOST:PORT"),
        ({"coordinator": "host:0"}, "it must be HOST:PORT"),
        ({"coordinator": "host:99999"}, "it must be HOST:PORT"),
        ({"coordinator": "h:1", "num_processes": 2}, "goes with --num-processes and --process-id"),
        (
            {"coordinator": "h:1", "num_processes": 2, "process_id": 2},
            "process_id is 2; it must be",
        ),
        ({"coordinator": "auto", "num_processes": 2}, "go with --coordinator HOST:PORT"),
        ({"peer_timeout": 1}, "peer_timeout is 1; it must be from 5 to 3,600"),
        ({"start_timeout": 0}, "start_timeout is 0; it must be 1 or more"),
    ],
)
def test_what_names_no_run_is_refused(options, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        HostOptions(**options)


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}, False),
        ({"SLURM_STEP_NUM_TASKS": "8"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
    ],
)
def test_srun_mpirun_and_a_pod_are_found_without_a_flag(environment, several):
    assert HostOptions().are_several(environment) is several
    assert HostOptions(coordinator="auto").are_several(environment)


def test_an_abort_of_another_library_is_not_explained():
    assert explain_abort("free(): invalid pointer") is None
    line, code = explain_abort("the JAX distributed service detected fatal errors")
    assert line.startswith("process 0, by which all are joined, has ended")
    assert code == 6


@pytest.mark.parametrize("command", [[], ["generate", "--seed", "1"], ["finetune"]])
def test_only_what_trains_is_launched(command):
    with pytest.raises(ConfigError, match="it must be the command line of one of train, finetune"):
        launch.main(["--processes", "2", "--", *command])


def test_a_host_that_nobody_knows_is_one_line(tmp_path):
    place = ["--coordinator", "no.such.host.invalid:1", "--num-processes", "2", "--process-id", "1"]
    with pytest.raises(ConfigError, match=r"no\.such\.host\.invalid is not known here"):
        train.main(["tiny", "--out", str(tmp_path / "run"), *place])
