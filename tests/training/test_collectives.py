"""Collectives of compiled programs, by kind, by axis, and as often as their loops turn."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxgpt.training.collectives import Traffic, axes_between, collectives, traffic

HLO = """\
HloModule jit_f, replica_count=1, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (state: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %x = f32[4,8]{1,0} get-tuple-element(%state), index=1
  %r = f32[4,8]{1,0} all-reduce(%x), channel_id=1, GROUPS, to_apply=%add
}

%condition (state: (s32[], f32[4,8])) -> pred[] {
  ROOT %p = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[4,8]) -> f32[4,8] {
  %w = (s32[], f32[4,8]{1,0}) while(%t), condition=%condition, body=%body, backend_config={TURNS}
  %s = (bf16[2,8]{1,0}, bf16[16,8]{1,0}) all-gather-start(%x), replica_groups={}, dimensions={0}
  %d = bf16[16,8]{1,0} all-gather-done(%s)
  %c = f32[1,8]{1,0} reduce-scatter(%y), replica_groups={{0,4},{1,5},{2,6},{3,7}}, dimensions={0}
  %m = f32[5]{0} collective-permute(%z), source_target_pairs={{0,2},{2,0}}
}
"""
MESH = {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize(
    ("groups", "first"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", (0, 1)),
        ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,2,2]T(0,2,1)", (0, 2)),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_1'}", (0, 1)),
        ("replica_groups=mesh['a'=4,'b'=1,'c'=2], device_ids=([2,4]T(1,0)) {'c'}", (0, 4)),
        ("replica_groups=mesh['a'=8] {'a':(2)2}", (0, 2)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b':(1)2}", (0, 2, 4, 6)),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=(3,1,2,0) {'b'}", (3, 1)),
    ],
)
def test_groups_are_read_in_all_ways_of_writing_them(groups, first):
    found = collectives(HLO.replace("GROUPS", groups).replace("TURNS", ""))
    assert next(each.group for each in found if each.kind == "all-reduce") == first


def test_loops_count_as_often_as_they_turn_and_sizes_are_those_of_whole_arrays():
    turns = '"known_trip_count":{"n":"3"}'
    hlo = HLO.replace("GROUPS", "replica_groups=[4,2]<=[8]").replace("TURNS", turns)
    assert traffic(hlo, MESH) == {
        ("all-reduce", "tensor"): Traffic(3, 3 * 4 * 8 * 4),
        ("all-gather", "data+fsdp+tensor"): Traffic(1, 16 * 8 * 2),
        ("reduce-scatter", "data"): Traffic(1, 2 * 8 * 4),
        ("collective-permute", "fsdp"): Traffic(1, 5 * 4),
    }


def test_axes_are_those_in_which_places_differ():
    assert axes_between((0, 1, 4, 5), MESH) == ("data", "tensor")
    assert axes_between((3,), MESH) == ()


def test_a_program_of_this_xla_is_read():
    mesh = jax.make_mesh((4, 2), ("rows", "columns"), (AxisType.Auto,) * 2)
    x = jnp.zeros((8, 16), jnp.float32, device=NamedSharding(mesh, PartitionSpec("rows")))

    def twice(x):
        return jax.lax.fori_loop(0, 5, lambda _, y: y + y.sum(axis=0), x)

    hlo = jax.jit(twice, out_shardings=x.sharding).lower(x).compile().as_text()
    assert traffic(hlo, mesh.shape) == {("all-reduce", "rows"): Traffic(5, 5 * 16 * 4)}
