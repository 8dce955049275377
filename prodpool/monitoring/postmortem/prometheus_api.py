"""Questions to a Prometheus, over its HTTP API and with nothing but the standard library.

Source: prometheus.io/docs/prometheus/latest/querying/api/
"""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urlencode, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from prodpool.text import said, short_line

# Longer addresses than this are refused by some proxies: what is longer is sent as a form.
_LONGEST_ADDRESS = 4000
_REFUSED = {401: "credentials", 403: "the right to read"}

Point = tuple[float, float]


class PrometheusApiError(RuntimeError):
    """Raised when Prometheus cannot be asked or refuses a query; the message names address and way out."""


@dataclass(frozen=True, slots=True)
class QueriedSeries:
    """One series of an answer: its labels, and pairs of unix time in seconds and value, in order of time."""

    labels: dict[str, str]
    points: list[Point]


@dataclass(slots=True)
class PrometheusApi:
    """A Prometheus, or what answers like one (Thanos, Mimir, VictoriaMetrics).

    Args:
        url: Its address, with the prefix of its paths if it has one; ``user:password@`` becomes basic auth.
        headers: Sent with each request, and not on to where a redirect leads.
        timeout: Seconds that each read from the connection may take.

    Raises:
        PrometheusApiError: The address is none of http or https.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 30.0
    warnings: list[str] = field(default_factory=list)
    """What Prometheus remarked on its answers, such as a store that did not answer."""

    def __post_init__(self) -> None:
        """Take the credentials out of the address, so that no message shows them."""
        parts = _address(self.url)
        if parts is None:
            address = self.url.rpartition("@")[2]
            raise PrometheusApiError(
                f"{address!r} is not the address of a Prometheus: pass one such as http://prometheus:9090"
            )
        credentials, _, host = parts.netloc.rpartition("@")
        self.url = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
        if credentials:
            token = base64.b64encode(unquote(credentials).encode()).decode()
            self.headers = {"Authorization": f"Basic {token}", **self.headers}

    def query(self, expr: str, at: float) -> list[QueriedSeries]:
        """Evaluate an expression at a unix time; one of a range of time yields its raw samples.

        Raises:
            PrometheusApiError: Prometheus cannot be asked, or refuses.
        """
        return _series(self._get("query", {"query": expr, "time": f"{at:.3f}"})["result"])

    def query_range(self, expr: str, start: float, end: float, step: float) -> list[QueriedSeries]:
        """Evaluate an expression every ``step`` seconds between two unix times, both included.

        Raises:
            PrometheusApiError: Prometheus cannot be asked, or refuses.
        """
        times = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        return _series(self._get("query_range", {"query": expr, **times})["result"])

    def label_values(self, label: str, selector: str) -> list[str]:
        """Return the values that a label has in the series selected, at any time.

        Raises:
            PrometheusApiError: Prometheus cannot be asked, or refuses.
        """
        values: list[str] = self._get(f"label/{label}/values", {"match[]": selector})
        return values

    def _get(self, path: str, params: Mapping[str, str]) -> Any:
        answer = self._answer(self._request(f"{self.url}/api/v1/{path}", urlencode(params)))
        if not isinstance(answer, dict) or "data" not in answer or answer.get("status") != "success":
            raise PrometheusApiError(
                f"{self.url} answers, but not as a Prometheus does: pass the address under which its "
                "/api/v1/query is found, with the prefix of its paths if it has one"
            )
        self.warnings += [one for one in answer.get("warnings") or () if one not in self.warnings]
        return answer["data"]

    def _request(self, address: str, query: str) -> Request:
        is_long = len(address) + len(query) > _LONGEST_ADDRESS
        request = Request(address, query.encode()) if is_long else Request(f"{address}?{query}")  # noqa: S310  # http or https: checked above
        for name, value in self.headers.items():
            request.add_unredirected_header(name, value)
        return request

    def _answer(self, request: Request) -> Any:
        try:
            with urlopen(request, timeout=self.timeout) as response:  # noqa: S310  # likewise
                return _parsed(response.read())
        except HTTPError as error:
            with error:
                raise PrometheusApiError(self._refusal(error.code, error.read())) from None
        except TimeoutError:
            raise PrometheusApiError(self._too_slow()) from None
        except URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise PrometheusApiError(self._too_slow()) from None
            raise PrometheusApiError(self._unreachable(error.reason)) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise PrometheusApiError(self._unreachable(error)) from None

    def _refusal(self, status: int, body: bytes) -> str:
        answer = _parsed(body)
        error = answer.get("error") if isinstance(answer, dict) else None
        reason = short_line(str(error or body.decode(errors="replace").strip() or "no reason is given"))
        if status in _REFUSED:
            return (
                f"{self.url} answers {status}, for it asks for {_REFUSED[status]} ({reason}): pass user and "
                "password in the address, or --header 'Authorization: Bearer ...'"
            )
        return f"{self.url} answers {status}: {reason}"

    def _too_slow(self) -> str:
        return (
            f"{self.url} did not answer within {self.timeout:g} s: pass a longer --timeout, or a shorter "
            "time between --from and --to"
        )

    def _unreachable(self, reason: object) -> str:
        told = said(reason) if isinstance(reason, BaseException) else str(reason)
        return (
            f"{self.url} cannot be asked ({told}): look at the address in --prometheus, and whether this "
            "machine reaches it"
        )


def _address(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # no port, or no IPv6 address
        return None
    return parts if fits else None


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


def _series(result: Sequence[Any]) -> list[QueriedSeries]:
    return [
        QueriedSeries(
            one["metric"],
            [(float(at), float(value)) for at, value in one.get("values") or [one["value"]]],
        )
        for one in result
    ]
