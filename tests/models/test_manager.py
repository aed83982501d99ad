"""Every state, transition and race of the manager, with a loader that the test drives."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import random
import time

import pytest

from candle_vllm import EngineConfig
from candle_vllm.errors import (
    ConfigError,
    ModelLoadError,
    ModelNotFoundError,
    QueueFullError,
    QueueTimeoutError,
    RequestCancelledError,
    SwitchUnderWayError,
)
from candle_vllm.models import Catalog, CatalogEntry, ModelManager, Models, Unseen
from models.fakes import Loader, Seen, User, catalog, finish, managed, until


async def test_the_first_request_loads_and_the_next_finds_it_there() -> None:
    loader, seen = Loader(), Seen()
    async with managed(loader, catalog("a", "b"), observer=seen) as manager:
        models: Models = manager
        assert (models.status().state, models.status().active_model) == ("idle", None)
        async with models.lease("a") as first, models.lease("org/a") as second, models.lease(None) as third:
            assert first is second is third
            assert first.names == ("a", "org/a")
            status = models.status()
            assert (status.state, status.active_model, status.in_flight_requests) == ("ready", "a", 3)
            assert (status.queue_lengths, status.switch_requested_at) == ({"a": 0, "b": 0}, None)
        assert models.status().in_flight_requests == 0
    assert loader.log == ["fetch a", "load a", "close a"]
    assert seen.told == [("loaded", "a"), ("unloaded", "a")]


async def test_a_name_that_is_not_served() -> None:
    async with managed(Loader(), catalog("a", "b")) as manager:
        for call in (manager.select("c"), manager.lease("c").__aenter__()):
            with pytest.raises(ModelNotFoundError, match=r"'c' does not exist\. Served here: a, b\."):
                await call
        assert manager.status().state == "idle"


async def test_listing_never_waits() -> None:
    loader = Loader()
    loader.hold("load a")
    async with managed(loader, catalog("a", "b")) as manager:
        user = User(manager, "a")
        await until(lambda: manager.status().state == "loading")
        assert [(one.id, one.active, one.max_model_len) for one in manager.listing()] == [
            ("a", False, None),
            ("b", False, None),
        ]
        loader.release("load a")
        await user.end()
        assert [(one.id, one.active, one.max_model_len) for one in manager.listing()] == [
            ("a", True, 2048),
            ("b", False, None),
        ]


async def test_a_model_is_listed_under_each_of_its_names() -> None:
    models = Catalog([CatalogEntry(name="a", also=("b",), ids=("org/a",), config=EngineConfig(), notes="small")])
    async with managed(Loader(), models) as manager:
        assert [(one.id, one.active, one.notes) for one in manager.listing()] == [
            ("a", False, "small"),
            ("b", False, "small"),
        ]
        await User(manager, "b").end()
        assert [one.active for one in manager.listing()] == [True, True]


async def test_a_switch_drains_first() -> None:
    loader, seen = Loader(), Seen()
    loader.hold("fetch b")
    async with managed(loader, catalog("a", "b"), observer=seen) as manager:
        running = User(manager, "a")
        await until(lambda: running.got)
        began = int(time.time())
        waiting = User(manager, "b")
        await until(lambda: "fetch b" in loader.log)
        # While files are fetched the active model goes on.
        status = manager.status()
        assert (status.state, status.active_model, status.queue_lengths["b"]) == ("switching", "a", 1)
        assert status.switch_requested_at is not None and began <= status.switch_requested_at <= time.time()
        meanwhile = User(manager, "a")
        await until(lambda: meanwhile.got)
        loader.release("fetch b")
        await until(lambda: waiting.heard[-1].status == "waiting_for_model")
        # Now it takes no more, but ends what it has.
        late = User(manager, "a")
        await until(lambda: manager.status().queue_lengths["a"] == 1)
        assert await running.end() == "a"
        assert manager.status().in_flight_requests == 1
        assert not loader.engines["a"].closed
        assert await meanwhile.end() == "a"
        await until(lambda: waiting.got)
        assert loader.engines["a"].closed
        assert late.got is None
        assert await waiting.end() == "b"
        await until(lambda: late.got)
        assert await late.end() == "a"
    assert loader.log == [
        *("fetch a", "load a", "fetch b", "close a", "load b"),
        *("fetch a", "close b", "load a", "close a"),
    ]
    assert [told for told in seen.told if told[0] == "switched"] == [("switched", "a", "b"), ("switched", "b", "a")]
    assert seen.lengths == {"a": 0, "b": 0}


async def test_requests_for_the_pending_model_coalesce() -> None:
    loader = Loader()
    loader.hold("load a")
    async with managed(loader, catalog("a")) as manager:
        users = [User(manager, "a") for _ in range(3)]
        await until(lambda: "load a" in loader.log)
        users += [User(manager, name) for name in ("a", "org/a", None)]
        await until(lambda: manager.status().queue_lengths["a"] == 6)
        loader.release("load a")
        await until(lambda: manager.status().in_flight_requests == 6)
        assert await finish(*users) == ["a"] * 6
    assert loader.log == ["fetch a", "load a", "close a"]


async def test_models_have_their_turns_in_the_order_of_their_first_request() -> None:
    loader = Loader()
    async with managed(loader, catalog("a", "b", "c")) as manager:
        first = User(manager, "a")
        await until(lambda: first.got)
        users = [User(manager, name) for name in ("b", "c", "b", "c")]
        await until(lambda: sum(manager.status().queue_lengths.values()) == 4)
        await first.end()
        assert await finish(*users) == ["b", "c", "b", "c"]
    assert [step for step in loader.log if step.startswith("load")] == ["load a", "load b", "load c"]


async def test_a_smaller_priority_goes_first() -> None:
    loader = Loader()
    async with managed(loader, catalog("a", "b", "c", "d")) as manager:
        first = User(manager, "a")
        await until(lambda: first.got)
        # b's turn begins with the first; what comes then decides who is next after it.
        users = [
            User(manager, "b", priority=5),
            User(manager, "d", priority=5),
            User(manager, "c", priority=5),
            User(manager, "c", priority=-1),
        ]
        await until(lambda: users[3].heard)
        assert (users[2].heard[-1].position, users[3].heard[0].position) == (1, 1)
        await first.end()
        await finish(*users)
    assert [step for step in loader.log if step.startswith("load")] == ["load a", "load b", "load c", "load d"]


async def test_overflow_is_told_at_once() -> None:
    loader, seen = Loader(), Seen()
    loader.hold("load a")
    async with managed(loader, catalog("a", "b"), queue_size=2, observer=seen) as manager:
        users = [User(manager, "a") for _ in range(2)]
        await until(lambda: manager.status().queue_lengths["a"] == 2)
        with pytest.raises(QueueFullError, match="2 requests wait for the model 'a' already") as refused:
            async with asyncio.timeout(0.1), manager.lease("a"):
                pass
        assert refused.value.retry_after == 5
        assert seen.told == [("rejected", "a", "queue_full")]
        # Each model has a queue of its own; and one who leaves makes room.
        other = User(manager, "b")
        await until(lambda: manager.status().queue_lengths["b"] == 1)
        users.pop().task.cancel()
        await until(lambda: manager.status().queue_lengths["a"] == 1)
        users.append(User(manager, "a"))
        loader.release("load a")
        assert await finish(*users, other) == ["a", "a", "b"]


async def test_a_deadline_ends_waiting() -> None:
    loader, seen = Loader(), Seen()
    loader.hold("load a")
    async with managed(loader, catalog("a"), observer=seen) as manager:
        patient = User(manager, "a")
        with pytest.raises(QueueTimeoutError, match=r"waited 0\.\d s for the model 'a'") as over:
            async with manager.lease("a", deadline=time.monotonic() + 0.05):
                pass
        assert over.value.retry_after is not None
        assert (seen.told, manager.status().queue_lengths) == ([("rejected", "a", "queue_timeout")], {"a": 1})
        loader.release("load a")
        assert await patient.end() == "a"
        # What is there is given, however late.
        async with manager.lease("a", deadline=time.monotonic() - 1):
            pass


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that failed to load may be tried again at once."""
    monkeypatch.setattr("candle_vllm.models.turn._FIRST_PAUSE", 0.0)


