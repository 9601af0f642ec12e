"""A router whose readable addresses also answer HEAD, as those of every HTTP server must (RFC 9110, section 9.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter


class Router(APIRouter):
    def get(self, path: str, **more: Any) -> Callable[[Any], Any]:
        """The web server leaves the body out; a route whose body is dear asks for the method itself."""
        head, get = self.head(path, **{**more, "include_in_schema": False}), super().get(path, **more)
        return lambda function: get(head(function))
