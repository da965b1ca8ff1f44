"""A model whose last states are k times as large and otherwise the same: what scale alone does to fine-tuning.

    python bench/state_scale.py --model students/mixture --times 0.118 --output scaled

Then launch/evaluate_tasks.py with both. Results: bench/results/first_students.md.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers import AutoTokenizer

from pretrain.models.pretrained import load_encoder


def main() -> None:
    """Multiply gain and bias of the last layer's norm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id of an encoder")
    parser.add_argument("--times", type=float, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    model = load_encoder(arguments.model)
    norm = model.encoder.layer[-1].output.LayerNorm
    with torch.no_grad():
        norm.weight *= arguments.times
        norm.bias *= arguments.times
    model.save_pretrained(arguments.output)
    AutoTokenizer.from_pretrained(arguments.model).save_pretrained(arguments.output)


if __name__ == "__main__":
    main()
