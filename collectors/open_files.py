"""How many files a collector's process may have open: each connected sender is one of them.

The soft limit of many systems is 1,024, for the sake of programs that use `select`; the hard one is what a process may
really have.
"""

from __future__ import annotations

import logging
import resource

log = logging.getLogger(__name__)

# For a thousand senders at either receiver, of which some connect anew before their old connection is given up.
_WANTED = 4_096
# Our own files, and those of the libraries, which do not all survive being refused one.
_OWN = 128
# Systems without a hard limit refuse to lift the soft one to infinity.
_LIFTED_MAX = 1 << 20


def connections_of(files: int) -> int:
    """How many connections a receiver may have where the process may open ``files``.

    A third for each of the two, and one for all else that is connected, such as what is scraped.
    """
    return max((files - _OWN) // 3, 1)


def lift_open_files() -> int:
    """Lift the soft limit to the hard one, and say so where that is little; returns the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _LIFTED_MAX if hard == resource.RLIM_INFINITY else min(hard, _LIFTED_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    files = _LIFTED_MAX if soft == resource.RLIM_INFINITY else soft
    if files < _WANTED:
        log.warning(
            "this process may open %d files, which is enough for %d connections to each receiver: raise the hard limit "
            "of open files (LimitNOFILE= of its unit, ulimit -Hn of its shell)",
            *(files, connections_of(files)),
        )
    return files
