"""Writes a pass of its own, runs it inside a pipeline, and asks why it did not fire everywhere."""

from __future__ import annotations

import numpy as np

import qir
from qir import Builder, Context, Graph, Pass, Skip, Value, register, rewrite, rule
from qir.ops import Clip, HardSwish

PROGRAM = """
graph @block(%x: f32[1,4,4,2]) {
  %a = clip(%x) {low = 0.0, high = 6.0} : f32[1,4,4,2]
  %b = hard_swish(%a) : f32[1,4,4,2]
  %c = hard_swish(%b) : f32[1,4,4,2]
  %d = clip(%c) {low = 0.0, high = 20.0} : f32[1,4,4,2]
  return %d
}
"""


@rule(Clip)
def drop_wide_clip(y: Value, b: Builder) -> Value | Skip | None:
    """clip(hard_swish(clip(x))) -> hard_swish(clip(x)), as hard_swish(v) <= v for all v >= 0."""
    match y:
        case Value(Clip() as outer, [Value(HardSwish(), [Value(Clip() as inner, _)]) as between]):
            if inner.low < 0:
                return Skip("the inner clip lets negative numbers through", between)
            if outer.low > 0 or outer.high < inner.high:
                return Skip("the outer clip is narrower", between)
            return between
        case Value(Clip(), [Value(HardSwish(), [x])]):
            return Skip("what hard_swish reads is not a clip", x)
        case _:
            return None


@register
class DropWideClips(Pass):
    """Drops clips whose bounds an inner clip keeps already."""

    name = "drop-wide-clips"

    def run(self, graph: Graph, context: Context) -> None:
        """Applies the rule everywhere."""
        report = rewrite(graph, [drop_wide_clip])
        context.diagnostics.append(str(report))


def main() -> None:
    """Runs the pass on two programs: one that keeps it from firing, and one that does not."""
    graph = qir.parse(PROGRAM)
    print("why it does not fire:", *qir.near_misses(graph, drop_wide_clip), sep="\n  ")

    edited = qir.parse(PROGRAM.replace("hard_swish(%b)", "hard_swish(%a)"))
    context = Context()
    # check=True computes the program before and after each pass and compares every value.
    result = qir.optimize(edited, "drop-wide-clips, canonicalize", check=True, context=context)
    print("\nwhat it did:", *context.diagnostics, sep="\n  ")
    print(f"\n{result}")

    x = np.linspace(-2, 9, 32, dtype=np.float32).reshape(1, 4, 4, 2)
    assert np.array_equal(qir.evaluate(edited, x)[0], qir.evaluate(result, x)[0])


if __name__ == "__main__":
    main()
