import pytest

from metas_peft.core.errors import UsageError
from metas_peft.core.launched import is_first, processes, refuse_many


def test_without_a_launcher_there_is_one_process(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert processes() == 1
    assert is_first()
    refuse_many("This", "Never.")


def test_number_left_behind_by_a_scheduler_is_no_launcher(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("RANK", "1")
    assert is_first()


def test_variables_of_a_launcher_tell_the_place(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "2")
    assert processes() == 3
    assert not is_first()
    with pytest.raises(UsageError, match=r"A search is not for several processes, but this is one of 3\. Start it"):
        refuse_many("A search", "Start it alone.")
