from hypothesis import given
from hypothesis import strategies as st

from traced_relay.runtime.timer_queue import TimerQueue


def drain(agenda: TimerQueue[str], now: float = float("inf")) -> list[str]:
    items = []
    while (item := agenda.pop_due(now)) is not None:
        items.append(item)
    return items


def test_items_are_ordered_by_time_and_then_by_arrival() -> None:
    agenda: TimerQueue[str] = TimerQueue()
    for item, time in (("late", 3), ("first", 1), ("second", 1), ("middle", 2)):
        agenda.put(item, time)

    assert drain(agenda) == ["first", "second", "middle", "late"]


def test_only_due_items_are_popped() -> None:
    agenda: TimerQueue[str] = TimerQueue()
    agenda.put("now", 1)
    agenda.put("later", 1.5)

    assert drain(agenda, now=1) == ["now"]
    assert agenda.next_time() == 1.5


def test_an_item_that_is_put_again_moves() -> None:
    agenda: TimerQueue[str] = TimerQueue()
    agenda.put("moved", 1)
    agenda.put("other", 2)
    agenda.put("moved", 3)

    assert len(agenda) == 2
    assert drain(agenda) == ["other", "moved"]


def test_a_discarded_item_never_comes() -> None:
    agenda: TimerQueue[str] = TimerQueue()
    agenda.put("gone", 1)
    agenda.discard("gone")
    agenda.discard("never there")

    assert agenda.next_time() is None
    assert drain(agenda) == []


def test_discarded_items_do_not_accumulate() -> None:
    agenda: TimerQueue[int] = TimerQueue()
    agenda.put(-1, 0)
    for item in range(10_000):
        agenda.put(item, 1e9)
        agenda.discard(item)

    assert len(agenda._heap) < 200
    assert agenda.next_time() == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 9)))))
def test_a_timer_queue_is_a_dictionary_sorted_by_time(steps: list[tuple[int, int | None]]) -> None:
    agenda: TimerQueue[int] = TimerQueue()
    model: dict[int, int] = {}
    for item, time in steps:
        model.pop(item, None)
        if time is None:
            agenda.discard(item)
        else:
            agenda.put(item, time)
            model[item] = time

    assert len(agenda) == len(model)
    assert agenda.next_time() == min(model.values(), default=None)
    popped = []
    while (found := agenda.pop_due(9)) is not None:
        popped.append(found)
    assert popped == sorted(model, key=lambda item: model[item])
