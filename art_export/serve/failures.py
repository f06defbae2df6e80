"""Errors as OpenAI's API has them: a status, and {"error": {message, type, param, code}}."""

from __future__ import annotations

from starlette.responses import JSONResponse

from art_export.serve.scheduler import BusyError, ClosingError
from engines.errors import ArtExportError, UserError

RETRY_AFTER = {"Retry-After": "1"}


class ApiError(Exception):
    """An answer other than 200. `param` is the field at fault, `code` a word for programs."""

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    @property
    def document(self) -> dict[str, object]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        headers = RETRY_AFTER if self.status in (429, 503) else None
        return JSONResponse(self.document, self.status, headers)


def api_error(error: BaseException) -> ApiError:
    """What a client is told of `error`. A bug's details stay in the server's log."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BusyError):
        return ApiError(429, "too many requests wait already; try again later", "busy")
    if isinstance(error, ClosingError):
        return ApiError(503, "the server is stopping", "stopping")
    if isinstance(error, UserError):
        message = f"got {error.got}; expected {error.expected}; {error.fix}"
        return ApiError(400, message, type(error).__name__)
    if isinstance(error, ArtExportError):
        return ApiError(422, str(error), type(error).__name__)
    return ApiError(500, "internal error; the server's log has it", "internal_error")
