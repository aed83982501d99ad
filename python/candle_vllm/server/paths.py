"""Paths: the one reading of a request's path that routing, keys and limits share. Must not know of endpoints."""

from __future__ import annotations

from starlette.types import Scope

__all__ = ["normalised", "route_path"]


def route_path(scope: Scope) -> str:
    """The path below wherever the application is mounted, as its router reads it.

    Taken from the scope's path alone: neither the Host header nor the request line's own host has a say in it.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if not root or not path.startswith(root):
        return path
    below = path[len(root) :]
    return below if not below or below.startswith("/") else path


def normalised(scope: Scope) -> Scope:
    """The scope with one trailing slash taken off its path, and HEAD read as GET.

    Both forms of a path get the same answer, never a redirect: behind a proxy that ends TLS one would lead to
    `http://`. Who sends the reply to a HEAD leaves its body out.
    """
    path: str = scope["path"]
    changed: dict[str, object] = {}
    if path.endswith("/") and len(route_path(scope)) > 1:
        changed["path"] = path[:-1]
    if scope["method"] == "HEAD":
        changed["method"] = "GET"
    return {**scope, **changed} if changed else scope
