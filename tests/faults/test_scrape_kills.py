"""kill -9 while targets are scraped: what they counted is in the global tables exactly once, whenever the kill came."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from pathlib import Path

import pytest
import yaml

from tests.clients.text_server import OPENMETRICS, serving_text
from tests.faults.stack import ROLES, Stack, wait_until
from tests.faults.totals import disagreements

KILLS = 12
TARGETS = 4
SEED = int(os.environ.get("CATCHMENT_FAULT_SEED") or random.randrange(2**32))


class Counting:
    """A program whose counters move with each scrape until they ``freeze``, younger than the collector."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self.created = time.time()
        self.hits = self.count = 0
        self.sum = 0.0
        self.buckets = [0, 0, 0]
        self._frozen = False
        self.scrapes = 0

    def freeze(self) -> None:
        """Stand still from now on."""
        with self._lock:
            self._frozen = True

    def text(self) -> bytes:
        """What a scrape finds."""
        with self._lock:
            self.scrapes += 1
            if not self._frozen:
                # Never 0: the hits tell which scrape has arrived.
                self.hits += self._chance.randrange(1, 100)
                for _ in range(self._chance.randrange(5)):
                    at = self._chance.randrange(3)
                    self.buckets[at] += 1
                    self.count += 1
                    self.sum += (0.25, 1.5, 8.0)[at]
            first, second, third = self.buckets
            return (
                f"# TYPE hits counter\nhits_total {self.hits}\nhits_created {self.created}\n"
                f'# TYPE seconds histogram\nseconds_bucket{{le="1"}} {first}\n'
                f'seconds_bucket{{le="2"}} {first + second}\n'
                f'seconds_bucket{{le="+Inf"}} {first + second + third}\nseconds_count {self.count}\n'
                f"seconds_sum {self.sum}\nseconds_created {self.created}\n# EOF\n"
            ).encode()


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_scraped_totals_are_exact_after_kills(tmp_path: Path) -> None:
    """SIGKILL under scrapes, many times: counters, buckets, counts and sums in SQL are those of the targets."""
    print(f"CATCHMENT_FAULT_SEED={SEED}")
    chance = random.Random(SEED)
    jobs = tmp_path / "prometheus.yml"
    jobs.write_text("")
    with contextlib.ExitStack() as around:
        stack = around.enter_context(Stack(tmp_path / "stack", f"scrape: {{file: {jobs}, tenant: acme}}\n"))
        stack.start(*ROLES)
        stack.wait_ready(*ROLES)
        programs = [Counting(SEED + i) for i in range(TARGETS)]
        ports = [around.enter_context(serving_text(program.text, OPENMETRICS)) for program in programs]
        addresses = [f"127.0.0.1:{port}" for port in ports]
        job = {"job_name": "api", "scrape_interval": "100ms", "scrape_timeout": "100ms"}
        jobs.write_text(yaml.safe_dump({"scrape_configs": [{**job, "static_configs": [{"targets": addresses}]}]}))
        for _ in range(KILLS):
            scrapes = [program.scrapes for program in programs]
            if chance.random() < 0.75:
                wait_until(lambda scrapes=scrapes: _moved(programs, scrapes), "all are scraped")  # type: ignore[misc]
            time.sleep(chance.uniform(0.0, 0.3))
            roles = ("collector",) if chance.random() < 0.6 else ROLES
            stack.kill(*roles)
            stack.start(*roles)
        stack.wait_ready(*ROLES)
        for program in programs:
            program.freeze()
        # A scrape may come too late for its timeout, on a busy machine; whatever is not lost is in a later one.
        hits = sum(program.hits for program in programs)
        wait_until(lambda: _hits(stack) >= hits, f"{hits} hits are in SQL", 60, lambda: f"{_hits(stack)} are")
        # Nothing may come while the places are compared.
        stack.stop("collector")
        stack.drain()
        (row,) = stack.rows(
            "SELECT sumIf(sum_int, metric = 'hits_total') AS hits, sumIf(count, metric = 'seconds') AS observed,"
            " sumIf(sum, metric = 'seconds') AS seconds, sumMapIf(histogram, metric = 'seconds') AS buckets"
            " FROM metrics_cluster_1m WHERE tenant = 'acme'"
        )
        assert row["hits"] == sum(program.hits for program in programs)
        assert row["observed"] == sum(program.count for program in programs)
        assert row["seconds"] == pytest.approx(sum(program.sum for program in programs), abs=1e-6)
        counts = [int(value) for _, value in sorted(row["buckets"].items(), key=lambda item: int(item[0]))]
        assert counts == [sum(program.buckets[i] for program in programs) for i in range(3)]
        assert disagreements(stack) == []
        assert min(program.hits for program in programs) > 0


def _hits(stack: Stack) -> int:
    (row,) = stack.rows("SELECT sum(sum_int) AS hits FROM metrics_cluster_1m AS m WHERE metric = 'hits_total'")
    return int(row["hits"])


def _moved(programs: list[Counting], scrapes: list[int]) -> bool:
    return all(program.scrapes > before for program, before in zip(programs, scrapes, strict=True))
