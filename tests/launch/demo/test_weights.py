"""The reader of 4-bit files: every array as it was packed, and every fault named."""

import re

import numpy as np
import pytest

from launch.demo.weights import E5File
from tests.launch import tiny_e5
from tests.launch.tiny_e5 import HIDDEN, PIECES, VOCAB, array_shapes, build_arrays, build_e5


def test_every_array_reads_as_it_was_packed():
    file = E5File(build_e5(), "tiny.bin")
    _, values = build_arrays()
    for name, shape in array_shapes().items():
        read = file.array(name, *shape)
        assert read.dtype == np.float32 and np.array_equal(read, values[name]), name


def test_header_and_pieces():
    file = E5File(build_e5(), "tiny.bin")
    assert file.pieces == PIECES
    assert np.array_equal(file.scores, np.asarray(tiny_e5.SCORES, np.float32))
    assert file.special == {"<s>": 0, "</s>": 2, "<pad>": 1, "<unk>": 3}
    shape = file.shape
    assert (shape.hidden_size, shape.num_layers, shape.num_heads, shape.vocab_size) == (HIDDEN, 2, 4, VOCAB)


def test_chosen_rows_are_those_of_the_whole_array():
    file = E5File(build_e5(), "tiny.bin")
    rows = np.array([7, 2, 2, VOCAB - 1])
    for name, num_rows in (("emb.word", VOCAB), ("emb.pos", tiny_e5.POSITIONS)):
        whole = file.array(name, num_rows, HIDDEN)
        assert np.array_equal(file.array(name, num_rows, HIDDEN, rows=rows), whole[rows])


def read_all(data: bytes) -> None:
    """Opens the file and reads every array of it."""
    file = E5File(data, "tiny.bin")
    for name, shape in array_shapes().items():
        file.array(name, *shape)


def test_a_file_cut_anywhere_is_refused_by_name():
    data = build_e5()
    read_all(data)
    ends = [*range(0, 500, 7), *range(500, len(data) - 1, 997), len(data) - 1]
    for end in ends:
        with pytest.raises(ValueError, match=r"^tiny\.bin: "):
            read_all(data[:end])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"magic": b"PK\x03\x04abcd"}, "not an E5S1 version 1 file: it begins with b'PK"),
        ({"magic": b"E5S1\x02\x00\x00\x00"}, "not an E5S1 version 1 file"),
        ({"shape": (32, 0, 4, 64, VOCAB, 40, 2)}, "impossible sizes in the header"),
        ({"shape": (32, 2, 4, 64, -1, 40, 2)}, "impossible sizes in the header"),
        ({"eps": float("nan")}, "impossible sizes in the header"),
        ({"block": 16}, "want blocks of 32 weights that divide 32 and 64, the file says 16"),
        ({"shape": (48, 2, 4, 64, VOCAB, 40, 2)}, "want blocks of 32 weights that divide 48"),
        ({"shape": (32, 2, 5, 64, VOCAB, 40, 2)}, "5 heads do not divide 32"),
        ({"shape": (32, 2, 4, 64, 5, 40, 2)}, "16 pieces for a vocabulary of 5"),
        ({"offset_shift": 1}, "piece offsets do not run from 0 to 61 in order"),
        ({"special": (0, 2, 1, 4)}, "piece 4 should be <unk>"),
        ({"special": (-1, 2, 1, 3)}, "piece -1 should be <s>"),
        ({"without": "l1.fo.w"}, "no array 'l1.fo.w' in the directory"),
        ({"entry": {"emb.pos": (0, 7, 0, 28)}}, "emb.pos: 7 values, the model's shape (40, 32) wants 1,280"),
        ({"entry": {"emb.pos": (7, 1280, 0, 5120)}}, "emb.pos: unknown kind of array 7"),
        ({"entry": {"emb.pos": (0, 1280, 0, 5119)}}, "emb.pos: 5,119 bytes at 0; want 5,120 in a file of"),
        ({"entry": {"emb.word": (1, VOCAB * 32, 10**9, VOCAB * 18)}}, "bytes at 1,000,000,000; want 342"),
    ],
)
def test_each_fault_is_named(broken, message):
    with pytest.raises(ValueError, match=r"^tiny\.bin: .*" + re.escape(message)):
        read_all(build_e5(**broken))


def test_a_piece_that_is_not_utf8_is_refused():
    data = build_e5().replace("天地".encode(), b"\xff" * 6)
    with pytest.raises(ValueError, match=r"tiny\.bin: a piece is not UTF-8"):
        E5File(data, "tiny.bin")
