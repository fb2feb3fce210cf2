"""Text of a compiled program: how often instructions run, and the bytes that they move."""

from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from jaxgpt.training.program import Program, sizes

WRITTEN = """HloModule jit_f, is_scheduled=true

%fused (param_0: f32[5,8], param_1: s32[], param_2: f32[5,8]) -> f32[5,8] {
  %param_0 = f32[5,8]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %param_2 = f32[5,8]{1,0} parameter(2)
  %zero = s32[] constant(0)
  %slice.1 = f32[1,8]{1,0} dynamic-slice(%param_2, %param_1, %zero), dynamic_slice_sizes={1,8}
  %double = f32[1,8]{1,0} add(%slice.1, %slice.1)
  ROOT %update = f32[5,8]{1,0} dynamic-update-slice(%param_0, %double, %param_1, %zero)
}

%body (state: (s32[], f32[5,8], f32[5,8])) -> (s32[], f32[5,8], f32[5,8]) {
  %state = (s32[], f32[5,8]{1,0}, f32[5,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[5,8]{1,0} get-tuple-element(%state), index=1
  %y = f32[5,8]{1,0} get-tuple-element(%state), index=2
  %fusion.1 = f32[5,8]{1,0} fusion(%x, %i, %y), kind=kLoop, calls=%fused
  ROOT %all = (s32[], f32[5,8]{1,0}, f32[5,8]{1,0}) tuple(%i, %fusion.1, %y)
}

%condition (state.1: (s32[], f32[5,8], f32[5,8])) -> pred[] {
  %state.1 = (s32[], f32[5,8]{1,0}, f32[5,8]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (x.1: f32[5,8]) -> f32[8] {
  %x.1 = f32[5,8]{1,0} parameter(0)
  %first = s32[] constant(0)
  %begin = (s32[], f32[5,8]{1,0}, f32[5,8]{1,0}) tuple(%first, %x.1, %x.1)
  %while.1 = (s32[], f32[5,8]{1,0}, f32[5,8]{1,0}) while(%begin), TURNS
  %rows = f32[5,8]{1,0} get-tuple-element(%while.1), index=1
  %row = f32[1,8]{1,0} slice(%rows), slice={[0:1], [0:8]}
  %narrow = bf16[1,8]{1,0} convert(%row)
  ROOT %flat = bf16[8]{0} bitcast(%narrow)
}
""".replace(
    "TURNS", 'condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}'
)


def test_a_part_that_is_read_or_written_counts_alone_and_a_loop_by_its_turns():
    moved = {each.name: count for each, count in Program(WRITTEN).moves() if count}
    # A turn reads a row and its own number, 4 bytes, and writes a row.
    assert moved == {"fusion.1": 5 * (32 + 4 + 32), "row": 64, "narrow": 32 + 16}


def test_instructions_in_a_fusion_are_counted_where_they_are_asked_for():
    program = Program(WRITTEN)
    inside = Counter({each.name: times for each, times in program.instructions()})
    assert (inside["double"], inside["fusion.1"], inside["row"]) == (5, 5, 1)
    assert "double" not in {each.name for each, _ in program.instructions(fused=False)}


@pytest.mark.parametrize("turns", [3, 6])
def test_what_a_compiled_loop_moves_grows_with_its_turns(turns):
    def layer(x, weight):
        return jnp.tanh(x @ weight), None

    def run(x, weights):
        return jax.lax.scan(layer, x, weights)[0]

    x, weights = jnp.ones((64, 128)), jnp.ones((turns, 128, 128))
    program = Program(jax.jit(run).lower(x, weights).compile().as_text())
    moved = sum(count for _, count in program.moves())
    # A turn reads x and a weight and writes x; a slice or a tanh by itself reads and writes again.
    least = turns * 4 * (2 * 64 * 128 + 128 * 128)
    assert least <= moved <= 4 * least


def test_sizes_are_of_each_array():
    assert sizes("(f32[2,3]{1,0}, bf16[4]{0}, pred[], s4[3]{0})") == [24, 8, 1, 3]
