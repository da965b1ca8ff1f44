import pytest

from corpus.building.work_folder import Result, load_result, save_result


class Number(Result):
    value: int


def build(value, key="k"):
    def build_in(folder):
        (folder / "data").write_text(str(value))
        return Number(key=key, value=value)

    return build_in


def test_a_result_is_found_only_by_its_key(tmp_path):
    folder = tmp_path / "r"
    assert load_result(Number, folder, "k") is None
    assert save_result(folder, build(1)).value == 1
    assert load_result(Number, folder, "k") == Number(key="k", value=1)
    assert load_result(Number, folder, "other") is None
    (folder / "record.json").write_text("{")
    assert load_result(Number, folder, "k") is None


def test_an_outdated_result_is_replaced_and_an_equal_one_kept(tmp_path):
    folder = tmp_path / "r"
    save_result(folder, build(1))
    save_result(folder, build(2))  # of the same key: somebody else did the same work
    assert (folder / "data").read_text() == "1"
    save_result(folder, build(3, key="new"))
    assert (folder / "data").read_text() == "3"
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_a_failed_step_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "data").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save_result(tmp_path / "r", fail)
    assert list(tmp_path.iterdir()) == []
