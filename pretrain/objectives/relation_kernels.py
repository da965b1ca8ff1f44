"""The relation loss and its gradient as Triton kernels, which never store a relation matrix.

Shapes: B rows, L tokens, R relation heads, D hidden width, d = D / R. Flash-attention's tiling (arXiv:2205.14135) on
two models at once: one pass over the tiles computes each query's normalizers and divergence, another the gradient. The
kernels read [B, L, D] in place, in the models' own floating type. Triton's interpreter (TRITON_INTERPRET=1) runs the
same code on a CPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pretrain.precision import kept_dtype

_MASKED = tl.constexpr(-1e9)
_OUTSIDE = tl.constexpr(-2)  # the document of positions beyond the end of a row; -1 is padding


@triton.jit
def _load(x, tokens, length, stride, width, DEPTH: tl.constexpr):
    """Load [tokens, DEPTH] of one head of one row; 0 outside the row and beyond the head's width."""
    inner = tl.arange(0, DEPTH)
    inside = (tokens[:, None] < length) & (inner[None, :] < width)
    return tl.load(x + tokens[:, None] * stride + inner[None, :], inside, 0.0)


@triton.jit
def _place(length, num_heads, BLOCK: tl.constexpr):
    """Return this program's row, head and queries. The grid has one dimension: CUDA limits the others to 65,535."""
    tiles = tl.cdiv(length, BLOCK)
    head = tl.program_id(0) // tiles
    return (head // num_heads).to(tl.int64), head % num_heads, tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)


# One compiled kernel for all L and R: by default Triton compiles again for multiples of 16 and for 1.
@triton.jit(do_not_specialize=["length", "num_heads"])
def _normalizers_kernel(
    ta, tb, sa, sb, documents, weight, log_z_teacher, log_z_student, divergence,
    length, teacher_width, student_width, teacher_scale, student_scale, num_heads,
    TEACHER_DEPTH: tl.constexpr, STUDENT_DEPTH: tl.constexpr,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute log Z of both models [B, R, L] and the weighted divergence of each query in one pass over the keys.

    KL = sum p (z_teacher - z_student) - log Z_teacher + log Z_student.
    """
    row, head, rows = _place(length, num_heads, BLOCK)
    teacher_stride, student_stride = teacher_width * num_heads, student_width * num_heads
    of_teacher = row * length * teacher_stride + head * teacher_width
    of_student = row * length * student_stride + head * student_width
    a_t = _load(ta + of_teacher, rows, length, teacher_stride, teacher_width, TEACHER_DEPTH)
    a_s = _load(sa + of_student, rows, length, student_stride, student_width, STUDENT_DEPTH)
    row_document = tl.load(documents + row * length + rows, rows < length, _OUTSIDE)
    max_t = tl.full([BLOCK], float("-inf"), tl.float32)
    max_s = tl.full([BLOCK], float("-inf"), tl.float32)
    sum_t, sum_s, cross = (tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32))
    for start in range(0, length, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        inside = columns < length
        same = row_document[:, None] == tl.load(documents + row * length + columns, inside, _OUTSIDE)[None, :]
        bias = tl.where(inside[None, :], tl.where(same, 0.0, _MASKED), float("-inf"))
        b_t = _load(tb + of_teacher, columns, length, teacher_stride, teacher_width, TEACHER_DEPTH)
        b_s = _load(sb + of_student, columns, length, student_stride, student_width, STUDENT_DEPTH)
        z_t = tl.dot(a_t, tl.trans(b_t), input_precision=PRECISION) * teacher_scale
        z_s = tl.dot(a_s, tl.trans(b_s), input_precision=PRECISION) * student_scale
        difference = z_t - z_s
        z_t, z_s = z_t + bias, z_s + bias
        new_t, new_s = tl.maximum(max_t, tl.max(z_t, 1)), tl.maximum(max_s, tl.max(z_s, 1))
        shrink = tl.exp(max_t - new_t)
        e_t = tl.exp(z_t - new_t[:, None])
        sum_t = sum_t * shrink + tl.sum(e_t, 1)
        cross = cross * shrink + tl.sum(e_t * difference, 1)
        sum_s = sum_s * tl.exp(max_s - new_s) + tl.sum(tl.exp(z_s - new_s[:, None]), 1)
        max_t, max_s = new_t, new_s
    log_t, log_s = max_t + tl.log(sum_t), max_s + tl.log(sum_s)
    at, stored = (row * num_heads + head) * length + rows, rows < length
    importance = tl.load(weight + row * length + rows, stored, 0.0)
    tl.store(log_z_teacher + at, log_t, stored)
    tl.store(log_z_student + at, log_s, stored)
    tl.store(divergence + at, (cross / sum_t - log_t + log_s) * importance, stored)


@triton.jit(do_not_specialize=["length", "num_heads"])
def _gradient_kernel(
    tx, ty, sx, sy, documents, weight, log_z_teacher, log_z_student, gradient,
    length, teacher_width, student_width, teacher_scale, student_scale, num_heads,
    TEACHER_DEPTH: tl.constexpr, STUDENT_DEPTH: tl.constexpr,
    BLOCK: tl.constexpr, COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
    ROWS_ARE_QUERIES: tl.constexpr, COLUMNS_ARE_QUERIES: tl.constexpr,
):  # fmt: skip
    """Compute the gradient with respect to x [B, L, D] of logits x y^T whose rows, columns, or both are queries."""
    row, head, rows = _place(length, num_heads, BLOCK)
    teacher_stride, student_stride = teacher_width * num_heads, student_width * num_heads
    of_teacher = row * length * teacher_stride + head * teacher_width
    of_student = row * length * student_stride + head * student_width
    of_row, of_head = row * length, (row * num_heads + head) * length
    x_t = _load(tx + of_teacher, rows, length, teacher_stride, teacher_width, TEACHER_DEPTH)
    x_s = _load(sx + of_student, rows, length, student_stride, student_width, STUDENT_DEPTH)
    row_inside = rows < length
    row_document = tl.load(documents + of_row + rows, row_inside, _OUTSIDE)
    row_weight = tl.load(weight + of_row + rows, row_inside, 0.0)
    row_t = tl.load(log_z_teacher + of_head + rows, row_inside, 0.0)
    row_s = tl.load(log_z_student + of_head + rows, row_inside, 0.0)
    total = tl.zeros([BLOCK, STUDENT_DEPTH], tl.float32)
    for start in range(0, length, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        inside = columns < length
        same = row_document[:, None] == tl.load(documents + of_row + columns, inside, _OUTSIDE)[None, :]
        y_t = _load(ty + of_teacher, columns, length, teacher_stride, teacher_width, TEACHER_DEPTH)
        y_s = _load(sy + of_student, columns, length, student_stride, student_width, STUDENT_DEPTH)
        z_t = tl.dot(x_t, tl.trans(y_t), input_precision=PRECISION) * teacher_scale
        z_s = tl.dot(x_s, tl.trans(y_s), input_precision=PRECISION) * student_scale
        by_logits = tl.zeros([BLOCK, COLUMNS], tl.float32)
        if ROWS_ARE_QUERIES:
            change = tl.exp(z_s - row_s[:, None]) - tl.exp(z_t - row_t[:, None])
            by_logits += tl.where(same, change * row_weight[:, None], 0.0)
        if COLUMNS_ARE_QUERIES:
            column_weight = tl.load(weight + of_row + columns, inside, 0.0)
            column_t = tl.load(log_z_teacher + of_head + columns, inside, 0.0)
            column_s = tl.load(log_z_student + of_head + columns, inside, 0.0)
            change = tl.exp(z_s - column_s[None, :]) - tl.exp(z_t - column_t[None, :])
            by_logits += tl.where(same, change * column_weight[None, :], 0.0)
        # Differences of relations need more digits than bfloat16 has, so this product is in float32 or TF32.
        total += tl.dot(by_logits, y_s.to(tl.float32), input_precision=PRECISION)
    inner = tl.arange(0, STUDENT_DEPTH)
    place = gradient + of_student + rows[:, None] * student_stride + inner[None, :]
    stored = row_inside[:, None] & (inner[None, :] < student_width)
    tl.store(place, (total * student_scale).to(gradient.dtype.element_ty), stored)


def tile_of(teacher_depth: int, student_depth: int, precision: str) -> tuple[int, int]:
    """Return the number of queries and of keys in a tile, for heads of these padded widths.

    The largest tiles that spill few or no registers, according to ptxas for sm_80 and sm_90. Fixed instead of tuned at
    run time: another tile sums in another order, so a resumed run would end with other bits.
    """
    depth = teacher_depth + student_depth
    if precision == "ieee":  # without tensor cores every thread keeps whole rows of its factors
        return (32, 32) if depth <= 128 else (16, 16)
    if depth <= 192:
        return 64, 32
    return (32, 32) if depth <= 256 else (16, 32)


def _depth(width: int) -> int:
    """Return the padded width of a head: a power of two, at least the minimum of tensor cores."""
    return max(16, int(triton.next_power_of_2(width)))


def relation_loss_and_gradient(
    teacher: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor], documents: Tensor, weight: Tensor, num_heads: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the relation loss and its gradients with respect to the student's a and b, None for b if a is b.

    Products of bfloat16 and float16 inputs are exact, with float32 sums; products of float32 inputs and those of the
    gradient are TF32 or exact, depending on `torch.set_float32_matmul_precision`.

    Args:
        teacher, student: a and b of each model, [B, L, D], both of the same floating type.
        documents: integers [B, L]; relations are between tokens of the same document. -1 is padding.
        weight: weight of each query, float32 [B, L], 0 for padding.

    Returns:
        The loss, float32, and gradients [B, L, D] in the type of `precision.kept_dtype`.
    """
    same = student[0] is student[1]
    teacher, student = _readable(teacher), _readable(student)
    batch, length, width = student[0].shape
    widths = teacher[0].shape[-1] // num_heads, width // num_heads
    depths = _depth(widths[0]), _depth(widths[1])
    precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    tile = tile_of(*depths, precision)
    sizes = (length, *widths, *(width**-0.5 for width in widths), num_heads, *depths, *tile, precision)
    grid = (batch * num_heads * triton.cdiv(length, tile[0]),)
    documents, weight = documents.to(torch.int32).contiguous(), weight.contiguous()
    log_z_teacher, log_z_student, divergence = weight.new_empty((3, batch, num_heads, length), dtype=torch.float32)
    # One stage: with two, the tiles of the widest heads exceed an H100's shared memory
    kept = (documents, weight, log_z_teacher, log_z_student)
    _normalizers_kernel[grid](*teacher, *student, *kept, divergence, *sizes, num_stages=1)

    def gradient(x: int, y: int, rows_are_queries: bool, columns_are_queries: bool) -> Tensor:
        result = torch.empty_like(student[x], dtype=kept_dtype(student[x].dtype))
        models = (teacher[x], teacher[y], student[x], student[y])
        _gradient_kernel[grid](*models, *kept, result, *sizes, rows_are_queries, columns_are_queries, num_stages=1)
        return result

    if same:
        return divergence.sum(), gradient(0, 0, True, True), None
    return divergence.sum(), gradient(0, 1, True, False), gradient(1, 0, False, True)


def _readable(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return contiguous tensors of a type that the kernels multiply: Triton's interpreter on a CPU has no bfloat16."""
    types = {tensor.dtype for tensor in pair}
    low = not pair[0].is_cpu and types in ({torch.bfloat16}, {torch.float16})
    dtype = pair[0].dtype if low else torch.float32
    a, b = (tensor.detach().to(dtype).contiguous() for tensor in pair)
    return a, b
