"""The check that compiles for other platforms: what it sees in code, and what it needs."""

import pytest

from tests.benchmarks import ahead_of_time
from tests.benchmarks.optimized_hlo import examine

PRODUCT = """
%fused (a: s8[8,64], b: s8[64,16]) -> s32[8,16] {
  %a = s8[8,64]{1,0} parameter(0)
  %b = s8[64,16]{1,0} parameter(1)
  ROOT %dot.1 = s32[8,16]{1,0} dot(%a, %b), metadata={op_name="jit(f)/conv.y/dot_general"}
}

ENTRY %main (a.1: s8[8,64], b.1: s8[64,16]) -> s32[8,16] {
  %a.1 = s8[8,64]{1,0} parameter(0)
  %b.1 = s8[64,16]{1,0} parameter(1)
  ROOT %fusion = s32[8,16]{1,0} fusion(%a.1, %b.1), kind=KIND, calls=%fused, FURTHER
}
"""
TRITON = 'backend_config={"fusion_backend_config":{"kind":"__triton_nested_gemm_fusion"}}'


def computation(*lines: str) -> str:
    return "\n".join(["ENTRY %main (x: s8[8]) -> s8[8] {", *(f"  {line}" for line in lines), "}"])


def test_a_product_in_a_fusion_of_its_own_is_good() -> None:
    found = examine(PRODUCT.replace("KIND", "kCustom").replace("FURTHER", TRITON), "cuda")
    assert (dict(found.products), found.problems) == ({"triton": 1}, [])


def test_a_product_in_a_loop_is_a_problem() -> None:
    found = examine(PRODUCT.replace("KIND", "kLoop").replace("FURTHER", ""), "cuda")
    assert found.problems == [
        "a naive loop: dot of s8[8,64], s8[64,16] to s32[8,16] from jit(f)/conv.y/dot_general"
    ]


@pytest.mark.parametrize(
    ("element", "kind"), [("s8", "convolution"), ("pred", "convolution"), ("s32", "wide")]
)
def test_products_on_tpu(element: str, kind: str) -> None:
    text = computation(
        f"%x = {element}[4,8]{{1,0:T(8,128)(4,1)}} parameter(0)",
        "%w = s8[8,2]{0,1} parameter(1)",
        "ROOT %y = s32[4,2]{0,1} convolution(%x, %w), dim_labels=bf_io->bf, "
        'backend_config={"estimated_cycles":"120"}',
    )
    found = examine(text, "tpu")
    assert dict(found.products) == {kind: 1}
    assert (bool(found.problems), found.cycles) == (kind == "wide", 120)


@pytest.mark.parametrize(
    ("line", "platform", "problem"),
    [
        ("%g = s8[64,64]{1,0} gather(%t, %i), slice_sizes={1}", "tpu", "a gather"),
        ("%g = s8[8]{0} gather(%t, %i), slice_sizes={1}", "tpu", ""),
        ("%g = s8[64,64]{1,0} gather(%t, %i), slice_sizes={1}", "cuda", ""),
        ("%c = s32[1,8,8,4]{3,2,1,0} convolution(%x, %k), window={}", "cuda", "a naive loop"),
        (
            '%c = f32[8,4] custom-call(%x), custom_call_target="__cudnn$convForward"',
            "cuda",
            "cuDNN",
        ),
        (
            'ROOT %m = s32[64,8]{1,0} multiply(%a, %b), metadata={op_name="jit(f)/dot_general"}',
            "cuda",
            "the terms",
        ),
        ("%w = (s32[], s32[8,8]{1,0}) while(%init), condition=%c, body=%b", "tpu", "a loop"),
    ],
)
def test_what_is_a_problem(line: str, platform: str, problem: str) -> None:
    problems = examine(computation(line), platform).problems
    assert bool(problems) == bool(problem)
    assert all(problem in found for found in problems)


def test_a_matrix_times_a_vector_is_a_reduction() -> None:
    text = computation(
        "%m = s32[64,8]{1,0} multiply(%a, %b)",
        '%r = s32[8]{0} reduce(%m, %zero), metadata={op_name="jit(f)/dot.y/dot_general"}',
    )
    assert dict(examine(text, "cuda").products) == {"vector": 1}


def test_missing_compilers_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wheels = {"tpu": ("absent_module", "libtpu"), "cuda": ("absent.module", "plugin")}
    monkeypatch.setattr(ahead_of_time, "WHEELS", wheels)
    assert ahead_of_time.main(["--targets", "h100", "v5e"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "no compiler for cuda: pip install --no-deps plugin",
        "no compiler for tpu: pip install --no-deps libtpu",
    ]
