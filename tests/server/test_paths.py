"""One reading of paths, mounted or not."""

import pytest

from asgi import scope
from candle_vllm.server.paths import normalised, route_path


@pytest.mark.parametrize(
    ("path", "root", "route"),
    [
        ("/health", "", "/health"),
        ("/ai/health", "/ai", "/health"),
        ("/ai", "/ai", ""),
        ("/aix/health", "/ai", "/aix/health"),
        ("/health", "/ai", "/health"),
        ("/ai/ai/health", "/ai", "/ai/health"),
    ],
)
def test_route_path(path: str, root: str, route: str) -> None:
    assert route_path(scope(path, root_path=root)) == route


@pytest.mark.parametrize(
    ("path", "root", "becomes"),
    [("/v1/models/", "", "/v1/models"), ("/", "", "/"), ("/ai/", "/ai", "/ai/"), ("/ai/x/", "/ai", "/ai/x")],
)
def test_one_trailing_slash_makes_no_difference(path: str, root: str, becomes: str) -> None:
    assert normalised(scope(path, root_path=root))["path"] == becomes


def test_only_one_slash_is_taken() -> None:
    assert normalised(scope("/health//"))["path"] == "/health/"


def test_head_reads_as_get_and_the_given_scope_stays() -> None:
    given = scope("/health/", "HEAD")
    assert normalised(given)["method"] == "GET"
    assert (given["method"], given["path"]) == ("HEAD", "/health/")