async def test_a_broken_model_does_not_cost_the_others_theirs_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Loader()
    loader.broken["load b"] = ModelLoadError("tensor 'x' is broken")
    async with managed(loader, catalog("a", "b")) as manager:
        # Where nothing is lost by it, each request is an attempt.
        for _ in range(3):
            with pytest.raises(ModelLoadError, match="tensor 'x' is broken$"):
                await User(manager, "b").task
        assert loader.log.count("load b") == 3
        await User(manager, "a").end()
        for _ in range(5):
            with pytest.raises(ModelLoadError, match=r"tensor 'x' is broken; it is tried again in \d+ s") as refused:
                await User(manager, "b").task
            assert 1 <= (refused.value.retry_after or 0) <= 8
        assert (loader.log.count("load b"), loader.engines["a"].closed) == (3, False)
        # An operator's wish is an attempt too.
        assert await manager.select("b") == "initiated"
        await until(lambda: loader.log.count("load b") == 4)
        await User(manager, "a").end()
        # And so is a request when the pause is over.
        del loader.broken["load b"]
        monkeypatch.setattr("candle_vllm.models.turn._LONGEST_PAUSE", 0.0)
        assert await User(manager, "b").end() == "b"


@pytest.mark.parametrize("step", ["fetch b", "load b"])
async def test_a_load_that_fails(step: str, no_pause: None) -> None:
    loader, seen = Loader(), Seen()
    loader.hold("load b")
    loader.broken[step] = ModelLoadError("tensor 'x' is broken")
    async with managed(loader, catalog("a", "b"), observer=seen) as manager:
        await User(manager, "a").end()
        users = [User(manager, "b") for _ in range(3)]
        if step == "load b":
            await until(lambda: step in loader.log)
            loader.release(step)
        errors = await asyncio.gather(*(user.task for user in users), return_exceptions=True)
        for error in errors:
            assert isinstance(error, ModelLoadError)
            assert str(error) == "the model 'b' could not be loaded: tensor 'x' is broken"
        assert len({id(error) for error in errors}) == 3
        status = manager.status()
        assert status.last_error == "tensor 'x' is broken"
        # A model whose files are not there costs no one the active one.
        assert (status.state, status.active_model) == (("ready", "a") if step == "fetch b" else ("error", None))
        assert await User(manager, "a").end() == "a"
        assert manager.status().state == "ready"
        # Whoever asks again gets another attempt.
        del loader.broken[step]
        if step == "fetch b":
            loader.release("load b")
        assert await User(manager, "b").end() == "b"
        assert manager.status().last_error is None
    assert [told[0] for told in seen.told].count("load_failed") == 1


