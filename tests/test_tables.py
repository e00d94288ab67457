"""Tables in the documentation are those of the recorded runs."""

import json

import pytest

from docs import tables


ROWS = [
    {"seed": 3, "ari": 0.5, "fg_ari": 0.9, "seconds": 61.2, "stopped": "finished"},
    {"seed": 4, "ari": None, "fg_ari": 0.7, "seconds": 60.0, "stopped": "diverged"},
]
PAGE = """Before.

<!-- table two: seed fg_ari ari seconds; fg_ari 0.8, ari 0.2 -->
{}<!-- end of table -->

After.
"""
TABLE = """
| seed | FG-ARI | ARI | seconds | |
| --- | --- | --- | --- | --- |
| 3 | 0.900 | 0.500 | 61 | |
| 4 | 0.700 | | 60 | diverged, not reached |
| mean | 0.800 | 0.500 | | |
| standard deviation | 0.100 | 0.000 | | |

In 1 of 2 seeds: FG-ARI of 0.8 and ARI of 0.2 or more.

"""


@pytest.fixture
def docs(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "DOCS", tmp_path)
    monkeypatch.setattr(tables, "RECORDS", tmp_path / "records")
    (tmp_path / "records").mkdir()
    tables.record("two", ROWS)
    (tmp_path / "page.md").write_text(PAGE.format(""))
    return tmp_path


def test_pages_are_as_their_records_say():
    tables.main(["--check"])


def test_table_of_seeds_tells_all_of_them(docs):
    tables.main([])
    assert (docs / "page.md").read_text() == PAGE.format(TABLE)
    tables.main(["--check"])


def test_what_is_rounded_to_zero_has_no_sign():
    text = tables.table([{"name": "one", "ari": -1e-5}], ("name", "ari"))
    assert "| one | 0.000 |" in text and "-0.000" not in text


def test_a_column_may_be_a_share_of_another():
    rows = [
        {"seed": 0, "mse": 0.5, "mse_of_mean_image": 2.0},
        {"seed": 1, "mse": 0.25, "mse_of_mean_image": 0.5},
        {"seed": 2, "mse": None, "mse_of_mean_image": 0.5},
    ]
    text = tables.table(rows, ("seed", "mse/mse_of_mean_image"))
    title, _, *values, mean, spread = text.splitlines()
    assert title == "| seed | of mean image |"
    assert values == ["| 0 | 0.250 |", "| 1 | 0.500 |", "| 2 | |"]
    assert mean == "| mean | 0.375 |"
    assert spread == "| standard deviation | 0.125 |"


def test_summary_has_a_line_for_each_record(docs):
    tables.record("one", ROWS[:1])
    mark = '<!-- summary "Three, four" two, "Three" one: fg_ari 0.8, ari 0.6 -->\n'
    end = "<!-- end of summary -->\n"
    (docs / "page.md").write_text(mark + end)
    tables.main([])
    assert (
        (docs / "page.md").read_text()
        == f"""{mark}
| | mean FG-ARI | least | mean ARI | least | seeds of 0.8 and 0.6 or more |
| --- | --- | --- | --- | --- | --- |
| Three, four | 0.800 | 0.700 | 0.500 | 0.500 | 0 of 2 |
| Three | 0.900 | 0.900 | 0.500 | 0.500 | 0 of 1 |

{end}"""
    )
    (docs / "page.md").write_text(f"<!-- summary one: fg_ari 0.8 -->\n{end}")
    with pytest.raises(ValueError, match=r"not of the form <!-- summary .*On gray"):
        tables.main([])


def test_table_that_is_not_its_record_is_refused(docs):
    tables.main([])
    stale = PAGE.format(TABLE.replace("0.900", "0.901"))
    (docs / "page.md").write_text(stale)
    with pytest.raises(SystemExit, match=r"page.md: run `python -m docs.tables`"):
        tables.main(["--check"])
    assert (docs / "page.md").read_text() == stale


def test_multiples_are_of_the_first_row():
    rows = [
        {"name": "a", "forward_ms": 2.0, "memory_mb": 1234},
        {"name": "b", "forward_ms": 5.0},
        {"name": "c", "forward_ms": 0.5},
    ]
    columns = ("name", "forward_ms", "forward_ms/first", "memory_mb")
    assert tables.table(rows, columns).splitlines()[2:] == [
        "| a | 2.0 | 1.0x | 1,234 |",
        "| b | 5.0 | 2.5x | |",
        "| c | 0.5 | 0.25x | |",
    ]


def test_slips_in_a_mark_are_named(docs):
    with pytest.raises(ValueError, match="No row has `far`, only seed, ari, fg_ari"):
        tables.table(ROWS, ("seed", "far"))
    with pytest.raises(ValueError, match="not of the form <!-- table blocks: seed fg"):
        tables.written(PAGE.format("").replace("end of", "end"))
    with pytest.raises(FileNotFoundError, match="three"):
        tables.written(PAGE.format("").replace("two", "three"))


def test_records_are_lists_of_rows():
    for path in tables.RECORDS.glob("*.json"):
        rows = json.loads(path.read_text())
        assert rows and all(isinstance(row, dict) for row in rows), path
