"""The routes of models: at once, whatever is under way, and in the words that are promised."""

from __future__ import annotations

import time

from candle_vllm.models import SingleModel
from candle_vllm.server import create_app
from fake_engine import FakeEngine
from models.fakes import Loader, User, until
from server.test_waiting import served


async def test_the_list_while_a_model_loads_and_after() -> None:
    loader = Loader()
    loader.hold("load a")
    async with served(loader, "a", "b", queue_size=0) as (manager, http):
        await manager.select("a")
        await until(lambda: "load a" in loader.log)
        began = time.monotonic()
        reply = await http.get("/v1/models")
        assert time.monotonic() - began < 1
        assert [(one["id"], one["max_model_len"]) for one in reply.json()["data"]] == [("a", None), ("b", None)]
        assert (await http.get("/v1/models/b")).json()["object"] == "model"
        assert (await http.get("/v1/models/c")).json()["error"]["code"] == "model_not_found"
        loader.release("load a")
        await until(lambda: manager.status().state == "ready")
        assert [one["max_model_len"] for one in (await http.get("/v1/models")).json()["data"]] == [2048, None]


async def test_status() -> None:
    loader = Loader()
    loader.hold("load b")
    async with served(loader, "a", "b") as (manager, http):
        assert (await http.get("/v1/models/status")).json() == {
            "status": "idle",
            "active_model": None,
            "last_error": None,
            "queue_lengths": {"a": 0, "b": 0},
            "in_flight_requests": 0,
            "switch_requested_at": None,
        }
        user = User(manager, "a")
        await until(lambda: user.got)
        waiting = User(manager, "b")
        await until(lambda: waiting.heard)
        status = (await http.get("/v1/models/status")).json()
        assert abs(status.pop("switch_requested_at") - time.time()) < 5
        assert status == {
            "status": "switching",
            "active_model": "a",
            "last_error": None,
            "queue_lengths": {"a": 0, "b": 1},
            "in_flight_requests": 1,
        }
        await user.end()
        await until(lambda: "load b" in loader.log)
        assert (await http.get("/v1/models/status")).json()["status"] == "loading"
        loader.release("load b")
        await waiting.end()
        assert (await http.get("/v1/models/status")).json()["status"] == "ready"


async def test_select() -> None:
    loader = Loader()
    loader.hold("load a")
    async with served(loader, "a", "b") as (manager, http):

        async def select(name: object) -> tuple[int, object]:
            reply = await http.post("/v1/models/select", json={"model": name})
            body = reply.json()
            return reply.status_code, body.get("error", {}).get("code") or body

        assert await select("a") == (202, {"status": "initiated", "model": "a"})
        await until(lambda: "load a" in loader.log)
        assert await select("a") == (202, {"status": "initiated", "model": "a"})
        assert await select("b") == (409, "switch_under_way")
        loader.release("load a")
        await until(lambda: manager.status().state == "ready")
        assert await select("org/a") == (202, {"status": "already_active", "model": "org/a"})
        assert await select("b") == (202, {"status": "initiated", "model": "b"})
        await until(lambda: manager.status().active_model == "b")
        assert await select("c") == (404, "model_not_found")
        for bad in (None, 3, ""):
            assert (await select(bad))[0] == 400
        assert (await http.post("/v1/models/select", json={"model": "a", "more": 1})).status_code == 400
        assert (await http.get("/v1/models/select")).status_code == 404
        other = await http.request("OPTIONS", "/v1/models/select")
        assert (other.status_code, other.headers["allow"]) == (405, "POST")


async def test_one_engine_has_the_same_routes() -> None:
    import httpx

    app = create_app(SingleModel(FakeEngine(), ["one", "two"]))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as http:
        assert (await http.get("/v1/models/status")).json()["active_model"] == "one"
        reply = await http.post("/v1/models/select", json={"model": "two"})
        assert (reply.status_code, reply.json()) == (202, {"status": "already_active", "model": "two"})
        assert (await http.post("/v1/models/select", json={"model": "three"})).status_code == 404


def test_the_document_tells_them() -> None:
    paths = create_app(FakeEngine()).openapi()["paths"]
    assert {"/v1/models", "/v1/models/status", "/v1/models/select", "/v1/models/{name}"} <= set(paths)
    select = paths["/v1/models/select"]["post"]
    assert select["requestBody"]["content"]["application/json"]["schema"]["required"] == ["model"]
    assert {"202", "400", "404", "409", "503"} <= set(select["responses"])
    assert not any(operation["responses"].get("422") for path in paths.values() for operation in path.values())