async def test_a_failed_load_lets_the_next_in_line_have_its_turn() -> None:
    loader = Loader()
    loader.hold("load a")
    loader.broken["load a"] = RuntimeError()
    async with managed(loader, catalog("a", "b")) as manager:
        unlucky, lucky = User(manager, "a"), User(manager, "b")
        await until(lambda: lucky.heard)
        loader.release("load a")
        assert await lucky.end() == "b"
        with pytest.raises(ModelLoadError, match="could not be loaded: RuntimeError"):
            await unlucky.task


async def test_select() -> None:
    loader = Loader()
    loader.hold("load a")
    async with managed(loader, catalog("a", "b"), queue_size=0) as manager:
        assert await manager.select("a") == "initiated"
        await until(lambda: manager.status().state == "loading")
        assert await manager.select("org/a") == "initiated"
        with pytest.raises(SwitchUnderWayError, match="a switch to the model 'a' is under way"):
            await manager.select("b")
        loader.release("load a")
        await until(lambda: manager.status().state == "ready")
        assert await manager.select("a") == "already_active"
        running = User(manager, "a")
        await until(lambda: running.got)
        assert await manager.select("b") == "initiated"
        await until(lambda: manager.status().state == "switching")
        # a serves until it has drained, but is no longer what is asked for.
        with pytest.raises(SwitchUnderWayError):
            await manager.select("a")
        await running.end()
        await until(lambda: manager.status().active_model == "b")
    assert [step for step in loader.log if step.startswith("load")] == ["load a", "load b"]


async def test_a_selected_model_needs_no_one_to_wait_for_it() -> None:
    loader = Loader()
    async with managed(loader, catalog("a", "b")) as manager:
        running = User(manager, "a")
        await until(lambda: running.got)
        waiting = User(manager, "b")
        await until(lambda: waiting.heard)
        assert await manager.select("b") == "initiated"
        waiting.task.cancel()
        await asyncio.wait({waiting.task})
        await running.end()
        await until(lambda: manager.status().active_model == "b")


async def test_select_of_a_model_that_cannot_be_loaded() -> None:
    loader = Loader()
    loader.broken["load a"] = ModelLoadError("no")
    async with managed(loader, catalog("a", "b")) as manager:
        assert await manager.select("a") == "initiated"
        await until(lambda: manager.status().state == "error")
        assert (await manager.select("b"), manager.status().last_error) == ("initiated", "no")
        await until(lambda: manager.status().state == "ready")


