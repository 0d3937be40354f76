"""PromQL that panels share.

Several routers of one deployment report the same workers. So a worker's numbers are the greatest
that a router has of it, and requests are summed over the routers.
"""

from scripts.dashboards.model import Query

HERE = 'job=~"$deployment"'
WORKER = f'{HERE}, worker=~"$worker"'
WINDOW = "[$__rate_interval]"


def total(metric: str, selector: str = "", by: str = "") -> str:
    """Return the rate of a counter over all routers, by labels."""
    group = f" by ({by})" if by else ""
    return f"sum{group} (rate({metric}{{{_and(HERE, selector)}}}{WINDOW}))"


def quantiles(histogram: str, *percents: int) -> list[Query]:
    """Return the quantiles of a histogram of all routers."""
    buckets = f"sum by (le) (rate({histogram}_bucket{{{HERE}}}{WINDOW}))"
    return [Query(f"histogram_quantile({p / 100:g}, {buckets})", f"p{p}") for p in percents]


def of_workers(metric: str, selector: str = "", by: str = "worker") -> str:
    """Return a worker's gauge, by labels."""
    return f"max by ({by}) ({metric}{{{_and(HERE, selector)}}})"


def rate_of_workers(metric: str, selector: str = "", by: str = "worker") -> str:
    """Return the rate of a worker's counter, by labels."""
    return f"max by ({by}) (rate({metric}{{{_and(HERE, selector)}}}{WINDOW}))"


def _and(*selectors: str) -> str:
    return ", ".join(filter(None, selectors))


def share(part: str, whole: str) -> str:
    """Return one query as a share of another, 0 to 1."""
    return f"{part} / {whole}"
