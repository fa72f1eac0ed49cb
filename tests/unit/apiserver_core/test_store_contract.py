"""One contract for both stores: revisions, compare-and-set, history, snapshots, durability."""

import asyncio

import pytest

from podwire.apiserver.store.memory import MemoryStore
from podwire.apiserver.store.port import Compacted, Stale, StoreFailed
from podwire.apiserver.store.sqlite import SqliteStore
from podwire.model.errors import AlreadyInUse, MachineError
from podwire.model.objects import Key


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    made = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "store.db")
    yield made
    made.close()


def obj(name, **more):
    return {"metadata": {"name": name, **more}}


def names(rows):
    return [r.key.name for r in rows]


async def test_revisions_grow_and_are_written_into_the_object(store):
    a = await store.put("pods", Key("n", "a"), obj("a"))
    b = await store.put("pods", Key("n", "b"), obj("b"))
    assert b.revision == a.revision + 1 == store.revision
    assert f'"resourceVersion":"{b.revision}"'.encode() in b.body


async def test_compare_and_set(store):
    row = await store.put("pods", Key("n", "a"), obj("a"), expected=0)
    with pytest.raises(Stale):
        store.put("pods", Key("n", "a"), obj("a"), expected=0)
    with pytest.raises(Stale):
        store.put("pods", Key("n", "a"), obj("a"), expected=row.revision - 1)
    await store.put("pods", Key("n", "a"), obj("a"), expected=row.revision)


async def test_a_write_on_its_way_is_seen_by_peek_only(store):
    future = store.put("pods", Key("n", "a"), obj("a"))
    assert store.get("pods", Key("n", "a")) is None
    assert store.peek("pods", Key("n", "a")) is not None
    await future
    assert store.get("pods", Key("n", "a")) is not None
    future = store.delete("pods", Key("n", "a"))
    assert store.peek("pods", Key("n", "a")) is None
    await future
    assert store.get("pods", Key("n", "a")) is None


async def test_rows_are_ordered_and_by_namespace(store):
    for ns, name in [("b", "x"), ("a", "z"), ("a", "b"), ("ab", "q")]:
        await store.put("pods", Key(ns, name), obj(name))
    assert names(store.rows("pods")) == ["b", "z", "q", "x"]
    assert names(store.rows("pods", "a")) == ["b", "z"]
    assert names(store.rows("other")) == []


async def test_a_snapshot_of_the_past(store):
    await store.put("pods", Key("n", "a"), obj("a"))
    at = (await store.put("pods", Key("n", "b"), obj("b", labels={"v": "1"}))).revision
    await store.put("pods", Key("n", "b"), obj("b", labels={"v": "2"}))
    await store.put("pods", Key("n", "c"), obj("c"))
    await store.delete("pods", Key("n", "a"))
    rows = store.rows("pods", at=at)
    assert names(rows) == ["a", "b"]
    assert rows[1].labels == {"v": "1"}
    assert names(store.rows("pods")) == ["b", "c"]


async def test_watch_replays_history_then_follows(store):
    first = await store.put("pods", Key("n", "a"), obj("a"))
    await store.put("pods", Key("n", "a"), obj("a", labels={"x": "y"}))
    await store.put("nodes", Key("", "m"), obj("m"))
    watcher = store.watch("pods", first.revision)
    assert [c.type for c in await watcher.next(1)] == ["MODIFIED"]
    task = asyncio.create_task(watcher.next(5))
    await asyncio.sleep(0)
    gone = await store.delete("pods", Key("n", "a"))
    (change,) = await task
    assert (change.type, change.revision) == ("DELETED", gone.revision)
    assert change.previous.labels == {"x": "y"}
    assert await watcher.next(0.001) == []
    watcher.close()


async def test_compaction_makes_old_revisions_unknown(tmp_path):
    for store in (MemoryStore(history_changes=3), SqliteStore(tmp_path / "s.db", history_changes=3)):
        for n in range(6):
            await store.put("pods", Key("n", "a"), obj("a", labels={"n": str(n)}))
        store.compact()
        with pytest.raises(Compacted):
            store.watch("pods", 2)
        with pytest.raises(Compacted):
            store.rows("pods", at=2)
        changes = await store.watch("pods", store.revision - 3).next(1)
        assert [c.row.labels["n"] for c in changes] == ["3", "4", "5"]
        store.close()


async def test_everything_survives_reopening_history_too(tmp_path):
    store = SqliteStore(tmp_path / "s.db", history_changes=3)
    for n in range(6):
        await store.put("pods", Key("n", "a"), obj("a", labels={"n": str(n)}))
    await store.put("pods", Key("n", "b"), obj("b"))
    last = await store.delete("pods", Key("n", "b"))
    store.compact()
    before = [(c.type, c.revision) for c in await store.watch("pods", store.compacted).next(1)]
    store.close()
    store = SqliteStore(tmp_path / "s.db", history_changes=3)
    assert store.revision == last.revision
    assert names(store.rows("pods")) == ["a"]
    assert store.rows("pods")[0].labels == {"n": "5"}
    assert [(c.type, c.revision) for c in await store.watch("pods", store.compacted).next(1)] == before
    store.close()


async def test_the_revision_never_goes_back_when_the_last_write_is_compacted(tmp_path):
    store = SqliteStore(tmp_path / "s.db", history_changes=0)
    await store.put("pods", Key("n", "b"), obj("b"))
    last = await store.delete("pods", Key("n", "b"))
    store.compact()
    store.close()
    store = SqliteStore(tmp_path / "s.db")
    assert store.revision == last.revision
    assert list(store._db.execute("SELECT * FROM changes")) == []
    store.close()


async def test_a_failed_write_never_happened(tmp_path):
    store = SqliteStore(tmp_path / "s.db")
    kept = await store.put("pods", Key("n", "a"), obj("a"))
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages}")  # what a full disk looks like to SQLite
    big = obj("b", annotations={"x": "y" * 100_000})
    with pytest.raises(StoreFailed, match="full"):
        await store.put("pods", Key("n", "b"), big)
    assert store.peek("pods", Key("n", "b")) is None
    assert store.revision == kept.revision
    store._db.execute("PRAGMA max_page_count=100000")
    assert (await store.put("pods", Key("n", "b"), big)).revision == kept.revision + 1
    store.close()


async def test_a_second_server_is_refused(tmp_path):
    store = SqliteStore(tmp_path / "s.db")
    with pytest.raises(AlreadyInUse):
        SqliteStore(tmp_path / "s.db")
    store.close()


def test_a_file_that_is_no_store_is_named(tmp_path):
    (tmp_path / "s.db").write_bytes(b"not a database, surely" * 100)
    with pytest.raises(MachineError, match=r"s\.db"):
        SqliteStore(tmp_path / "s.db")