async def test_activate_waits_for_the_model() -> None:
    loader = Loader()
    async with managed(loader, catalog("a", "b"), queue_size=0) as manager:
        assert (await manager.activate()).names[0] == "a"
        assert (await manager.activate("a")).names[0] == "a"
        loader.broken["load b"] = ModelLoadError("no")
        with pytest.raises(ModelLoadError, match="'b' could not be loaded: no"):
            await manager.activate("b")
        assert (await manager.activate("a")).names[0] == "a"


async def test_a_client_that_goes_away_while_its_model_drains() -> None:
    loader, seen = Loader(), Seen()
    async with managed(loader, catalog("a", "b"), observer=seen) as manager:
        running = User(manager, "a")
        await until(lambda: running.got)
        gone = User(manager, "b")
        await until(lambda: gone.heard and gone.heard[-1].status == "waiting_for_model")
        late = User(manager, "a")
        await until(lambda: late.heard)
        gone.task.cancel()
        # No one wants b any more: a goes on as if nothing had been.
        await until(lambda: late.got)
        assert (manager.status().state, manager.status().queue_lengths) == ("ready", {"a": 0, "b": 0})
        assert seen.told[-1] == ("cancelled", "b", "queued")
        await running.end()
        await late.end()
    assert loader.log == ["fetch a", "load a", "fetch b", "close a"]


async def test_a_client_that_goes_away_while_its_model_loads() -> None:
    loader, seen = Loader(), Seen()
    loader.hold("load a")
    async with managed(loader, catalog("a"), observer=seen) as manager:
        gone = User(manager, "a")
        await until(lambda: "load a" in loader.log)
        gone.task.cancel()
        await asyncio.wait({gone.task})
        assert manager.status().queue_lengths == {"a": 0}
        assert seen.told == [("cancelled", "a", "loading")]
        # The load goes on: who comes back finds it done, or at least begun.
        loader.release("load a")
        assert await User(manager, "a").end() == "a"
    assert loader.log.count("load a") == 1


@pytest.mark.parametrize("steps", range(5))
async def test_a_client_that_goes_away_just_as_it_gets_its_model(steps: int) -> None:
    loader = Loader()

    class Cancelling(Unseen):
        """Cancels the waiting task so many turns of the event loop after the load has ended."""

        def loaded(self, model: str, seconds: float) -> None:
            self.after(steps)

        def after(self, count: int) -> None:
            if count == 0:
                gone.task.cancel()
            else:
                asyncio.get_running_loop().call_soon(self.after, count - 1)

    async with managed(loader, catalog("a", "b"), observer=Cancelling()) as manager:
        gone = User(manager, "a")
        await asyncio.wait({gone.task})
        assert gone.task.cancelled()
        # Its lease is not lost, or the next switch would wait for ever.
        assert manager.status().in_flight_requests == 0
        assert manager.status().active_model == "a"
        later = User(manager, "b")
        later.done.set()
        await until(later.task.done)


