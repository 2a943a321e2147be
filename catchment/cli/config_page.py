"""docs/configure.md, generated: every key of the configuration, its default, meaning and consequence.

``python -m catchment.cli.config_page`` prints it; a test holds the file against it.
"""

from __future__ import annotations

from catchment.cli.config import reference

_HEAD = """# Configuration

Generated from the code: `python -m catchment.cli.config_page > docs/configure.md`.

One YAML file for every process; each uses its part. `catchment config check FILE` reports every fault at once, with the
file, the key, the value and what would be right; `catchment config show FILE` prints what is in force.

`${env:NAME}`, `${env:NAME:-default}` and `${file:PATH}` are expanded; `$$` is a dollar sign. Durations are written like
`500ms`, `10s`, `5m`, `1h`, `30d`, sizes like `64KiB`, `64MiB`, `2GiB`. An unknown key is an error. SIGHUP and
`POST /-/reload` on the status port read the file again; a faulty one is refused and the old one stays.

Defaults are those of `catchment up`; in a collector of its own `flush` is 60s and `region` must be given.

| key | default | meaning | when it is reached |
| --- | --- | --- | --- |
"""


def page() -> str:
    """The page as Markdown."""
    rows = (
        f"| `{key}` | `{default}` | {meaning} | {consequence} |\n".replace("`` |", "|")
        for key, default, meaning, consequence in reference()
    )
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    print(page(), end="")
