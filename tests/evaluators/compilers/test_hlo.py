"""Kernels from the text of optimised HLO, counted by hand."""

from __future__ import annotations

import pytest

from paretax.evaluators.compilers.hlo import kernels_of
from paretax.evaluators.compilers.hlo_text import parse_module
from paretax.evaluators.kernels import Kernel, Product


def kernels(text: str, clock: float | None = None) -> list[Kernel]:
    return kernels_of(parse_module(text), clock)


def entry(*lines: str) -> str:
    """A module with one computation."""
    body = "\n".join(f"  {line}" for line in lines)
    return f"HloModule m\n\nENTRY %main (p: f32[1]) -> f32[1] {{\n{body}\n}}\n"


def test_a_product_of_matrices_in_groups() -> None:
    (found,) = kernels(
        entry(
            "%a = bf16[4,8,16]{2,1,0} parameter(0)",
            "%b = bf16[4,32,16]{2,1,0} parameter(1)",
            "ROOT %d = bf16[4,8,32]{2,1,0} dot(%a, %b), lhs_batch_dims={0},"
            " lhs_contracting_dims={2}, rhs_batch_dims={0}, rhs_contracting_dims={2}",
        )
    )
    assert found.products == (Product(groups=4, m=8, n=32, k=16),)
    assert (found.kind, found.dtype, found.flops) == ("dot", "bf16", 2 * 4 * 8 * 32 * 16)
    assert found.bytes_read == 2 * (4 * 8 * 16 + 4 * 32 * 16)
    assert found.bytes_written == 2 * 4 * 8 * 32
    assert found.bytes_arguments == found.bytes_read


# What the window does not meet: zeros between inputs, and places beyond them.
ZEROS = {
    "transposed, as a product for each place": (
        "size=4x4 pad=3_3x3_3 lhs_dilate=4x4",
        "",
        "4,4,8,16",
        "2,32,32,16",
        "dot",
        Product(m=2 * 32 * 32, n=16, k=8),
    ),
    "transposed, two by two taps": (
        "size=4x4 pad=2_2x2_2 lhs_dilate=2x2 rhs_reversal=1x1",
        "",
        "4,4,8,16",
        "2,16,16,16",
        "convolution",
        Product(m=2 * 16 * 16, n=16, k=4 * 8, window=4),
    ),
    "transposed, one or two taps": (  # 1.5 a dimension, so 2.25 of 9: as many as 192 rows of 3
        "size=3x3 pad=1_2x1_2 lhs_dilate=2x2",
        "",
        "3,3,8,16",
        "2,16,16,16",
        "convolution",
        Product(m=2 * 192, n=16, k=3 * 8, window=3),
    ),
    "wider than its input": (
        "size=20x20 pad=19_19x19_19",
        "",
        "20,20,8,16",
        "2,27,27,16",
        "convolution",
        Product(m=2 * 27 * 27, n=16, k=8 * 8 * 8, window=64),
    ),
}


@pytest.mark.parametrize(
    ("window", "extra", "kernel", "output", "kind", "product"),
    [
        (
            "size=3x3 stride=2x2 pad=1_1x1_1",
            "",
            "3,3,8,16",
            "2,4,4,16",
            "convolution",
            Product(m=2 * 4 * 4, n=16, k=72, window=9),
        ),
        (
            "size=3x3 pad=1_1x1_1",
            ", feature_group_count=8",
            "3,3,1,8",
            "2,8,8,8",
            "depthwise",
            Product(groups=8, m=2 * 8 * 8, n=1, k=9, window=9),
        ),
        (
            "size=3x3 pad=1_1x1_1",
            ", feature_group_count=2",
            "3,3,4,16",
            "2,8,8,16",
            "convolution",
            Product(groups=2, m=2 * 8 * 8, n=8, k=36, window=9),
        ),
        (
            "size=3x3 pad=2_2x2_2 rhs_dilate=2x2",
            "",
            "3,3,8,16",
            "2,8,8,16",
            "convolution",
            Product(m=2 * 8 * 8, n=16, k=72, window=9),
        ),
        *ZEROS.values(),
    ],
    ids=["strided", "depthwise", "grouped", "dilated", *ZEROS],
)
def test_convolutions(
    window: str, extra: str, kernel: str, output: str, kind: str, product: Product
) -> None:
    (found,) = kernels(
        entry(
            "%x = f32[2,8,8,8]{3,2,1,0} parameter(0)",
            f"%w = f32[{kernel}]{{3,2,1,0}} parameter(1)",
            f"ROOT %c = f32[{output}]{{3,2,1,0}} convolution(%x, %w), window={{{window}}},"
            f" dim_labels=b01f_01io->b01f{extra}",
        )
    )
    assert (found.kind, found.products) == (kind, (product,))


