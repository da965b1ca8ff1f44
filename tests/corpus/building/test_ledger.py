import warnings

import pytest

from corpus.building.ledger import Ledger
from corpus.config import SourceConfig
from corpus.document import Reason

SOURCE = SourceConfig(name="wiki", format="lines", inputs=("x",), licence="MIT")


def test_a_lost_document_is_an_error():
    ledger = Ledger()
    ledger.documents_in = 2
    ledger.documents = 1
    with pytest.raises(RuntimeError, match="wiki: 2 documents came in, but 1 were kept and 0 rejected"):
        ledger.close(SOURCE, [])


def test_many_rejects_are_a_warning_and_half_are_none():
    ledger = Ledger()
    ledger.documents_in, ledger.documents = 4, 2
    ledger.reject(Reason.EMPTY, "f:1")
    ledger.reject(Reason.BROKEN_JSON, "f:2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ledger.close(SOURCE, [])
    ledger.documents_in += 1
    ledger.reject(Reason.EMPTY, "f:3")
    message = r"wiki: 3 of 5 documents rejected \(empty 2, broken_json 1\), e\.g\. f:1, f:3, f:2"
    with pytest.warns(UserWarning, match=message):
        record = ledger.close(SOURCE, [])
    assert (record.name, record.licence) == ("wiki", "MIT")


def test_a_field_that_some_records_lack_warns_early():
    ledger = Ledger()
    ledger.documents_in, ledger.documents = 40, 38
    for line in (1, 2):
        ledger.reject(Reason.FIELD_MISSING, f"f:{line}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ledger.close(SOURCE, [])
    ledger.documents -= 1
    ledger.reject(Reason.FIELD_MISSING, "f:3")
    with pytest.warns(UserWarning, match=r"wiki: 3 of 40 documents rejected .*; field_missing: name fields"):
        ledger.close(SOURCE, [])


def test_the_warning_has_advice_for_the_most_frequent_reason():
    ledger = Ledger()
    ledger.documents_in = 3
    for reason in (Reason.INVALID_UTF8, Reason.INVALID_UTF8, Reason.BROKEN_JSON):
        ledger.reject(reason, "f:1")
    message = r"f:1; invalid_utf8: --encoding detect or gb18030 \(which covers GBK and GB2312\)$"
    with pytest.warns(UserWarning, match=message):
        ledger.close(SOURCE, [])


def test_only_first_examples_are_kept():
    ledger = Ledger()
    for line in range(100):
        ledger.reject(Reason.DUPLICATE, f"f:{line}")
    assert ledger.examples == {Reason.DUPLICATE: ["f:0", "f:1", "f:2"]} and ledger.rejected[Reason.DUPLICATE] == 100


def test_units_add_up_and_all_documents_read_must_be_encoded():
    total = Ledger()
    for unit in range(2):
        read, encoded = Ledger(), Ledger()
        read.documents_in, read.documents = 4, 3
        read.reject(Reason.EMPTY, f"u{unit}:1")
        encoded.documents_in, encoded.documents, encoded.tokens = 3, 1, 7
        encoded.reject(Reason.DUPLICATE, f"u{unit}:2")
        encoded.reject(Reason.DUPLICATE, f"u{unit}:3")
        tallies = read.tally("wiki"), encoded.tally("wiki")
        total.add(*tallies)
    tally = total.tally("wiki")
    assert (tally.documents_in, tally.documents, tally.tokens) == (8, 2, 14)
    assert tally.rejected == {Reason.EMPTY: 2, Reason.DUPLICATE: 4}
    assert tally.examples == {Reason.EMPTY: ["u0:1", "u1:1"], Reason.DUPLICATE: ["u0:2", "u0:3", "u1:2"]}
    with pytest.raises(RuntimeError, match="3 documents were read, but 4 reached encoding"):
        total.add(tallies[0], tallies[1].model_copy(update={"documents_in": 4}))
