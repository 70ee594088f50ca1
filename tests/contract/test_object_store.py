"""The contract of ObjectStore, over every implementation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pipelines.ports import ObjectStore


def test_what_was_put_is_read_back_and_what_was_not_is_none(object_store: ObjectStore) -> None:
    """`get` and `size` of a missing key answer None, not an error."""
    assert object_store.get("a/b") is None
    assert object_store.size("a/b") is None
    object_store.put("a/b", b"one")
    object_store.put("a/b", b"three")
    assert object_store.get("a/b") == b"three"
    assert object_store.size("a/b") == 5


def test_create_never_overwrites(object_store: ObjectStore) -> None:
    """The second creator gets False, whatever its bytes, and the first one's bytes stay."""
    assert object_store.create("key", b"first") is True
    assert object_store.create("key", b"second") is False
    assert object_store.create("key", b"first") is False
    assert object_store.get("key") == b"first"


def test_of_many_creators_at_once_exactly_one_wins(object_store: ObjectStore) -> None:
    """Eight threads race for each of ten keys."""
    for number in range(10):
        key = f"race/{number}"
        bodies = [f"{number}-{racer}".encode() for racer in range(8)]
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda body, key=key: object_store.create(key, body), bodies))
        assert won.count(True) == 1
        assert object_store.get(key) == bodies[won.index(True)]


def test_what_was_deleted_is_gone_and_its_key_is_free_again(object_store: ObjectStore) -> None:
    """Deleting what is not there, or is gone already, is fine."""
    object_store.delete("key")
    assert object_store.create("key", b"first") is True
    object_store.delete("key")
    object_store.delete("key")
    assert object_store.get("key") is None
    assert object_store.list("key") == ()
    assert object_store.create("key", b"second") is True
    assert object_store.get("key") == b"second"


def test_entries_tell_size_and_time_by_one_clock_of_the_stores_own(object_store: ObjectStore) -> None:
    """In the order of the keys; what was written later is not said to be older, also not after a change."""
    object_store.put("a/2", b"22")
    object_store.put("a/1", b"1")
    object_store.put("b", b"")
    first = object_store.entries("a/")
    assert [(entry.key, entry.size) for entry in first] == [("a/1", 1), ("a/2", 2)]
    assert first[0].modified_ms >= first[1].modified_ms > 1_600_000_000_000
    object_store.put("a/2", b"333")
    again = object_store.entries("a/")
    assert (again[1].size, again[1].modified_ms >= first[1].modified_ms) == (3, True)
    assert object_store.entries("nothing/") == ()


def test_list_gives_every_key_under_a_prefix_in_order(object_store: ObjectStore) -> None:
    """Also beyond one page of a real server's answer."""
    keys = [f"many/{number:04d}" for number in range(1_005)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: object_store.create(key, b""), keys))
    object_store.put("other", b"")
    assert object_store.list("many/") == tuple(keys)
    assert object_store.list("nothing/") == ()
