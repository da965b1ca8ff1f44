"""Files that CLUE's boards read: their names and their forms (CLUEbenchmark/CLUE and LightLM, baselines and examples).

Classes and entities are a line each, {"id": 0, "label": "1"}, numbered in the order of the test file. C3's label is
the index of a choice. The answers of CMRC2018, DRCD and ChID are a single object, by question or blank.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.config import TaskConfig

# By task the names of its file; the first is that of the newest test file. NLPCC-2020's own names come last.
NAMES: dict[str, tuple[str, ...]] = {
    "afqmc": ("afqmc_predict.json",),
    "tnews": ("tnews11_predict.json", "tnews10_predict.json", "tnews_predict.json"),
    "iflytek": ("iflytek_predict.json",),
    "cmnli": ("cmnli_predict.json",),
    "ocnli": ("ocnli_50k_predict.json",),
    "cluewsc2020": ("cluewsc11_predict.json", "cluewsc10_predict.json", "cluewsc2020_predict.json"),
    "csl": ("csl_predict.json",),
    "cluener": ("cluener_predict.json", "cluener2020_results.json"),
    "cmrc2018": ("cmrc2018_predict.json",),
    "drcd": ("drcd_predict.json",),
    "chid": ("chid11_predict.json", "chid10_predict.json"),
    "c3": ("c311_predict.json", "c310_predict.json"),
}
ONE_OBJECT = {"cmrc2018": "answer", "drcd": "answer", "chid": "label"}  # by task the field that is its value
_TOPICS = (
    "story culture entertainment sports finance - house car edu tech military - travel world stock agriculture game"
)
_CODES = enumerate(_TOPICS.split(), 100)
_TNEWS = {f"news_{topic}": str(code) for code, topic in _CODES if topic != "-"}  # the boards read the codes


def submission_path(task: TaskConfig, output: Path, tested: Path) -> Path:
    """Return the file to write: in a folder the one with the task's name for it, of the version of the test file.

    Raise ValueError if the task is none of CLUE's or the boards take no file of this name.
    """
    if task.name not in NAMES:
        raise ValueError(f"--form clue: {task.name} is none of CLUE's tasks: {', '.join(NAMES)}")
    names = NAMES[task.name]
    if output.is_dir() or not output.suffix:
        older = [name for name in names if name.endswith("10_predict.json")] if "1.0" in tested.stem else []
        return output / (older or names)[0]
    if output.name not in names:
        raise ValueError(f"--output {output}: for {task.name} the boards read {' or '.join(names)}; or give a folder")
    return output


def submission_lines(task: TaskConfig, answers: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of a file to submit. Raise ValueError for an answer that the boards do not know."""
    if field := ONE_OBJECT.get(task.name):
        values: dict[str, Any] = {}
        for one in answers:
            if (name := str(one["id"])) in values:
                raise ValueError(f"--form clue: the id {name} occurs more than once in the input")
            values[name] = one[field]
        yield json.dumps(values, ensure_ascii=False, indent=4)
        return
    for number, one in enumerate(answers):  # the boards want lines numbered from 0, whatever ids a file has
        yield json.dumps({"id": number, **_label(task, one["label"])}, ensure_ascii=False)


def _label(task: TaskConfig, label: Any) -> dict[str, Any]:
    if task.name != "tnews" or label in _TNEWS.values():
        return {"label": label}
    if label not in _TNEWS:
        raise ValueError(f"--form clue: {label!r} is no label of tnews: {', '.join(_TNEWS)}")
    return {"label": _TNEWS[label], "label_desc": label}