async def test_two_models_in_turn() -> None:
    loader, seen = Loader(), Seen()
    async with managed(loader, catalog("a", "b"), queue_size=50, observer=seen) as manager:
        got: list[tuple[str, str]] = []

        async def use(name: str) -> None:
            async with manager.lease(name) as model:
                await asyncio.sleep(0.001)
                assert not loader.engines[name].closed
                got.append((name, model.names[0]))

        async def client(number: int) -> None:
            for turn in range(20):
                await use("ab"[(number + turn) % 2])

        await asyncio.gather(*(client(number) for number in range(16)))
        assert len(got) == 320
        assert all(asked == given for asked, given in got)
        assert manager.status().in_flight_requests == 0
    assert seen.lengths == {"a": 0, "b": 0}
    loads = [step for step in loader.log if step.startswith("load")]
    assert all(one != other for one, other in itertools.pairwise(loads))


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_comes_in_whatever_order(seed: int, no_pause: None) -> None:
    """Clients that come, stay, leave and hurry, loads that fail, engines that die, selections: nobody is forgotten.

    The loader itself asserts that no model is loaded while another is in memory.
    """
    chance, loader, seen = random.Random(seed), Loader(), Seen()
    ends: collections.Counter[str] = collections.Counter()

    async def client(manager: ModelManager) -> None:
        name = chance.choice("abc")
        patience = chance.choice([None, None, 0.002, 0.02])
        deadline = None if patience is None else time.monotonic() + patience
        try:
            async with manager.lease(name, deadline=deadline, priority=chance.randrange(-1, 2)) as model:
                assert (model.names[0], model.engine.stats().closed) == (name, False)
                await asyncio.sleep(chance.random() * 0.005)
                assert not loader.engines[name].closed
                if chance.random() < 0.02:
                    loader.engines[name].failure = "the device caught fire"
                    raise ValueError("died")
            ends["served"] += 1
        except (QueueFullError, QueueTimeoutError, ModelLoadError, ValueError) as error:
            ends[type(error).__name__] += 1

    async def trouble(manager: ModelManager) -> None:
        while True:
            await asyncio.sleep(chance.random() * 0.01)
            name = chance.choice("abc")
            with contextlib.suppress(SwitchUnderWayError):
                await manager.select(name)
            if loader.broken.pop(f"load {name}", None) is None and chance.random() < 0.3:
                loader.broken[f"load {name}"] = ModelLoadError("no")

    models = catalog("a", "b", "c", idle_unload_secs=0.003)
    async with managed(loader, models, queue_size=6, interval=0.001, observer=seen) as manager:
        troubles = asyncio.ensure_future(trouble(manager))
        clients = []
        for _ in range(400):
            clients.append(asyncio.ensure_future(client(manager)))
            if chance.random() < 0.1:
                chance.choice(clients).cancel()
            if chance.random() < 0.5:
                await asyncio.sleep(chance.random() * 0.004)
        done = await asyncio.gather(*clients, return_exceptions=True)
        troubles.cancel()
        assert {type(one) for one in done} <= {type(None), asyncio.CancelledError}
        assert ends["served"] > 50
        await until(lambda: manager.status().switch_requested_at is None)
        status = manager.status()
        assert (status.in_flight_requests, set(status.queue_lengths.values())) == (0, {0})
        assert set(seen.lengths.values()) == {0}
        loader.broken.clear()
        for name in "abc":
            assert await User(manager, name).end() == name
    assert all(engine.closed for engine in loader.engines.values())


async def test_idle_unloading() -> None:
    loader, seen = Loader(), Seen()
    async with managed(loader, catalog("a", idle_unload_secs=0.05), observer=seen) as manager:
        user = User(manager, "a")
        await until(lambda: user.got)
        began = time.monotonic()
        await asyncio.sleep(0.12)
        assert manager.status().state == "ready"
        await user.end()
        ended = time.monotonic()
        await until(lambda: manager.status().state == "idle")
        assert time.monotonic() - ended >= 0.05 > began - ended
        assert (manager.status().active_model, manager.active) == (None, None)
        assert seen.told == [("loaded", "a"), ("unloaded", "a")]
        # It comes back for the next.
        assert await User(manager, "a").end() == "a"
    assert loader.log == ["fetch a", "load a", "close a", "fetch a", "load a", "close a"]


async def test_a_request_that_comes_while_an_idle_model_is_unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Loader()
    closing = asyncio.Event()

    async def slow(close: object) -> None:
        assert callable(close)
        closing.set()
        await asyncio.sleep(0.02)
        close()

    monkeypatch.setattr("candle_vllm.models.manager.asyncio.to_thread", slow)
    async with managed(loader, catalog("a", idle_unload_secs=0.02)) as manager:
        await User(manager, "a").end()
        await closing.wait()
        assert manager.status().state == "switching"
        assert await User(manager, "a").end() == "a"
    assert loader.log[:5] == ["fetch a", "load a", "close a", "fetch a", "load a"]


async def test_an_engine_that_fails_is_loaded_anew() -> None:
    loader = Loader()
    async with managed(loader, catalog("a")) as manager:
        other = User(manager, "a")
        await until(lambda: other.got)
        with pytest.raises(ValueError, match="mine"):
            async with manager.lease("a"):
                raise ValueError("mine")
        assert manager.status().state == "ready"
        loader.engines["a"].failure = "the device caught fire"
        with pytest.raises(ValueError, match="the engine's"):
            async with manager.lease("a"):
                raise ValueError("the engine's")
        await until(lambda: manager.status().state == "switching")
        later = User(manager, "a")
        await other.end()
        assert await later.end() == "a"
        assert manager.status().state == "ready"
    assert [step for step in loader.log if step.startswith("load")] == ["load a", "load a"]


