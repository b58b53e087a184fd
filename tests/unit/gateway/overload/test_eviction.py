"""Who makes room: idle connections of the address that holds the most, longest idle first."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network

from gateway.overload import eviction
from gateway.overload.eviction import LOOK_S, Eviction

PROXY = "10.0.0.1"


@dataclass(eq=False)
class Place:
    peer: str
    idle_since: float | None
    evicted: bool = False

    def evict(self) -> None:
        self.evicted = True


def evicted(places: list[Place]) -> list[Place]:
    return [place for place in places if place.evicted]


def test_the_address_that_holds_the_most_gives_way(monkeypatch) -> None:
    monkeypatch.setattr(eviction, "EVICTED_MAX", 2)
    hog = [Place("192.0.2.1", float(10 - n)) for n in range(5)]
    others = [Place("192.0.2.2", 0.0), Place("192.0.2.3", 0.0)]
    assert Eviction(hog + others, ()).make_room(100.0) == 2
    assert evicted(hog + others) == [hog[3], hog[4]], "those that have been idle for longest"


def test_what_is_busy_stays_and_so_does_a_proxy() -> None:
    proxy = [Place(PROXY, 0.0) for _ in range(9)]
    busy = [Place("192.0.2.1", None) for _ in range(5)]
    idle = Place("192.0.2.1", 1.0)
    trusted = (ip_network("10.0.0.0/8"),)
    assert Eviction([*proxy, *busy, idle], trusted).make_room(100.0) == 1
    assert evicted([*proxy, *busy, idle]) == [idle]


def test_connections_without_an_address_give_way_too() -> None:
    place = Place("", 0.0)
    assert Eviction([place], (ip_network("10.0.0.0/8"),)).make_room(100.0) == 1


def test_it_looks_now_and_then_only() -> None:
    places = [Place("192.0.2.1", 0.0)]
    making = Eviction(places, ())
    assert [making.make_room(now) for now in (1.0, 1.0 + LOOK_S / 2, 1.0 + LOOK_S)] == [1, 0, 1]
