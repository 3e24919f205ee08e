"""What is on disk is a record of this project, or is refused as none."""

import pytest

from bi_experiments.records import ExperimentResult, RecordError, event_from_line, from_json

DAMAGED = (b"", b"{", b"[]", b'{"version":1}', b'{"version":"\xff"}', b"[" * 5000, b'{"x":' + b"[" * 5000)


@pytest.mark.parametrize("data", DAMAGED)
def test_what_is_no_record_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(RecordError, match=r"^result\.json: is not a record \(ExperimentResult\)"):
        from_json(data, ExperimentResult, "result.json")
    with pytest.raises(RecordError, match="not an event"):
        event_from_line(data)