async def fail(manager: ModelManager, loader: Loader) -> None:
    """A lease during which the engine fails."""
    async with manager.lease("a"):
        loader.engines["a"].failure = "the device caught fire"
        raise ValueError("the engine's")


async def test_an_engine_that_fails_with_no_one_waiting() -> None:
    loader = Loader()
    async with managed(loader, catalog("a")) as manager:
        with pytest.raises(ValueError, match="the engine's"):
            await fail(manager, loader)
        await until(lambda: manager.status().state == "error")
        assert manager.status().last_error == "the engine of 'a' failed: the device caught fire"
        assert loader.engines["a"].closed


async def test_what_who_waits_hears() -> None:
    loader = Loader()
    for step in ("fetch b", "load b"):
        loader.hold(step)
    async with managed(loader, catalog("a", "b", "c"), interval=0.01) as manager:
        running = User(manager, "a")
        await until(lambda: running.got)
        assert [status.status for status in running.heard[-2:]] == ["loading", "processing"]
        first, second, other = User(manager, "b"), User(manager, "b"), User(manager, "c")
        await until(lambda: len(second.heard) > 3)
        assert {status.status for status in (*first.heard, *second.heard)} == {"waiting_for_model"}
        assert (first.heard[-1].position, second.heard[-1].position, other.heard[-1].position) == (1, 2, 1)
        assert {status.status for status in other.heard} == {"queued"}
        loader.release("fetch b")
        await running.end()
        await until(lambda: second.heard[-1].status == "loading")
        loader.release("load b")
        await until(lambda: first.got and second.got)
        assert (second.heard[-1].status, second.heard[-1].position) == ("processing", 0)
        assert {status.model for status in second.heard} == {"b"}
        heard = len(first.heard)
        await first.end()
        await second.end()
        await other.end()
        assert len(first.heard) == heard


async def test_one_who_waits_hears_about_once_a_second() -> None:
    loader = Loader()
    loader.hold("load a")
    async with managed(loader, catalog("a"), interval=0.05) as manager:
        user = User(manager, "a")
        await asyncio.sleep(0.275)
        # At once, when loading began, and then by the clock; a slow machine may miss some.
        assert 3 <= len(user.heard) <= 8
        loader.release("load a")
        await user.end()


async def test_times_are_foretold_from_what_was_measured() -> None:
    loader = Loader()
    async with managed(loader, catalog("a", "b")) as manager:
        first = User(manager, "a")
        await until(lambda: first.got)
        assert first.heard[0].eta_ms is None
        await asyncio.sleep(0.2)
        await first.end()
        running = User(manager, "a")
        await until(lambda: running.got)
        waiting = User(manager, "b")
        await until(lambda: waiting.heard)
        # The only lease so far took 0.2 s, and loading takes no time here.
        assert waiting.heard[0].eta_ms is not None
        assert 100 <= waiting.heard[0].eta_ms <= 400
        await running.end()
        await waiting.end()


async def test_the_end_fails_all_who_wait() -> None:
    loader = Loader()
    loader.hold("load a")
    async with managed(loader, catalog("a", "b")) as manager:
        users = [User(manager, name) for name in "ab"]
        await until(lambda: "load a" in loader.log and manager.status().queue_lengths == {"a": 1, "b": 1})
        activating = asyncio.ensure_future(manager.activate("a"))
        await asyncio.sleep(0)
        await manager.aclose()
        for task in (*(user.task for user in users), activating):
            with pytest.raises(RequestCancelledError, match="the server is stopping"):
                await task
        for call in (manager.select("a"), manager.lease("a").__aenter__()):
            with pytest.raises(RequestCancelledError):
                await call
    assert loader.log == ["fetch a", "load a", "cancelled load a"]


async def test_the_end_ends_a_drain() -> None:
    loader = Loader()
    async with managed(loader, catalog("a", "b")) as manager:
        running = User(manager, "a")
        await until(lambda: running.got)
        waiting = User(manager, "b")
        await until(lambda: waiting.heard and waiting.heard[-1].status == "waiting_for_model")
        await manager.aclose()
        with pytest.raises(RequestCancelledError):
            await waiting.task
        assert loader.engines["a"].closed
        await running.end()


def test_one_loop_only() -> None:
    manager = ModelManager(catalog("a"), Loader().load)

    async def use() -> None:
        async with manager.lease("a"):
            pass

    asyncio.run(use())
    with pytest.raises(ConfigError, match="one event loop"):
        asyncio.run(use())
