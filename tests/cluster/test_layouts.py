"""Plans for devices that are not here: which meshes, how long a step, and what fits."""

from dataclasses import replace

import pytest

from jaxgpt.axes import Axes
from jaxgpt.cluster.communication import communication
from jaxgpt.cluster.layouts import Machine, layouts, parse_devices
from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.errors import ConfigError
from jaxgpt.model.flops import flops_per_token
from jaxgpt.model.parameters import count_parameters
from jaxgpt.training.plan import make_plan

MODEL = ModelConfig(
    vocab_size=512, context_length=64, num_layers=4, num_heads=4, embed_dim=64, tie_head=False
)
CONFIG = TrainConfig(model=MODEL, batch_size=64)
MACHINE = Machine(memory=10**9, flops=1e12, utilization=0.5, link=10**9, network=10**8, per_host=4)


def _on(mesh, devices=16, machine=MACHINE, **settings):
    return layouts(replace(CONFIG, mesh=mesh, **settings), devices, machine)[0]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("64", [64]), ("8..64", [8, 16, 32, 64]), ("6 .. 30", [6, 12, 24]), ("1..1", [1])],
)
def test_numbers_of_devices_are_read(text, numbers):
    assert parse_devices(text) == numbers


@pytest.mark.parametrize("text", ["0", "-8", "8..4", "8..", "..8", "8,16", "1e3", "99999999", "a"])
def test_other_numbers_of_devices_are_refused(text):
    with pytest.raises(ConfigError, match=r"devices is .* such as 64, or a range .* 8\.\.4096"):
        parse_devices(text)


@pytest.mark.slow
def test_every_mesh_that_can_be_is_there_and_the_fastest_first():
    found = layouts(CONFIG, 8, replace(MACHINE, per_host=2))
    assert {each.axes for each in found} == {
        *(Axes(8 // fsdp, fsdp, 1) for fsdp in (1, 2, 4, 8)),
        *(Axes(4 // fsdp, fsdp, 2) for fsdp in (1, 2, 4)),
    }
    times = [(each.seconds, each.seconds_in_turn) for each in found]
    assert times == sorted(times)
    asked = layouts(replace(CONFIG, mesh="data=2,tensor=2"), 8, MACHINE)
    assert [each.axes for each in asked] == [Axes(2, 2, 2)]


def test_meshes_that_cannot_be_are_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"no mesh of 512 devices .* batch_size is 64"):
        layouts(CONFIG, 512, MACHINE)
    with pytest.raises(ConfigError, match="no mesh of 16 devices can be: none has fsdp=3"):
        layouts(replace(CONFIG, mesh="fsdp=3"), 16, MACHINE)


def test_a_ring_leaves_a_host_by_the_links_of_all_its_devices_there():
    config = replace(CONFIG, mesh="data=16,fsdp=1,tensor=1")
    whole = communication(config, Axes(16, 1, 1))["all-reduce", "data"].bytes
    assert _on("data=16").sending["data"] == pytest.approx(2 * 15 / 16 * whole / 4e8, rel=1e-3)
    # Neighbours lie along tensor: one device of a host is in each ring along data.
    across = _on("data=4,tensor=4")
    gradients = communication(across.config, across.axes)["all-reduce", "data"].bytes
    assert across.sending["data"] == pytest.approx(2 * 3 / 4 * gradients / 1e8, rel=1e-3)
    # Of eight by six to a host, the second four along fsdp lie on two.
    crossing = _on("data=2,fsdp=4", 8, replace(MACHINE, per_host=6))
    parts = sum(each.bytes for (_, axes), each in crossing.sent.items() if axes == "fsdp")
    assert crossing.sending["fsdp"] == pytest.approx(parts / 2e8, rel=1e-3)
    within = sum(each.bytes for (_, axes), each in across.sent.items() if axes == "tensor")
    assert across.sending["tensor"] == pytest.approx(within / 1e9, rel=1e-3)


def test_a_step_waits_for_tensor_and_for_the_longer_of_the_rest():
    found = _on("data=2,fsdp=2,tensor=4")
    assert found.arithmetic == pytest.approx(
        flops_per_token(MODEL) * 64 * 64 / 16 / (1e12 * 0.5), rel=1e-6
    )
    rest = found.seconds_in_turn - found.arithmetic - found.sending["tensor"]
    assert found.seconds == pytest.approx(found.sending["tensor"] + max(found.arithmetic, rest))
    again = _on("data=2,fsdp=2,tensor=4", remat=True).arithmetic / found.arithmetic
    assert 1.25 < again < 4 / 3


def test_micro_batches_are_as_large_as_fit_and_so_is_the_largest_model():
    roomy = _on("fsdp=8")
    assert (roomy.config.gradient_accumulation, roomy.config.remat) == (1, False)
    tight = replace(MACHINE, memory=roomy.plan.peak * 7 // 10)
    found = _on("fsdp=8", machine=tight)
    assert found.plan.peak <= tight.memory < roomy.plan.peak
    assert found.config.gradient_accumulation > 1 or found.config.remat
    deep = replace(found.config, remat=True, gradient_accumulation=4)

    def peak(layers):
        model = replace(MODEL, num_layers=layers)
        return make_plan(replace(deep, model=model), 16).peak

    assert peak(found.most_layers) <= tight.memory < peak(found.most_layers + 1)
    largest = replace(MODEL, num_layers=found.most_layers)
    assert found.most_parameters == count_parameters(largest)


def test_what_does_not_fit_comes_last():
    fits = _on("fsdp=4", 4).plan.peak
    found = layouts(replace(CONFIG, mesh="tensor=1"), 4, replace(MACHINE, memory=fits * 9 // 10))
    lacks = [each.plan.peak > fits * 9 // 10 for each in found]
    assert lacks == sorted(lacks)
