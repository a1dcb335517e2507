"""Where nodes stand in a program with regions."""

from qir.ir.places import walk_places
from qir.text import parse


def test_what_stands_in_a_loop_stands_in_it_also_where_floats_leave_it() -> None:
    graph = parse(
        """qir 2
graph @g(%x: i8[4]{scale=0.5}) {
  %loop.q = scan(%x) {carries = 1, trips = 3} with (%loop.carry: i8[4]{scale=0.5}) {
    %kernel = const 3 : i8[4]{scale=0.5}
    %loop.sum = add(%loop.carry, %kernel) : i8[4]{scale=0.5}
    return %loop.sum
  } : i8[4]{scale=0.5}
  %loop = dequantize(%loop.q) : f32[4]
  return %loop
}
"""
    )
    assert [around for _, around in walk_places(graph)] == ["", "loop/", "loop/", "loop/", "", ""]