FUSION = """\
HloModule m

%inside (p.0: f32[64,64], p.1: s32[]) -> f32[1,64] {
  %p.0 = f32[64,64]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %row = f32[1,64]{1,0} dynamic-slice(%p.0, %p.1, %zero), dynamic_slice_sizes={1,64}
  %e = f32[1,64]{1,0} exponential(%row)
  ROOT %m = f32[1,64]{1,0} multiply(%e, %row)
}

ENTRY %main (a: f32[64,64], i: s32[]) -> f32[1,64] {
  %a = f32[64,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %f = f32[1,64]{1,0} fusion(%a, %i), kind=kLoop, calls=%inside
}
"""


def test_a_fusion_reads_what_it_slices() -> None:
    (found,) = kernels(FUSION)
    assert found.kind == "elementwise"
    assert (found.operations, found.transcendentals, found.indexed) == (128, 64, 64)
    assert found.bytes_read == 64 * 4 + 4
    assert found.bytes_written == 64 * 4


LOOP = """\
HloModule m

%body (t: (s32[], f32[8])) -> (s32[], f32[8]) {
  %t = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = f32[8]{0} get-tuple-element(%t), index=1
  %y = f32[8]{0} add(%x, %x)
  ROOT %r = (s32[], f32[8]{0}) tuple(%i, %y)
}

%condition (t: (s32[], f32[8])) -> pred[] {
  %t.1 = (s32[], f32[8]{0}) parameter(0)
  ROOT %c = pred[] constant(true)
}

ENTRY %main (s: (s32[], f32[8])) -> (s32[], f32[8]) {
  %s = (s32[], f32[8]{0}) parameter(0)
  ROOT %w = (s32[], f32[8]{0}) while(%s), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"12"}}
}
"""


def test_a_loop_runs_its_kernels_as_often_as_it_turns() -> None:
    (found,) = kernels(LOOP)
    assert (found.kind, found.count, found.operations) == ("elementwise", 12, 8)


def test_padding_and_places_of_a_tpu() -> None:
    """Tiles of 8 x 128: 10 x 100 floats take 16 x 128; S(1) is memory on the chip."""
    (found,) = kernels(
        entry(
            "%a = f32[10,100]{1,0:T(8,128)} parameter(0)",
            "%b = f32[10,100]{1,0:T(8,128)S(1)} parameter(1)",
            "ROOT %s = f32[10,100]{1,0:T(8,128)} add(%a, %b), backend_config="
            '{"estimated_cycles":"1500"}',
        ),
        clock=1.5e9,
    )
    padded = 4 * 16 * 128
    assert (found.bytes_read, found.bytes_written) == (2 * padded, padded)
    assert found.bytes_near == padded
    assert found.estimate == pytest.approx(1e-6)
    assert found.operations == 1000


def test_a_prefetch_runs_beside_the_kernels() -> None:
    (found,) = kernels(
        entry(
            "%a = f32[128]{0:T(128)} parameter(0)",
            "%s = (f32[128]{0:T(128)S(1)}, f32[128]{0:T(128)}, u32[]{:S(2)}) copy-start(%a)",
            "ROOT %d = f32[128]{0:T(128)S(1)} copy-done(%s)",
        )
    )
    assert found.overlapped
    assert (found.bytes_read, found.bytes_written, found.bytes_near) == (512, 512, 512)


def test_a_library_call() -> None:
    (found,) = kernels(
        entry(
            "%x = s8[2,8,8,32]{3,2,1,0} parameter(0)",
            "%w = s8[64,3,3,32]{3,2,1,0} parameter(1)",
            "%c = (s32[2,8,8,64]{3,2,1,0}, u8[1024]{0}) custom-call(%x, %w), "
            "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, "
            'custom_call_target="__cudnn$convForward"',
            "ROOT %g = s32[2,8,8,64]{3,2,1,0} get-tuple-element(%c), index=0",
        )
    )
    assert (found.library, found.kind, found.dtype) == ("cudnn", "convolution", "int8")
    assert found.products == (Product(m=128, n=64, k=288, window=9),)


def test_the_larger_branch_of_a_conditional_counts() -> None:
    text = """\
HloModule m

%small (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  ROOT %n = f32[8]{0} negate(%x)
}

%large (y: f32[8]) -> f32[8] {
  %y = f32[8]{0} parameter(0)
  %a = f32[8]{0} add(%y, %y)
  ROOT %b = f32[8]{0} multiply(%a, %y)
}

ENTRY %main (i: s32[], z: f32[8]) -> f32[8] {
  %i = s32[] parameter(0)
  %z = f32[8]{0} parameter(1)
  ROOT %c = f32[8]{0} conditional(%i, %z, %z), branch_computations={%small, %large}
}
"""
    assert [k.name for k in kernels(text)] == ["a", "b"]


