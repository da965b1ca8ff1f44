"""The relation loss and its gradient as Triton kernels: no relation matrix is ever written, whatever L is.

Shapes: N rows times relation heads, L tokens, d width of a relation head. Flash-attention's tiling (arXiv:2205.14135)
on two models at once: a pass over tiles gives each query's normalisers and divergence, another the gradient. Triton's
interpreter (TRITON_INTERPRET=1) runs the same code on a CPU. Same tests as the portable code in relations.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_MASKED = tl.constexpr(-1e9)


@triton.jit
def _tile(x, y, rows, columns, length, width, depth: tl.constexpr, PRECISION: tl.constexpr):
    """Products [rows, columns] of rows of x and of y, both [L, d]; what lies outside counts as 0."""
    inner = tl.arange(0, depth)
    a = tl.load(x + rows[:, None] * width + inner[None, :], (rows[:, None] < length) & (inner[None, :] < width), 0.0)
    b = tl.load(
        y + columns[:, None] * width + inner[None, :], (columns[:, None] < length) & (inner[None, :] < width), 0.0
    )
    return tl.dot(a, tl.trans(b), input_precision=PRECISION)


@triton.jit
def _place(length, block: tl.constexpr):
    """This program's row-and-head and its queries: one dimension of programs, for CUDA allows 65,535 in the others."""
    tiles = tl.cdiv(length, block)
    return tl.program_id(0) // tiles, tl.program_id(0) % tiles * block + tl.arange(0, block)


