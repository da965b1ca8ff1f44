"""What general distillation costs on a cluster, by arithmetic alone: tables for docs/cluster.md.

    python bench/scale.py [--gpus 8 64 1024] [--tflops 400] [--gbit 400] [--batch-tokens 2097152]

Nothing is measured here. What is assumed of the hardware stands in `Hardware` (launch/planning/cluster.py), each figure
with its meaning.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# In the place of bench/, where corpus.py would hide the package of its name
sys.path[0] = str(Path(__file__).resolve().parents[1])

from corpus.rows.order import NUM_LANES
from launch.planning import cluster
from launch.planning.cluster import Hardware, Step, StudentWork, Work
from launch.planning.encoder_cost import EncoderCost
from launch.planning.work import relation_operations
from pretrain.models.encoder import Reads
from pretrain.models.shape import EncoderShape
from pretrain.objectives.relations import published_teacher_layer

VOCABULARIES = (21_128, 250_002)  # Google's Chinese WordPiece, XLM-R's pieces
NUM_POSITIONS, NUM_TYPES = 512, 2
MICRO_TOKENS = 65_536  # of a micro-batch at most, for memory
RECIPE_TOKENS = 100_000 * 4096 * 512  # RBT4-H312's


@dataclass(frozen=True)
class Model:
    name: str
    num_layers: int
    width: int
    inner: int
    relation_heads: int = 8  # of a student

    def cost(self, vocab_size: int) -> EncoderCost:
        """Without a pooler."""
        return EncoderCost.of_bert(self.num_layers, self.width, self.inner, vocab_size, NUM_POSITIONS, NUM_TYPES)

    def trained_parameters(self, vocab_size: int) -> int:
        """What MiniLMv2's relations reach: of the last layer query, key and value alone."""
        return self.cost(vocab_size).reached_parameters(to_projections(self.num_layers))

    def operations(self, row_tokens: int, layer: int | None = None) -> float:
        """Of a token's forward pass to q, k and v of a layer, or of the last; as bench/gd_step.py counts them."""
        return self.cost(VOCABULARIES[0]).operations(to_projections(layer or self.num_layers), row_tokens)

    @property
    def teacher_layer(self) -> int:
        """What MiniLMv2's objective reads of it as a teacher."""
        return published_teacher_layer(EncoderShape("bert", self.num_layers, self.width, 1, self.inner, 1, 1))


def to_projections(layer: int) -> Reads:
    return Reads(projections=frozenset({layer}))


TEACHERS = (Model("12x768", 12, 768, 3072), Model("24x1024", 24, 1024, 4096))
STUDENTS = (Model("4l312d", 4, 312, 1200), Model("4l384d", 4, 384, 1536, 64), Model("6l384d", 6, 384, 1536, 64),
            Model("6l768d", 6, 768, 3072, 64))  # fmt: skip
FAMILIES = {"4l312d": STUDENTS[:1], "6l384d": STUDENTS[2:3], "all four": STUDENTS}  # those of configs/family.json


