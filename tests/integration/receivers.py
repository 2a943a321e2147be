"""What the receiver tests share: an intake that records, and receivers that run in a thread of their own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from catchment.limits import Limits
from collectors.admit import Admit
from collectors.rates import UNLIMITED, Rates
from collectors.receive.otlp_grpc import serve_grpc
from collectors.receive.otlp_http import serve_http
from collectors.receive.tls import Certificates
from collectors.records import Outcome, Received
from collectors.tenants import Sender, Tenants

LOCAL = Sender("default", "tokyo-1", '{"zone":"a"}')


@dataclass
class RecordingIntake:
    """Keeps what it is given; ``answers`` are used up first, one a request: an error is raised, an outcome returned.

    A request takes ``seconds``, from when ``released`` is set on.
    """

    answers: list[Exception | Outcome] = field(default_factory=list)
    seconds: float = 0.0
    received: list[Received] = field(default_factory=list)
    started: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.released.set()

    async def submit(self, received: Received) -> Outcome:
        """Record a request, or refuse it as told."""
        self.started.set()
        while not self.released.is_set():  # noqa: ASYNC110 - the test that sets it is in another thread
            await asyncio.sleep(0.01)
        await asyncio.sleep(self.seconds)
        answer = self.answers.pop(0) if self.answers else Outcome()
        if isinstance(answer, Exception):
            raise answer
        self.received.append(received)
        return answer


class Receivers:
    """Both receivers on free ports, in a thread with a loop of its own, for the length of a ``with``."""

    def __init__(
        self,
        intake: RecordingIntake,
        *,
        limits: Limits | None = None,
        tenants: Tenants | None = None,
        certificates: Certificates | None = None,
        rates: Rates = UNLIMITED,
        new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        self._intake = intake
        self._limits = limits or Limits()
        self._admit = Admit(tenants, LOCAL, "policy-1", rates)
        self._certificates = certificates
        self._new_loop = new_loop
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.http_port = 0
        self.grpc_port = 0
        self.failure: BaseException | None = None

    def __enter__(self) -> Receivers:
        self._thread.start()
        assert self._ready.wait(20)
        if self.failure:
            raise self.failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop both gracefully and wait for it."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(30)
            assert not self._thread.is_alive()
        if self.failure:
            raise self.failure

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._new_loop) as runner:
                runner.run(self._serve())
        except BaseException as error:
            self.failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        http, grpc = [
            await serve(
                self._intake, self._admit, "127.0.0.1:0", self._limits, self._stop, certificates=self._certificates
            )
            for serve in (serve_http, serve_grpc)
        ]
        watching = asyncio.create_task(self._certificates.watch(0.02)) if self._certificates else None
        self.http_port, self.grpc_port = http.port, grpc.port
        self._ready.set()
        await asyncio.gather(http.done, grpc.done)
        if watching is not None:
            watching.cancel()
