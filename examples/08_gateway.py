"""A gateway that imports the adapter: its own address, its own rules, and the model in the same process.

It serves one request to itself and ends; under a real server `app` would be what that server runs.
"""

import asyncio

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from candle_vllm import InferenceEngine
from candle_vllm.openai import ApiError, OpenAIAdapter

TEAMS = {"blue": 200, "red": 20}


def gateway(adapter: OpenAIAdapter) -> FastAPI:
    """Chat for teams that are known, each with a limit on its answers."""
    app = FastAPI()

    @app.post("/team/{team}/chat")
    async def chat(team: str, request: Request) -> JSONResponse:
        if team not in TEAMS:
            return JSONResponse({"error": {"message": f"no team {team!r}"}}, 403)
        body = await request.json()
        body["max_tokens"] = min(body.get("max_tokens", TEAMS[team]), TEAMS[team])
        try:
            reply = await adapter.achat_completion(body)
        except ApiError as error:
            return JSONResponse(error.envelope(), error.status)
        return JSONResponse(reply.model_dump())

    return app


async def main() -> None:
    with InferenceEngine.builder().model_path("smollm2").build() as engine, OpenAIAdapter(engine) as adapter:
        transport = httpx.ASGITransport(gateway(adapter))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            question = {"messages": [{"role": "user", "content": "Name three seas."}], "temperature": 0}
            for team in ("red", "green"):
                answer = await client.post(f"/team/{team}/chat", json=question)
                print(answer.status_code, answer.json())
            wrong = await client.post("/team/red/chat", json={"messages": "hello"})
            print(wrong.status_code, wrong.json()["error"]["message"])


asyncio.run(main())