def plan_step(
    hardware: Hardware, gpus: int, teacher: Model, students: Sequence[Model], row_tokens: int, batch_tokens: int
) -> Step:
    """The step of a global batch of about so many tokens, at least a row a GPU."""
    rows_per_gpu = max(round(batch_tokens / row_tokens / gpus), 1)
    accumulation = -(-rows_per_gpu * row_tokens // MICRO_TOKENS)
    micro_rows = -(-rows_per_gpu // accumulation)
    layer = teacher.teacher_layer
    work = Work(layer, teacher.operations(row_tokens, layer), [work_of(one, teacher, row_tokens) for one in students])
    return cluster.plan_step(hardware, gpus, work, row_tokens, micro_rows, accumulation)


def work_of(student: Model, teacher: Model, row_tokens: int) -> StudentWork:
    """Of three relations."""
    operations = 3 * student.operations(row_tokens) + 3 * relation_operations(teacher.width, student.width, row_tokens)
    numbers = 3 * student.relation_heads * row_tokens
    return StudentWork(student.num_layers, operations, numbers, student.trained_parameters(VOCABULARIES[0]))


def read_factor(gpus: int) -> float:
    """Blocks that all ranks open, over those there are: ranks beyond what divides the lanes open blocks together."""
    return gpus / math.gcd(gpus, NUM_LANES)


def save_interval_seconds(hardware: Hardware, gpus: int, save_seconds: float) -> float:
    """Young's optimum: sqrt(2 x time to save x mean time between failures)."""
    return math.sqrt(2 * save_seconds * hardware.gpu_mtbf_hours * 3600 / gpus)


def checkpoint_bytes(student: Model, vocab_size: int) -> int:
    """Float32 weights, and two moments of what is trained."""
    return 4 * (student.cost(vocab_size).parameters + 2 * student.trained_parameters(vocab_size))


def describe_students(hardware: Hardware, gpus: Sequence[int]) -> Iterator[str]:
    """Sizes, gradients and how long their sum over ranks takes."""
    times = "".join(f" ms, {count:,} GPUs |" for count in gpus)
    yield f"| student | vocabulary | million parameters | embeddings | gradients MB float32 / bfloat16 |{times}"
    yield "|---" * (5 + len(gpus)) + "|"
    for vocab_size in VOCABULARIES:
        for student in STUDENTS:
            cost, trained = student.cost(vocab_size), student.trained_parameters(vocab_size)
            whole, share = cost.parameters, cost.embedding_parameters / cost.parameters
            cells = (
                f"{hardware.all_reduce_seconds(4 * trained, count) * 1e3:.2f} / "
                f"{hardware.all_reduce_seconds(2 * trained, count) * 1e3:.2f}"
                for count in gpus
            )
            yield (
                f"| {student.name} | {vocab_size:,} | {whole / 1e6:.1f} | {share:.0%} | "
                f"{4 * trained / 1e6:.0f} / {2 * trained / 1e6:.0f} | {' | '.join(cells)} |"
            )


def describe_steps(hardware: Hardware, gpus: Sequence[int], batch_tokens: int) -> Iterator[str]:
    """Steps of every teacher, family and row length."""
    yield (
        "| GPUs | teacher | students | L | micro x accumulation | teacher ms | students ms | host ms | all-reduce ms "
        "| tokens/s | recipe, hours | MB/s read a rank | GB/s of all |"
    )
    yield "|---" * 13 + "|"
    for count in gpus:
        for teacher in TEACHERS:
            for name, students in FAMILIES.items():
                for row_tokens in (128, 512):
                    step = plan_step(hardware, count, teacher, students, row_tokens, batch_tokens)
                    rate = step.tokens / step.seconds
                    read = rate / count * hardware.bytes_per_token * read_factor(count)
                    share = step.all_reduce / step.seconds
                    yield (
                        f"| {count:,} | {teacher.name} | {name} | {row_tokens} | "
                        f"{step.micro_rows} x {step.accumulation} | {step.teacher * 1e3:.1f} | "
                        f"{step.students * 1e3:.1f} | {step.host * 1e3:.1f} | {step.all_reduce * 1e3:.2f} ({share:.0%})"
                        f" | {rate / 1e6:,.1f}M | {RECIPE_TOKENS / rate / 3600:,.1f} | {read / 1e6:.2f} | "
                        f"{read * count / 1e9:.2f} |"
                    )


def describe_saving(hardware: Hardware, gpus: Sequence[int], batch_tokens: int) -> Iterator[str]:
    """How often to save, and what failures cost."""
    yield (
        "| students | vocabulary | checkpoint MB | s to save | "
        + " | ".join(f"{count:,} GPUs: every s (steps of 24x1024, L = 512)" for count in gpus)
        + " |"
    )
    yield "|---" * (4 + len(gpus)) + "|"
    for name, students in FAMILIES.items():
        for vocab_size in VOCABULARIES:
            size = sum(checkpoint_bytes(student, vocab_size) for student in students)
            save = size / hardware.disk_bytes
            cells = []
            for count in gpus:
                step = plan_step(hardware, count, TEACHERS[1], students, 512, batch_tokens)
                every = save_interval_seconds(hardware, count, save)
                cells.append(f"{every:,.0f} ({every / step.seconds:,.0f})")
            yield f"| {name} | {vocab_size:,} | {size / 1e6:,.0f} | {save:.2f} | {' | '.join(cells)} |"


def describe_start(hardware: Hardware, gpus: Sequence[int]) -> Iterator[str]:
    """What is read before the first step; a manifest of a million blocks and 2,084 shards (bench/ranks.py), which S3
    lists a thousand at a time."""
    teacher_columns = "teacher 24x1024, GB by all ranks (by nodes)"
    asked = "listings on S3 | sizes asked over http"
    yield f"| GPUs | hours between failures | {teacher_columns} | manifest, GB by all | {asked} |"
    yield "|---" * 6 + "|"
    for count in gpus:
        teacher = 4 * TEACHERS[1].cost(VOCABULARIES[0]).parameters / 1e9
        nodes = -(-count // hardware.gpus_per_node)
        yield (
            f"| {count:,} | {hardware.gpu_mtbf_hours / count:,.0f} | {count * teacher:,.0f} ({nodes * teacher:,.0f}) | "
            f"{count * 0.06:.1f} | {count * 3:,} | {count * 2084:,} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 1024])
    parser.add_argument("--tflops", type=float, default=Hardware.tflops)
    parser.add_argument("--gbit", type=float, default=Hardware.gbit)
    parser.add_argument("--batch-tokens", type=int, default=4096 * 512)
    arguments = parser.parse_args()
    hardware = Hardware(tflops=arguments.tflops, gbit=arguments.gbit)
    tables = (
        ("Students", describe_students(hardware, arguments.gpus)),
        ("Steps", describe_steps(hardware, arguments.gpus, arguments.batch_tokens)),
        ("Saving", describe_saving(hardware, arguments.gpus, arguments.batch_tokens)),
        ("Start", describe_start(hardware, arguments.gpus)),
    )
    for name, lines in tables:
        print(f"\n{name}\n")
        print("\n".join(lines))


if __name__ == "__main__":
    main()
