from orchestrator.config.tables import table


def test_columns_are_as_wide_as_their_widest_cell():
    rows = [("a", 1.5), ("longer", 22)]
    assert table(rows, ("name", "value"), "<>") == ("name    value\na         1.5\nlonger     22")


def test_without_a_header_only_rows_and_without_rows_nothing():
    assert table([("a", ""), ("b", "c")]) == "a\nb  c"
    assert table([], ("name",)) == ""


def test_a_cell_cannot_steer_the_terminal():
    assert table([("a\x1b[2Jb\n",)]) == "a [2Jb"
