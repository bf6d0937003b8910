from traced_relay.emulator.tombstones import Tombstones


def test_a_name_is_taken_for_its_window_and_free_after_it() -> None:
    stones = Tombstones(window=60)

    assert stones.bury("a", now=100) == 160
    assert stones.holds("a", now=159.9)
    assert not stones.holds("a", now=160)
    assert not stones.holds("b", now=100)


def test_sweeping_forgets_what_is_free_again_and_nothing_else() -> None:
    stones = Tombstones(window=60)
    stones.bury("a", now=100)
    stones.bury("b", now=110)
    stones.bury("a", now=120)

    assert not stones.sweep(now=169)
    assert stones.sweep(now=170)
    assert len(stones) == 1
    assert stones.holds("a", now=170)