def test_a_kernel_is_plain_data() -> None:
    for found in (*kernels(FUSION), *kernels(LOOP)):
        assert Kernel.from_json(found.to_json()) == found


def test_a_kernel_of_another_version_is_refused() -> None:
    plain = kernels(LOOP)[0].to_json()
    for other in ({**plain, "colour": 1}, {k: v for k, v in plain.items() if k != "roots"}):
        with pytest.raises(KeyError, match="another version"):
            Kernel.from_json(other)


@pytest.mark.parametrize(
    ("opcode", "exponentials", "roots"),
    [("exponential", 12, 0), ("log", 12, 0), ("rsqrt", 0, 12), ("tanh", 0, 0)],
)
def test_functions_are_told_apart(opcode: str, exponentials: int, roots: int) -> None:
    (found,) = kernels(
        entry("%a = f32[3,4]{1,0} parameter(0)", f"ROOT %b = f32[3,4]{{1,0}} {opcode}(%a)")
    )
    assert found.transcendentals == 12
    assert (found.exponentials, found.roots) == (exponentials, roots)


@pytest.mark.parametrize(
    ("read", "written", "rows"),
    [
        ("f32[6,4]{1,0}", "f32[6,4]{1,0}", (4, 4)),
        ("f32[6,4]{1,0}", "f32[6,4]{0,1}", (4, 6)),
        ("f32[6,4,1]{2,1,0}", "f32[6,4,1]{0,2,1}", (4, 6)),  # an axis of one is no row
        ("f32[10,100]{1,0:T(8,128)}", "f32[10,100]{1,0:T(8,128)}", (100, 100)),
    ],
)
def test_rows_are_what_lies_side_by_side(read: str, written: str, rows: tuple[int, int]) -> None:
    (found,) = kernels(entry(f"%a = {read} parameter(0)", f"ROOT %b = {written} copy(%a)"))
    assert (found.row_read, found.row_written) == rows


def test_text_that_is_no_module() -> None:
    with pytest.raises(ValueError, match="no ENTRY"):
        parse_module("HloModule m\n")


def test_operands_that_were_swapped() -> None:
    """A convolution with one tap, whose image was made the kernel: one product a place."""
    (found,) = kernels(
        entry(
            "%w = f32[1,1,8,16]{3,2,1,0} parameter(0)",
            "%x = f32[112,112,8,2]{3,2,1,0} parameter(1)",
            "ROOT %c = f32[16,112,112,2]{3,2,1,0} convolution(%w, %x),"
            " window={size=112x112 pad=111_111x111_111 rhs_reversal=1x1},"
            " dim_labels=01fb_01io->b01f",
        )
    )
    assert found.products == (Product(m=16 * 112 * 112, n=2, k=8),)


def test_a_transposed_convolution_of_cudnn() -> None:
    """The gradient by the inputs of a convolution of stride 2: as many products as that has."""
    (found,) = kernels(
        entry(
            "%x = f32[2,8,8,64]{3,2,1,0} parameter(0)",
            "%w = f32[64,4,4,32]{3,2,1,0} parameter(1)",
            "ROOT %c = (f32[2,16,16,32]{3,2,1,0}, u8[0]{0}) custom-call(%x, %w),"
            " window={size=4x4 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f,"
            ' custom_call_target="__cudnn$convBackwardInput"',
        )
    )
    assert found.products == (Product(m=2 * 8 * 8, n=32, k=16 * 64, window=16),)


@pytest.mark.parametrize(
    ("labels", "window", "library"),
    [
        ("b01f_01io->b01f", "size=5x5 pad=2_2x2_2", "xla"),
        ("b01f_01io->b01f", "size=5x5 pad=2_2x2_2 rhs_reversal=1x1", "loops"),
        ("01fb_o01i->f01b", "size=5x5 pad=2_2x2_2", "loops"),
    ],
)
def test_what_xla_writes_as_plain_loops_on_a_cpu(labels: str, window: str, library: str) -> None:
    lines = (
        "%x = f32[8,8,8,8]{3,2,1,0} parameter(0)",
        "%w = f32[8,8,8,8]{3,2,1,0} parameter(1)",
        f"ROOT %c = f32[8,8,8,8]{{3,2,1,0}} convolution(%x, %w), window={{{window}}},"
        f" dim_labels={labels}",
    )
    (found,) = kernels(entry(*lines))
    assert found.library == library
    (on_a_tpu,) = kernels(entry(*lines), clock=1e9)
    assert on_a_tpu.library == "xla"
