"""metrics.csv as it grows."""

import pytest

from mousefacelift.training import metrics_table
from mousefacelift.training.metrics_table import MetricsTable
from support.tables import rows_of


class Time:
    """A clock that the test sets."""

    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(metrics_table, "time", found := Time())
    return found


def steps_in(path):
    return [int(row["step"]) for row in rows_of(path)]


def test_the_table_is_written_as_it_grows_but_not_more_often_than_every_ten_seconds(tmp_path, clock):
    path = tmp_path / "metrics.csv"
    table = MetricsTable(["step", "loss", "seconds"], path)
    for step in range(1, 6):
        table.log_metrics({"loss": 0.5}, step)
        clock.now += 4
    assert steps_in(path) == [1, 2, 3, 4]  # written at 0 and 12 s
    table.log_metrics({"loss": 0.5}, 6)
    assert steps_in(path) == [1, 2, 3, 4]
    table.save()
    assert steps_in(path) == [1, 2, 3, 4, 5, 6]


def test_a_slow_disk_is_written_to_less_often(tmp_path, clock, monkeypatch):
    table, written = MetricsTable(["step"], tmp_path / "metrics.csv"), []

    def write(path):
        written.append(clock.now)
        clock.now += 1.0

    monkeypatch.setattr(table, "write", write)
    for step in range(1000):
        table.log_metrics({}, step)
        clock.now += 1.0
    assert len(written) == 5  # one second each, of a thousand


def test_a_table_without_a_path_is_kept_in_memory_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = MetricsTable([])
    table.log_metrics({"loss": 0.5}, 1)
    table.save()
    assert not list(tmp_path.iterdir()) and table.rows[1]["loss"] == 0.5
