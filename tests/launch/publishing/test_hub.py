"""A folder reaches a hub whole and private, and whatever keeps it from there is said before or without harm."""

import sys

import huggingface_hub
import pytest
from huggingface_hub import constants

from launch.publish import main
from launch.publishing.hub import check_push, push
from tests.launch.publishing.hub_server import Hub

CARD = "---\nlanguage: zh\nlicense: apache-2.0\n---\n\n# tiny\n"


@pytest.fixture
def hub(monkeypatch):
    """A hub whose token is in the environment. Xet, the real one's storage, is left for plain LFS."""
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()  # one that was opened offline stays so
    with Hub("hf_right") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub
    huggingface_hub.close_session()


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "small"
    (path / "onnx").mkdir(parents=True)
    (path / "README.md").write_text(CARD)
    (path / "model.safetensors").write_bytes(b"weights" * 100)
    (path / "onnx/model.onnx").write_bytes(b"graph" * 100)
    return path


def publish(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["publish", *map(str, arguments)])
    main()


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_is_there_is_uploaded_to_a_private_repository(hub, folder, monkeypatch, capsys):
    publish(monkeypatch, "--output", folder, "--push", "me/small")
    assert hub.private == {"me/small": True} and hub.files["me/small"] == files_of(folder)
    assert capsys.readouterr().out == f"{folder}: uploaded to {hub.address}/me/small\n"
    (folder / "README.md").write_text(CARD + "new\n")
    publish(monkeypatch, "--output", folder, "--push", "me/small")
    assert hub.files["me/small"]["README.md"].endswith(b"new\n")


def test_a_student_is_published_and_uploaded_in_one_command(hub, finished_run, tmp_path, monkeypatch):
    output = tmp_path / "out"
    command = ["--run", finished_run, "--student", "small", "--output", output, "--licence", "mit"]
    publish(monkeypatch, *command, "--push", "me/small", "--public")
    assert hub.private == {"me/small": False} and hub.files["me/small"] == files_of(output)
    assert b"\nlicense: mit\n" in hub.files["me/small"]["README.md"]


def test_what_is_to_be_private_is_not_uploaded_to_a_public_repository(hub, folder):
    hub.private["me/open"], hub.files["me/open"] = False, {}
    with pytest.raises(ValueError, match="not uploaded: it is there already and public: give --public to upload to it"):
        push(folder, "me/open")
    assert hub.files["me/open"] == {}
    push(folder, "me/open", public=True)
    assert hub.files["me/open"]


def test_a_hub_that_refuses_or_does_not_answer_is_named_and_the_folder_stays(hub, folder, monkeypatch):
    before = files_of(folder)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(
        ValueError, match=r"--push me/small: not uploaded: .*Invalid username or password.*; .*small is"
    ):
        push(folder, "me/small")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"--push me/small: not uploaded: .*[Cc]onnect.*; .*small is whole"):
        push(folder, "me/small")
    assert files_of(folder) == before


@pytest.mark.parametrize("name", ["small", "me/you/small", "me/sm all"])
def test_a_name_that_is_no_hubs_is_refused(name, hub):
    with pytest.raises(ValueError, match=f"--push {name}: wanted OWNER/NAME"):
        check_push(name)


def test_without_a_token_nothing_is_published(finished_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    output = tmp_path / "out"
    command = ["--run", finished_run, "--student", "small", "--output", output, "--licence", "mit"]
    with pytest.raises(SystemExit, match="2"):
        publish(monkeypatch, *command, "--push", "me/small")
    told = capsys.readouterr().err
    assert told == "error: --push me/small: no token: set HF_TOKEN to one of the hub's that may write\n"
    assert not output.exists()


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("# tiny\n", r"README.md: its metadata has no language, license: publish with --licence, or add it there"),
        ("---\nlanguage: zh\n---\n", r"README.md: its metadata has no license: publish"),
        ("---\n- 1\n---\n", r"README.md: its metadata cannot be read: "),
        (None, r"README.md: there is no such file: a folder to upload has a model card"),
    ],
)
def test_an_incomplete_card_is_refused(card, message, hub, folder):
    (folder / "README.md").unlink()
    if card:
        (folder / "README.md").write_text(card)
    with pytest.raises(ValueError, match=message):
        push(folder, "me/small")
    assert hub.private == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "a"], "give --run and --student, or --push alone to upload a folder that is there"),
        ([], "give --run and --student, or --push alone"),
        (["--run", "a", "--student", "b", "--public"], "--public is about the repository of --push"),
        (["--run", "a", "--student", "b", "--push", "me/x"], "--push needs --licence: readers of a hub must know"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(arguments, message, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="2"):
        publish(monkeypatch, "--output", "x", *arguments)
    assert message in capsys.readouterr().err