@triton.jit
def _normalizers_kernel(
    ta, tb, sa, sb, mask, log_z_teacher, log_z_student, divergence,
    length, teacher_width, student_width, teacher_scale, student_scale, num_heads,
    TEACHER_DEPTH: tl.constexpr, STUDENT_DEPTH: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """log Z of both models [N, L], and KL = sum p (z_teacher - z_student) - log Z_teacher + log Z_student, online."""
    head, rows = _place(length, BLOCK)
    max_t = tl.full([BLOCK], float("-inf"), tl.float32)
    max_s = tl.full([BLOCK], float("-inf"), tl.float32)
    sum_t, sum_s, cross = (tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32))
    of_teacher, of_student = head * length * teacher_width, head * length * student_width
    for start in range(0, length, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < length
        is_real = tl.load(mask + (head // num_heads) * length + columns, inside, 0) != 0
        bias = tl.where(is_real, 0.0, _MASKED)[None, :]
        z_t = _tile(ta + of_teacher, tb + of_teacher, rows, columns, length, teacher_width, TEACHER_DEPTH, PRECISION)
        z_s = _tile(sa + of_student, sb + of_student, rows, columns, length, student_width, STUDENT_DEPTH, PRECISION)
        difference = z_t * teacher_scale - z_s * student_scale
        z_t = tl.where(inside[None, :], z_t * teacher_scale + bias, float("-inf"))
        z_s = tl.where(inside[None, :], z_s * student_scale + bias, float("-inf"))
        new_t, new_s = tl.maximum(max_t, tl.max(z_t, 1)), tl.maximum(max_s, tl.max(z_s, 1))
        shrink = tl.exp(max_t - new_t)
        e_t = tl.exp(z_t - new_t[:, None])
        sum_t = sum_t * shrink + tl.sum(e_t, 1)
        cross = cross * shrink + tl.sum(e_t * difference, 1)
        sum_s = sum_s * tl.exp(max_s - new_s) + tl.sum(tl.exp(z_s - new_s[:, None]), 1)
        max_t, max_s = new_t, new_s
    log_t, log_s = max_t + tl.log(sum_t), max_s + tl.log(sum_s)
    at, stored = head * length + rows, rows < length
    tl.store(log_z_teacher + at, log_t, stored)
    tl.store(log_z_student + at, log_s, stored)
    tl.store(divergence + at, cross / sum_t - log_t + log_s, stored)


@triton.jit
def _gradient_kernel(
    tx, ty, sx, sy, mask, weight, log_z_teacher, log_z_student, gradient,
    length, teacher_width, student_width, teacher_scale, student_scale, num_heads,
    TEACHER_DEPTH: tl.constexpr, STUDENT_DEPTH: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
    ROWS_ARE_QUERIES: tl.constexpr, COLUMNS_ARE_QUERIES: tl.constexpr,
):  # fmt: skip
    """Gradient by x [N, L, d] of logits x y^T whose rows, or columns, or in turn both are queries."""
    head, rows = _place(length, BLOCK)
    of_teacher, of_student, of_row = head * length * teacher_width, head * length * student_width, head * length
    row_inside, inner = rows < length, tl.arange(0, STUDENT_DEPTH)
    row_real = tl.load(mask + (head // num_heads) * length + rows, row_inside, 0) != 0
    row_weight = tl.load(weight + of_row + rows, row_inside, 0.0)
    row_t = tl.load(log_z_teacher + of_row + rows, row_inside, 0.0)
    row_s = tl.load(log_z_student + of_row + rows, row_inside, 0.0)
    total = tl.zeros([BLOCK, STUDENT_DEPTH], tl.float32)
    for start in range(0, length, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < length
        column_real = tl.load(mask + (head // num_heads) * length + columns, inside, 0) != 0
        z_t = _tile(tx + of_teacher, ty + of_teacher, rows, columns, length, teacher_width, TEACHER_DEPTH, PRECISION)
        z_s = _tile(sx + of_student, sy + of_student, rows, columns, length, student_width, STUDENT_DEPTH, PRECISION)
        z_t, z_s = z_t * teacher_scale, z_s * student_scale
        by_logits = tl.zeros([BLOCK, BLOCK], tl.float32)
        if ROWS_ARE_QUERIES:
            change = tl.exp(z_s - row_s[:, None]) - tl.exp(z_t - row_t[:, None])
            by_logits += tl.where(column_real[None, :], change * row_weight[:, None], 0.0)
        if COLUMNS_ARE_QUERIES:
            column_weight = tl.load(weight + of_row + columns, inside, 0.0)
            column_t = tl.load(log_z_teacher + of_row + columns, inside, 0.0)
            column_s = tl.load(log_z_student + of_row + columns, inside, 0.0)
            change = tl.exp(z_s - column_s[None, :]) - tl.exp(z_t - column_t[None, :])
            by_logits += tl.where(row_real[:, None], change * column_weight[None, :], 0.0)
        y = tl.load(
            sy + of_student + columns[:, None] * student_width + inner[None, :],
            inside[:, None] & (inner[None, :] < student_width), 0.0,
        )  # fmt: skip
        total += tl.dot(by_logits, y, input_precision=PRECISION)
    place = gradient + of_student + rows[:, None] * student_width + inner[None, :]
    tl.store(place, total * student_scale, row_inside[:, None] & (inner[None, :] < student_width))


def relation_loss_and_gradient(
    teacher: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor], mask: Tensor, weight: Tensor, num_heads: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As relations.py: the loss and its gradients by the student's a and b, none by b where a is b.

    Args:
        teacher, student: a and b, float32 [N, L, d], contiguous; N = rows x relation heads.
        mask: bool [rows, L].
        weight: of each query, float32 [N, L].
    """
    (ta, tb), (sa, sb) = teacher, student
    num, length, width = sa.shape
    block = 64 if length >= 64 else 16
    depths = [max(16, triton.next_power_of_2(tensor.shape[-1])) for tensor in (ta, sa)]
    # As the portable code's products (precision.py). Exact ones of wide heads take registers that no GPU has.
    precision = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    sizes = (length, ta.shape[-1], width, ta.shape[-1] ** -0.5, width**-0.5, num_heads, *depths, block, precision)
    grid, is_real = (num * triton.cdiv(length, block),), mask.to(torch.int8).contiguous()
    log_z_teacher, log_z_student, divergence = (torch.empty_like(weight) for _ in range(3))
    made = log_z_teacher, log_z_student, divergence
    # One stage: a second one's tiles of the widest heads do not fit an H100's shared memory
    _normalizers_kernel[grid](ta, tb, sa, sb, is_real, *made, *sizes, num_stages=1)
    kept = (is_real, weight, log_z_teacher, log_z_student)

    def gradient(x: int, y: int, rows_are_queries: bool, columns_are_queries: bool) -> Tensor:
        result = torch.empty_like(sa)
        models = (teacher[x], teacher[y], student[x], student[y])
        _gradient_kernel[grid](*models, *kept, result, *sizes, rows_are_queries, columns_are_queries, num_stages=1)
        return result

    loss = (divergence * weight).sum()
    if sa is sb:
        return loss, gradient(0, 0, True, True), None
    return loss, gradient(0, 1, True, False), gradient(1, 0, False, True)
