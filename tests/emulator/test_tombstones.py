from traced_relay.emulator.tombstones import Tombstones


def test_a_name_is_reserved_for_its_window() -> None:
    stones = Tombstones(window=60)

    assert stones.add("a", now=100) == 160
    assert stones.is_reserved("a", now=159.9)
    assert not stones.is_reserved("a", now=160)
    assert not stones.is_reserved("b", now=100)


def test_only_expired_names_are_removed() -> None:
    stones = Tombstones(window=60)
    stones.add("a", now=100)
    stones.add("b", now=110)
    stones.add("a", now=120)

    stones.expire(now=169)
    assert len(stones) == 2
    stones.expire(now=170)
    assert len(stones) == 1
    assert stones.is_reserved("a", now=170)
